"""Whole clips from crops: softmax first, then the mean, over every crop of every clip."""

import numpy as np
import pytest
import torch
from tiny import RATE, TinyNet, network, numbered, numbers_in, write_set

import esc_lib.training.inference
from esc_lib.data.clips import load_clips, trim_silence
from esc_lib.training.augment import even_crops
from esc_lib.training.inference import class_probabilities


@pytest.fixture
def clips(tmp_path):
    random = np.random.default_rng(0)
    sounds = [(1 + i % 3, i % 10, random.integers(-9000, 9000, 120 + 9 * i).astype(np.int16)) for i in range(13)]
    sounds[4] = (1, 4, np.zeros(180, np.int16))  # digital silence
    sounds[7] = (1, 7, np.ones(20, np.int16))  # one step of 16 bit, shorter than a crop
    return trim_silence(load_clips("synthetic", RATE, folds=[1, 2, 3], data_dir=write_set(tmp_path, sounds)))


def trained_net():
    torch.manual_seed(0)
    model = TinyNet(10)
    for _ in range(3):  # moves the batch norms' statistics
        model(torch.randn(8, 1, 100))
    return model


def test_softmax_of_each_crop_then_the_mean(tmp_path):
    clips = load_clips("synthetic", RATE, folds=[1], data_dir=write_set(tmp_path, numbered([1, 1, 1], frames=300)))
    # Crops begin at -50, 100 and 250 of 300 samples: the first and the last hold silence, by which the network knows
    # them. They lean to class 1 and the middle one is overwhelmingly sure of class 0: the mean of the logits says 0,
    # the mean of the probabilities says 1.
    sure, lean = torch.tensor([30.0, 0.0, 0.0]), torch.tensor([0.0, 3.0, 0.0])
    net = network(lambda _, x: torch.where((x == 0).any(dim=2), lean, sure))
    probabilities = class_probabilities(net(3), clips, crop_samples=100, n_crops=3)
    torch.testing.assert_close(probabilities, ((2 * lean.softmax(0) + sure.softmax(0)) / 3).expand(3, 3))
    assert probabilities.argmax(dim=1).tolist() == [1, 1, 1]
    assert (2 * lean + sure).argmax() == 0


def test_each_clip_gets_its_own_crops_in_order(tmp_path):
    clips = load_clips("synthetic", RATE, folds=[1], data_dir=write_set(tmp_path, numbered([1] * 23)))
    net = network(lambda _, x: 20.0 * torch.nn.functional.one_hot(torch.tensor(numbers_in(x)), 23))
    assert class_probabilities(net(23), clips, 100, n_crops=4).argmax(dim=1).tolist() == list(range(23))


@pytest.mark.parametrize("n_crops", [1, 2, 10])
def test_every_clip_counts_silent_ones_too(clips, n_crops):
    probabilities = class_probabilities(trained_net(), clips, 100, n_crops=n_crops)
    assert probabilities.shape == (13, 10)
    assert probabilities.dtype == torch.float32
    assert probabilities.device.type == "cpu"
    assert probabilities.isfinite().all()
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(13))


def test_one_crop_is_the_middle_one(tmp_path):
    sound = np.arange(-150, 150).astype(np.int16)
    clips = load_clips("synthetic", RATE, folds=[1], data_dir=write_set(tmp_path, [(1, 0, sound)]))
    seen = []
    net = network(lambda self, x: [seen.append(x), self.bias.expand(len(x), -1)][1])
    class_probabilities(net(2), clips, 100, n_crops=1)
    torch.testing.assert_close(seen[0].flatten() * 32768, torch.arange(-50.0, 50.0))


@pytest.mark.parametrize("at_once", [1, 9, 10, 30, 10_000])
def test_the_result_does_not_depend_on_how_many_crops_go_at_once(clips, monkeypatch, at_once):
    model = trained_net()
    expected = class_probabilities(model, clips, 100, n_crops=10)
    monkeypatch.setattr(esc_lib.training.inference, "CROPS_PER_BATCH", at_once)
    torch.testing.assert_close(class_probabilities(model, clips, 100, n_crops=10), expected, rtol=1e-5, atol=1e-6)


def test_crops_at_once_is_a_limit(clips, monkeypatch):
    sizes = []
    net = network(lambda self, x: [sizes.append(len(x)), self.bias.expand(len(x), -1)][1])
    monkeypatch.setattr(esc_lib.training.inference, "CROPS_PER_BATCH", 30)
    class_probabilities(net(10), clips, 100, n_crops=10)
    assert sizes == [30, 30, 30, 30, 10]


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_tested_in_eval_mode_and_left_as_it_was(clips, training):
    model = trained_net().train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = (class_probabilities(model, clips, 100, n_crops=3) for _ in range(2))
    assert torch.equal(first, second), "dropout must be off"
    assert all(module.training is training for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_no_gradients_are_kept(clips):
    modes = []
    net = network(lambda self, x: [modes.append(torch.is_grad_enabled()), self.bias.expand(len(x), -1)][1])
    assert not class_probabilities(net(10), clips, 100, n_crops=2).requires_grad
    assert modes and not any(modes)
    assert torch.is_grad_enabled()


class WithWindows(TinyNet):
    """Says of several windows at once what it says of each."""

    def windows(self, whole, starts):
        assert whole.shape[:2] == (1, 1) and whole.shape[2] == max(starts) + 100 and min(starts) == 0
        self.asked.append(len(starts))
        return self(torch.cat([whole[:, :, start : start + 100] for start in starts]))


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize(("at_once", "asked"), [(160, 13 * [4]), (3, 13 * [3, 1])])
def test_a_network_is_asked_for_all_windows_of_a_clip_at_once(clips, monkeypatch, at_once, asked, pad):
    monkeypatch.setattr(esc_lib.training.inference, "CROPS_PER_BATCH", at_once)
    plain, model = trained_net(), WithWindows(10)
    model.load_state_dict(plain.state_dict())
    model.asked = []
    expected = class_probabilities(plain, clips, 100, n_crops=4, pad=pad)
    torch.testing.assert_close(
        class_probabilities(model, clips, 100, n_crops=4, pad=pad), expected, rtol=1e-5, atol=1e-6
    )
    assert model.asked == asked


# Quiet crops and no padding --------------------------------------------------------------------------------------


def in_thirds(tmp_path, *peaks):
    """Clips of three crops; in each crop every sample is the number given."""
    sounds = [(1, 0, np.repeat(np.array(three, np.int16), 100)) for three in peaks]
    return load_clips("synthetic", RATE, folds=[1], data_dir=write_set(tmp_path, sounds))


def say_place_by_value(_, x):
    """Logits that tell positive crops, negative ones and silence apart: the first, second and third class."""
    return 30.0 * torch.stack([x[:, 0, 0] > 0, x[:, 0, 0] < 0, x[:, 0, 0] == 0], dim=1)


@pytest.mark.parametrize("at_once", [1, 7, 160])
def test_quiet_crops_are_left_out_unless_all_of_a_clip_are(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(esc_lib.training.inference, "CROPS_PER_BATCH", at_once)
    clips = in_thirds(
        tmp_path,
        (16384, -20, 16384),  # the middle crop is left out
        (-16384, 20, 0),  # a crop is loud also where it is negative only
        (-16384, 16384, 16384),  # all count
        (20, -20, 0),  # all are quiet: all count
        (0, 0, 0),
        (511, 512, -512),  # the peak that is asked for is enough
    )
    seen = []
    net = network(lambda self, x: [seen.append(len(x)), say_place_by_value(self, x)][1])(3)
    found = class_probabilities(net, clips, 100, n_crops=3, pad=False, min_peak=512 / 32768)
    assert sum(seen) == 2 + 1 + 3 + 3 + 3 + 2, "what is left out is not computed either"
    third = 1 / 3
    expected = [[1, 0, 0], [0, 1, 0], [2 / 3, third, 0], [third, third, third], [0, 0, 1], [0.5, 0.5, 0]]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-6)


def test_without_a_peak_asked_for_every_crop_counts(tmp_path):
    clips = in_thirds(tmp_path, (16384, -1, 0))
    found = class_probabilities(network(say_place_by_value)(3), clips, 100, n_crops=3, pad=False)
    torch.testing.assert_close(found, torch.full((1, 3), 1 / 3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_crops", [1, 3, 18])
@pytest.mark.parametrize("pad", [True, False])
def test_the_network_sees_the_even_crops_with_or_without_padding(clips, pad, n_crops):
    seen = []
    net = network(lambda self, x: [seen.append(x), self.bias.expand(len(x), -1)][1])
    class_probabilities(net(10), clips, 100, n_crops=n_crops, pad=pad)
    assert torch.equal(torch.cat(seen), even_crops(clips, torch.arange(13), 100, n_crops, pad=pad))


def test_without_padding_no_crop_of_a_long_clip_holds_zeros(tmp_path):
    clips = load_clips("synthetic", RATE, folds=[1], data_dir=write_set(tmp_path, numbered([1] * 4)))
    seen = []
    net = network(lambda self, x: [seen.append(x), self.bias.expand(len(x), -1)][1])
    class_probabilities(net(10), clips, 100, n_crops=5, pad=False)
    assert torch.cat(seen).all()
    class_probabilities(net(10), clips, 100, n_crops=5)
    assert not seen[-1].all()  # padding is the default
