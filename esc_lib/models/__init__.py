"""The networks: one file a family, and here their names."""

from torch import nn

from esc_lib.models.envnet import EnvNet

ARCHITECTURES = {"envnet": EnvNet}


def get_architecture(name: str) -> type[nn.Module]:
    """The network's class, which knows its `SAMPLE_RATE` (Hz) and `INPUT_SAMPLES`.

    Raises:
        ValueError: no such network; the message lists those there are.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}: choose one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def build_model(name: str, n_classes: int) -> nn.Module:
    """A network with fresh random weights (drawn from torch's global generator).

    Args:
        name: "envnet".
        n_classes: number of outputs, at least 2.

    Shape:
        the network takes `(batch, 1, samples)` waveforms and returns `(batch, n_classes)` logits

    >>> sum(p.numel() for p in build_model("envnet", 50).parameters())
    48560638
    """
    if n_classes < 2:
        raise ValueError(f"n_classes is {n_classes}: a classifier needs at least 2 classes")
    return get_architecture(name)(n_classes)
