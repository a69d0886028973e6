"""What a trained network says about whole clips: several crops of each, their probabilities averaged."""

import torch
from torch import Tensor, nn

from esc_lib.augment import even_crops
from esc_lib.clips import Clips
from esc_lib.config import TrainConfig
from esc_lib.precision import computing_in

# Crops that are in the network at once; the result does not depend on it.
CROPS_AT_ONCE = 160


@torch.no_grad()
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
    was_training = model.training
    model.eval()
    probabilities = []
    for index in torch.arange(len(clips), device=clips.samples.device).split(max(1, CROPS_AT_ONCE // n_crops)):
        x = even_crops(clips, index, crop_samples, n_crops, pad)
        of_crops = model(x).float().softmax(dim=1).unflatten(0, (len(index), n_crops))  # (B, crops, classes)
        heard = (x.abs().amax(dim=(1, 2)) >= min_peak).unflatten(0, (len(index), n_crops)).float()
        heard[heard.sum(dim=1) == 0] = 1.0
        weight = heard / heard.sum(dim=1, keepdim=True)
        probabilities.append((of_crops * weight[:, :, None]).sum(dim=1))
    model.train(was_training)
    return torch.cat(probabilities).cpu()


def tested_probabilities(model: nn.Module, clips: Clips, config: TrainConfig) -> Tensor:
    """`class_probabilities` as a run's settings say: its crops, in its precision."""
    with computing_in(config.precision, clips.samples.device):
        return class_probabilities(model, clips, config.crop_samples, config.crops, config.pad, config.min_peak)
