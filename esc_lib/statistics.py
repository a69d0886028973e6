"""How sure a result is: intervals, comparisons on the same clips, and whether probabilities mean what they say."""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest, bootstrap

BINS = 10


def wilson_interval(correct: int, clips: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the accuracy of one run: what it may be on other clips of the same kind.

    It takes the clips for independent: where many were cut from one recording, it comes out too narrow.
    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.

    >>> low, high = wilson_interval(60, 80)
    >>> f"{low:.3f} to {high:.3f}"
    '0.645 to 0.832'
    """
    interval = binomtest(correct, clips).proportion_ci(confidence, method="wilson")
    return interval.low, interval.high


def bootstrap_interval(
    right: np.ndarray, recording: np.ndarray | None = None, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Interval of a mean over clips by drawing recordings anew, 9,999 times, and taking percentiles.

    Clips that were cut from one recording sound alike and are right or wrong together, so that they are drawn together.

    Args:
        right: of each clip, whether it was right; or of several seeds, in what share of them.
        recording: of each clip, what it was cut from; if not given, each is a recording of its own.
        confidence: share of the draws that the interval holds.
        seed: of the draws.

    Shape:
        right, recording: `(clips,)`

    Raises:
        ValueError: fewer than two recordings.
    """
    right = pd.Series(np.asarray(right, float))
    of = right.groupby(np.arange(len(right)) if recording is None else np.asarray(recording))
    found = bootstrap(
        (of.sum().to_numpy(), of.size().to_numpy()),
        lambda right, clips, axis: right.sum(axis=axis) / clips.sum(axis=axis),
        paired=True,
        confidence_level=confidence,
        method="percentile",
        rng=seed,
    ).confidence_interval
    return float(found.low), float(found.high)


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> float:
    """Probability that two equally good models differ as much as these two, on the same clips (exact, two-sided).

    It takes the clips for independent: where many were cut from one recording, the probability comes out too small.
    Only the clips count on which one is right and the other is wrong; if none is better, each is as likely.
    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12, 1947.

    Args:
        right_a, right_b: of each clip, in the same order, whether the model was right.

    Raises:
        ValueError: not the same number of clips.
    """
    right_a, right_b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    if right_a.shape != right_b.shape:
        raise ValueError(f"{right_a.size} clips of one model and {right_b.size} of the other: give both the same clips")
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0


def reliability(probabilities: np.ndarray, targets: np.ndarray) -> pd.DataFrame:
    """How often a network is right, by how sure it says that it is: ten bins of its highest probability.

    Shape:
        probabilities: `(clips, n_classes)`; targets: `(clips,)` -> a row per bin that holds clips: mean confidence,
        accuracy, number of clips
    """
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    table = pd.DataFrame({"from": bins / BINS, "confidence": sure, "accuracy": right})
    return table.groupby("from").agg(
        confidence=("confidence", "mean"), accuracy=("accuracy", "mean"), clips=("accuracy", "size")
    )


def calibration_error(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Expected calibration error: mean over the clips of the gap between confidence and accuracy in their bin.

    Source: C. Guo, G. Pleiss, Y. Sun, K. Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, eq. 3.
    """
    table = reliability(probabilities, targets)
    gap = (table["confidence"] - table["accuracy"]).abs()
    return float(np.average(gap, weights=table["clips"]))


def fit_temperature(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """The temperature that makes probabilities fit best (least log loss) to what the clips are.

    Fit it on clips that are neither learned from nor reported on. Source: Guo et al., ICML 2017, section 4.2.

    Shape:
        probabilities: `(clips, n_classes)`; targets: `(clips,)` -> one number, 1 if nothing is to be changed, above 1
        if the network was too sure
    """

    def log_loss(log_temperature: float) -> float:
        logs = log_softmax(_logs(probabilities) / np.exp(log_temperature), axis=1)
        return -logs[np.arange(len(targets)), targets].mean()

    return float(np.exp(minimize_scalar(log_loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities at another temperature: above 1 they are more alike, and the order of the classes stays.

    Shape:
        `(clips, n_classes)` -> the same; rows sum to 1
    """
    return softmax(_logs(probabilities) / temperature, axis=1)


def _logs(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, 1e-12))
