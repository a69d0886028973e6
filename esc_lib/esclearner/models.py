"""esc-learner's networks, where they differ from the papers'; its EnvNets are the same but for a constant."""

from typing import Any, cast

from torch import Tensor, nn

from esc_lib.models.blocks import Network, conv_block
from esc_lib.models.wavemsnet import WaveMsNet
from esc_lib.models.wavemxnet import M3, M5, M11, M18, WaveMxNet


class EscLearnerMNet(WaveMxNet):
    """An M-net with the paper's layers, and two differences, so that esc-learner's weights give the same logits here.

    The waveform is not standardised. The first convolution is unpadded, and 79 more samples make up for it; esc-learner
    averages over a fixed number of frames, so the input has this one length.

    Shape:
        `(batch, 1, 32079)` waveform at 8 kHz, full scale at 1.0 -> `(batch, n_classes)` logits
    """

    INPUT_SAMPLES = 32079  # 8000 strides of 4, and what the first filter of 80 uses up
    LENGTHS = (INPUT_SAMPLES,)

    def __init__(self, n_classes: int):
        super().__init__(n_classes)
        cast(nn.Conv2d, self.conv1[0]).padding = (0, 0)

    def prepare(self, x: Tensor) -> Tensor:
        """The waveform as it is."""
        return x


class M3EscLearner(EscLearnerMNet, M3):
    pass


class M5EscLearner(EscLearnerMNet, M5):
    pass


class M11EscLearner(EscLearnerMNet, M11):
    pass


class M18EscLearner(EscLearnerMNet, M18):
    pass


def conv(
    n_in: int, n_out: int, kernel: tuple[int, int], *, stride: int = 1, pool: tuple[int, int] | None = None
) -> nn.Sequential:
    """The paper's, unpadded.

    Args:
        n_in, n_out, kernel, stride, pool: as for `esc_lib.models.wavemsnet.conv`.
    """
    return conv_block(nn.Conv2d(n_in, n_out, kernel, (1, stride)), pool=pool)


def branch(kernel: int, stride: int, pool: int) -> nn.Sequential:
    """One scale: two convolutions along time and a padded pooling, `(B, 1, 1, 66250)` -> `(B, 32, 1, 441)`.

    Args:
        kernel, stride, pool: as for `esc_lib.models.wavemsnet.branch`.
    """
    return nn.Sequential(
        conv(1, 32, (1, kernel), stride=stride),
        conv(32, 32, (1, 11)),
        nn.MaxPool2d((1, pool), padding=(0, 6)),  # 6 frames on both sides, for the 441st
    )


class WaveMsNetEscLearner(Network):
    """WaveMsNet without its padding: no convolution is padded, so the input is longer and a third as many parameters.

    The paper's is `esc_lib.models.wavemsnet.WaveMsNet`. At 50 classes it has 22,181,202 parameters, this one 7,501,138:
    unpadded, the 3x3 convolutions leave a map of 2 by 3 for the classifier instead of 4 by 5.

    Shape:
        `(batch, 1, 66250)` waveform at 44.1 kHz, full scale at 1.0 -> `(batch, n_classes)` logits
    """

    SAMPLE_RATE = 44100
    INPUT_SAMPLES = 66250  # 1.5 s, and 100 more for the convolutions
    LENGTHS = (INPUT_SAMPLES,)
    FRONT_END = ("branch1", "branch2", "branch3")

    def __init__(self, n_classes: int):
        super().__init__()
        self.branch1 = branch(11, stride=1, pool=150)
        self.branch2 = branch(51, stride=5, pool=30)
        self.branch3 = branch(101, stride=10, pool=15)
        self.conv3 = conv(1, 64, (3, 3), pool=(3, 11))  # -> (B, 64, 94, 439) -> (B, 64, 31, 39)
        self.conv4 = conv(64, 128, (3, 3), pool=(2, 2))  # -> (B, 128, 29, 37) -> (B, 128, 14, 18)
        self.conv5 = conv(128, 256, (3, 3), pool=(2, 2))  # -> (B, 256, 12, 16) -> (B, 256, 6, 8)
        self.conv6 = conv(256, 256, (3, 3), pool=(2, 2))  # -> (B, 256, 4, 6) -> (B, 256, 2, 3)
        self.fc1 = nn.Linear(256 * 2 * 3, 4096)
        self.fc2 = nn.Linear(4096, n_classes)
        self.dropout = nn.Dropout(0.5)

    # The paper's operations, on maps of other sizes.
    features = cast(Any, WaveMsNet.features)  # -> (B, 1, 96, 441)
    classify = cast(Any, WaveMsNet.classify)


M_NETS: dict[str, type[Network]] = {
    "m3_esclearner": M3EscLearner,
    "m5_esclearner": M5EscLearner,
    "m11_esclearner": M11EscLearner,
    "m18_esclearner": M18EscLearner,
}
NETWORKS: dict[str, type[Network]] = {**M_NETS, "wavemsnet_esclearner": WaveMsNetEscLearner}
