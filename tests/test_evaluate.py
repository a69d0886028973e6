"""Evaluation against counts by hand: every clip counts, rows are true classes, files lie in the run directory."""

import importlib
import json
import re
import threading
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import RATE, config, files_below, network, new_run, numbered, numbers_in, register, tones, write_set

from esc_lib import evaluate, train
from esc_lib.data.clips import load_clips
from esc_lib.data.datasets import ESC10_CLASSES
from esc_lib.models import build_model

evaluate_module = importlib.import_module("esc_lib.evaluation.evaluate")
DOG, RAIN, WAVES = ESC10_CLASSES[:3]
FIRE = ESC10_CLASSES[9]
# Fold 3 is the test: eleven clips of three classes, and what the network predicts. Six are right.
TARGETS = [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2]
PREDICTED = [0, 0, 0, 1, 1, 1, 0, 0, 0, 2, 9]
RIGHT = 6


def logits_of(predicted):
    """Logits that exceed the others by 2 at the predicted classes."""
    return 2.0 * torch.nn.functional.one_hot(torch.tensor(predicted), 10)


def make_run(folder, monkeypatch, logits=None, accuracies=(0.5,), dataset="synthetic", subset=True):
    """A run whose network returns the logits given for each clip of fold 3.

    In every checkpoint after the first, a bias makes it always predict class 9.
    """
    logits = logits_of(PREDICTED) if logits is None else logits
    # Clip 0 is of fold 1, clips 1 to 11 of fold 3, clip 12 of fold 2.
    write_set(folder / "data", numbered([1, *[3] * len(TARGETS), 2], [5, *TARGETS, 6]), dataset, subset)
    net = register(monkeypatch, network(lambda self, x: logits[torch.tensor(numbers_in(x)) - 1] + self.bias))
    run = new_run(config(dataset=dataset), folder / "runs")
    for epoch, acc in enumerate(accuracies, start=1):
        model = net(10)
        with torch.no_grad():
            model.bias[9] = 100.0 * (epoch - 1)
        run.save_checkpoint(model, epoch, acc)
    return run


@pytest.fixture
def run(tmp_path, monkeypatch):
    return make_run(tmp_path, monkeypatch)


@pytest.fixture
def found(run, tmp_path):
    return evaluate(run.path, data_dir=tmp_path / "data", device="cpu")


def test_accuracy_is_the_share_of_correct_clips(found):
    assert found.accuracy == found.result["acc"] == RIGHT / 11
    assert (found.result["correct"], found.result["clips"]) == (RIGHT, 11)
    assert len(found.predictions) == 11, "the test fold only"


def test_rows_of_the_confusion_matrix_are_the_true_classes(found):
    expected = np.zeros((10, 10), int)
    expected[0, 0], expected[0, 1] = 3, 1
    expected[1, 1], expected[1, 0] = 2, 3
    expected[2, 2], expected[2, 9] = 1, 1
    assert found.confusion.to_numpy().tolist() == expected.tolist()
    assert list(found.confusion.index) == list(found.confusion.columns) == list(ESC10_CLASSES)
    assert found.confusion.loc[RAIN, DOG] == 3  # rain predicted as dog


def test_two_evaluations_at_once_do_not_disturb_each_other(found):
    """In two threads, each with its own clips: the files that remain are of one of them, whole."""
    half = replace(found, result={**found.result, "clips": 5}, predictions=found.predictions[:5])
    failures = []

    def write(which):
        try:
            for _ in range(20):
                evaluate_module._write(which)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(which,)) for which in (found, half)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    result = json.loads((found.path / "result.json").read_text(encoding="utf-8"))
    assert len(pd.read_csv(found.path / "predictions.csv")) == result["clips"]
    assert files_below(found.path) == {"result.json", "confusion_matrix.csv", "predictions.csv", ".lock"}


def test_what_a_killed_evaluation_left_is_gone_after_the_next(found):
    (found.path / ".result.json-0123abcd.part").write_text("half", encoding="utf-8")
    (found.path / ".mine.part").write_text("whole", encoding="utf-8")
    evaluate_module._write(found)
    assert files_below(found.path) == {"result.json", "confusion_matrix.csv", "predictions.csv", ".lock", ".mine.part"}


def test_the_files_hold_the_evaluation(found, run):
    assert found.path == run.path / "eval"
    assert files_below(found.path) == {"result.json", "confusion_matrix.csv", "predictions.csv", ".lock"}
    text = (found.path / "confusion_matrix.csv").read_text(encoding="utf-8")
    first = text.splitlines()[0].split(",")
    assert re.search("true.*row.*predicted.*column", first[0])
    assert first[1:] == list(ESC10_CLASSES)
    table = pd.read_csv(found.path / "confusion_matrix.csv", index_col=0)
    assert table.loc[RAIN, DOG] == 3 and table.loc[DOG, RAIN] == 1
    assert (table.to_numpy() == found.confusion.to_numpy()).all()
    pd.testing.assert_frame_equal(
        pd.read_csv(found.path / "predictions.csv"), found.predictions, check_dtype=False, rtol=1e-6
    )
    assert json.loads((found.path / "result.json").read_text(encoding="utf-8")) == found.result


def test_predictions_have_a_row_per_clip_and_a_probability_per_class(found):
    table = found.predictions
    assert table["file"].tolist() == [f"audio/{i:03d}.wav" for i in range(1, 12)]
    assert set(table["fold"]) == {3}
    assert table["true"].tolist() == [ESC10_CLASSES[i] for i in TARGETS]
    assert table["predicted"].tolist() == [ESC10_CLASSES[i] for i in PREDICTED]
    expected = ["file", "fold", "recording", "true", "predicted", *(f"p_{name}" for name in ESC10_CLASSES)]
    assert list(table.columns) == expected
    probabilities = table.filter(regex="^p_").to_numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    top = np.exp(2) / (np.exp(2) + 9)
    np.testing.assert_allclose(probabilities[range(11), PREDICTED], top, rtol=1e-5)


def test_silent_clips_count(tmp_path, monkeypatch):
    register(monkeypatch)
    write_set(tmp_path, tones(per_class=1))  # with one clip of digital silence in each fold
    run = train(config(epochs=1), data_dir=tmp_path, save_dir=tmp_path / "runs", device="cpu")
    found = evaluate(run.path, data_dir=tmp_path)
    assert found.result["clips"] == len(found.predictions) == found.confusion.to_numpy().sum() == 11
    assert found.confusion.sum(axis=1).tolist() == [2, *[1] * 9]  # the silent clip is of class 0
    assert np.isfinite(found.predictions.filter(regex="^p_").to_numpy()).all()


@pytest.mark.parametrize(("dataset", "subset"), [("synthetic", True), ("esc10", False)])
def test_the_result_records_its_provenance(tmp_path, monkeypatch, dataset, subset):
    run = make_run(tmp_path, monkeypatch, dataset=dataset, subset=subset)
    result = evaluate(run.path, data_dir=tmp_path / "data").result
    assert (result["dataset"], result["subset"], result["eval_folds"]) == (dataset, subset, [3])
    assert result["source_sha256"] == "5" * 64
    assert (result["checkpoint"], result["epoch"]) == ("epoch-0001", 1)
    assert result["selection"].startswith("the last epoch")
    assert result["versions"] == {"esc-course": version("esc-course"), "torch": torch.__version__}
    assert str(tmp_path) not in json.dumps(result)


def test_the_best_checkpoint_has_a_folder_of_its_own_and_a_warning(tmp_path, monkeypatch):
    run = make_run(tmp_path, monkeypatch, accuracies=(0.9, 0.2))
    data = tmp_path / "data"
    best, last = evaluate(run.path, "best", data_dir=data), evaluate(run.path, data_dir=data)
    named = evaluate(run.path, "epoch-0001", data_dir=data)
    assert [e.path.name for e in (best, last, named)] == ["eval-best", "eval", "eval-epoch-0001"]
    assert [e.result["epoch"] for e in (best, last, named)] == [1, 2, 1]
    assert [e.accuracy for e in (best, last, named)] == [RIGHT / 11, 0, RIGHT / 11]  # the last always predicts class 9
    assert "too high" in best.result["selection"] and "too high" not in last.result["selection"]
    assert "last epoch" not in best.result["selection"] and "last epoch" not in named.result["selection"]
    assert json.loads((run.path / "eval/result.json").read_text(encoding="utf-8"))["acc"] == 0
    with pytest.raises(ValueError, match="'epoch-0007'.*epoch-0001"):
        evaluate(run.path, "epoch-0007", data_dir=data)
    assert not (run.path / "eval-epoch-0007").exists()


def test_the_result_of_a_moved_run_lies_in_its_new_folder(run, tmp_path):
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    run.path.rename(moved)
    found = evaluate(moved, data_dir=tmp_path / "data")
    assert found.path == moved / "eval"
    assert (moved / "eval/result.json").is_file()
    assert not run.path.exists()
    assert files_below(tmp_path / "runs") == set()


def test_evaluating_again_replaces_the_result_and_leaves_the_run_unchanged(run, tmp_path):
    before = {name: (run.path / name).read_bytes() for name in files_below(run.path)}
    first = evaluate(run.path, data_dir=tmp_path / "data")
    second = evaluate(str(run.path), data_dir=str(tmp_path / "data"))
    assert first.result == second.result
    assert not [name for name in files_below(run.path) if name.endswith(".part")]
    assert {name: (run.path / name).read_bytes() for name in before} == before


def test_per_class_by_hand(found):
    table = found.per_class()
    assert list(table.index) == list(ESC10_CLASSES)
    assert list(table.columns) == ["precision", "recall", "f1", "clips"]
    # Dog: predicted six times, correctly three times, of four clips.
    assert table.loc[DOG].tolist() == pytest.approx([3 / 6, 3 / 4, 2 * 3 / (6 + 4), 4])
    assert table.loc[RAIN].tolist() == pytest.approx([2 / 3, 2 / 5, 2 * 2 / (3 + 5), 5])
    assert table.loc[WAVES].tolist() == pytest.approx([1 / 1, 1 / 2, 2 * 1 / (1 + 2), 2])
    assert table.loc[FIRE].tolist() == [0, 0, 0, 0]  # predicted once, but no clip is of this class
    assert table.loc[ESC10_CLASSES[4]].tolist() == [0, 0, 0, 0]
    assert table["clips"].dtype.kind == "i"


def test_worst_lists_the_misclassified_clips_most_confident_first(tmp_path, monkeypatch):
    logits = logits_of(PREDICTED)
    for clip, distance in [(3, 1.0), (6, 5.0), (7, 3.0), (8, 3.0), (10, 0.5)]:  # the five that are misclassified
        logits[clip] *= distance / 2
    logits[0] *= 0.01  # correct, though least confident
    found = evaluate(make_run(tmp_path, monkeypatch, logits).path, data_dir=tmp_path / "data")
    worst = found.worst(9)
    assert worst["file"].tolist() == [f"audio/{clip + 1:03d}.wav" for clip in (6, 7, 8, 3, 10)]
    assert (worst["true"] != worst["predicted"]).all()
    assert list(worst.columns) == ["file", "fold", "true", "predicted", "p_true"]
    # The true class is one of nine with equal probability.
    expected = [1 / (9 + np.exp(distance)) for distance in (5, 3, 3, 1, 0.5)]
    assert worst["p_true"].tolist() == pytest.approx(expected, rel=1e-4)
    assert found.worst(2)["file"].tolist() == worst["file"].tolist()[:2]
    assert len(found.worst()) == 5


def test_worst_is_empty_if_every_clip_is_correct(tmp_path, monkeypatch):
    found = evaluate(make_run(tmp_path, monkeypatch, logits_of(TARGETS)).path, data_dir=tmp_path / "data")
    assert found.accuracy == 1
    assert found.worst().empty
    assert list(found.worst().columns) == ["file", "fold", "true", "predicted", "p_true"]


def test_accuracy_agrees_with_a_plain_loop(tmp_path, monkeypatch):
    """The evaluation during training, `evaluate`, and a loop over clips and crops give the same accuracy."""
    register(monkeypatch)
    write_set(tmp_path, tones(per_class=2))
    settings = config(epochs=3, crops=4, trim_silence=False)
    run = train(settings, data_dir=tmp_path, save_dir=tmp_path / "runs", device="cpu")
    found = evaluate(run.path, data_dir=tmp_path, device="cpu")
    clips, model, right = load_clips("synthetic", RATE, folds=[3], data_dir=tmp_path), run.model(), 0
    for i in range(len(clips)):
        wave = np.pad(clips.waveform(i).numpy() / 32768, 50).astype(np.float32)
        begins = [n * ((len(wave) - 100) // 3) for n in range(4)]
        crops = torch.tensor(np.stack([wave[begin : begin + 100] for begin in begins]))[:, None]
        with torch.no_grad():
            probability = model(crops).softmax(dim=1).mean(dim=0)
        right += int(probability.argmax() == clips.targets[i])
        row = found.predictions.filter(regex="^p_").iloc[i].to_numpy(float)
        np.testing.assert_allclose(row, probability.numpy(), rtol=1e-3, atol=1e-5)
    assert found.accuracy == pytest.approx(right / len(clips))
    assert found.accuracy == pytest.approx(run.history["eval_acc"][3])


def test_a_missing_run_data_set_or_device_is_named(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run directory"):
        evaluate(tmp_path / "nowhere", data_dir=tmp_path / "data")
    with pytest.raises(FileNotFoundError, match=r'esc_lib\.prepare\("synthetic", 1000\)'):
        evaluate(run.path, data_dir=tmp_path / "no data")
    with pytest.raises(ValueError, match="device 'cuda:99'"):
        evaluate(run.path, data_dir=tmp_path / "data", device="cuda:99")
    assert not (run.path / "eval").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_computes_no_numbers_is_not_reported_on(tmp_path, monkeypatch, value):
    logits = logits_of(PREDICTED)
    logits[3, 2] = value
    run = make_run(tmp_path, monkeypatch, logits)
    with pytest.raises(ValueError, match="computes values that are not finite"):
        evaluate(run.path, data_dir=tmp_path / "data", device="cpu")
    assert not (run.path / "eval").exists()


def test_an_evaluation_leaves_out_the_quiet_crops_that_the_run_says(tmp_path, monkeypatch):
    """A network that calls a loud crop class 0 and a quiet one class 1, and a clip with one loud crop of three."""

    def loudness(self, x):
        quiet = (x.abs().amax(dim=(1, 2)) < 0.1).long()
        return 30.0 * torch.nn.functional.one_hot(quiet, 10) + 0 * self.bias

    register(monkeypatch, network(loudness))
    data = write_set(tmp_path / "data", [(3, 0, np.repeat(np.array([16384, 20, 20], np.int16), 100))])
    run = new_run(config(pad=False, crops=3, min_peak=0.1, epochs=1), tmp_path / "runs")
    run.save_checkpoint(build_model("tiny", 10), 1, 1.0)
    assert evaluate(run, data_dir=data, device="cpu").predictions.loc[0].filter(like="p_").iloc[0] > 0.99


def test_an_evaluation_on_other_folds_says_so_and_leaves_the_result_alone(tmp_path, monkeypatch):
    register(monkeypatch)
    data = write_set(tmp_path / "data", tones(per_class=1))
    settings = config(train_folds=[1], validation_folds=[2], eval_folds=[3])
    run = train(settings, data_dir=data, save_dir=tmp_path / "runs", device="cpu")
    tested, chosen = (evaluate(run, folds=folds, data_dir=data, device="cpu") for folds in (None, [2]))
    assert [found.path.name for found in (tested, chosen)] == ["eval", "eval-best-on-2"]
    assert [found.result["eval_folds"] for found in (tested, chosen)] == [[3], [2]]
    assert "which are not tested on here" in tested.result["selection"]
    assert "too high to report" in chosen.result["selection"]
