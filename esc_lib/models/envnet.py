"""EnvNet, one of the first networks that learned environmental sounds from the raw waveform end to end."""

import torch.nn.functional as F
from torch import Tensor, nn

from esc_lib.models.blocks import Conv, check_waveforms, linear


class EnvNet(nn.Module):
    """Two convolutions along time learn a spectrogram-like map, two more read it like a picture, three layers decide.

    Source: Y. Tokozume, T. Harada, "Learning Environmental Sounds with End-to-End Convolutional Neural Network",
    ICASSP 2017, layer by layer as in the authors' code for "Learning from Between-class Examples for Deep Sound
    Recognition", ICLR 2018. The convolutions begin as in that code (He). How the fully connected layers begin
    (variance 1 / inputs, zero bias) is not stated there; it is our choice.

    Args:
        n_classes: number of outputs.

    Shape:
        `(batch, 1, 24014)` waveform at 16 kHz, full scale at 1.0 -> `(batch, n_classes)` logits
    """

    SAMPLE_RATE = 16000
    INPUT_SAMPLES = 24014  # 1.5 s, and 14 more that the two first convolutions use up
    LENGTHS = (INPUT_SAMPLES,)
    FRONT_END = ("conv1", "conv2")

    def __init__(self, n_classes: int):
        super().__init__()
        self.conv1 = Conv(1, 40, (1, 8))  # 40 filters of 0.5 ms
        self.conv2 = Conv(40, 40, (1, 8))
        self.conv3 = Conv(1, 50, (8, 13))  # 8 of the 40 learned bands by 130 ms
        self.conv4 = Conv(50, 50, (1, 5))
        self.fc5 = linear(50 * 11 * 14, 4096)
        self.fc6 = linear(4096, 4096)
        self.fc7 = linear(4096, n_classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        check_waveforms(x, self)
        return self.classify(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """The learned time-frequency map: 40 bands by 150 frames of 10 ms."""
        x = x.unsqueeze(2)  # (B, 1, 24014) -> (B, 1, 1, 24014)
        x = F.relu(self.conv1(x))  # -> (B, 40, 1, 24007)
        x = F.relu(self.conv2(x, pool=(1, 160)))  # -> (B, 40, 1, 24000) -> (B, 40, 1, 150)
        return x.transpose(1, 2)  # -> (B, 1, 40, 150): the channels become the frequency axis of a picture

    def classify(self, x: Tensor) -> Tensor:
        """What the picture shows: `(B, 1, 40, 150)` -> `(B, n_classes)`."""
        x = F.relu(self.conv3(x, pool=(3, 3)))  # -> (B, 50, 33, 138) -> (B, 50, 11, 46)
        x = F.relu(self.conv4(x, pool=(1, 3)))  # -> (B, 50, 11, 42) -> (B, 50, 11, 14)
        x = x.flatten(1)  # -> (B, 7700)
        x = self.dropout(F.relu(self.fc5(x)))  # -> (B, 4096)
        x = self.dropout(F.relu(self.fc6(x)))  # -> (B, 4096)
        return self.fc7(x)  # -> (B, n_classes)
