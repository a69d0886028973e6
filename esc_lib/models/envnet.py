"""EnvNet, one of the first networks that learned environmental sounds from the raw waveform end to end."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from esc_lib.models.blocks import CHAINER_EPS, Network, conv_block, he_conv, linear


class EnvNet(Network):
    """Two convolutions along time learn a map like a spectrogram, two more find patterns in it, three layers classify.

    Source: Y. Tokozume, T. Harada, "Learning Environmental Sounds with End-to-End Convolutional Neural Network",
    ICASSP 2017, layer by layer as in the authors' code for "Learning from Between-class Examples for Deep Sound
    Recognition", ICLR 2018, with its He initialisation. How the fully connected layers start (variance 1 / inputs,
    zero bias) is not stated there; it is our choice.

    Shape:
        `(batch, 1, 24014)` waveform at 16 kHz, full scale at 1.0 -> `(batch, n_classes)` logits
    """

    SAMPLE_RATE = 16000
    INPUT_SAMPLES = 24014  # 1.5 s, and 14 more that the first two convolutions use up
    LENGTHS = (INPUT_SAMPLES,)
    FRONT_END: ClassVar[tuple[str, ...]] = ("conv1", "conv2")

    def __init__(self, n_classes: int):
        super().__init__()
        self.conv1 = conv_block(he_conv(1, 40, (1, 8)), eps=CHAINER_EPS)  # 40 filters of 0.5 ms
        self.conv2 = conv_block(he_conv(40, 40, (1, 8)), eps=CHAINER_EPS, pool=(1, 160))  # 10 ms a frame
        self.conv3 = conv_block(he_conv(1, 50, (8, 13)), eps=CHAINER_EPS, pool=(3, 3))  # 8 of 40 bands by 130 ms
        self.conv4 = conv_block(he_conv(50, 50, (1, 5)), eps=CHAINER_EPS, pool=(1, 3))
        self.fc5 = linear(50 * 11 * 14, 4096)
        self.fc6 = linear(4096, 4096)
        self.fc7 = linear(4096, n_classes)
        self.dropout = nn.Dropout(0.5)

    def features(self, x: Tensor) -> Tensor:
        """The learned map of 40 bands by 150 frames of 10 ms: `(B, 1, 24014)` -> `(B, 1, 40, 150)`."""
        x = x.unsqueeze(2)  # (B, 1, 24014) -> (B, 1, 1, 24014)
        x = self.conv1(x)  # -> (B, 40, 1, 24007)
        x = self.conv2(x)  # -> (B, 40, 1, 24000) -> (B, 40, 1, 150)
        return x.transpose(1, 2)  # -> (B, 1, 40, 150): the channels become the frequency axis of a single-channel image

    def classify(self, x: Tensor) -> Tensor:
        """From the map to the classes: `(B, 1, 40, 150)` -> `(B, n_classes)` logits."""
        x = self.conv3(x)  # -> (B, 50, 33, 138) -> (B, 50, 11, 46)
        x = self.conv4(x)  # -> (B, 50, 11, 42) -> (B, 50, 11, 14)
        x = x.flatten(1)  # -> (B, 7700)
        x = self.dropout(F.relu(self.fc5(x)))  # -> (B, 4096)
        x = self.dropout(F.relu(self.fc6(x)))  # -> (B, 4096)
        return self.fc7(x)  # -> (B, n_classes)
