"""What an epoch shows the network: every clip once, or mixtures that are what their labels say."""

import numpy as np
import pytest
import torch
from sound_files import make_clips, noise
from tiny import config, network, numbered, numbers_in, register

from esc_lib.training.batches import batches
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
]


# Of every kind ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_examples_are_as_many_as_clips_and_the_last_batch_is_smaller(mode):
    epoch = epoch_of(numbered_clips(21), batch_size=8, **mode)
    assert [x.shape for x, _ in epoch] == [(8, 1, 100), (8, 1, 100), (5, 1, 100)]
    assert [len(label) for _, label in epoch] == [8, 8, 5]


@pytest.mark.parametrize("mode", MODES)
def test_types_and_device_are_what_a_network_takes(mode):
    clips = numbered_clips()
    for x, label in epoch_of(clips, **mode):
        assert x.dtype == torch.float32 and x.isfinite().all()
        assert label.dtype == (torch.float32 if mode.get("between_class") else torch.int64)
        assert x.device == label.device == clips.samples.device


@pytest.mark.parametrize("mode", MODES)
def test_the_generator_alone_decides(mode):
    clips = make_clips([noise(300, i) for i in range(20)])
    x, label = together(epoch_of(clips, seed=1, **mode))
    torch.manual_seed(0)
    np.random.seed(0)
    same_x, same_label = together(epoch_of(clips, seed=1, **mode))
    other_x, _ = together(epoch_of(clips, seed=2, **mode))
    assert torch.equal(x, same_x) and torch.equal(label, same_label)
    assert not torch.equal(x, other_x)


@pytest.mark.parametrize("mode", MODES)
def test_the_next_epoch_is_another_one(mode):
    clips, generator = make_clips([noise(300, i) for i in range(20)]), torch.Generator().manual_seed(0)
    first, second = (together(list(batches(config(sample_rate=RATE, **mode), clips, generator)))[0] for _ in range(2))
    assert not torch.equal(first, second)


# Standard learning -----------------------------------------------------------------------------------------------


def test_every_clip_is_shown_once_with_its_class():
    epoch = epoch_of(numbered_clips(21), batch_size=8)
    numbers = [number for x, _ in epoch for number in numbers_in(x)]
    assert sorted(numbers) == list(range(21)) and numbers != list(range(21))
    assert torch.cat([label for _, label in epoch]).tolist() == [number % 10 for number in numbers]


def test_without_a_flag_a_crop_is_the_clip_itself():
    clips = make_clips([noise(100, i) for i in range(10)])
    x, label = together(epoch_of(clips, pad=False))
    expected = torch.stack([clips.waveform(i) for i in label.tolist()]).float() / 32768
    assert torch.equal(x, expected)


@pytest.mark.parametrize(("pad", "silent"), [(True, 51), (False, 0)])
def test_zeros_stand_beside_the_clips_only_where_asked_for(pad, silent):
    x, _ = together(epoch_of(make_clips([np.full(100, 7)] * 500), pad=pad))
    zeros = (x == 0).sum(dim=1)
    assert zeros.max() >= silent - 3 and zeros.max() <= silent  # half a crop of them at the most


# Between-class learning ------------------------------------------------------------------------------------------


def test_labels_share_one_between_two_classes():
    _, label = together(epoch_of(numbered_clips(400), between_class=True, batch_size=64))
    assert label.shape == (400, 10)
    assert ((label > 0).sum(dim=1) == 2).all() and (label >= 0).all()
    torch.testing.assert_close(label.sum(dim=1), torch.ones(400))
    assert (label > 0).any(dim=0).all()  # every class comes


def test_a_waveform_is_the_mixture_that_its_label_tells():
    clips = make_clips([noise(2500, i) // 2**i for i in range(10)])  # a clip per class, each 6 dB below the last
    whole = torch.stack([clips.waveform(i) for i in range(10)]).float().unsqueeze(1) / 32768
    seen = 0
    for x, label in epoch_of(clips, between_class=True, pad=False, crop_samples=2500, batch_size=4):
        first, second = (label > 0).nonzero()[:, 1].unflatten(0, (-1, 2)).T
        ratio = label.gather(1, first[:, None]).squeeze(1)
        torch.testing.assert_close(x, mix(whole[first], whole[second], ratio, RATE), rtol=1e-4, atol=1e-6)
        seen += len(x)
    assert seen == 10


def test_labels_tell_the_ratio_and_not_the_weight_of_the_waveforms():
    # The first class is 20 dB louder. At each ratio r its weight is p = r / (r + 10 (1 - r)).
    a, b = np.full(1100, 20000), np.full(1100, -2000)
    x, label = together(epoch_of(two_classes(a, b, 10), between_class=True, pad=False, crop_samples=1024))
    r = label[:, 0].double()
    p = r / (r + 10 * (1 - r))
    expected = (p * 20000 - (1 - p) * 2000) / (p**2 + (1 - p) ** 2).sqrt() / 32768
    torch.testing.assert_close(x.double(), expected[:, None].expand(-1, 1024), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("strong", [False, True])
def test_every_ratio_is_as_likely(strong):
    clips = two_classes([30000] * 20, [10] * 20, 2000)  # one of the two is 70 dB louder
    mode = dict(between_class=True, strong_augmentation=strong, batch_size=500, crop_samples=30)
    _, label = together(epoch_of(clips, **mode))
    assert furthest_from_uniform(label[:, 0], 0, 1) < 2 / np.sqrt(4000)


def test_the_two_crops_of_a_mixture_are_cut_each_by_itself():
    up, down = np.zeros(400), np.zeros(400)
    up[200], down[200] = 20000, -20000  # crops of 300 samples begin at 0 to 100, so they hold both peaks
    mode = dict(between_class=True, pad=False, crop_samples=300, batch_size=100)
    x, _ = together(epoch_of(two_classes(up, down, 500), **mode))
    apart = (x.amax(dim=1) > 0) & (x.amin(dim=1) < 0)  # peaks at the same place hide each other
    assert apart.double().mean() > 0.95
    starts = 200 - np.stack([x[apart].argmax(dim=1).numpy(), x[apart].argmin(dim=1).numpy()])
    assert starts.min(axis=1).tolist() == [0, 0] and starts.max(axis=1).tolist() == [100, 100]
    assert abs(np.corrcoef(starts)[0, 1]) < 0.15


def test_one_class_alone_cannot_be_mixed():
    with pytest.raises(ValueError, match="two classes"):
        epoch_of(make_clips([noise(200, i) for i in range(4)], targets=[3] * 4), between_class=True)


# Strong augmentation ---------------------------------------------------------------------------------------------


def test_a_single_sound_becomes_up_to_6_db_louder_or_softer():
    clips = make_clips([np.full(200, 8192)] * 4000)
    x, _ = together(epoch_of(clips, strong_augmentation=True, pad=False, batch_size=500))
    torch.testing.assert_close(x, x[:, :1].expand(-1, 100))  # one gain for a whole waveform
    assert furthest_from_uniform(decibels_of(x[:, 0].double() * 4), -6.001, 6.001) < 2 / np.sqrt(4000)


def test_a_mixture_becomes_louder_or_softer_once_and_after_mixing():
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


def test_clips_become_longer_or_shorter_by_a_quarter_at_most():
    clips = make_clips([np.full(500, 8000)] * 1000)
    x, _ = together(epoch_of(clips, strong_augmentation=True, pad=False, crop_samples=1000, batch_size=100))
    frames = (x != 0).sum(dim=1).double()
    assert frames.min() >= 400 and frames.max() <= 625
    assert furthest_from_uniform(torch.log(frames / 500) / np.log(1.25), -1.01, 1.01) < 2 / np.sqrt(1000)


def test_the_two_clips_of_a_mixture_become_longer_each_by_itself():
    up, down = np.zeros(500), np.zeros(500)
    up[100:150], down[450:] = 20000, -20000  # where each sound stops tells its clip's length
    mode = dict(between_class=True, strong_augmentation=True, pad=False, crop_samples=700, batch_size=100)
    x, _ = together(epoch_of(two_classes(up, down, 500), **mode))
    time = torch.arange(1, 701)
    longer = np.stack([((x > 0) * time).amax(dim=1).numpy() / 150, ((x < 0) * time).amax(dim=1).numpy() / 500])
    assert (longer.min(axis=1) >= 0.79).all() and (longer.max(axis=1) <= 1.26).all()
    assert (longer.min(axis=1) < 0.82).all() and (longer.max(axis=1) > 1.22).all()
    assert abs(np.corrcoef(longer)[0, 1]) < 0.15


# Quiet crops -----------------------------------------------------------------------------------------------------


def mostly_silent():
    """A clip of 400 samples, sound at 150 to 249: of the 301 places of a crop of 100, 199 touch it."""
    samples = np.zeros(400)
    samples[150:250] = -16384
    return samples


def test_quiet_crops_are_drawn_again():
    clips = make_clips([mostly_silent()] * 2000)
    share = {}
    for min_peak in (0.0, 0.005):
        x, _ = together(epoch_of(clips, pad=False, min_peak=min_peak, batch_size=200))
        share[min_peak] = x.any(dim=1).double().mean()
    assert share[0.0] == pytest.approx(199 / 301, abs=0.05)
    assert share[0.005] > 0.999


def test_every_place_that_is_loud_enough_is_as_likely():
    draws = 8000
    x, _ = together(epoch_of(make_clips([mostly_silent()] * draws), pad=False, min_peak=0.005, batch_size=1000))
    first, sounding = (x != 0).double().argmax(dim=1), (x != 0).sum(dim=1)
    start = torch.where(first > 0, 150 - first, 250 - sounding)[sounding > 0]  # from 51 to 249
    counts = np.bincount(start.numpy() - 51, minlength=199)
    chi_square = np.sum((counts - draws / 199) ** 2) / (draws / 199)
    assert len(counts) == 199 and chi_square < 198 + 4 * np.sqrt(2 * 198)


def test_a_crop_with_just_the_peak_that_is_asked_for_is_kept():
    samples = np.full(400, 511)
    samples[150:250] = 512
    x, _ = together(epoch_of(make_clips([samples] * 1000), pad=False, min_peak=512 / 32768, batch_size=100))
    assert (x.amax(dim=1) == 512 / 32768).double().mean() > 0.999


@pytest.mark.parametrize("mode", [dict(), dict(between_class=True, strong_augmentation=True)])
def test_a_silent_clip_does_not_loop_for_ever(mode):
    clips = make_clips([np.zeros(400), mostly_silent(), np.zeros(50), mostly_silent()] * 3)
    x, _ = together(epoch_of(clips, pad=False, min_peak=0.005, **mode))
    assert len(x) == 12 and x.isfinite().all()
    assert x.any(dim=1).sum() == 6 if not mode else x.any()  # the others are as loud as ever


@pytest.mark.parametrize(("min_peak", "share"), [(0.0, (199 / 301) ** 2), (0.005, 1.0)])
def test_quiet_crops_are_drawn_again_before_mixing(min_peak, share):
    clips = two_classes(mostly_silent(), -mostly_silent() / 2, 500)
    x, _ = together(epoch_of(clips, between_class=True, pad=False, min_peak=min_peak, batch_size=100))
    # One sound alone is one value where it is; two that begin at different places, one in 199 does not, are more.
    heard = torch.tensor([len(waveform[waveform != 0].unique()) > 1 for waveform in x])
    assert heard.double().mean() == pytest.approx(share, abs=0.05)
