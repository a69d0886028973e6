"""The M-nets (WaveMxNet): very deep networks of very small filters on the raw waveform, from 3 to 34 layers."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from esc_lib.models.blocks import Network, conv_block

POOL = (1, 4)


def conv(
    n_in: int, n_out: int, kernel: int, *, stride: int = 1, relu: bool = True, pooled: bool = False
) -> nn.Sequential:
    """Convolution along time that keeps the length (divided by the stride), Glorot-uniform at the start, and its norm.

    Args:
        n_in, n_out: channels.
        kernel, stride: along time.
        relu: whether a ReLU follows.
        pooled: whether a max-pooling by four follows; its last window may be shorter.

    Shape:
        `(batch, n_in, 1, T) -> (batch, n_out, 1, T / stride)`, a fourth of that if pooled
    """
    layer = nn.Conv2d(n_in, n_out, (1, kernel), (1, stride), (0, (kernel - stride) // 2))
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.get_parameter("bias"))
    return conv_block(layer, relu=relu, pool=POOL if pooled else None, ceil_mode=True)


class Residual(nn.Module):
    """Two convolutions and a shortcut: conv, norm, ReLU, conv, norm, add, and one more norm after the addition.

    Source: Dai et al., Fig. 1b. The paper does not say how the shortcut widens where the channels double; here they
    are repeated, which needs no parameters and gives the paper's number of them.

    Shape:
        `(batch, in, 1, T) -> (batch, out, 1, T)`, or T / 4 if pooled
    """

    def __init__(self, n_in: int, n_out: int, *, pooled: bool = False):
        super().__init__()
        self.conv1 = conv(n_in, n_out, 3)
        self.conv2 = conv(n_out, n_out, 3, relu=False)
        self.norm = nn.BatchNorm2d(n_out)
        self.pool = nn.MaxPool2d(POOL, ceil_mode=True) if pooled else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(self.conv1(x))
        shortcut = x.repeat(1, h.shape[1] // x.shape[1], 1, 1)
        return F.relu(self.pool(self.norm(h + shortcut)))  # the ReLU last: the same, on fewer values


class WaveMxNet(Network):
    """A first layer of 10 ms filters, then convolutions of three values each, with a pooling by four now and then.

    No fully connected layer but the last: a global average over time turns a clip of any length into one vector.

    Source: W. Dai, C. Dai, S. Qu, J. Li, S. Das, "Very Deep Convolutional Neural Networks for Raw Waveforms",
    ICASSP 2017, Table 1. The paper standardises its input and does not say over what; here it is each waveform, so
    that loudness does not matter. It says Glorot and does not say which; here it is the uniform one.

    Attributes:
        STAGES: output channels of the first layer, then of the layers of each stage. There is a pooling before each
            stage, here at the end of what comes before it. An empty stage is a pooling alone.

    Shape:
        `(batch, 1, samples)` waveform at 8 kHz, 4 samples or more -> `(batch, n_classes)` logits
    """

    SAMPLE_RATE = 8000
    INPUT_SAMPLES = 32000  # 4 s, as long as UrbanSound8K's clips
    LENGTHS: ClassVar[range | tuple[int, ...]] = range(4, 10**9)
    FRONT_END = ("conv1", "stages")
    STAGES: ClassVar[tuple[tuple[int, ...], ...]]

    def __init__(self, n_classes: int):
        super().__init__()
        (width,), *stages = self.STAGES
        self.conv1 = conv(1, width, 80, stride=4, pooled=True)
        self.stages = nn.ModuleList()
        for number, widths in enumerate(stages, 1):
            layers = []
            for i, n_out in enumerate(widths, 1):
                layers.append(self._layer(width, n_out, pooled=i == len(widths) and number < len(stages)))
                width = n_out
            self.stages.append(nn.Sequential(*layers))
        self.fc = nn.Linear(width, n_classes)
        nn.init.xavier_uniform_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def _layer(self, n_in: int, n_out: int, *, pooled: bool) -> nn.Module:
        """What the stages are made of."""
        return conv(n_in, n_out, 3, pooled=pooled)

    def prepare(self, x: Tensor) -> Tensor:
        """Each waveform to mean 0 and standard deviation 1, `(B, 1, T)` -> the same; silence stays 0."""
        return F.layer_norm(x, x.shape[2:], eps=1e-10)

    def features(self, x: Tensor) -> Tensor:
        """The last convolution's map: `(B, 1, T)` -> `(B, channels, 1, T / 1024)`, with five stages."""
        x = self.prepare(x).unsqueeze(2)  # (B, 1, 32000) -> (B, 1, 1, 32000)
        x = self.conv1(x)  # -> (B, channels, 1, 8000) -> (B, channels, 1, 2000)
        for stage in self.stages:  # -> 500 -> 125 -> 32
            x = stage(x)
        return x

    def classify(self, x: Tensor) -> Tensor:
        """The global average over time and the last layer: `(B, channels, 1, T)` -> `(B, n_classes)` logits."""
        return self.fc(x.mean(dim=(2, 3)))


class M3(WaveMxNet):
    STAGES = ((256,), (256,), ())


class M5(WaveMxNet):
    STAGES = ((128,), (128,), (256,), (512,), ())


class M11(WaveMxNet):
    STAGES = ((64,), (64,) * 2, (128,) * 2, (256,) * 3, (512,) * 2)


class M18(WaveMxNet):
    STAGES = ((64,), (64,) * 4, (128,) * 4, (256,) * 4, (512,) * 4)


class M34Res(WaveMxNet):
    STAGES = ((48,), (48,) * 3, (96,) * 4, (192,) * 6, (384,) * 3)

    def _layer(self, n_in: int, n_out: int, *, pooled: bool) -> nn.Module:
        """A residual block."""
        return Residual(n_in, n_out, pooled=pooled)
