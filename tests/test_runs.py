"""Run directories: their files, atomic writes, and that damaged or malicious files are refused."""

import errno
import hashlib
import importlib
import io
import json
import os
import pickle
import random
import re
import reprlib
import shutil
import time
from functools import partial

import pytest
import torch
from disk import largest_file
from tiny import TinyNet, config, files_below, network, new_run, register, tones, write_set

from esc_lib import evaluate, load_run, train
from esc_lib.files import WriteError
from esc_lib.paths import runs_folder
from esc_lib.training import list_runs
from esc_lib.training.runs import HISTORY_KEYS

runs_module = importlib.import_module("esc_lib.training.runs")


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    register(monkeypatch)


@pytest.fixture
def run(tmp_path):
    return new_run(config(), tmp_path)


def net(seed=0, n_classes=10):
    """A network whose batch norms hold statistics, in channels_last as in training."""
    torch.manual_seed(seed)
    model = TinyNet(n_classes).to(memory_format=torch.channels_last)
    model(torch.randn(8, 1, 100))
    return model


def filled(folder, accuracies=(0.5, 0.25), **changes):
    """A run with a checkpoint of each accuracy, at epochs 1, 2, ..."""
    run = new_run(config(**{"epochs": max(2, len(accuracies)), **changes}), folder)
    for epoch, acc in enumerate(accuracies, start=1):
        run.save_checkpoint(net(epoch), epoch, acc)
    return run


# --- the files ---


def test_the_files_of_a_finished_run(tmp_path):
    write_set(tmp_path, tones(per_class=1))
    run = train(config(epochs=3, keep_n=3), data_dir=tmp_path, save_dir=tmp_path / "runs", device="cpu")
    assert run.path.parent == tmp_path / "runs"
    assert run.path.name.startswith("tiny-synthetic-")
    names = [f"epoch-{epoch:04d}" for epoch in (1, 2, 3)]
    assert files_below(run.path) == {
        "config.json", "history.json", "checkpoints.json", "sessions.json", "losses.png", "accuracies.png", ".lock",
        *(f"{name}/{name}.model" for name in names),
    }  # fmt: skip
    settings = json.loads((run.path / "config.json").read_text(encoding="utf-8"))
    assert settings == {**run.config.to_dict(), "train_folds": [1, 2], "eval_folds": [3]}
    (session,) = json.loads((run.path / "sessions.json").read_text(encoding="utf-8"))
    assert (session["from_epoch"], session["to_epoch"]) == (1, 3) and session["seconds"] >= 0
    assert session["device"] and session["threads"] >= 1 and load_run(run.path).sessions == [session]
    history = json.loads((run.path / "history.json").read_text(encoding="utf-8"))
    assert set(history) == {"loss", "acc", "lr", "eval_loss", "eval_acc"}
    assert all(list(values) == ["1", "2", "3"] for values in history.values())
    checkpoints = json.loads((run.path / "checkpoints.json").read_text(encoding="utf-8"))
    assert list(checkpoints) == sorted(names, key=lambda name: -checkpoints[name]["eval_acc"])
    assert all(set(entry) == {"name", "epoch", "eval_acc", "sha256"} for entry in checkpoints.values())
    assert all(entry["name"] == name for name, entry in checkpoints.items())
    for name in ("losses.png", "accuracies.png"):
        assert (run.path / name).read_bytes().startswith(b"\x89PNG")
    for name in ("config.json", "history.json", "checkpoints.json"):
        text = (run.path / name).read_text(encoding="utf-8")
        assert "/" not in text and "\\" not in text, f"{name} must hold no path of this machine"


def test_a_new_run_is_readable_at_once(run):
    again = load_run(run.path)
    assert again == run
    assert again.history == {key: {} for key in HISTORY_KEYS}
    with pytest.raises(ValueError, match="holds no checkpoint"):
        again.model()


def test_two_runs_started_in_the_same_second_get_two_directories(tmp_path):
    assert new_run(config(), tmp_path).path != new_run(config(), tmp_path).path


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_others_may_read_a_run(run):
    assert run.path.stat().st_mode & 0o777 == 0o755


# --- which checkpoints are kept ---


def kept_after(folder, accuracies, keep_n):
    run = filled(folder, accuracies, keep_n=keep_n)
    on_disk = json.loads((run.path / "checkpoints.json").read_text(encoding="utf-8"))
    assert list(on_disk.items()) == list(run.checkpoints.items())
    models = {name for name in files_below(run.path) if name.endswith(".model")}
    assert models == {f"{name}/{name}.model" for name in on_disk}
    return [entry["epoch"] for entry in on_disk.values()]


@pytest.mark.parametrize(
    ("accuracies", "keep_n", "epochs"),
    [
        ([0.1], 1, [1]),
        ([0.1, 0.2], 1, [2]),  # the last is the best: one file does for both
        ([0.2, 0.1], 1, [1, 2]),
        ([0.2, 0.3, 0.1], 1, [2, 3]),
        ([0.2, 0.3, 0.1, 0.25], 2, [2, 4]),
        ([0.2, 0.3, 0.1, 0.15], 2, [2, 1, 4]),
        ([0.5, 0.5, 0.5], 1, [1, 3]),  # of equals the older comes first
        ([0.5, 0.5, 0.5, 0.5], 2, [1, 2, 4]),
        ([0.1, 0.9, 0.5], 9, [2, 3, 1]),
    ],
)
def test_the_best_and_the_last_are_kept_best_first(tmp_path, accuracies, keep_n, epochs):
    assert kept_after(tmp_path, accuracies, keep_n) == epochs


def test_last_best_and_names(tmp_path):
    run = filled(tmp_path, [0.2, 0.9, 0.4, 0.6], keep_n=3)
    assert run.checkpoint()["epoch"] == run.checkpoint("last")["epoch"] == 4
    best = hashlib.sha256((run.path / "epoch-0002/epoch-0002.model").read_bytes()).hexdigest()
    assert run.checkpoint("best") == {"name": "epoch-0002", "epoch": 2, "eval_acc": 0.9, "sha256": best}
    assert run.checkpoint("epoch-0003")["epoch"] == 3
    for which, seed in [("last", 4), ("best", 2), ("epoch-0003", 3)]:
        assert torch.equal(load_run(run.path).model(which).fc.weight, net(seed).fc.weight), which
    for look in (run.checkpoint, run.model):
        with pytest.raises(ValueError, match="'epoch-0001'.*last, best, epoch-0002, epoch-0004, epoch-0003"):
            look("epoch-0001")


# --- atomic writes ---


def test_the_new_checkpoint_is_complete_and_listed_before_an_old_one_is_deleted(tmp_path, monkeypatch):
    run = filled(tmp_path, [0.3])
    seen = []

    def killed(folder):
        seen.append(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(runs_module.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        run.save_checkpoint(net(2), 2, 0.6)
    assert seen == [run.path / "epoch-0001"]
    again = load_run(run.path)
    assert list(again.checkpoints) == ["epoch-0002"]
    assert torch.equal(again.model().fc.weight, net(2).fc.weight)


@pytest.mark.parametrize("breaks", ["the checkpoint", "its entry"])
def test_until_the_new_checkpoint_is_listed_the_old_one_is_used(tmp_path, monkeypatch, breaks):
    run = filled(tmp_path, [0.3])
    write = runs_module.atomic_write

    def fails(path, writer):
        if path.suffix == (".model" if breaks == "the checkpoint" else ".json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, writer)

    for module in (runs_module, importlib.import_module("esc_lib.files")):
        monkeypatch.setattr(module, "atomic_write", fails)
    with pytest.raises(OSError):
        run.save_checkpoint(net(2), 2, 0.6)
    again = load_run(run.path)
    assert list(again.checkpoints) == ["epoch-0001"]
    assert torch.equal(again.model().fc.weight, net(1).fc.weight)


@pytest.mark.parametrize("room", [0, 1000, 100_000])
def test_a_disk_that_fills_up_within_a_checkpoint_is_reported(tmp_path, room):
    # Of a large tensor, torch.save turns the file's own OSError into a RuntimeError about its archive.
    run, model = filled(tmp_path, [0.3]), torch.nn.Linear(1000, 100)
    with largest_file(room), pytest.raises(OSError, match=r"epoch-0002\.model cannot be written"):
        run.save_checkpoint(model, 2, 0.6)
    again = load_run(run.path)
    assert list(again.checkpoints) == ["epoch-0001"]
    assert torch.equal(again.model().fc.weight, net(1).fc.weight)
    assert not [name for name in files_below(tmp_path) if name.endswith(".part")]


# --- checkpoints ---


def test_a_checkpoint_is_plain_contiguous_tensors(tmp_path):
    run = filled(tmp_path, [0.5])
    state = torch.load(run.path / "epoch-0001/epoch-0001.model", weights_only=True)
    assert type(state) is dict
    assert list(state) == list(net().state_dict())
    for key, value in state.items():
        assert type(value) is torch.Tensor, key
        assert value.is_contiguous() and value.device.type == "cpu" and not value.requires_grad, key
        assert torch.equal(value, net(1).state_dict()[key]), key


def test_a_loaded_network_is_in_eval_mode_and_gives_the_same_output(tmp_path):
    trained = net(1)
    run = filled(tmp_path, [0.5])
    model = load_run(run.path).model()
    assert not any(module.training for module in model.modules())
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
    x = torch.randn(4, 1, 100)
    torch.testing.assert_close(model(x), trained.eval()(x), rtol=1e-5, atol=1e-6)
    again = model.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in trained.state_dict().items())


class Trap:
    """An object whose unpickling makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["torch.save", "pickle", "beside the tensors"])
def test_a_checkpoint_that_holds_code_is_refused_and_the_code_does_not_run(tmp_path, how):
    run, sprung = filled(tmp_path, [0.5]), tmp_path / "sprung"
    file = run.path / "epoch-0001/epoch-0001.model"
    content = {**net(1).state_dict(), "more": Trap(sprung)} if how == "beside the tensors" else Trap(sprung)
    if how == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file)
    with pytest.raises(ValueError, match=re.escape(str(file))):
        load_run(run.path).model()
    assert not sprung.exists()
    if how != "pickle":  # the trap itself works
        torch.load(file, weights_only=False)
        assert sprung.exists()


def saved(content):
    """The bytes that `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


STATE = net(1).state_dict()
NO_CHECKPOINT = {
    "nothing": b"",
    "first kilobyte": saved(STATE)[:1000],
    "all but the end": saved(STATE)[:-10],
    "a text": b"hello world\n",
    "a web page": b"<!DOCTYPE html><html><head><title>404</title>",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "zeros": bytes(5000),
    "None": saved(None),
    "a list": saved([1]),
    "a tensor": saved(torch.zeros(3)),
    "a nested dict": saved({"a": {"b": 1}}),
    "a number as key": saved({1: torch.zeros(1)}),
    "another network": saved(network(lambda self, x: self.bias)(10).state_dict()),
    "more classes": saved(net(1, n_classes=50).state_dict()),
    "a missing key": saved({key: value for key, value in STATE.items() if key != "fc.bias"}),
    "an extra key": saved({**STATE, "fc2.bias": STATE["fc.bias"]}),
    # The unpickler fails on noise in many ways.
    "noise": [random.Random(seed).randbytes(40) for seed in range(100)],
}


@pytest.mark.parametrize("content", NO_CHECKPOINT.values(), ids=NO_CHECKPOINT)
def test_a_file_that_is_not_a_checkpoint_of_the_network_is_refused(tmp_path, content):
    run = filled(tmp_path, [0.5])
    del run.checkpoints["epoch-0001"]["sha256"]  # as in older runs
    file = run.path / "epoch-0001/epoch-0001.model"
    for variant in [content] if isinstance(content, bytes) else content:
        file.write_bytes(variant)
        with pytest.raises(ValueError, match=f"{re.escape(str(file))} is not a checkpoint of tiny"):
            run.model()


def test_a_missing_checkpoint_is_reported(tmp_path):
    run = filled(tmp_path, [0.5])
    shutil.rmtree(run.path / "epoch-0001")
    with pytest.raises(FileNotFoundError, match=r"epoch-0001\.model is missing"):
        load_run(run.path).model()


# --- nothing in a run directory leads out of it ---

OUTSIDE = ["..", ".", "", "/", "epoch-0001/../..", "..\\..", "epoch-0001\n", "epoch-1", "eval", "con", "epoch-00001"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_checkpoint_of_any_other_name_is_refused_and_nothing_is_deleted(tmp_path, name):
    run = filled(tmp_path / "runs", [0.5])
    before = files_below(tmp_path)
    for key, entry_name in ((name, name), ("epoch-0001", name), (name, "epoch-0001")):
        entry = {"name": entry_name, "epoch": 1, "eval_acc": 0.1}
        (run.path / "checkpoints.json").write_text(json.dumps({key: entry}), encoding="utf-8")
        with pytest.raises(ValueError, match=r"checkpoints\.json holds .*which no training writes: restore it"):
            load_run(run.path)
        assert files_below(tmp_path) == before


def test_a_link_in_a_run_directory_is_not_written_through(tmp_path):
    write_set(tmp_path / "data", tones(per_class=1))
    mine = tmp_path / "runs" / "mine"
    mine.mkdir(parents=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("dark and stormy", encoding="utf-8")
    names = [".pid", "history.json", "checkpoints.json", "sessions.json"]
    names += [f".{name}.part" for name in names]
    try:
        for name in names:
            (mine / name).symlink_to(tmp_path / "thesis" / "chapter")
    except OSError:
        pytest.skip("no links here")
    train_mine = partial(train, data_dir=tmp_path / "data", save_dir=tmp_path / "runs", run_dir="mine", device="cpu")
    train_mine(config(keep_n=2))
    for name in ("eval-epoch-0001", "epoch-0002"):
        shutil.rmtree(mine / name, ignore_errors=True)
        (mine / name).symlink_to(tmp_path / "thesis", target_is_directory=True)
    with pytest.raises(WriteError, match="eval-epoch-0001 cannot be written .it is a link"):
        evaluate(mine, "epoch-0001", data_dir=tmp_path / "data", device="cpu")
    with pytest.raises(WriteError, match="epoch-0002 cannot be written .it is a link"):
        load_run(mine).save_checkpoint(net(), 2, 0.5)
    (mine / ".lock").unlink()
    (mine / ".lock").symlink_to(tmp_path / "thesis" / "chapter")
    with pytest.raises(WriteError, match=r"\.lock cannot be written .it is a link"):
        train_mine(config(keep_n=2))
    assert files_below(tmp_path / "thesis") == {"chapter"}
    assert (tmp_path / "thesis" / "chapter").read_text(encoding="utf-8") == "dark and stormy"


# --- reading a run directory ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"save": "../elsewhere"}, "'save'"),
        ({"epochs": None}, "lacks epochs"),
        ({"architecture": "resnet"}, "'resnet'.*envnet"),
    ],
    ids=["unknown key", "missing key", "unknown network"],
)
def test_wrong_settings_are_refused(run, changes, message):
    file = run.path / "config.json"
    settings = {key: value for key, value in {**run.config.to_dict(), **changes}.items() if value is not None}
    file.write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}.*{message}"):
        load_run(run.path)


DAMAGE = ["", "{", "\x00\x01", "[1]", "null"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, content) for name in ("config.json", "history.json", "checkpoints.json") for content in DAMAGE),
        ("history.json", None),
        ("checkpoints.json", None),
    ],
)
def test_a_missing_or_damaged_file_is_named(run, name, content):
    (run.path / name).unlink()
    if content is not None:
        (run.path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(str(run.path / name))):
        load_run(run.path)


def test_a_folder_that_is_not_a_run_directory_is_refused(run, tmp_path):
    (run.path / "config.json").unlink()
    for path in (run.path, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"{re.escape(str(path))} is not a run directory.*config.json"):
            load_run(path)


def test_a_run_opens_from_its_path_in_any_form(run, monkeypatch):
    monkeypatch.chdir(run.path.parent)
    assert load_run(run.path.name).path == load_run(str(run.path)).path == run.path


ENTRY = {"name": "epoch-0001", "epoch": 1, "eval_acc": 0.5}
SESSION = {"from_epoch": 1, "to_epoch": 2, "seconds": 1.5}


def nested(depth):
    """JSON of lists in lists in lists."""
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("history.json", {"loss": of}) for of in (
            {"0": 1.0}, {"3": 1.0}, {"-1": 1.0}, {"1e9": 1.0}, {"": 1.0}, {"\u0661": 1.0}, {"1": None}, {"1": "1"},
            {"1": True}, {"1": [1.0]}, {"1": float("nan")}, {"1": float("inf")}, {"1": {"2": 1.0}}, [1.0], 1.0, "1",
        )),
        *(("history.json", {key: {"1": value}}) for key in ("acc", "eval_acc") for value in (-0.1, 1.1, 50)),
        *(("checkpoints.json", {"epoch-0001": {**ENTRY, **of}}) for of in (
            {"epoch": 0}, {"epoch": 3}, {"epoch": 10**9}, {"epoch": 1.0}, {"epoch": True}, {"epoch": "1"},
            {"epoch": None}, {"eval_acc": 2}, {"eval_acc": "0.5"}, {"eval_acc": float("nan")}, {"sha256": 5},
        )),
        ("checkpoints.json", {"epoch-0001": []}),
        ("checkpoints.json", {"epoch-0001": {**ENTRY, "epoch": 2}}),
        ("checkpoints.json", {"epoch-0001": {"name": "epoch-0001", "epoch": 1}}),
        ("checkpoints.json", {"epoch-0001": ENTRY, "epoch-0002": {"name": "epoch-0002", "epoch": 2, "eval_acc": None}}),
        *(("sessions.json", [{**SESSION, **of}]) for of in (
            {"seconds": -1}, {"seconds": "1"}, {"from_epoch": None}, {"to_epoch": float("inf")},
        )),
        ("sessions.json", [[]]),
        ("sessions.json", {}),
        *((name, nested(100_000)) for name in ("config.json", "history.json", "checkpoints.json", "sessions.json")),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else reprlib.repr(value),
)  # fmt: skip
def test_what_no_training_writes_is_refused(run, name, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (run.path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"{re.escape(name)} (holds|cannot be read) .*: restore it, or train again"):
        load_run(run.path)


@pytest.mark.parametrize("value", [0, -1, 1e-9, 1e9, "1", True, None, float("nan"), float("inf"), [1.0]])
def test_a_temperature_that_no_calibration_finds_is_refused(tmp_path, value):
    run = filled(tmp_path, [0.5])
    entry = {"epoch-0001": {"temperature": value}}
    (run.path / "temperatures.json").write_text(json.dumps(entry), encoding="utf-8")
    with pytest.raises(ValueError, match=r"temperatures\.json holds .*: delete it and calibrate again"):
        run.temperature()


def test_checkpoints_are_best_first_however_they_are_listed(tmp_path):
    run = filled(tmp_path, [0.2, 0.9, 0.4], keep_n=3)
    listed = json.loads((run.path / "checkpoints.json").read_text(encoding="utf-8"))
    backwards = dict(reversed(listed.items()))
    (run.path / "checkpoints.json").write_text(json.dumps(backwards), encoding="utf-8")
    assert load_run(run.path) == run and list(load_run(run.path).checkpoints.items()) == list(listed.items())


@pytest.mark.parametrize("missing", ["history", "test", "file"])
def test_a_run_that_lacks_something_is_not_finished(tmp_path, missing):
    write_set(tmp_path, tones(per_class=1))
    run = train(config(), data_dir=tmp_path, save_dir=tmp_path / "runs", device="cpu")
    assert load_run(run.path).finished
    if missing == "file":
        (run.path / "epoch-0002/epoch-0002.model").unlink()
    else:
        del run.history["loss" if missing == "history" else "eval_acc"][2]
        run.save_history()
    assert not load_run(run.path).finished


@pytest.mark.parametrize(
    ("tensor", "value"),
    [
        ("fc.weight", torch.full((10, 16), float("nan"))),
        ("fc.weight", torch.full((10, 16), float("inf"))),
        ("fc.weight", torch.full((10, 16), 1e300, dtype=torch.float64)),  # infinite in float32
        ("fc.weight", torch.ones(10, 16, dtype=torch.int64)),
        ("fc.weight", torch.ones(10, 16, dtype=torch.bool)),
        ("fc.weight", torch.ones(10, 16, dtype=torch.complex64)),
        ("fc.weight", torch.ones(10, 16).to_sparse()),
        ("fc.weight", torch.ones(1, 1).expand(10**6, 10**6)),
        ("fc.weight", [1.0]),
        ("conv1.1.running_var", torch.full((16,), -1.0)),
        ("conv1.1.num_batches_tracked", torch.tensor(-1)),
        ("conv1.1.num_batches_tracked", torch.tensor(1.5)),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{getattr(value, 'dtype', value)}",
)
def test_weights_that_no_network_computes_with_are_refused_by_name(tmp_path, tensor, value):
    run = filled(tmp_path, [0.5])
    del run.checkpoints["epoch-0001"]["sha256"]  # as in older runs
    torch.save({**net(1).state_dict(), tensor: value}, run.path / "epoch-0001/epoch-0001.model")
    with pytest.raises(ValueError, match=f"is not a checkpoint of tiny: {re.escape(tensor)} (is|holds)"):
        run.model()


@pytest.mark.parametrize("hashed", [True, False], ids=["by its hash", "without a hash"])
def test_a_flipped_bit_is_seen(tmp_path, hashed):
    run = filled(tmp_path, [0.5])
    if not hashed:
        del run.checkpoints["epoch-0001"]["sha256"]
    file = run.path / "epoch-0001/epoch-0001.model"
    content = file.read_bytes()
    place = content.index(net(1).fc.weight.detach().numpy().tobytes())
    for bit in range(8):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        with pytest.raises(
            ValueError, match=r"epoch-0001\.model is not a checkpoint of tiny: it(s part .*)? is not what was written"
        ):
            run.model()
    file.write_bytes(content)
    run.model()


@pytest.mark.parametrize("run_dir", ["", ".", "..", "a/..", "\0", "x" * 5000, 5, b"run", True])
def test_what_is_no_run_directory_is_refused(tmp_path, run_dir):
    with pytest.raises(ValueError, match="run_dir is "):
        runs_module.make_run_folder(config(), save_dir=tmp_path / "runs", run_dir=run_dir)
    assert not files_below(tmp_path)


# --- the folder of runs ---


def test_runs_are_listed_newest_first(tmp_path):
    runs = [new_run(config(), tmp_path) for _ in range(4)]
    order = [2, 0, 3, 1]  # oldest first
    for age, i in enumerate(order):
        os.utime(runs[i].path / "config.json", (time.time() + age, time.time() + age))
    (tmp_path / "something else").mkdir()
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert list_runs(tmp_path) == [runs[i].path for i in reversed(order)]
    assert list_runs(tmp_path / "nowhere") == []


def test_the_order_of_runs_is_that_of_their_start(tmp_path):
    first, second = new_run(config(), tmp_path), new_run(config(), tmp_path)
    os.utime(first.path / "config.json", (1e9, 1e9))
    os.utime(second.path / "config.json", (2e9, 2e9))
    first.save_checkpoint(net(), 1, 0.5)
    assert list_runs(tmp_path) == [second.path, first.path]


def test_an_argument_takes_precedence_over_the_environment_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("ESC_RUNS", str(tmp_path / "there"))
    assert runs_folder() == tmp_path / "there"
    assert runs_folder(tmp_path / "here") == tmp_path / "here"
    run = new_run(config())
    assert run.path.parent == tmp_path / "there"
    assert list_runs() == [run.path]
    assert new_run(config(), tmp_path / "here").path.parent == tmp_path / "here"


def test_by_default_runs_lie_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.delenv("ESC_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)  # the working directory must not matter
    assert runs_folder().name == "runs"
    assert (runs_folder().parent / "pyproject.toml").is_file()
