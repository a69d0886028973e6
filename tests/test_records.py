"""Published accuracies and the records of cross-validations: complete, and consistent with their files."""

import gzip
import json
import sys
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import tiny
from kills import kill_at

from esc_lib import cross_validate, load_run
from esc_lib.data.datasets import DATASETS
from esc_lib.evaluation.cross_validation import _name
from esc_lib.models import ARCHITECTURES
from esc_lib.paths import RESULTS
from esc_lib.results.records import (
    COLUMNS,
    all_records,
    load_record,
    measured_results,
    published_results,
    recipe_diff,
    save_record,
)
from esc_lib.training.config import TrainConfig

records_module = sys.modules["esc_lib.results.records"]
SETS = ["esc10", "esc50", "urbansound8k"]
RECORDS = sorted(RESULTS.glob("*.json"))


def test_published_accuracies_are_percentages_of_known_networks_with_sources():
    table = published_results()
    assert set(table["network"]) <= set(ARCHITECTURES)
    assert table["source"].str.len().min() > 20
    assert table[SETS].notna().any(axis=1).all()
    assert table[SETS].stack().dropna().between(40, 100).all()


@pytest.mark.parametrize(
    ("network", "training", "column", "accuracy"),
    [
        ("envnet", "standard", "esc10", 87.2),
        ("envnetv2", "between-class, strong augmentation", "esc50", 84.9),
        ("wavemsnet_logmel", "standard", "esc50", 79.1),
        ("m18", "standard", "urbansound8k", 71.68),
        ("m34res", "standard", "urbansound8k", 63.47),
        ("acdnet", "between-class, strong augmentation", "esc50", 87.1),
    ],
)
def test_published_accuracies_are_those_of_the_papers(network, training, column, accuracy):
    table = published_results(network)
    assert set(table["network"]) == {network}
    rows = table[(table["training"] == training) & table[column].notna()]
    assert rows[column].tolist() == [accuracy]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A cross-validation of M3 on a subset of tones, with two seeds."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "RATE", 8000)
        data = tiny.write_set(folder / "data", tiny.tones((1, 2, 3), per_class=1))
    config = records_module.recipe(
        "m3", "synthetic", epochs=2, crop_samples=400, batch_size=11, crops=2, eval_every=1, learning_rate=0.003
    )
    return cross_validate(config, seeds=(0, 1), data_dir=data, save_dir=folder / "runs", device="cpu")


@pytest.fixture
def found(trained, tmp_path, monkeypatch):
    """A copy of it, which a test may change; its records go into a temporary folder."""
    monkeypatch.setattr(records_module, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "published.csv").write_text((RESULTS / "published.csv").read_text(encoding="utf-8"))
    return deepcopy(trained)


def changed(found, **changes):
    return records_module.CrossValidation(**{**vars(found), **changes})


def test_a_record_holds_all_that_the_results_are_computed_from(found):
    path = save_record(found)
    again = load_record(path.stem)
    pd.testing.assert_frame_equal(again.runs, found.runs, atol=0.01)
    assert (again.config, again.data) == (found.config, found.data)
    columns = ["seed", "file", "fold", "true", "predicted"]
    pd.testing.assert_frame_equal(again.predictions[columns], found.predictions[columns])
    ours, theirs = (of.predictions.filter(like="p_") for of in (again, found))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=6e-5)
    pd.testing.assert_series_equal(again.summary(), found.summary())
    pd.testing.assert_frame_equal(again.calibration(), found.calibration(), rtol=1e-3)


def test_a_tiny_probability_of_the_true_class_keeps_its_digits(found):
    column = f"p_{found.predictions['true'][0]}"
    found.predictions.loc[0, column] = 1.2345e-7
    assert load_record(save_record(found).stem).predictions.loc[0, column] == pytest.approx(1.2345e-7, rel=1e-3)


def test_a_smaller_or_different_cross_validation_does_not_replace_a_record(found):
    path = save_record(found)
    with pytest.raises(ValueError, match=r"is kept.*\(1, 1\)"):
        save_record(changed(found, runs=found.runs[:3]))
    with pytest.raises(ValueError, match="is kept: it is of other recordings"):
        save_record(changed(found, data={**found.data, "subset": False}))
    assert len(load_record(path.stem).runs) == 6


def test_a_record_describes_the_training(found):
    record = json.loads(save_record(found).read_text(encoding="utf-8"))
    assert record["selection"] == "the last epoch" and record["data"]["subset"] is True
    assert record["trained_on"]["fold-2-seed-1"] == [1, 3]
    assert {session["run"] for session in record["sessions"]} == set(record["trained_on"])
    assert all(session["device"] and session["torch"] and session["to_epoch"] == 2 for session in record["sessions"])
    run = record["runs"][0]
    assert run["accuracy"] == pytest.approx(run["correct"] / run["clips"], abs=1e-6)
    assert run["best"] >= run["accuracy"]


def test_the_same_cross_validation_gives_the_same_files(found):
    path = save_record(found)
    first = contents(path.parent)
    assert len(first) == 4 and sorted(file.rpartition("-")[0] for file in first if file.endswith(".gz")) == [
        f"{path.stem}-history", f"{path.stem}-predictions",
    ]  # fmt: skip
    assert all(content[4:8] == bytes(4) for file, content in first.items() if file.endswith(".gz")), "stores no time"
    assert save_record(found) == path and contents(path.parent) == first


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_record_killed_at_any_change_of_a_file_is_the_old_one_or_the_new(found):
    path = save_record(found)
    old = contents(path.parent)
    swapped = found.predictions.assign(predicted=found.predictions["true"])
    runs = found.runs.assign(accuracy=1.0, correct=found.runs["clips"])
    new = changed(found, runs=runs, predictions=swapped, history=found.history.assign(loss=1.0))
    events = kill_at(0, path.parent, lambda: save_record(new))
    expected = contents(path.parent)
    assert events > 8 and set(expected) != set(old)
    for event in range(1, events + 1):
        for file in path.parent.iterdir():
            file.unlink()
        for name, content in old.items():
            (path.parent / name).write_bytes(content)
        kill_at(event, path.parent, lambda: save_record(new))
        of_either = load_record(path.stem)
        assert len(of_either.predictions) == len(swapped) and (of_either.history["loss"] == 1).all() == bool(
            (of_either.predictions["true"] == of_either.predictions["predicted"]).all()
        ), event
        save_record(new)
        assert contents(path.parent) == expected, event


def test_a_record_holds_every_runs_learning_curve(found):
    again = load_record(save_record(found).stem)
    pd.testing.assert_frame_equal(again.history, found.history, rtol=1e-3)
    assert len(again.history) == 6 * 2 and list(again.history["epoch"][:2]) == [1, 2]
    run = load_run(found.path / "fold-2-seed-1")
    of_run = again.history.query("fold == 2 and seed == 1")
    np.testing.assert_allclose(of_run["loss"], list(run.history["loss"].values()), rtol=1e-3)


def test_altered_predictions_are_refused(found):
    path = save_record(found)
    for kind in ("predictions", "history"):
        (file,) = path.parent.glob(f"{path.stem}-{kind}-*.csv.gz")
        packed = file.read_bytes()
        file.write_bytes(gzip.compress(gzip.decompress(packed).replace(b",1,", b",2,", 1)))
        with pytest.raises(ValueError, match=f"{kind}-.* is not what .*json was written with"):
            load_record(path.stem)
        file.write_bytes(packed)


def without(name):
    return lambda record: {key: value for key, value in record.items() if key != name}


DAMAGES = [
    *map(without, ("config", "runs", "data", "selection", "predictions")),
    *(lambda record, value=value: {**record, "runs": value} for value in (None, [], "runs", [{"fold": 1}])),
    lambda record: {**record, "data": None},
    lambda record: {**record, "config": {**record["config"], "epochs": "many"}},
    lambda record: {**record, "runs": [{**run, "accuracy": 1.0} for run in record["runs"]]},
    lambda record: {**record, "runs": record["runs"][1:]},
    lambda record: [record],
]


def test_a_damaged_record_is_named(found):
    path = save_record(found)
    record = json.loads(path.read_text(encoding="utf-8"))
    for damage in DAMAGES:
        path.write_text(json.dumps(damage(record)), encoding="utf-8")
        with pytest.raises(ValueError, match=rf"{path.stem}\.json (is no whole record|holds) .*restore it"):
            load_record(path.stem)


def test_a_table_of_a_record_that_cannot_be_read_is_named(found):
    path = save_record(found)
    (file,) = path.parent.glob(f"{path.stem}-predictions-*.csv.gz")
    for content in (b"", b"version https://git-lfs.github.com/spec/v1\n", b"\x1f\x8b\x08", None):
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(ValueError, match="no whole record.*csv.gz (cannot be read|is not what)"):
            load_record(path.stem)


def test_the_error_for_a_missing_record_lists_those_that_exist(found):
    path = save_record(found)
    with pytest.raises(FileNotFoundError, match=f"m4.json.*{path.stem}"):
        load_record("m4")


def test_the_table_has_a_row_per_record(found):
    save_record(found)
    (row,) = measured_results("m3").to_dict("records")
    accuracy = found.runs["accuracy"]
    assert row["accuracy"] == f"{100 * accuracy.mean():.1f}" and row["std"] == f"{100 * accuracy.std():.1f}"
    assert (row["tested on"], row["seeds"], row["epochs"], row["published"]) == ("1 2 3", 2, 2, "")
    assert measured_results("m5").empty and list(measured_results("m5").columns) == COLUMNS


def test_the_differences_from_the_recipe_are_listed(found):
    text = recipe_diff(found)
    assert text.startswith("2 epochs, not 8; ")
    for part in ("batch_size 11, not 8", "learning_rate 0.003, not 0.002", "crop_samples 400, not 32000"):
        assert part in text
    assert "only folds 1 2 3" in text and "sample_rate" not in text and "Ogg" not in text
    ogg = found.predictions.assign(file=found.predictions["file"].str.replace(".wav", ".ogg"))
    assert "Ogg Vorbis" in recipe_diff(changed(found, predictions=ogg))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
class TestCommitted:
    def test_its_accuracies_follow_from_its_predictions(self, path):
        found = load_record(path.stem)
        table = found.predictions
        right = (table["true"] == table["predicted"]).groupby([table["fold"], table["seed"]])
        for run in found.runs.itertuples():
            of_run = right.get_group((run.fold, run.seed))
            assert (of_run.sum(), len(of_run)) == (run.correct, run.clips)
            assert run.accuracy == pytest.approx(run.correct / run.clips, abs=1e-6)
        columns = table.filter(like="p_")
        np.testing.assert_allclose(columns.sum(axis=1), 1, atol=1e-3)
        likeliest = columns.idxmax(axis=1).str.removeprefix("p_")
        assert (likeliest == table["predicted"]).mean() > 0.995  # some are equal once rounded to four digits

    def test_every_clip_counts_once_for_every_seed(self, path):
        found = load_record(path.stem)
        assert not found.predictions.duplicated(["file", "seed"]).any()
        spec = DATASETS.get(found.config.dataset)  # none of a set of your own
        if spec and not found.data["subset"] and found.runs["fold"].nunique() == len(spec.folds):
            assert len(found.predictions) == spec.n_clips * found.runs["seed"].nunique()

    def test_the_selection_names_a_validation_fold_if_there_is_one(self, path):
        found, record = load_record(path.stem), json.loads(path.read_text(encoding="utf-8"))
        assert bool(found.config.validation_folds) == ("validation" in record["selection"])
        assert found.config.eval_folds == (found.runs["fold"][0],)

    def test_no_run_was_trained_on_its_test_fold(self, path):
        record = json.loads(path.read_text(encoding="utf-8"))
        for run in record["runs"]:
            trained_on = record.get("trained_on") or record["learned_from"]  # its name in the first records
            assert run["fold"] not in trained_on[f"fold-{run['fold']}-seed-{run['seed']}"]

    def test_it_holds_the_last_epoch_and_names_its_device_and_no_path(self, path):
        record = json.loads(path.read_text(encoding="utf-8"))
        config = TrainConfig.from_dict(record["config"])
        if record["selection"] == "the last epoch":
            assert all(run["epoch"] == config.epochs for run in record["runs"])
        assert "/" not in config.start_from
        sessions = record.get("sessions") or record["sittings"]  # their name in the first records
        assert all(session["device"] and len(session["commit"]) == 40 for session in sessions)
        assert all(run["minutes"] > 0 for run in record["runs"])


def test_published_accuracies_appear_beside_the_measured_ones():
    rows = measured_results("m5").set_index("data set")
    standard = rows["training"] == "standard"
    assert rows[standard].loc["urbansound8k", "published"] == "63.4"
    assert not rows[~standard]["published"].any()  # none for these training schemes


def test_every_record_is_in_the_table():
    assert len(measured_results()) == len(RECORDS) > 0


def test_the_folder_of_a_cross_validation_is_called_as_its_record():
    """The same call finds the runs of a record again, so the name must not depend on anything but the settings."""
    for found in all_records():
        assert _name(found.config, bool(found.config.validation_folds)) == f"cv-{found.path.stem}"
