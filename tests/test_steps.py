"""A step of training never waits for its device: nothing asks for a value, or for a shape that depends on one.

On a GPU each such question stops the host until everything before it is done. It can be seen on a CPU: the operations
that answer one are few, and PyTorch lets a mode watch all that are called.
"""

import pytest
import torch
from tiny import config, register, tones, write_set
from torch.utils._python_dispatch import TorchDispatchMode

from esc_lib.data.clips import load_clips
from esc_lib.models import ARCHITECTURES, build_model
from esc_lib.training.batches import batches, build_optimizer, set_train_mode, train_step

ANSWERS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero", "unique_consecutive"}


class Questions(TorchDispatchMode):
    """Remembers the operations that hand a value or its shape over to the host."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name == "index" and any(of is not None and of.dtype == torch.bool for of in args[1])
        if name in ANSWERS or by_mask:
            self.asked.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("question", [lambda x: x[0].item(), lambda x: bool(x[0] > 0), lambda x: x[x > 0]])
def test_questions_are_seen(question):
    with Questions() as questions:
        question(torch.ones(3))
    assert questions.asked


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("mixed", [False, True])
def test_steps_ask_for_nothing(mixed, optimizer, tmp_path, monkeypatch):
    register(monkeypatch)
    settings = config(between_class=mixed, strong_augmentation=mixed, optimizer=optimizer)
    clips = load_clips("synthetic", settings.sample_rate, folds=(1, 2), data_dir=write_set(tmp_path, tones()))
    model = build_model("tiny", 10)
    set_train_mode(model, frozen=False)
    learner = build_optimizer(settings, model)
    epoch = batches(settings, clips, torch.Generator())
    train_step(model, learner, *next(epoch))  # the first of an epoch draws its pairs
    steps = 0
    with Questions() as questions:
        for x, label in epoch:
            train_step(model, learner, x, label)
            steps += 1
    assert steps > 3 and questions.asked == []


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_networks_ask_for_nothing(name):
    """With PyTorch's operations, which a GPU computes too; those of `accelerate` are for processors."""
    model = build_model(name, 10)
    set_train_mode(model, frozen=False)
    x = torch.randn(2, 1, model.INPUT_SAMPLES)
    with Questions() as questions:
        model(x).sum().backward()
    assert questions.asked == []
