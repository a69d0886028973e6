"""A run directory: the settings, history, checkpoints and curves of one training; every file is complete or not there.

    <save_dir>/<run>/
        config.json            the settings (`TrainConfig`)
        history.json           {"loss": {"1": value, ...}}; so too "acc" and "lr", and "eval_loss", "eval_acc" of tests
        checkpoints.json       {name: {"name", "epoch", "eval_acc", "sha256"}}, best on the evaluation folds first;
                               older runs have no hash of the file
        temperatures.json      {name: {"temperature", "fitted_on", "clips"}}, if probabilities were calibrated
        sessions.json          [{"from_epoch", "to_epoch", "seconds", "processor_seconds" (of all threads), and the
                               machine's facts}], one for each start; "sittings.json" in older runs
        losses.png, accuracies.png
        <name>/<name>.model    a checkpoint: the network's state dict; the name is "epoch-0001" and so on
        eval/                  what `evaluate` found
        training.state         what an unfinished training resumes from (`esc_lib.training.checkpoint`)
        .lock, .pid            of the process that trains, and its id

The result of a run is its last epoch, or the "best" on the validation folds if there are any. Without them "best" is
the best on the evaluation folds: chosen by looking at the test clips, its accuracy is too high to report.
"""

import hashlib
import os
import re
import reprlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NoReturn, TypeGuard

import torch
from torch import Tensor, nn

from esc_lib.arguments import as_path, check
from esc_lib.data.download import file_hash
from esc_lib.files import (
    atomic_write,
    explain_write_errors,
    file_lock,
    load_tensors,
    make_folder,
    read_json,
    remove_parts,
    serialize,
    write_json,
)
from esc_lib.models import build_model
from esc_lib.paths import runs_folder
from esc_lib.plots import plot_curves
from esc_lib.training.config import TrainConfig
from esc_lib.training.rounding import check_plain, restore_weights, round_weights

TEMPERATURES = (0.01, 100)  # lowest and highest; `calibrate` looks from 0.05 to 20
HISTORY_KEYS = ("loss", "acc", "lr", "eval_loss", "eval_acc")


@dataclass
class Run:
    """One training: its directory and what is in it.

    Attributes:
        path: the run directory.
        config: its settings.
        history: `{"loss": {epoch: value}, ...}`, epochs from 1.
        checkpoints: `{name: {"name", "epoch", "eval_acc", "sha256"}}`, best first; of equals the older first.
        sessions: one for each start of the training; epochs after the last test before a stop are in none.
        keeps_only_best: whether no epoch was kept but those that did best on the evaluation folds.
        checkpoint_name: what a checkpoint can be called; nothing else becomes part of a path.
    """

    path: Path
    config: TrainConfig
    history: dict[str, dict[int, float]] = field(default_factory=lambda: {key: {} for key in HISTORY_KEYS})
    checkpoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    sessions: list[dict[str, Any]] = field(default_factory=list)
    keeps_only_best: ClassVar[bool] = False
    checkpoint_name: ClassVar[re.Pattern[str]] = re.compile(r"epoch-(\d{4}|[1-9]\d{4,8})")  # its number

    @property
    def finished(self) -> bool:
        """Whether the last epoch was trained, tested and kept, and all that is known of the training is there."""
        last, tested = self.config.epochs, self.history["eval_acc"] if self.config.monitored_folds else {}
        kept = [name for name, checkpoint in self.checkpoints.items() if checkpoint["epoch"] == last]
        whole = len(self.history["loss"]) == last and (last in tested or not self.config.monitored_folds)
        return whole and any(self._file(name).is_file() for name in kept)

    @property
    def result_checkpoint(self) -> str:
        """The checkpoint that is the run's result, "best" if validation folds chose it, else "last"."""
        return "best" if self.config.validation_folds else "last"

    def checkpoint(self, name: str = "result") -> dict[str, Any]:
        """Name, epoch, accuracy and hash of a checkpoint.

        Args:
            name: "result" (`result_checkpoint`), "last" (latest epoch), "best" (best on the validation or evaluation
                folds; the latest if there are none) or a checkpoint's name.

        Raises:
            ValueError: there is none, or none of that name.
        """
        check("checkpoint", name, str)
        if not self.checkpoints:
            raise ValueError(f"{self.path} holds no checkpoint: the run stopped before its first test; train again")
        if name == "result":
            name = self.result_checkpoint
        if name == "last":
            return max(self.checkpoints.values(), key=lambda checkpoint: checkpoint["epoch"])
        if name == "best":
            return next(iter(self.checkpoints.values()))
        if name not in self.checkpoints:
            known = ", ".join(self.checkpoints)
            raise ValueError(f"{self.path} has no checkpoint {name!r}: it has last, best, {known}")
        return self.checkpoints[name]

    def model(self, checkpoint: str = "result") -> nn.Module:
        """The trained network, on the CPU, in eval mode.

        Raises:
            FileNotFoundError: the checkpoint's file is missing.
            ValueError: no such checkpoint, or its file is damaged, holds more than tensors, or is another network's.
        """
        entry = self.checkpoint(checkpoint)
        file = self._file(entry["name"])
        if not os.path.isfile(file):
            raise FileNotFoundError(f"{file} is missing: copy the whole run directory, or train again")
        model = build_model(self.config.architecture, len(self.config.class_names))
        try:
            if "sha256" in entry and entry["sha256"] != file_hash(file):
                raise ValueError("it is not what was written; copy it again, or train again")
            state = restore_weights(load_tensors(file))
            check_weights(state)
            self.load_weights(model, state)
        except Exception as error:  # the unpickler trips over a damaged file in many ways
            raise ValueError(f"{file} is not a checkpoint of {self.config.architecture}: {error}") from error
        return model.eval()

    def load_weights(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        """Puts a checkpoint's tensors into a fresh network."""
        model.load_state_dict(state)

    def temperature(self, checkpoint: str = "result") -> float:
        """The temperature that calibrates a checkpoint's probabilities (`esc_lib.calibrate`); 1 if uncalibrated.

        Raises:
            ValueError: no such checkpoint, or `temperatures.json` is damaged.
        """
        entry = self._temperatures().get(self.checkpoint(checkpoint)["name"], {"temperature": 1.0})
        value = entry.get("temperature") if isinstance(entry, dict) else None
        if not _is_number(value, *TEMPERATURES):
            raise ValueError(f"{self.path / 'temperatures.json'} holds {entry!r}: delete it and calibrate again")
        return float(value)

    def save_temperature(self, checkpoint: str, temperature: float, *, fitted_on: str, clips: int) -> None:
        """Stores a checkpoint's temperature.

        Args:
            checkpoint, temperature: as for `checkpoint`, and above 0.
            fitted_on, clips: the clips that it was fitted on, in words, and their number.
        """
        entry = {"temperature": temperature, "fitted_on": fitted_on, "clips": clips}
        name = self.checkpoint(checkpoint)["name"]
        with file_lock(self.path / ".temperatures.lock"):  # two calibrations at once keep both
            remove_parts(self.path, "temperatures.json")
            write_json(self.path / "temperatures.json", self._temperatures() | {name: entry})

    def save_history(self) -> None:
        """Writes `history.json`."""
        write_json(self.path / "history.json", self.history)

    def save_session(self, session: dict[str, Any]) -> None:
        """Writes how far this session has come, in place of what it wrote before."""
        earlier = [other for other in self.sessions if other["from_epoch"] < session["from_epoch"]]
        self.sessions = [*earlier, session]
        write_json(self.path / "sessions.json", self.sessions)

    def save_curves(self) -> None:
        """Draws `losses.png` and `accuracies.png`."""
        for name, kind in (("losses.png", "loss"), ("accuracies.png", "acc")):
            figure = plot_curves(self.history, kind)
            atomic_write(self.path / name, partial(figure.savefig, format="png"))

    def save_checkpoint(self, model: nn.Module, epoch: int, eval_acc: float | None, *, bits: int | None = None) -> None:
        """Keeps the network as it is now, and of all the `keep_n` best; the latest if nothing is tested.

        The new file is complete and listed before an old one is deleted.

        Args:
            model: the network.
            epoch: number of epochs done.
            eval_acc: its accuracy in this epoch's test; None if nothing is tested.
            bits: for a file of less than a quarter of the size, weights are rounded to so many bits, 4 to 8.
        """
        name = f"epoch-{epoch:04d}"
        state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
        state = state if bits is None else round_weights(state, bits)
        digest = hashlib.sha256()

        def write(file: BinaryIO) -> None:
            content = serialize(state, compress=bits is not None)
            digest.update(content)
            file.write(content)

        make_folder(self._file(name).parent)
        atomic_write(self._file(name), write)
        earlier = [entry for entry in self.checkpoints.values() if entry["epoch"] != epoch]
        new = {"name": name, "epoch": epoch, "eval_acc": eval_acc, "sha256": digest.hexdigest()}
        entries = [*earlier, new]
        entries.sort(key=_rank)
        kept = [entry for i, entry in enumerate(entries) if i < self.config.keep_n or entry["epoch"] == epoch]
        self.checkpoints = {entry["name"]: entry for entry in kept}
        write_json(self.path / "checkpoints.json", self.checkpoints)
        self.remove_unlisted()

    def remove_unlisted(self) -> None:
        """Deletes the folders of checkpoints that are not, or not any more, in `checkpoints`."""
        for folder in self.path.iterdir():
            if self.checkpoint_name.fullmatch(folder.name) and folder.name not in self.checkpoints:
                with explain_write_errors(folder):
                    shutil.rmtree(folder)

    def _temperatures(self) -> dict[str, Any]:
        file = self.path / "temperatures.json"
        return read_json(file, dict) if file.is_file() else {}

    def _file(self, name: str) -> Path:
        return self.path / name / f"{name}.model"


# Open run directories in other formats: each is given the folder and its `config.json`, and returns None if it is in a
# format that it does not know. Other wings add theirs.
READERS: list[Callable[[Path, dict[str, Any]], Run | None]] = []


def make_run_folder(
    config: TrainConfig, *, save_dir: str | Path | None = None, run_dir: str | Path | None = None
) -> Path:
    """Makes the folder for a run if it is not there.

    Args:
        config, save_dir: the settings, and where runs lie, as for `runs_folder`.
        run_dir: name of the folder in `save_dir`, or an absolute path; by default a new one of the network, the set and
            the time.

    Raises:
        ValueError: `run_dir` is the folder of all runs, or one above it.
        WriteError: it cannot be made.
    """
    folder = runs_folder(save_dir)
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if run_dir is None:
            stem = f"{config.architecture}-{config.dataset}-{datetime.now():%Y%m%d-%H%M%S}-"
            path = Path(tempfile.mkdtemp(prefix=stem, dir=folder))
            path.chmod(0o755)  # mkdtemp's is for its owner alone
        else:
            path = (folder / as_path("run_dir", run_dir)).resolve()
            if path == folder or path in folder.parents:
                raise ValueError(f"run_dir is {str(run_dir)!r}, which is where runs lie and no run: give it a name")
            path.mkdir(parents=True, exist_ok=True)
    return path


def open_run(path: Path, config: TrainConfig) -> Run:
    """The run of these settings in a folder: what has been done so far, or a new one.

    Raises:
        ValueError: the folder holds a run of other settings, or something else.
        WriteError: it cannot be written.
    """
    if (path / "config.json").is_file():
        run = load_run(path)
        if type(run) is not Run:
            raise ValueError(
                f"{path} holds a run of another project, which nothing is added to: choose another run_dir"
            )
        old, new = run.config.to_dict(), config.to_dict()
        other = [f"{name} is {old[name]!r} there and {new[name]!r} here" for name in new if old[name] != new[name]]
        if other:
            text = ", ".join(other)
            raise ValueError(f"{path} holds a run of other settings ({text}): choose another run_dir or save_dir")
        return run
    if [file for file in path.iterdir() if not file.name.startswith(".") and file.suffix != ".json"]:
        raise ValueError(f"{path} is not empty and holds no run: choose another run_dir")
    run = Run(path, config)
    run.save_history()
    write_json(path / "checkpoints.json", run.checkpoints)
    write_json(path / "config.json", config.to_dict())  # the last, because it is the mark of a run
    return run


def load_run(path: str | Path) -> Run:
    """Opens a run directory, also one that is being written or was stopped, and those that `READERS` know.

    Raises:
        FileNotFoundError: not a run directory.
        ValueError: a file of it is damaged, or a setting is unknown.
    """
    path = as_path("run", path).resolve()
    if not os.path.isfile(path / "config.json"):
        raise FileNotFoundError(f"{path} is not a run directory, or closed to you: expected a config.json in it")
    settings = read_json(path / "config.json", dict)
    for reader in READERS:
        run = reader(path, settings)
        if run is not None:
            return run
    try:
        config = TrainConfig.from_dict(settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path / 'config.json'}: {error}") from error
    run = Run(path, config, read_history(path, config.epochs), sessions=_read_sessions(path))
    run.checkpoints = read_checkpoints(run)
    return run


def read_history(path: Path, epochs: int, *, may_diverge: bool = False) -> dict[str, dict[int, float]]:
    """The history of a run directory; JSON has epochs as text.

    Args:
        path: the run directory.
        epochs: the run's last epoch.
        may_diverge: whether the training went on when its loss was infinite or not a number.

    Raises:
        ValueError: it is missing or damaged, or holds something else than a number for each of some epochs.
    """
    written = read_json(path / "history.json", dict)
    history: dict[str, dict[int, float]] = {key: {} for key in HISTORY_KEYS}
    for key in HISTORY_KEYS:
        values = written.get(key, {})
        for epoch, value in values.items() if isinstance(values, dict) else [("", values)]:
            if key.endswith("acc"):
                right = _is_number(value, 0, 1)
            else:
                right = _is_number(value) or (may_diverge and isinstance(value, float))
            if not right or not re.fullmatch(r"[1-9]\d{0,8}", epoch) or int(epoch) > epochs:
                _refuse(path / "history.json", {key: {epoch: value}})
            history[key][int(epoch)] = value
    return history


def read_checkpoints(run: Run) -> dict[str, dict[str, Any]]:
    """What the `checkpoints.json` of a run lists.

    Raises:
        ValueError: it is missing or damaged, or lists something else than checkpoints of this run.
    """
    file = run.path / "checkpoints.json"
    listed = read_json(file, dict)
    for name, entry in listed.items():
        match = run.checkpoint_name.fullmatch(name)
        right = (
            match
            and isinstance(entry, dict)
            and entry.get("name") == name
            and type(entry.get("epoch")) is int
            and 1 <= entry["epoch"] <= run.config.epochs
            and (not match.groups() or int(match[1]) == entry["epoch"])
            and "eval_acc" in entry
            and (entry["eval_acc"] is None or _is_number(entry["eval_acc"], 0, 1))
            and isinstance(entry.get("sha256", ""), str)
        )
        if not right:
            _refuse(file, {name: entry})
    untested = [name for name, entry in listed.items() if entry["eval_acc"] is None]
    if untested and len(untested) < len(listed):
        _refuse(file, {name: listed[name] for name in untested})  # all were tested, or none
    return dict(sorted(listed.items(), key=lambda item: _rank(item[1])))


def _rank(checkpoint: dict[str, Any]) -> tuple[float, float]:
    """What sorts checkpoints: best first, of equals the older; if none was tested, the latest."""
    tested = checkpoint["eval_acc"] is not None
    return (-checkpoint["eval_acc"], checkpoint["epoch"]) if tested else (-checkpoint["epoch"], 0)


def _read_sessions(path: Path) -> list[dict[str, Any]]:
    file = next((file for name in ("sessions", "sittings") if (file := path / f"{name}.json").is_file()), None)
    sessions = read_json(file, list) if file else []
    for session in sessions:
        numbers = ("from_epoch", "to_epoch", "seconds")
        if not isinstance(session, dict) or not all(_is_number(session.get(key), 0) for key in numbers):
            _refuse(path / "sessions.json", session)
    return sessions


def _is_number(value: object, low: float = -1e300, high: float = 1e300) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _refuse(file: Path, found: object) -> NoReturn:
    raise ValueError(f"{file} holds {reprlib.repr(found)}, which no training writes: restore it, or train again")


def check_weights(state: dict[str, Any]) -> None:
    """Raises ValueError, naming the tensor, unless a state dict holds what a network can compute with."""
    for name, value in state.items():
        check_plain(name, value)
        counts = str(name).endswith("num_batches_tracked")
        if value.dtype != torch.int64 if counts else not value.is_floating_point():
            raise ValueError(f"{name} is of {value.dtype}")
        if not value.float().isfinite().all():
            raise ValueError(f"{name} holds values that are not finite")
        if (counts or str(name).endswith("running_var")) and value.numel() and value.min() < 0:
            raise ValueError(f"{name} is negative")


def as_run(run: Run | str | Path) -> Run:
    """A run, opened if it is given as a path.

    Raises:
        FileNotFoundError, ValueError: as `load_run`.
    """
    return run if isinstance(run, Run) else load_run(run)


def list_runs(save_dir: str | Path | None = None) -> list[Path]:
    """The run directories in a folder, newest first."""
    configs = [file for file in runs_folder(save_dir).glob("*/config.json") if file.is_file()]
    return [config.parent for config in sorted(configs, key=lambda file: file.stat().st_mtime, reverse=True)]
