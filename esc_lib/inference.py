"""What a trained network says about whole clips: several crops of each, their probabilities averaged."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from esc_lib.augment import cut, even_starts
from esc_lib.clips import Clips
from esc_lib.config import TrainConfig
from esc_lib.precision import computing_in

# Crops that are in the network at once; the result does not depend on it.
CROPS_AT_ONCE = 160


def class_probabilities(
    model: nn.Module, clips: Clips, crop_samples: int, n_crops: int = 10, pad: bool = True, min_peak: float = 0.0
) -> Tensor:
    """Every clip's class probabilities: softmax of each crop, then the mean over the clip's crops.

    Every clip counts, however quiet. The mean is of probabilities, not of logits: a crop that is sure should not
    outvote the others by more than its certainty. Source: the authors' code for Tokozume et al., ICLR 2018.

    Args:
        model: network; it is put in eval mode, and back into the mode it was in.
        clips: on the network's device.
        crop_samples: length of the network's input, in samples.
        n_crops: crops per clip.
        pad: as for `even_crops`.
        min_peak: crops whose peak is lower are left out (a network that never saw silence says anything about it);
            if all of a clip's are, all are taken.

    Shape:
        `(clips, n_classes)` float32, rows sum to 1, on the CPU
    """
    start = even_starts(clips.frames, crop_samples, n_crops, pad)  # (clips, crops)
    heard = heard_crops(clips, start, crop_samples, min_peak)
    index = heard.nonzero()[:, 0]
    of_crops = crop_probabilities(model, clips, index, start[heard], crop_samples)
    total = of_crops.new_zeros(len(clips), of_crops.shape[1]).index_add_(0, index.cpu(), of_crops)
    return total / heard.sum(dim=1, keepdim=True).cpu()


@torch.no_grad()
def crop_probabilities(model: nn.Module, clips: Clips, index: Tensor, start: Tensor, crop_samples: int) -> Tensor:
    """Class probabilities of some crops.

    Args:
        model: network; it is put in eval mode, and back into the mode it was in.
        clips: on the network's device.
        index: of each crop's clip.
        start: where each crop begins, in samples after its clip's begin; may be negative.
        crop_samples: length of the network's input, in samples.

    Shape:
        index, start: `(crops,)` -> `(crops, n_classes)` float32, on the CPU
    """
    was_training = model.training
    model.eval()
    logits = _logits_of_windows if hasattr(model, "windows") else _logits
    probabilities = torch.cat([of.float().softmax(dim=1) for of in logits(model, clips, index, start, crop_samples)])
    model.train(was_training)
    return probabilities.cpu()


def _logits(model: nn.Module, clips: Clips, index: Tensor, start: Tensor, crop_samples: int) -> Iterator[Tensor]:
    for x in _crops(clips, index, start, crop_samples):
        yield model(x)


def _logits_of_windows(
    model: nn.Module, clips: Clips, index: Tensor, start: Tensor, crop_samples: int
) -> Iterator[Tensor]:
    """The same from a network that computes once what its windows of one clip have in common."""
    counts = index.unique_consecutive(return_counts=True)[1].tolist()
    for of_clip, starts in zip(index.split(counts), start.split(counts), strict=True):
        for some in starts.split(CROPS_AT_ONCE):
            first = some.min()
            inside = (some - first).tolist()
            yield model.windows(cut(clips, of_clip[:1], first[None], max(inside) + crop_samples), inside)


def heard_crops(clips: Clips, start: Tensor, crop_samples: int, min_peak: float) -> Tensor:
    """Which crops a clip is judged by: those whose peak is at least `min_peak`, or all of them if none's is.

    Shape:
        start: `(clips, crops)`, as of `even_starts` -> `(clips, crops)` bool
    """
    if min_peak == 0:
        return torch.ones_like(start, dtype=torch.bool)
    index = torch.arange(len(clips), device=start.device).repeat_interleave(start.shape[1])
    peaks = torch.cat([x.abs().amax(dim=(1, 2)) for x in _crops(clips, index, start.flatten(), crop_samples)])
    heard = peaks.view_as(start) >= min_peak
    return heard | ~heard.any(dim=1, keepdim=True)


def _crops(clips: Clips, index: Tensor, start: Tensor, crop_samples: int) -> Iterator[Tensor]:
    """Some crops, as many as a network gets at once."""
    for of, begin in zip(index.split(CROPS_AT_ONCE), start.split(CROPS_AT_ONCE), strict=True):
        yield cut(clips, of, begin, crop_samples)


def tested_probabilities(model: nn.Module, clips: Clips, config: TrainConfig) -> Tensor:
    """`class_probabilities` as a run's settings say: its crops, in its precision."""
    with computing_in(config.precision, clips.samples.device):
        return class_probabilities(model, clips, config.crop_samples, config.crops, config.pad, config.min_peak)
