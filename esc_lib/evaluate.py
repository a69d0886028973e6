"""A trained network's result on its evaluation folds: accuracy, confusion matrix and every clip's probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import classification_report, confusion_matrix

from esc_lib.clips import Clips
from esc_lib.device import pick_device
from esc_lib.esclearner import SILENT, tested_as_there
from esc_lib.files import write_json, write_whole
from esc_lib.inference import tested_probabilities
from esc_lib.runs import Run, load_run
from esc_lib.train import load_folds


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found, and where it is written.

    Attributes:
        path: folder with `result.json`, `confusion_matrix.csv` and `predictions.csv`.
        result: accuracy and all that must be known to cite it.
        confusion: number of clips; rows are the true class, columns the predicted one.
        predictions: a row per clip: file, fold, source (the recording), true, predicted, and the probability of each
            class.
    """

    path: Path
    result: dict
    confusion: pd.DataFrame
    predictions: pd.DataFrame

    @property
    def accuracy(self) -> float:
        """Share of all clips whose most probable class is the true one."""
        return self.result["acc"]

    def per_class(self) -> pd.DataFrame:
        """Precision, recall, F1 and number of clips of each class."""
        return scores(self.predictions, list(self.confusion.index))

    def worst(self, n: int = 5) -> pd.DataFrame:
        """The wrong clips, least probability for the true class first."""
        wrong = self.predictions[self.predictions["true"] != self.predictions["predicted"]]
        given = pd.Series([wrong.at[i, f"p_{true}"] for i, true in wrong["true"].items()], wrong.index, dtype=float)
        columns = ["file", "fold", "true", "predicted"]
        return wrong[columns].assign(p_true=given).sort_values("p_true", kind="stable").head(n)


def evaluate(
    run_dir: str | Path,
    which: str = "last",
    data_dir: str | Path | None = None,
    device: str = "auto",
    folds: Sequence[int] | None = None,
    way: str = "ours",
) -> Evaluation:
    """Tests a run's network on all clips of its evaluation folds and writes what it finds into the run directory.

    Args:
        run_dir: the run directory.
        which: "last" (the result, written to `eval/`), or "best" or a checkpoint's name (written to `eval-<which>/`).
        data_dir: where prepared data lies, if not in `ESC_DATA` or the repository's `data/`.
        device: "auto", "cpu", "cuda", "cuda:1".
        folds: to test on instead, where the evaluation folds chose the epoch (written to `eval-<which>-on-<folds>/`).
        way: "ours"; or "esc-learner", for its runs alone, as it tested them itself: quiet clips may not count (written
            to `eval-esc-learner-<which>/`). Its own `eval/` stays as it is.

    Raises:
        FileNotFoundError: no run there, or its data has not been prepared.
        ValueError: no such checkpoint, or a damaged one; the run has learned from one of the folds, or from all; or no
            such way, or no clip counts in it.
    """
    run = load_run(run_dir)
    _check_way(run, way)
    place = pick_device(device)
    model = run.model(which).to(place, memory_format=torch.channels_last)
    tested = run.config.eval_folds if folds is None else tuple(folds)
    if not tested:
        raise ValueError(f"{run.path} has learned from all folds and has none to be tested on: cross_validate instead")
    seen = sorted(set(tested) & set(run.config.train_folds))
    if seen:
        raise ValueError(f"{run.path} has learned from fold(s) {seen}: test it on others")
    if way == "ours":
        clips = load_folds(run.config, tested, data_dir, place)
        probabilities, about_way = tested_probabilities(model, clips, run.config), {}
    else:
        clips, probabilities, about_way = _esc_learners_way(run, model, tested, data_dir, place)
    predictions = _predictions(clips, probabilities)
    evaluation = Evaluation(
        path=run.path / _folder(run, which, tested, way),
        result={**_result(run, which, clips, predictions, tested), **about_way},
        confusion=confusion(predictions, list(clips.classes)),
        predictions=predictions,
    )
    _write(evaluation)
    return evaluation


def as_arrays(predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities of a table of predictions, and each clip's true class as their column's number.

    Shape:
        `(clips, n_classes)`, `(clips,)`
    """
    columns = [column for column in predictions if column.startswith("p_")]
    number = {column.removeprefix("p_"): i for i, column in enumerate(columns)}
    return predictions[columns].to_numpy(), predictions["true"].map(number).to_numpy()


def confusion(predictions: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """Number of tests; rows are the true class, columns the predicted one."""
    counts = confusion_matrix(predictions["true"], predictions["predicted"], labels=classes)
    return pd.DataFrame(counts, index=classes, columns=classes)


def scores(predictions: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """Precision, recall, F1 and number of tests ("clips") of each class."""
    report = classification_report(
        predictions["true"], predictions["predicted"], labels=classes, output_dict=True, zero_division=0
    )
    table = pd.DataFrame(report).T.loc[classes].rename(columns={"f1-score": "f1", "support": "clips"})
    return table.astype({"clips": int}).rename_axis("class")


def _check_way(run: Run, way: str) -> None:
    if way not in ("ours", "esc-learner"):
        raise ValueError(f'way is {way!r}: expected "ours" or "esc-learner"')
    if way == "esc-learner" and not run.of_esc_learner:
        raise ValueError(f"{run.path} is not a run of esc-learner: test it in our way")


def _esc_learners_way(
    run: Run, model: torch.nn.Module, tested: tuple[int, ...], data_dir: str | Path | None, place: torch.device
) -> tuple[Clips, torch.Tensor, dict]:
    """The clips that count there, their probabilities, and what the result must say of it."""
    clips = load_folds(replace(run.config, trim_silence=False), tested, data_dir, place)
    probabilities, counts = tested_as_there(model, clips, run.config)
    left_out = int((~counts).sum())
    if left_out == len(clips):
        raise ValueError(f"no clip of fold(s) {list(tested)} ever rises to {SILENT}: in esc-learner's way none counts")
    text = f"as esc-learner tested: logits averaged, {left_out} quiet clip(s) left out and not counted"
    return clips.select(counts.numpy()), probabilities[counts], {"way": text, "left_out": left_out}


def _predictions(clips: Clips, probabilities: torch.Tensor) -> pd.DataFrame:
    names = pd.Series(clips.classes)
    predicted = names[probabilities.argmax(dim=1).numpy()].to_numpy()
    table = clips.table[["file", "fold", "source"]].assign(true=clips.table["category"], predicted=predicted)
    columns = pd.DataFrame(probabilities.numpy(), columns=[f"p_{name}" for name in clips.classes])
    return pd.concat([table, columns], axis="columns")


def _folder(run: Run, which: str, tested: tuple[int, ...], way: str) -> str:
    start = "eval" if way == "ours" else f"eval-{way}"
    if tested != run.config.eval_folds:
        return f"{start}-{which}-on-{'-'.join(map(str, tested))}"
    # In a run of esc-learner, eval/ is its own.
    return "eval" if which == "last" and not run.of_esc_learner else f"{start}-{which}"


def _result(run: Run, which: str, clips: Clips, predictions: pd.DataFrame, tested: tuple[int, ...]) -> dict:
    correct = int((predictions["true"] == predictions["predicted"]).sum())
    checkpoint = run.checkpoint(which)
    return {
        "acc": correct / len(predictions),
        "correct": correct,
        "clips": len(predictions),
        "eval_folds": list(tested),
        "dataset": clips.dataset,
        "subset": clips.subset,
        "source_sha256": clips.source_sha256,
        "checkpoint": checkpoint["name"],
        "epoch": checkpoint["epoch"],
        "selection": _selection(run, which, tested),
        "versions": {"esc-course": version("esc-course"), "torch": torch.__version__},
    }


def _selection(run: Run, which: str, tested: tuple[int, ...]) -> str:
    """How the checkpoint was chosen, and whether that is honest."""
    chosen_on = list(run.config.eval_folds)
    if which == "last" and not run.of_esc_learner:
        return "the last epoch; nothing was chosen by looking at the evaluation folds"
    if which != "best" and not run.of_esc_learner:
        return "a checkpoint named by the caller"
    epoch = "the epoch" if which == "best" else "one of the epochs"  # esc-learner kept no other
    if not chosen_on:
        return "the last epoch that was kept; nothing was tested while it learned"
    if not set(chosen_on) & set(tested):
        return f"{epoch} that did best on fold(s) {chosen_on}, which are not tested on here"
    return f"{epoch} that did best on the evaluation folds themselves: too high to report"


def _write(evaluation: Evaluation) -> None:
    evaluation.path.mkdir(exist_ok=True)
    confusion = evaluation.confusion.rename_axis("true (rows) \\ predicted (columns)")
    tables = {"confusion_matrix.csv": confusion.to_csv(), "predictions.csv": evaluation.predictions.to_csv(index=False)}
    for name, text in tables.items():
        write_whole(evaluation.path / name, lambda file, text=text: file.write(text.encode()))
    write_json(evaluation.path / "result.json", evaluation.result)
