"""The trained networks of the course: small, complete, credited, and better than chance."""

import pandas as pd
import pytest
import soundfile
import torch

from esc_lib import load_clips, load_run, predict, prepare
from esc_lib.evaluation.calibration import fit_temperature
from esc_lib.evaluation.evaluate import as_arrays
from esc_lib.paths import MOST_ACCURATE, PRETRAINED
from esc_lib.results.quantized import BITS, QUANTIZED
from esc_lib.results.records import all_records, load_record
from esc_lib.training.rounding import round_weights

RECORDS = {PRETRAINED: "m11-esc10-3a5d7e01", MOST_ACCURATE: "acdnet-esc10-7af7c679"}
BOTH = pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)


@BOTH
def test_it_is_a_finished_run_trained_on_all_folds(path):
    run = load_run(path)
    assert run.finished and run.config.train_folds == (1, 2, 3, 4, 5) and run.config.eval_folds == ()
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < 4_000_000
    assert all(torch.isfinite(value).all() for value in run.model().state_dict().values())


@BOTH
def test_its_temperature_was_fitted_on_the_test_folds_of_its_cross_validation(path):
    run, found = load_run(path), load_record(RECORDS[path])
    assert run.temperature() == pytest.approx(fit_temperature(*as_arrays(found.predictions)), rel=0.01)
    folds = {"train_folds", "eval_folds", "eval_every", "precision"}
    own, others = run.config.to_dict(), found.config.to_dict()
    assert {key for key in own if own[key] != others[key]} <= folds


def test_the_most_accurate_is_that_of_the_best_cross_validation_and_its_rounding_costs_less_than_a_point():
    means = {
        found.path.stem: found.runs["accuracy"].mean() for found in all_records() if found.config.dataset == "esc10"
    }
    best = RECORDS[MOST_ACCURATE]
    assert means[best] == max(means.values())
    counted = pd.read_csv(QUANTIZED).set_index(["record", "format"])
    whole, rounded = (counted.loc[(best, name)] for name in ("float32", f"{BITS} bits"))
    assert rounded["correct"] > 0.91 * rounded["clips"] and rounded["correct"] > whole["correct"] - 4


def test_the_weights_of_the_most_accurate_are_those_of_seven_bits():
    """Rounding again, to the bits that they are said to have, changes nothing."""
    state = load_run(MOST_ACCURATE).model().state_dict()
    again = round_weights(state, BITS)
    for name, value in state.items():
        if value.ndim > 1:
            torch.testing.assert_close(again[name].float() * again[f"{name}.scale"], value)


def test_every_recording_is_credited():
    credits = pd.read_csv(PRETRAINED.parent / "credits.csv")
    files = load_record(RECORDS[PRETRAINED]).predictions["file"]
    numbers = files.str.extract(r"\d-(\d+)-[A-Z]-\d+\.ogg$")[0].astype(int)
    assert sorted(credits["freesound"]) == sorted(numbers.unique())
    assert credits["author"].str.len().min() >= 2 and set(credits["licence"]) == {"CC0", "CC-BY", "CC-Sampling+"}


@BOTH
def test_it_recognises_synthetic_sounds(tmp_path, path):
    """It was trained on recordings only. Chance is 0.1."""
    rate = load_run(path).config.sample_rate
    prepare("synthetic", rate, data_dir=tmp_path)
    clips = load_clips("synthetic", rate, folds=[1], data_dir=tmp_path)
    right = 0
    for i in range(len(clips)):
        soundfile.write(tmp_path / "clip.wav", clips.waveform(i).numpy(), rate, subtype="PCM_16")
        top = predict(path, tmp_path / "clip.wav", top=1, device="cpu").top
        right += top["class"][0] == clips.table["category"][i]
    assert right / len(clips) > 0.3
