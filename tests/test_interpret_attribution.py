"""A burst in an otherwise silent clip is what decides, for a network that measures energy."""

import io

import numpy as np
import pytest
import torch
from tiny import config, numbered, register, write_set
from torch import nn

from esc_lib import build_model, load_clips
from esc_lib.interpret import (
    embed,
    fade_others,
    integrated_gradients,
    occlusion,
    sum_windows,
    to_two_dimensions,
)
from esc_lib.models.blocks import Network
from esc_lib.models.cpu import accelerate
from esc_lib.plots import plot_importance
from esc_lib.training import class_probabilities

RATE = 1000


class Energy(Network):
    """The logit of class 1 is the waveform's energy, that of class 0 is 0."""

    SAMPLE_RATE, INPUT_SAMPLES, LENGTHS, FRONT_END = RATE, 2000, (2000,), ()

    def features(self, x):
        return x.square()

    def classify(self, x):
        energy = x.sum(dim=(1, 2))
        return torch.stack([torch.zeros_like(energy), energy], dim=1)


def burst(start=1.2, end=1.4):
    """A tone between two times, in seconds."""
    time = torch.arange(2000) / RATE
    return 0.1 * torch.sin(2 * torch.pi * 100 * time) * ((time >= start) & (time < end))


def test_occlusion_points_at_the_burst():
    waveform, network = burst(), Energy().eval()
    drop = occlusion(network, waveform, 1, RATE, window=0.2, hop=0.1)
    assert drop.index[0] == 0.1 and drop.index[-1] == 1.9 and len(drop) == 19
    assert drop.idxmax() == pytest.approx(1.3)
    whole, nothing = torch.tensor(float(waveform.square().sum())).sigmoid(), 0.5
    assert drop[1.3] == pytest.approx(float(whole) - nothing, abs=1e-6), "all of the burst is gone"
    assert (drop[drop.index < 1.05].abs() < 1e-6).all() and (drop[drop.index > 1.55].abs() < 1e-6).all()
    assert occlusion(network, waveform, 0, RATE)[1.3] < 0, "without it, class 0 is more probable"


def test_integrated_gradients_share_out_the_energy():
    """Along the path a w, the gradient of the energy is 2 a w: its integral is w^2, sample by sample."""
    waveform = burst()
    shares, error = integrated_gradients(Energy().eval(), waveform, 1, RATE)
    np.testing.assert_allclose(shares, waveform.square(), rtol=1e-4, atol=1e-9)
    assert abs(error) < 1e-5
    windows = sum_windows(shares, RATE, window=0.1)
    assert windows.sum() == pytest.approx(float(waveform.square().sum()), rel=1e-4)
    assert set(windows.nlargest(2).index) == {1.25, 1.35} and windows[windows.index < 1.2].abs().max() < 1e-9


@pytest.mark.parametrize(("name", "length"), [("m5", 4000), ("acdnet", 30225)])
def test_attributions_add_up_to_the_difference_of_the_logits(name, length):
    """For an M-net too, to which every waveform on the way to silence looks the same."""
    torch.manual_seed(0)
    network, waveform = build_model(name, 10).eval(), 0.1 * torch.randn(length)
    with torch.no_grad():
        logits = network(torch.stack([waveform, torch.zeros(length)])[:, None])
    target = int((logits[0] - logits[1]).abs().argmax())
    difference = float(logits[0, target] - logits[1, target])
    shares, error = integrated_gradients(network, waveform, target, network.SAMPLE_RATE, steps=20)
    assert abs(difference) > 0.1 and shares.sum() == pytest.approx(difference, rel=0.05)
    assert error == pytest.approx(shares.sum() - difference, abs=1e-4)
    assert "prepare" not in vars(network) and all(p.grad is None for p in network.parameters())


def test_an_accelerated_network_gives_the_same():
    torch.manual_seed(0)
    network, waveform = build_model("m5", 10).eval(), 0.1 * torch.randn(8000)

    def examine():
        shares, _ = integrated_gradients(network, waveform, 3, 8000, steps=5)
        return occlusion(network, waveform, 3, 8000), sum_windows(shares, 8000)

    plain = examine()
    accelerate(network)
    for one, other in zip(plain, examine(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=0.01 * one.abs().max())


def test_windows_of_attributions_keep_the_sum_and_the_last_may_be_shorter():
    windows = sum_windows(np.ones(250), RATE, window=0.1)
    assert windows.tolist() == [100, 100, 50] and windows.index.tolist() == [0.05, 0.15, 0.25]


def test_everything_but_the_deciding_moments_is_faded():
    waveform = torch.ones(2000)
    importance = sum_windows(burst().square().numpy(), RATE, window=0.1)
    played = fade_others(waveform, importance, RATE, keep=0.1, gain=0.05)
    assert (played[1200:1401] == 1).all() and (played[:1190] == 0.05).all() and (played[1411:] == 0.05).all()
    assert played.diff().abs().max() < 0.25, "it fades; a step would click"


def test_the_first_of_equal_windows_is_kept_if_none_is_asked_for():
    played = fade_others(torch.ones(2000), sum_windows(np.ones(2000), RATE), RATE, keep=0.0, gain=0.0)
    assert played[:100].mean() == 1 and played[200:].sum() == 0


def test_waveforms_that_the_network_does_not_take_are_refused():
    with pytest.raises(ValueError, match=r"waveform has the shape \(5,\): the network takes \(2000,\)"):
        occlusion(Energy().eval(), torch.zeros(5), 1, RATE)
    with pytest.raises(ValueError, match="training mode"):
        integrated_gradients(Energy(), torch.zeros(2000), 1, RATE)


def test_the_figure_draws_every_curve_over_waveform_and_spectrogram():
    drop = occlusion(Energy().eval(), burst(), 1, RATE)
    figure = plot_importance(burst().numpy(), {"occlusion": drop, "again": drop}, RATE)
    curves = [line for axes in figure.axes for line in axes.lines if len(line.get_xdata()) == len(drop)]
    assert len(curves) == 4 and max(curves[0].get_ydata()) == 1
    figure.savefig(io.BytesIO(), format="png")


def test_a_class_for_which_no_moment_speaks_is_drawn_within_the_axes():
    figure = plot_importance(burst().numpy(), {"occlusion": -occlusion(Energy().eval(), burst(), 1, RATE) - 1}, RATE)
    (values,) = {tuple(axes.lines[0].get_ydata()) for axes in figure.axes if axes.get_ylabel() == "importance"}
    assert min(values) == -1 and max(values) < 0


# --- embeddings ---


class Last(Network):
    """Two layers: the last receives the crop's mean and its double."""

    SAMPLE_RATE, INPUT_SAMPLES, LENGTHS, FRONT_END = RATE, 100, (100,), ()

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(1, 2, bias=False), nn.Linear(2, 10)
        self.first.weight = nn.Parameter(torch.tensor([[1.0], [2.0]]))

    def features(self, x):
        return x.mean(dim=2)

    def classify(self, x):
        return self.last(self.first(x))


def test_embeddings_are_means_of_what_the_last_layer_receives(tmp_path, monkeypatch):
    """All samples of clip i are i + 1: so is the mean of its crops."""
    register(monkeypatch)
    data = write_set(tmp_path, numbered([1, 1, 1, 2, 2]))
    clips = load_clips("synthetic", RATE, folds=[1, 2], data_dir=data)
    settings, network = config(pad=False, crops=3), Last().eval()
    found = embed(network, clips, settings)
    means = torch.arange(1, 6) / 32768
    torch.testing.assert_close(found, torch.stack([means, 2 * means], dim=1))
    expected = class_probabilities(network, clips, 100, n_crops=3, pad=False)
    torch.testing.assert_close(network.last(found).softmax(dim=1), expected, rtol=1e-3, atol=1e-5)
    assert not network.last._forward_pre_hooks


def test_crops_that_do_not_count_at_test_do_not_count_here(tmp_path, monkeypatch):
    """The middle crop of a clip of 100 loud samples between silence is loud, the others are half or not."""
    register(monkeypatch)
    samples = np.zeros(300, np.int16)
    samples[100:200] = 16384
    data = write_set(tmp_path, [(1, i, samples) for i in range(10)])
    clips = load_clips("synthetic", RATE, folds=[1], data_dir=data)
    found = embed(Last().eval(), clips, config(pad=False, crops=3, min_peak=0.1, trim_silence=False))
    torch.testing.assert_close(found[:, 0], torch.full((10,), 0.5))


def test_two_dimensions_keep_groups_apart_and_depend_on_the_seed_alone():
    random = torch.Generator().manual_seed(0)
    points = torch.cat([torch.randn(15, 8, generator=random) + 20 * i for i in range(2)])
    found = to_two_dimensions(points)
    first, second = found[:15], found[15:]
    assert np.linalg.norm(first.mean(0) - second.mean(0)) > 2 * max(first.std(), second.std())
    np.testing.assert_array_equal(found, to_two_dimensions(points))
    with pytest.raises(ValueError, match="number of clips is 3"):
        to_two_dimensions(points[:3])
