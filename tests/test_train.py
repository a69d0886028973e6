"""Training against arithmetic by hand, and training that is interrupted or fails."""

import errno
import importlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TinyNet, config, files_below, network, numbered, numbers_in, register, tones, write_set

from esc_lib import evaluate, load_run, train
from esc_lib.training import TrainingError, list_runs
from esc_lib.training.compute import pick_device

runs_module = importlib.import_module("esc_lib.training.runs")


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
def train_numbered(tmp_path):
    """Trains on seven numbered clips (targets 0 to 6) and evaluates on four (targets 7, 8, 9, 0)."""
    data = write_set(tmp_path / "numbered", numbered([1] * 4 + [2] * 3 + [3] * 4))
    return partial(train, data_dir=data, save_dir=tmp_path / "runs", device="cpu")


def watch(monkeypatch, see):
    """Trains a network that ignores its input; `see(x)` gets each training batch."""

    def forward(self, x):
        if self.training:
            see(x)
        return self.bias.expand(len(x), -1)

    register(monkeypatch, network(forward))


def state(run, which="last"):
    return run.model(which).state_dict()


# --- optimisation ---


def test_training_on_tones_lowers_the_loss(train_tones, tone_data):
    run = train_tones(config(epochs=10, learning_rate=0.1, eval_every=5))
    assert list(run.history["loss"]) == list(run.history["acc"]) == list(run.history["lr"]) == list(range(1, 11))
    assert run.history["loss"][10] < 0.5 * run.history["loss"][1]
    assert run.history["eval_acc"][10] > 0.6  # chance is 0.1
    assert run.history["eval_loss"][10] < 1.5  # chance is ln 10 = 2.3
    assert evaluate(run.path, data_dir=tone_data).accuracy == pytest.approx(run.history["eval_acc"][10])


def test_the_same_seed_gives_the_same_numbers(train_tones):
    torch.manual_seed(1)
    first = train_tones(config(seed=5))
    torch.manual_seed(2)  # the global random state must not matter
    torch.rand(3)
    second = train_tones(config(seed=5))
    other = train_tones(config(seed=6))
    assert first.path != second.path
    assert (first.path / "history.json").read_bytes() == (second.path / "history.json").read_bytes()
    assert all(torch.equal(value, state(second)[key]) for key, value in state(first).items())
    assert first.history["loss"] != other.history["loss"]
    assert not torch.equal(state(first)["conv1.0.weight"], state(other)["conv1.0.weight"])


def test_evaluation_does_not_affect_training(train_tones):
    often = train_tones(config(epochs=4, eval_every=1, crops=5))
    rarely = train_tones(config(epochs=4, eval_every=4, crops=1))
    assert often.history["loss"] == rarely.history["loss"]
    assert all(torch.equal(value, state(rarely)[key]) for key, value in state(often).items())


def by_hand(targets, settings, classes=10):
    """SGD with momentum and weight decay on the biases of a network that ignores its input, in float64.

    Returns: loss and accuracy of each epoch (before its step) and the biases at the end.
    """
    bias, velocity = np.zeros(classes), np.zeros(classes)
    share = np.bincount(targets, minlength=classes) / len(targets)
    losses, accuracies = [], []
    for epoch in range(1, settings.epochs + 1):
        rate = settings.learning_rate * (0.1 if epoch <= settings.warmup else 1)
        for fraction in settings.schedule:
            if epoch > fraction * settings.epochs:
                rate *= settings.lr_gamma
        probability = np.exp(bias) / np.exp(bias).sum()
        losses.append(-(share * np.log(probability)).sum())
        accuracies.append(share[bias.argmax()])
        gradient = probability - share + settings.weight_decay * bias
        velocity = settings.momentum * velocity + gradient
        bias -= rate * (gradient + settings.momentum * velocity if settings.nesterov else velocity)
    return losses, accuracies, bias


@pytest.mark.parametrize(
    "changes",
    [
        dict(epochs=8, schedule=[0.5, 0.75], weight_decay=0.0),
        dict(epochs=5, schedule=[0.3, 0.6, 0.9], lr_gamma=0.5, weight_decay=0.1),
        dict(epochs=6, schedule=[], momentum=0.0, weight_decay=0.01),
        dict(epochs=6, schedule=[], momentum=0.5),
        dict(epochs=5, schedule=[], nesterov=False, weight_decay=0.01),
        dict(epochs=4, schedule=[], warmup=2, momentum=0.0, weight_decay=0.0),
    ],
    ids=["steps", "decays", "without momentum", "with momentum", "plain momentum", "warm-up"],
)
def test_sgd_by_hand(tmp_path, monkeypatch, changes):
    targets = [3, 3, 3, 1, 1, 7]
    write_set(tmp_path, numbered([1, 1, 2, 2, 2, 2, 3], [*targets, 5]))
    register(monkeypatch, network(lambda self, x: self.bias.expand(len(x), -1)))
    settings = config(learning_rate=0.7, batch_size=6, **changes)
    run = train(settings, data_dir=tmp_path, save_dir=tmp_path / "runs", device="cpu")
    losses, accuracies, bias = by_hand(targets, settings)
    assert list(run.history["loss"].values()) == pytest.approx(losses, rel=1e-5)
    assert list(run.history["acc"].values())[1:] == pytest.approx(accuracies[1:])
    np.testing.assert_allclose(state(run)["bias"].numpy(), bias, rtol=1e-4, atol=1e-6)


FALL = [0.4 * (1 + math.cos(math.pi * (i + 0.5) / 16)) for i in range(16)]


@pytest.mark.parametrize(
    ("changes", "steps", "epochs"),
    [
        (dict(epochs=8, batch_size=31), [0.8] * 8 + [0.08] * 4 + [0.008] * 4, [0.8] * 4 + [0.08] * 2 + [0.008] * 2),
        (
            dict(epochs=5, batch_size=16, schedule=[], one_cycle=0.2),  # 20 steps, of which 4 rise
            [0.1, 0.3, 0.5, 0.7, *FALL],
            [0.4, *(0.4 * (1 + math.cos(math.pi * (i + 0.5) / 4)) for i in range(4))],
        ),
    ],
    ids=["steps", "one cycle"],
)
def test_the_learning_rate_of_every_step(train_tones, monkeypatch, changes, steps, epochs):
    seen, step = [], torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: (seen.append(self.param_groups[0]["lr"]), step(self))[1])
    run = train_tones(config(learning_rate=0.8, eval_every=8, **changes))
    assert seen == pytest.approx(steps)
    assert list(run.history["lr"].values()) == pytest.approx(epochs)


# --- training examples ---


def test_an_epoch_holds_each_training_clip_once_and_no_evaluation_clip(train_numbered, monkeypatch):
    trained, evaluated = [], []

    def look(self, x):
        (trained if self.training else evaluated).append(numbers_in(x))
        return self.bias.expand(len(x), -1)

    register(monkeypatch, network(look))
    train_numbered(config(epochs=5, batch_size=3, eval_every=2, crops=3))
    assert [len(batch) for batch in trained] == [3, 3, 1] * 5
    epochs = [sum(trained[i : i + 3], []) for i in range(0, 15, 3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1, "the order must change"
    # Evaluation after epochs 2 and 4 and after the last: three crops of each evaluation clip, and nothing else.
    assert Counter(sum(evaluated, [])) == dict.fromkeys(range(7, 11), 3 * 3)


def test_the_seed_decides_the_order_and_the_crops(train_numbered, monkeypatch):
    trained = []
    watch(monkeypatch, lambda x: trained[-1].append((numbers_in(x), x.count_nonzero(dim=(1, 2)).tolist())))
    for seed in (0, 0, 1):
        trained.append([])
        train_numbered(config(seed=seed, eval_every=2))
    first, again, other = trained
    assert first == again
    assert [order for order, _ in first] != [order for order, _ in other]
    assert sorted(n for _, held in first for n in held) != sorted(n for _, held in other for n in held)


def test_every_epoch_draws_new_crops(tmp_path, monkeypatch):
    ramp = np.arange(1, 201).astype(np.int16)
    write_set(tmp_path, [(1, 0, ramp), (2, 1, ramp), (3, 0, ramp)])
    begins = []
    watch(monkeypatch, lambda x: begins.extend((x[:, 0, -1] * 32768).round().long().tolist()))
    train(config(epochs=6), data_dir=tmp_path, save_dir=tmp_path / "runs", device="cpu")
    assert len(set(begins)) > 6  # of twelve crops


@pytest.mark.parametrize("trim", [True, False])
def test_silence_is_trimmed_only_if_set(tmp_path, monkeypatch, trim):
    # 20 zeros, 50 samples, 20 zeros. Trimmed to 50 and padded by 50 at both sides, each crop of 100 holds all 50;
    # untrimmed, four crops in nine lose some of them.
    sound = np.pad(np.full(50, 1000, np.int16), 20)
    write_set(tmp_path, [(1, 0, sound), (3, 1, sound)])
    held = []
    watch(monkeypatch, lambda x: held.append(x.count_nonzero().item()))
    settings = config(train_folds=[1], epochs=20, eval_every=20, trim_silence=trim)
    train(settings, data_dir=tmp_path, save_dir=tmp_path / "runs", device="cpu")
    assert max(held) == 50
    assert (min(held) == 50) is trim


# --- history and checkpoints ---


def test_loss_and_accuracy_are_means_over_clips(train_numbered, monkeypatch):
    table = np.random.default_rng(3).normal(0, 2, (11, 10))
    logits = torch.tensor(table, dtype=torch.float32)
    register(monkeypatch, network(lambda self, x: logits[numbers_in(x)] + self.bias))
    settings = config(learning_rate=0.0, batch_size=3, epochs=2)  # 7 clips: 3, 3 and 1
    run = train_numbered(settings)
    probability = np.exp(table) / np.exp(table).sum(axis=1, keepdims=True)
    targets = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0])
    loss, right = -np.log(probability[range(11), targets]), table.argmax(axis=1) == targets
    assert list(run.history["loss"].values()) == pytest.approx([loss[:7].mean()] * 2, rel=1e-5)
    assert list(run.history["acc"].values()) == pytest.approx([right[:7].mean()] * 2)
    assert list(run.history["eval_loss"].values()) == pytest.approx([loss[7:].mean()] * 2, rel=1e-4)
    assert list(run.history["eval_acc"].values()) == pytest.approx([right[7:].mean()] * 2)


@pytest.mark.parametrize(
    ("epochs", "every", "evaluated"), [(5, 2, [2, 4, 5]), (4, 2, [2, 4]), (2, 10, [2]), (3, 1, [1, 2, 3])]
)
def test_it_evaluates_at_the_interval_and_at_the_end(train_tones, epochs, every, evaluated):
    run = train_tones(config(epochs=epochs, eval_every=every, keep_n=9, batch_size=62))
    assert list(run.history["eval_acc"]) == list(run.history["eval_loss"]) == evaluated
    assert sorted(entry["epoch"] for entry in run.checkpoints.values()) == evaluated
    assert run.checkpoint("last")["epoch"] == epochs
    assert {e["epoch"]: e["eval_acc"] for e in run.checkpoints.values()} == run.history["eval_acc"]


def test_the_returned_run_equals_the_one_on_disk(train_tones, tmp_path):
    run = train_tones(config(), device="auto")
    read = load_run(run.path)
    assert read == run
    assert list(read.checkpoints) == list(run.checkpoints)
    assert list_runs(tmp_path) == [run.path]


def test_training_and_evaluation_raise_no_warnings(train_tones, tone_data):
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            evaluate(train_tones(config(epochs=1)).path, data_dir=tone_data)
    finally:
        torch.set_warn_always(False)


# --- interruption and divergence ---


def counting(monkeypatch, act):
    """TinyNet whose training passes are counted; `act(count, logits)` may change the logits, or raise."""
    count = [0]

    class Counting(TinyNet):
        def forward(self, x):
            count[0] += self.training
            logits = super().forward(x)
            return act(count[0], logits) if self.training else logits

    register(monkeypatch, Counting)


def test_a_nan_loss_stops_training_and_keeps_the_last_good_checkpoint(train_tones, tone_data, tmp_path, monkeypatch):
    counting(monkeypatch, lambda n, logits: logits * math.nan if n > 5 else logits)  # two steps an epoch: in epoch 3
    with pytest.raises(TrainingError, match=r"epoch 3\b.*nan.*epoch-0002.*learning_rate"):
        train_tones(config(epochs=9, batch_size=31))
    (path,) = list_runs(tmp_path)
    run = load_run(path)
    assert list(run.history["loss"]) == list(run.history["eval_acc"]) == [1, 2]
    assert run.checkpoint()["epoch"] == 2
    assert all(value.isfinite().all() for value in state(run).values())
    assert evaluate(path, data_dir=tone_data).result["epoch"] == 2
    assert {"losses.png", "accuracies.png"} <= files_below(path)


def test_weights_broken_by_the_last_step_are_not_saved(train_tones, tmp_path, monkeypatch):
    # The training loss was still finite: only the evaluation after the step shows that the weights are broken.
    steps, step = [], torch.optim.SGD.step

    class Broken(TinyNet):
        def forward(self, x):
            logits = super().forward(x)
            return logits if self.training or len(steps) < 2 else logits * math.nan

    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: (steps.append(1), step(self))[1])
    register(monkeypatch, Broken)
    with pytest.raises(TrainingError, match=r"evaluation loss of epoch 2\b.*epoch-0001"):
        train_tones(config(epochs=3, batch_size=62))
    assert list(load_run(list_runs(tmp_path)[0]).checkpoints) == ["epoch-0001"]


def test_the_error_names_a_learning_rate_that_is_far_too_high(train_tones, monkeypatch):
    register(monkeypatch, network(lambda self, x: 1e30 * self.bias * x.abs().amax(dim=(1, 2))[:, None]))
    with pytest.raises(TrainingError, match="no checkpoint.*below 100"):
        train_tones(config(epochs=5, learning_rate=100, eval_every=5))


def interrupt_after(count):
    def act(n, logits):
        if n > count:
            raise KeyboardInterrupt
        return logits

    return act


def test_an_interrupted_run_can_be_read(train_tones, tmp_path, monkeypatch):
    counting(monkeypatch, interrupt_after(7))  # two steps an epoch: in the middle of epoch 4
    with pytest.raises(KeyboardInterrupt):
        train_tones(config(epochs=9, batch_size=31, eval_every=2))
    run = load_run(list_runs(tmp_path)[0])
    assert list(run.history["loss"]) == list(run.history["lr"]) == [1, 2, 3]
    assert list(run.history["eval_acc"]) == [2]
    assert run.checkpoint()["epoch"] == 2
    assert run.model()(torch.zeros(1, 1, 100)).shape == (1, 10)
    assert not [name for name in files_below(run.path) if name.endswith(".part")]
    assert {"losses.png", "accuracies.png"} <= files_below(run.path)


def test_a_trained_epoch_counts_even_if_its_evaluation_was_interrupted(train_tones, tmp_path, monkeypatch):
    class Impatient(TinyNet):
        def forward(self, x):
            if not self.training:
                raise KeyboardInterrupt
            return super().forward(x)

    register(monkeypatch, Impatient)
    with pytest.raises(KeyboardInterrupt):
        train_tones(config())
    run = load_run(list_runs(tmp_path)[0])
    assert list(run.history["loss"]) == [1], "the curves show this epoch, so the history must hold it"
    assert run.history["eval_acc"] == {} and run.checkpoints == {}


def test_a_run_without_a_checkpoint_is_refused_by_name(train_tones, tone_data, tmp_path, monkeypatch):
    counting(monkeypatch, interrupt_after(3))
    with pytest.raises(KeyboardInterrupt):
        train_tones(config(epochs=9, batch_size=31, eval_every=5))
    run = load_run(list_runs(tmp_path)[0])
    assert list(run.history["loss"]) == [1]
    for look in (run.model, run.checkpoint, lambda: evaluate(run.path, data_dir=tone_data)):
        with pytest.raises(ValueError, match=f"{re.escape(str(run.path))} holds no checkpoint"):
            look()


# --- a full disk, unwritable folders, missing data and devices ---


def no_room(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["torch.save", "os.fsync", "os.replace"])
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
def test_on_a_full_disk_the_error_names_the_file_and_the_previous_checkpoint_stays(
    train_tones, tmp_path, monkeypatch, where, for_good
):
    module, name = where.split(".")
    holder = {"torch": torch, "os": os}[module]
    works, save = getattr(holder, name), runs_module.Run.save_checkpoint

    def once(*_, **__):
        monkeypatch.setattr(holder, name, works)
        no_room()

    def fills_up(self, model, epoch, eval_acc):
        if epoch == 2:
            monkeypatch.setattr(holder, name, no_room if for_good else once)
        save(self, model, epoch, eval_acc)

    monkeypatch.setattr(runs_module.Run, "save_checkpoint", fills_up)
    with pytest.raises(OSError, match="No space left on device") as caught:
        train_tones(config(epochs=4))
    monkeypatch.setattr(holder, name, works)
    assert caught.value.errno == errno.ENOSPC
    assert "epoch-0002.model" in str(caught.value), "the error must name the first file that could not be written"
    run = load_run(list_runs(tmp_path)[0])
    assert list(run.checkpoints) == ["epoch-0001"]
    assert run.model()(torch.zeros(1, 1, 100)).shape == (1, 10)
    assert not [name for name in files_below(tmp_path) if name.endswith(".part")]


def test_the_error_names_a_save_dir_that_cannot_be_created(train_tones, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    for folder in (tmp_path / "file" / "runs", tmp_path / "file"):
        with pytest.raises(OSError, match=f"{re.escape(str(folder))} cannot be written.*choose another folder"):
            train_tones(config(), save_dir=folder)


@pytest.mark.parametrize(
    ("changes", "where", "error", "message"),
    [
        ({}, dict(data_dir="nowhere"), FileNotFoundError, r'esc_lib\.prepare\("synthetic", 1000\)'),
        (dict(eval_folds=[4]), {}, ValueError, r"fold\(s\) 4.*1, 2, 3"),
        ({}, dict(device="cuda:99"), ValueError, "device 'cuda:99'.*cpu"),
    ],
    ids=["data not prepared", "fold not prepared", "no such device"],
)
def test_a_run_that_cannot_start_leaves_nothing_behind(train_tones, tmp_path, changes, where, error, message):
    with pytest.raises(error, match=message):
        train_tones(config(**changes), **{"save_dir": tmp_path / "runs", **where})
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "", "cuda:x", "meta", "xpu:99"])
def test_a_device_that_cannot_be_used_is_refused(device):
    with pytest.raises(ValueError, match=f"device '{device}'"):
        pick_device(device)


def test_of_two_gpus_the_third_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(pick_device(name)) for name in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
    with pytest.raises(ValueError, match="'cuda:2'.*2 GPU"):
        pick_device("cuda:2")


def test_auto_is_the_gpu_if_there_is_one():
    assert pick_device().type == pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == torch.device("cpu")


def test_history_on_disk_is_complete_after_every_epoch(train_tones, tmp_path, monkeypatch):
    lengths = []

    def look(n, logits):
        if n % 2 == 1:  # the first of two steps
            (path,) = list_runs(tmp_path)
            lengths.append(len(json.loads((path / "history.json").read_text(encoding="utf-8"))["loss"]))
        return logits

    counting(monkeypatch, look)
    train_tones(config(epochs=4, batch_size=31, eval_every=3))
    assert lengths == [0, 1, 2, 3]


# --- training on all folds ---


def test_without_evaluation_folds_nothing_is_evaluated(train_tones, tone_data):
    settings = config(train_folds=[1, 2, 3], eval_folds=[], epochs=4, eval_every=2, keep_n=2)
    run = train_tones(settings)
    read = load_run(run.path)
    assert read.finished and read.history["eval_acc"] == read.history["eval_loss"] == {}
    last = read.checkpoint("last")
    assert (last["name"], last["epoch"], last["eval_acc"]) == ("epoch-0004", 4, None)
    assert [entry["epoch"] for entry in read.checkpoints.values()] == [4, 2]
    assert not read.model().training
    with pytest.raises(ValueError, match="trained on all folds"):
        evaluate(run.path, data_dir=tone_data)
    with pytest.raises(ValueError, match=r"trained on fold\(s\) \[2\]"):
        evaluate(run.path, data_dir=tone_data, folds=[2])


SCRIPT = """
import signal, sys
import esc_lib.models
from tiny import TinyNet, config
esc_lib.models.ARCHITECTURES["tiny"] = TinyNet
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born deaf to Ctrl-C
esc_lib.train(config(epochs=10**6, eval_every=3), data_dir=sys.argv[1], save_dir=sys.argv[2], device="cpu")
"""


@pytest.mark.skipif(os.name != "posix", reason="sends Ctrl-C as a signal")
def test_ctrl_c_leaves_a_run_that_can_be_read(tone_data, tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tone_data), str(tmp_path)]
    here = Path(__file__).parent
    with subprocess.Popen(command, cwd=here, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        try:
            deadline = time.monotonic() + 300
            while not list(tmp_path.glob("*/epoch-*/*.model")):
                assert process.poll() is None and time.monotonic() < deadline, "the training did not begin"
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, printed = process.communicate(timeout=300)
        finally:
            process.kill()
    assert printed.rstrip().endswith("KeyboardInterrupt")
    run = load_run(list_runs(tmp_path)[0])
    epochs = list(run.history["loss"])
    assert epochs == list(range(1, len(epochs) + 1)) and len(epochs) >= 2
    if run.checkpoints:  # it may have come between the file and its entry
        assert run.model()(torch.zeros(1, 1, 100)).shape == (1, 10)
    assert not [name for name in files_below(run.path) if name.endswith(".part")]


def test_the_seed_decides_the_parameters_too(tmp_path, monkeypatch):
    register(monkeypatch)
    where = dict(data_dir=write_set(tmp_path / "data", tones(per_class=1)), save_dir=tmp_path / "runs", device="cpu")
    still = dict(epochs=1, learning_rate=0.0, freeze_epoch=1)
    five, six = (train(config(seed=seed, **still), **where).model() for seed in (5, 6))
    torch.manual_seed(5)
    fresh = TinyNet(10).conv1[0].weight
    assert torch.equal(five.conv1[0].weight, fresh)
    assert not torch.equal(six.conv1[0].weight, fresh)


def test_a_training_with_a_validation_fold_learns_from_the_training_folds_and_sees_no_test_clip(tmp_path, monkeypatch):
    seen: dict[bool, set[int]] = {True: set(), False: set()}

    def look(self, x):
        seen[self.training] |= set(numbers_in(x))
        return self.bias.expand(len(x), -1)

    register(monkeypatch, network(look))
    data = write_set(tmp_path / "data", numbered([1, 1, 2, 2, 3, 3]))
    settings = config(train_folds=[1], validation_folds=[2], eval_folds=[3], epochs=3)
    train(settings, data_dir=data, save_dir=tmp_path / "runs", device="cpu")
    assert seen == {True: {0, 1}, False: {2, 3}}


def test_a_session_counts_its_own_seconds(tmp_path, monkeypatch):
    register(monkeypatch)
    data = write_set(tmp_path / "data", tones(per_class=1))
    module = importlib.import_module("esc_lib.training.train")
    monkeypatch.setattr(module.time, "perf_counter", lambda: 7000.0)
    monkeypatch.setattr(module.time, "process_time", lambda: 9000.0)
    run = train(config(epochs=1), data_dir=data, save_dir=tmp_path / "runs", device="cpu", progress=False)
    (session,) = run.sessions
    assert (session["seconds"], session["processor_seconds"]) == (0, 0)
