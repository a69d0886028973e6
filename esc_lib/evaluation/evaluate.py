"""A trained network's result on its evaluation folds: accuracy, confusion matrix and every clip's probabilities."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from io import BytesIO
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from esc_lib.arguments import check
from esc_lib.data.clips import Clips
from esc_lib.data.datasets import as_numbers, check_folds
from esc_lib.files import atomic_write, file_lock, make_folder, remove_parts, write_json
from esc_lib.training.batches import load_folds
from esc_lib.training.compute import pick_device, to_device
from esc_lib.training.inference import check_finite, predict_probabilities
from esc_lib.training.runs import Run, as_run

# How a run's network is tested on some clips: the clips that count, their probabilities `(clips, n_classes)`, and what
# the result must say about it.
Protocol = Callable[[Run, nn.Module, Callable[..., Clips]], tuple[Clips, Tensor, dict[str, Any]]]


def course_protocol(run: Run, model: nn.Module, load: Callable[..., Clips]) -> tuple[Clips, Tensor, dict[str, Any]]:
    """Every clip counts; the probabilities of its crops are averaged.

    Args:
        run, model: the run, and its network, on the device.
        load: loads the clips to be tested on, given the settings.
    """
    clips = load(run.config)
    return clips, predict_probabilities(model, clips, run.config), {}


# Other wings add theirs.
PROTOCOLS: dict[str, Protocol] = {"course": course_protocol}


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found, and where it was written.

    Attributes:
        path: folder with `result.json`, `confusion_matrix.csv` and `predictions.csv`.
        result: accuracy, and all that must be known to cite it.
        confusion: number of clips; rows are the true class, columns the predicted one.
        predictions: a row per clip: file, fold, recording, true, predicted, and the probability of each class.
    """

    path: Path
    result: dict[str, Any]
    confusion: pd.DataFrame
    predictions: pd.DataFrame

    @property
    def accuracy(self) -> float:
        """Share of all clips whose most probable class is the true one."""
        return float(self.result["acc"])

    def per_class(self) -> pd.DataFrame:
        """Precision, recall, F1 and number of clips of each class."""
        return scores(self.predictions, list(self.confusion.index))

    def worst(self, n: int = 5) -> pd.DataFrame:
        """The `n` misclassified clips with the lowest probability of the true class, lowest first."""
        wrong = self.predictions[self.predictions["true"] != self.predictions["predicted"]]
        given = pd.Series([wrong.at[i, f"p_{true}"] for i, true in wrong["true"].items()], wrong.index, dtype=float)
        columns = ["file", "fold", "true", "predicted"]
        return wrong[columns].assign(p_true=given).sort_values("p_true", kind="stable").head(n)


def evaluate(
    run: Run | str | Path,
    checkpoint: str = "result",
    *,
    folds: Sequence[int] | None = None,
    protocol: str = "course",
    data_dir: str | Path | None = None,
    device: str = "auto",
) -> Evaluation:
    """Tests a run's network on all clips of its evaluation folds and writes what it finds into the run directory.

    Args:
        run: a run, or its directory.
        checkpoint: "result" (written to `eval/`), which without validation folds is "last", and with them "best"; or
            the other of the two, or a checkpoint's name (written to `eval-<checkpoint>/`).
        folds: to test on instead, say the validation folds (written to `eval-<checkpoint>-on-<folds>/`).
        protocol: "course"; or "esc-learner", only for its runs, as that project tested them itself: quiet clips may not
            count (written to `eval-esc-learner-<checkpoint>/`). Its own `eval/` stays as it is.
        data_dir: where prepared data lies, if not in `ESC_DATA` or the repository's `data/`.
        device: "auto", "cpu", "cuda", "cuda:1".

    Raises:
        FileNotFoundError: no run there, or its data has not been prepared.
        ValueError: no such checkpoint, or a damaged one; the run was trained on one of the folds, or on all; or no such
            protocol, or no clip counts in it.
        WriteError: the run directory cannot be written.
    """
    run, place = as_run(run), pick_device(device)
    check("checkpoint", checkpoint, str)
    checkpoint = run.result_checkpoint if checkpoint == "result" else checkpoint
    check("protocol", protocol, str)
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}: expected one of {', '.join(PROTOCOLS)}")
    if folds is not None:
        check_folds("folds", folds, run.config.dataset)
    model = to_device(run.model(checkpoint), place)
    tested = run.config.eval_folds if folds is None else tuple(folds)
    if not tested:
        raise ValueError(f"{run.path} was trained on all folds and has none to be tested on: cross_validate instead")
    seen = sorted(set(tested) & set(run.config.train_folds))
    if seen:
        raise ValueError(f"{run.path} was trained on fold(s) {seen}: test it on others")
    load = partial(load_folds, folds=tested, data_dir=data_dir, device=place)
    clips, probabilities, remarks = PROTOCOLS[protocol](run, model, load)
    check_finite(run.path, probabilities)
    predictions = _predictions(clips, probabilities)
    path = run.path / _folder(run, checkpoint, tested, protocol)
    result = {**_result(run, checkpoint, clips, predictions, tested), **remarks}
    evaluation = Evaluation(path, result, confusion(predictions, list(clips.classes)), predictions)
    _write(evaluation)
    return evaluation


def read_predictions(file: Path | BytesIO) -> pd.DataFrame:
    """A table of predictions as it was written, in which no class is taken for a number ("7") or for missing ("NA")."""
    text = dict.fromkeys(("file", "recording", "source", "true", "predicted"), str)
    table = pd.read_csv(file, dtype=text, keep_default_na=False)
    table = table.rename(columns={"source": "recording"})  # its older name
    numbers = table.drop(columns=list(text), errors="ignore").apply(pd.to_numeric, errors="coerce")
    return table.assign(recording=as_numbers(table["recording"]), **{str(name): numbers[name] for name in numbers})


def as_arrays(predictions: pd.DataFrame) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The probabilities of a table of predictions, and each clip's true class as a column index.

    Shape:
        `(clips, n_classes)`, `(clips,)`
    """
    columns = [column for column in map(str, predictions) if column.startswith("p_")]
    number = {column.removeprefix("p_"): i for i, column in enumerate(columns)}
    return predictions[columns].to_numpy(), predictions["true"].map(number).to_numpy()


def confusion(predictions: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """Number of tests; rows are the true class, columns the predicted one."""
    from sklearn.metrics import confusion_matrix  # late: it takes longer to import than the rest of the library

    counts = confusion_matrix(predictions["true"], predictions["predicted"], labels=classes)
    return pd.DataFrame(counts, index=classes, columns=classes)


def scores(predictions: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """Precision, recall, F1 and number of tests ("clips") of each class."""
    from sklearn.metrics import precision_recall_fscore_support

    values = precision_recall_fscore_support(
        predictions["true"], predictions["predicted"], labels=classes, zero_division=0
    )
    columns = ("precision", "recall", "f1", "clips")
    return pd.DataFrame(dict(zip(columns, values, strict=True)), index=pd.Index(classes, name="class"))


def _predictions(clips: Clips, probabilities: Tensor) -> pd.DataFrame:
    names = pd.Series(clips.classes)
    predicted = names[probabilities.argmax(dim=1).numpy()].to_numpy()
    table = clips.table[["file", "fold", "recording"]].assign(true=clips.table["category"], predicted=predicted)
    columns = pd.DataFrame(probabilities.numpy(), columns=[f"p_{name}" for name in clips.classes])
    return pd.concat([table, columns], axis="columns")


def _folder(run: Run, checkpoint: str, tested: tuple[int, ...], protocol: str) -> str:
    start = "eval" if protocol == "course" else f"eval-{protocol}"
    if tested != run.config.eval_folds:
        return f"{start}-{checkpoint}-on-{'-'.join(map(str, tested))}"
    # In a run of another project eval/ is that project's.
    return "eval" if checkpoint == run.result_checkpoint and type(run) is Run else f"{start}-{checkpoint}"


def _result(
    run: Run, checkpoint: str, clips: Clips, predictions: pd.DataFrame, tested: tuple[int, ...]
) -> dict[str, Any]:
    correct = int((predictions["true"] == predictions["predicted"]).sum())
    entry = run.checkpoint(checkpoint)
    return {
        "acc": correct / len(predictions),
        "correct": correct,
        "clips": len(predictions),
        "eval_folds": list(tested),
        "dataset": clips.dataset,
        "subset": clips.subset,
        "source_sha256": clips.source_sha256,
        "checkpoint": entry["name"],
        "epoch": entry["epoch"],
        "selection": _selection(run, checkpoint, tested),
        "versions": {"esc-course": version("esc-course"), "torch": torch.__version__},
    }


def _selection(run: Run, checkpoint: str, tested: tuple[int, ...]) -> str:
    """How the checkpoint was chosen, and whether that is honest."""
    if checkpoint == "last" and not run.keeps_only_best:
        return "the last epoch; nothing was chosen by looking at the evaluation folds"
    if checkpoint != "best" and not run.keeps_only_best:
        return "a checkpoint named by the caller"
    epoch = "the epoch" if checkpoint == "best" else "one of the epochs"
    chosen_on = list(run.config.monitored_folds)
    if not chosen_on:
        return "the last epoch that was kept; nothing was tested during training"
    if not set(chosen_on) & set(tested):
        return f"{epoch} that did best on fold(s) {chosen_on}, which are not tested on here"
    return f"{epoch} that did best on the evaluation folds themselves: too high to report"


def _write(found: Evaluation) -> None:
    make_folder(found.path)
    table = found.confusion.rename_axis("true (rows) \\ predicted (columns)").to_csv().encode()
    predictions = found.predictions.to_csv(index=False).encode()
    with file_lock(found.path / ".lock"):  # of several evaluations at once, the three files are of the same one
        remove_parts(found.path)
        atomic_write(found.path / "confusion_matrix.csv", methodcaller("write", table))
        atomic_write(found.path / "predictions.csv", methodcaller("write", predictions))
        write_json(found.path / "result.json", found.result)
