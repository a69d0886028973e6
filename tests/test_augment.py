"""Trimming and cropping against slow, plain versions that really pad with zeros and slice."""

from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import torch
from sound_files import make_clips, noise

from esc_lib.data.clips import trim_silence
from esc_lib.training.augment import (
    cut,
    equalize,
    even_crops,
    random_crops,
    random_gains,
    random_scales,
    random_sliders,
)


def loud(length):
    """Noise without a zero: its first and last sample count as sound."""
    waveform = noise(length, seed=length)
    waveform[waveform == 0] = 1
    return waveform


def ramp(length):
    """1, 2, 3, ...: every sample tells its own place."""
    assert length < 32768
    return np.arange(1, length + 1)


def padded(waveform, length):
    """The clip in float64, full scale at 1, with `length // 2` zeros at both sides."""
    return np.pad(waveform / 32768, length // 2)


def among_loud_ones(*waveforms):
    """Clips with full-scale neighbours before, between and after them; the numbers of the clips in the middle."""
    neighbour = np.full(5000, 32767)
    clips = make_clips([w for waveform in waveforms for w in (neighbour, waveform)] + [neighbour])
    return clips, torch.arange(len(waveforms)) * 2 + 1


def crops_of(clips, index, length, seed=0):
    return random_crops(clips, torch.as_tensor(index), length, torch.Generator().manual_seed(seed))


def starts_of(crops, frames, length, pad=True):
    """Where crops of a ramp begin in the clip, padded or not, each crop being checked in full."""
    starts, margin = [], length // 2 if pad else 0
    whole = np.pad(ramp(frames) / 32768, margin)
    for crop in crops[:, 0].double().numpy():
        first = np.flatnonzero(crop)[0]
        start = margin + round(crop[first] * 32768) - 1 - first
        assert np.array_equal(crop, whole[start : start + length])
        starts.append(start)
    return np.array(starts)


def assert_even(starts, places):
    """Each place is reached, none beyond, and all are as likely (chi-square)."""
    counts = np.bincount(starts, minlength=places)
    assert len(counts) == places and counts.all()
    expected, freedom = len(starts) / places, places - 1
    assert np.sum((counts - expected) ** 2) / expected <= freedom + 4 * np.sqrt(2 * freedom)


# Silence ---------------------------------------------------------------------------------------------------------


def trimmed(waveform):
    """What remains of a clip that stands between two others, which must not change."""
    before, after = noise(50, 1), noise(60, 2)
    before[[0, -1]] = after[[0, -1]] = 1
    clips = trim_silence(make_clips([before, waveform, after]))
    assert np.array_equal(clips.waveform(0).numpy(), before) and np.array_equal(clips.waveform(2).numpy(), after)
    return clips.waveform(1).numpy()


ZEROS_OUTSIDE = [[0, 0, 5, 6], [5, 6, 0, 0], [0, 5, 0, 0, -6, 0, 0], [0, -32768, 0], [0] * 40 + [4] * 20 + [0] * 40]
NO_ZEROS_OUTSIDE = [[5, 0, 0, 6], [1, 2, 3], [9]]
ALL_ZEROS = [[0, 0, 0], [0]]


@pytest.mark.parametrize("waveform", ZEROS_OUTSIDE + NO_ZEROS_OUTSIDE + ALL_ZEROS)
def test_trimming_removes_zeros_at_both_ends_alone_and_keeps_silent_clips(waveform):
    remains = np.trim_zeros(waveform) if any(waveform) else waveform
    assert trimmed(np.array(waveform)).tolist() == remains


def test_trimming_moves_no_sample_and_changes_no_clip_of_the_caller():
    clips = make_clips([[0, 1, 2, 0], [0, 0], [3, 0]])
    before = {field.name: getattr(clips, field.name) for field in fields(clips)}
    copies = {name: value.clone() for name, value in before.items() if isinstance(value, torch.Tensor)}
    result = trim_silence(clips)
    assert result.samples.data_ptr() == clips.samples.data_ptr()
    assert result.offsets.tolist() == [1, 4, 6] and result.frames.tolist() == [2, 2, 1]
    assert all(torch.equal(getattr(clips, name), copies[name]) for name in copies)
    pd.testing.assert_frame_equal(result.table, clips.table)
    assert torch.equal(result.targets, clips.targets)


def test_trimming_a_choice_of_clips():
    clips = make_clips([[0, 1], [0, 0, 2, 0], [3, 0]]).select(np.array([2, 1]))
    result = trim_silence(clips)
    assert [result.waveform(i).tolist() for i in range(2)] == [[3], [2]]
    assert trim_silence(result).offsets.tolist() == result.offsets.tolist()


# Random crops ----------------------------------------------------------------------------------------------------


PADDED = [(100, 16), (100, 17), (20, 8), (20, 9), (3, 12), (7, 20), (7, 21), (1, 8), (1, 9), (9, 1), (5, 5)]
UNPADDED = [(30, 8), (30, 9), (30, 30), (31, 30), (17, 1)]


@pytest.mark.parametrize(
    ("frames", "length", "pad"), [(*sizes, True) for sizes in PADDED] + [(*sizes, False) for sizes in UNPADDED]
)
def test_random_crops_are_slices_and_every_start_is_equally_likely(frames, length, pad):
    clips, index = among_loud_ones(ramp(frames))
    crops = random_crops(clips, index.repeat(10_000), length, torch.Generator().manual_seed(0), pad=pad)
    assert crops.shape == (10_000, 1, length) and crops.dtype == torch.float32
    margins = 2 * (length // 2) if pad else 0
    assert_even(starts_of(crops, frames, length, pad), places=frames + margins - length + 1)


def test_clips_of_a_batch_are_cropped_each_by_itself():
    lengths = [30, 500, 1, 2000]
    clips, index = among_loud_ones(*[ramp(n) for n in lengths])
    order = [2, 0, 3, 1, 3, 0] * 50
    crops = crops_of(clips, index[order], 40)
    shares = {n: [] for n in lengths}
    for crop, i in zip(crops, order, strict=True):
        n = lengths[i]
        shares[n] += (starts_of(crop[None], n, 40) / n).tolist()  # length 40 is even: starts 0 to n
    for n in (500, 2000):  # the longer ones go their own ways, from one end to the other
        assert min(shares[n]) < 0.2 and max(shares[n]) > 0.8
    pairs = np.array([shares[2000][::2], shares[2000][1::2]])
    assert abs(np.corrcoef(pairs)[0, 1]) < 0.5


def crops_of_a_ramp(n, generator):
    return random_crops(make_clips([ramp(5000)]), torch.zeros(n, dtype=torch.long), 50, generator)


@pytest.mark.parametrize("draw", [crops_of_a_ramp, random_scales, random_gains])
def test_the_generator_alone_decides(draw):
    first, second = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    a, b = draw(9, first), draw(9, first)
    assert torch.equal(a, draw(9, second)) and torch.equal(b, draw(9, second)) and not torch.equal(a, b)
    assert not torch.equal(a, draw(9, torch.Generator().manual_seed(4)))


# Even crops ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "length"), [(1000, 100), (1000, 101), (2205, 666), (30, 40), (30, 41), (1, 9)])
@pytest.mark.parametrize("n_crops", [10, 2, 1, 3])
def test_even_crops_are_slices_of_the_padded_clip(frames, length, n_crops):
    clips, index = among_loud_ones(loud(frames))
    whole = padded(loud(frames), length)
    stride = (len(whole) - length) // (n_crops - 1) if n_crops > 1 else 0
    first = 0 if n_crops > 1 else (len(whole) - length) // 2  # a single one is the middle one
    expected = np.stack([whole[first + i * stride :][:length] for i in range(n_crops)])
    crops = even_crops(clips, index, length, n_crops)
    assert crops.shape == (n_crops, 1, length) and crops.dtype == torch.float32
    assert np.array_equal(crops[:, 0].double().numpy(), expected)


def test_even_crops_are_in_the_order_of_the_clips():
    waveforms = [loud(n) for n in (300, 1, 77, 1000)]
    clips, index = among_loud_ones(*waveforms)
    order = [3, 1, 1, 0, 2]
    crops = even_crops(clips, index[order], 51, 10)
    assert crops.shape == (50, 1, 51)
    for place, i in enumerate(order):
        alone = even_crops(make_clips([waveforms[i]]), torch.tensor([0]), 51, 10)
        assert torch.equal(crops[10 * place : 10 * place + 10], alone)


# Neighbours ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 99, 100, 300, 3000])
@pytest.mark.parametrize("scale", [None, 0.8, 1.0, 1.25])
def test_nothing_leaks_in_from_the_neighbours(length, scale):
    clips, index = among_loud_ones(np.zeros(100), np.zeros(1), np.zeros(40))
    scales = None if scale is None else torch.full((300,), scale, dtype=torch.float64)
    for pad in (True, False):
        generator = torch.Generator().manual_seed(0)
        assert not random_crops(clips, index.repeat(100), length, generator, pad=pad, scale=scales).any()
        for n_crops in (1, 2, 10):
            assert not even_crops(clips, index, length, n_crops, pad=pad).any()


def test_crops_at_the_ends_of_all_samples():
    clips = make_clips([loud(30), loud(20)])  # nothing before the first, nothing after the last
    crops = even_crops(clips, torch.tensor([0, 1]), 24, 2)[:, 0].double().numpy()
    for i, waveform in enumerate((loud(30), loud(20))):
        whole = padded(waveform, 24)
        assert np.array_equal(crops[2 * i], whole[:24]) and np.array_equal(crops[2 * i + 1], whole[-24:])


# Longer and shorter clips ----------------------------------------------------------------------------------------


def longer(waveform, scale):
    """The clip in float64 with `scale` times the samples, each between two of the clip's; full scale at 1."""
    values = []
    for j in range(int(len(waveform) * scale)):
        before = int(j / scale)
        after = min(before + 1, len(waveform) - 1)
        share = j / scale - before
        values.append(((1 - share) * float(waveform[before]) + share * float(waveform[after])) / 32768)
    return values


def slow_cut(waveform, start, length, scale):
    values = longer(waveform, scale)
    return [values[j] if 0 <= j < len(values) else 0.0 for j in range(start, start + length)]


def furthest_from_uniform(values, low, high):
    """Largest difference between the shares of values below a bound and what they should be (Kolmogorov, Smirnov)."""
    share = (np.sort(values) - low) / (high - low)
    assert share[0] >= 0 and share[-1] <= 1
    steps = np.arange(len(values) + 1) / len(values)
    return max(np.abs(share - steps[:-1]).max(), np.abs(share - steps[1:]).max())


@pytest.mark.parametrize("scale", [0.8, 0.81234567, 0.999, 1.0, 1.0001, 1.1, 1.25])
@pytest.mark.parametrize(("start", "length"), [(0, 50), (-20, 50), (-70, 50), (60, 50), (110, 60), (500, 9), (-9, 300)])
def test_crops_of_longer_and_shorter_clips_are_the_slow_version(scale, start, length):
    waveforms = [noise(n, seed=n) for n in (100, 97, 1, 2, 13)]
    clips, index = among_loud_ones(*waveforms)
    scales = torch.full((5,), scale, dtype=torch.float64)
    crops = cut(clips, index, torch.full((5,), start), length, scale=scales)
    assert crops.shape == (5, 1, length) and crops.dtype == torch.float32
    expected = [slow_cut(waveform, start, length, scale) for waveform in waveforms]
    np.testing.assert_allclose(crops[:, 0].double().numpy(), expected, rtol=0, atol=1e-6)
    assert np.array_equal(crops[:, 0].numpy() == 0, np.array(expected) == 0)  # outside is exactly zero


def test_each_clip_of_a_batch_has_its_own_start_and_scale():
    waveforms = [noise(n, seed=n) for n in (300, 31, 77, 200)]
    clips, index = among_loud_ones(*waveforms)
    order, starts, scales = [3, 0, 1, 3, 2, 0], [-5, 100, 3, 140, 60, 361], [1.25, 0.8, 1.07, 0.93, 1.0, 1.25]
    crops = cut(clips, index[order], torch.tensor(starts), 40, scale=torch.tensor(scales, dtype=torch.float64))
    expected = [slow_cut(waveforms[i], a, 40, s) for i, a, s in zip(order, starts, scales, strict=True)]
    np.testing.assert_allclose(crops[:, 0].numpy(), expected, rtol=0, atol=1e-6)


def test_scale_1_changes_nothing_and_nothing_is_mixed_in_at_the_end_of_the_data_set():
    clips, start = make_clips([loud(500), loud(30), [32767], [0]]), torch.tensor([-10, 5, 0, 0])
    index, ones = torch.arange(4), torch.ones(4, dtype=torch.float64)
    crops = cut(clips, index, start, 200, scale=ones)
    assert torch.equal(crops, cut(clips, index, start, 200)) and crops[:3].any(dim=2).all() and not crops[3].any()
    assert not cut(clips, index[3:], start[3:], 40, scale=1.25 * ones[3:]).any()


@pytest.mark.parametrize(
    ("draw", "dtype", "base", "bound"),
    [(random_scales, torch.float64, 1.25, 1), (random_gains, torch.float32, 10 ** (1 / 20), 6.0001)],
)
def test_scales_are_uniform_in_their_logarithm_and_gains_in_decibels(draw, dtype, base, bound):
    values = draw(20_000, torch.Generator().manual_seed(0))
    assert values.shape == (20_000,) and values.dtype == dtype
    exponents = np.log(values.double().numpy()) / np.log(base)
    assert furthest_from_uniform(exponents, -bound, bound) < 2 / np.sqrt(20_000)
    assert abs(exponents.mean()) < 0.02 * bound and 0.49 < np.mean(exponents > 0) < 0.51


@pytest.mark.parametrize("scale", [0.8, 0.9, 1.1, 1.25])
@pytest.mark.parametrize("pad", [True, False])
def test_random_crops_of_longer_and_shorter_clips_reach_both_ends(scale, pad):
    frames, length, draws = 40, 12, 1000
    clips, index = among_loud_ones(loud(frames))
    scales = torch.full((draws,), scale, dtype=torch.float64)
    crops = random_crops(clips, index.repeat(draws), length, torch.Generator().manual_seed(1), pad=pad, scale=scales)
    whole = np.pad(longer(loud(frames), scale), length // 2 if pad else 0)
    places = np.lib.stride_tricks.sliding_window_view(whole, length)
    distance = np.abs(crops[:, 0].double().numpy()[:, None] - places).max(axis=2)  # (draws, places)
    assert distance.min(axis=1).max() < 1e-6
    assert set(distance.argmin(axis=1)) == set(range(len(places)))


# Without padding -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "length"), [(7, 20), (7, 21), (1, 9), (19, 20)])
def test_without_padding_a_shorter_clip_is_filled_with_zeros_at_its_end(frames, length):
    clips, index = among_loud_ones(loud(frames))
    expected = np.append(loud(frames) / 32768, np.zeros(length - frames))
    crops = random_crops(clips, index.repeat(50), length, torch.Generator().manual_seed(1), pad=False)
    assert (crops[:, 0].double().numpy() == expected).all()
    for n_crops in (1, 2, 10):
        crops = even_crops(clips, index, length, n_crops, pad=False)
        assert crops.shape == (n_crops, 1, length) and (crops[:, 0].double().numpy() == expected).all()


@pytest.mark.parametrize(("frames", "length"), [(1000, 100), (1000, 101), (2205, 666), (30, 29), (30, 30)])
@pytest.mark.parametrize("n_crops", [2, 3, 10, 18])
def test_without_padding_even_crops_go_from_the_first_sample_to_the_last(frames, length, n_crops):
    clips, index = among_loud_ones(ramp(frames))
    starts = starts_of(even_crops(clips, index, length, n_crops, pad=False), frames, length, pad=False)
    assert starts[0] == 0 and 0 <= frames - length - starts[-1] < n_crops
    assert len(set(np.diff(starts))) == 1


def test_without_padding_a_single_even_crop_is_the_middle_one():
    clips, index = among_loud_ones(ramp(1000))
    assert even_crops(clips, index, 100, 1, pad=False)[0, 0, 0].item() * 32768 == 451


# The equaliser -------------------------------------------------------------------------------------------------------

SLIDERS = torch.tensor([[3.0, -6.0, 9.0, 0.0, -12.0, 6.0, -3.0]])  # at 62.5, 125, 250, 500, 1000, 2000 and 4000 Hz


@pytest.mark.parametrize(
    ("hertz", "decibels"),
    [(20, 3), (62.5, 3), (125, -6), (250, 9), (1000, -12), (4000, -3), (1000 * 2**0.5, -3), (2000 * 2**0.25, 3.75)],
)
def test_a_tone_gets_the_gain_of_its_sliders(hertz, decibels):
    tone = torch.sin(2 * torch.pi * hertz * torch.arange(24000) / 12000)[None, None]
    middle = slice(6000, 18000)  # the tone's ends hold other frequencies
    louder = equalize(tone, SLIDERS, 12000)[..., middle].square().mean() / tone[..., middle].square().mean()
    assert 10 * louder.log10() == pytest.approx(decibels, abs=0.05)


def test_each_waveform_has_sliders_of_its_own_and_flat_ones_change_nothing():
    x = torch.randn(3, 1, 1001, generator=torch.Generator().manual_seed(0))
    sliders = torch.cat([torch.zeros(1, 7), torch.full((1, 7), 20.0), SLIDERS])
    equalized = equalize(x, sliders, 8000)
    torch.testing.assert_close(equalized[:2], x[:2] * torch.tensor([1.0, 10.0])[:, None, None], rtol=0, atol=2e-5)
    torch.testing.assert_close(equalized[2:], equalize(x[2:], SLIDERS, 8000))


def test_an_equalized_click_stays_where_it_is_and_does_not_come_back_at_the_other_end():
    click = torch.zeros(1, 1, 4000)
    click[..., 3990] = 1
    equalized = equalize(click, SLIDERS, 8000)[0, 0]
    assert equalized.abs().argmax() == 3990
    assert equalized[:2000].abs().max() < 1e-3 * equalized.abs().max()


@pytest.mark.parametrize(("rate", "count"), [(100, 2), (8000, 7), (16000, 8), (20000, 9), (44100, 10)])
def test_sliders_are_normal_and_reach_half_the_rate(rate, count):
    sliders = random_sliders(4000, 6, rate, torch.Generator().manual_seed(0))
    assert sliders.shape == (4000, count) and 62.5 * 2 ** (count - 1) >= rate / 2
    share = (sliders.abs() < 6).double().mean(dim=0)
    np.testing.assert_allclose(share, 0.6827, atol=0.03)  # of a normal distribution, within one standard deviation
    np.testing.assert_allclose(np.corrcoef(sliders.T.numpy()), np.eye(count), atol=0.06)
    assert equalize(torch.ones(1, 1, 50), sliders[:1], rate).isfinite().all()
