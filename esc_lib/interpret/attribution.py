"""Which moments of a clip decide: what a prediction loses without them, and how gradients share it out among them."""

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from esc_lib.arguments import check
from esc_lib.interpret.filters import check_network
from esc_lib.models.blocks import Network, lengths_text
from esc_lib.models.wavemxnet import WaveMxNet

RAMP = 0.005  # seconds of each fade: a sudden edge would be a click, to which the network responds
BATCH = 16  # waveforms in the network at the same time


@torch.no_grad()
def occlusion(
    network: Network, waveform: Tensor, target: int, sample_rate: int, *, window: float = 0.2, hop: float = 0.1
) -> "pd.Series[float]":
    """How much the probability of a class drops when a window of the waveform is faded to silence.

    It is computed faster after `esc_lib.models.cpu.accelerate(network)`. An M-net standardises what is left, so that
    without a loud window the rest becomes louder.

    Source: M. D. Zeiler, R. Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.2.

    Args:
        network: in eval mode.
        waveform: as long as its input.
        target: index of the class.
        sample_rate: of the waveform, in Hz.
        window, hop: length of the windows, and from one to the next, in seconds.

    Returns:
        the drop for each window, indexed by its centre in seconds; negative where the window spoke for other classes.
    """
    waveform = _checked(network, waveform, target, sample_rate)
    check("window", window, float, 1e-3, 3600)
    check("hop", hop, float, 1e-3, 3600)
    seconds = len(waveform) / sample_rate
    starts = torch.arange(0, max(seconds - window, 0) + 1e-9, hop, dtype=torch.float64)
    time = torch.arange(len(waveform)) / sample_rate
    masks = torch.stack([1 - _fade_in_and_out(time, float(start), float(start) + window) for start in starts])
    x = torch.cat([waveform[None], waveform * masks]).float()[:, None]  # -> (1 + windows, 1, T)
    logits = torch.cat([network(part) for part in x.split(BATCH)])
    probability = logits.softmax(dim=1)[:, target]
    index = pd.Index((starts + window / 2).numpy().round(6), name="seconds")
    return pd.Series((probability[0] - probability[1:]).numpy(), index, name="drop")


def integrated_gradients(
    network: Network, waveform: Tensor, target: int, sample_rate: int, *, steps: int = 50
) -> tuple["npt.NDArray[np.floating[Any]]", float]:
    """Shares out among the samples by how much a class's logit exceeds that of silence.

    The gradient is integrated along the straight path from silence to the waveform. An M-net standardises its input, so
    that all of this path but its first point looks the same to it: there the path starts after that.

    Source: M. Sundararajan, A. Taly, Q. Yan, "Axiomatic Attribution for Deep Networks", ICML 2017.

    Args:
        network, waveform, target, sample_rate: as for `occlusion`.
        steps: points of the path.

    Returns:
        the attributions of all samples, `(samples,)`, and by how much their sum misses the difference between the two
        logits: integrated exactly, by nothing.
    """
    from captum.attr import IntegratedGradients

    waveform = _checked(network, waveform, target, sample_rate)
    check("steps", steps, int, 2, 10**5)
    x, network = waveform.float()[None, None], copy.copy(network)  # shallow: it shares layers and weights
    if isinstance(network, WaveMxNet):
        x = network.prepare(x)
        vars(network)["prepare"] = lambda prepared: prepared
    shares, error = IntegratedGradients(network).attribute(
        x, target=target, n_steps=steps, internal_batch_size=BATCH, return_convergence_delta=True
    )
    return shares[0, 0].numpy(), float(error)


def sum_windows(
    shares: "npt.NDArray[np.floating[Any]]", sample_rate: int, *, window: float = 0.1
) -> "pd.Series[float]":
    """Attributions of samples, added up in windows one after the other; the last may be shorter.

    Args:
        shares: of `integrated_gradients`, `(samples,)`.
        sample_rate: in Hz.
        window: seconds.

    Returns:
        the sum of each window, indexed by its centre in seconds.
    """
    check("sample_rate", sample_rate, int, 1, 10**7)
    check("window", window, float, 1e-3, 3600)
    length = max(1, round(window * sample_rate))
    starts = np.arange(0, len(shares), length)
    index = pd.Index(np.round((starts + length / 2) / sample_rate, 6), name="seconds")
    return pd.Series(np.add.reduceat(shares, starts), index, name="attribution")


def fade_others(
    waveform: Tensor, importance: "pd.Series[float]", sample_rate: int, *, keep: float = 0.25, gain: float = 0.05
) -> Tensor:
    """A waveform in which only the deciding moments are as loud as they were.

    Args:
        waveform: what was examined, `(samples,)`.
        importance: of windows at equal distances, indexed by their centre in seconds: of `occlusion` or `sum_windows`.
        sample_rate: in Hz.
        keep: share of the windows that decide: those of the highest importance.
        gain: of everything else; 0.05 is -26 dB.

    Shape:
        `(samples,)` -> the same
    """
    check("waveform", waveform, Tensor)
    check("sample_rate", sample_rate, int, 1, 10**7)
    check("keep", keep, float, 0, 1)
    check("gain", gain, float, 0, 1)
    time, centres = torch.arange(len(waveform)) / sample_rate, importance.index.to_numpy(float)
    half = (centres[1] - centres[0]) / 2 if len(centres) > 1 else len(waveform) / sample_rate
    chosen = importance.nlargest(max(1, round(keep * len(importance)))).index
    kept = torch.zeros(len(waveform))
    for centre in chosen:
        kept = torch.maximum(kept, _fade_in_and_out(time, centre - half, centre + half))
    return waveform * (gain + (1 - gain) * kept)


def _fade_in_and_out(time: Tensor, start: float, end: float) -> Tensor:
    """1 from `start` to `end`, 0 elsewhere, with straight ramps outside: `(samples,)`, times in seconds."""
    return torch.minimum(1 + (time - start) / RAMP, 1 + (end - time) / RAMP).clamp(0, 1)


def _checked(network: Network, waveform: Tensor, target: int, sample_rate: int) -> Tensor:
    """The waveform, if a network's output for it can be examined."""
    check_network(network)
    check("waveform", waveform, Tensor)
    if waveform.ndim != 1 or len(waveform) not in network.LENGTHS:
        expected = f"({lengths_text(network.LENGTHS)},)"
        raise ValueError(f"waveform has the shape {tuple(waveform.shape)}: the network takes {expected}")
    check("target", target, int, 0, 10**6)
    check("sample_rate", sample_rate, int, 1, 10**7)
    return waveform
