"""The batches of an epoch: every clip once, or mixtures that match their labels."""

import numpy as np
import pytest
import torch
from sound_files import make_clips, noise
from tiny import config, network, numbered, numbers_in, register

from esc_lib.training.batches import batches, train_step
from esc_lib.training.mixing import mix

RATE = 8000  # of `make_clips`


@pytest.fixture(autouse=True)
def tiny_network_for_any_length(monkeypatch):
    net = network(lambda self, x: self.bias.expand(len(x), -1))
    net.LENGTHS = range(1, 10**6)
    register(monkeypatch, net)


def epoch_of(clips, seed=0, **changes):
    """The batches of an epoch, as a list."""
    return list(batches(config(sample_rate=RATE, **changes), clips, torch.Generator().manual_seed(seed)))


def together(epoch):
    """Waveforms `(examples, T)` and labels of a whole epoch."""
    return torch.cat([x for x, _ in epoch])[:, 0], torch.cat([label for _, label in epoch])


def numbered_clips(n=21, frames=150):
    return make_clips([samples for _, _, samples in numbered([1] * n, frames=frames)])


def two_classes(first, second, n):
    """`n` clips of each of two waveforms, which are classes 0 and 1."""
    return make_clips([first] * n + [second] * n, targets=[0] * n + [1] * n)


def decibels_of(factor):
    return 20 * np.log10(factor.numpy())


def furthest_from_uniform(values, low, high):
    """Largest difference between the shares of values below a bound and what they should be (Kolmogorov, Smirnov)."""
    values = np.sort(np.asarray(values, dtype=np.float64))
    assert low <= values[0] and values[-1] <= high
    share = (values - low) / (high - low)
    steps = np.arange(len(values) + 1) / len(values)
    return max(np.abs(share - steps[:-1]).max(), np.abs(share - steps[1:]).max())


MODES = [
    dict(),
    dict(strong_augmentation=True),
    dict(between_class=True),
    dict(between_class=True, strong_augmentation=True),
    dict(min_peak=0.01, pad=False),
    dict(between_class=True, strong_augmentation=True, min_peak=0.01, pad=False),
    dict(between_class=True, strong_augmentation=True, equalizer=6.0),
]


# All modes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_shapes_types_and_device_of_batches(mode):
    clips = numbered_clips(21)
    epoch = epoch_of(clips, batch_size=8, **mode)
    assert [x.shape for x, _ in epoch] == [(8, 1, 100), (8, 1, 100), (5, 1, 100)]
    assert [len(label) for _, label in epoch] == [8, 8, 5]
    for x, label in epoch:
        assert x.dtype == torch.float32 and x.isfinite().all()
        assert label.dtype == (torch.float32 if mode.get("between_class") else torch.int64)
        assert x.device == label.device == clips.samples.device


@pytest.mark.parametrize("mode", MODES)
def test_the_generator_alone_determines_the_epoch(mode):
    clips, settings = make_clips([noise(300, i) for i in range(20)]), config(sample_rate=RATE, **mode)
    x, label = together(epoch_of(clips, seed=1, **mode))
    torch.manual_seed(0)
    np.random.seed(0)
    generator = torch.Generator().manual_seed(1)
    (same_x, same_label), (next_x, _) = (together(list(batches(settings, clips, generator))) for _ in range(2))
    assert torch.equal(x, same_x) and torch.equal(label, same_label)
    assert not torch.equal(x, next_x), "the next epoch must differ"
    assert not torch.equal(x, together(epoch_of(clips, seed=2, **mode))[0])


# Standard training -----------------------------------------------------------------------------------------------


def test_an_epoch_holds_every_clip_once_with_its_class():
    epoch = epoch_of(numbered_clips(21), batch_size=8)
    numbers = [number for x, _ in epoch for number in numbers_in(x)]
    assert sorted(numbers) == list(range(21)) and numbers != list(range(21))
    assert torch.cat([label for _, label in epoch]).tolist() == [number % 10 for number in numbers]


def test_without_augmentation_a_crop_is_the_clip_itself():
    clips = make_clips([noise(100, i) for i in range(10)])
    x, label = together(epoch_of(clips, pad=False))
    expected = torch.stack([clips.waveform(i) for i in label.tolist()]).float() / 32768
    assert torch.equal(x, expected)


@pytest.mark.parametrize(("pad", "silent"), [(True, 51), (False, 0)])
def test_clips_are_padded_with_zeros_only_if_set(pad, silent):
    x, _ = together(epoch_of(make_clips([np.full(100, 7)] * 500), pad=pad))
    zeros = (x == 0).sum(dim=1)
    assert silent - 3 <= zeros.max() <= silent  # half a crop at most


# Between-class learning ------------------------------------------------------------------------------------------


def test_a_waveform_is_mixed_at_the_ratio_of_its_label():
    clips = make_clips([noise(2500, i) // 2**i for i in range(10)])  # a clip per class, each 6 dB below the last
    whole = torch.stack([clips.waveform(i) for i in range(10)]).float().unsqueeze(1) / 32768
    seen = 0
    for x, label in epoch_of(clips, between_class=True, pad=False, crop_samples=2500, batch_size=4):
        first, second = (label > 0).nonzero()[:, 1].unflatten(0, (-1, 2)).T
        ratio = label.gather(1, first[:, None]).squeeze(1)
        torch.testing.assert_close(x, mix(whole[first], whole[second], ratio, RATE), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(label.sum(dim=1), torch.ones(len(x)))
        seen += len(x)
    assert seen == 10


@pytest.mark.parametrize("strong", [False, True])
def test_the_ratio_is_uniform(strong):
    clips = two_classes([30000] * 20, [10] * 20, 2000)  # one of the two is 70 dB louder
    mode = dict(between_class=True, strong_augmentation=strong, batch_size=500, crop_samples=30)
    _, label = together(epoch_of(clips, **mode))
    assert furthest_from_uniform(label[:, 0], 0, 1) < 2 / np.sqrt(4000)


def test_the_two_crops_of_a_mixture_are_independent():
    up, down = np.zeros(400), np.zeros(400)
    up[200], down[200] = 20000, -20000  # crops of 300 samples begin at 0 to 100, so they hold both peaks
    mode = dict(between_class=True, pad=False, crop_samples=300, batch_size=100)
    x, _ = together(epoch_of(two_classes(up, down, 500), **mode))
    apart = (x.amax(dim=1) > 0) & (x.amin(dim=1) < 0)  # peaks at the same position cancel
    assert apart.double().mean() > 0.95
    starts = 200 - np.stack([x[apart].argmax(dim=1).numpy(), x[apart].argmin(dim=1).numpy()])
    assert starts.min(axis=1).tolist() == [0, 0] and starts.max(axis=1).tolist() == [100, 100]
    assert abs(np.corrcoef(starts)[0, 1]) < 0.15


# Strong augmentation ---------------------------------------------------------------------------------------------


def test_the_gain_is_uniform_within_6_db():
    clips = make_clips([np.full(200, 8192)] * 4000)
    x, _ = together(epoch_of(clips, strong_augmentation=True, pad=False, batch_size=500))
    torch.testing.assert_close(x, x[:, :1].expand(-1, 100))  # one gain for a whole waveform
    assert furthest_from_uniform(decibels_of(x[:, 0].double() * 4), -6.001, 6.001) < 2 / np.sqrt(4000)


def test_a_mixture_gets_one_gain_after_mixing():
    # Two gains before mixing would change the ratio, and their mean would not be uniform.
    a, b = np.full(1300, 16000), np.full(1300, 4000)  # 12 dB; stays constant however long the clip is made
    mode = dict(between_class=True, strong_augmentation=True, pad=False, crop_samples=1024, batch_size=250)
    x, label = together(epoch_of(two_classes(a, b, 1000), **mode))
    r = label[:, 0].double()
    p = r / (r + 4 * (1 - r))
    without_gain = (p * 16000 + (1 - p) * 4000) / (p**2 + (1 - p) ** 2).sqrt() / 32768
    torch.testing.assert_close(x, x[:, :1].expand(-1, 1024), rtol=1e-4, atol=1e-6)
    gain = decibels_of(x[:, 0].double() / without_gain)
    assert furthest_from_uniform(gain, -6.01, 6.01) < 2 / np.sqrt(2000)
    assert abs(np.corrcoef(gain, r)[0, 1]) < 0.1


def test_the_stretch_factor_is_log_uniform_up_to_a_quarter():
    clips = make_clips([np.full(500, 8000)] * 1000)
    x, _ = together(epoch_of(clips, strong_augmentation=True, pad=False, crop_samples=1000, batch_size=100))
    frames = (x != 0).sum(dim=1).double()
    assert frames.min() >= 400 and frames.max() <= 625
    assert furthest_from_uniform(torch.log(frames / 500) / np.log(1.25), -1.01, 1.01) < 2 / np.sqrt(1000)


def test_the_two_clips_of_a_mixture_are_stretched_independently():
    up, down = np.zeros(500), np.zeros(500)
    up[100:150], down[450:] = 20000, -20000  # the end of each sound gives its clip's stretch
    mode = dict(between_class=True, strong_augmentation=True, pad=False, crop_samples=700, batch_size=100)
    x, _ = together(epoch_of(two_classes(up, down, 500), **mode))
    time = torch.arange(1, 701)
    longer = np.stack([((x > 0) * time).amax(dim=1).numpy() / 150, ((x < 0) * time).amax(dim=1).numpy() / 500])
    assert (longer.min(axis=1) >= 0.79).all() and (longer.max(axis=1) <= 1.26).all()
    assert (longer.min(axis=1) < 0.82).all() and (longer.max(axis=1) > 1.22).all()
    assert abs(np.corrcoef(longer)[0, 1]) < 0.15


# The equaliser ---------------------------------------------------------------------------------------------------


SECONDS = np.arange(8000) / 8000


@pytest.mark.parametrize("equalizer", [0.0, 6.0])
def test_each_example_goes_through_an_equaliser_of_its_own(equalizer):
    tones = sum(8000 * np.sin(2 * np.pi * hertz * SECONDS) for hertz in (250, 1000))  # two octaves apart
    x, _ = together(epoch_of(make_clips([tones] * 1000), equalizer=equalizer, pad=False, crop_samples=8000))
    gains = decibels_of(torch.fft.rfft(x).abs()[:, [250, 1000]] / (8000 / 32768 * 4000))
    assert abs(gains.mean(axis=0)).max() < 0.6
    np.testing.assert_allclose(gains.std(axis=0), equalizer, atol=0.5)
    assert equalizer == 0 or abs(np.corrcoef(gains.T)[0, 1]) < 0.1


def test_a_mixture_goes_through_one_equaliser_after_mixing():
    sine, cosine = (8000 * wave(2 * np.pi * 1000 * SECONDS) for wave in (np.sin, np.cos))
    mode = dict(between_class=True, equalizer=6.0, pad=False, crop_samples=8000, batch_size=250)
    x, label = together(epoch_of(two_classes(sine, cosine, 500), **mode))
    bins = torch.fft.rfft(x)[:, 1000] / (8000 / 32768 * 4000)
    assert decibels_of(bins.abs()).std() == pytest.approx(6, abs=0.5)  # the energy of a mixture is that of one sound
    torch.testing.assert_close(bins.imag.abs() * label[:, 1], bins.real.abs() * label[:, 0], rtol=0.01, atol=0.01)


# Quiet crops -----------------------------------------------------------------------------------------------------


def mostly_silent():
    """A clip of 400 samples, sound at 150 to 249: of the 301 positions of a crop of 100, 199 hold some of it."""
    samples = np.zeros(400)
    samples[150:250] = -16384
    return samples


def test_quiet_crops_are_redrawn_uniformly_over_the_loud_positions():
    draws = 8000
    x, _ = together(epoch_of(make_clips([mostly_silent()] * draws), pad=False, min_peak=0.005, batch_size=1000))
    first, sounding = (x != 0).double().argmax(dim=1), (x != 0).sum(dim=1)
    assert (sounding > 0).double().mean() > 0.999
    start = torch.where(first > 0, 150 - first, 250 - sounding)[sounding > 0]  # from 51 to 249
    counts = np.bincount(start.numpy() - 51, minlength=199)
    chi_square = np.sum((counts - draws / 199) ** 2) / (draws / 199)
    assert len(counts) == 199 and chi_square < 198 + 4 * np.sqrt(2 * 198)


def test_a_crop_whose_peak_equals_the_minimum_is_kept():
    samples = np.full(400, 511)
    samples[150:250] = 512
    x, _ = together(epoch_of(make_clips([samples] * 1000), pad=False, min_peak=512 / 32768, batch_size=100))
    assert (x.amax(dim=1) == 512 / 32768).double().mean() > 0.999


@pytest.mark.parametrize("mode", [dict(), dict(between_class=True, strong_augmentation=True)])
def test_a_silent_clip_causes_no_endless_loop(mode):
    clips = make_clips([np.zeros(400), mostly_silent(), np.zeros(50), mostly_silent()] * 3)
    x, _ = together(epoch_of(clips, pad=False, min_peak=0.005, **mode))
    assert len(x) == 12 and x.isfinite().all()
    assert x.any(dim=1).sum() == 6 if not mode else x.any()  # the others are not silent


@pytest.mark.parametrize(("min_peak", "share"), [(0.0, (199 / 301) ** 2), (0.005, 1.0)])
def test_quiet_crops_are_drawn_again_before_mixing(min_peak, share):
    clips = two_classes(mostly_silent(), -mostly_silent() / 2, 500)
    x, _ = together(epoch_of(clips, between_class=True, pad=False, min_peak=min_peak, batch_size=100))
    # One sound alone has one nonzero value; two have more, unless they start at the same position (1 in 199).
    mixed = torch.tensor([len(waveform[waveform != 0].unique()) > 1 for waveform in x])
    assert mixed.double().mean() == pytest.approx(share, abs=0.05)


def test_a_mixture_counts_as_right_if_its_larger_share_is_found():
    model = torch.nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3))
    label = torch.tensor([[0.7, 0.3, 0.0], [0.4, 0.6, 0.0], [0.8, 0.0, 0.2]])
    x = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    _, correct = train_step(model, torch.optim.SGD(model.parameters()), x, label)
    assert correct == 2
