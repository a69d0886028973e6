"""Run directories: what lies in them, that no write is torn, and that nothing in them is trusted."""

import errno
import importlib
import io
import json
import os
import pickle
import random
import re
import shutil
import time

import pytest
import torch
from disk import largest_file
from tiny import TinyNet, config, files_below, network, new_run, register, tones, write_set

from esc_lib import load_run, train
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
    """A network that has seen something, in channels_last as in training."""
    torch.manual_seed(seed)
    model = TinyNet(n_classes).to(memory_format=torch.channels_last)
    model(torch.randn(8, 1, 100))
    return model


def filled(folder, accuracies=(0.5, 0.25), **changes):
    """A run with a checkpoint of each accuracy, at epochs 1, 2, ..."""
    run = new_run(config(**changes), folder)
    for epoch, acc in enumerate(accuracies, start=1):
        run.save_checkpoint(net(epoch), epoch, acc)
    return run


# --- the files ---


def test_a_finished_run_holds_the_files_that_are_promised(tmp_path):
    write_set(tmp_path, tones(per_class=1))
    run = train(config(epochs=3, keep_n=3), data_dir=tmp_path, save_dir=tmp_path / "runs", device="cpu")
    assert run.path.parent == tmp_path / "runs"
    assert run.path.name.startswith("tiny-synthetic-")
    names = [f"epoch-{epoch:04d}" for epoch in (1, 2, 3)]
    assert files_below(run.path) == {
        "config.json", "history.json", "checkpoints.json", "sessions.json", "losses.png", "accuracies.png", ".lock",
        *(f"{name}/{name}.model" for name in names),
    }  # fmt: skip
    settings = json.loads((run.path / "config.json").read_text())
    assert settings == {**run.config.to_dict(), "train_folds": [1, 2], "eval_folds": [3]}
    (sitting,) = json.loads((run.path / "sessions.json").read_text())
    assert (sitting["from_epoch"], sitting["to_epoch"]) == (1, 3) and sitting["seconds"] >= 0
    assert sitting["device"] and sitting["threads"] >= 1 and load_run(run.path).sessions == [sitting]
    history = json.loads((run.path / "history.json").read_text())
    assert set(history) == {"loss", "acc", "lr", "eval_loss", "eval_acc"}
    assert all(list(values) == ["1", "2", "3"] for values in history.values())
    checkpoints = json.loads((run.path / "checkpoints.json").read_text())
    assert {name: set(entry) for name, entry in checkpoints.items()} == {
        name: {"name", "epoch", "eval_acc"} for name in names
    }
    assert all(entry["name"] == name for name, entry in checkpoints.items())
    for name in ("losses.png", "accuracies.png"):
        assert (run.path / name).read_bytes().startswith(b"\x89PNG")


def test_no_file_names_a_place_on_this_machine(tmp_path):
    data = write_set(tmp_path / "here", tones(per_class=1))
    run = train(config(epochs=1), data_dir=data, save_dir=tmp_path / "runs", device="cpu")
    for name in ("config.json", "history.json", "checkpoints.json"):
        text = (run.path / name).read_text()
        assert str(tmp_path) not in text
        assert "/" not in text and "\\" not in text, name


def test_a_new_run_is_readable_at_once(run):
    again = load_run(run.path)
    assert again == run
    assert again.history == {key: {} for key in HISTORY_KEYS}
    with pytest.raises(ValueError, match="holds no checkpoint"):
        again.model()


def test_two_runs_of_one_second_do_not_meet(tmp_path):
    assert new_run(config(), tmp_path).path != new_run(config(), tmp_path).path


def test_others_may_read_a_run(run):
    assert run.path.stat().st_mode & 0o777 == 0o755


# --- which checkpoints are kept ---


def kept_after(folder, accuracies, keep_n):
    run = filled(folder, accuracies, keep_n=keep_n)
    on_disk = json.loads((run.path / "checkpoints.json").read_text())
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
    assert run.checkpoint("best") == {"name": "epoch-0002", "epoch": 2, "eval_acc": 0.9}
    assert run.checkpoint("epoch-0003")["epoch"] == 3
    for which, seed in [("last", 4), ("best", 2), ("epoch-0003", 3)]:
        assert torch.equal(load_run(run.path).model(which).fc.weight, net(seed).fc.weight), which
    for look in (run.checkpoint, run.model):
        with pytest.raises(ValueError, match="'epoch-0001'.*last, best, epoch-0002, epoch-0004, epoch-0003"):
            look("epoch-0001")


# --- nothing is torn ---


def test_the_new_checkpoint_is_whole_and_listed_before_an_old_one_goes(tmp_path, monkeypatch):
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
def test_until_the_new_checkpoint_is_listed_the_old_one_counts(tmp_path, monkeypatch, breaks):
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
def test_a_disk_that_is_full_in_the_middle_of_a_checkpoint_is_named(tmp_path, room):
    # Of a large tensor, torch.save turns the file's own OSError into a RuntimeError about its archive.
    run, model = filled(tmp_path, [0.3]), torch.nn.Linear(1000, 100)
    with largest_file(room), pytest.raises(OSError, match=r"epoch-0002\.model cannot be written"):
        run.save_checkpoint(model, 2, 0.6)
    again = load_run(run.path)
    assert list(again.checkpoints) == ["epoch-0001"]
    assert torch.equal(again.model().fc.weight, net(1).fc.weight)
    assert not [name for name in files_below(tmp_path) if name.endswith(".part")]


# --- what is in a checkpoint ---


def test_a_checkpoint_is_plain_contiguous_tensors(tmp_path):
    run = filled(tmp_path, [0.5])
    state = torch.load(run.path / "epoch-0001/epoch-0001.model", weights_only=True)
    assert type(state) is dict
    assert list(state) == list(net().state_dict())
    for key, value in state.items():
        assert type(value) is torch.Tensor, key
        assert value.is_contiguous() and value.device.type == "cpu" and not value.requires_grad, key
        assert torch.equal(value, net(1).state_dict()[key]), key


def test_the_network_comes_back_ready_and_the_same(tmp_path):
    trained = net(1)
    run = filled(tmp_path, [0.5])
    model = load_run(run.path).model()
    assert not any(module.training for module in model.modules())
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
    x = torch.randn(4, 1, 100)
    torch.testing.assert_close(model(x), trained.eval()(x), rtol=1e-5, atol=1e-6)
    again = model.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in trained.state_dict().items())


def test_a_later_step_does_not_change_what_was_saved(tmp_path):
    run, model = new_run(config(), tmp_path), net(1)
    run.save_checkpoint(model, 1, 0.5)
    with torch.no_grad():
        model.fc.weight.zero_()
    assert torch.equal(run.model().fc.weight, net(1).fc.weight)


class Trap:
    """An object whose unpickling makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["torch.save", "pickle", "beside the tensors"])
def test_a_checkpoint_with_code_is_refused_and_does_not_run(tmp_path, how):
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
    if how != "pickle":  # the trap itself is good
        torch.load(file, weights_only=False)
        assert sprung.exists()


def damaged():
    """Contents that are no checkpoint: {what: bytes}."""
    buffer = io.BytesIO()
    torch.save(net(1).state_dict(), buffer)
    whole = buffer.getvalue()
    return {
        "nothing": b"",
        "first kilobyte": whole[:1000],
        "all but the end": whole[:-10],
        "a text": b"hello world\n",
        "a web page": b"<!DOCTYPE html><html><head><title>404</title>",
        "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "zeros": bytes(5000),
    }


@pytest.mark.parametrize(("what", "content"), damaged().items(), ids=damaged())
def test_a_damaged_checkpoint_is_named(tmp_path, what, content):
    run = filled(tmp_path, [0.5])
    file = run.path / "epoch-0001/epoch-0001.model"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{re.escape(str(file))} is not a checkpoint of tiny"):
        run.model()


def test_noise_is_named(tmp_path):
    run, rng = filled(tmp_path, [0.5]), random.Random(0)
    file = run.path / "epoch-0001/epoch-0001.model"
    for _ in range(100):  # the unpickler trips over noise in many ways
        file.write_bytes(rng.randbytes(40))
        with pytest.raises(ValueError, match=f"{re.escape(str(file))} is not a checkpoint of tiny"):
            run.model()


@pytest.mark.parametrize("content", [None, [1], torch.zeros(3), {"a": {"b": 1}}, {1: torch.zeros(1)}], ids=str)
def test_something_else_in_a_checkpoint_is_named(tmp_path, content):
    run = filled(tmp_path, [0.5])
    file = run.path / "epoch-0001/epoch-0001.model"
    torch.save(content, file)
    with pytest.raises(ValueError, match=f"{re.escape(str(file))} is not a checkpoint of tiny"):
        run.model()


@pytest.mark.parametrize("other", ["another network", "more classes", "a key less", "a key more"])
def test_another_networks_checkpoint_is_refused(tmp_path, other):
    run = filled(tmp_path, [0.5])
    state = net(1).state_dict()
    if other == "another network":
        state = network(lambda self, x: self.bias)(10).state_dict()
    elif other == "more classes":
        state = net(1, n_classes=50).state_dict()
    elif other == "a key less":
        del state["fc.bias"]
    else:
        state["fc2.bias"] = state["fc.bias"]
    file = run.path / "epoch-0001/epoch-0001.model"
    torch.save(state, file)
    with pytest.raises(ValueError, match=f"{re.escape(str(file))} is not a checkpoint of tiny"):
        run.model()


def test_a_missing_checkpoint_is_named(tmp_path):
    run = filled(tmp_path, [0.5])
    shutil.rmtree(run.path / "epoch-0001")
    with pytest.raises(FileNotFoundError, match=r"epoch-0001\.model is missing"):
        load_run(run.path).model()


# --- reading a run directory ---


def test_settings_with_an_unknown_key_are_refused(run):
    file = run.path / "config.json"
    file.write_text(json.dumps({**config().to_dict(), "save": "../elsewhere"}))
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}.*'save'"):
        load_run(run.path)


def test_settings_that_lack_a_key_are_refused(run):
    values = config().to_dict()
    del values["epochs"]
    (run.path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"config\.json.*lacks epochs"):
        load_run(run.path)


def test_settings_of_an_unknown_network_are_refused(run):
    (run.path / "config.json").write_text(json.dumps({**config().to_dict(), "architecture": "resnet"}))
    with pytest.raises(ValueError, match=r"config\.json.*'resnet'.*envnet"):
        load_run(run.path)


@pytest.mark.parametrize("name", ["config.json", "history.json", "checkpoints.json"])
@pytest.mark.parametrize("content", ["", "{", "\x00\x01", "[1]", "null"])
def test_a_damaged_file_is_named(run, name, content):
    (run.path / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(str(run.path / name))):
        load_run(run.path)


@pytest.mark.parametrize("name", ["history.json", "checkpoints.json"])
def test_a_missing_file_is_named(run, name):
    (run.path / name).unlink()
    with pytest.raises(ValueError, match=re.escape(str(run.path / name))):
        load_run(run.path)


def test_what_is_no_run_is_refused(run, tmp_path):
    (run.path / "config.json").unlink()
    for path in (run.path, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"{re.escape(str(path))} is not a run directory.*config.json"):
            load_run(path)


def test_a_run_opens_from_its_path_in_any_form(run, monkeypatch):
    monkeypatch.chdir(run.path.parent)
    assert load_run(run.path.name).path == load_run(str(run.path)).path == run.path


def test_history_keeps_its_numbers(run):
    run.history["loss"] = {1: 2.302585092994046, 2: 0.1}
    run.save_history()
    assert load_run(run.path).history["loss"] == {1: 2.302585092994046, 2: 0.1}


# --- where runs lie ---


def test_runs_are_listed_newest_first(tmp_path):
    runs = [new_run(config(), tmp_path) for _ in range(4)]
    order = [2, 0, 3, 1]  # oldest first
    for age, i in enumerate(order):
        os.utime(runs[i].path / "config.json", (time.time() + age, time.time() + age))
    (tmp_path / "something else").mkdir()
    (tmp_path / "file").write_text("")
    assert list_runs(tmp_path) == [runs[i].path for i in reversed(order)]
    assert list_runs(tmp_path / "nowhere") == []


def test_a_run_that_is_still_being_trained_is_not_older_for_it(tmp_path):
    first, second = new_run(config(), tmp_path), new_run(config(), tmp_path)
    os.utime(first.path / "config.json", (1e9, 1e9))
    os.utime(second.path / "config.json", (2e9, 2e9))
    first.save_checkpoint(net(), 1, 0.5)
    assert list_runs(tmp_path) == [second.path, first.path]


def test_the_environment_says_where_unless_the_call_does(tmp_path, monkeypatch):
    monkeypatch.setenv("ESC_RUNS", str(tmp_path / "there"))
    assert runs_folder() == tmp_path / "there"
    assert runs_folder(tmp_path / "here") == tmp_path / "here"
    run = new_run(config())
    assert run.path.parent == tmp_path / "there"
    assert list_runs() == [run.path]
    assert new_run(config(), tmp_path / "here").path.parent == tmp_path / "here"


def test_without_a_word_runs_lie_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.delenv("ESC_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)  # the working directory plays no part
    assert runs_folder().name == "runs"
    assert (runs_folder().parent / "pyproject.toml").is_file()
