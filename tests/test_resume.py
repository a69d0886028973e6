"""Interrupted runs resume with the same numbers as an uninterrupted run, one process at a time."""

import importlib
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from kills import kill_at
from tiny import TinyNet, config, files_below, register, tones, write_set

from esc_lib import load_run, train
from esc_lib.training import RunLockedError, TrainingError
from esc_lib.training.checkpoint import run_lock, state_file

runs_module = importlib.import_module("esc_lib.training.runs")
resume_module = importlib.import_module("esc_lib.training.checkpoint")
train_module = importlib.import_module("esc_lib.training.train")


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    register(monkeypatch)


@pytest.fixture(scope="module")
def tone_data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("tones"), tones())


@pytest.fixture
def train_tones(tone_data, tmp_path):
    """Trains on the tones with the settings given."""
    return partial(train, data_dir=tone_data, save_dir=tmp_path, device="cpu")


@pytest.fixture
def train_mine(train_tones):
    """The same, always in the run directory "mine"."""
    return partial(train_tones, run_dir="mine")


def assert_same(run, other):
    """History and weights of two finished runs, bit for bit."""
    run, other = load_run(run.path), load_run(other.path)
    assert run.history == other.history
    assert run.checkpoints == other.checkpoints
    ours, theirs = run.model().state_dict(), other.model().state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def stop_at(monkeypatch, where):
    """Interrupts training at its `where`-th training pass, once."""
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
        (8, dict(freeze_epoch=1, unfreeze_epoch=4)),  # stopped in epoch 4, resumes in epoch 3
        (14, dict(freeze_epoch=1, unfreeze_epoch=4, optimizer="adam", learning_rate=0.01)),
        (9, dict(schedule=[], one_cycle=0.3)),
        (9, dict(train_folds=[1, 2, 3], eval_folds=[])),  # three steps an epoch
    ],
    ids=[
        "at once",
        "sgd",
        "adam, near the end",
        "mixtures, frozen",
        "released",
        "released, adam",
        "one cycle",
        "no evaluation",
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(train_tones, train_mine, tmp_path, monkeypatch, where, changes):
    settings = config(epochs=7, batch_size=31, eval_every=2, keep_n=2, **changes)  # two steps an epoch
    whole = train_tones(settings)
    stop_at(monkeypatch, where)
    with pytest.raises(KeyboardInterrupt):
        train_mine(settings)
    torch.rand(5)  # the global random state must not matter
    again = train_mine(settings)
    assert again.path == tmp_path / "mine"
    assert_same(again, whole)
    assert not state_file(again).exists(), "a finished run needs no state to resume from"


def test_finished_epochs_are_not_repeated(train_mine, monkeypatch):
    stop_at(monkeypatch, 10)  # in epoch 5; the last evaluation was after epoch 4
    settings = config(epochs=6, batch_size=31, eval_every=2)
    with pytest.raises(KeyboardInterrupt):
        train_mine(settings)
    passes = []

    class Counting(TinyNet):
        def forward(self, x):
            passes.append(self.training)
            return super().forward(x)

    register(monkeypatch, Counting)
    train_mine(settings)
    assert sum(passes) == 4, "epochs 5 and 6"
    passes.clear()
    train_mine(settings)
    assert passes == [], "a finished run is not trained again"


@pytest.mark.parametrize("between", ["save_checkpoint", "save_history", "save_curves"])
def test_a_run_interrupted_while_it_saves_an_evaluation_resumes(train_tones, train_mine, monkeypatch, between):
    settings = config(epochs=4, eval_every=2, keep_n=1)
    whole = train_tones(settings)
    save_state = train_module.save_state

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def stop_after(run, *args):
            save_state(run, *args)
            patch.setattr(train_module.Run, between, interrupt)

        patch.setattr(train_module, "save_state", stop_after)
        train_mine(settings)
    assert_same(train_mine(settings), whole)


SCRIPT = """
import sys
import esc_lib.models
from tiny import TinyNet, config
esc_lib.models.ARCHITECTURES["tiny"] = TinyNet
settings = config(epochs=12, eval_every=1, keep_n=2)
esc_lib.train(settings, data_dir=sys.argv[1], save_dir=sys.argv[2], run_dir="killed", device="cpu")
"""


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_a_run_killed_at_random_moments_resumes_with_the_same_numbers(train_tones, tone_data, tmp_path):
    settings = config(epochs=12, eval_every=1, keep_n=2)
    whole = train_tones(settings)
    command = [sys.executable, "-c", SCRIPT, str(tone_data), str(tmp_path)]
    chance, kills = random.Random(0), 0
    history = tmp_path / "killed" / "history.json"
    for _ in range(2):
        before = history.read_bytes() if history.exists() else b""
        with subprocess.Popen(command, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and (history.read_bytes() if history.exists() else b"") == before:
                time.sleep(0.005)  # until this process has written something
            time.sleep(chance.random() * 0.2)
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
    assert kills == 2, "both must be killed while they train"
    assert_same(train_tones(settings, run_dir="killed"), whole)


class QuickFigure:
    """In place of the curves, which would take most of the time."""

    def __init__(self, history, kind):
        self.content = f"{kind}: {history}".encode()

    def savefig(self, file, format):
        file.write(self.content)


def test_a_run_killed_at_any_change_of_a_file_ends_as_if_it_never_was(tone_data, tmp_path, monkeypatch):
    monkeypatch.setattr(runs_module, "plot_curves", QuickFigure)
    settings = config(epochs=3, eval_every=1, keep_n=1, batch_size=62)

    def training(name):
        call = partial(train, settings, data_dir=tone_data, save_dir=tmp_path, run_dir=name, device="cpu")
        return partial(call, progress=False)

    whole = tmp_path / "whole"
    events = kill_at(0, whole, training("whole"))
    expected, weights = load_run(whole), load_run(whole).model().state_dict()
    assert events > 80, "about 30 an epoch"
    chance = random.Random(0)
    for event in range(1, events + 1):
        path = tmp_path / f"killed-{event}"
        for at in (event, chance.randint(1, events)):  # and once more while it resumes
            kill_at(at, path, training(path.name))
            if (path / "config.json").is_file():
                run = load_run(path)  # readable at any moment
                assert not run.finished or run.history == expected.history, event
        run = training(path.name)()
        again = load_run(path)
        assert run.finished and again.history == expected.history and again.checkpoints == expected.checkpoints, event
        found = again.model().state_dict()
        assert all(torch.equal(value, found[name]) for name, value in weights.items()), event
        assert files_below(path) == files_below(whole), event
        assert (path / "losses.png").read_bytes() == (whole / "losses.png").read_bytes(), event


def test_a_full_disk_leaves_the_previous_training_state(train_tones, train_mine, monkeypatch):
    settings = config(epochs=5, eval_every=1)
    whole = train_tones(settings)
    write, count = resume_module.atomic_write, [0]

    def fill(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    def full(path, action):
        count[0] += 1
        return write(path, fill if count[0] == 3 else action)

    monkeypatch.setattr(resume_module, "atomic_write", full)
    with pytest.raises(OSError, match="training.state cannot be written"):
        train_mine(settings)
    monkeypatch.setattr(resume_module, "atomic_write", write)
    assert_same(train_mine(settings), whole)


def test_a_run_directory_with_other_settings_is_refused(train_mine):
    train_mine(config())
    with pytest.raises(ValueError, match="seed is 0 there and 1 here.*run_dir"):
        train_mine(config(seed=1))


def test_a_folder_with_other_files_in_it_is_refused_and_left_alone(train_tones, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("It was a dark and stormy night.", encoding="utf-8")
    with pytest.raises(ValueError, match="thesis is not empty.*run_dir"):
        train_tones(config(), run_dir="thesis")
    assert not (tmp_path / "thesis" / "config.json").exists()


def test_a_second_process_is_refused_and_told_the_id_of_the_first(train_mine, tmp_path):
    (tmp_path / "mine").mkdir()
    code = "import sys, time\nfrom pathlib import Path\nfrom esc_lib.training.checkpoint import run_lock\n"
    code += "with run_lock(Path(sys.argv[1])):\n    print('in', flush=True)\n    time.sleep(600)\n"
    command = [sys.executable, "-c", code, str(tmp_path / "mine")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "in\n"
        with pytest.raises(RunLockedError, match=rf"process {process.pid}\b"):
            train_mine(config())
        process.kill()
    # A killed process leaves its lock file behind, which must not block the run.
    assert (tmp_path / "mine" / ".pid").exists()
    train_mine(config())


def test_the_lock_is_released(tmp_path):
    for _ in range(2):
        with run_lock(tmp_path), pytest.raises(RunLockedError, match=str(os.getpid())), run_lock(tmp_path):
            pass


class Payload:
    def __reduce__(self):
        return print, ("executed",)


def test_a_state_that_would_execute_code_is_refused(train_mine, tmp_path, monkeypatch, capsys):
    stop_at(monkeypatch, 20)
    with pytest.raises(KeyboardInterrupt):
        train_mine(config(epochs=9))
    torch.save({"epoch": Payload()}, tmp_path / "mine" / "training.state")
    with pytest.raises(ValueError, match=r"training.state cannot be resumed from.*would call builtins.print"):
        train_mine(config(epochs=9))
    assert "executed" not in capsys.readouterr().out


def without_memory(state):
    state["optimizer"]["state"] = {}


def without_one_memory(state):
    del state["optimizer"]["state"][3]


def with_nan_in_memory(state):
    state["optimizer"]["state"][0]["momentum_buffer"][:] = float("nan")


def with_a_short_memory(state):
    state["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(1)


def with_whole_numbers_in_memory(state):
    memory = state["optimizer"]["state"][0]
    memory["momentum_buffer"] = memory["momentum_buffer"].long()


def with_complex_numbers_in_memory(state):
    memory = state["optimizer"]["state"][0]
    memory["momentum_buffer"] = memory["momentum_buffer"] + 1j


def with_a_memory_of_one_number(state):
    memory = state["optimizer"]["state"][0]
    memory["momentum_buffer"] = torch.zeros(1).expand(memory["momentum_buffer"].shape)


def with_more_than_all_correct(state):
    state["history"]["acc"][1] = 5.0


def with_another_decay(state):
    state["optimizer"]["param_groups"][0]["weight_decay"] = 0.5


def with_nan_in_a_weight(state):
    state["model"]["fc.bias"][0] = float("nan")


def with_a_gap_in_its_history(state):
    del state["history"]["loss"][1]


def with_nan_in_its_history(state):
    state["history"]["eval_acc"][2] = float("nan")


def without_its_generator(state):
    del state["generator"]


def test_a_training_goes_on_on_another_kind_of_device(train_mine, tmp_path, monkeypatch):
    """A GPU's random numbers have a state of another size, and there may have been more GPUs."""
    settings, file = config(epochs=4, eval_every=2, batch_size=31), tmp_path / "mine" / "training.state"
    stop_at(monkeypatch, 6)  # in epoch 3
    with pytest.raises(KeyboardInterrupt):
        train_mine(settings)
    state = torch.load(file, weights_only=True)
    gpu = torch.zeros(16, dtype=torch.uint8)
    torch.save(state | {"generator": gpu, "random_of_gpus": [gpu, gpu]}, file)
    run = train_mine(settings)
    assert run.finished and [session["from_epoch"] for session in run.sessions] == [1, 3]


@pytest.mark.parametrize(
    "change",
    [
        *({"epoch": epoch} for epoch in (0, 1, 3, 6, 8, 10**9, -2, "2", 2.0, None)),
        without_memory, without_one_memory, with_nan_in_memory, with_a_short_memory, with_another_decay,
        with_whole_numbers_in_memory, with_complex_numbers_in_memory, with_a_memory_of_one_number,
        with_more_than_all_correct,
        with_nan_in_a_weight, with_a_gap_in_its_history, with_nan_in_its_history, without_its_generator,
    ],
    ids=lambda change: getattr(change, "__name__", str(change)),
)  # fmt: skip
def test_a_state_that_no_training_writes_is_refused(train_mine, tmp_path, monkeypatch, change):
    settings, file = config(epochs=6, eval_every=2, batch_size=31), tmp_path / "mine" / "training.state"
    stop_at(monkeypatch, 6)  # in epoch 3
    with pytest.raises(KeyboardInterrupt):
        train_mine(settings)
    state = torch.load(file, weights_only=True)
    state.update(change) if isinstance(change, dict) else change(state)
    torch.save(state, file)
    with pytest.raises(ValueError, match=r"training.state cannot be resumed from .*: delete .*mine and train again"):
        train_mine(settings)
    assert not load_run(tmp_path / "mine").finished


def test_a_flipped_bit_in_a_state_is_seen(train_mine, tmp_path, monkeypatch):
    stop_at(monkeypatch, 20)
    with pytest.raises(KeyboardInterrupt):
        train_mine(config(epochs=9))
    file = tmp_path / "mine" / "training.state"
    content = bytearray(file.read_bytes())
    place = content.index(torch.load(file, weights_only=True)["model"]["fc.weight"].numpy().tobytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"training.state cannot be resumed from .*is not what was written"):
        train_mine(config(epochs=9))


def test_out_of_memory_suggests_a_smaller_batch(train_tones, monkeypatch):
    class Greedy(TinyNet):
        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory")

    register(monkeypatch, Greedy)
    with pytest.raises(TrainingError, match="batch_size 64: try 32"):
        train_tones(config(batch_size=64))


def test_training_without_a_gpu_prints_one_note(train_tones, tone_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    train(config(), data_dir=tone_data, save_dir=tmp_path)
    assert capsys.readouterr().err.count("no GPU") == 1
    train_tones(config())
    assert "no GPU" not in capsys.readouterr().err
