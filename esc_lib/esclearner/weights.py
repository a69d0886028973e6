"""esc-learner's state dicts, put into this course's networks, which then give the same logits."""

import re

import torch
from torch import Tensor, nn

from esc_lib.esclearner.models import WaveMsNetEscLearner
from esc_lib.models.wavemxnet import WaveMxNet


def load_weights(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Loads esc-learner's state dict into an EnvNet, an EnvNet-v2 or one of `NETWORKS`, in place.

    Raises:
        ValueError: a tensor is missing or unknown, by its name there.
        RuntimeError: a tensor has another shape, by its name here.
    """
    if isinstance(model, WaveMsNetEscLearner):
        state = _updated(state)
    theirs = _their_names(model)
    for problem, keys in (("lacks", theirs.keys() - state.keys()), ("holds the unknown", state.keys() - theirs.keys())):
        if keys:
            raise ValueError(f"it {problem} {', '.join(sorted(map(str, keys)))}")
    own = {ours: state[name] for name, ours in theirs.items()}
    # Its M-nets' filters have one dimension, ours two, the first of them 1.
    model.load_state_dict({ours: weight.unsqueeze(2) if weight.ndim == 3 else weight for ours, weight in own.items()})
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = 1e-5  # PyTorch's; our EnvNets have Chainer's


def _updated(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A WaveMsNet's state dict as its last version would save it.

    Until commit 92f460b its `block` was called `feature`, and its convolutions had no bias: the same as one of zero.
    """
    state = {re.sub(r"^feature\.", "block.", str(key)): value for key, value in state.items()}
    filters = [key for key in state if re.search(r"conv\d\.module\.0\.weight$", key)]
    biases = {key.replace("weight", "bias"): torch.zeros(len(state[key])) for key in filters}
    return state if biases.keys() & state.keys() else state | biases


def _their_names(model: nn.Module) -> dict[str, str]:
    """The tensors of a network: `{esc-learner's name: our name}`."""
    if isinstance(model, WaveMxNet):
        layers = _layers_of_m_net(model)
    elif isinstance(model, WaveMsNetEscLearner):
        layers = _layers_of_wavemsnet()
    else:
        layers = _layers_of_envnet(model)
    return {
        theirs + key.removeprefix(ours): key
        for ours, theirs in layers.items()
        for key in model.state_dict()
        if key.startswith(f"{ours}.")
    }


# What esc-learner calls each of a network's layers: `{our name: its name}`. A block there is called `module`.


def _layers_of_envnet(model: nn.Module) -> dict[str, str]:
    names = [name for name, layer in model.named_children() if not isinstance(layer, nn.Dropout)]
    layers = {}
    for name in names:
        part = "feature_conv" if name in ("conv1", "conv2") else "classifier"
        inner = ".module" if name.startswith("conv") else "" if name == names[-1] else ".module.0"
        layers[name] = f"{part}.{name}{inner}"
    return layers


def _layers_of_wavemsnet() -> dict[str, str]:
    branches = {f"branch{i}.{j}": f"branch{i}.conv{j + 1}.module" for i in (1, 2, 3) for j in (0, 1)}
    block = {f"conv{i}": f"block.conv{i - 2}.module" for i in (3, 4, 5, 6)}
    return {**branches, **block, "fc1": "fc1.module.0", "fc2": "fc2"}


def _layers_of_m_net(model: WaveMxNet) -> dict[str, str]:
    """There all layers are numbered in one row, poolings included."""
    layers, number = {"conv1": "module.0.module"}, 1
    for i, stage in enumerate(model.stages):
        number += 1  # the pooling before the stage
        for j in range(len(list(stage.children()))):
            layers[f"stages.{i}.{j}"] = f"module.{number}.module"
            number += 1
    return {**layers, "fc": f"module.{number + 2}"}  # after the average and the flattening
