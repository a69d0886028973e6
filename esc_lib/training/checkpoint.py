"""What lets a training resume after any stop: its whole state in one file, and one process at a time.

The file is written, whole or not at all, at every test of the network but the last, before the checkpoint of that test;
so the checkpoints of an unfinished run are never ahead of its state.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import nn

from esc_lib.files import atomic_write, load_tensors, serialize
from esc_lib.training.runs import Run


class RunLockedError(RuntimeError):
    """Another process is training in this run directory."""


@contextmanager
def run_lock(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Keeps every other process from training in a run directory, until the block ends or this process dies.

    Raises:
        RunLockedError: another process holds it, and is not waited for (`wait`); the message names its process id.
    """
    lock, owner = FileLock(path / ".lock"), path / ".pid"
    try:
        lock.acquire(timeout=-1 if wait else 0, poll_interval=1)  # the system releases the lock of a dead process
    except Timeout as error:
        pid = owner.read_text(encoding="utf-8") if owner.is_file() else "unknown"
        message = f"{path} is being trained in by process {pid}: wait for it, or choose another run_dir"
        raise RunLockedError(message) from error
    try:
        owner.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def state_file(run: Run) -> Path:
    """Where the state of an unfinished training is kept."""
    return run.path / "training.state"


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
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        torch.set_rng_state(state["random"])
        if torch.cuda.is_available() and state["random_of_gpus"]:
            torch.cuda.set_rng_state_all(state["random_of_gpus"])
    except Exception as error:  # the unpickler trips over a damaged file in many ways
        raise ValueError(f"{file} cannot be resumed from ({error}): delete {run.path} and train again") from error
    run.history = state["history"]
    return state["epoch"]
