"""Probabilities that can be trusted: how reliable they are, and the temperature that makes them so.

Source: C. Guo, G. Pleiss, Y. Sun, K. Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from esc_lib.arguments import check
from esc_lib.evaluation.evaluate import as_arrays
from esc_lib.training.runs import Run, as_run

BINS = 10
Probabilities = npt.NDArray[np.floating]
Targets = npt.NDArray[np.integer]


def calibrate(run: Run | str | Path, predictions: pd.DataFrame, *, fitted_on: str, checkpoint: str = "result") -> float:
    """Fits the temperature that suits predictions best, and stores it with the run: `predict` applies it.

    The order of the classes does not change, nor does any accuracy.

    Args:
        run: a run, or its directory.
        predictions: as `evaluate` returns them, of clips that the network was neither trained on nor is reported on:
            of a validation fold; or a whole cross-validation's with the same settings, for a network that was then
            trained on all folds.
        fitted_on: what these clips are, in words.
        checkpoint: as for `Run.checkpoint`.

    Returns:
        the temperature: above 1 if the network was overconfident.

    Raises:
        FileNotFoundError: no run there.
        ValueError: no such checkpoint, or the run was trained on a fold of these clips and has another to be tested on.
        WriteError: the run cannot be written.
    """
    run = as_run(run)
    check("predictions", predictions, pd.DataFrame)
    check("fitted_on", fitted_on, str)
    lacks = {"fold", "true", *(f"p_{name}" for name in run.config.class_names)} - set(predictions)
    if lacks or predictions.empty:
        what = f"lacks the column(s) {', '.join(sorted(lacks))}" if lacks else "is empty"
        raise ValueError(f"predictions {what}: expected a table as evaluate returns it, of {run.config.dataset}")
    seen = sorted(set(predictions["fold"]) & set(run.config.train_folds))
    if seen and run.config.eval_folds:
        raise ValueError(f"{run.path} was trained on fold(s) {seen}: calibrate it on others")
    temperature = fit_temperature(*as_arrays(predictions))
    run.save_temperature(checkpoint, temperature, fitted_on=fitted_on, clips=len(predictions))
    return temperature


def reliability(probabilities: Probabilities, targets: Targets) -> pd.DataFrame:
    """Accuracy against confidence, in ten bins of the highest probability.

    Shape:
        probabilities: `(clips, n_classes)`; targets: `(clips,)` -> a row per bin that is not empty: mean
        confidence, accuracy, number of clips
    """
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    table = pd.DataFrame({"from": bins / BINS, "confidence": confidence, "accuracy": correct})
    return table.groupby("from").agg(
        confidence=("confidence", "mean"), accuracy=("accuracy", "mean"), clips=("accuracy", "size")
    )


def calibration_error(probabilities: Probabilities, targets: Targets) -> float:
    """Expected calibration error (Guo et al., eq. 3): mean over the clips of their bin's gap in `reliability`."""
    table = reliability(probabilities, targets)
    gap = (table["confidence"] - table["accuracy"]).abs()
    return float(np.average(gap, weights=table["clips"]))


def fit_temperature(probabilities: Probabilities, targets: Targets) -> float:
    """The temperature at which probabilities have the lowest log loss (Guo et al., section 4.2).

    Shape:
        probabilities: `(clips, n_classes)`; targets: `(clips,)` -> one number, above 1 if the network was overconfident
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def log_loss(log_temperature: float) -> float:
        logs = log_softmax(_logs(probabilities) / np.exp(log_temperature), axis=1)
        return -logs[np.arange(len(targets)), targets].mean()

    return float(np.exp(minimize_scalar(log_loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def with_temperature(probabilities: Probabilities, temperature: float) -> Probabilities:
    """Probabilities at another temperature: above 1 they are more uniform; the order of the classes does not change.

    Shape:
        `(clips, n_classes)` -> the same; rows sum to 1
    """
    from scipy.special import softmax

    scaled: Probabilities = softmax(_logs(probabilities) / temperature, axis=1)
    return scaled


def _logs(probabilities: Probabilities) -> Probabilities:
    return np.log(np.maximum(probabilities, 1e-12))
