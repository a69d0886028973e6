"""Statistics on cases with known answers."""

import numpy as np
import pytest

from esc_lib.evaluation.calibration import calibration_error, fit_temperature, reliability, with_temperature
from esc_lib.evaluation.statistics import bootstrap_interval, mcnemar, wilson_interval


def drawn(n, temperature, classes=5, seed=0):
    """Targets drawn from probabilities, and these probabilities with their logits times `temperature`."""
    random = np.random.default_rng(seed)
    logits = random.normal(scale=2, size=(n, classes))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = (true.cumsum(axis=1) > random.random((n, 1))).argmax(axis=1)
    sharpened = np.exp(logits * temperature)
    return sharpened / sharpened.sum(axis=1, keepdims=True), targets


def test_wilson_interval_follows_the_formula():
    # Centre (k + z^2 / 2) / (n + z^2), half width z / (n + z^2) sqrt(k (n - k) / n + z^2 / 4), with z = 1.959964.
    z, k, n = 1.959964, 15, 20
    centre, half = (k + z**2 / 2) / (n + z**2), z / (n + z**2) * (k * (n - k) / n + z**2 / 4) ** 0.5
    assert wilson_interval(k, n) == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_wilson_interval_stays_within_zero_and_one():
    low, high = wilson_interval(40, 40)
    assert high == pytest.approx(1) and 0.9 < low < 0.92
    assert wilson_interval(0, 40) == pytest.approx((1 - high, 1 - low))


def test_wilson_interval_takes_the_counts_of_numpy():
    right = np.arange(80) < 60
    assert wilson_interval(right.sum(), np.int64(len(right))) == wilson_interval(60, 80)


def test_bootstrap_agrees_with_the_normal_approximation_for_many_clips():
    right = np.arange(2000) % 4 != 0
    half = 1.96 * (0.75 * 0.25 / 2000) ** 0.5
    assert bootstrap_interval(right) == pytest.approx((0.75 - half, 0.75 + half), abs=0.002)
    assert bootstrap_interval(right) == bootstrap_interval(right)


def test_bootstrap_of_shares_is_narrower_than_of_single_runs():
    shares = np.tile([0.5, 1.0], 200)
    low, high = bootstrap_interval(shares)
    assert low < 0.75 < high and high - low == pytest.approx(2 * 1.96 * 0.25 / 20, rel=0.1)


def test_clips_of_one_recording_are_resampled_together():
    """Four copies of each clip add no information; resampled one by one, they halve the width of the interval."""
    right = np.random.default_rng(0).random(100) < 0.7
    once = bootstrap_interval(right)
    assert bootstrap_interval(right.repeat(4), np.arange(100).repeat(4)) == pytest.approx(once, abs=0.01)
    low, high = bootstrap_interval(right.repeat(4))
    assert high - low == pytest.approx((once[1] - once[0]) / 2, rel=0.15)


def test_mcnemar_is_the_exact_binomial_test():
    # 1 and 9 disagreements: 2 (C(10, 0) + C(10, 1)) / 2^10.
    right_a = np.array([True] * 50 + [True] + [False] * 9)
    right_b = np.array([True] * 50 + [False] + [True] * 9)
    assert mcnemar(right_a, right_b) == pytest.approx(2 * 11 / 1024)
    assert mcnemar(right_b, right_a) == mcnemar(right_a, right_b)
    assert mcnemar(right_a[:50], right_b[:50]) == 1.0


def test_mcnemar_refuses_different_numbers_of_clips():
    with pytest.raises(ValueError, match="3 clips.*2"):
        mcnemar(np.ones(3), np.ones(2))


def test_reliability_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.92, 0.08], [0.3, 0.7], [0.0, 1.0]])
    table = reliability(probabilities, np.array([0, 1, 1, 1]))
    assert table.index.tolist() == pytest.approx([0.7, 0.9])
    assert table["clips"].tolist() == [1, 3]
    assert table["accuracy"].tolist() == pytest.approx([1, 2 / 3])
    assert table["confidence"].tolist() == pytest.approx([0.7, (0.95 + 0.92 + 1) / 3])
    gap = (1 * 0.3 + 3 * abs(2.87 / 3 - 2 / 3)) / 4
    assert calibration_error(probabilities, np.array([0, 1, 1, 1])) == pytest.approx(gap)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_recovered_and_calibrates(temperature):
    probabilities, targets = drawn(20000, temperature)
    fitted = fit_temperature(probabilities, targets)
    assert fitted == pytest.approx(temperature, rel=0.03)
    calibrated, before = with_temperature(probabilities, fitted), calibration_error(probabilities, targets)
    assert calibration_error(calibrated, targets) < 0.015
    assert before < 0.015 if temperature == 1 else before > 0.1
    assert (calibrated.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    assert calibrated.sum(axis=1) == pytest.approx(1)


def test_the_temperature_of_certain_errors_is_finite():
    probabilities = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert 1 < fit_temperature(probabilities, np.array([0, 1, 1])) <= 20.01


def test_an_interval_of_less_confidence_is_shorter_and_the_bootstrap_has_seeds():
    right = np.arange(80) % 4 > 0
    assert wilson_interval(60, 80, confidence=0.5)[0] > wilson_interval(60, 80)[0]
    assert bootstrap_interval(right, confidence=0.5)[0] > bootstrap_interval(right)[0]
    shares = np.random.default_rng(0).random(80)
    assert bootstrap_interval(shares, seed=1) != bootstrap_interval(shares)
