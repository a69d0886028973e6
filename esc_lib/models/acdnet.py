"""ACDNet: EnvNet's idea with a picture network behind it that is deep, and small enough for little devices."""

import torch.nn.functional as F
from torch import Tensor, nn

from esc_lib.models.blocks import Conv, check_waveforms, linear


def conv3x3(n_in: int, n_out: int) -> Conv:
    """Convolution of 3 x 3 that keeps the picture's size, and batch norm as PyTorch has it."""
    return Conv(n_in, n_out, (3, 3), padding=(1, 1), eps=1e-5)


class ACDNet(nn.Module):
    """Two strided convolutions learn a spectrogram-like map of 64 bands, ten read it like a picture; no large layers.

    Source: M. Mohaimenuzzaman, C. Bergmeir, I. West, B. Meyer, "Environmental Sound Classification on the Edge: A
    Pipeline for Deep Acoustic Networks on Extremely Resource-Constrained Devices", Pattern Recognition 133, 2023,
    Table 2, and the authors' code. Their network ends in a softmax; here it returns logits, as all others do.

    Args:
        n_classes: number of outputs.

    Shape:
        `(batch, 1, 30225)` waveform at 20 kHz, or `(batch, 1, 66650)` at 44.1 kHz, full scale at 1.0 ->
        `(batch, n_classes)` logits
    """

    SAMPLE_RATE = 20000
    INPUT_SAMPLES = 30225  # 1.5 s
    POOLS = {30225: 50, 66650: 110}  # by input: 10 ms of what conv2 leaves, so that 151 frames come out of both
    LENGTHS = tuple(POOLS)
    FRONT_END = ("conv1", "conv2")

    def __init__(self, n_classes: int):
        super().__init__()
        self.conv1 = Conv(1, 8, (1, 9), stride=(1, 2), eps=1e-5)
        self.conv2 = Conv(8, 64, (1, 5), stride=(1, 2), eps=1e-5)
        self.conv3 = conv3x3(1, 32)
        self.conv4, self.conv5 = conv3x3(32, 64), conv3x3(64, 64)
        self.conv6, self.conv7 = conv3x3(64, 128), conv3x3(128, 128)
        self.conv8, self.conv9 = conv3x3(128, 256), conv3x3(256, 256)
        self.conv10, self.conv11 = conv3x3(256, 512), conv3x3(512, 512)
        self.conv12 = Conv(512, n_classes, (1, 1), eps=1e-5)
        self.fc = linear(n_classes, n_classes)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        check_waveforms(x, self)
        return self.classify(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """The learned time-frequency map: 64 bands by 151 frames of 10 ms."""
        pool = self.POOLS[x.shape[2]]
        x = x.unsqueeze(2)  # (B, 1, 30225) -> (B, 1, 1, 30225)
        x = F.relu(self.conv1(x))  # -> (B, 8, 1, 15109)
        x = F.relu(self.conv2(x, pool=(1, pool)))  # -> (B, 64, 1, 7553) -> (B, 64, 1, 151)
        return x.transpose(1, 2)  # -> (B, 1, 64, 151): the channels become the frequency axis of a picture

    def classify(self, x: Tensor) -> Tensor:
        """What the picture shows: `(B, 1, 64, 151)` -> `(B, n_classes)`."""
        x = F.relu(self.conv3(x, pool=(2, 2)))  # -> (B, 32, 64, 151) -> (B, 32, 32, 75)
        x = F.relu(self.conv5(F.relu(self.conv4(x)), pool=(2, 2)))  # -> (B, 64, 32, 75) -> (B, 64, 16, 37)
        x = F.relu(self.conv7(F.relu(self.conv6(x)), pool=(2, 2)))  # -> (B, 128, 16, 37) -> (B, 128, 8, 18)
        x = F.relu(self.conv9(F.relu(self.conv8(x)), pool=(2, 2)))  # -> (B, 256, 8, 18) -> (B, 256, 4, 9)
        x = F.relu(self.conv11(F.relu(self.conv10(x)), pool=(2, 2)))  # -> (B, 512, 4, 9) -> (B, 512, 2, 4)
        x = F.relu(self.conv12(self.dropout(x)))  # -> (B, n_classes, 2, 4)
        return self.fc(x.mean(dim=(2, 3)))  # -> (B, n_classes)
