"""The networks: one file a family, and here their names."""

from torch import nn

from esc_lib.models.acdnet import ACDNet
from esc_lib.models.envnet import EnvNet
from esc_lib.models.envnetv2 import EnvNetV2
from esc_lib.models.esclearner import M3EscLearner, M5EscLearner, M11EscLearner, M18EscLearner
from esc_lib.models.wavemsnet import WaveMsNet, WaveMsNetLogMel
from esc_lib.models.wavemxnet import M3, M5, M11, M18, M34Res

ARCHITECTURES = {
    "envnet": EnvNet,
    "envnetv2": EnvNetV2,
    "wavemsnet": WaveMsNet,
    "wavemsnet_logmel": WaveMsNetLogMel,
    "m3": M3,
    "m5": M5,
    "m11": M11,
    "m18": M18,
    "m34res": M34Res,
    "acdnet": ACDNet,
}
# Not networks of a paper: what the runs of an older project were trained with.
ESC_LEARNER = {
    "m3_esclearner": M3EscLearner,
    "m5_esclearner": M5EscLearner,
    "m11_esclearner": M11EscLearner,
    "m18_esclearner": M18EscLearner,
}


def get_architecture(name: str) -> type[nn.Module]:
    """The network's class.

    It knows the `SAMPLE_RATE` (Hz) and `INPUT_SAMPLES` of its paper, all `LENGTHS` of input that it takes, and the
    names of the layers that are its `FRONT_END`: what stays as it is when only the classifier learns.

    Raises:
        ValueError: no such network; the message lists those there are.
    """
    known = ARCHITECTURES | ESC_LEARNER
    if name not in known:
        raise ValueError(f"unknown architecture {name!r}: choose one of {', '.join(known)}")
    return known[name]


def build_model(name: str, n_classes: int) -> nn.Module:
    """A network with fresh random weights (drawn from torch's global generator).

    Args:
        name: one of `ARCHITECTURES`: "envnet", "envnetv2", "wavemsnet", "wavemsnet_logmel", "m3", "m5", "m11",
            "m18", "m34res" or "acdnet"; or of `ESC_LEARNER`.
        n_classes: number of outputs, at least 2.

    Shape:
        the network takes `(batch, 1, samples)` waveforms and returns `(batch, n_classes)` logits

    >>> sum(p.numel() for p in build_model("m5", 10).parameters())
    559114
    """
    if n_classes < 2:
        raise ValueError(f"n_classes is {n_classes}: a classifier needs at least 2 classes")
    return get_architecture(name)(n_classes)
