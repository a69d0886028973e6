"""The same networks, computed faster on processors: `accelerate` changes how, from outside, and `restore` undoes it.

Parameters, state dict and results (to rounding) stay as they are. On GPUs, in other number formats than float32 and
bfloat16 and in compiled networks, PyTorch's own operations are used.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esc_lib.models.acdnet import PoolToFrames
from esc_lib.models.cpu_operations import batch_norm, convolve, fold_norm, norm_and_pool
from esc_lib.models.wavemsnet import WaveMsNet

Model = TypeVar("Model", bound=nn.Module)


def accelerate(model: Model) -> Model:
    """Gives the blocks of a network their faster computation, in place.

    A block is an `nn.Sequential` of a convolution and its batch norm, then ReLU and max-pooling if it has them. Hooks
    on a block still fire; those on the layers inside do not, because they are computed together.

    Args:
        model: any network; what it holds beside such blocks stays as it is.

    Returns:
        the same network.
    """
    for module in model.modules():
        if _is_block(module):
            _set(module, "forward", _block)
    if isinstance(model, WaveMsNet):
        _set(model, "windows", _windows)
    return model


def restore(model: nn.Module) -> None:
    """Undoes `accelerate`."""
    for module in model.modules():
        vars(module).pop("forward", None)
        vars(module).pop("windows", None)


def _set(module: nn.Module, name: str, function: Callable[..., Tensor]) -> None:
    """A method of this one module, in place of its class's."""
    vars(module)[name] = MethodType(function, module)


def _is_block(module: nn.Module) -> bool:
    """Whether a module is convolution, batch norm, ReLU or not, max-pooling or not, and none has unusual settings."""
    if not isinstance(module, nn.Sequential) or len(module) < 2:
        return False
    conv, norm, *rest = module
    if rest and isinstance(rest[0], nn.ReLU):
        rest = rest[1:]
    return _is_plain_conv(conv) and _is_plain_norm(norm) and (not rest or len(rest) == 1 and _is_plain_pool(rest[0]))


def _is_plain_conv(conv: nn.Module) -> bool:
    return (
        isinstance(conv, nn.Conv2d)
        and not isinstance(conv.padding, str)
        and (conv.groups, conv.dilation, conv.padding_mode) == (1, (1, 1), "zeros")
    )


def _is_plain_norm(norm: nn.Module) -> bool:
    return isinstance(norm, nn.BatchNorm2d) and norm.affine and norm.track_running_stats and norm.momentum is not None


def _is_plain_pool(pool: nn.Module) -> bool:
    if isinstance(pool, nn.MaxPool2d):
        plain = (pool.kernel_size, 0, 1, False)
        return (pool.stride, pool.padding, pool.dilation, pool.return_indices) == plain
    return isinstance(pool, PoolToFrames)


def _block(block: nn.Sequential, x: Tensor) -> Tensor:
    """What a block computes; the pooling comes before the ReLU, which gives the same and is less work.

    Shape:
        `(batch, in, H, T) -> (batch, out, H', T')`
    """
    conv, norm = cast(nn.Conv2d, block[0]), cast(nn.BatchNorm2d, block[1])
    pool = block[-1] if isinstance(block[-1], nn.MaxPool2d | PoolToFrames) else None
    if _is_fast(x) and norm.training:
        x = convolve(x, conv, bias_learns=False)
        x = batch_norm(x, norm) if pool is None else norm_and_pool(x, norm, pool)
    elif _is_fast(x) and not torch.is_grad_enabled():
        x = fold_norm(x, conv, norm)
        x = x if pool is None else pool(x)
    else:
        x = norm(convolve(x, conv) if _is_fast(x) else conv(x))
        x = x if pool is None else pool(x)
    return F.relu(x, inplace=True) if any(isinstance(layer, nn.ReLU) for layer in block) else x


def _is_fast(x: Tensor) -> bool:
    """Whether the operations below are faster than PyTorch's for this batch."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and not torch.compiler.is_compiling()


# Overlapping windows of one clip --------------------------------------------------------------------------------------


def _windows(model: WaveMsNet, whole: Tensor, starts: Sequence[int]) -> Tensor:
    """Logits of windows of one longer waveform: those of each window by itself, in less time if they overlap.

    The first branch, which is most of the work, is computed once for all. Only the first and the last frame of a
    window differ, because a window by itself is zero-padded: these few samples are computed again.

    Args:
        model: the network, in eval mode, without gradients.
        whole: the waveform.
        starts: where each window starts, in samples.

    Shape:
        whole: `(1, 1, T)` -> `(len(starts), n_classes)`
    """
    length, frame = model.INPUT_SAMPLES, 150  # samples
    x = torch.cat([whole[:, :, start : start + length] for start in starts])  # -> (B, 1, 66150)
    first = model.branch1(x[:, :, : 2 * frame].unsqueeze(2))  # -> (B, 32, 1, 2)
    last = model.branch1(x[:, :, -2 * frame :].unsqueeze(2))
    one, two = cast(Iterable[nn.Sequential], model.branch1)
    unpooled = _block(cast(nn.Sequential, two[:-1]), one(whole.unsqueeze(2)))  # -> (1, 32, 1, T)
    maps = F.max_pool2d(torch.cat([unpooled[..., start : start + length] for start in starts]), (1, frame))
    maps[..., 0], maps[..., -1] = first[..., 0], last[..., 1]  # (B, 32, 1, 441)
    with _output(model.branch1, maps):
        return model(x)


@contextmanager
def _output(module: nn.Module, value: Tensor) -> Iterator[None]:
    """Lets a module return `value`, whatever its input, until the block ends."""
    forward = vars(module).get("forward")
    _set(module, "forward", lambda *_: value)
    try:
        yield
    finally:
        vars(module).pop("forward")
        if forward is not None:
            vars(module)["forward"] = forward
