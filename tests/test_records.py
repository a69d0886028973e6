"""The published numbers and the records of runs: that they are whole, and say what their files say."""

import json

import pandas as pd
import pytest
from tiny import config, register, tones, write_set

from esc_lib import evaluate, train
from esc_lib import records as records_module
from esc_lib.config import TrainConfig
from esc_lib.models import ARCHITECTURES
from esc_lib.records import RESULTS, measured, published, save_record

SETS = ["esc10", "esc50", "urbansound8k"]
RECORDS = sorted(RESULTS.glob("*.json"))


def test_published_accuracies_are_percentages_of_known_networks_with_sources():
    table = published()
    assert set(table["network"]) <= set(ARCHITECTURES)
    assert table["source"].str.len().min() > 20
    assert table[SETS].notna().any(axis=1).all()
    assert table[SETS].stack().dropna().between(40, 100).all()


@pytest.mark.parametrize(
    ("network", "learning", "column", "accuracy"),
    [
        ("envnet", "standard", "esc10", 87.2),
        ("envnetv2", "between-class, strong augmentation", "esc50", 84.9),
        ("wavemsnet_logmel", "standard", "esc50", 79.1),
        ("m18", "standard", "urbansound8k", 71.68),
        ("m34res", "standard", "urbansound8k", 63.47),
        ("acdnet", "between-class, strong augmentation", "esc50", 87.1),
    ],
)
def test_published_numbers_are_the_papers(network, learning, column, accuracy):
    table = published(network)
    assert set(table["network"]) == {network}
    rows = table[(table["learning"] == learning) & table[column].notna()]
    assert rows[column].tolist() == [accuracy]


@pytest.fixture
def trained(tmp_path, monkeypatch):
    register(monkeypatch)
    data = write_set(tmp_path / "data", tones())
    return train(config(between_class=True), data, tmp_path / "runs", "cpu"), data


def test_a_record_says_what_the_run_reached(trained, tmp_path, monkeypatch):
    run, data = trained
    evaluation = evaluate(run.path, data_dir=data)
    path = save_record(run.path, 1.26, tmp_path / "results")
    record = json.loads(path.read_text())
    assert TrainConfig.from_dict(record["config"]) == run.config
    assert record["result"]["correct"] == evaluation.result["correct"]
    assert record["tests"]["2"] == pytest.approx(evaluation.accuracy, abs=1e-4)
    monkeypatch.setattr(records_module, "RESULTS", tmp_path / "results")
    row = measured("tiny").iloc[0]
    assert row["accuracy"] == pytest.approx(100 * evaluation.accuracy, abs=0.05)
    assert (row["learning"], row["learned from"], row["tested on"]) == ("between-class", "1 2", "3")
    assert (row["epochs"], row["clips"], row["minutes"]) == (2, 31, 1.3)
    assert measured("m5").empty and list(measured("m5").columns) == list(measured("tiny").columns)


def test_a_run_that_was_not_evaluated_has_no_record(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match="evaluate"):
        save_record(trained[0].path, 1.0, tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_committed_records_are_results_of_the_last_epoch(path):
    record = json.loads(path.read_text())
    settings = TrainConfig.from_dict(record["config"])
    result = record["result"]
    assert result["acc"] == result["correct"] / result["clips"]
    assert result["epoch"] == settings.epochs
    assert record["tests"][str(settings.epochs)] == pytest.approx(result["acc"], abs=1e-4)
    assert result["eval_folds"] == list(settings.eval_folds)
    assert not set(settings.train_folds) & set(settings.eval_folds)
    assert "/" not in settings.start_from
    assert record["minutes"] > 0


def test_every_record_is_in_the_table():
    table = measured()
    assert len(table) == len(RECORDS) > 0
    assert isinstance(table, pd.DataFrame) and table.notna().all(axis=None)


def test_the_readme_shows_every_record():
    readme = (RESULTS.parents[1] / "README.md").read_text(encoding="utf-8")
    shown = ["network", "learning", "data set", "learned from", "tested on", "epochs", "accuracy", "clips"]
    for values in measured()[shown].astype(str).to_numpy():
        assert f"| {' | '.join(values)} |" in readme
