"""How certain a result is: intervals, and comparisons of two models on the same clips."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from esc_lib.arguments import check


def wilson_interval(correct: int, clips: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the accuracy of one run: what it may be on other clips of the same kind.

    It treats the clips as independent: where many were cut from one recording, it is too narrow.
    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.

    Args:
        correct, clips: number of correct clips, and of all.
        confidence: how often such intervals hold the true value.

    >>> low, high = wilson_interval(60, 80)
    >>> f"{low:.3f} to {high:.3f}"
    '0.645 to 0.832'
    """
    from scipy.stats import binomtest  # late: it takes long to import

    correct, clips = (int(number) if isinstance(number, np.integer) else number for number in (correct, clips))
    check("clips", clips, int, 1, 10**9)
    check("correct", correct, int, 0, clips)
    check("confidence", confidence, float, 0, 1)
    interval = binomtest(correct, clips).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_interval(
    correct: npt.ArrayLike, recording: npt.ArrayLike | None = None, *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Confidence interval of a mean over clips: percentiles of 9,999 bootstrap resamples of the recordings.

    Clips that were cut from one recording sound alike and are right or wrong together, so they are drawn together.

    Args:
        correct: `(clips,)`, whether each was classified correctly; or, with several seeds, in what share of them.
        recording: `(clips,)`, the recording of each; if not given, each is a recording of its own.
        confidence: share of the resamples inside the interval.
        seed: of the resampling.

    Raises:
        ValueError: fewer than two recordings.
    """
    from scipy.stats import bootstrap

    check("confidence", confidence, float, 0, 1)
    check("seed", seed, int, 0, 2**63 - 1)
    per_clip = pd.Series(np.asarray(correct, float))
    of = per_clip.groupby(np.arange(len(per_clip)) if recording is None else np.asarray(recording))
    found = bootstrap(
        (of.sum().to_numpy(), of.size().to_numpy()),
        lambda correct, clips, axis: correct.sum(axis=axis) / clips.sum(axis=axis),
        paired=True,
        batch=256,  # resamples at once: all together take gigabytes
        confidence_level=confidence,
        method="percentile",
        rng=seed,
    ).confidence_interval
    return float(found.low), float(found.high)


def mcnemar(correct_a: npt.ArrayLike, correct_b: npt.ArrayLike) -> float:
    """McNemar's exact two-sided test: probability that two equally good models differ as much as these two.

    It treats the clips as independent: where many were cut from one recording, the probability is too small. Only clips
    count that one model classifies correctly and the other does not.
    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12, 1947.

    Shape:
        whether each model was right, for the same clips in the same order: `(clips,)` bool, twice

    Raises:
        ValueError: not the same number of clips.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    if a.shape != b.shape:
        raise ValueError(f"{a.size} clips of one model and {b.size} of the other: give both the same clips")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
