"""What happens to clips on their way into a network, as operations on a whole batch, on whatever device it is.

Source: Y. Tokozume, Y. Ushiku, T. Harada, "Learning from Between-class Examples for Deep Sound Recognition",
ICLR 2018, and the authors' code.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from esc_lib.clips import Clips

FULL_SCALE = 32768.0


def trim_silence(clips: Clips) -> Clips:
    """Each clip from its first to its last non-zero sample; a clip of nothing but zeros stays whole.

    Many clips of ESC-50 are shorter sounds filled up with zeros: without this, random crops would see mostly nothing.
    The samples stay where they are, only offsets and lengths change.
    """
    offsets, frames = clips.offsets.clone(), clips.frames.clone()
    for i in range(len(clips)):
        sounding = clips.waveform(i).nonzero()
        if len(sounding):
            first, last = int(sounding[0]), int(sounding[-1])
            offsets[i] += first
            frames[i] = last + 1 - first
    return replace(clips, offsets=offsets, frames=frames)


def cut(clips: Clips, index: Tensor, start: Tensor, length: int, scale: Tensor | None = None) -> Tensor:
    """Cuts one crop from each of some clips; outside its clip a crop is zero.

    Args:
        clips: where from.
        index: which clips.
        start: where each crop begins, in samples after its clip's begin; may be negative.
        length: of every crop, in samples.
        scale: how much longer each clip is made first, by linear interpolation between its samples. Its tones become
            lower by the same factor. `start` counts samples of the longer clip.

    Returns:
        waveforms, full scale at 1.0.

    Shape:
        index, start: `(batch,)` int64; scale: `(batch,)` float64 -> `(batch, 1, length)` float32
    """
    time = torch.arange(length, device=start.device)  # (T,)
    first = clips.offsets[index, None]  # (B, 1)
    last = first + clips.frames[index, None] - 1
    if scale is None:
        samples = _samples_at((first + start[:, None] + time).clamp_(first, last), clips.samples)  # (B, T)
    else:
        step = 1 / scale[:, None]
        place = torch.addcmul(first + start[:, None] * step, step, time.double())  # (B, T)
        # So that the data set's last sample has one before it: it is that one's neighbour, with all the weight.
        just_before_the_end = math.nextafter(len(clips.samples) - 1, 0)
        place.clamp_(first.double(), last.double().clamp(max=just_before_the_end))
        samples = _between_samples(place, clips.samples)
    # With short integers: what is done to every single place is what takes the time here.
    time, start, frames = time.int(), start[:, None].int(), scaled_frames(clips, index, scale)[:, None].int()
    outside = (time < -start).logical_or_(time >= frames - start)
    return samples.masked_fill_(outside, 0).div_(FULL_SCALE).unsqueeze(1)  # (B, T) -> (B, 1, T)


def scaled_frames(clips: Clips, index: Tensor, scale: Tensor | None = None) -> Tensor:
    """How many samples some clips have after they were made longer by `scale`: `(batch,)` int64."""
    frames = clips.frames[index]
    return frames if scale is None else (frames * scale).long()


def _samples_at(place: Tensor, samples: Tensor) -> Tensor:
    """The samples at some places of the whole data set: `(batch, T)` int64 -> `(batch, T)` float32."""
    return samples.expand(len(place), -1).gather(1, place).float()


def _between_samples(place: Tensor, samples: Tensor) -> Tensor:
    """Linear interpolation at some places of the whole data set: `(batch, T)` float64 -> `(batch, T)` float32."""
    before = place.long()
    return _samples_at(before, samples).lerp_(_samples_at(before, samples[1:]), place.frac_().float())


def random_scales(n: int, generator: torch.Generator) -> Tensor:
    """Factors 1.25^u, u uniform from -1 to 1, so that longer is as likely as shorter: `(n,)` float64."""
    return 1.25 ** (2 * torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64) - 1)


def random_gains(n: int, generator: torch.Generator) -> Tensor:
    """Factors of -6 to 6 dB, each as likely: `(n,)` float32."""
    return 10 ** (6 * (2 * torch.rand(n, generator=generator, device=generator.device) - 1) / 20)


def random_crops(
    clips: Clips,
    index: Tensor,
    length: int,
    generator: torch.Generator,
    pad: bool = True,
    scale: Tensor | None = None,
) -> Tensor:
    """Cuts a crop anywhere in each clip, each place as likely.

    Args:
        clips, index, length, scale: as for `cut`.
        generator: source of the places, on the clips' device.
        pad: whether `length // 2` zeros stand at both sides of every clip. If not, crops lie inside their clip, and
            only a clip that is shorter than the crop is filled up, with zeros at its end.

    Shape:
        index: `(batch,)` -> `(batch, 1, length)` float32
    """
    margin, room = _margin_and_room(scaled_frames(clips, index, scale), length, pad)
    where = torch.rand(len(index), generator=generator, device=room.device, dtype=torch.float64)
    return cut(clips, index, (where * (room + 1)).long() - margin, length, scale)


def even_crops(clips: Clips, index: Tensor, length: int, n_crops: int, pad: bool = True) -> Tensor:
    """The same padding as in training and `n_crops` crops at equal distance, from the first sample to the last.

    So with padding and ten crops the first and the last are half zeros. One crop is the middle one.

    Shape:
        index: `(batch,)` -> `(batch * n_crops, 1, length)` float32, a clip's crops one after the other
    """
    start = even_starts(clips.frames[index], length, n_crops, pad)
    return cut(clips, index.repeat_interleave(n_crops), start.flatten(), length)


def even_starts(frames: Tensor, length: int, n_crops: int, pad: bool = True) -> Tensor:
    """Where the crops of `even_crops` begin, in samples after their clip's begin.

    Shape:
        frames: `(batch,)` -> `(batch, n_crops)` int64
    """
    margin, room = _margin_and_room(frames, length, pad)
    if n_crops == 1:
        return room[:, None] // 2 - margin
    return room[:, None] // (n_crops - 1) * torch.arange(n_crops, device=room.device) - margin


def _margin_and_room(frames: Tensor, length: int, pad: bool) -> tuple[int, Tensor]:
    """Zeros before each clip, and how far a crop's begin can move: `(batch,)`."""
    margin = length // 2 if pad else 0
    return margin, (frames + 2 * margin - length).clamp(min=0)
