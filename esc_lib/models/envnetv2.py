"""EnvNet-v2: EnvNet at the full sampling rate, and deeper."""

import torch.nn.functional as F
from torch import Tensor, nn

from esc_lib.models.blocks import Conv, check_waveforms, linear


class EnvNetV2(nn.Module):
    """Two strided convolutions learn a spectrogram-like map, eight read it like a picture, three layers decide.

    Source: Y. Tokozume, Y. Ushiku, T. Harada, "Learning from Between-class Examples for Deep Sound Recognition",
    ICLR 2018, layer by layer as in the authors' code. The convolutions begin as in that code (He). How the fully
    connected layers begin (variance 1 / inputs, zero bias) is not stated there; it is our choice.

    Args:
        n_classes: number of outputs.

    Shape:
        `(batch, 1, 66650)` waveform at 44.1 kHz, full scale at 1.0 -> `(batch, n_classes)` logits
    """

    SAMPLE_RATE = 44100
    INPUT_SAMPLES = 66650  # 1.5 s, and what the two first convolutions use up
    LENGTHS = (INPUT_SAMPLES,)
    FRONT_END = ("conv1", "conv2")

    def __init__(self, n_classes: int):
        super().__init__()
        self.conv1 = Conv(1, 32, (1, 64), stride=(1, 2))  # 32 filters of 1.5 ms
        self.conv2 = Conv(32, 64, (1, 16), stride=(1, 2))
        self.conv3 = Conv(1, 32, (8, 8))  # 8 of the 64 learned bands by 46 ms
        self.conv4 = Conv(32, 32, (8, 8))
        self.conv5, self.conv6 = Conv(32, 64, (1, 4)), Conv(64, 64, (1, 4))
        self.conv7, self.conv8 = Conv(64, 128, (1, 2)), Conv(128, 128, (1, 2))
        self.conv9, self.conv10 = Conv(128, 256, (1, 2)), Conv(256, 256, (1, 2))
        self.fc11 = linear(256 * 10 * 8, 4096)
        self.fc12 = linear(4096, 4096)
        self.fc13 = linear(4096, n_classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        check_waveforms(x, self)
        return self.classify(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """The learned time-frequency map: 64 bands by 260 frames of 5.8 ms."""
        x = x.unsqueeze(2)  # (B, 1, 66650) -> (B, 1, 1, 66650)
        x = F.relu(self.conv1(x))  # -> (B, 32, 1, 33294)
        x = F.relu(self.conv2(x, pool=(1, 64)))  # -> (B, 64, 1, 16640) -> (B, 64, 1, 260)
        return x.transpose(1, 2)  # -> (B, 1, 64, 260): the channels become the frequency axis of a picture

    def classify(self, x: Tensor) -> Tensor:
        """What the picture shows: `(B, 1, 64, 260)` -> `(B, n_classes)`."""
        x = F.relu(self.conv3(x))  # -> (B, 32, 57, 253)
        x = F.relu(self.conv4(x, pool=(5, 3)))  # -> (B, 32, 50, 246) -> (B, 32, 10, 82)
        x = F.relu(self.conv5(x))  # -> (B, 64, 10, 79)
        x = F.relu(self.conv6(x, pool=(1, 2)))  # -> (B, 64, 10, 76) -> (B, 64, 10, 38)
        x = F.relu(self.conv7(x))  # -> (B, 128, 10, 37)
        x = F.relu(self.conv8(x, pool=(1, 2)))  # -> (B, 128, 10, 36) -> (B, 128, 10, 18)
        x = F.relu(self.conv9(x))  # -> (B, 256, 10, 17)
        x = F.relu(self.conv10(x, pool=(1, 2)))  # -> (B, 256, 10, 16) -> (B, 256, 10, 8)
        x = x.flatten(1)  # -> (B, 20480)
        x = self.dropout(F.relu(self.fc11(x)))  # -> (B, 4096)
        x = self.dropout(F.relu(self.fc12(x)))  # -> (B, 4096)
        return self.fc13(x)  # -> (B, n_classes)
