"""A run directory: the settings, history, checkpoints and curves of one training, written so that nothing is torn.

    <save_dir>/<run>/
        config.json            the settings (`TrainConfig`)
        history.json           {"loss": {"1": value, ...}}; so too "acc" and "lr", and "eval_loss", "eval_acc" of tests
        checkpoints.json       {name: {"name", "epoch", "eval_acc"}}, best on the evaluation folds first
        temperatures.json      {name: {"temperature", "fitted_on", "clips"}}, if probabilities were calibrated
        sittings.json          [{"from_epoch", "to_epoch", "seconds", and on what machine}]: when it was worked on
        losses.png, accuracies.png
        <name>/<name>.model    a checkpoint: the network's state dict
        eval/                  what `evaluate` found
        training.state         what an unfinished training goes on from (`esc_lib.resume`)
        .lock, .pid            of the process that trains, and who it is

The last epoch is the result of a run. The checkpoint that did best on the evaluation folds is kept too, and called
"best": its accuracy is chosen by looking at the test clips, so it is too high to report.

Runs of esc-learner are read too (`esc_lib.esclearner`), but not written.
"""

import math
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from torch import nn

from esc_lib.config import TrainConfig
from esc_lib.datasets import get_dataset
from esc_lib.esclearner import config_of_esc_learner, is_of_esc_learner, load_weights, refuse_first_format
from esc_lib.files import load_tensors, read_json, tensor_bytes, write_json, write_whole
from esc_lib.models import build_model
from esc_lib.plots import plot_curves

# A small network that comes with the course; who made the recordings that it learned from stands beside it.
PRETRAINED = Path(__file__).parents[1] / "data" / "pretrained" / "m5-esc10"
HISTORY_KEYS = ("loss", "acc", "lr", "eval_loss", "eval_acc")


@dataclass
class Run:
    """One training: where it lies and what is known of it.

    Attributes:
        path: the run directory.
        config: its settings.
        history: `{"loss": {epoch: value}, ...}`, epochs from 1.
        checkpoints: `{name: {"name", "epoch", "eval_acc"}}`, best first; of equals the older first.
        sittings: a run that was stopped and went on has several; what was not tested before a stop is in none.
        of_esc_learner: whether it is esc-learner's, who kept no epoch but those that did best on the evaluation folds.
    """

    path: Path
    config: TrainConfig
    history: dict[str, dict[int, float]] = field(default_factory=lambda: {key: {} for key in HISTORY_KEYS})
    checkpoints: dict[str, dict] = field(default_factory=dict)
    sittings: list[dict] = field(default_factory=list)
    of_esc_learner: bool = False

    @property
    def finished(self) -> bool:
        """Whether the last epoch was trained, tested and kept."""
        return any(checkpoint["epoch"] == self.config.epochs for checkpoint in self.checkpoints.values())

    def checkpoint(self, which: str = "last") -> dict:
        """Name, epoch and accuracy of a checkpoint.

        Args:
            which: "last" (latest epoch), "best" (best on the evaluation folds; the latest if there are none) or a
                checkpoint's name.

        Raises:
            ValueError: there is none, or none of that name.
        """
        if not self.checkpoints:
            raise ValueError(f"{self.path} holds no checkpoint: the run stopped before its first test; train again")
        if which == "last":
            return max(self.checkpoints.values(), key=lambda checkpoint: checkpoint["epoch"])
        if which == "best":
            return next(iter(self.checkpoints.values()))
        if which not in self.checkpoints:
            raise ValueError(
                f"{self.path} has no checkpoint {which!r}: it has last, best, {', '.join(self.checkpoints)}"
            )
        return self.checkpoints[which]

    def model(self, which: str = "last") -> nn.Module:
        """The trained network, on the CPU, in eval mode.

        Args:
            which: as for `checkpoint`.

        Raises:
            FileNotFoundError: the checkpoint's file is missing.
            ValueError: no such checkpoint, or its file is damaged, holds more than tensors, or is another network's.
        """
        file = self._file(self.checkpoint(which)["name"])
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: copy the whole run directory, or train again")
        model = build_model(self.config.architecture, len(get_dataset(self.config.dataset).classes))
        try:
            state = load_tensors(file)
            if self.of_esc_learner:
                load_weights(model, state)
            else:
                model.load_state_dict(state)
        except Exception as error:  # the unpickler trips over a damaged file in many ways
            raise ValueError(f"{file} is not a checkpoint of {self.config.architecture}: {error}") from error
        return model.eval()

    def temperature(self, which: str = "last") -> float:
        """By what a checkpoint's probabilities are calibrated (`esc_lib.calibrate`); 1 if they are as they come.

        Args:
            which: as for `checkpoint`.

        Raises:
            ValueError: no such checkpoint, or `temperatures.json` is damaged.
        """
        entry = self._temperatures().get(self.checkpoint(which)["name"], {"temperature": 1.0})
        value = entry.get("temperature") if isinstance(entry, dict) else None
        if not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"{self.path / 'temperatures.json'} holds {entry!r}: delete it and calibrate again")
        return float(value)

    def save_temperature(self, which: str, temperature: float, fitted_on: str, clips: int) -> None:
        """Writes down a checkpoint's temperature, and from what it was found."""
        entry = {"temperature": temperature, "fitted_on": fitted_on, "clips": clips}
        write_json(self.path / "temperatures.json", self._temperatures() | {self.checkpoint(which)["name"]: entry})

    def save_history(self) -> None:
        """Writes `history.json`."""
        write_json(self.path / "history.json", self.history)

    def save_sitting(self, sitting: dict) -> None:
        """Writes down how far this sitting has come, in place of what it said before."""
        earlier = [other for other in self.sittings if other["from_epoch"] < sitting["from_epoch"]]
        self.sittings = [*earlier, sitting]
        write_json(self.path / "sittings.json", self.sittings)

    def save_curves(self) -> None:
        """Draws `losses.png` and `accuracies.png`."""
        for name, kind in (("losses.png", "loss"), ("accuracies.png", "acc")):
            figure = plot_curves(self.history, kind)
            write_whole(self.path / name, lambda file, figure=figure: figure.savefig(file, format="png"))

    def save_checkpoint(self, model: nn.Module, epoch: int, eval_acc: float | None) -> None:
        """Keeps the network as it is now, and of the earlier ones the `keep_n` best; the latest if nothing is tested.

        The new file is complete and listed before an old one is deleted.
        """
        name = f"epoch-{epoch:04d}"
        state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
        self._file(name).parent.mkdir(exist_ok=True)
        write_whole(self._file(name), lambda file: file.write(tensor_bytes(state)))
        earlier = [entry for entry in self.checkpoints.values() if entry["epoch"] != epoch]
        entries = [*earlier, {"name": name, "epoch": epoch, "eval_acc": eval_acc}]
        tested = eval_acc is not None
        entries.sort(key=lambda entry: (-entry["eval_acc"], entry["epoch"]) if tested else -entry["epoch"])
        kept = [entry for i, entry in enumerate(entries) if i < self.config.keep_n or entry["epoch"] == epoch]
        self.checkpoints = {entry["name"]: entry for entry in kept}
        write_json(self.path / "checkpoints.json", self.checkpoints)
        for entry in entries:
            if entry["name"] not in self.checkpoints:
                shutil.rmtree(self._file(entry["name"]).parent)

    def _temperatures(self) -> dict:
        file = self.path / "temperatures.json"
        return read_json(file) if file.is_file() else {}

    def _file(self, name: str) -> Path:
        return self.path / name / f"{name}.model"


def runs_folder(save_dir: str | Path | None = None) -> Path:
    """Where runs lie: `save_dir`, else the environment's `ESC_RUNS`, else the repository's `runs/`, in that order."""
    return Path(save_dir or os.environ.get("ESC_RUNS") or Path(__file__).parents[1] / "runs").expanduser().resolve()


def make_run_folder(config: TrainConfig, save_dir: str | Path | None = None, run_dir: str | Path | None = None) -> Path:
    """Makes the folder for a run if it is not there.

    Args:
        config: the settings.
        save_dir: where runs lie, as for `runs_folder`.
        run_dir: name of the folder in `save_dir`, or a path; a new name from what is trained and when if not given.

    Raises:
        OSError: it cannot be made.
    """
    folder = runs_folder(save_dir)
    stem = f"{config.architecture}-{config.dataset}-{datetime.now():%Y%m%d-%H%M%S}-"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if run_dir is None:
            path = Path(tempfile.mkdtemp(prefix=stem, dir=folder))
            path.chmod(0o755)  # mkdtemp's is for its owner alone
        else:
            path = (folder / Path(run_dir).expanduser()).resolve()
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno, f"no run can be made in {folder} ({error.strerror}): choose another save_dir"
        ) from error
    return path


def open_run(path: Path, config: TrainConfig) -> Run:
    """The run of these settings in a folder: with what was done already, or begun now.

    Raises:
        ValueError: the folder holds a run of other settings, or something else.
        OSError: it cannot be written.
    """
    if (path / "config.json").is_file():
        run = load_run(path)
        if run.of_esc_learner:
            raise ValueError(f"{path} holds a run of esc-learner, which nothing is added to: choose another run_dir")
        old, new = run.config.to_dict(), config.to_dict()
        other = [f"{name} is {old[name]!r} there and {new[name]!r} here" for name in new if old[name] != new[name]]
        if other:
            raise ValueError(f"{path} holds a run of other settings ({', '.join(other)}): choose another run_dir")
        return run
    if [file for file in path.iterdir() if not file.name.startswith(".") and file.suffix != ".json"]:
        raise ValueError(f"{path} is not empty and holds no run: choose another run_dir")
    run = Run(path, config)
    run.save_history()
    write_json(path / "checkpoints.json", run.checkpoints)
    write_json(path / "config.json", config.to_dict())  # the last, because it is the mark of a run
    return run


def load_run(path: str | Path) -> Run:
    """Opens a run directory, also one that is being written or was stopped, or one of esc-learner.

    Raises:
        FileNotFoundError: not a run directory.
        ValueError: a file of it is damaged, or a setting is unknown; or it is a run of esc-learner that cannot be read.
    """
    path = Path(path).expanduser().resolve()
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path} is not a run directory: expected a config.json in it")
    settings = read_json(path / "config.json")
    of_esc_learner = is_of_esc_learner(settings)
    try:
        config = config_of_esc_learner(settings) if of_esc_learner else TrainConfig.from_dict(settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path / 'config.json'}: {error}") from error
    if of_esc_learner:
        refuse_first_format(path)
    written = read_json(path / "history.json")
    history = {kind: {int(e): v for e, v in written.get(kind, {}).items()} for kind in HISTORY_KEYS}
    sittings = read_json(path / "sittings.json", list) if (path / "sittings.json").is_file() else []
    return Run(path, config, history, read_json(path / "checkpoints.json"), sittings, of_esc_learner)


def list_runs(save_dir: str | Path | None = None) -> list[Path]:
    """The run directories in a folder, newest first."""
    configs = runs_folder(save_dir).glob("*/config.json")
    return [config.parent for config in sorted(configs, key=lambda file: file.stat().st_mtime, reverse=True)]
