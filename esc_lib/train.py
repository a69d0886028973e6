"""Training: clips in, a run directory out."""

import math
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from esc_lib.augment import trim_silence
from esc_lib.batches import batches
from esc_lib.clips import Clips, load_clips
from esc_lib.config import TrainConfig
from esc_lib.device import kept_memory, pick_device, say_if_no_gpu
from esc_lib.inference import tested_probabilities
from esc_lib.machine import hardware
from esc_lib.models import build_model
from esc_lib.precision import available, computing_in, fastest_precision
from esc_lib.resume import alone_in, load_state, save_state, state_file
from esc_lib.runs import Run, load_run, make_run_folder, open_run, runs_folder
from esc_lib.steps import new_optimizer, start_learning, train_step


class TrainingStopped(RuntimeError):
    """The loss became infinite or not a number, or the GPU's memory is too small."""


def train(
    config: TrainConfig,
    data_dir: str | Path | None = None,
    save_dir: str | Path | None = None,
    device: str = "auto",
    run_dir: str | Path | None = None,
    progress: bool = True,
) -> Run:
    """Trains a network and keeps the run. The same settings on the same machine give the same numbers.

    A training that was stopped, however it was, goes on where it was last tested if it is called again with the same
    `run_dir`; on the CPU its numbers are those of one that was never stopped.

    Args:
        config: the settings, say from `recipe`.
        data_dir: where prepared data lies, if not in `ESC_DATA` or the repository's `data/`.
        save_dir: where the run directory is made, if not in `ESC_RUNS` or the repository's `runs/`.
        device: "auto" (GPU if there is one), "cpu", "cuda", "cuda:1".
        run_dir: name of the run directory in `save_dir`, or a path; a new name for every run if not given.
        progress: whether a bar over the steps is shown.

    Returns:
        the finished run; its last epoch is the result.

    Raises:
        FileNotFoundError: the data has not been prepared.
        ValueError: a fold is not there, or no such device, or `start_from` is no run to start from, or `run_dir`
            holds a run of other settings.
        RunInUse: another process is training in `run_dir`.
        TrainingStopped: the loss is no number any more, or the GPU's memory is too small. The run keeps its last good
            checkpoint.
        KeyboardInterrupt: the user stopped it. The run keeps what was finished.
        OSError: the run cannot be written; what was written before is kept.
    """
    place = pick_device(device)
    train_clips, eval_clips = load_split(config, data_dir, place)
    if config.precision == "auto":
        config = replace(config, precision=_settled_precision(config, train_clips, save_dir, run_dir))
    if config.precision == "tf32" and place.type == "cpu":
        raise ValueError("precision tf32 is a matter of GPUs: use float32, bfloat16 or auto")
    torch.manual_seed(config.seed)
    model = _new_model(config, len(train_clips.classes))
    model.to(place, memory_format=torch.channels_last)  # convolutions on CPUs are about a third faster so
    say_if_no_gpu(device)
    path = make_run_folder(config, save_dir, run_dir)
    with alone_in(path), kept_memory():
        run = open_run(path, config)
        try:
            _train_epochs(run, model, train_clips, eval_clips, progress)
        except (KeyboardInterrupt, TrainingStopped):
            with suppress(OSError):  # why it stopped is the news
                run.save_curves()
            raise
        except torch.OutOfMemoryError as error:
            smaller = max(1, config.batch_size // 2)
            raise TrainingStopped(
                f"the GPU's memory is too small for batch_size {config.batch_size}: try {smaller}"
            ) from error
    return run


def load_split(
    config: TrainConfig, data_dir: str | Path | None = None, device: str | torch.device = "cpu"
) -> tuple[Clips, Clips]:
    """The clips to learn from and those to test on, trimmed if the settings say so, on the device."""
    clips = load_folds(config, config.train_folds + config.eval_folds, data_dir, device)
    return clips.in_folds(config.train_folds), clips.in_folds(config.eval_folds)


def load_folds(
    config: TrainConfig,
    folds: tuple[int, ...],
    data_dir: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Clips:
    """The clips of some folds, trimmed if the settings say so, on the device."""
    clips = load_clips(config.dataset, config.sample_rate, folds, data_dir)
    return (trim_silence(clips) if config.trim_silence else clips).to(device)


def _settled_precision(
    config: TrainConfig, clips: Clips, save_dir: str | Path | None, run_dir: str | Path | None
) -> str:
    """What "auto" means: what the run began with, or else what is fastest in a few steps of a network of its own."""
    path = runs_folder(save_dir) / Path(run_dir or "").expanduser()
    if (path / "config.json").is_file():
        return load_run(path).config.precision
    chosen, seconds = fastest_to_train(config, clips)
    times = ", ".join(f"{precision} {1000 * of:.0f}" for precision, of in seconds.items())
    why = f"milliseconds a step: {times}" if seconds else "this processor does not multiply shorter numbers"
    tqdm.write(f"precision: {chosen} ({why})", file=sys.stderr)
    return chosen


def fastest_to_train(config: TrainConfig, clips: Clips) -> tuple[str, dict[str, float]]:
    """`fastest_precision` in the first steps of a training, with a network of its own; {} if there is no choice."""
    device = clips.samples.device
    candidates = available(device)
    if len(candidates) == 1:
        return candidates[0], {}
    generator = torch.Generator(device).manual_seed(config.seed)
    model = build_model(config.architecture, len(clips.classes)).to(device, memory_format=torch.channels_last)
    start_learning(model, frozen=config.freeze_epoch == 1)
    optimizer = new_optimizer(config, model)
    batch = next(batches(config, clips, generator))
    with kept_memory():
        return fastest_precision(lambda: train_step(config, model, optimizer, *batch), device)


def _new_model(config: TrainConfig, n_classes: int) -> nn.Module:
    """A fresh network, or one that starts from what its phase 1 learned."""
    model = build_model(config.architecture, n_classes)
    if config.start_from:
        first = load_run(config.start_from)
        _refuse_other_phase_1(config, first.config)
        model.load_phase_1(first.model().state_dict())
    elif config.architecture == "wavemsnet_logmel" and config.freeze_epoch == 1:
        raise ValueError(
            "wavemsnet_logmel is phase 2 of a training: give start_from the run directory of a trained wavemsnet "
            "(or freeze_epoch 0, to learn all of it at once)"
        )
    return model


def _refuse_other_phase_1(config: TrainConfig, first: TrainConfig) -> None:
    """Raises ValueError if a run cannot be phase 1 of another, or has learned from clips the other is tested on."""
    for name, expected in (("architecture", "wavemsnet"), ("dataset", config.dataset)):
        if getattr(first, name) != expected:
            raise ValueError(f"start_from {config.start_from}: its {name} is {getattr(first, name)}, not {expected}")
    seen = sorted(set(first.train_folds) - set(config.train_folds))
    if seen:
        raise ValueError(
            f"start_from {config.start_from}: it has learned from fold(s) {seen}, which are not learned from here: "
            "start from a run with the same folds"
        )


def _train_epochs(run: Run, model: nn.Module, train_clips: Clips, eval_clips: Clips, progress: bool) -> None:
    config = run.config
    optimizer = new_optimizer(config, model)
    generator = torch.Generator(train_clips.samples.device).manual_seed(config.seed)
    learner = torch.compile(model) if config.compile == "on" else model  # the same weights
    steps = math.ceil(len(train_clips) / config.batch_size)
    done = _take_up(run, model, optimizer, generator)
    begin, here = time.perf_counter(), hardware(train_clips.samples.device)
    with tqdm(
        total=config.epochs * steps, initial=done * steps, desc=run.path.name, unit="step", disable=not progress
    ) as bar:
        for epoch in range(done + 1, config.epochs + 1):
            start_learning(model, frozen=0 < config.freeze_epoch <= epoch)
            loss, acc = _train_epoch(config, learner, optimizer, train_clips, generator, epoch, bar)
            _refuse_no_number(loss, f"the loss of epoch {epoch}", run)
            run.history["loss"][epoch], run.history["acc"][epoch] = loss, acc
            run.history["lr"][epoch] = config.learning_rate_at(epoch)
            run.save_history()
            if epoch % config.eval_every == 0 or epoch == config.epochs:
                if len(eval_clips):
                    _test(run, model, epoch, eval_clips)
                seconds = round(time.perf_counter() - begin, 1)
                run.save_sitting({"from_epoch": done + 1, "to_epoch": epoch, "seconds": seconds, **here})
                if epoch < config.epochs:
                    save_state(run, model, optimizer, generator, epoch)
                _keep(run, model, epoch)
            bar.set_postfix_str(_summary(run, epoch))


def _train_epoch(
    config: TrainConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    clips: Clips,
    generator: torch.Generator,
    epoch: int,
    bar: tqdm,
) -> tuple[float, float]:
    """One epoch of steps; returns the mean loss and accuracy over the examples, as they were when shown."""
    device = clips.samples.device
    loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
    steps = math.ceil(len(clips) / config.batch_size)
    for step, (x, label) in enumerate(batches(config, clips, generator)):
        optimizer.param_groups[0]["lr"] = config.learning_rate_at(epoch, (step + 0.5) / steps)
        with computing_in(config.precision, device):
            loss, n_correct = train_step(config, model, optimizer, x, label)
        loss_sum += loss * len(x)
        correct += n_correct
        bar.update()
    return float(loss_sum) / len(clips), float(correct) / len(clips)


def _test(run: Run, model: nn.Module, epoch: int, clips: Clips) -> None:
    """Tests the network on every evaluation clip."""
    config = run.config
    probabilities = tested_probabilities(model, clips, config)
    targets = clips.targets.cpu()
    loss = float(F.nll_loss(probabilities.clamp_min(1e-12).log(), targets))
    _refuse_no_number(loss, f"the evaluation loss of epoch {epoch}", run)
    acc = float((probabilities.argmax(dim=1) == targets).double().mean())
    run.history["eval_loss"][epoch], run.history["eval_acc"][epoch] = loss, acc


def _keep(run: Run, model: nn.Module, epoch: int) -> None:
    """Writes down a tested epoch. After the last one nothing is left to go on from."""
    run.save_checkpoint(model, epoch, run.history["eval_acc"].get(epoch))
    run.save_history()
    run.save_curves()
    if run.finished:
        state_file(run).unlink(missing_ok=True)


def _take_up(run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> int:
    """Brings everything to where the run was last tested, and returns that epoch; 0 for a new run."""
    if run.finished:
        state_file(run).unlink(missing_ok=True)
        return run.config.epochs
    done = load_state(run, model, optimizer, generator)
    if done and all(checkpoint["epoch"] != done for checkpoint in run.checkpoints.values()):
        _keep(run, model, done)  # it was stopped after the state was written and before the checkpoint was
    return done


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
