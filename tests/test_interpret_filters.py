"""Filters whose centre and bandwidth are known, ears and mel filters, and what tones find of them."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torchaudio.functional import melscale_fbanks

from esc_lib.interpret import (
    alike_groups,
    bandwidths,
    centre_frequencies,
    dead_filters,
    ear_bandwidth,
    filter_sound,
    first_filters,
    kernel_response,
    mel_bandwidth,
    mel_frequencies,
    tone_response,
)
from esc_lib.interpret.filters import mel
from esc_lib.models import build_model
from esc_lib.models.blocks import Network
from esc_lib.plots import plot_responses

RATE = 16000
HZ = np.arange(20.0, 8000, 5)


def gammatone(centre, width, taps=2000):
    """A kernel like an ear's filter, of fourth order: t^3 exp(-2 pi b t) cos(2 pi f t), with the parameter b in Hz."""
    t = np.arange(1, taps + 1) / RATE
    return t**3 * np.exp(-2 * np.pi * width * t) * np.cos(2 * np.pi * centre * t)


class FilterBank(Network):
    """Kernels, a ReLU and the maximum of each 100 samples: a front-end whose tone response is its kernels'."""

    SAMPLE_RATE, INPUT_SAMPLES, LENGTHS, FRONT_END = RATE, 8000, range(1, 10**6), ("conv1",)

    def __init__(self, kernels, bias=0.0):
        super().__init__()
        conv = nn.Conv2d(1, len(kernels), (1, kernels.shape[1]))
        conv.weight = nn.Parameter(torch.tensor(kernels, dtype=torch.float32)[:, None, None])
        nn.init.constant_(conv.bias, bias)
        self.conv1 = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d((1, 100)))

    def features(self, x):
        return self.conv1(x.unsqueeze(2)).transpose(1, 2)

    def classify(self, x):
        return x.mean(dim=(1, 3))


def test_a_gammatone_has_its_centre_and_bandwidth_where_it_was_made():
    """The bandwidth of a gammatone of fourth order is 5 pi / 16 of its parameter b, by integration."""
    centres, widths = np.array([500, 1000, 3000]), np.array([80, 135.2, 400])
    kernels = np.stack([gammatone(f, b) for f, b in zip(centres, widths, strict=True)])
    response = kernel_response(kernels, HZ, RATE)
    assert centre_frequencies(response, HZ) == pytest.approx(centres, rel=0.005)
    assert bandwidths(response, HZ) == pytest.approx(5 * np.pi / 16 * widths, rel=0.02)


def test_an_ears_gammatone_has_an_ears_bandwidth():
    assert ear_bandwidth(1000) == pytest.approx(132.639, abs=1e-3)
    kernel = gammatone(2000, 1.019 * ear_bandwidth(2000))
    assert bandwidths(kernel_response(kernel[None], HZ, RATE), HZ) == pytest.approx(ear_bandwidth(2000), rel=0.02)


def test_a_moving_average_has_the_bandwidth_of_its_length():
    """n equal taps pass a band of rate / (2 n) beside 0 Hz: Parseval's theorem."""
    kernels = np.ones((1, 50))
    response = kernel_response(kernels, np.linspace(0, RATE / 2, 20001), RATE)
    assert bandwidths(response, np.linspace(0, RATE / 2, 20001)) == pytest.approx(RATE / 2 / 50, rel=1e-3)


def test_a_kernels_response_is_its_fft():
    kernels = np.random.default_rng(0).normal(size=(5, 64))
    expected = np.abs(np.fft.rfft(kernels))
    assert kernel_response(kernels, np.fft.rfftfreq(64, 1 / RATE), RATE) == pytest.approx(expected)


def test_a_filter_of_zeros_has_no_bandwidth():
    assert np.isnan(bandwidths(np.zeros((1, 5)), np.arange(5.0))).all()


def test_mel_bandwidth_is_that_of_torchaudios_triangles():
    bands, fine = 40, torch.linspace(0, 8000, 16001).numpy()
    triangles = melscale_fbanks(16001, 0.0, 8000.0, bands, RATE, None, "htk").numpy().T
    areas = np.trapezoid(triangles, fine, axis=1) / triangles.max(axis=1)
    peaks = fine[triangles.argmax(axis=1)]
    # A triangle is not quite symmetric in Hz, where the mel scale bends.
    assert mel_bandwidth(peaks, RATE, bands) == pytest.approx(areas, rel=0.01)


def test_mel_frequencies_are_evenly_spaced_on_the_scale_on_which_1000_hz_is_1000_mel():
    assert mel(np.array(1000.0)) == pytest.approx(1000, abs=0.1)
    frequencies = mel_frequencies(RATE, 99)
    assert np.ptp(np.diff(mel(frequencies))) < 1e-9 and frequencies[0] > 0 and frequencies[-1] < RATE / 2
    assert frequencies[49] == pytest.approx(700 * (math.sqrt(1 + RATE / 2 / 700) - 1))  # the middle


def test_tones_through_a_linear_front_end_give_its_kernels_response():
    kernels = np.stack([gammatone(f, 200, 400) for f in (700, 2000, 5000)])
    kernels /= np.abs(kernels).sum(axis=1, keepdims=True)
    frequencies = mel_frequencies(RATE, 40)[5:]  # at least half a period in 100 samples
    found = tone_response(FilterBank(kernels).eval(), frequencies, RATE, amplitude=0.5)
    expected = 0.5 * kernel_response(kernels, frequencies, RATE)
    assert np.abs(found - expected).max() < 0.03 * expected.max()


def test_a_tone_response_counts_from_silence():
    kernels = gammatone(1000, 200, 400)[None] / np.abs(gammatone(1000, 200, 400)).sum()
    with_bias, without = (
        tone_response(FilterBank(kernels, bias).eval(), np.array([1000.0]), RATE) for bias in (5.0, 0.0)
    )
    assert with_bias == pytest.approx(without, rel=1e-3)


def test_tones_need_a_network_in_eval_mode():
    with pytest.raises(ValueError, match=r"training mode: call its eval\(\)"):
        tone_response(FilterBank(np.ones((1, 3))), HZ[:2], RATE)


def test_a_filter_of_zeros_is_dead_and_one_above_a_hundredth_is_not():
    kernels = np.array([1, 0, 0.011, 0.009])[:, None] * gammatone(1000, 100)
    response = kernel_response(kernels, HZ, RATE)
    assert dead_filters(response).tolist() == [False, True, False, True]
    assert dead_filters(-response).tolist() == dead_filters(response).tolist()
    assert dead_filters(response, 0.02).tolist() == [False, True, True, True]


def test_filters_of_one_shape_are_alike_and_a_chain_of_neighbours_is_not():
    kernels = np.stack([gammatone(f, 200) * gain for f, gain in ((500, 1), (500, -3), (2000, 1), (505, 0.1))])
    groups = alike_groups(kernel_response(kernels, HZ, RATE))
    assert groups[0] == groups[1] == groups[3] != groups[2]
    assert alike_groups(kernel_response(kernels[:1], HZ, RATE)).tolist() == [1]
    chain = np.stack([gammatone(f, 150) for f in np.linspace(1000, 2000, 41)])
    response = kernel_response(chain, HZ, RATE)
    neighbours = [np.corrcoef(response[i : i + 2])[0, 1] for i in range(40)]
    assert min(neighbours) > 0.95 and len(set(alike_groups(response))) > 3


def test_a_filters_sound_has_its_spectrum():
    response = kernel_response(gammatone(1000, 100)[None], HZ, RATE)[0]
    sound = filter_sound(response, HZ, RATE, seconds=2.0)
    power = np.abs(np.fft.rfft(sound)) ** 2
    frequencies = np.fft.rfftfreq(len(sound), 1 / RATE)
    assert len(sound) == 2 * RATE and np.abs(sound).max() == pytest.approx(1)
    assert (power * frequencies).sum() / power.sum() == pytest.approx(1000, rel=0.02)
    assert power[(frequencies > 800) & (frequencies < 1200)].sum() > 0.95 * power.sum()
    assert not filter_sound(np.zeros(len(HZ)), HZ, RATE).any()


def test_first_filters_are_those_on_the_waveform():
    assert {name: of.shape for name, of in first_filters(build_model("envnet", 10)).items()} == {"conv1": (40, 8)}
    assert {name: of.shape for name, of in first_filters(build_model("m5", 10)).items()} == {"conv1": (128, 80)}
    shapes = {name: of.shape for name, of in first_filters(build_model("wavemsnet", 10)).items()}
    assert shapes == {"branch1": (32, 11), "branch2": (32, 51), "branch3": (32, 101)}


def test_a_response_of_another_number_of_frequencies_is_refused():
    with pytest.raises(ValueError, match=r"response has the shape \(2, 3\)"):
        centre_frequencies(np.ones((2, 3)), np.ones(4))


def test_the_figure_sorts_filters_by_centre_frequency():
    frequencies = mel_frequencies(RATE, 64)
    kernels = np.stack([gammatone(f, 150) for f in (4000, 300, 1500)])
    figure = plot_responses({"before": kernel_response(kernels, frequencies, RATE)}, frequencies)
    image = figure.axes[0].images[0].get_array()
    assert (np.diff(image.argmax(axis=0)) > 0).all() and image.max() == 0
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["0.1", "0.25", "0.5", "1", "2", "4"]
