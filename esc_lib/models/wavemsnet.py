"""WaveMsNet: the waveform through filters of three lengths at once; in phase 2 beside a log-mel spectrogram."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esc_lib.models.blocks import Network, conv_block
from esc_lib.models.logmel import LogMel


def conv(
    n_in: int, n_out: int, kernel: tuple[int, int], *, stride: int = 1, pool: tuple[int, int] | None = None
) -> nn.Sequential:
    """Convolution with bias, padded by half its kernel, batch norm, ReLU and pooling, initialised as by PyTorch.

    Args:
        n_in, n_out: channels.
        kernel, stride: size (bands, samples or frames), and stride along time.
        pool: size of the max-pooling's windows; None for none.

    Shape:
        `(batch, n_in, F, T) -> (batch, n_out, F', T')`
    """
    return conv_block(nn.Conv2d(n_in, n_out, kernel, (1, stride), (kernel[0] // 2, kernel[1] // 2)), pool=pool)


def branch(kernel: int, stride: int, pool: int) -> nn.Sequential:
    """One scale: two convolutions along time and a pooling.

    Args:
        kernel, stride: of the first convolution, in samples.
        pool: frames of this length, in samples of the second convolution's output.

    Shape:
        `(batch, 1, 1, 66150) -> (batch, 32, 1, 441)`
    """
    return nn.Sequential(conv(1, 32, (1, kernel), stride=stride), conv(32, 32, (1, 11), pool=(1, pool)))


class WaveMsNet(Network):
    """Three branches of two convolutions, short and fine to long and coarse, make one map of 96 bands by 441 frames.

    Source: B. Zhu, C. Wang, F. Liu, J. Lei, Z. Huang, Y. Peng, F. Li, "Learning Environmental Sounds with Multi-scale
    Convolutional Neural Network", IJCNN 2018, phase 1, layer by layer as in the authors' code. That code feeds the map
    twice in phase 1, to keep a second input channel for phase 2; here it has one channel, and phase 2 adds the other.

    Shape:
        `(batch, 1, 66150)` waveform at 44.1 kHz, full scale at 1.0 -> `(batch, n_classes)` logits
    """

    SAMPLE_RATE = 44100
    INPUT_SAMPLES = 66150  # 1.5 s
    LENGTHS = (INPUT_SAMPLES,)
    FRONT_END = ("branch1", "branch2", "branch3")
    MAPS = 1

    def __init__(self, n_classes: int):
        super().__init__()
        # Filters of 0.25, 1.2 and 2.3 ms; the longer they are, the larger their stride. All end in 441 frames.
        self.branch1 = branch(11, stride=1, pool=150)
        self.branch2 = branch(51, stride=5, pool=30)
        self.branch3 = branch(101, stride=10, pool=15)
        self.conv3 = conv(self.MAPS, 64, (3, 3), pool=(3, 11))
        self.conv4 = conv(64, 128, (3, 3), pool=(2, 2))
        self.conv5 = conv(128, 256, (3, 3), pool=(2, 2))
        self.conv6 = conv(256, 256, (3, 3), pool=(2, 2))
        self.fc1 = nn.Linear(256 * 4 * 5, 4096)
        self.fc2 = nn.Linear(4096, n_classes)
        self.dropout = nn.Dropout(0.5)

    def features(self, x: Tensor) -> Tensor:
        """The learned map of 3 x 32 bands by 441 frames of 3.4 ms: `(B, 1, 66150)` -> `(B, 1, 96, 441)`."""
        x = x.unsqueeze(2)  # (B, 1, 66150) -> (B, 1, 1, 66150)
        scales = [self.branch1(x), self.branch2(x), self.branch3(x)]  # -> 3 x (B, 32, 1, 441)
        return torch.cat(scales, dim=1).transpose(1, 2)  # -> (B, 1, 96, 441)

    def classify(self, x: Tensor) -> Tensor:
        """From the map to the classes: `(B, 1, 96, 441)` -> `(B, n_classes)` logits."""
        x = self.conv3(x)  # -> (B, 64, 96, 441) -> (B, 64, 32, 40)
        x = self.conv4(x)  # -> (B, 128, 32, 40) -> (B, 128, 16, 20)
        x = self.conv5(x)  # -> (B, 256, 16, 20) -> (B, 256, 8, 10)
        x = self.conv6(x)  # -> (B, 256, 8, 10) -> (B, 256, 4, 5)
        x = x.flatten(1)  # -> (B, 5120)
        x = self.dropout(F.relu(self.fc1(x)))  # -> (B, 4096)
        return self.fc2(x)  # -> (B, n_classes)


class WaveMsNetLogMel(WaveMsNet):
    """WaveMsNet's phase 2: the classifier sees the learned map and a log-mel spectrogram as two channels.

    Source and shape are those of `WaveMsNet`: the spectrogram is computed inside, on the waveform's device.
    """

    MAPS = 2

    def __init__(self, n_classes: int):
        super().__init__(n_classes)
        self.logmel = LogMel(self.SAMPLE_RATE)

    def features(self, x: Tensor) -> Tensor:
        """The learned map and the spectrogram: `(B, 1, 66150)` -> `(B, 2, 96, 441)`."""
        return torch.cat([super().features(x), self.logmel(x)], dim=1)

    def load_phase_1(self, state: dict[str, Tensor]) -> None:
        """Takes over a `WaveMsNet`'s state dict; only conv3's weights for the log-mel spectrogram stay as they were."""
        weight = self.conv3.get_parameter("0.weight").detach().clone()
        weight[:, :1] = state["conv3.0.weight"]
        self.load_state_dict({**state, "conv3.0.weight": weight})
