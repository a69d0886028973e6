"""Precision and compile: what computes in which numbers, what "auto" chooses, and what a run keeps of it."""

import json
import sys

import esc_lib.training.precision
import pytest
import tiny
import torch
import torch.nn.functional as F
from esc_lib.training.precision import (
    _bfloat16_is_worth_a_try,
    available,
    fastest_precision,
    precision_context,
    time_call,
)

from esc_lib import train

CPU = torch.device("cpu")
BACKENDS = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    monkeypatch.setenv("ESC_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(sys.modules["esc_lib.training.train"], "available", lambda device: ["float32", "bfloat16"])
    return tiny.write_set(tmp_path / "data", tiny.tones())


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still; a test moves it by `clock[0] += seconds`."""
    now = [0.0]
    monkeypatch.setattr(esc_lib.precision.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(esc_lib.precision, "available", lambda device: ["float32", "bfloat16"])
    return now


def made_in():
    """What a matrix product and a convolution return."""
    product = torch.ones(2, 2) @ torch.ones(2, 2)
    return {product.dtype, F.conv2d(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2)).dtype}


@pytest.mark.parametrize(
    ("precision", "dtype", "setting"),
    [("float32", torch.float32, "ieee"), ("tf32", torch.float32, "tf32"), ("bfloat16", torch.bfloat16, "ieee")],
)
def test_what_computes_in_which_numbers(precision, dtype, setting):
    before = [backend.fp32_precision for backend in BACKENDS]
    with precision_context(precision, CPU):
        assert made_in() == {dtype}
        assert {backend.fp32_precision for backend in BACKENDS} == {setting}
        assert torch.backends.cudnn.deterministic
    assert made_in() == {torch.float32}
    assert [backend.fp32_precision for backend in BACKENDS] == before
    assert not torch.backends.cudnn.deterministic


def test_everything_is_as_before_after_an_error():
    before = [backend.fp32_precision for backend in BACKENDS]
    with pytest.raises(KeyError), precision_context("tf32", CPU):
        raise KeyError
    assert [backend.fp32_precision for backend in BACKENDS] == before
    assert not torch.is_autocast_enabled("cpu")
    assert not torch.backends.cudnn.deterministic


@pytest.mark.parametrize(("name", "order"), [("cuda", "wait step step wait"), ("cpu", "step step")])
def test_a_step_takes_from_an_idle_device_to_an_idle_device(clock, monkeypatch, name, order):
    calls = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append("wait"))

    def step():
        calls.append("step")
        clock[0] += 3

    assert time_call(step, torch.device(name), times=2) == 3
    assert calls == order.split()


def test_tf32_is_a_matter_of_gpus():
    assert "tf32" not in available(CPU)
    assert "tf32" in available(torch.device("cuda"))


@pytest.mark.parametrize(("ratio", "expected"), [(3, ["float32", "bfloat16"]), (40, ["float32"])])
def test_bfloat16_is_not_tried_where_a_processor_only_pretends(monkeypatch, ratio, expected):
    seconds = iter([1, 1, 1, ratio, ratio, ratio])
    monkeypatch.setattr(esc_lib.precision, "time_call", lambda call, device: (call(), next(seconds))[1])
    _bfloat16_is_worth_a_try.cache_clear()
    assert available(CPU) == expected
    _bfloat16_is_worth_a_try.cache_clear()


@pytest.mark.parametrize(("of_bfloat16", "expected"), [(1.0, "bfloat16"), (3.0, "float32")])
def test_the_fastest_is_chosen_whatever_the_first_call_takes(clock, of_bfloat16, expected):
    calls = []

    def step():
        short = torch.is_autocast_enabled("cpu")
        clock[0] += 100 if not calls else of_bfloat16 if short else 2.0
        calls.append(short)

    assert fastest_precision(step, CPU) == (expected, {"float32": 2.0, "bfloat16": of_bfloat16})
    assert calls == [False, False, True, False, True]


def test_a_hopeless_precision_is_called_once(clock):
    calls = []

    def step():
        calls.append(torch.is_autocast_enabled("cpu"))
        clock[0] += 10 if calls[-1] else 1

    assert fastest_precision(step, CPU) == ("float32", {"float32": 1.0, "bfloat16": 10.0})
    assert calls == [False, False, True, False]


def test_bfloat16_learns_with_float32_weights_and_other_rounding(data_dir):
    runs = {
        p: train(tiny.config(precision=p, epochs=6), data_dir=data_dir, device="cpu") for p in ("float32", "bfloat16")
    }
    losses = {precision: list(run.history["loss"].values()) for precision, run in runs.items()}
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"][-1] < 0.8 * losses["bfloat16"][0]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.1)
    assert {value.dtype for value in runs["bfloat16"].model().parameters()} == {torch.float32}


def test_auto_writes_down_what_it_chose_and_changes_nothing_else(data_dir, monkeypatch, capsys):
    def bfloat16_is_faster(step, device):
        step()
        return "bfloat16", {"float32": 0.4, "bfloat16": 0.1}

    monkeypatch.setattr(sys.modules["esc_lib.training.train"], "fastest_precision", bfloat16_is_faster)
    run = train(tiny.config(precision="auto"), data_dir=data_dir, device="cpu")
    assert json.loads((run.path / "config.json").read_text())["precision"] == "bfloat16"
    assert "bfloat16 (milliseconds a step: float32 400, bfloat16 100)" in capsys.readouterr().err
    assert run.history == train(tiny.config(precision="bfloat16"), data_dir=data_dir, device="cpu").history


def test_auto_does_not_train_where_nothing_is_to_be_chosen(data_dir, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["esc_lib.training.train"], "available", lambda device: ["float32"])
    monkeypatch.setattr(
        sys.modules["esc_lib.training.train"], "fastest_precision", lambda step, device: pytest.fail("it trains")
    )
    assert train(tiny.config(precision="auto"), data_dir=data_dir, device="cpu").config.precision == "float32"
    assert "precision: float32 (this processor does not multiply shorter" in capsys.readouterr().err


def test_auto_goes_on_with_what_the_run_began_with(data_dir, monkeypatch):
    monkeypatch.setattr(
        sys.modules["esc_lib.training.train"], "fastest_precision", lambda step, device: ("bfloat16", {})
    )
    first = train(tiny.config(precision="auto"), data_dir=data_dir, device="cpu", run_dir="mine")
    monkeypatch.setattr(
        sys.modules["esc_lib.training.train"], "fastest_precision", lambda step, device: ("float32", {})
    )
    again = train(tiny.config(precision="auto"), data_dir=data_dir, device="cpu", run_dir="mine")
    assert again.config == first.config


def test_tf32_is_refused_on_a_processor(data_dir, tmp_path):
    with pytest.raises(ValueError, match="tf32.*bfloat16"):
        train(tiny.config(precision="tf32"), data_dir=data_dir, device="cpu")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "float16"}, "precision is 'float16': expected one of auto, float32, tf32, bfloat16"),
        ({"compile": False}, "compile is False: expected one of off, on .in YAML with quotes"),
    ],
)
def test_other_values_are_refused_by_name(monkeypatch, changes, message):
    tiny.register(monkeypatch)
    with pytest.raises(ValueError, match=message):
        tiny.config(**changes)


def test_compile_trains_the_same_weights_through_the_compiled_network(data_dir, monkeypatch):
    seen = []

    def compiled(model):
        def forward(x):
            seen.append(len(x))
            return model(x)

        return forward

    plain = train(tiny.config(), data_dir=data_dir, device="cpu")
    monkeypatch.setattr(torch, "compile", compiled)
    run = train(tiny.config(compile="on"), data_dir=data_dir, device="cpu")
    assert sum(seen) == run.config.epochs * len(tiny.tones((1, 2)))
    assert run.history == plain.history
    assert torch.equal(run.model().fc.weight, plain.model().fc.weight)
