"""The few pieces that the networks of this course share."""

from torch import Tensor, nn

# Chainer's default, with which the EnvNets were trained; PyTorch's own is 1e-5.
BATCH_NORM_EPS = 2e-5


class Conv(nn.Sequential):
    """Convolution without padding or bias, then batch norm: `(B, in, F, T) -> (B, out, F - f + 1, T - t + 1)`.

    The ReLU that follows is left to the network, because max-pool and ReLU may change places without changing the
    result, and pooling first is less work.
    """

    def __init__(self, n_in: int, n_out: int, kernel: tuple[int, int]):
        conv = nn.Conv2d(n_in, n_out, kernel, bias=False)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # He et al., ICCV 2015
        super().__init__(conv, nn.BatchNorm2d(n_out, eps=BATCH_NORM_EPS))


def linear(n_in: int, n_out: int) -> nn.Linear:
    """Fully connected layer `(B, in) -> (B, out)` that begins with weights of variance 1 / in and biases of zero."""
    layer = nn.Linear(n_in, n_out)
    nn.init.normal_(layer.weight, std=n_in**-0.5)
    nn.init.zeros_(layer.bias)
    return layer


def check_waveforms(x: Tensor, samples: int, name: str) -> None:
    """Refuses what is not `(batch, 1, samples)`, naming the network.

    Raises:
        ValueError: the shape does not fit.
    """
    if x.ndim != 3 or x.shape[1] != 1 or x.shape[2] != samples:
        raise ValueError(f"{name} takes waveforms of shape (batch, 1, {samples}), got {tuple(x.shape)}")
