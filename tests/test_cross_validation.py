"""Cross-validation: every fold is tested once, no run is trained on its test fold, and no clip counts twice."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from esc_lib import cross_validate, load_run, recipe
from esc_lib.data.datasets import get_dataset
from esc_lib.evaluation.cross_validation import CrossValidation

MODULE = sys.modules["esc_lib.evaluation.cross_validation"]
FOLDS = (1, 2, 3, 4, 5)


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    monkeypatch.setenv("ESC_RUNS", str(tmp_path / "runs"))
    return tiny.write_set(tmp_path / "data", tiny.tones(FOLDS, per_class=1), subset=False)


def settings(**changes):
    return tiny.config(train_folds=[1], eval_folds=[2], epochs=2, **changes)


def run_of(found, row):
    """The run directory of a row of `found.runs`."""
    return load_run(found.path / f"fold-{row['fold']:.0f}-seed-{row['seed']:.0f}")


def record_jobs(monkeypatch):
    """On a machine of two GPUs, the jobs of a cross-validation, not executed: {(fold, seed): (settings, device)}."""
    found = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(MODULE, "_job", lambda c, fold, *args: found.update({(fold, c.seed): (c, args[2])}))
    monkeypatch.setattr(MODULE, "_read", lambda *args: None)
    return found


def count_trainings(monkeypatch, stop_before=None):
    """The run directories trained from now on; training number `stop_before` (from 0) is interrupted."""
    trained, train = [], MODULE.train

    def counted(config, *args, **kwargs):
        if len(trained) == stop_before:
            raise KeyboardInterrupt
        trained.append(kwargs["run_dir"])
        return train(config, *args, **kwargs)

    monkeypatch.setattr(MODULE, "train", counted)
    return trained


def test_every_fold_is_tested_once_for_every_seed_and_never_trained_on(data_dir):
    found = cross_validate(settings(), seeds=(0, 7), data_dir=data_dir, device="cpu")
    assert sorted(zip(found.runs["fold"], found.runs["seed"], strict=True)) == [(f, s) for f in FOLDS for s in (0, 7)]
    for _, row in found.runs.iterrows():
        run = run_of(found, row)
        assert run.config.eval_folds == (row["fold"],) and run.config.seed == row["seed"]
        assert sorted(run.config.train_folds + run.config.eval_folds) == list(FOLDS)
        assert row["accuracy"] == run.history["eval_acc"][2] and row["epoch"] == 2
        assert row["best"] == max(run.history["eval_acc"].values())
    assert len(found.predictions) == 2 * 55
    assert not found.predictions.duplicated(["file", "seed"]).any()
    assert found.confusion().to_numpy().sum() == found.per_class()["clips"].sum() == 2 * 55
    assert found.summary()["pooled"] == pytest.approx((found.runs["accuracy"] * 11).sum() / 110)


def test_finished_runs_are_not_repeated(data_dir, monkeypatch):
    first = cross_validate(settings(), folds=(1, 2), data_dir=data_dir, device="cpu")
    trained = count_trainings(monkeypatch)
    again = cross_validate(settings(), folds=(1, 2, 3), data_dir=data_dir, device="cpu")
    assert trained == ["fold-3-seed-0"]
    pd.testing.assert_frame_equal(again.runs[:2], first.runs)
    other = cross_validate(settings(weight_decay=0.01), folds=(1,), data_dir=data_dir, device="cpu")
    assert other.path != first.path and len(trained) == 2


def test_an_interrupted_cross_validation_resumes(data_dir, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        count_trainings(patch, stop_before=3)
        cross_validate(settings(), data_dir=data_dir, device="cpu")
    trained = count_trainings(monkeypatch)
    found = cross_validate(settings(), data_dir=data_dir, device="cpu")
    assert trained == ["fold-4-seed-0", "fold-5-seed-0"]
    assert found.runs["fold"].tolist() == list(FOLDS)


def test_a_validation_fold_selects_the_epoch_and_the_test_fold_is_not_used(data_dir):
    found = cross_validate(settings(learning_rate=0.3), validation=True, data_dir=data_dir, device="cpu")
    chosen_by = []
    for _, row in found.runs.iterrows():
        run = run_of(found, row)
        (checked,) = run.config.validation_folds
        chosen_by.append(checked)
        assert run.config.eval_folds == (row["fold"],)
        assert row["fold"] not in (checked, *run.config.train_folds) and len(run.config.train_folds) == 3
        best = max(run.history["eval_acc"].values())
        assert row["epoch"] == min(e for e, acc in run.history["eval_acc"].items() if acc == best)
    assert chosen_by == [2, 3, 4, 5, 1]
    assert found.predictions["fold"].value_counts().to_dict() == dict.fromkeys(FOLDS, 11)


def test_two_processes_give_the_results_of_one(tmp_path, monkeypatch):
    """M3 on crops of a quarter of a second: other processes do not know the tests' network."""
    monkeypatch.setattr(tiny, "RATE", 8000)
    config = recipe("m3", "synthetic", epochs=1, crop_samples=400, batch_size=11, crops=2, eval_every=1)
    folder = tmp_path / "data"
    tiny.write_set(folder, tiny.tones(FOLDS, per_class=1), subset=False)
    found = [
        cross_validate(config, folds=(1, 2), n_jobs=n, data_dir=folder, save_dir=tmp_path / f"{n}", device="cpu")
        for n in (1, 2)
    ]
    first, second = (of.runs.drop(columns=["minutes", "processor_minutes"]) for of in found)
    pd.testing.assert_frame_equal(first, second)
    pd.testing.assert_frame_equal(found[0].predictions, found[1].predictions)


def test_phase_2_starts_from_phase_1_of_the_same_fold_and_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "RATE", 44100)
    data = tiny.write_set(tmp_path / "data", tiny.tones((1, 2), per_class=1))
    jobs = record_jobs(monkeypatch)
    phase_1 = tmp_path / "cv-wavemsnet"
    config = recipe("wavemsnet_logmel", "synthetic", start_from=str(phase_1))
    cross_validate(config, seeds=(0, 3), data_dir=data, save_dir=tmp_path / "runs", device="cpu")
    assert {key: job.start_from for key, (job, _) in jobs.items()} == {
        (fold, seed): str(phase_1 / f"fold-{fold}-seed-{seed}") for fold in (1, 2) for seed in (0, 3)
    }


def test_gpus_are_assigned_in_turn_to_the_remaining_runs(data_dir, monkeypatch):
    found = cross_validate(settings(), folds=(1, 3, 5), data_dir=data_dir, device="cpu")
    (found.path / "fold-5-seed-0" / "eval" / "result.json").unlink()
    jobs = record_jobs(monkeypatch)
    cross_validate(settings(), data_dir=data_dir)
    assert {fold: device for (fold, _), (_, device) in jobs.items()} == {2: "cuda:0", 4: "cuda:1", 5: "cuda:0"}


def test_a_precision_that_each_run_would_choose_is_refused(data_dir):
    with pytest.raises(ValueError, match="name one"):
        cross_validate(settings(precision="auto"), data_dir=data_dir, device="cpu")


def test_too_few_folds_or_seeds_are_refused(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    data = tiny.write_set(tmp_path / "data", tiny.tones((1, 2), per_class=1))
    for wrong in (dict(validation=True), dict(seeds=())):
        with pytest.raises(ValueError, match=r"seeds is .* folds are \[1, 2\].*too few"):
            cross_validate(settings(), data_dir=data, save_dir=tmp_path / "runs", **wrong)


def test_results_on_other_recordings_are_not_reused(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    part = tiny.write_set(tmp_path / "part", tiny.tones((1, 2), per_class=1), subset=True)
    whole = tiny.write_set(tmp_path / "whole", tiny.tones((1, 2), per_class=2), subset=False)
    where = dict(save_dir=tmp_path / "runs", device="cpu")
    cross_validate(settings(), data_dir=part, **where)
    with pytest.raises(ValueError, match="other recordings than now.*save_dir"):
        cross_validate(settings(), data_dir=whole, **where)


def test_on_a_subset_only_its_folds_are_used(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    data = tiny.write_set(tmp_path / "data", tiny.tones((1, 2, 4), per_class=1), subset=True)
    found = cross_validate(settings(), folds=[4], data_dir=data, save_dir=tmp_path / "runs", device="cpu")
    assert load_run(found.path / "fold-4-seed-0").config.train_folds == (1, 2)
    with pytest.raises(ValueError, match=r"folds is \[3\].*\[1, 2, 4\].*synthetic"):
        cross_validate(settings(), folds=[3], data_dir=data)


def test_statistics_with_known_answers(monkeypatch, tmp_path):
    """Two seeds on four clips: one clip always right, one never, two once."""
    tiny.register(monkeypatch)
    a, b = get_dataset("synthetic").classes[:2]
    predicted = {0: [a, b, a, b], 1: [a, b, b, a]}
    predictions = pd.concat(
        pd.DataFrame(
            dict(fold=1, seed=seed, file=list("wxyz"), recording=[1, 2, 2, 3], true=[a, a, a, a], predicted=of)
        )
        for seed, of in predicted.items()
    )
    runs = pd.DataFrame({"fold": [1, 1], "seed": [0, 1], "accuracy": [0.5, 0.5]})
    found = CrossValidation(tmp_path, settings(), {}, runs, predictions.reset_index(drop=True), pd.DataFrame())
    of_runs = replace(found, runs=runs.assign(correct=60, clips=80), predictions=predictions).per_run()
    assert of_runs[["95 % from", "95 % to"]].round(3).to_numpy().tolist() == [[0.645, 0.832]] * 2
    assert found.correct().to_dict() == {"w": 1.0, "x": 0.0, "y": 0.5, "z": 0.5}
    summary = found.summary()
    assert summary["mean of runs"] == summary["pooled"] == 0.5 and summary["standard deviation of runs"] == 0
    assert (summary["clips"], summary["recordings"], summary["runs"]) == (4, 3, 2)
    assert 0 <= summary["95 % from"] < 0.5 < summary["95 % to"] <= 1
    assert found.confusion().loc[a, [a, b]].tolist() == [4, 4]
    assert found.per_class().loc[a, "recall"] == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(seeds=[-1]), "seeds is -1"),
        (dict(seeds=[0.5]), "seeds is 0.5"),
        (dict(seeds=[True]), "seeds is True"),
        (dict(seeds="01"), "seeds is '01'"),
        (dict(seeds=3), "seeds is 3"),
        (dict(seeds=[]), r"seeds is \[\]"),
        (dict(seeds=[1, 1]), r"seeds is \[1, 1\]: expected a list of numbers, each once"),
        (dict(folds=[]), r"folds is \[\]"),
        (dict(folds=[9]), r"folds is \[9\]"),
        (dict(folds=1), "folds is 1"),
        (dict(folds=[1, 1]), r"folds is \[1, 1\]"),
        (dict(n_jobs=0), "n_jobs is 0"),
        (dict(n_jobs=-1), "n_jobs is -1"),
        (dict(n_jobs=1.5), "n_jobs is 1.5"),
        (dict(validation="yes"), "validation is 'yes': expected true or false"),
        (dict(device="tpu"), "device 'tpu'"),
        (dict(data_dir=5), "data_dir is 5: expected the path"),
        (dict(save_dir=b"runs"), "save_dir is b'runs': expected the path"),
    ],
)
def test_wrong_arguments_are_refused_by_name(data_dir, changes, message):
    with pytest.raises(ValueError, match=message):
        cross_validate(settings(), **{"data_dir": data_dir, "device": "cpu", **changes})
    with pytest.raises(ValueError, match="config is {}: expected TrainConfig"):
        cross_validate({}, data_dir=data_dir)


@pytest.mark.parametrize("damage", ["clips", "acc", "epoch", "dataset", "text", "table", "rows", "columns", "history"])
def test_a_result_that_does_not_fit_its_predictions_is_not_believed(data_dir, damage):
    found = cross_validate(settings(), folds=[1], data_dir=data_dir, device="cpu")
    file = found.path / "fold-1-seed-0" / "eval" / "result.json"
    result = json.loads(file.read_text(encoding="utf-8"))
    if damage in result:
        file.write_text(json.dumps({**result, damage: "many"}), encoding="utf-8")
    elif damage == "text":
        file.write_text("{", encoding="utf-8")
    elif damage == "history":  # an older version, killed between two files, left a run without its last test
        run = load_run(file.parents[1])
        run.history["eval_acc"].clear()
        run.save_history()
    else:
        lines = file.with_name("predictions.csv").read_text(encoding="utf-8").splitlines(keepends=True)
        kept = {"rows": lines[:1], "columns": [line.partition(",")[2] for line in lines], "table": []}[damage]
        file.with_name("predictions.csv").write_text("".join(kept), encoding="utf-8")
    again = partial(cross_validate, settings(), folds=[1], data_dir=data_dir, device="cpu")
    if damage == "history":
        pd.testing.assert_frame_equal(
            again().runs.drop(columns=["minutes", "processor_minutes"]),
            found.runs.drop(columns=["minutes", "processor_minutes"]),
        )
    else:
        with pytest.raises(ValueError, match="delete .*eval and cross-validate again"):
            again()


def test_minutes_are_those_of_all_sessions(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    data = tiny.write_set(tmp_path / "data", tiny.tones((1, 2), per_class=1))
    where = dict(folds=[1], data_dir=data, save_dir=tmp_path / "runs", device="cpu")
    call = partial(cross_validate, tiny.config(epochs=1), **where)
    file = call().path / "fold-1-seed-0" / "sessions.json"
    (session,) = json.loads(file.read_text(encoding="utf-8"))
    twice = [{**session, "from_epoch": n, "seconds": 90.0, "processor_seconds": 150.0} for n in (1, 2)]
    file.write_text(json.dumps(twice), encoding="utf-8")
    (row,) = call().runs.to_dict("records")
    assert (row["minutes"], row["processor_minutes"]) == (3, 5)


def by_hand(runs, predictions):
    return CrossValidation(Path("cv"), tiny.config(), {}, pd.DataFrame(runs), pd.DataFrame(predictions), pd.DataFrame())


def test_the_calibration_table_by_hand(monkeypatch):
    """Two clips, both 80 % sure of x, one of them rightly; at a temperature of 2 they are 67 % sure."""
    tiny.register(monkeypatch)
    table = dict(fold=[1, 1], seed=[0, 0], file=["a", "b"], true=["x", "y"], p_x=[0.8, 0.8], p_y=[0.2, 0.2])
    found = by_hand(dict(fold=[1], seed=[0], temperature=[2.0]), table).calibration()
    warm = np.sqrt([0.8, 0.2]) / np.sqrt([0.8, 0.2]).sum()
    expected = [[0.3, -np.log([0.8, 0.2]).mean()], [warm[0] - 0.5, -np.log(warm).mean()]]
    np.testing.assert_allclose(found.loc[["uncalibrated", "calibrated"]], expected, rtol=1e-6)


def test_a_summary_of_unequal_folds_and_two_seeds_by_hand(monkeypatch):
    """Fold 1 has one clip, fold 2 three: seed 0 gets 1 and 0 right, seed 1 all."""
    tiny.register(monkeypatch)
    sizes, right = {1: 1, 2: 3}, {(1, 0): 1, (2, 0): 0, (1, 1): 1, (2, 1): 3}
    clips = [
        dict(fold=fold, seed=seed, file=f"{fold}{i}", recording=f"{fold}{i}", true="x", predicted="xy"[i >= correct])
        for (fold, seed), correct in right.items()
        for i in range(sizes[fold])
    ]
    runs = [dict(fold=fold, seed=seed, accuracy=n / sizes[fold]) for (fold, seed), n in right.items()]
    summary = by_hand(runs, clips).summary()
    assert (summary["mean of runs"], summary["pooled"]) == (0.75, 0.625)
    assert summary["standard deviation of seeds"] == pytest.approx(np.std([0.5, 1], ddof=1))
