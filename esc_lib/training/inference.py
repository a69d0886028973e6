"""What a trained network predicts for whole clips: several crops of each, their probabilities averaged."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from esc_lib.arguments import check
from esc_lib.data.clips import Clips
from esc_lib.training.augment import cut, even_starts
from esc_lib.training.compute import inference_context
from esc_lib.training.config import TrainConfig

# Crops that are in the network at the same time; the result does not depend on it.
CROPS_PER_BATCH = 160


def predict_probabilities(model: nn.Module, clips: Clips, config: TrainConfig) -> Tensor:
    """`class_probabilities` with a run's settings: its crops, in its precision (`inference_context`).

    Args:
        model, clips: as for `class_probabilities`, and so is what it returns.
        config: the settings.
    """
    with inference_context(config.precision, clips.samples.device):
        return class_probabilities(
            model, clips, config.crop_samples, n_crops=config.crops, pad=config.pad, min_peak=config.min_peak
        )


def class_probabilities(
    model: nn.Module, clips: Clips, crop_samples: int, *, n_crops: int = 10, pad: bool = True, min_peak: float = 0.0
) -> Tensor:
    """Every clip's class probabilities: softmax of each crop, then the mean over the clip's crops.

    Every clip counts, however quiet. The mean is over probabilities, not logits: a very confident crop should not
    outvote the others by more than its confidence. Source: the authors' code for Tokozume et al., ICLR 2018.

    Args:
        model: network; it is put in eval mode, and back into the mode it was in.
        clips: on the network's device.
        crop_samples: length of the network's input, in samples.
        n_crops: crops per clip.
        pad: as for `even_crops`.
        min_peak: crops whose peak is lower are left out (a network that never saw silence answers it at random); if
            all of a clip's are, all are used.

    Shape:
        `(clips, n_classes)` float32, rows sum to 1, on the CPU
    """
    check("model", model, nn.Module)
    check("clips", clips, Clips)
    check("min_peak", min_peak, float, 0, 1)
    start = even_starts(clips.frames, crop_samples, n_crops, pad=pad)  # (clips, crops)
    audible = audible_crops(clips, start, crop_samples, min_peak)
    index = audible.nonzero()[:, 0]
    return mean_of_crops(crop_probabilities(model, clips, index, start[audible], crop_samples), audible)


def mean_of_crops(of_crops: Tensor, audible: Tensor) -> Tensor:
    """For each clip the mean over its crops that count.

    Args:
        of_crops: some values of each of these crops, clip by clip, on the CPU.
        audible: which crops of each clip they are, as from `audible_crops`.

    Shape:
        of_crops: `(crops, n)`; audible: `(clips, crops of a clip)` -> `(clips, n)`
    """
    audible = audible.cpu()
    total = of_crops.new_zeros(len(audible), of_crops.shape[1]).index_add_(0, audible.nonzero()[:, 0], of_crops)
    return total / audible.sum(dim=1, keepdim=True)


@torch.no_grad()
def crop_probabilities(model: nn.Module, clips: Clips, index: Tensor, start: Tensor, crop_samples: int) -> Tensor:
    """Class probabilities of some crops.

    Args:
        model, clips, crop_samples: as for `class_probabilities`.
        index, start: as for `esc_lib.training.augment.cut`.

    Shape:
        index, start: `(crops,)` -> `(crops, n_classes)` float32, on the CPU
    """
    was_training = model.training
    model.eval()
    try:
        # An accelerated WaveMsNet has `windows`, which computes once what overlapping crops of a clip have in common.
        if hasattr(model, "windows"):
            logits = _window_logits(model, clips, index, start, crop_samples)
        else:
            logits = (model(x) for x in _crop_batches(clips, index, start, crop_samples))
        return torch.cat([of.float().softmax(dim=1) for of in logits]).cpu()
    finally:
        model.train(was_training)


def check_finite(path: Path, probabilities: Tensor) -> None:
    """Raises ValueError if the network of a run directory computes what is no number, say because it overflows."""
    if not probabilities.isfinite().all():
        raise ValueError(f"the network of {path} computes values that are not finite: train again")


def _window_logits(model: nn.Module, clips: Clips, index: Tensor, start: Tensor, crop_samples: int) -> Iterator[Tensor]:
    counts = index.unique_consecutive(return_counts=True)[1].tolist()
    for of_clip, starts in zip(index.split(counts), start.split(counts), strict=True):
        for chunk in starts.split(CROPS_PER_BATCH):
            first = chunk.min()
            inside = (chunk - first).tolist()
            whole = cut(clips, of_clip[:1], first[None], max(inside) + crop_samples)
            yield cast(Callable[[Tensor, list[int]], Tensor], model.windows)(whole, inside)


def audible_crops(clips: Clips, start: Tensor, crop_samples: int, min_peak: float) -> Tensor:
    """Which crops count for a clip: those whose peak is at least `min_peak`, or all of them if none's is.

    Args:
        clips, crop_samples: as for `class_probabilities`.
        start: where each clip's crops start, as from `even_starts`.
        min_peak: full scale is 1.

    Shape:
        start: `(clips, crops)` -> `(clips, crops)` bool
    """
    if min_peak == 0:
        return torch.ones_like(start, dtype=torch.bool)
    index = torch.arange(len(clips), device=start.device).repeat_interleave(start.shape[1])
    peaks = torch.cat([x.abs().amax(dim=(1, 2)) for x in _crop_batches(clips, index, start.flatten(), crop_samples)])
    audible = peaks.view_as(start) >= min_peak
    return audible | ~audible.any(dim=1, keepdim=True)


def _crop_batches(clips: Clips, index: Tensor, start: Tensor, crop_samples: int) -> Iterator[Tensor]:
    """Crops, as many as the network takes at the same time."""
    for of, begin in zip(index.split(CROPS_PER_BATCH), start.split(CROPS_PER_BATCH), strict=True):
        yield cut(clips, of, begin, crop_samples)
