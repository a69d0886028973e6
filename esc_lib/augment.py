"""What happens to clips on their way into a network, as operations on a whole batch, on whatever device it is.

Source: Y. Tokozume, Y. Ushiku, T. Harada, "Learning from Between-class Examples for Deep Sound Recognition",
ICLR 2018, and the authors' code.
"""

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


def cut(clips: Clips, index: Tensor, start: Tensor, length: int) -> Tensor:
    """Cuts one crop from each of some clips; outside its clip a crop is zero.

    Args:
        clips: where from.
        index: which clips.
        start: where each crop begins, in samples after its clip's begin; may be negative.
        length: of every crop, in samples.

    Returns:
        waveforms, full scale at 1.0.

    Shape:
        index, start: `(batch,)` int64 -> `(batch, 1, length)` float32
    """
    position = start[:, None] + torch.arange(length, device=start.device)  # (B, T)
    inside = (position >= 0) & (position < clips.frames[index, None])
    place = torch.where(inside, clips.offsets[index, None] + position, 0)
    return (clips.samples[place] * inside / FULL_SCALE).unsqueeze(1)  # (B, T) -> (B, 1, T)


def random_crops(clips: Clips, index: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Pads each clip with `length // 2` zeros at both sides and cuts a crop anywhere in it, each place as likely.

    Args:
        clips, index, length: as for `cut`.
        generator: source of the places, on the CPU.

    Shape:
        index: `(batch,)` -> `(batch, 1, length)` float32
    """
    places = clips.frames[index] + 2 * (length // 2) - length + 1
    where = torch.rand(len(index), generator=generator, dtype=torch.float64).to(places.device)
    start = (where * places).long() - length // 2
    return cut(clips, index, start, length)


def even_crops(clips: Clips, index: Tensor, length: int, n_crops: int) -> Tensor:
    """The same padding as in training and `n_crops` crops at equal distance, from the first sample to the last.

    So with ten crops the first and the last are half zeros. One crop is the middle one.

    Shape:
        index: `(batch,)` -> `(batch * n_crops, 1, length)` float32, a clip's crops one after the other
    """
    pad = length // 2
    room = clips.frames[index] + 2 * pad - length  # (B,)
    if n_crops == 1:
        start = room[:, None] // 2
    else:
        start = room[:, None] // (n_crops - 1) * torch.arange(n_crops, device=room.device)
    return cut(clips, index.repeat_interleave(n_crops), start.flatten() - pad, length)
