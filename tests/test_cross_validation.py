"""Cross-validation: every fold is tested once, on nothing that was learned from, and nothing counts twice."""

import sys

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


def count_trainings(monkeypatch, stop_before=None):
    """The folders that are trained in from now on; before number `stop_before` the user presses Ctrl-C."""
    trained, train = [], MODULE.train

    def counted(config, *args, **kwargs):
        if len(trained) == stop_before:
            raise KeyboardInterrupt
        trained.append(kwargs["run_dir"])
        return train(config, *args, **kwargs)

    monkeypatch.setattr(MODULE, "train", counted)
    return trained


def test_every_fold_is_tested_once_for_every_seed_and_never_learned_from(data_dir):
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


def test_what_is_finished_is_not_done_again(data_dir, monkeypatch):
    first = cross_validate(settings(), folds=(1, 2), data_dir=data_dir, device="cpu")
    trained = count_trainings(monkeypatch)
    again = cross_validate(settings(), folds=(1, 2, 3), data_dir=data_dir, device="cpu")
    assert trained == ["fold-3-seed-0"]
    pd.testing.assert_frame_equal(again.runs[:2], first.runs)
    other = cross_validate(settings(weight_decay=0.01), folds=(1,), data_dir=data_dir, device="cpu")
    assert other.path != first.path and len(trained) == 2


def test_a_stopped_sweep_goes_on(data_dir, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        count_trainings(patch, stop_before=3)
        cross_validate(settings(), data_dir=data_dir, device="cpu")
    trained = count_trainings(monkeypatch)
    found = cross_validate(settings(), data_dir=data_dir, device="cpu")
    assert trained == ["fold-4-seed-0", "fold-5-seed-0"]
    assert found.runs["fold"].tolist() == list(FOLDS)


def test_a_validation_fold_chooses_the_epoch_and_the_test_fold_is_not_seen(data_dir):
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


def test_two_processes_find_what_one_finds(tmp_path, monkeypatch):
    """M3 on crops of a quarter of a second: processes of their own know nothing of the tests' network."""
    monkeypatch.setattr(tiny, "RATE", 8000)
    config = recipe("m3", "synthetic", epochs=1, crop_samples=400, batch_size=11, crops=2, eval_every=1)
    folder = tmp_path / "data"
    tiny.write_set(folder, tiny.tones(FOLDS, per_class=1), subset=False)
    found = [
        cross_validate(config, folds=(1, 2), n_jobs=n, data_dir=folder, save_dir=tmp_path / f"{n}", device="cpu")
        for n in (1, 2)
    ]
    first, second = (of.runs.drop(columns="minutes") for of in found)
    pd.testing.assert_frame_equal(first, second)
    pd.testing.assert_frame_equal(found[0].predictions, found[1].predictions)


def test_gpus_are_dealt_out_in_turn(data_dir, monkeypatch):
    devices = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(MODULE, "_job", lambda *args: devices.append(args[4]))
    monkeypatch.setattr(MODULE, "_read", lambda *args: None)
    cross_validate(settings(), data_dir=data_dir)
    assert devices == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]


def test_phase_2_starts_from_phase_1_of_the_same_fold_and_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "RATE", 44100)
    data = tiny.write_set(tmp_path / "data", tiny.tones((1, 2), per_class=1))
    started = {}
    monkeypatch.setattr(MODULE, "_job", lambda config, fold, *args: started.update({(fold, config.seed): config}))
    monkeypatch.setattr(MODULE, "_read", lambda *args: None)
    phase_1 = tmp_path / "cv-wavemsnet"
    config = recipe("wavemsnet_logmel", "synthetic", start_from=str(phase_1))
    cross_validate(config, seeds=(0, 3), data_dir=data, save_dir=tmp_path / "runs", device="cpu")
    assert {key: of.start_from for key, of in started.items()} == {
        (fold, seed): str(phase_1 / f"fold-{fold}-seed-{seed}") for fold in (1, 2) for seed in (0, 3)
    }


def test_gpus_are_dealt_out_to_what_is_left_to_do(data_dir, monkeypatch):
    found = cross_validate(settings(), data_dir=data_dir, device="cpu")
    for fold in (2, 4):
        (found.path / f"fold-{fold}-seed-0" / "eval" / "result.json").unlink()
    devices = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(MODULE, "_job", lambda *args: devices.append((args[1], args[4])))
    monkeypatch.setattr(MODULE, "_read", lambda *args: None)
    cross_validate(settings(), data_dir=data_dir)
    assert devices == [(2, "cuda:0"), (4, "cuda:1")]


def test_a_precision_that_each_run_would_settle_is_refused(data_dir):
    with pytest.raises(ValueError, match="name one"):
        cross_validate(settings(precision="auto"), data_dir=data_dir, device="cpu")


def test_a_fold_that_is_not_there_is_refused(data_dir):
    with pytest.raises(ValueError, match=r"folds is \[6\].*\[1, 2, 3, 4, 5\].*synthetic"):
        cross_validate(settings(), folds=[6], data_dir=data_dir)


def test_too_little_to_validate_on_is_refused(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    data = tiny.write_set(tmp_path / "data", tiny.tones((1, 2), per_class=1))
    for wrong in (dict(validation=True), dict(seeds=())):
        with pytest.raises(ValueError, match=r"seeds is .* folds are \[1, 2\].*too few"):
            cross_validate(settings(), data_dir=data, save_dir=tmp_path / "runs", **wrong)


def test_results_on_other_recordings_are_not_taken_for_these(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    part = tiny.write_set(tmp_path / "part", tiny.tones((1, 2), per_class=1), subset=True)
    whole = tiny.write_set(tmp_path / "whole", tiny.tones((1, 2), per_class=2), subset=False)
    where = dict(save_dir=tmp_path / "runs", device="cpu")
    cross_validate(settings(), data_dir=part, **where)
    with pytest.raises(ValueError, match="other recordings than now.*save_dir"):
        cross_validate(settings(), data_dir=whole, **where)


def test_of_a_subset_the_folds_that_are_there_are_learned_from(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    data = tiny.write_set(tmp_path / "data", tiny.tones((1, 2, 4), per_class=1), subset=True)
    found = cross_validate(settings(), folds=[4], data_dir=data, save_dir=tmp_path / "runs", device="cpu")
    assert load_run(found.path / "fold-4-seed-0").config.train_folds == (1, 2)
    with pytest.raises(ValueError, match=r"folds is \[3\].*\[1, 2, 4\]"):
        cross_validate(settings(), folds=[3], data_dir=data)


def test_statistics_of_known_answers(monkeypatch, tmp_path):
    """Two seeds on four clips: one clip always right, one never, two once."""
    tiny.register(monkeypatch)
    a, b = get_dataset("synthetic").classes[:2]
    predicted = {0: [a, b, a, b], 1: [a, b, b, a]}
    predictions = pd.concat(
        pd.DataFrame(
            {
                "fold": 1,
                "seed": seed,
                "file": list("wxyz"),
                "recording": [1, 2, 2, 3],
                "true": [a, a, a, a],
                "predicted": of,
            }
        )
        for seed, of in predicted.items()
    )
    runs = pd.DataFrame({"fold": [1, 1], "seed": [0, 1], "accuracy": [0.5, 0.5]})
    found = CrossValidation(tmp_path, settings(), {}, runs, predictions.reset_index(drop=True))
    of_runs = CrossValidation(tmp_path, settings(), {}, runs.assign(correct=60, clips=80), predictions).per_run()
    assert of_runs[["95 % from", "95 % to"]].round(3).to_numpy().tolist() == [[0.645, 0.832]] * 2
    assert found.correct().to_dict() == {"w": 1.0, "x": 0.0, "y": 0.5, "z": 0.5}
    summary = found.summary()
    assert summary["mean of runs"] == summary["pooled"] == 0.5 and summary["standard deviation of runs"] == 0
    assert (summary["clips"], summary["recordings"], summary["runs"]) == (4, 3, 2)
    assert 0 <= summary["95 % from"] < 0.5 < summary["95 % to"] <= 1
    assert found.confusion().loc[a, [a, b]].tolist() == [4, 4]
    assert found.per_class().loc[a, "recall"] == 0.5
