"""The M-nets (WaveMxNet): very deep networks of very small filters on the raw waveform, from 3 to 34 layers."""

import torch.nn.functional as F
from torch import Tensor, nn

from esc_lib.models.blocks import ConvNorm, check_waveforms
from esc_lib.models.convolution import Conv2d, norm_and_pool

POOL = (1, 4)


def conv(n_in: int, n_out: int, kernel: int, stride: int = 1) -> ConvNorm:
    """Convolution along time that keeps the length (divided by the stride), Glorot at the start, then batch norm."""
    layer = Conv2d(n_in, n_out, (1, kernel), (1, stride), (0, (kernel - stride) // 2))
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return ConvNorm(layer, nn.BatchNorm2d(n_out))


class Residual(nn.Module):
    """Two convolutions and a way around them: conv, norm, ReLU, conv, norm, add, and one more norm after the addition.

    Source: Dai et al., Fig. 1b. The paper does not say how the way around widens where the channels double; here they
    are repeated, which needs no weights and gives the paper's number of them.

    Shape:
        `(batch, in, 1, T) -> (batch, out, 1, T)`
    """

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.conv1 = conv(n_in, n_out, 3)
        self.conv2 = conv(n_out, n_out, 3)
        self.norm = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor, pool: tuple[int, int] | None = None, ceil_mode: bool = False) -> Tensor:
        h = self.conv2(F.relu(self.conv1(x)))
        around = x.repeat(1, h.shape[1] // x.shape[1], 1, 1)
        h = h + around
        return self.norm(h) if pool is None else norm_and_pool(h, self.norm, pool, ceil_mode)


class WaveMxNet(nn.Module):
    """A first layer of 10 ms filters, then convolutions of three values each, with a pooling by four now and then.

    No fully connected layers but the last: a global average over time makes a clip of any length one vector.

    Source: W. Dai, C. Dai, S. Qu, J. Li, S. Das, "Very Deep Convolutional Neural Networks for Raw Waveforms",
    ICASSP 2017, Table 1. The paper standardises its input and does not say over what; here it is each waveform, so
    that loudness does not matter. It says Glorot and does not say which; here it is the uniform one.

    Attributes:
        STAGES: output channels of the first layer, then of the layers of each stage; a pooling stands before each
            stage. An empty stage is a pooling alone.

    Args:
        n_classes: number of outputs.

    Shape:
        `(batch, 1, samples)` waveform at 8 kHz, 4 samples or more -> `(batch, n_classes)` logits
    """

    SAMPLE_RATE = 8000
    INPUT_SAMPLES = 32000  # 4 s, as long as UrbanSound8K's clips
    LENGTHS = range(4, 10**9)
    FRONT_END = ("conv1", "stages")
    STAGES: tuple[tuple[int, ...], ...]

    def __init__(self, n_classes: int):
        super().__init__()
        (width,), *stages = self.STAGES
        self.conv1 = conv(1, width, 80, stride=4)
        self.stages = nn.ModuleList()
        for widths in stages:
            self.stages.append(nn.Sequential())
            for n_out in widths:
                self.stages[-1].append(self.layer(width, n_out))
                width = n_out
        self.fc = nn.Linear(width, n_classes)
        nn.init.xavier_uniform_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def layer(self, n_in: int, n_out: int) -> nn.Module:
        """What the stages are made of."""
        return conv(n_in, n_out, 3)

    def forward(self, x: Tensor) -> Tensor:
        check_waveforms(x, self)
        return self.classify(self.features(x))

    def prepare(self, x: Tensor) -> Tensor:
        """Each waveform to mean 0 and deviation 1; silence stays 0."""
        return F.layer_norm(x, x.shape[2:], eps=1e-10)

    def features(self, x: Tensor) -> Tensor:
        """What the convolutions find: `(B, 1, T)` -> `(B, channels, 1, T / 1024)`, with five stages."""
        x = self.prepare(x).unsqueeze(2)  # (B, 1, 32000) -> (B, 1, 1, 32000)
        x = F.relu(self.conv1(x, pool=POOL, ceil_mode=True))  # -> (B, channels, 1, 8000) -> (B, channels, 1, 2000)
        for stage in self.stages:  # -> 500 -> 125 -> 32
            for i, layer in enumerate(stage, 1):
                pooled = i == len(stage) and stage is not self.stages[-1]
                x = F.relu(layer(x, pool=POOL if pooled else None, ceil_mode=True))
        return x

    def classify(self, x: Tensor) -> Tensor:
        """The global average over time and the last layer: `(B, channels, 1, T)` -> `(B, n_classes)`."""
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

    def layer(self, n_in: int, n_out: int) -> nn.Module:
        return Residual(n_in, n_out)
