"""What a network is shown in an epoch: crops of clips, or mixtures of two, as one batch after the other."""

from collections.abc import Iterator

import torch
from torch import Tensor

from esc_lib.augment import random_crops, random_gains, random_scales
from esc_lib.clips import Clips
from esc_lib.config import TrainConfig
from esc_lib.mixing import mix, mixed_labels, random_pairs

REDRAWS = 10


def batches(config: TrainConfig, clips: Clips, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of one epoch: as many examples as there are clips; the last batch may be smaller.

    In standard learning every clip is shown once, with its class. In between-class learning every example is a
    mixture of two clips drawn at random, with the shares of all classes; each share is as likely. In both, strong
    augmentation changes the length of each clip before its crop, and the loudness of the finished example.

    Args:
        config: the settings.
        clips: to learn from.
        generator: source of everything random, on the clips' device.

    Shape:
        waveforms `(batch, 1, crop_samples)` float32, and labels: `(batch,)` int64 in standard learning,
        `(batch, n_classes)` float32 in between-class learning; all on the clips' device
    """
    examples = _mixtures if config.between_class else _single_clips
    for x, label in examples(config, clips, generator):
        if config.strong_augmentation:
            x = x * random_gains(len(x), generator)[:, None, None]
        yield x, label


def _single_clips(config: TrainConfig, clips: Clips, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(len(clips), generator=generator, device=clips.samples.device)
    for index in order.split(config.batch_size):
        yield training_crops(config, clips, index, generator), clips.targets[index]


def _mixtures(config: TrainConfig, clips: Clips, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    pairs = random_pairs(clips.targets, len(clips), generator)
    for first, second in zip(*(of.split(config.batch_size) for of in pairs), strict=True):
        ratio = torch.rand(len(first), generator=generator, device=first.device)
        crops = [training_crops(config, clips, index, generator) for index in (first, second)]
        label = mixed_labels(clips.targets[first], clips.targets[second], ratio, len(clips.classes))
        yield mix(*crops, ratio, config.sample_rate), label


def training_crops(config: TrainConfig, clips: Clips, index: Tensor, generator: torch.Generator) -> Tensor:
    """A random crop of each of some clips, as the settings say, before mixing and gain.

    Shape:
        index: `(batch,)` -> `(batch, 1, crop_samples)` float32
    """
    scale = random_scales(len(index), generator) if config.strong_augmentation else None

    def draw() -> Tensor:
        return random_crops(clips, index, config.crop_samples, generator, config.pad, scale)

    x = draw()
    for _ in range(REDRAWS if config.min_peak else 0):
        quiet = x.abs().amax(dim=2, keepdim=True) < config.min_peak
        if x.device.type == "cpu" and not quiet.any():  # on a GPU the answer would have to be waited for
            break
        x = torch.where(quiet, draw(), x)
    return x
