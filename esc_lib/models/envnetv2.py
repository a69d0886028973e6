"""EnvNet-v2: EnvNet at the full sampling rate, and deeper."""

import torch.nn.functional as F
from torch import Tensor, nn

from esc_lib.models.blocks import CHAINER_EPS, Network, conv_block, he_conv, linear


def conv(
    n_in: int, n_out: int, kernel: tuple[int, int], *, stride: int = 1, pool: tuple[int, int] | None = None
) -> nn.Sequential:
    """Unpadded convolution, batch norm, ReLU and pooling, as the authors' Chainer code has them.

    Args:
        n_in, n_out: channels.
        kernel, stride: size (bands, samples or frames), and stride along time.
        pool: size of the max-pooling's windows; None for none.

    Shape:
        `(batch, n_in, F, T) -> (batch, n_out, F', T')`
    """
    return conv_block(he_conv(n_in, n_out, kernel, stride=(1, stride)), eps=CHAINER_EPS, pool=pool)


class EnvNetV2(Network):
    """Two strided convolutions learn a map like a spectrogram, eight find patterns in it, three layers classify.

    Source: Y. Tokozume, Y. Ushiku, T. Harada, "Learning from Between-class Examples for Deep Sound Recognition",
    ICLR 2018, layer by layer as in the authors' code, with its He initialisation. How the fully connected layers start
    (variance 1 / inputs, zero bias) is not stated there; it is our choice.

    Shape:
        `(batch, 1, 66650)` waveform at 44.1 kHz, full scale at 1.0 -> `(batch, n_classes)` logits
    """

    SAMPLE_RATE = 44100
    INPUT_SAMPLES = 66650  # 1.5 s, and what the first two convolutions use up
    LENGTHS = (INPUT_SAMPLES,)
    FRONT_END = ("conv1", "conv2")

    def __init__(self, n_classes: int):
        super().__init__()
        self.conv1 = conv(1, 32, (1, 64), stride=2)  # 32 filters of 1.5 ms
        self.conv2 = conv(32, 64, (1, 16), stride=2, pool=(1, 64))
        self.conv3 = conv(1, 32, (8, 8))  # 8 of the 64 learned bands by 46 ms
        self.conv4 = conv(32, 32, (8, 8), pool=(5, 3))
        self.conv5, self.conv6 = conv(32, 64, (1, 4)), conv(64, 64, (1, 4), pool=(1, 2))
        self.conv7, self.conv8 = conv(64, 128, (1, 2)), conv(128, 128, (1, 2), pool=(1, 2))
        self.conv9, self.conv10 = conv(128, 256, (1, 2)), conv(256, 256, (1, 2), pool=(1, 2))
        self.fc11 = linear(256 * 10 * 8, 4096)
        self.fc12 = linear(4096, 4096)
        self.fc13 = linear(4096, n_classes)
        self.dropout = nn.Dropout(0.5)

    def features(self, x: Tensor) -> Tensor:
        """The learned map of 64 bands by 260 frames of 5.8 ms: `(B, 1, 66650)` -> `(B, 1, 64, 260)`."""
        x = x.unsqueeze(2)  # (B, 1, 66650) -> (B, 1, 1, 66650)
        x = self.conv1(x)  # -> (B, 32, 1, 33294)
        x = self.conv2(x)  # -> (B, 64, 1, 16640) -> (B, 64, 1, 260)
        return x.transpose(1, 2)  # -> (B, 1, 64, 260): the channels become the frequency axis of a single-channel image

    def classify(self, x: Tensor) -> Tensor:
        """From the map to the classes: `(B, 1, 64, 260)` -> `(B, n_classes)` logits."""
        x = self.conv4(self.conv3(x))  # -> (B, 32, 57, 253) -> (B, 32, 50, 246) -> (B, 32, 10, 82)
        x = self.conv6(self.conv5(x))  # -> (B, 64, 10, 79) -> (B, 64, 10, 76) -> (B, 64, 10, 38)
        x = self.conv8(self.conv7(x))  # -> (B, 128, 10, 37) -> (B, 128, 10, 36) -> (B, 128, 10, 18)
        x = self.conv10(self.conv9(x))  # -> (B, 256, 10, 17) -> (B, 256, 10, 16) -> (B, 256, 10, 8)
        x = x.flatten(1)  # -> (B, 20480)
        x = self.dropout(F.relu(self.fc11(x)))  # -> (B, 4096)
        x = self.dropout(F.relu(self.fc12(x)))  # -> (B, 4096)
        return self.fc13(x)  # -> (B, n_classes)
