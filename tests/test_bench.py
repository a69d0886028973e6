"""The benchmark measures what it says: counts by hand, a clock of our own, and the README's tables from the records."""

import json
from pathlib import Path

import pytest
import tiny
import torch

import esc_lib.bench.measure
from esc_lib import load_clips
from esc_lib.bench.measure import (
    VARIANTS,
    full_batches,
    gflop_per_clip,
    in_turns,
    main,
    measure,
    our_step,
    plain_step,
    table,
)
from esc_lib.training.batches import batches

ROOT = Path(__file__).parents[1]
RECORDS = sorted((ROOT / "data" / "benchmarks").glob("*.json"))
CPU = torch.device("cpu")


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    tiny.write_set(tmp_path, tiny.tones())
    monkeypatch.setattr(esc_lib.bench, "recipe", lambda network, dataset, **changes: tiny.config(**changes))
    return tmp_path


def test_operations_of_a_step_are_those_counted_by_hand():
    first, second = 2 * 8000 * 256 * 80, 2 * 2000 * 256 * (3 * 256)  # a multiplication and an addition each
    last = 2 * 256 * 10
    # Forward, the weights' gradients, and of all but the first layer the inputs' gradients.
    assert gflop_per_clip("m3", 10) == pytest.approx((2 * first + 3 * second + 3 * last) / 1e9)


def test_calls_take_turns_and_the_median_without_the_first_round_counts(monkeypatch):
    order, seconds = [], iter([99, 99, 1, 50, 3, 20, 2, 30])
    monkeypatch.setattr(esc_lib.bench, "time_call", lambda call, device, times=1: (call(), next(seconds))[1])
    ours, others = {"a": lambda: order.append("a")}, {"b": lambda: order.append("b")}
    assert in_turns(ours, others, CPU, repeats=3) == {"a": 2, "b": 30}
    assert order == (["a"] * 4 + ["b"]) * 4, "the first calls of a round only fill the memory"


@pytest.mark.parametrize(("name", "in_a_row"), [("cpu", 1), ("cuda", 20)])
def test_ours_and_the_others_are_timed_in_the_same_way(monkeypatch, name, in_a_row):
    seen = []
    monkeypatch.setattr(esc_lib.bench, "time_call", lambda call, device, times=1: seen.append(times) or 1.0)
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
    step_of_training = esc_lib.bench.train_step

    def watched_batches(*of):
        for batch in batches(*of):
            seen.append(("batch", torch.is_autocast_enabled("cpu")))
            yield batch

    def watched_step(*of):
        seen.append(("step", torch.is_autocast_enabled("cpu")))
        return step_of_training(*of)

    monkeypatch.setattr(esc_lib.bench, "batches", watched_batches)
    monkeypatch.setattr(esc_lib.bench, "train_step", watched_step)
    settings = tiny.config(batch_size=16, precision="bfloat16", **VARIANTS["between-class"])
    our_step(settings, load_clips("synthetic", tiny.RATE, folds=(1, 2), data_dir=data_dir))()
    assert seen == [("batch", False), ("step", True)]


def test_what_is_measured(data_dir, monkeypatch):
    monkeypatch.setattr(esc_lib.bench, "time_call", lambda call, device, times=1: (call(), 2.0)[1])
    monkeypatch.setattr(esc_lib.bench, "available", lambda device: ["float32", "bfloat16"])
    monkeypatch.setattr(esc_lib.bench, "fastest_to_train", lambda config, clips: ("float32", {}))
    found = measure("tiny", batch_size=8, repeats=1, data_dir=data_dir, device="cpu")
    assert found["clips_per_second"] == found["plain_clips_per_second"] == {way: 4.0 for way in VARIANTS}
    assert found["batch_size"] == 8 and found["precision"] == "float32"
    assert set(found["matmul_gflops"]) == {"float32", "bfloat16"}
    assert found["matmul_gflops"]["float32"] == pytest.approx(2 * 2048**3 / 2 / 1e9)
    conv1, conv2 = 2 * 69 * 16 * 32, 2 * 67 * 16 * 48
    assert found["gflop_per_clip"] == pytest.approx((2 * conv1 + 3 * conv2 + 3 * 2 * 16 * 10) / 1e9)
    expected = 4.0 * found["gflop_per_clip"] / found["matmul_gflops"]["float32"]
    assert found["fraction_of_float32_matmul"] == pytest.approx(expected)
    assert found["test_clips_per_second"] == pytest.approx(16 / 2)
    assert found["compile_seconds"] is None


class Here:
    """Stands for the pool of processes, where networks of the tests are not known."""

    def __init__(self, *_, **__): ...

    def __enter__(self):
        return self

    def __exit__(self, *_): ...

    def submit(self, call, *args):
        self.result = lambda: call(*args)
        return self


def test_the_command_prints_a_table_and_writes_json(data_dir, monkeypatch, capsys):
    monkeypatch.setenv("ESC_DATA", str(data_dir))
    monkeypatch.setattr(esc_lib.bench, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(esc_lib.bench, "prepare", lambda dataset, rate: None)
    out = data_dir / "new" / "bench.json"
    monkeypatch.setattr("sys.argv", ["bench", "tiny", "--batch-size", "4", "--repeats", "1", "--out", str(out)])
    main()
    record = json.loads(out.read_text())
    assert record["torch"] == torch.__version__ and record["threads"] >= 1 and record["device"]
    (row,) = record["rows"]
    assert row["architecture"] == "tiny" and row["batch_size"] == 4
    assert min(row["clips_per_second"].values()) > 0 and row["memory_gb"] > 0.1
    assert table([row]).to_string(index=False) in capsys.readouterr().out


def test_there_is_a_record():
    assert RECORDS


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_readme_shows_the_record(path):
    readme, record = (ROOT / "README.md").read_text(), json.loads(path.read_text())
    for fact in (record["device"], record["date"], record["torch"]):
        assert fact in readme
    for values in table(record["rows"]).to_numpy().tolist():
        assert f"| {' | '.join(map(str, values))} |" in readme
