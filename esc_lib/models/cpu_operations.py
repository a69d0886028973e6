"""Convolution, batch norm and pooling for processors: PyTorch's results in less time.

The maps behind the first filters are one row of tens of thousands of samples. No image network has such shapes, and
PyTorch's gradients of the weights reach a seventh to a half of what the processor can do there.
"""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from esc_lib.models.acdnet import PoolToFrames

MAX_ROWS, MIN_ROW = 32, 300  # folding into more rows, or into shorter ones, does not pay
MAX_FOLD_CHANNELS = 32  # with as many, folding does not pay in bfloat16
MIN_CHANNELS = 48  # with as many, PyTorch's batch norm is as fast


Size = tuple[int, int]


def convolve(x: Tensor, conv: nn.Conv2d, *, bias_learns: bool = True) -> Tensor:
    """PyTorch's convolution; the gradients of long rows and of single-channel maps are computed in another way.

    Args:
        x: input.
        conv: the layer.
        bias_learns: False where a batch norm in training follows, which subtracts the bias again.

    Shape:
        `(batch, in, H, T) -> (batch, out, H', T')`
    """
    x, weight, bias = _autocast(x, conv.weight, conv.bias)
    stride, padding = cast(Size, conv.stride), cast(Size, conv.padding)
    if not torch.is_grad_enabled():
        return _convolution(x, weight, bias, stride, padding)
    step = stride[1]
    long = x.shape[1] > 1 and x.shape[2] == 1 and padding == (0, 0)
    if long and step > 1 and x.shape[3] % step == weight.shape[3] % step == 0:
        # The samples of one stride become channels: the same sums, without a stride.
        x, weight, stride = _stride_to_channels(x, step), _stride_to_channels(weight, step), (1, 1)
    return cast(Tensor, _Convolution.apply(x, weight, bias, stride, padding, bias_learns))


def fold_norm(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """A convolution and its batch norm at test: the norm's factor and addend of each channel go into the filters.

    Args:
        x: input.
        conv, norm: the layers, `norm` in eval mode.

    Shape:
        `(batch, in, H, T) -> (batch, out, H', T')`
    """
    mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    slope = norm.weight * (var + norm.eps).rsqrt()
    offset = -mean if conv.bias is None else conv.bias - mean
    x, weight, bias = _autocast(x, conv.weight * slope[:, None, None, None], norm.bias + offset * slope)
    return _convolution(x, weight, bias, cast(Size, conv.stride), cast(Size, conv.padding))


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Size, padding: Size) -> Tensor:
    """PyTorch's convolution; that of a strided waveform in another way."""
    if not _is_strided_waveform(x, weight, stride, padding):
        return F.conv2d(x, weight, bias, stride, padding)
    n = (x.shape[3] + 2 * padding[1] - weight.shape[3]) // stride[1] + 1
    x, taps = _strides_of_waveform(x, n, weight.shape[3], stride[1], padding[1])
    weight = F.pad(weight, (0, taps * stride[1] - weight.shape[3]))
    return F.conv2d(x, _stride_to_channels(weight, stride[1]), bias)


def _is_strided_waveform(x: Tensor, weight: Tensor, stride: Size, padding: Size) -> bool:
    return x.shape[1] == x.shape[2] == weight.shape[2] == 1 < stride[1] and padding[0] == 0


def _stride_to_channels(x: Tensor, step: int) -> Tensor:
    """`(batch, channels, 1, T) -> (batch, step * channels, 1, T / step)`; no copy in channels-last."""
    return x.unflatten(3, (-1, step)).permute(0, 4, 1, 2, 3).flatten(1, 2)


def _strides_of_waveform(x: Tensor, n: int, kernel: int, step: int, padding: int) -> tuple[Tensor, int]:
    """The samples under the filters at `n` places, `step` samples apart, and how many strides a filter spans.

    The samples of a stride become channels, which share the processor's lanes; a single channel would leave most of
    them idle.

    Shape:
        `(batch, 1, 1, T) -> (batch, step, 1, n + taps - 1)`, and taps
    """
    taps = math.ceil(kernel / step)
    length = step * (n + taps - 1)  # with what is under the last filter, padded to whole strides
    return _stride_to_channels(F.pad(x, (padding, length - x.shape[3] - padding)), step), taps


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Size, padding: Size, bias_learns: bool
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.bias_learns = stride, padding, bias_learns
        return _convolution(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_input = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_input = _grad_input(grad, x, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            grad_weight = _grad_weight(grad, x, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[2]:
            # PyTorch's own sum takes longer than all the rest where the input is a waveform.
            grad_bias = grad.sum(dim=(0, 2, 3)) if ctx.bias_learns else grad.new_zeros(len(weight))
        return grad_input, grad_weight, grad_bias, None, None, None


def _grad_input(grad: Tensor, x: Tensor, weight: Tensor, stride: Size, padding: Size) -> Tensor:
    if x.shape[1] > 1 or stride != (1, 1):
        return _backward(grad, x, weight, stride, padding, (True, False, False))[0]
    # A convolution to one channel would leave 15 of the processor's 16 lanes idle. So each row of the kernel becomes a
    # channel, and the rows are added where they belong.
    height, width = weight.shape[2:]
    rows = weight[:, 0].flip(2).permute(1, 0, 2)[:, :, None].contiguous(memory_format=torch.channels_last)
    parts = F.conv2d(grad, rows, padding=(0, width - 1))  # (B, height, H', T + 2 padding)
    whole = parts.new_zeros(len(x), 1, parts.shape[2] + height - 1, parts.shape[3])
    for i in range(height):
        whole[:, 0, i : i + parts.shape[2]] += parts[:, i]
    top, left = padding
    return whole[:, :, top : top + x.shape[2], left : left + x.shape[3]]


def _grad_weight(grad: Tensor, x: Tensor, weight: Tensor, stride: Size, padding: Size) -> Tensor:
    if _is_strided_waveform(x, weight, stride, padding):
        return _grad_strided_filters(grad, x, weight, stride[1], padding[1])
    n = max(n for n in range(1, MAX_ROWS + 1) if n == 1 or grad.shape[3] % n == 0 and grad.shape[3] >= n * MIN_ROW)
    slow = x.dtype == torch.float32 or x.shape[1] < MAX_FOLD_CHANNELS  # unfolded, long rows take PyTorch longer
    row = x.shape[1] > 1 and x.shape[2] == weight.shape[2] == 1 and padding[0] == 0 and padding[1] <= MIN_ROW
    if slow and row and n > 1:
        # One long row becomes a map of shorter ones that overlap by what the kernel needs.
        length = grad.shape[3] // n
        x = _overlapping_rows(x, n, stride[1] * (length - 1) + weight.shape[3], stride[1] * length, padding[1])
        grad, padding = grad.unflatten(3, (n, length)).squeeze(2), (0, 0)
    return _backward(grad, x, weight, stride, padding, (False, True, False))[1]


def _grad_strided_filters(grad: Tensor, x: Tensor, weight: Tensor, step: int, padding: int) -> Tensor:
    """Gradient of a waveform's filters, from the strides that they see."""
    kernel = weight.shape[3]
    x, taps = _strides_of_waveform(x, grad.shape[3], kernel, step, padding)
    of_taps = _backward(grad, x, weight.new_empty(len(weight), step, 1, taps), (1, 1), (0, 0), (False, True, False))[1]
    return of_taps.permute(0, 2, 3, 1).flatten(2)[:, :, None, :kernel]


def _overlapping_rows(x: Tensor, n: int, length: int, step: int, padding: int) -> Tensor:
    """`(batch, channels, 1, T) -> (batch, channels, n, length)`; each row starts `step` after the one before.

    The first starts `padding` before the map, and the last may end as much after it: zeros are there.
    """
    channels = x.shape[1]
    samples = x.permute(0, 2, 3, 1).flatten(1)  # channels-last, so that whole rows are copied
    rows = samples.new_empty(len(x), n, length * channels)
    rows[:, 0] = rows[:, -1] = 0
    for i in range(n):
        begin = i * step - padding
        part = samples[:, max(0, begin) * channels : (begin + length) * channels]
        rows[:, i, max(0, -begin) * channels :][:, : part.shape[1]] = part
    return rows.unflatten(2, (length, channels)).permute(0, 3, 1, 2)


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Size, padding: Size, mask: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """PyTorch's gradients of input, weight and bias, as far as `mask` asks for them."""
    return torch.ops.aten.convolution_backward(grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1, mask)


# Batch norm and pooling -----------------------------------------------------------------------------------------------


def norm_and_pool(x: Tensor, norm: nn.BatchNorm2d, pool: nn.MaxPool2d | PoolToFrames) -> Tensor:
    """Batch norm in training, then the largest value of each window; here in the opposite order, which is less work.

    Batch norm multiplies by a number and adds another, so the largest value stays the largest (or, where the number is
    negative, the smallest becomes it), and only a few values are left to be normalised. The backward pass needs one
    pass over the map instead of three, because all but those few have a gradient through mean and variance alone.

    Args:
        x: input.
        norm, pool: the layers.

    Shape:
        `(batch, channels, H, T) -> (batch, channels, H', T')`
    """
    x = x.contiguous(memory_format=torch.channels_last)
    kernel = pool.kernel(x) if isinstance(pool, PoolToFrames) else pool.kernel_size
    ceil_mode = isinstance(pool, nn.MaxPool2d) and pool.ceil_mode
    return cast(
        Tensor, _NormAndPool.apply(x, norm.weight, norm.bias, *_statistics(x, norm), norm.eps, kernel, ceil_mode)
    )


def _statistics(x: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of a channels-last map; the batch norm's running ones are updated."""
    mean, var = _mean_and_variance(x.detach())
    n = x.numel() // x.shape[1]
    momentum = cast(float, norm.momentum)
    cast(Tensor, norm.num_batches_tracked).add_(1)
    cast(Tensor, norm.running_mean).lerp_(mean, momentum)
    cast(Tensor, norm.running_var).lerp_(var * (n / max(1, n - 1)), momentum)
    return mean, var


def _mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel of a channels-last map, `(channels,)` float32."""
    rows = _wide_rows(x)
    width = rows.shape[1]
    # Several places side by side count as channels of their own: PyTorch is slow with few channels, or odd numbers.
    unused = torch.zeros(width, device=x.device)  # running statistics, which do not move
    means, variances = torch.batch_norm_update_stats(rows[None, None].permute(0, 3, 1, 2), unused, unused, 0.0)
    means, variances = means.view(-1, x.shape[1]), variances.view(-1, x.shape[1])
    mean = means.mean(dim=0)
    return mean, (variances + (means - mean) ** 2).mean(dim=0)


def _wide_rows(x: Tensor) -> Tensor:
    """A channels-last map as `(rows, k * channels)`, a view: k places of it are one row."""
    places = x.permute(0, 2, 3, 1).flatten(0, 2)
    k = next(k for k in (16, 8, 4, 2, 1) if len(places) % k == 0)
    return places.view(-1, k * x.shape[1])


def batch_norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Batch norm in training; PyTorch's backward pass takes up to five times as long if there are few channels.

    Shape:
        `(batch, channels, H, T)` -> the same
    """
    if x.shape[1] >= MIN_CHANNELS:
        return norm(x)
    x = x.contiguous(memory_format=torch.channels_last)
    return cast(Tensor, _Norm.apply(x, norm.weight, norm.bias, *_statistics(x, norm), norm.eps))


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps = eps
        return F.batch_norm(x, mean, var, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = ctx.saved_tensors
        grad_rows = _wide_rows(grad.contiguous(memory_format=torch.channels_last))
        k = grad_rows.shape[1] // x.shape[1]
        wide = [of.repeat(k) for of in (weight, mean, var)]
        _, *sums = torch.ops.aten.native_batch_norm_backward(
            grad_rows, _wide_rows(x), *wide, None, None, False, ctx.eps, (False, True, True)
        )
        grad_weight, grad_bias = (of.view(k, -1).sum(dim=0) for of in sums)
        grad_input = _through_statistics(x, x, weight, mean, var, grad_weight, grad_bias, ctx.eps)
        slope = (weight * (var + ctx.eps).rsqrt()).repeat(k)
        _wide_rows(grad_input).addcmul_(grad_rows, slope.to(grad.dtype))
        return grad_input, grad_weight, grad_bias, None, None, None


def _through_statistics(
    values: Tensor,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    var: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    eps: float,
) -> Tensor:
    """The part of a batch norm's gradient that goes through mean and variance, which every value of the map moves.

    It is a line over the normalised value, as a batch norm is. Source: S. Ioffe, C. Szegedy, "Batch Normalization",
    ICML 2015, section 3.

    Args:
        values: those of the map whose gradient is wanted.
        x: the whole map.
        weight, mean, var, eps: of the batch norm.
        grad_weight, grad_bias: gradients of its parameters.
    """
    share = -weight * (var + eps).rsqrt() * x.shape[1] / x.numel()
    line = F.batch_norm(values, mean, var, share * grad_weight, share * grad_bias, eps=eps)
    return line.contiguous(memory_format=torch.channels_last)


class _NormAndPool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        eps: float,
        kernel: Size,
        ceil_mode: bool,
    ) -> Tensor:
        sign = torch.where(weight < 0, -1.0, 1.0).to(x.dtype)[:, None, None] if (weight < 0).any() else None
        largest, index = F.max_pool2d(x if sign is None else x * sign, kernel, ceil_mode=ceil_mode, return_indices=True)
        largest = largest if sign is None else largest * sign
        # Its index in the memory of the map, computed in place: there are many.
        index = index.permute(0, 2, 3, 1).flatten(1, 2)  # in the map of its channel
        clip, channel = (torch.arange(n, device=x.device) for n in x.shape[:2])
        first = clip[:, None, None] * (x.numel() // len(x)) + channel
        where = torch.add(first, index, alpha=x.shape[1], out=index)
        ctx.save_for_backward(x, weight, mean, var, largest, where)
        ctx.eps = eps
        return F.batch_norm(largest, mean, var, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, largest, where = ctx.saved_tensors
        # What it would be if mean and variance were constants, of the few values that are left.
        direct, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, largest, weight, mean, var, None, None, False, ctx.eps, (True, True, True)
        )
        statistics = x, weight, mean, var, grad_weight, grad_bias, ctx.eps
        grad_input = _through_statistics(x, *statistics)
        grad_largest = _through_statistics(largest, *statistics) + direct
        # No value is the largest of two windows, because they do not overlap.
        grad_input.permute(0, 2, 3, 1).view(-1).put_(where, grad_largest.permute(0, 2, 3, 1).reshape(where.shape))
        return grad_input, grad_weight, grad_bias, None, None, None, None, None


def _autocast(*tensors: Tensor | None) -> list[Any]:
    """The tensors in autocast's number format, if it is on."""
    if not torch.is_autocast_enabled("cpu"):
        return list(tensors)
    dtype = torch.get_autocast_dtype("cpu")
    return [None if tensor is None else tensor.to(dtype) for tensor in tensors]
