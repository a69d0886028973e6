"""The benchmark measures what it says: counts by hand, a clock of our own, and docs/speed.md from the records."""

import importlib
import json
import sys
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch

from esc_lib import load_clips
from esc_lib.bench import benchmark_table, matmul_size, measure
from esc_lib.bench.measure import (
    VARIANTS,
    WARMUP_STEPS,
    full_batches,
    gflop_per_clip,
    in_turns,
    our_step,
    peak_memory,
    plain_step,
)
from esc_lib.training.batches import batches
from esc_lib.training.recipes import recipe

BENCH = sys.modules["esc_lib.bench.measure"]  # whose name is a function's too
ROOT = Path(__file__).parents[1]
RECORDS = sorted((ROOT / "data" / "benchmarks").glob("*.json"))
CPU = torch.device("cpu")


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    tiny.write_set(tmp_path, tiny.tones())
    monkeypatch.setattr(BENCH, "recipe", lambda network, dataset, **changes: tiny.config(**changes))
    return tmp_path


def test_operations_of_a_step_are_those_counted_by_hand():
    first, second = 2 * 8000 * 256 * 80, 2 * 2000 * 256 * (3 * 256)  # a multiplication and an addition each
    last = 2 * 256 * 10
    # Forward, the weights' gradients, and of all but the first layer the inputs' gradients.
    assert gflop_per_clip("m3", 10) == pytest.approx((2 * first + 3 * second + 3 * last) / 1e9)


def test_calls_take_turns_and_the_median_without_the_first_round_counts(monkeypatch):
    order, seconds = [], iter([99, 99, 1, 50, 3, 20, 2, 30])
    monkeypatch.setattr(BENCH, "time_call", lambda call, device, times=1: (call(), next(seconds))[1])
    ours, others = {"a": lambda: order.append("a")}, {"b": lambda: order.append("b")}
    assert in_turns(ours, others, CPU, repeats=3) == {"a": 2, "b": 30}
    assert order == (["a"] * (WARMUP_STEPS + 1) + ["b"]) * 4, "the first calls of a round only fill the memory"


@pytest.mark.parametrize(("name", "in_a_row"), [("cpu", 1), ("cuda", 20)])
def test_ours_and_the_others_are_timed_in_the_same_way(monkeypatch, name, in_a_row):
    seen = []
    monkeypatch.setattr(BENCH, "time_call", lambda call, device, times=1: seen.append(times) or 1.0)
    in_turns({"ours": int}, {"plain": int}, torch.device(name), repeats=1)
    assert seen == [in_a_row] * 4


def test_batches_are_full_also_where_epochs_end(data_dir):
    pieces = lambda: iter([(torch.arange(3), torch.arange(3)), (torch.arange(2), torch.arange(2))])  # noqa: E731
    shown = full_batches(pieces, 4)
    assert [next(shown)[0].tolist() for _ in range(3)] == [[0, 1, 2, 0], [0, 1, 2, 0], [0, 1, 2, 0]]
    large = full_batches(pieces, 8)
    assert len(next(large)[0]) == 8


@pytest.mark.parametrize("step_of", [our_step, plain_step])
@pytest.mark.parametrize("way", VARIANTS)
def test_steps_learn(data_dir, step_of, way):
    torch.manual_seed(0)
    clips = load_clips("synthetic", tiny.RATE, folds=(1, 2), data_dir=data_dir)
    step = step_of(tiny.config(batch_size=16, learning_rate=0.02, **VARIANTS[way]), clips)
    losses = [float(step()[0]) for _ in range(40)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_steps_are_those_of_a_training(data_dir, monkeypatch):
    """Batches in full accuracy, the rest as the settings say."""
    seen = []
    step_of_training = BENCH.train_step

    def watched_batches(*of):
        for batch in batches(*of):
            seen.append(("batch", torch.is_autocast_enabled("cpu")))
            yield batch

    def watched_step(*of):
        seen.append(("step", torch.is_autocast_enabled("cpu")))
        return step_of_training(*of)

    monkeypatch.setattr(BENCH, "batches", watched_batches)
    monkeypatch.setattr(BENCH, "train_step", watched_step)
    settings = tiny.config(batch_size=16, precision="bfloat16", **VARIANTS["between-class"])
    our_step(settings, load_clips("synthetic", tiny.RATE, folds=(1, 2), data_dir=data_dir))()
    assert seen == [("batch", False), ("step", True)]


def test_what_is_measured(data_dir, monkeypatch):
    """With bfloat16 twice as fast as everything else, and "auto" for it."""
    used, compiled, context = [], [], BENCH.precision_context

    def timed(call, device, times=1):
        used.clear()
        call()
        return 1.0 if "bfloat16" in used else 2.0

    monkeypatch.setattr(BENCH, "precision_context", lambda *of: used.append(of[0]) or context(*of))
    monkeypatch.setattr(BENCH, "time_call", timed)
    monkeypatch.setattr(BENCH, "available_precisions", lambda device: ["float32", "bfloat16"])
    monkeypatch.setattr(BENCH, "auto_precision", lambda device: "bfloat16")
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    found = measure("tiny", batch_size=8, repeats=1, compiled=True, data_dir=data_dir, device="cpu")
    assert found["batch_size"] == 8 and found["precision"] == "bfloat16"
    assert found["clips_per_second"] == dict.fromkeys([*VARIANTS, "compiled"], 8.0)
    assert found["plain_clips_per_second"] == dict.fromkeys(VARIANTS, 4.0)
    assert found["precision_clips_per_second"] == {"float32": 4.0, "bfloat16": 8.0}
    product = 2 * matmul_size(torch.device("cpu")) ** 3 / 1e9
    assert found["matmul_gflops"] == {"float32": pytest.approx(product / 2), "bfloat16": pytest.approx(product)}
    conv1, conv2 = 2 * 69 * 16 * 32, 2 * 67 * 16 * 48
    assert found["gflop_per_clip"] == pytest.approx((2 * conv1 + 3 * conv2 + 3 * 2 * 16 * 10) / 1e9)
    assert found["fraction_of_float32_matmul"] == pytest.approx(8 * found["gflop_per_clip"] / (product / 2))
    assert found["test_clips_per_second"] == pytest.approx(16 / 2)
    assert found["compile_seconds"] == 1.0 and len(compiled) == 1
    found = measure("tiny", batch_size=8, repeats=1, data_dir=data_dir, device="cpu")
    assert found["compile_seconds"] is None and set(found["clips_per_second"]) == set(VARIANTS)


class Here:
    """Stands for the pool of processes, where networks of the tests are not known."""

    def __init__(self, *_, **__): ...

    def __enter__(self):
        return self

    def __exit__(self, *_): ...

    def submit(self, call):
        self.result = call
        return self


def test_the_command_prints_a_table_and_writes_json(data_dir, monkeypatch, capsys):
    monkeypatch.setenv("ESC_DATA", str(data_dir))
    command = importlib.import_module("esc_lib.bench.__main__")
    monkeypatch.setattr(command, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(command, "prepare", lambda dataset, rate: None)
    out = data_dir / "new" / "bench.json"
    monkeypatch.setattr("sys.argv", ["bench", "tiny", "--batch-size", "4", "--repeats", "1", "--out", str(out)])
    command.main()
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["torch"] == torch.__version__ and record["threads"] >= 1 and record["device"]
    (row,) = record["rows"]
    assert row["architecture"] == "tiny" and row["batch_size"] == 4
    assert min(row["clips_per_second"].values()) > 0 and row["memory_gb"] > 0.1
    assert benchmark_table([row]).to_string(index=False) in capsys.readouterr().out


def test_the_speedrun_trains_every_fold_anew_and_keeps_a_record_if_asked(tmp_path, monkeypatch, capsys):
    command = importlib.import_module("esc_lib.bench.speedrun")
    records = sys.modules["esc_lib.results.records"]
    monkeypatch.setattr(tiny, "RATE", 8000)
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    monkeypatch.setenv("ESC_DATA", str(tiny.write_set(tmp_path / "data", tiny.tones((1, 2, 3, 4, 5), per_class=1))))
    monkeypatch.setenv("ESC_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(command, "prepare", lambda dataset, rate: None)
    small = partial(recipe, dataset="synthetic", kind="fast", crop_samples=400, batch_size=11, crops=2, epochs=1)
    asked = []
    monkeypatch.setattr(command, "recipe", lambda *names, **settings: asked.append((names, settings)) or small("m3"))
    monkeypatch.setattr("sys.argv", ["speedrun", "m3", "--epochs", "2", "--save"])
    command.main()
    (names, settings), printed = asked[0], capsys.readouterr().out
    assert names == ("m3", "esc10") and settings["kind"] == "fast" and settings["epochs"] == 2
    (record,) = (tmp_path / "results").glob("m3-synthetic-*.json")
    found = records.load_record(record.stem)
    assert sorted(found.runs["fold"]) == [1, 2, 3, 4, 5] and found.runs["processor_minutes"].notna().all()
    assert f"m3: {found.runs['accuracy'].mean():.1%} in " in printed and record.name in printed
    assert not list((tmp_path / "runs").iterdir()), "its runs are not kept"
    monkeypatch.setattr("sys.argv", ["speedrun", "logmel_cnn"])
    command.main()
    (names, settings), printed = asked[1], capsys.readouterr().out
    assert names == ("logmel_cnn", "esc10") and "epochs" not in settings, "as many as its recipe has"
    assert "kept" not in printed
    record.write_text(record.read_text(encoding="utf-8").replace('"seed": 0', '"seed": 1'), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["speedrun", "m3", "--save"])
    with pytest.raises(ValueError, match=f"{record.name} is kept: it has runs that these results lack"):
        command.main()
    assert "m3: " in capsys.readouterr().out, "what was found is shown before it is refused"


@pytest.mark.skipif(sys.platform != "linux", reason="counted on Linux alone")
def test_peak_memory_is_what_the_system_counts():
    (line,) = [line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if "VmHWM" in line]
    assert peak_memory(torch.device("cpu")) == pytest.approx(int(line.split()[1]) * 1024 / 1e9, rel=0.01)


def test_there_is_a_record():
    assert RECORDS


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_page_on_speed_shows_the_record(path):
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    record = json.loads(path.read_text(encoding="utf-8"))
    for fact in (record["device"], record["date"], record["torch"]):
        assert fact in page
    for values in benchmark_table(record["rows"]).to_numpy().tolist():
        assert f"| {' | '.join(map(str, values))} |" in page
