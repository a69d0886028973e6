"""Training: clips in, a run directory out."""

import math
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from esc_lib.augment import random_crops, trim_silence
from esc_lib.clips import Clips, load_clips
from esc_lib.device import pick_device
from esc_lib.inference import class_probabilities
from esc_lib.models import build_model
from esc_lib.recipes import TrainConfig
from esc_lib.runs import Run, new_run


class TrainingStopped(RuntimeError):
    """The loss became infinite or not a number."""


def train(
    config: TrainConfig,
    data_dir: str | Path | None = None,
    save_dir: str | Path | None = None,
    device: str = "auto",
) -> Run:
    """Trains a network and keeps the run. The same settings on the same machine give the same numbers.

    Args:
        config: the settings, say from `recipe`.
        data_dir: where prepared data lies, if not in `ESC_DATA` or the repository's `data/`.
        save_dir: where the run directory is made, if not in `ESC_RUNS` or the repository's `runs/`.
        device: "auto" (GPU if there is one), "cpu", "cuda", "cuda:1".

    Returns:
        the finished run; its last epoch is the result.

    Raises:
        FileNotFoundError: the data has not been prepared.
        ValueError: a fold is not there, or no such device.
        TrainingStopped: the loss is no number any more. The run keeps its last good checkpoint.
        KeyboardInterrupt: the user stopped it. The run keeps what was finished.
        OSError: the run cannot be written; what was written before is kept.
    """
    place = pick_device(device)
    train_clips, eval_clips = load_split(config, data_dir, place)
    torch.manual_seed(config.seed)
    torch.backends.cudnn.deterministic = True
    model = build_model(config.architecture, len(train_clips.classes))
    model.to(place, memory_format=torch.channels_last)  # convolutions on CPUs are about a third faster so
    run = new_run(config, save_dir)
    try:
        _train_epochs(run, model, train_clips, eval_clips)
    except (KeyboardInterrupt, TrainingStopped):
        with suppress(OSError):  # why it stopped is the news
            run.save_curves()
        raise
    return run


def load_split(
    config: TrainConfig, data_dir: str | Path | None = None, device: str | torch.device = "cpu"
) -> tuple[Clips, Clips]:
    """The clips to learn from and those to test on, trimmed if the settings say so, on the device."""
    clips = load_clips(config.dataset, config.sample_rate, config.train_folds + config.eval_folds, data_dir)
    if config.trim_silence:
        clips = trim_silence(clips)
    clips = clips.to(device)
    return clips.in_folds(config.train_folds), clips.in_folds(config.eval_folds)


def _train_epochs(run: Run, model: nn.Module, train_clips: Clips, eval_clips: Clips) -> None:
    config = run.config
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
        weight_decay=config.weight_decay,
        fused=True,
    )
    generator = torch.Generator().manual_seed(config.seed)
    steps = math.ceil(len(train_clips) / config.batch_size)
    with tqdm(total=config.epochs * steps, desc=run.path.name, unit="step") as progress:
        for epoch in range(1, config.epochs + 1):
            optimizer.param_groups[0]["lr"] = config.learning_rate_at(epoch)
            loss, acc = _train_epoch(config, model, optimizer, train_clips, generator, progress)
            _refuse_no_number(loss, f"the loss of epoch {epoch}", run)
            run.history["loss"][epoch], run.history["acc"][epoch] = loss, acc
            run.history["lr"][epoch] = config.learning_rate_at(epoch)
            run.save_history()
            if epoch % config.eval_every == 0 or epoch == config.epochs:
                _test(run, model, epoch, eval_clips)
            progress.set_postfix_str(_summary(run, epoch))


def _train_epoch(
    config: TrainConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    clips: Clips,
    generator: torch.Generator,
    progress: tqdm,
) -> tuple[float, float]:
    """Shows every clip once and returns the mean loss and accuracy over the clips, as they were when shown."""
    model.train()
    device = clips.samples.device
    loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
    order = torch.randperm(len(clips), generator=generator).to(device)
    for index in order.split(config.batch_size):
        target = clips.targets[index]
        logits = model(random_crops(clips, index, config.crop_samples, generator))
        loss = F.cross_entropy(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach() * len(index)
        correct += (logits.argmax(dim=1) == target).sum()
        progress.update()
    return float(loss_sum) / len(clips), float(correct) / len(clips)


def _test(run: Run, model: nn.Module, epoch: int, clips: Clips) -> None:
    """Tests the network on every evaluation clip and keeps it as a checkpoint."""
    probabilities = class_probabilities(model, clips, run.config.crop_samples, run.config.crops)
    targets = clips.targets.cpu()
    loss = float(F.nll_loss(probabilities.clamp_min(1e-12).log(), targets))
    _refuse_no_number(loss, f"the evaluation loss of epoch {epoch}", run)
    acc = float((probabilities.argmax(dim=1) == targets).double().mean())
    run.history["eval_loss"][epoch], run.history["eval_acc"][epoch] = loss, acc
    run.save_checkpoint(model, epoch, acc)
    run.save_history()
    run.save_curves()


def _refuse_no_number(loss: float, what: str, run: Run) -> None:
    if not math.isfinite(loss):
        kept = run.checkpoint("last")["name"] if run.checkpoints else "no checkpoint (it was too early for one)"
        raise TrainingStopped(
            f"{what} is {loss}: training stopped. {run.path} keeps {kept}. "
            f"Try a learning_rate below {run.config.learning_rate}"
        )


def _summary(run: Run, epoch: int) -> str:
    parts = [f"epoch {epoch}", f"loss {run.history['loss'][epoch]:.3f}", f"acc {run.history['acc'][epoch]:.1%}"]
    if run.history["eval_acc"]:
        parts.append(f"test {list(run.history['eval_acc'].values())[-1]:.1%}")
    return ", ".join(parts)
