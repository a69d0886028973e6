"""Training: clips in, a run directory out."""

import math
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from esc_lib.arguments import as_path, check
from esc_lib.data.clips import Clips
from esc_lib.models import build_model
from esc_lib.models.wavemsnet import WaveMsNetLogMel
from esc_lib.paths import runs_folder
from esc_lib.plots import plot_curves
from esc_lib.progress import LiveFigure, progress_bar
from esc_lib.training.batches import batches, build_optimizer, load_split, set_train_mode, train_step
from esc_lib.training.checkpoint import load_state, remove_state, run_lock, save_state
from esc_lib.training.compute import (
    auto_precision,
    hardware,
    pick_device,
    precision_context,
    retain_freed_memory,
    to_device,
    warn_if_imitated,
    warn_if_no_gpu,
)
from esc_lib.training.config import TrainConfig
from esc_lib.training.inference import predict_probabilities
from esc_lib.training.runs import Run, load_run, make_run_folder, open_run

MOST_STARTS = 20  # runs in a row that started from each other


class TrainingError(RuntimeError):
    """The loss became infinite or not a number, or the GPU's memory is too small."""


def train(
    config: TrainConfig,
    *,
    data_dir: str | Path | None = None,
    save_dir: str | Path | None = None,
    run_dir: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
    locked: bool = False,
) -> Run:
    """Trains a network and keeps the run. The same settings on the same machine give the same numbers.

    A training that was stopped, for whatever reason, resumes from its last test if it is called again with the same
    `run_dir`; on the CPU its numbers are those of one that was never stopped.

    Args:
        config: the settings, say from `recipe`.
        data_dir: where prepared data lies, if not in `ESC_DATA` or the repository's `data/`.
        save_dir: where the run directory is made, if not in `ESC_RUNS` or the repository's `runs/`.
        run_dir: name of the run directory in `save_dir`, or an absolute path; a new name for every run if not given.
        device: "auto" (GPU if there is one), "cpu", "cuda", "cuda:1".
        progress: whether a bar over the steps is shown, in a notebook with the learning curve so far.
        locked: whether the caller holds the lock of `run_dir` already.

    Returns:
        the finished run.

    Raises:
        FileNotFoundError: the data has not been prepared.
        ValueError: a fold is not there, or no such device, or `start_from` is no run to start from, or `run_dir`
            holds a run of other settings.
        RunLockedError: another process is training in `run_dir`.
        TrainingError: the loss is not finite any more, or the GPU's memory is too small. The run keeps its last good
            checkpoint.
        KeyboardInterrupt: the user stopped it. The run keeps what was finished.
        WriteError: the run cannot be written; what was written before is kept.
    """
    import matplotlib.figure  # noqa: F401 # here, because an interrupt while it is imported later would leave it broken

    check("config", config, TrainConfig)
    check("progress", progress, bool)
    check("locked", locked, bool)
    place = pick_device(device)
    if config.precision == "auto":
        config = replace(config, precision=_auto_precision(place, save_dir, run_dir))
    if config.precision == "tf32" and place.type == "cpu":
        raise ValueError("precision tf32 is for GPUs alone: use float32, bfloat16 or auto")
    train_clips, eval_clips = load_split(config, data_dir=data_dir, device=place)
    torch.manual_seed(config.seed)
    model = to_device(_new_model(config), place)
    warn_if_no_gpu(device)
    warn_if_imitated(config.precision, place)
    path = make_run_folder(config, save_dir=save_dir, run_dir=run_dir)
    with nullcontext() if locked else run_lock(path), retain_freed_memory():
        run = open_run(path, config)
        try:
            _train_epochs(run, model, train_clips, eval_clips, progress)
        except (KeyboardInterrupt, TrainingError):
            with suppress(OSError):  # the reason for the stop is the news
                run.save_curves()
            raise
        except torch.OutOfMemoryError as error:
            size = config.batch_size
            message = f"the GPU's memory is too small for batch_size {size}: try {max(1, size // 2)}"
            raise TrainingError(message) from error
    return run


def _auto_precision(device: torch.device, save_dir: str | Path | None, run_dir: str | Path | None) -> str:
    """What "auto" means: what the run started with, or else what the device has circuits for."""
    path = runs_folder(save_dir) / as_path("run_dir", run_dir) if run_dir is not None else None
    if path and (path / "config.json").is_file():
        return load_run(path).config.precision
    return auto_precision(device)


def _new_model(config: TrainConfig) -> nn.Module:
    """A fresh network, or one that starts from another run's."""
    model = build_model(config.architecture, len(config.class_names))
    if config.start_from:
        first = load_run(config.start_from)
        _check_start(config, first)
        state = first.model().state_dict()
        if first.config.class_names != config.class_names:
            state |= _last_layers(config.architecture, model, len(config.class_names))
        if first.config.architecture == config.architecture:
            model.load_state_dict(state)
        else:
            cast(WaveMsNetLogMel, model).load_phase_1(state)
    elif config.architecture == "wavemsnet_logmel" and config.freeze_epoch == 1:
        raise ValueError(
            "wavemsnet_logmel is phase 2 of a training: give start_from the run directory of a trained wavemsnet "
            "(or freeze_epoch 0, to train all of it together)"
        )
    return model


def _last_layers(architecture: str, model: nn.Module, n_classes: int) -> dict[str, Tensor]:
    """The tensors of a network whose size depends on the number of classes: of its last layer, or layers."""
    wider = build_model(architecture, n_classes + 1).state_dict()
    return {name: value for name, value in model.state_dict().items() if value.shape != wider[name].shape}


def _check_start(config: TrainConfig, first: Run) -> None:
    """Raises ValueError if a network cannot start from a run, or if that has seen clips that this is tested on."""
    expected = {"architecture": config.architecture, "sample_rate": config.sample_rate}
    if config.architecture == "wavemsnet_logmel" and first.config.architecture != config.architecture:
        expected |= {"architecture": "wavemsnet", "dataset": config.dataset}  # the two phases of one training
    for name, value in expected.items():
        if (found := getattr(first.config, name)) != value:
            raise ValueError(f"start_from {config.start_from}: its {name} is {found}, not {value}")
    path = config.start_from
    for _ in range(MOST_STARTS):  # what that run started from counts too, as long as it is there
        _check_unseen(config, first.config, path)
        path = first.config.start_from
        if not path or not (Path(path).expanduser() / "config.json").is_file():
            return
        first = load_run(path)


def _check_unseen(config: TrainConfig, first: TrainConfig, path: str) -> None:
    if _same_folds(first) != _same_folds(config):
        if first.dataset == config.dataset and config.monitored_folds:
            raise ValueError(
                f"start_from {path}: it was trained on other recordings or folds of {config.dataset}, perhaps on clips "
                "that are tested on here: train it again, or start from a run on another set"
            )
        return
    seen = set(first.train_folds) - set(config.train_folds) | set(first.validation_folds) & set(config.eval_folds)
    if seen:
        raise ValueError(
            f"start_from {path}: it was trained on fold(s) {sorted(seen)}, which are not trained on here: "
            "start from a run with the same folds"
        )


def _same_folds(config: TrainConfig) -> str:
    """Equal for sets of which one holds the other's clips, in the same folds."""
    return config.source_sha256 or {"esc10": "esc50"}.get(config.dataset, config.dataset)


def _train_epochs(run: Run, model: nn.Module, train_clips: Clips, eval_clips: Clips, progress: bool) -> None:
    config = run.config
    optimizer = build_optimizer(config, model)
    generator = torch.Generator(train_clips.samples.device).manual_seed(config.seed)
    learner = cast(nn.Module, torch.compile(model)) if config.compile else model  # the same parameters
    steps = math.ceil(len(train_clips) / config.batch_size)
    done = _resume(run, model, optimizer, generator)
    begin, begin_processor = time.perf_counter(), time.process_time()
    machine = hardware(train_clips.samples.device)
    curve = LiveFigure(lambda: plot_curves(run.history, "acc")) if progress else None  # above the bar
    with progress_bar(
        total=config.epochs * steps, initial=done * steps, desc=run.path.name, unit="step", disable=not progress
    ) as bar:
        for epoch in range(done + 1, config.epochs + 1):
            set_train_mode(model, frozen=config.is_frozen_at(epoch))
            loss, acc = _train_epoch(config, learner, optimizer, train_clips, generator, epoch, bar)
            _check_finite(loss, f"the loss of epoch {epoch}", run)
            run.history["loss"][epoch], run.history["acc"][epoch] = loss, acc
            run.history["lr"][epoch] = config.learning_rate_at(epoch)
            run.save_history()
            if epoch % config.eval_every == 0 or epoch == config.epochs:
                if len(eval_clips):
                    _test(run, model, epoch, eval_clips)
                spent = {
                    "seconds": round(time.perf_counter() - begin, 1),
                    "processor_seconds": round(time.process_time() - begin_processor, 1),
                }
                run.save_session({"from_epoch": done + 1, "to_epoch": epoch, **spent, **machine})
                if epoch < config.epochs:
                    save_state(run, model, optimizer, generator, epoch)
                _save_checkpoint(run, model, epoch)
            bar.set_postfix_str(_summary(run, epoch))
            if curve:
                curve.update(now=epoch == config.epochs)


def _train_epoch(
    config: TrainConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    clips: Clips,
    generator: torch.Generator,
    epoch: int,
    bar: "tqdm[NoReturn]",
) -> tuple[float, float]:
    """One epoch of steps; returns the mean loss and accuracy over the examples, as they were when shown."""
    device = clips.samples.device
    loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
    steps = math.ceil(len(clips) / config.batch_size)
    for step, (x, label) in enumerate(batches(config, clips, generator)):
        optimizer.param_groups[0]["lr"] = config.learning_rate_at(epoch, (step + 0.5) / steps)
        with precision_context(config.precision, device):
            loss, n_correct = train_step(model, optimizer, x, label)
        loss_sum += loss * len(x)
        correct += n_correct
        bar.update()
    return float(loss_sum) / len(clips), float(correct) / len(clips)


def _test(run: Run, model: nn.Module, epoch: int, clips: Clips) -> None:
    """Tests the network on every clip of the monitored folds."""
    config = run.config
    probabilities = predict_probabilities(model, clips, config)
    targets = clips.targets.cpu()
    loss = float(F.nll_loss(probabilities.clamp_min(1e-12).log(), targets))
    _check_finite(loss, f"the evaluation loss of epoch {epoch}", run)
    acc = float((probabilities.argmax(dim=1) == targets).double().mean())
    run.history["eval_loss"][epoch], run.history["eval_acc"][epoch] = loss, acc


def _save_checkpoint(run: Run, model: nn.Module, epoch: int) -> None:
    """Stores a tested epoch. After the last one there is nothing left to resume from.

    The checkpoint comes after all else, because with the last one the run says that it is finished.
    """
    run.save_history()
    run.save_curves()
    run.save_checkpoint(model, epoch, run.history["eval_acc"].get(epoch))
    if run.finished:
        remove_state(run)


def _resume(run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> int:
    """Restores the run's state after its last test, and returns that epoch; 0 for a new run."""
    if run.finished:
        remove_state(run)
        run.remove_unlisted()
        return run.config.epochs
    done = load_state(run, model, optimizer, generator)
    if done and all(checkpoint["epoch"] != done for checkpoint in run.checkpoints.values()):
        _save_checkpoint(run, model, done)  # it was stopped between state and checkpoint
    return done


def _check_finite(loss: float, what: str, run: Run) -> None:
    if not math.isfinite(loss):
        kept = run.checkpoint("last")["name"] if run.checkpoints else "no checkpoint (it was too early for one)"
        raise TrainingError(
            f"{what} is {loss}: training stopped. {run.path} keeps {kept}. "
            f"Try a learning_rate below {run.config.learning_rate}"
        )


def _summary(run: Run, epoch: int) -> str:
    parts = [f"epoch {epoch}", f"loss {run.history['loss'][epoch]:.3f}", f"acc {run.history['acc'][epoch]:.1%}"]
    if run.history["eval_acc"]:
        parts.append(f"test {list(run.history['eval_acc'].values())[-1]:.1%}")
    return ", ".join(parts)
