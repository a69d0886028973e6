"""From clips to a network's input: crops, stretching, gain, an equaliser, on whole batches and any device.

Source: Y. Tokozume, Y. Ushiku, T. Harada, "Learning from Between-class Examples for Deep Sound Recognition",
ICLR 2018, and the authors' code. The equaliser is ours.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from esc_lib.arguments import check
from esc_lib.data.clips import FULL_SCALE, Clips

LOWEST_SLIDER = 62.5  # Hz, of the equaliser


def cut(clips: Clips, index: Tensor, start: Tensor, length: int, *, scale: Tensor | None = None) -> Tensor:
    """Cuts one crop from each of some clips; outside its clip a crop is zero.

    Args:
        clips: the data set.
        index: the clip of each crop.
        start: where each crop starts, in samples from its clip's start; may be negative.
        length: of every crop, in samples.
        scale: factor by which each clip is stretched in time first, by linear interpolation between its samples. Its
            pitch falls by the same factor. `start` counts samples of the stretched clip.

    Returns:
        waveforms, full scale at 1.0.

    Shape:
        index, start: `(batch,)` int64; scale: `(batch,)` float64 -> `(batch, 1, length)` float32
    """
    check("clips", clips, Clips)
    for name, of in (("index", index), ("start", start)):
        check(name, of, Tensor)
    check("length", length, int, 1, 10**9)
    time = torch.arange(length, device=start.device)  # (T,)
    first = clips.offsets[index, None]  # (B, 1)
    last = first + clips.frames[index, None] - 1
    if scale is None:
        samples = _samples_at((first + start[:, None] + time).clamp_(first, last), clips.samples)  # (B, T)
    else:
        step = 1 / scale[:, None]
        position = torch.addcmul(first + start[:, None] * step, step, time.double())  # (B, T)
        # The data set's last sample is read as the right neighbour of the one before, with all the weight.
        just_before_the_end = math.nextafter(len(clips.samples) - 1, 0)
        position.clamp_(first.double(), last.double().clamp(max=just_before_the_end))
        before = position.long()
        samples = _samples_at(before, clips.samples)
        samples = samples.lerp_(_samples_at(before, clips.samples[1:]), position.frac_().float())
    # In 32-bit integers: operations on every single position are what takes the time here.
    time, start, frames = time.int(), start[:, None].int(), scaled_frames(clips, index, scale)[:, None].int()
    outside = (time < -start).logical_or_(time >= frames - start)
    return samples.masked_fill_(outside, 0).div_(FULL_SCALE).unsqueeze(1)  # (B, T) -> (B, 1, T)


def scaled_frames(clips: Clips, index: Tensor, scale: Tensor | None = None) -> Tensor:
    """Number of samples of clips after they were stretched, `(batch,)` int64.

    Args:
        clips, index, scale: as for `cut`.
    """
    frames = clips.frames[index]
    return frames if scale is None else (frames * scale).long()


def _samples_at(position: Tensor, samples: Tensor) -> Tensor:
    """The samples at positions of the whole data set: `(batch, T)` int64 -> `(batch, T)` float32."""
    return samples.expand(len(position), -1).gather(1, position).float()


def check_generator(generator: torch.Generator) -> None:
    """Raises ValueError for anything else, None above all: random numbers would then not depend on the seed."""
    if not hasattr(generator, "device"):
        raise ValueError(f"generator is {generator!r}: expected a torch.Generator")


def random_scales(n: int, generator: torch.Generator) -> Tensor:
    """Factors 1.25^u, u uniform from -1 to 1, so that slower is as likely as faster: `(n,)` float64."""
    check_generator(generator)
    return 1.25 ** (2 * torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64) - 1)


def random_gains(n: int, generator: torch.Generator) -> Tensor:
    """Factors of -6 to 6 dB, uniform in dB: `(n,)` float32."""
    check_generator(generator)
    return 10 ** (6 * (2 * torch.rand(n, generator=generator, device=generator.device) - 1) / 20)


def random_sliders(n: int, spread: float, sample_rate: int, generator: torch.Generator) -> Tensor:
    """Random gains of equalisers for `equalize`, independent and normal: `(n, sliders)` float32, in dB.

    Args:
        n: number of equalisers.
        spread: standard deviation of every slider, in dB.
        sample_rate: Hz; the sliders reach up to half of it.
        generator: source of the gains, on the device where they shall be.
    """
    check_generator(generator)
    sliders = 1 + max(1, math.ceil(math.log2(sample_rate / 2 / LOWEST_SLIDER)))
    return spread * torch.randn(n, sliders, generator=generator, device=generator.device)


def equalize(x: Tensor, sliders: Tensor, sample_rate: int) -> Tensor:
    """Filters each waveform as a graphic equaliser does, whose sliders are an octave apart: 62.5 Hz, 125 Hz and so on.

    Between two sliders the gain in dB is linear in the logarithm of the frequency; below the first it is the first's.
    Phases stay as they are.

    Args:
        x: the waveforms.
        sliders: gains in dB.
        sample_rate: Hz.

    Shape:
        x: `(batch, 1, T)`; sliders: `(batch, n)`, from 62.5 Hz to half the sample rate or above -> `(batch, 1, T)`
    """
    check("sliders", sliders, Tensor)
    check("sample_rate", sample_rate, int, 100, 10**6)
    size = x.shape[2] + sample_rate // 16  # the end shall not ring on into the start
    size += -size % 1024  # a length that is quickly transformed
    frequency = torch.fft.rfftfreq(size, 1 / sample_rate, device=x.device)
    position = (frequency / LOWEST_SLIDER).clamp(min=1).log2()
    before = position.long().clamp(max=sliders.shape[1] - 2)
    decibels = torch.lerp(sliders[:, before], sliders[:, before + 1], position - before)  # (B, frequencies)
    spectrum = torch.fft.rfft(F.pad(x, (0, size - x.shape[2])))
    return torch.fft.irfft(spectrum * 10 ** (decibels[:, None] / 20), size)[..., : x.shape[2]]


def random_crops(
    clips: Clips,
    index: Tensor,
    length: int,
    generator: torch.Generator,
    *,
    pad: bool = True,
    scale: Tensor | None = None,
) -> Tensor:
    """Cuts a crop at a uniformly random position of each clip.

    Args:
        clips, index, length, scale: as for `cut`.
        generator: source of the positions, on the clips' device.
        pad: whether every clip is zero-padded by `length // 2` on both sides. If not, crops lie inside their clip, and
            only a clip that is shorter than the crop is zero-padded, at its end.

    Shape:
        index: `(batch,)` -> `(batch, 1, length)` float32
    """
    check("clips", clips, Clips)
    check("index", index, Tensor)
    check("length", length, int, 1, 10**9)
    check_generator(generator)
    margin, room = _margin_and_room(scaled_frames(clips, index, scale), length, pad)
    where = torch.rand(len(index), generator=generator, device=room.device, dtype=torch.float64)
    return cut(clips, index, (where * (room + 1)).long() - margin, length, scale=scale)


def even_crops(clips: Clips, index: Tensor, length: int, n_crops: int, *, pad: bool = True) -> Tensor:
    """Cuts `n_crops` crops at equal distances, from the first sample to the last, padded as in training.

    So with padding and ten crops the first and the last are half zeros. A single crop is the middle one.

    Args:
        clips, index, length, pad: as for `random_crops`.
        n_crops: crops per clip.

    Shape:
        index: `(batch,)` -> `(batch * n_crops, 1, length)` float32, a clip's crops one after the other
    """
    check("clips", clips, Clips)
    check("index", index, Tensor)
    start = even_starts(clips.frames[index], length, n_crops, pad=pad)
    return cut(clips, index.repeat_interleave(n_crops), start.flatten(), length)


def even_starts(frames: Tensor, length: int, n_crops: int, *, pad: bool = True) -> Tensor:
    """Where the crops of `even_crops` start, in samples from their clip's start.

    Args:
        frames: length of each clip, in samples.
        length, n_crops, pad: as for `even_crops`.

    Shape:
        frames: `(batch,)` -> `(batch, n_crops)` int64
    """
    check("n_crops", n_crops, int, 1, 10**9)
    margin, room = _margin_and_room(frames, length, pad)
    if n_crops == 1:
        return room[:, None] // 2 - margin
    return room[:, None] // (n_crops - 1) * torch.arange(n_crops, device=room.device) - margin


def _margin_and_room(frames: Tensor, length: int, pad: bool) -> tuple[int, Tensor]:
    """Zeros before each clip, and over how many samples a crop's start can move: `(batch,)`."""
    check("length", length, int, 1, 10**9)
    check("pad", pad, bool)
    margin = length // 2 if pad else 0
    return margin, (frames + 2 * margin - length).clamp(min=0)
