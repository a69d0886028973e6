"""The pretrained network of the course: small, complete, credited, and better than chance."""

import pandas as pd
import pytest
import soundfile
import torch

from esc_lib import load_clips, load_run, predict, prepare
from esc_lib.evaluation.calibration import fit_temperature
from esc_lib.evaluation.evaluate import as_arrays
from esc_lib.paths import PRETRAINED
from esc_lib.results.records import load_record

RECORD = "m11-esc10-3a5d7e01"


def test_it_is_a_finished_run_trained_on_all_folds():
    run = load_run(PRETRAINED)
    assert run.finished and run.config.train_folds == (1, 2, 3, 4, 5) and run.config.eval_folds == ()
    assert sum(file.stat().st_size for file in PRETRAINED.rglob("*") if file.is_file()) < 4_000_000
    assert all(torch.isfinite(value).all() for value in run.model().state_dict().values())


def test_its_temperature_was_fitted_on_the_test_folds_of_its_cross_validation():
    run, found = load_run(PRETRAINED), load_record(RECORD)
    assert run.temperature() == pytest.approx(fit_temperature(*as_arrays(found.predictions)), rel=0.01)
    folds = {"train_folds", "eval_folds", "eval_every", "precision"}
    own, others = run.config.to_dict(), found.config.to_dict()
    assert {key for key in own if own[key] != others[key]} <= folds


def test_every_recording_is_credited():
    credits = pd.read_csv(PRETRAINED.parent / "credits.csv")
    files = load_record(RECORD).predictions["file"]
    numbers = files.str.extract(r"\d-(\d+)-[A-Z]-\d+\.ogg$")[0].astype(int)
    assert sorted(credits["freesound"]) == sorted(numbers.unique())
    assert credits["author"].str.len().min() >= 2 and set(credits["licence"]) == {"CC0", "CC-BY", "CC-Sampling+"}


def test_it_recognises_synthetic_sounds(tmp_path):
    """It was trained on recordings only. Chance is 0.1."""
    prepare("synthetic", 8000, data_dir=tmp_path)
    clips = load_clips("synthetic", 8000, folds=[1], data_dir=tmp_path)
    right = 0
    for i in range(len(clips)):
        soundfile.write(tmp_path / "clip.wav", clips.waveform(i).numpy(), 8000, subtype="PCM_16")
        top = predict(PRETRAINED, tmp_path / "clip.wav", top=1, device="cpu").top
        right += top["class"][0] == clips.table["category"][i]
    assert right / len(clips) > 0.3
