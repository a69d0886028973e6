"""Probabilities that mean what they say: a temperature for a run, found on clips that it did not learn from."""

from pathlib import Path

import pandas as pd

from esc_lib.evaluate import as_arrays
from esc_lib.runs import Run, load_run
from esc_lib.statistics import fit_temperature


def calibrate(run: Run | str | Path, predictions: pd.DataFrame, fitted_on: str, which: str = "last") -> float:
    """Finds the temperature that fits predictions best, and keeps it with the run: `predict` uses it.

    The order of the classes stays, and so does every accuracy. Source: C. Guo, G. Pleiss, Y. Sun, K. Weinberger, "On
    Calibration of Modern Neural Networks", ICML 2017, section 4.2.

    Args:
        run: a run, or its directory.
        predictions: as `evaluate` returns them, of clips that the network neither learned from nor is reported on:
            of a validation fold; or a whole cross-validation's with the same settings, for a network that then learned
            from all folds.
        fitted_on: what these clips are, in words.
        which: checkpoint, as for `Run.checkpoint`.

    Returns:
        the temperature: above 1 if the network was too sure.

    Raises:
        FileNotFoundError: no run there.
        ValueError: no such checkpoint, or the run learned from a fold of these clips and was to be tested on another.
        OSError: the run cannot be written.
    """
    run = run if isinstance(run, Run) else load_run(run)
    learned = sorted(set(predictions["fold"]) & set(run.config.train_folds))
    if learned and run.config.eval_folds:
        raise ValueError(f"{run.path} has learned from fold(s) {learned}: calibrate it on others")
    temperature = fit_temperature(*as_arrays(predictions))
    run.save_temperature(which, temperature, fitted_on, len(predictions))
    return temperature
