"""The M-nets as esc-learner has them: for whole clips of UrbanSound8K, as they are."""

from torch import Tensor, nn

from esc_lib.models.wavemxnet import M3, M5, M11, M18, WaveMxNet


class _AsInEscLearner(WaveMxNet):
    """The same layers as ours, three things apart, so that weights learned there say the same here.

    The waveform is not standardised; no zeros stand around it in the first convolution, and 79 samples more make up for
    them; so the length is one alone.

    Source: github.com/arrrrrmin/esc-learner, 2022.

    Shape:
        `(batch, 1, 32079)` waveform at 8 kHz, full scale at 1.0 -> `(batch, n_classes)` logits
    """

    INPUT_SAMPLES = 32079  # 8000 steps of 4, and what the first filter of 80 uses up
    LENGTHS = (INPUT_SAMPLES,)

    def __init__(self, n_classes: int):
        super().__init__(n_classes)
        self.conv1[0].padding = (0, 0)

    def prepare(self, x: Tensor) -> Tensor:
        """The waveform as it is."""
        return x


class M3EscLearner(_AsInEscLearner, M3):
    pass


class M5EscLearner(_AsInEscLearner, M5):
    pass


class M11EscLearner(_AsInEscLearner, M11):
    pass


class M18EscLearner(_AsInEscLearner, M18):
    pass


NETWORKS: dict[str, type[nn.Module]] = {
    "m3_esclearner": M3EscLearner,
    "m5_esclearner": M5EscLearner,
    "m11_esclearner": M11EscLearner,
    "m18_esclearner": M18EscLearner,
}
