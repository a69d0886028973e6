"""The few pieces that the networks of this course share."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

# Chainer's default, with which the EnvNets were trained; PyTorch's own is 1e-5.
CHAINER_EPS = 2e-5


class Network(nn.Module, ABC):
    """What all networks of the course have in common: `features` makes a map, `classify` turns it into logits.

    Attributes:
        SAMPLE_RATE: of its input, in Hz.
        INPUT_SAMPLES: length of its paper's input.
        LENGTHS: all lengths of input that it takes.
        FRONT_END: names of the layers that stay fixed when only the classifier is trained.

    Shape:
        `(batch, 1, samples)` waveform, full scale at 1.0 -> `(batch, n_classes)` logits

    Raises:
        ValueError: a batch of another shape; the message names the network.
    """

    SAMPLE_RATE: ClassVar[int]
    INPUT_SAMPLES: ClassVar[int]
    LENGTHS: ClassVar[range | tuple[int, ...]]
    FRONT_END: ClassVar[tuple[str, ...]]

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 3 or x.shape[1] != 1 or x.shape[2] not in self.LENGTHS:
            expected = f"(batch, 1, {lengths_text(self.LENGTHS)})"
            raise ValueError(f"{type(self).__name__} takes waveforms of shape {expected}, got {tuple(x.shape)}")
        return self.classify(self.features(x))

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """The map that the front-end computes."""

    @abstractmethod
    def classify(self, x: Tensor) -> Tensor:
        """From the map to the logits."""


def conv_block(
    conv: nn.Conv2d,
    *,
    eps: float = 1e-5,
    relu: bool = True,
    pool: tuple[int, int] | nn.Module | None = None,
    ceil_mode: bool = False,
) -> nn.Sequential:
    """Convolution, batch norm, ReLU and max-pooling, as one `nn.Sequential`.

    Args:
        conv: the convolution.
        eps: of the batch norm.
        relu: whether a ReLU follows it.
        pool: size (bands, frames) of the max-pooling's windows, which do not overlap; or a pooling layer, or None.
        ceil_mode: whether a last, shorter window is pooled too.

    Shape:
        `(batch, in, F, T) -> (batch, out, F', T')`
    """
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(conv.out_channels, eps=eps)]
    if relu:
        layers.append(nn.ReLU())
    if pool is not None:
        layers.append(pool if isinstance(pool, nn.Module) else nn.MaxPool2d(pool, ceil_mode=ceil_mode))
    return nn.Sequential(*layers)


def he_conv(
    n_in: int,
    n_out: int,
    kernel: tuple[int, int],
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
) -> nn.Conv2d:
    """Convolution without bias whose weights start He-normal (He et al., ICCV 2015).

    Args:
        n_in, n_out, kernel, stride, padding: as for `nn.Conv2d`; sizes are (bands, samples or frames).
    """
    conv = nn.Conv2d(n_in, n_out, kernel, stride, padding, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return conv


def linear(n_in: int, n_out: int) -> nn.Linear:
    """Fully connected layer `(B, in) -> (B, out)` that starts with weights of variance 1 / in and biases of zero."""
    layer = nn.Linear(n_in, n_out)
    nn.init.normal_(layer.weight, std=n_in**-0.5)
    nn.init.zeros_(layer.bias)
    return layer


def lengths_text(lengths: range | tuple[int, ...]) -> str:
    """The lengths that a network takes, in words.

    >>> lengths_text((30225, 66650)), lengths_text(range(4, 100))
    ('30225 or 66650', '4 or more')
    """
    return f"{lengths.start} or more" if isinstance(lengths, range) else " or ".join(map(str, lengths))
