"""Mixtures of two sounds against slow, plain float64 versions, and by tones of a given loudness."""

import math

import numpy as np
import pytest
import torch
from sound_files import tone

from esc_lib.training.loss import kl_loss
from esc_lib.training.mixing import a_weighting, loudness, mix, mixed_labels, random_pairs

FRAME = {8000: 1024, 16000: 2048, 20000: 2048, 44100: 4096}  # samples per frame at each sampling rate


def a_decibels(hz):
    """The A-weighting formula of the authors for one frequency."""
    f2 = hz**2 if hz else 1.0
    value = 2 + 20 * (
        2 * math.log10(12194)
        + 2 * math.log10(f2)
        - math.log10(f2 + 12194**2)
        - math.log10(f2 + 20.6**2)
        - 0.5 * math.log10(f2 + 107.7**2)
        - 0.5 * math.log10(f2 + 737.9**2)
    )
    return max(value, -80.0)


def slow_loudness(x, rate):
    """Level of the loudest frame of one waveform, in dB."""
    n_fft = FRAME[rate]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    weight = np.array([10 ** (a_decibels(k * rate / n_fft) / 10) for k in range(n_fft // 2 + 1)])
    levels = []
    for begin in range(0, len(x) - n_fft + 1, n_fft // 2):
        power = np.abs(np.fft.rfft(window * x[begin : begin + n_fft])) ** 2
        levels.append(10 * math.log10(max(np.sum(power * weight), 1e-8)))
    return max(levels)


def slow_mix(x1, x2, r, rate):
    """One mixture in float64, for 0 < r < 1."""
    difference = slow_loudness(x1, rate) - slow_loudness(x2, rate)
    p = 1 / (1 + 10 ** (difference / 20) * (1 - r) / r)
    return (p * x1 + (1 - p) * x2) / math.sqrt(p**2 + (1 - p) ** 2)


def waves(*waveforms):
    """A batch `(B, 1, T)` float32."""
    return torch.from_numpy(np.stack(waveforms)).float().unsqueeze(1)


def sounds(n, frames, seed):
    """Noises of many levels, each of them swelling and fading."""
    random, time = np.random.default_rng(seed), np.linspace(0, 19, frames)
    levels = [10 ** random.uniform(-3, -0.5) * np.interp(time, range(20), random.random(20)) for _ in range(n)]
    return [level * random.standard_normal(frames) for level in levels]


def mixed(x1, x2, r, rate):
    return mix(waves(x1), waves(x2), torch.tensor([float(r)]), rate)[0, 0].double().numpy()


# Loudness --------------------------------------------------------------------------------------------------------


def test_a_weighting_is_0_db_at_1_khz_minus_19_at_100_hz_and_never_under_minus_80():
    at_1000, at_100, at_0 = a_weighting(torch.tensor([1000.0, 100.0, 0.0])).tolist()
    assert at_1000 == pytest.approx(0, abs=0.2) and at_100 == pytest.approx(-19.1, abs=0.2) and at_0 == -80
    assert a_weighting(torch.tensor([1.0, 2.0, 5.0])).min() >= -80


@pytest.mark.parametrize("rate", FRAME)
def test_a_weighting_is_the_authors_formula(rate):
    frequencies = torch.fft.rfftfreq(FRAME[rate], 1 / rate)
    expected = [a_decibels(k * rate / FRAME[rate]) for k in range(FRAME[rate] // 2 + 1)]
    np.testing.assert_allclose(a_weighting(frequencies).double().numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("rate", FRAME)
@pytest.mark.parametrize("frames", [1.0, 1.4, 1.5, 7.3])  # times the length of a frame
def test_loudness_is_the_slow_version(rate, frames):
    n, n_fft = int(frames * FRAME[rate]), FRAME[rate]
    tail = np.zeros(n)
    tail[n_fft + (n - n_fft) // (n_fft // 2) * (n_fft // 2) :] = 1  # after the last whole frame
    batch = [*sounds(6, n, seed=rate), tone(440, rate, 8)[:n], tail, np.zeros(n), np.full(n, 1e-7)]
    found = loudness(waves(*batch), rate)
    assert found.shape == (10,) and found.dtype == torch.float32 and (found[-3:] + 80).abs().max() < 1e-4
    np.testing.assert_allclose(found.numpy(), [slow_loudness(x, rate) for x in batch], atol=1e-3)


# Mixtures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("rate", FRAME)
def test_equally_loud_tones_are_added_as_the_ratio_says(rate, r):
    low, high = (rate / FRAME[rate] * round(hz * FRAME[rate] / rate) for hz in (500, 2000))
    x1 = tone(low, rate)
    x2 = tone(high, rate, amplitude=0.5 * 10 ** ((a_decibels(low) - a_decibels(high)) / 20))
    expected = (r * x1 + (1 - r) * x2) / math.sqrt(r**2 + (1 - r) ** 2)
    np.testing.assert_allclose(mixed(x1, x2, r, rate), expected, atol=1e-3)


@pytest.mark.parametrize("r", [0.1, 0.5, 0.8])
def test_at_unequal_levels_the_quieter_sound_gets_the_more_weight(r):
    x1, x2 = tone(1000, 8000), 0.1 * tone(1000, 8000)[::-1]  # 20 dB: p = 1 / (1 + 10 (1 - r) / r)
    p = r / (r + 10 * (1 - r))
    expected = (p * x1 + (1 - p) * x2) / math.sqrt(p**2 + (1 - p) ** 2)
    np.testing.assert_allclose(mixed(x1, x2, r, 8000), expected, atol=1e-5)


@pytest.mark.parametrize("rate", FRAME)
def test_mixtures_are_the_slow_version(rate):
    first, second = (sounds(9, int(3.3 * FRAME[rate]), seed) for seed in (3, 4))
    ratio = np.random.default_rng(5).uniform(0.01, 0.99, 9)
    found = mix(waves(*first), waves(*second), torch.from_numpy(ratio).float(), rate)
    assert found.shape == (9, 1, int(3.3 * FRAME[rate])) and found.dtype == torch.float32
    expected = [slow_mix(x1, x2, r, rate) for x1, x2, r in zip(first, second, ratio, strict=True)]
    np.testing.assert_allclose(found[:, 0].numpy(), expected, rtol=1e-3, atol=1e-5)


def test_ratios_0_and_1_are_the_pure_sounds_and_swapping_both_changes_nothing():
    x1, x2 = (waves(*sounds(5, 3000, seed)) for seed in (6, 7))
    ratio = torch.linspace(0, 1, 5)
    torch.testing.assert_close(mix(x1, x2, ratio, 8000), mix(x2, x1, 1 - ratio, 8000))
    x2[3] = 0  # silence
    for first, second in ((x1, x2), (x2, x1)):
        torch.testing.assert_close(mix(first, second, torch.ones(5), 8000), first)
        torch.testing.assert_close(mix(first, second, torch.zeros(5), 8000), second)


@pytest.mark.parametrize("r", [0, 0.3, 1])
def test_mixtures_with_silence_are_finite(r):
    silence, sound = np.zeros(3000), sounds(1, 3000, seed=10)[0]
    for x1, x2 in ((silence, silence), (silence, sound), (sound, silence)):
        assert np.isfinite(mixed(x1, x2, r, 8000)).all()


# Labels ----------------------------------------------------------------------------------------------------------


def test_labels_hold_the_ratio_of_the_first_class_and_the_rest_of_the_second():
    label = mixed_labels(torch.tensor([2, 0, 1]), torch.tensor([0, 3, 2]), torch.tensor([0.25, 1.0, 0.0]), 4)
    assert label.dtype == torch.float32
    assert label.tolist() == [[0.75, 0, 0.25, 0], [1, 0, 0, 0], [0, 0, 1, 0]]


# Pairs -----------------------------------------------------------------------------------------------------------

UNEQUAL = torch.tensor([3, 2, 3, 3, 1, 3, 2, 3, 0, 3, 3, 2, 3, 3, 2, 3, 1, 3, 2, 3])  # 1, 2, 5 and 12 clips


def pairs_of(targets, n, seed=0):
    return random_pairs(targets, n, torch.Generator().manual_seed(seed))


def test_pairs_are_distributed_as_if_both_were_drawn_until_classes_differ():
    draws = 100_000
    first, second = pairs_of(UNEQUAL, draws)
    assert first.shape == second.shape == (draws,) and first.dtype == second.dtype == torch.int64
    counts = np.zeros((20, 20))
    np.add.at(counts, (first.numpy(), second.numpy()), 1)
    allowed = (UNEQUAL[:, None] != UNEQUAL).numpy()  # each of these ordered pairs is as likely as any other
    assert counts[~allowed].sum() == 0  # classes of a pair always differ
    expected, freedom = draws / allowed.sum(), allowed.sum() - 1
    chi_square = np.sum((counts[allowed] - expected) ** 2) / expected
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("targets", [[3, 3, 3], [0]])
def test_pairs_of_one_class_alone_are_refused(targets):
    with pytest.raises(ValueError, match="two classes"):
        pairs_of(torch.tensor(targets), 4)


def test_the_generator_alone_decides_about_pairs():
    generator = torch.Generator().manual_seed(1)
    first = random_pairs(UNEQUAL, 50, generator)
    following = random_pairs(UNEQUAL, 50, generator)
    again = pairs_of(UNEQUAL, 50, seed=1)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], following[0])


# Loss ------------------------------------------------------------------------------------------------------------


def logits_and_labels(batch=7, classes=10):
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(batch, classes, generator=generator, dtype=torch.float64)
    first = torch.randint(classes, (batch,), generator=generator)
    ratio = torch.rand(batch, generator=generator, dtype=torch.float64)
    return logits, mixed_labels(first, (first + 3) % classes, ratio, classes)


def test_loss_is_the_sum_over_classes_and_the_mean_of_the_batch():
    logits, label = logits_and_labels()
    total = 0.0
    for row, wanted in zip(logits.tolist(), label.tolist(), strict=True):
        normal = sum(math.exp(value) for value in row)
        total += sum(q * (math.log(q) - value + math.log(normal)) for q, value in zip(wanted, row, strict=True) if q)
    assert kl_loss(logits, label).item() == pytest.approx(total / 7, rel=1e-12)


def test_gradient_is_softmax_less_label_over_the_batch_size():
    logits, label = logits_and_labels()
    logits.requires_grad_()
    kl_loss(logits, label).backward()
    torch.testing.assert_close(logits.grad, (logits.detach().softmax(dim=1) - label) / 7)
