"""What lets a training resume after any stop: its whole state in one file, and one process at a time.

The file is written, whole or not at all, at every test of the network but the last, before the checkpoint of that test;
so the checkpoints of an unfinished run are never ahead of its state.
"""

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from filelock import Timeout
from torch import Tensor, nn

from esc_lib.files import atomic_write, explain_write_errors, file_lock, load_tensors, remove_parts, serialize
from esc_lib.models.blocks import Network
from esc_lib.training.runs import Run, check_weights


class RunLockedError(RuntimeError):
    """Another process is training in this run directory."""


@contextmanager
def run_lock(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Keeps every other process from training in a run directory, until the block ends or this process dies.

    What a killed process left half-written there is removed.

    Raises:
        RunLockedError: another process holds it, and is not waited for (`wait`); the message names its process id.
        WriteError: the lock file cannot be made.
    """
    owner = path / ".pid"
    with ExitStack() as stack:
        try:
            stack.enter_context(file_lock(path / ".lock", wait=wait))
        except Timeout as error:
            pid = owner.read_text(encoding="utf-8", errors="replace")[:20] if owner.is_file() else "unknown"
            message = f"{path} is being trained in by process {pid}: wait for it, or choose another run_dir"
            raise RunLockedError(message) from error
        for folder in (path, *(child for child in path.glob("epoch-*") if child.is_dir())):
            remove_parts(folder)
        atomic_write(owner, lambda file: file.write(str(os.getpid()).encode()))
        stack.callback(owner.unlink, missing_ok=True)
        yield


def state_file(run: Run) -> Path:
    """Where the state of an unfinished training is kept."""
    return run.path / "training.state"


def remove_state(run: Run) -> None:
    """Removes it: there is nothing left to resume from."""
    with explain_write_errors(state_file(run)):
        state_file(run).unlink(missing_ok=True)


def save_state(
    run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator, epoch: int
) -> None:
    """Writes everything that the next epoch depends on.

    Args:
        run: the run.
        model, optimizer, generator: as they are after the epoch.
        epoch: number of epochs done.

    Raises:
        WriteError: it cannot be written; the state before is still there.
    """
    state = {
        "epoch": epoch,
        "history": run.history,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "random": torch.get_rng_state(),
        "random_of_gpus": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    atomic_write(state_file(run), lambda file: file.write(serialize(state)))


def load_state(run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> int:
    """Restores what `save_state` wrote and returns the epoch it was written after.

    If there is nothing yet, it returns 0 and drops what the run's history may hold of untested epochs.

    Args:
        run, model, optimizer, generator: restored in place.

    Raises:
        ValueError: the file is damaged, or holds more than tensors and numbers.
    """
    file = state_file(run)
    if not file.is_file():
        run.history, run.checkpoints = {kind: {} for kind in run.history}, {}
        return 0
    try:
        state = load_tensors(file)
        done = _check_state(state, run)
        model.load_state_dict(state["model"])
        for number, memories in state["optimizer"]["state"].items():
            tensors = {name: value for name, value in memories.items() if isinstance(value, Tensor)}
            check_weights({f"{name} of parameter {number}": value for name, value in tensors.items()})
        fresh = _settings(optimizer)
        optimizer.load_state_dict(state["optimizer"])
        if _settings(optimizer) != fresh:
            raise ValueError("its optimiser has other settings")
        _check_memory(optimizer, model, run)
        if len(state["generator"]) == len(generator.get_state()):
            generator.set_state(state["generator"])
        else:  # a GPU's on a CPU, or the other way round: the random numbers cannot go on, so others begin
            generator.manual_seed(run.config.seed + done)
        torch.set_rng_state(state["random"])
        if torch.cuda.is_available():  # perhaps on fewer GPUs than before
            torch.cuda.set_rng_state_all(state["random_of_gpus"][: torch.cuda.device_count()])
    except Exception as error:  # the unpickler trips over a damaged file in many ways
        raise ValueError(f"{file} cannot be resumed from ({error}): delete {run.path} and train again") from error
    run.history = state["history"]
    # A process that was stopped just before it had finished left its last checkpoint.
    run.checkpoints = {name: entry for name, entry in run.checkpoints.items() if entry["epoch"] <= done}
    return done


def _check_state(state: dict[str, Any], run: Run) -> int:
    """The epoch that a state was written after, if all of it is what this run would have written then."""
    done, last = state["epoch"], run.config.epochs
    if type(done) is not int or not 1 <= done < last or done % run.config.eval_every:
        raise ValueError(f"its epoch is {done!r}, in a training of {last}")
    check_weights(state["model"])
    tested = list(range(run.config.eval_every, done + 1, run.config.eval_every)) if run.config.monitored_folds else []
    every = list(range(1, done + 1))
    expected = {"loss": every, "acc": every, "lr": every, "eval_loss": tested, "eval_acc": tested}
    found = {key: list(values) for key, values in state["history"].items()}
    values = [(key, value) for key, of in state["history"].items() for value in of.values()]
    if found != expected or not all(math.isfinite(v) and (v <= 1 or not key.endswith("acc")) for key, v in values):
        raise ValueError(f"its history is not that of {done} epochs")
    return done


def _settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's settings but for the learning rate, which every step sets."""
    (group,) = optimizer.param_groups
    return {name: value for name, value in group.items() if name not in ("params", "lr")}


def _check_memory(optimizer: torch.optim.Optimizer, model: nn.Module, run: Run) -> None:
    """Raises ValueError unless the optimiser has memories, of its shape, of every parameter that it has trained."""
    never_trained = cast(Network, model).FRONT_END if run.config.freeze_epoch == 1 else ()
    forgets = run.config.optimizer == "sgd" and run.config.momentum == 0
    for name, parameter in model.named_parameters():
        memories = [value for value in optimizer.state[parameter].values() if isinstance(value, Tensor)]
        if not memories and not forgets and not name.startswith(tuple(f"{part}." for part in never_trained)):
            raise ValueError(f"its optimiser has forgotten {name}")
        if any(value.shape not in ((), parameter.shape) for value in memories):
            raise ValueError(f"its optimiser's memory of {name} is not of its shape")
