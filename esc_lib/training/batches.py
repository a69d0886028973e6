"""From clips to a training step: the batches of an epoch, and one update of the parameters."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from esc_lib.arguments import check
from esc_lib.data.clips import Clips, load_clips, trim_silence
from esc_lib.models.blocks import Network
from esc_lib.training.augment import (
    check_generator,
    equalize,
    random_crops,
    random_gains,
    random_scales,
    random_sliders,
)
from esc_lib.training.config import TrainConfig
from esc_lib.training.loss import batch_loss
from esc_lib.training.mixing import mix, mixed_labels, random_pairs

REDRAWS = 10


def load_split(
    config: TrainConfig, *, data_dir: str | Path | None = None, device: str | torch.device = "cpu"
) -> tuple[Clips, Clips]:
    """The clips to train on, and those that the network is tested on while it trains.

    The latter are of the validation folds if there are any, else of the evaluation folds.

    Args:
        config: the settings.
        data_dir: where prepared data lies, if not in `ESC_DATA` or the repository's `data/`.
        device: where the tensors shall be.

    Raises:
        FileNotFoundError: the data has not been prepared.
        ValueError: a prepared file is damaged, or a fold is not there, or a set of your own has other recordings than
            when the settings were made.
    """
    check("config", config, TrainConfig)
    clips = load_folds(config, config.train_folds + config.monitored_folds, data_dir=data_dir, device=device)
    return clips.in_folds(config.train_folds), clips.in_folds(config.monitored_folds)


def load_folds(
    config: TrainConfig, folds: tuple[int, ...], *, data_dir: str | Path | None, device: str | torch.device
) -> Clips:
    """The clips of some folds, trimmed if the settings say so.

    Args:
        config, data_dir, device: as for `load_split`, which names the errors too.
        folds: folds of the set.
    """
    clips = load_clips(config.dataset, config.sample_rate, folds=folds, data_dir=data_dir)
    prepared = (clips.source_sha256, clips.classes)
    if config.source_sha256 and prepared != (config.source_sha256, config.classes):
        raise ValueError(
            f"{config.dataset} as it is prepared now has other recordings or folds than these settings are for: call "
            "recipe again for a new training, or prepare the earlier recordings"
        )
    return (trim_silence(clips) if config.trim_silence else clips).to(device)


def batches(config: TrainConfig, clips: Clips, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of one epoch: as many examples as there are clips; the last batch may be smaller.

    In standard training every clip is shown once, with its class. In between-class learning every example is a
    mixture of two clips drawn at random, with the ratio of all classes; ratios are uniform. In both, strong
    augmentation stretches each clip before its crop, and changes the loudness of the finished example; an equaliser
    then changes how loud each of its octaves is.

    Args:
        config: the settings.
        clips: to train on.
        generator: source of everything random, on the clips' device.

    Shape:
        waveforms `(batch, 1, crop_samples)` float32, and labels: `(batch,)` int64 in standard training,
        `(batch, n_classes)` float32 in between-class learning; all on the clips' device
    """
    check("config", config, TrainConfig)
    check("clips", clips, Clips)
    check_generator(generator)
    examples = _mixtures if config.between_class else _single_clips
    for x, label in examples(config, clips, generator):
        if config.strong_augmentation:
            x = x * random_gains(len(x), generator)[:, None, None]
        if config.equalizer:
            sliders = random_sliders(len(x), config.equalizer, config.sample_rate, generator)
            x = equalize(x, sliders, config.sample_rate)
        yield x, label


def _single_clips(config: TrainConfig, clips: Clips, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(len(clips), generator=generator, device=clips.samples.device)
    for index in order.split(config.batch_size):
        yield training_crops(config, clips, index, generator), clips.targets[index]


def _mixtures(config: TrainConfig, clips: Clips, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    pairs = random_pairs(clips.targets, len(clips), generator)
    for first, second in zip(*(of.split(config.batch_size) for of in pairs), strict=True):
        ratio = torch.rand(len(first), generator=generator, device=first.device)
        x1, x2 = (training_crops(config, clips, index, generator) for index in (first, second))
        label = mixed_labels(clips.targets[first], clips.targets[second], ratio, len(clips.classes))
        yield mix(x1, x2, ratio, config.sample_rate), label


def training_crops(config: TrainConfig, clips: Clips, index: Tensor, generator: torch.Generator) -> Tensor:
    """A random crop of each of some clips, as the settings say, before mixing and gain.

    Args:
        config, clips, generator: as for `batches`.
        index: the clip of each crop.

    Shape:
        index: `(batch,)` -> `(batch, 1, crop_samples)` float32
    """
    scale = random_scales(len(index), generator) if config.strong_augmentation else None

    def draw() -> Tensor:
        return random_crops(clips, index, config.crop_samples, generator, pad=config.pad, scale=scale)

    x = draw()
    for _ in range(REDRAWS if config.min_peak else 0):
        quiet = x.abs().amax(dim=2, keepdim=True) < config.min_peak
        if x.device.type == "cpu" and not quiet.any():  # on a GPU the host would wait for the answer
            break
        x = torch.where(quiet, draw(), x)
    return x


def build_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of the settings, for all parameters of a network."""
    decay = config.weight_decay
    if config.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), config.learning_rate, weight_decay=decay, fused=True)
    nesterov = config.nesterov and config.momentum > 0
    optimizer = torch.optim.SGD(
        model.parameters(), config.learning_rate, config.momentum, weight_decay=decay, nesterov=nesterov, fused=True
    )
    if config.unfreeze_epoch and config.momentum:
        # A momentum of zero is as good as none; the fused step takes no layers that have none beside others that do.
        for parameter in model.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_train_mode(model: nn.Module, *, frozen: bool) -> None:
    """Puts a network into training mode, with its front-end (parameters and batch-norm statistics) frozen or not."""
    model.train()
    for name in cast(Network, model).FRONT_END:
        part = model.get_submodule(name).train(not frozen).requires_grad_(not frozen)
        if frozen:  # without gradients: an optimiser would still use old ones for weight decay and momentum
            part.zero_grad(set_to_none=True)


def train_step(
    model: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, x: Tensor, label: Tensor
) -> tuple[Tensor, Tensor]:
    """Updates a network from one batch.

    Args:
        model: the network, in training mode.
        optimizer: of its parameters.
        x, label: a batch, of the shapes that `batches` makes.

    Returns:
        the batch's mean loss and its number of correct examples, both before the update; on its device, so that the
        host does not wait for them.
    """
    logits = model(x).float()
    loss = batch_loss(logits, label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    correct = logits.argmax(dim=1) == (label if label.ndim == 1 else label.argmax(dim=1))
    return loss.detach(), correct.sum()
