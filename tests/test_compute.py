"""What computes: number formats and what "auto" chooses, compilation, memory, and how a record names the machine."""

import ctypes
import platform
import shutil
import subprocess
import sys
import time

import pytest
import tiny
import torch
import torch.nn.functional as F

from esc_lib import load_run, train
from esc_lib.training.compute import (
    auto_precision,
    available_precisions,
    commit,
    hardware,
    precision_context,
    retain_freed_memory,
    time_call,
    to_device,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda")
BACKENDS = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
ALL = ["float32", "tf32", "bfloat16"]


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    monkeypatch.setenv("ESC_RUNS", str(tmp_path / "runs"))
    return tiny.write_set(tmp_path / "data", tiny.tones())


def settings_of_backends():
    return [backend.fp32_precision for backend in BACKENDS], torch.backends.cudnn.deterministic


def made_in():
    """What a matrix product and a convolution return."""
    product = torch.ones(2, 2) @ torch.ones(2, 2)
    return {product.dtype, F.conv2d(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2)).dtype}


# Number formats -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "dtype", "setting"),
    [("float32", torch.float32, "ieee"), ("tf32", torch.float32, "tf32"), ("bfloat16", torch.bfloat16, "ieee")],
)
def test_what_computes_in_which_numbers_until_the_block_ends_even_with_an_error(precision, dtype, setting):
    before = settings_of_backends()
    with pytest.raises(KeyError), precision_context(precision, CPU):
        assert made_in() == {dtype}
        assert settings_of_backends() == ([setting] * 2, True)
        raise KeyError
    assert made_in() == {torch.float32}
    assert settings_of_backends() == before and not before[1]


@pytest.mark.parametrize(
    ("device", "circuits", "expected"),
    [
        (CPU, {}, ["float32"]),
        (CPU, {"avx512_bf16": False, "amx_bf16": False, "avx512_f": True}, ["float32"]),
        (CPU, {"avx512_bf16": True, "amx_bf16": False}, ["float32", "bfloat16"]),
        (CPU, {"avx512_bf16": False, "amx_bf16": True}, ["float32", "bfloat16"]),
        (GPU, (7, 5), ["float32"]),
        (GPU, (8, 0), ALL),
        (GPU, (12, 0), ALL),
    ],
)
def test_a_device_has_the_precisions_of_its_circuits_and_auto_is_the_fastest(monkeypatch, device, circuits, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: circuits)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda of: circuits)
    assert available_precisions(device) == expected
    assert auto_precision(device) == expected[-1]


def test_bfloat16_learns_with_float32_weights_and_other_rounding(data_dir):
    runs = {
        p: train(tiny.config(precision=p, epochs=6), data_dir=data_dir, device="cpu") for p in ("float32", "bfloat16")
    }
    losses = {precision: list(run.history["loss"].values()) for precision, run in runs.items()}
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"][-1] < 0.8 * losses["bfloat16"][0]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.1)
    assert {value.dtype for value in runs["bfloat16"].model().parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("precision", "circuits", "said"),
    [("bfloat16", {}, True), ("bfloat16", {"avx512_bf16": True}, False), ("float32", {}, False), ("auto", {}, False)],
)
def test_a_training_in_imitated_bfloat16_says_so(data_dir, monkeypatch, capsys, precision, circuits, said):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: circuits)
    train(tiny.config(precision=precision, epochs=1), data_dir=data_dir, device="cpu")
    assert ("bfloat16 is only imitated" in capsys.readouterr().err) == said


def test_auto_is_replaced_by_the_rule_or_by_what_the_run_began_with(data_dir, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    run = train(tiny.config(precision="auto"), data_dir=data_dir, device="cpu", run_dir="mine")
    assert run.config == load_run(run.path).config == tiny.config(precision="bfloat16")
    assert run.history == train(run.config, data_dir=data_dir, device="cpu").history
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    again = train(tiny.config(precision="auto"), data_dir=data_dir, device="cpu", run_dir="mine")
    assert again.config == run.config
    # A stray file in the folder of runs is no run that this one resumes.
    (run.path.parent / "config.json").write_bytes((run.path / "config.json").read_bytes())
    other = train(tiny.config(precision="auto", epochs=1), data_dir=data_dir, device="cpu")
    assert other.config.precision == "float32"


def test_tf32_is_refused_on_a_processor(data_dir, tmp_path):
    with pytest.raises(ValueError, match="tf32.*bfloat16"):
        train(tiny.config(precision="tf32"), data_dir=data_dir, device="cpu")
    assert not (tmp_path / "runs").exists()


def test_compile_trains_the_same_weights_through_the_compiled_network(data_dir, monkeypatch):
    seen = []

    def compiled(model):
        def forward(x):
            seen.append(len(x))
            return model(x)

        return forward

    plain = train(tiny.config(), data_dir=data_dir, device="cpu")
    monkeypatch.setattr(torch, "compile", compiled)
    run = train(tiny.config(compile=True), data_dir=data_dir, device="cpu")
    assert sum(seen) == run.config.epochs * len(tiny.tones((1, 2)))
    assert run.history == plain.history
    assert torch.equal(run.model().fc.weight, plain.model().fc.weight)


def test_a_network_that_computes_is_accelerated_and_has_its_channels_last():
    model = to_device(tiny.TinyNet(10), CPU)
    assert "forward" in vars(model.conv2)
    assert model.conv2[0].weight.is_contiguous(memory_format=torch.channels_last)


# Time and memory ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("device", "order"), [(GPU, "wait step step wait"), (CPU, "step step")])
def test_a_call_takes_from_an_idle_device_to_an_idle_device(monkeypatch, device, order):
    calls, now = [], [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append("wait"))

    def step():
        calls.append("step")
        now[0] += 3

    assert time_call(step, device, times=2) == 3
    assert calls == order.split()


# Pages that the system has to clear for a tensor of 64 MB, which has 16,384, in a process that did nothing else before.
# Behind the block the first one shows whether the memory was given back. It may lie in a hole of the heap, under some
# small block, and stay there; so whether memory is given back at once again is asked with tensors that fit in no hole.
COUNT_FAULTS = """
import resource, torch
from contextlib import suppress
from esc_lib.training.compute import retain_freed_memory

def faults(megabytes=64):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(megabytes * 2**18).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
with suppress(KeyError), retain_freed_memory():
    faults()
    print(min(faults() for _ in range(4)))  # a small block may have taken the place of one
    raise KeyError
print(faults())
faults(256)
print(faults(256))
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep memory"
)
def test_memory_is_kept_inside_and_given_back_behind_also_after_an_error():
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True)
    outside, inside, first_behind, behind = map(int, done.stdout.split())
    assert outside > 8000 and inside < 1000 and first_behind > 8000 and behind > 32000


@pytest.mark.parametrize("error", [OSError, TypeError])
def test_other_systems_do_without(monkeypatch, error):
    def no_library(_):
        raise error("no such library")

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    with retain_freed_memory():
        pass


# For records ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_the_clone_and_of_no_folder_above(tmp_path, monkeypatch):
    def git(*command):
        done = subprocess.run(["git", *command], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert commit(tmp_path) == ""
    git("init")
    assert commit(tmp_path) == "", "nothing is committed yet"
    git("-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "--allow-empty", "--no-gpg-sign", "-m", "first")
    assert commit(tmp_path) == git("log", "-1", "--format=%H") != ""
    (tmp_path / "copy").mkdir()
    assert commit(tmp_path / "copy") == ""


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 10)])
def test_without_git_there_is_no_commit(tmp_path, monkeypatch, error):
    def fails(*_, **__):
        raise error

    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(subprocess, "run", fails)
    assert commit(tmp_path) == ""


def test_the_processor_and_its_threads():
    found = hardware(CPU)
    assert found["threads"] == torch.get_num_threads() and found["torch"] == torch.__version__
    assert found["device"] and found["instructions"] and found["commit"] == commit()
