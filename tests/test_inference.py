"""Probabilities of whole clips: the mean of the softmax outputs over all crops of each clip."""

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


def watched(n_classes=10):
    """A network of zero logits, and the list of the batches that it gets."""
    seen = []
    return network(lambda self, x: [seen.append(x), self.bias.expand(len(x), -1)][1])(n_classes), seen


def load(tmp_path, sounds):
    return load_clips("synthetic", RATE, folds=[1], data_dir=write_set(tmp_path, sounds))


def trained_net():
    torch.manual_seed(0)
    model = TinyNet(10)
    for _ in range(3):  # moves the batch norms' statistics
        model(torch.randn(8, 1, 100))
    return model


def test_softmax_of_each_crop_then_the_mean(tmp_path):
    clips = load(tmp_path, numbered([1, 1, 1], frames=300))
    # Crops begin at -50, 100 and 250 of 300 samples: the first and the last hold zeros, by which the network knows
    # them. These favour class 1, and the middle one is nearly certain of class 0: the mean of the logits gives class 0,
    # the mean of the probabilities class 1.
    sure, lean = torch.tensor([30.0, 0.0, 0.0]), torch.tensor([0.0, 3.0, 0.0])
    net = network(lambda _, x: torch.where((x == 0).any(dim=2), lean, sure))
    probabilities = class_probabilities(net(3), clips, crop_samples=100, n_crops=3)
    torch.testing.assert_close(probabilities, ((2 * lean.softmax(0) + sure.softmax(0)) / 3).expand(3, 3))
    assert probabilities.argmax(dim=1).tolist() == [1, 1, 1]
    assert (2 * lean + sure).argmax() == 0


def test_a_network_that_fails_is_left_in_its_mode(tmp_path):
    net = network(lambda _, x: x.view(-1, 7, 11))(3).train()
    with pytest.raises(RuntimeError, match="view|shape"):
        class_probabilities(net, load(tmp_path, numbered([1])), 100)
    assert net.training


def test_each_clip_gets_its_own_crops_in_order(tmp_path):
    clips = load(tmp_path, numbered([1] * 23))
    net = network(lambda _, x: 20.0 * torch.nn.functional.one_hot(torch.tensor(numbers_in(x)), 23))
    assert class_probabilities(net(23), clips, 100, n_crops=4).argmax(dim=1).tolist() == list(range(23))


@pytest.mark.parametrize("n_crops", [1, 2, 10])
def test_every_clip_gets_probabilities_even_a_silent_one(clips, n_crops):
    probabilities = class_probabilities(trained_net(), clips, 100, n_crops=n_crops)
    assert (probabilities.shape, probabilities.dtype) == ((13, 10), torch.float32)
    assert probabilities.device.type == "cpu" and probabilities.isfinite().all()
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(13))


@pytest.mark.parametrize("at_once", [1, 9, 10, 30, 10_000])
def test_the_result_does_not_depend_on_the_batch_size(clips, monkeypatch, at_once):
    model = trained_net()
    expected = class_probabilities(model, clips, 100, n_crops=10)
    monkeypatch.setattr(esc_lib.training.inference, "CROPS_PER_BATCH", at_once)
    torch.testing.assert_close(class_probabilities(model, clips, 100, n_crops=10), expected, rtol=1e-5, atol=1e-6)


def test_the_batch_size_is_a_limit(clips, monkeypatch):
    net, seen = watched()
    monkeypatch.setattr(esc_lib.training.inference, "CROPS_PER_BATCH", 30)
    class_probabilities(net, clips, 100, n_crops=10)
    assert [len(x) for x in seen] == [30, 30, 30, 30, 10]


@pytest.mark.parametrize("training", [True, False])
def test_inference_uses_eval_mode_and_leaves_the_network_unchanged(clips, training):
    model = trained_net().train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = (class_probabilities(model, clips, 100, n_crops=3) for _ in range(2))
    assert torch.equal(first, second), "dropout must be off"
    assert all(module.training is training for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_no_gradients_are_recorded(clips):
    modes = []
    net = network(lambda self, x: [modes.append(torch.is_grad_enabled()), self.bias.expand(len(x), -1)][1])
    assert not class_probabilities(net(10), clips, 100, n_crops=2).requires_grad
    assert modes and not any(modes)
    assert torch.is_grad_enabled()


class WithWindows(TinyNet):
    """Computes several windows at once by computing each."""

    def windows(self, whole, starts):
        assert whole.shape[:2] == (1, 1) and whole.shape[2] == max(starts) + 100 and min(starts) == 0
        self.asked.append(len(starts))
        return self(torch.cat([whole[:, :, start : start + 100] for start in starts]))


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize(("at_once", "asked"), [(160, 13 * [4]), (3, 13 * [3, 1])])
def test_the_windows_of_a_clip_are_computed_at_once(clips, monkeypatch, at_once, asked, pad):
    monkeypatch.setattr(esc_lib.training.inference, "CROPS_PER_BATCH", at_once)
    plain, model = trained_net(), WithWindows(10)
    model.load_state_dict(plain.state_dict())
    model.asked = []
    expected = class_probabilities(plain, clips, 100, n_crops=4, pad=pad)
    found = class_probabilities(model, clips, 100, n_crops=4, pad=pad)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert model.asked == asked


# Quiet crops and no padding --------------------------------------------------------------------------------------


def class_by_sign(_, x):
    """Logits of three classes: crops of positive values, of negative values, and silence."""
    return 30.0 * torch.stack([x[:, 0, 0] > 0, x[:, 0, 0] < 0, x[:, 0, 0] == 0], dim=1)


@pytest.mark.parametrize("at_once", [1, 7, 160])
def test_quiet_crops_are_left_out_unless_all_of_a_clip_are(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(esc_lib.training.inference, "CROPS_PER_BATCH", at_once)
    peaks = [  # of the three crops of each clip
        (16384, -20, 16384),  # the middle crop is left out
        (-16384, 20, 0),  # a crop is loud even if its values are negative
        (-16384, 16384, 16384),  # all are used
        (20, -20, 0),  # all are quiet: all are used
        (0, 0, 0),
        (511, 512, -512),  # a peak equal to the minimum is enough
    ]
    clips = load(tmp_path, [(1, 0, np.repeat(np.array(three, np.int16), 100)) for three in peaks])
    seen = []
    net = network(lambda self, x: [seen.append(len(x)), class_by_sign(self, x)][1])(3)
    found = class_probabilities(net, clips, 100, n_crops=3, pad=False, min_peak=512 / 32768)
    assert sum(seen) == 2 + 1 + 3 + 3 + 3 + 2, "crops left out must not be computed"
    third = 1 / 3
    expected = [[1, 0, 0], [0, 1, 0], [2 / 3, third, 0], [third, third, third], [0, 0, 1], [0.5, 0.5, 0]]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-6)


def test_without_a_minimum_peak_every_crop_is_used(tmp_path):
    clips = load(tmp_path, [(1, 0, np.repeat(np.array([16384, -1, 0], np.int16), 100))])
    found = class_probabilities(network(class_by_sign)(3), clips, 100, n_crops=3, pad=False)
    torch.testing.assert_close(found, torch.full((1, 3), 1 / 3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_crops", [1, 3, 18])
@pytest.mark.parametrize("pad", [True, False])
def test_the_network_gets_the_even_crops_with_or_without_padding(clips, pad, n_crops):
    net, seen = watched()
    class_probabilities(net, clips, 100, n_crops=n_crops, pad=pad)
    assert torch.equal(torch.cat(seen), even_crops(clips, torch.arange(13), 100, n_crops, pad=pad))
