"""Weights as whole numbers of a few bits, so that a network makes a small file."""

import torch
from torch import Tensor

from esc_lib.arguments import check

SCALE = ".scale"


def round_weights(state: dict[str, Tensor], bits: int) -> dict[str, Tensor]:
    """Rounds kernels and matrices; what has one axis or none (biases, batch norm) stays as it is.

    Every output channel has a scale of its own, so that `weight = scale * number` to half a scale: one that is small
    throughout loses no more than one that is large.

    Args:
        state: a network's state dict.
        bits: of each weight, 4 to 8: the numbers are -(2^(bits - 1) - 1) to 2^(bits - 1) - 1.

    Returns:
        the state dict, in which a rounded tensor `name` is int8 and `name.scale` holds its scales.
    """
    check("bits", bits, int, 4, 8)
    most = 2 ** (bits - 1) - 1
    rounded = {}
    for name, value in state.items():
        if value.ndim < 2:
            rounded[name] = value
            continue
        largest = value.float().abs().amax(dim=tuple(range(1, value.ndim)), keepdim=True)
        scale = (largest / most).clamp(min=torch.finfo(torch.float32).tiny)  # of a channel of zeros, too
        rounded[name] = (value.float() / scale).round().to(torch.int8)
        rounded[name + SCALE] = scale
    return rounded


def restore_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The opposite of `round_weights`: rounded tensors in float32. A state dict without any is returned as it is.

    Raises:
        ValueError: a tensor and its scales do not fit together, by name.
    """
    restored = {name: value for name, value in state.items() if not str(name).endswith(SCALE)}
    for name, value in restored.items():
        scale = state.get(f"{name}{SCALE}")
        if scale is None:
            continue
        check_plain(name, value)
        check_plain(f"{name}{SCALE}", scale)
        if value.dtype != torch.int8 or scale.shape != (*value.shape[:1], *[1] * (value.ndim - 1)):
            raise ValueError(f"{name} is of {value.dtype} with scales of shape {tuple(scale.shape)}")
        restored[name] = value.float() * scale
    return restored


def check_plain(name: str, value: object) -> None:
    """Raises ValueError, with its name, unless a value is a tensor of which every element is stored."""
    # Repeated values may exceed the memory.
    if (
        not isinstance(value, Tensor)
        or value.layout != torch.strided
        or value.nbytes > value.untyped_storage().nbytes()
    ):
        raise ValueError(f"{name} is no plain tensor")
