"""The few pieces that the networks of this course share."""

from collections.abc import Container

import torch.nn.functional as F
from torch import Tensor, nn

from esc_lib.models.convolution import Conv2d, conv_and_norm, norm_and_pool

# Chainer's default, with which the EnvNets were trained; PyTorch's own is 1e-5.
CHAINER_EPS = 2e-5


class ConvNorm(nn.Sequential):
    """A convolution and its batch norm, with a max-pool behind them if asked for.

    The ReLU that follows is left to the network, because max-pool and ReLU may change places without changing the
    result, and pooling first is less work.

    Shape:
        `(batch, in, F, T) -> (batch, out, F', T')`
    """

    def forward(self, x: Tensor, pool: tuple[int, int] | None = None, ceil_mode: bool = False) -> Tensor:
        conv, norm = self
        if pool is None:
            return conv_and_norm(x, conv, norm)
        if norm.training:
            return norm_and_pool(conv(x, bias_moves=False), norm, pool, ceil_mode)
        return F.max_pool2d(conv_and_norm(x, conv, norm), pool, ceil_mode=ceil_mode)


class Conv(ConvNorm):
    """Convolution without bias, He-normal at the start, then batch norm."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        eps: float = CHAINER_EPS,
    ):
        conv = Conv2d(n_in, n_out, kernel, stride, padding, bias=False)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # He et al., ICCV 2015
        super().__init__(conv, nn.BatchNorm2d(n_out, eps=eps))


def linear(n_in: int, n_out: int) -> nn.Linear:
    """Fully connected layer `(B, in) -> (B, out)` that begins with weights of variance 1 / in and biases of zero."""
    layer = nn.Linear(n_in, n_out)
    nn.init.normal_(layer.weight, std=n_in**-0.5)
    nn.init.zeros_(layer.bias)
    return layer


def check_waveforms(x: Tensor, network: nn.Module) -> None:
    """Refuses what is not `(batch, 1, samples)` with one of the network's `LENGTHS`, naming the network.

    Raises:
        ValueError: the shape does not fit.
    """
    if x.ndim != 3 or x.shape[1] != 1 or x.shape[2] not in network.LENGTHS:
        raise ValueError(
            f"{type(network).__name__} takes waveforms of shape (batch, 1, {lengths_text(network.LENGTHS)}), "
            f"got {tuple(x.shape)}"
        )


def lengths_text(lengths: Container[int]) -> str:
    """The lengths that a network takes, in words.

    >>> lengths_text((30225, 66650)), lengths_text(range(4, 100))
    ('30225 or 66650', '4 or more')
    """
    return f"{lengths.start} or more" if isinstance(lengths, range) else " or ".join(map(str, lengths))
