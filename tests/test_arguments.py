"""Wrong arguments are refused by name, before anything is computed or written."""

import math
from pathlib import Path

import pytest
import torch
from sound_files import make_clips
from tiny import config, files_below

import esc_lib
from esc_lib.arguments import as_path, check
from esc_lib.evaluation import bootstrap_interval, wilson_interval
from esc_lib.results import save_record
from esc_lib.training import a_weighting, class_probabilities, cut, even_crops, loudness, mix, random_crops
from esc_lib.training.runs import list_runs

RIGHT = {int: [0, 7, -3], float: [0, 0.5, 7], bool: [True, False], str: ["", "a"], dict: [{}]}
WRONG = {
    int: [True, 1.0, "1", None, [1], math.nan, b"1"],
    float: [False, "0.5", None, [0.5], 1j],
    bool: [0, 1, "true", None, "False"],
    str: [None, 5, b"a", ["a"], Path("a")],
    dict: [None, [], "a"],
}


@pytest.mark.parametrize("kind", RIGHT, ids=lambda kind: kind.__name__)
def test_kinds_are_told_apart(kind):
    for value in RIGHT[kind]:
        check("x", value, kind)
    for value in WRONG[kind]:
        with pytest.raises(ValueError, match="^x is .*: expected "):
            check("x", value, kind)


def test_a_number_has_to_be_in_its_range():
    for value in (1, 5, 9):
        check("x", value, int, 1, 9)
    for kind, values in ((int, [0, 10, -(10**40), 10**40]), (float, [0.999, 9.001, math.nan, math.inf, -math.inf])):
        for value in values:
            with pytest.raises(ValueError, match="^x is .* number from 1 to 9$"):
                check("x", value, kind, 1, 9)


def test_the_message_stays_short_and_helps_with_yaml():
    with pytest.raises(ValueError, match="1.0e-3, not 1e-3"):
        check("learning_rate", "1e-3", float, 0, 1)
    with pytest.raises(ValueError) as caught:
        check("x", "a" * 10**6, int)
    assert len(str(caught.value)) < 200
    with pytest.raises(ValueError, match="^x is a number of thousands of digits: expected a whole number from 0 to 9$"):
        check("x", 10**6000, int, 0, 9)


def test_a_path_is_one_that_a_system_could_have(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert as_path("x", "~/a") == tmp_path / "a" and as_path("x", tmp_path) == tmp_path
    for value in ("", "a\0b", "x" * 5000, "~nobody-of-this-name/a", None, 5, True, b"a", ["a"], math.nan):
        with pytest.raises(ValueError, match="^x is "):
            as_path("x", value)


CLIPS = make_clips([[1] * 50] * 3)
INDEX = torch.tensor([0])
CALLS = {
    "device": lambda device: esc_lib.train(config(architecture="m5"), device=device),
    "config": lambda config: esc_lib.train(config),
    "progress": lambda progress: esc_lib.train(config(architecture="m5"), progress=progress),
    "architecture": lambda name: esc_lib.build_model(name, 10),
    "n_classes": lambda n: esc_lib.build_model("m5", n),
    "run": lambda run: esc_lib.load_run(run),
    "save_dir": lambda folder: list_runs(folder),
    "length": lambda length: cut(CLIPS, INDEX, INDEX, length),
    "n_crops": lambda n: even_crops(CLIPS, INDEX, 10, n),
    "generator": lambda generator: random_crops(CLIPS, INDEX, 10, generator),
    "pad": lambda pad: random_crops(CLIPS, INDEX, 10, torch.Generator(), pad=pad),
    "index": lambda index: random_crops(CLIPS, index, 10, torch.Generator()),
    "frequency": lambda frequency: a_weighting(frequency),
    "sample_rate": lambda rate: loudness(torch.zeros(1, 1, 100), rate),
    "ratio": lambda ratio: mix(torch.zeros(1, 1, 100), torch.zeros(1, 1, 100), ratio, 8000),
    "found": lambda found: save_record(found),
    "min_peak": lambda peak: class_probabilities(torch.nn.Identity(), CLIPS, 10, min_peak=peak),
    "clips": lambda clips: wilson_interval(0, clips),
    "correct": lambda correct: wilson_interval(correct, 5),
    "confidence": lambda confidence: bootstrap_interval([0, 1], confidence=confidence),
    "seed": lambda seed: bootstrap_interval([0, 1], seed=seed),
}


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "\0", [], {}, object], ids=repr)
@pytest.mark.parametrize("name", CALLS)
def test_public_functions_refuse_by_name(tmp_path, monkeypatch, name, value):
    monkeypatch.setenv("ESC_RUNS", str(tmp_path))
    monkeypatch.setattr("tiny.RATE", 8000)
    monkeypatch.setattr("tiny.LENGTH", 32000)
    with pytest.raises(ValueError, match=rf"^(unknown )?{name} "):
        CALLS[name](value)
    assert not files_below(tmp_path)
