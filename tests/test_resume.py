"""Runs that are stopped and go on: the same numbers as if nothing had happened, and one process at a time."""

import importlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import TinyNet, config, register, tones, write_set

from esc_lib import load_run, train
from esc_lib.training import RunLockedError, TrainingError
from esc_lib.training.checkpoint import run_lock, state_file

resume_module = importlib.import_module("esc_lib.training.checkpoint")
train_module = importlib.import_module("esc_lib.training.train")


@pytest.fixture(scope="module")
def tone_data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("tones"), tones())


def assert_same(run, other):
    """History and weights of two finished runs, bit for bit."""
    run, other = load_run(run.path), load_run(other.path)
    assert run.history == other.history
    assert run.checkpoints == other.checkpoints
    ours, theirs = run.model().state_dict(), other.model().state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def stop_at(monkeypatch, where):
    """Makes the training stop at its `where`-th training pass, once."""
    count = [0]

    class Stopping(TinyNet):
        def forward(self, x):
            count[0] += self.training
            if self.training and count[0] == where:
                raise KeyboardInterrupt
            return super().forward(x)

    register(monkeypatch, Stopping)


@pytest.mark.parametrize(
    ("where", "changes"),
    [
        (1, {}),
        (9, {}),
        (14, dict(optimizer="adam", learning_rate=0.01)),
        (8, dict(between_class=True, strong_augmentation=True, freeze_epoch=4)),
        (9, dict(schedule=[], one_cycle=0.3)),
    ],
    ids=["at once", "sgd", "adam, near the end", "mixtures, frozen", "one cycle"],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(tone_data, tmp_path, monkeypatch, where, changes):
    register(monkeypatch)
    settings = config(epochs=7, batch_size=31, eval_every=2, keep_n=2, **changes)  # two steps an epoch
    whole = train(settings, data_dir=tone_data, save_dir=tmp_path, device="cpu")
    stop_at(monkeypatch, where)
    with pytest.raises(KeyboardInterrupt):
        train(settings, data_dir=tone_data, save_dir=tmp_path, device="cpu", run_dir="mine")
    torch.rand(5)  # what happens in between must not matter
    again = train(settings, data_dir=tone_data, save_dir=tmp_path, device="cpu", run_dir="mine")
    assert again.path == tmp_path / "mine"
    assert_same(again, whole)
    assert not state_file(again).exists(), "a finished run has nothing to go on from"


def test_what_was_done_is_not_done_again(tone_data, tmp_path, monkeypatch):
    stop_at(monkeypatch, 10)  # in epoch 5; the last test was after epoch 4
    settings = config(epochs=6, batch_size=31, eval_every=2)
    with pytest.raises(KeyboardInterrupt):
        train(settings, data_dir=tone_data, save_dir=tmp_path, device="cpu", run_dir="mine")
    passes = []

    class Counting(TinyNet):
        def forward(self, x):
            passes.append(self.training)
            return super().forward(x)

    register(monkeypatch, Counting)
    train(settings, data_dir=tone_data, save_dir=tmp_path, device="cpu", run_dir="mine")
    assert sum(passes) == 4, "epochs 5 and 6"
    passes.clear()
    train(settings, data_dir=tone_data, save_dir=tmp_path, device="cpu", run_dir="mine")
    assert passes == [], "a finished run is finished"


@pytest.mark.parametrize("between", ["save_checkpoint", "save_history", "save_curves"])
def test_a_run_stopped_while_it_writes_a_test_down_goes_on(tone_data, tmp_path, monkeypatch, between):
    register(monkeypatch)
    settings = config(epochs=4, eval_every=2, keep_n=1)
    whole = train(settings, data_dir=tone_data, save_dir=tmp_path, device="cpu")
    state = train_module.save_state

    def stop_after(run, *args):
        state(run, *args)
        monkeypatch.setattr(train_module.Run, between, interrupt)

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "save_state", stop_after)
        original = getattr(train_module.Run, between)
        with pytest.raises(KeyboardInterrupt):
            train(settings, data_dir=tone_data, save_dir=tmp_path, device="cpu", run_dir="mine")
        setattr(train_module.Run, between, original)
    assert_same(train(settings, data_dir=tone_data, save_dir=tmp_path, device="cpu", run_dir="mine"), whole)


SCRIPT = """
import sys
import esc_lib.models
from tiny import TinyNet, config
esc_lib.models.ARCHITECTURES["tiny"] = TinyNet
settings = config(epochs=12, eval_every=1, keep_n=2)
esc_lib.train(settings, data_dir=sys.argv[1], save_dir=sys.argv[2], run_dir="killed", device="cpu")
"""


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_a_run_killed_at_random_moments_ends_with_the_same_numbers(tone_data, tmp_path, monkeypatch):
    register(monkeypatch)
    settings = config(epochs=12, eval_every=1, keep_n=2)
    whole = train(settings, data_dir=tone_data, save_dir=tmp_path, device="cpu")
    command = [sys.executable, "-c", SCRIPT, str(tone_data), str(tmp_path)]
    chance, kills = random.Random(0), 0
    history = tmp_path / "killed" / "history.json"
    for _ in range(2):
        before = history.read_bytes() if history.exists() else b""
        with subprocess.Popen(command, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and (history.read_bytes() if history.exists() else b"") == before:
                time.sleep(0.005)  # until it has written something of its own
            time.sleep(chance.random() * 0.2)
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
    assert kills == 2, "it must have been killed while it was at work"
    assert_same(train(settings, data_dir=tone_data, save_dir=tmp_path, device="cpu", run_dir="killed"), whole)


def test_a_disk_that_is_full_while_the_state_is_written_leaves_the_state_before(tone_data, tmp_path, monkeypatch):
    register(monkeypatch)
    settings = config(epochs=5, eval_every=1)
    whole = train(settings, data_dir=tone_data, save_dir=tmp_path, device="cpu")
    write, count = resume_module.atomic_write, [0]

    def full(path, action):
        count[0] += 1
        if count[0] == 3:

            def fill(file):
                file.write(b"half")
                raise OSError(28, "No space left on device")

            return write(path, fill)
        return write(path, action)

    monkeypatch.setattr(resume_module, "atomic_write", full)
    with pytest.raises(OSError, match="training.state cannot be written"):
        train(settings, data_dir=tone_data, save_dir=tmp_path, device="cpu", run_dir="mine")
    monkeypatch.setattr(resume_module, "atomic_write", write)
    assert_same(train(settings, data_dir=tone_data, save_dir=tmp_path, device="cpu", run_dir="mine"), whole)


def test_other_settings_are_not_mixed_into_a_run(tone_data, tmp_path, monkeypatch):
    register(monkeypatch)
    train(config(), data_dir=tone_data, save_dir=tmp_path, device="cpu", run_dir="mine")
    with pytest.raises(ValueError, match="seed is 0 there and 1 here.*run_dir"):
        train(config(seed=1), data_dir=tone_data, save_dir=tmp_path, device="cpu", run_dir="mine")


def test_a_folder_with_something_else_in_it_is_left_alone(tone_data, tmp_path, monkeypatch):
    register(monkeypatch)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("It was a dark and stormy night.")
    with pytest.raises(ValueError, match="thesis is not empty.*run_dir"):
        train(config(), data_dir=tone_data, save_dir=tmp_path, device="cpu", run_dir="thesis")
    assert not (tmp_path / "thesis" / "config.json").exists()


def test_a_second_process_is_refused_with_the_firsts_number(tone_data, tmp_path, monkeypatch):
    register(monkeypatch)
    (tmp_path / "mine").mkdir()
    code = "import sys, time\nfrom pathlib import Path\nfrom esc_lib.training.checkpoint import run_lock\n"
    code += "with run_lock(Path(sys.argv[1])):\n    print('in', flush=True)\n    time.sleep(600)\n"
    command = [sys.executable, "-c", code, str(tmp_path / "mine")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "in\n"
        with pytest.raises(RunLockedError, match=rf"process {process.pid}\b"):
            train(config(), data_dir=tone_data, save_dir=tmp_path, device="cpu", run_dir="mine")
        process.kill()
    # It left its lock behind, and died: the run can be had.
    assert (tmp_path / "mine" / ".pid").exists()
    train(config(), data_dir=tone_data, save_dir=tmp_path, device="cpu", run_dir="mine")


def test_the_lock_is_given_back(tmp_path):
    for _ in range(2):
        with run_lock(tmp_path), pytest.raises(RunLockedError, match=str(os.getpid())), run_lock(tmp_path):
            pass


class Payload:
    def __reduce__(self):
        return print, ("executed",)


def test_a_state_that_would_execute_code_is_refused(tone_data, tmp_path, monkeypatch, capsys):
    stop_at(monkeypatch, 20)
    with pytest.raises(KeyboardInterrupt):
        train(config(epochs=9), data_dir=tone_data, save_dir=tmp_path, device="cpu", run_dir="mine")
    torch.save({"epoch": Payload()}, tmp_path / "mine" / "training.state")
    with pytest.raises(ValueError, match=r"training.state cannot be resumed from.*would call builtins.print"):
        train(config(epochs=9), data_dir=tone_data, save_dir=tmp_path, device="cpu", run_dir="mine")
    assert "executed" not in capsys.readouterr().out


def test_too_small_a_gpu_is_told_with_a_smaller_batch(tone_data, tmp_path, monkeypatch):
    class Greedy(TinyNet):
        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory")

    register(monkeypatch, Greedy)
    with pytest.raises(TrainingError, match="batch_size 64: try 32"):
        train(config(batch_size=64), data_dir=tone_data, save_dir=tmp_path, device="cpu")


def test_without_a_gpu_one_line_says_so(tone_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    register(monkeypatch)
    train(config(), data_dir=tone_data, save_dir=tmp_path)
    assert capsys.readouterr().err.count("no GPU") == 1
    train(config(), data_dir=tone_data, save_dir=tmp_path, device="cpu")
    assert "no GPU" not in capsys.readouterr().err
