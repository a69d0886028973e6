"""The networks, one file a family, in plain PyTorch: every layer can be hooked, exported and differentiated twice.

`build_model` makes one by its name. `cpu.accelerate` computes the same network faster, from outside.
"""

from esc_lib.arguments import check
from esc_lib.models.acdnet import ACDNet
from esc_lib.models.blocks import Network
from esc_lib.models.envnet import EnvNet
from esc_lib.models.envnetv2 import EnvNetV2
from esc_lib.models.logmel import LogMelCNN, LogMelM5
from esc_lib.models.wavemsnet import WaveMsNet, WaveMsNetLogMel
from esc_lib.models.wavemxnet import M3, M5, M11, M18, M34Res

__all__ = ["ARCHITECTURES", "build_model", "get_architecture"]

ARCHITECTURES: dict[str, type[Network]] = {
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
    "logmel_cnn": LogMelCNN,
    "logmel_m5": LogMelM5,
}
# Networks that the course reads runs of, but does not train: other wings add theirs.
READ_ONLY: dict[str, type[Network]] = {}


def get_architecture(name: str) -> type[Network]:
    """The network's class, which states the rate and lengths of its input (see `Network`).

    Raises:
        ValueError: no such network; the message lists those there are.
    """
    check("architecture", name, str)
    known = ARCHITECTURES | READ_ONLY
    if name not in known:
        raise ValueError(f"unknown architecture {name!r}: choose one of {', '.join(ARCHITECTURES)}")
    return known[name]


def build_model(name: str, n_classes: int) -> Network:
    """A network of `ARCHITECTURES` with fresh random weights (drawn from torch's global generator).

    Shape:
        the network takes `(batch, 1, samples)` waveforms and returns `(batch, n_classes)` logits

    Raises:
        ValueError: no such network, or fewer than 2 classes.

    >>> sum(p.numel() for p in build_model("m5", 10).parameters())
    559114
    """
    check("n_classes", n_classes, int, 2, 100_000)
    return get_architecture(name)(n_classes)
