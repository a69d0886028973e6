"""Between-class learning: two sounds of different classes mixed, and the ratio that the network has to predict.

The ratio is one of perceived loudness, so each sound's level is measured with A-weighting first. Two numbers are kept
apart: the *label* is r for the first class and 1 - r for the second, and the *waveforms* are added with the weight p
that makes them sound like that ratio.

Source: Y. Tokozume, Y. Ushiku, T. Harada, "Learning from Between-class Examples for Deep Sound Recognition",
ICLR 2018, section 3, and the authors' code.
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from esc_lib.arguments import check

FLOOR_DB = -80.0


def a_weighting(frequency: Tensor) -> Tensor:
    """A-weighting curve: perceived level of a tone relative to one of 1 kHz, in dB, not below -80; `frequency` in Hz.

    >>> a_weighting(torch.tensor([1000.0])).abs().item() < 0.01
    True
    """
    check("frequency", frequency, Tensor)
    f2 = frequency.double().square().clamp(min=1.0)  # so that the logarithm of 0 Hz is a number
    decibels = 2 + 20 * (
        2 * math.log10(12194)
        + 2 * f2.log10()
        - (f2 + 12194**2).log10()
        - (f2 + 20.6**2).log10()
        - 0.5 * (f2 + 107.7**2).log10()
        - 0.5 * (f2 + 737.9**2).log10()
    )
    return decibels.clamp(min=FLOOR_DB)


def loudness(x: Tensor, sample_rate: int) -> Tensor:
    """A-weighted level of the loudest frame of each waveform.

    Frames overlap by half; a frame's level is the weighted sum of its power spectrum. Its length is the power of two
    nearest to a tenth of a second: 2048 samples at 16 and 20 kHz and 4096 at 44.1 kHz, as in the authors' code, and
    1024 at 8 kHz. A shorter waveform is zero-padded.

    Shape:
        `(batch, 1, T)`, full scale at 1.0 -> `(batch,)` dB, not below -80; only differences are meaningful
    """
    check("x", x, Tensor)
    check("sample_rate", sample_rate, int, 100, 10**6)
    window, weight = _window_and_weight(sample_rate, x.device)
    n_fft = len(window)
    x = F.pad(x.squeeze(1), (0, max(0, n_fft - x.shape[2])))  # (B, T)
    frames = x.unfold(1, n_fft, n_fft // 2) * window  # (B, frames, n_fft)
    parts = torch.view_as_real(torch.fft.rfft(frames)).flatten(2)  # (B, frames, 2 x bins): real, imaginary, real, ...
    power = parts.square_() @ weight  # (B, frames)
    return 10 * power.amax(dim=1).clamp(min=10 ** (FLOOR_DB / 10)).log10()


@cache  # the same for every batch, but made by many small operations
def _window_and_weight(sample_rate: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """A frame's window, and the weight of each part of its spectrum: `(n_fft,)` and `(2 x bins,)`."""
    n_fft = 2 ** round(math.log2(sample_rate / 10))
    decibels = a_weighting(torch.fft.rfftfreq(n_fft, 1 / sample_rate, device=device))
    weight = 10 ** (decibels / 10)
    return torch.hann_window(n_fft, device=device), weight.float().repeat_interleave(2)


def mix(x1: Tensor, x2: Tensor, ratio: Tensor, sample_rate: int) -> Tensor:
    """Mixes pairs of waveforms so that the first makes up `ratio` of the perceived loudness, at one sound's energy.

    Two sounds of equal loudness are added with weights `ratio` and `1 - ratio`; otherwise the quieter gets more.

    Args:
        x1, x2: the waveforms.
        ratio: share of the first, from 0 to 1.
        sample_rate: Hz.

    Shape:
        x1, x2: `(batch, 1, T)`; ratio: `(batch,)` -> `(batch, 1, T)`
    """
    check("ratio", ratio, Tensor)
    # p = 1 / (1 + 10^((G1 - G2) / 20) (1 - r) / r), with numerator and denominator times r: so r may be zero.
    louder = 10 ** ((loudness(x1, sample_rate) - loudness(x2, sample_rate)) / 20)
    p = (ratio / (ratio + louder * (1 - ratio)))[:, None, None]
    size = (p**2 + (1 - p) ** 2).sqrt()
    return torch.addcmul((1 - p) / size * x2, p / size, x1)


def mixed_labels(target1: Tensor, target2: Tensor, ratio: Tensor, n_classes: int) -> Tensor:
    """Soft labels of mixtures: `ratio` for the first class, the rest for the second.

    Args:
        target1, target2, n_classes: classes of the two sounds, and how many there are.
        ratio: share of the first, from 0 to 1.

    Shape:
        target1, target2, ratio: `(batch,)` -> `(batch, n_classes)`, rows sum to 1
    """
    check("ratio", ratio, Tensor)
    check("n_classes", n_classes, int, 2, 100_000)
    label = ratio.new_zeros(len(ratio), n_classes)
    label.scatter_add_(1, target1[:, None], ratio[:, None])
    return label.scatter_add_(1, target2[:, None], 1 - ratio[:, None])


def random_pairs(targets: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws pairs of clips of different classes: both are drawn again until their classes differ.

    Args:
        targets, n: class of every clip, and number of pairs.
        generator: on the targets' device.

    Shape:
        targets: `(clips,)` -> indices of clips, twice `(n,)`

    Raises:
        ValueError: there is only one class.
    """
    if len(targets.unique()) < 2:
        raise ValueError("between-class learning needs clips of at least two classes: choose more folds")
    pairs = torch.randint(len(targets), (2, n), generator=generator, device=targets.device)
    while len(same := (targets[pairs[0]] == targets[pairs[1]]).nonzero().squeeze(1)):
        pairs[:, same] = torch.randint(len(targets), (2, len(same)), generator=generator, device=targets.device)
    return pairs[0], pairs[1]
