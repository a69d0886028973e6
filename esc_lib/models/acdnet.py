"""ACDNet: EnvNet's idea with a deep convolutional classifier behind it, small enough for microcontrollers."""

import torch.nn.functional as F
from torch import Tensor, nn

from esc_lib.models.blocks import Network, conv_block, he_conv, linear


def conv3x3(n_in: int, n_out: int, *, pool: tuple[int, int] | None = None) -> nn.Sequential:
    """Convolution of 3 x 3 that keeps the map's size, batch norm, ReLU and pooling.

    Args:
        n_in, n_out, pool: channels, and the size (bands, frames) of the max-pooling's windows, None for none.

    Shape:
        `(batch, n_in, F, T) -> (batch, n_out, F', T')`
    """
    return conv_block(he_conv(n_in, n_out, (3, 3), padding=(1, 1)), pool=pool)


class PoolToFrames(nn.Module):
    """Max-pooling along time over windows of equal length, as many as asked for.

    Shape:
        `(batch, channels, F, T) -> (batch, channels, F, frames)`
    """

    def __init__(self, frames: int):
        super().__init__()
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel(x))

    def kernel(self, x: Tensor) -> tuple[int, int]:
        """Size (bands, samples) of a window."""
        return 1, x.shape[3] // self.frames


class ACDNet(Network):
    """Two strided convolutions learn a map of 64 bands like a spectrogram, ten classify it; there is no large layer.

    Source: M. Mohaimenuzzaman, C. Bergmeir, I. West, B. Meyer, "Environmental Sound Classification on the Edge: A
    Pipeline for Deep Acoustic Networks on Extremely Resource-Constrained Devices", Pattern Recognition 133, 2023,
    Table 2, and the authors' code. Their network ends in a softmax; here it returns logits, as all others do.

    Shape:
        `(batch, 1, 30225)` waveform at 20 kHz, or `(batch, 1, 66650)` at 44.1 kHz, full scale at 1.0 ->
        `(batch, n_classes)` logits
    """

    SAMPLE_RATE = 20000
    INPUT_SAMPLES = 30225  # 1.5 s
    LENGTHS = (INPUT_SAMPLES, 66650)
    FRONT_END = ("conv1", "conv2")

    def __init__(self, n_classes: int):
        super().__init__()
        self.conv1 = conv_block(he_conv(1, 8, (1, 9), stride=(1, 2)))
        self.conv2 = conv_block(he_conv(8, 64, (1, 5), stride=(1, 2)), pool=PoolToFrames(151))  # 10 ms a frame
        self.conv3 = conv3x3(1, 32, pool=(2, 2))
        self.conv4, self.conv5 = conv3x3(32, 64), conv3x3(64, 64, pool=(2, 2))
        self.conv6, self.conv7 = conv3x3(64, 128), conv3x3(128, 128, pool=(2, 2))
        self.conv8, self.conv9 = conv3x3(128, 256), conv3x3(256, 256, pool=(2, 2))
        self.conv10, self.conv11 = conv3x3(256, 512), conv3x3(512, 512, pool=(2, 2))
        self.conv12 = conv_block(he_conv(512, n_classes, (1, 1)))
        self.fc = linear(n_classes, n_classes)
        self.dropout = nn.Dropout(0.2)

    def features(self, x: Tensor) -> Tensor:
        """The learned map of 64 bands by 151 frames of 10 ms: `(B, 1, 30225)` -> `(B, 1, 64, 151)`."""
        x = x.unsqueeze(2)  # (B, 1, 30225) -> (B, 1, 1, 30225)
        x = self.conv1(x)  # -> (B, 8, 1, 15109)
        x = self.conv2(x)  # -> (B, 64, 1, 7553) -> (B, 64, 1, 151)
        return x.transpose(1, 2)  # -> (B, 1, 64, 151): the channels become the frequency axis of a single-channel image

    def classify(self, x: Tensor) -> Tensor:
        """From the map to the classes: `(B, 1, 64, 151)` -> `(B, n_classes)` logits."""
        x = self.conv3(x)  # -> (B, 32, 64, 151) -> (B, 32, 32, 75)
        x = self.conv5(self.conv4(x))  # -> (B, 64, 32, 75) -> (B, 64, 16, 37)
        x = self.conv7(self.conv6(x))  # -> (B, 128, 16, 37) -> (B, 128, 8, 18)
        x = self.conv9(self.conv8(x))  # -> (B, 256, 8, 18) -> (B, 256, 4, 9)
        x = self.conv11(self.conv10(x))  # -> (B, 512, 4, 9) -> (B, 512, 2, 4)
        x = self.conv12(self.dropout(x))  # -> (B, n_classes, 2, 4)
        return self.fc(x.mean(dim=(2, 3)))  # -> (B, n_classes)
