"""Training schemes that a recipe may set: optimisers, between-class learning, freezing, two phases."""

import importlib
import math
from functools import partial

import numpy as np
import pytest
import torch
from tiny import TinyNet, config, network, numbered, register, tones, write_set
from torch import nn

import esc_lib.models
from esc_lib import train

train_module = importlib.import_module("esc_lib.training.train")


@pytest.fixture(scope="module")
def tone_data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("tones"), tones())


@pytest.fixture
def train_tones(tone_data, tmp_path):
    """Trains on the tones with the settings given."""
    return partial(train, data_dir=tone_data, save_dir=tmp_path / "runs", device="cpu")


def state(run, which="last"):
    return run.model(which).state_dict()


def changed(before, after):
    """Names of the tensors that differ."""
    return {key for key, value in before.items() if not torch.equal(value, after[key])}


# --- Adam ---


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_with_an_l2_penalty_by_hand(tmp_path, monkeypatch, weight_decay):
    targets = [3, 3, 3, 1, 1, 7]
    write_set(tmp_path, numbered([1, 1, 2, 2, 2, 2, 3], [*targets, 5]))
    register(monkeypatch, network(lambda self, x: self.bias.expand(len(x), -1)))
    adam = dict(optimizer="adam", learning_rate=0.3, weight_decay=weight_decay)
    settings = config(batch_size=6, schedule=[], epochs=6, **adam)
    run = train(settings, data_dir=tmp_path, save_dir=tmp_path / "runs", device="cpu")
    share = np.bincount(targets, minlength=10) / 6
    bias, first, second = np.zeros(10), np.zeros(10), np.zeros(10)
    for step in range(1, 7):
        gradient = np.exp(bias) / np.exp(bias).sum() - share + weight_decay * bias
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        bias -= 0.3 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(state(run)["bias"].numpy(), bias, rtol=1e-4, atol=1e-5)


# --- between-class learning ---


def test_training_on_mixtures_of_tones_lowers_the_loss(train_tones, monkeypatch):
    register(monkeypatch)
    # No strong augmentation: a tone stretched by 1.25 has the pitch of another class.
    settings = config(epochs=20, learning_rate=0.1, eval_every=20, between_class=True)
    run = train_tones(settings)
    assert run.history["eval_acc"][20] > 0.6  # chance is 0.1
    assert run.history["loss"][20] < 0.8 * run.history["loss"][1]


def test_the_loss_of_mixtures_is_the_kl_divergence_from_their_labels(tmp_path, monkeypatch):
    """For uniform predictions it is ln(classes) less the mean entropy of a uniform ratio, which is 1/2."""
    write_set(tmp_path, numbered([1] * 3000 + [3]))
    register(monkeypatch, network(lambda self, x: 0 * self.bias.expand(len(x), -1)))
    settings = config(train_folds=[1], epochs=1, batch_size=500, between_class=True)
    run = train(settings, data_dir=tmp_path, save_dir=tmp_path / "runs", device="cpu")
    assert run.history["loss"][1] == pytest.approx(math.log(10) - 0.5, abs=0.02)


# --- freezing ---


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_from_the_freeze_epoch_on_only_the_classifier_is_trained(train_tones, monkeypatch, optimizer):
    register(monkeypatch)
    settings = config(epochs=4, freeze_epoch=3, keep_n=4, weight_decay=0.1, optimizer=optimizer)
    run = train_tones(settings)
    epochs = [state(run, f"epoch-{epoch:04d}") for epoch in range(1, 5)]
    assert changed(epochs[0], epochs[1]) == set(epochs[0])
    # Weights, and the statistics of the batch norms with their counters, bit for bit.
    assert changed(epochs[1], epochs[2]) == changed(epochs[2], epochs[3]) == {"fc.weight", "fc.bias"}


def test_without_a_freeze_epoch_everything_is_trained_to_the_end(train_tones, monkeypatch):
    register(monkeypatch)
    run = train_tones(config(epochs=2, keep_n=2, freeze_epoch=0))
    first, last = state(run, "epoch-0001"), state(run, "epoch-0002")
    assert changed(first, last) == set(first)


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.05), ("adam", 0.01)])
def test_a_front_end_that_is_frozen_first_is_trained_once_it_is_released(train_tones, monkeypatch, optimizer, rate):
    register(monkeypatch)
    settings = dict(epochs=4, keep_n=4, weight_decay=0.1, optimizer=optimizer, learning_rate=rate)
    run = train_tones(config(**settings, freeze_epoch=1, unfreeze_epoch=3))
    epochs = [state(run, f"epoch-{epoch:04d}") for epoch in range(1, 5)]
    assert changed(epochs[0], epochs[1]) == {"fc.weight", "fc.bias"}
    assert changed(epochs[1], epochs[2]) == changed(epochs[2], epochs[3]) == set(epochs[0])
    frozen = train_tones(config(**settings, freeze_epoch=1))
    assert changed(epochs[1], state(frozen, "epoch-0002")) == set(), "until then it makes no difference"


# --- starting from another run ---


def test_a_network_starts_from_a_run_of_the_same_set(train_tones, monkeypatch):
    register(monkeypatch)
    first = train_tones(config())
    second = train_tones(config(start_from=str(first.path), epochs=1, learning_rate=0.0, freeze_epoch=1))
    assert changed(state(first), state(second)) == set()


def test_with_other_classes_all_but_the_last_layer_is_taken_over(tmp_path, train_tones, monkeypatch):
    """Even if there are as many: ten others."""
    register(monkeypatch)
    urban = write_set(tmp_path / "urban", tones(), "urbansound8k")
    first = train_tones(config(dataset="urbansound8k"), data_dir=urban)
    still = dict(epochs=1, learning_rate=0.0, freeze_epoch=1)
    fresh, second = train_tones(config(**still)), train_tones(config(**still, start_from=str(first.path)))
    assert changed(state(first), state(second)) == {"fc.weight", "fc.bias"}
    assert changed(state(fresh), state(second)) == set(state(fresh)) - {"fc.weight", "fc.bias"} - {
        name for name in state(fresh) if torch.equal(state(fresh)[name], state(first)[name])
    }


@pytest.mark.parametrize(
    ("name", "layers"),
    [("acdnet", {"conv12", "fc"}), ("wavemsnet_logmel", {"fc2"}), ("m5", {"fc"}), ("m34res", {"fc"})],
)
def test_what_depends_on_the_number_of_classes_is_the_end_of_the_network(name, layers):
    last = train_module._last_layers(name, esc_lib.models.build_model(name, 7), 7)
    assert {key.split(".")[0] for key in last} == layers
    assert not layers & set(esc_lib.models.get_architecture(name).FRONT_END)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        # The first is trained on folds 1 and 2.
        (dict(), dict(train_folds=[1, 3], eval_folds=[2]), r"fold\(s\) \[2\], which are not trained on here"),
        (dict(validation_folds=[3], eval_folds=[]), dict(eval_folds=[3]), r"fold\(s\) \[3\]"),
        (dict(dataset="esc10"), dict(dataset="esc50", train_folds=[1, 3], eval_folds=[2]), r"fold\(s\) \[2\]"),
        (dict(architecture="other"), dict(), "its architecture is other, not tiny"),
    ],
    ids=["trained on the test fold", "chosen on it", "trained on it in another set", "another network"],
)
def test_a_run_that_cannot_be_started_from_is_refused(tmp_path, train_tones, monkeypatch, first, second, message):
    register(monkeypatch)
    monkeypatch.setitem(esc_lib.models.ARCHITECTURES, "other", TinyNet)
    for name in {first.get("dataset", "synthetic"), second.get("dataset", "synthetic")}:
        write_set(tmp_path / "data", tones(), name)
    start = train_tones(config(**first), data_dir=tmp_path / "data")
    between = config(start_from=str(start.path), dataset="urbansound8k", eval_folds=[])
    write_set(tmp_path / "data", tones(), "urbansound8k")
    settings = [config(start_from=str(start.path), **second)]
    if not first.get("architecture"):  # and through a run between them
        settings.append(config(start_from=str(train_tones(between, data_dir=tmp_path / "data").path), **second))
    for each in settings:
        with pytest.raises(ValueError, match=message):
            train_tones(each, data_dir=tmp_path / "data")


# --- two phases ---


class Fused(TinyNet):
    """Stands in for the network of phase 2."""

    def load_phase_1(self, first: dict) -> None:
        self.load_state_dict(first)


@pytest.fixture
def phases(monkeypatch):
    monkeypatch.setitem(esc_lib.models.ARCHITECTURES, "wavemsnet", TinyNet)
    monkeypatch.setitem(esc_lib.models.ARCHITECTURES, "wavemsnet_logmel", Fused)


def phase_2(start_from, **changes):
    return config(architecture="wavemsnet_logmel", start_from=str(start_from), freeze_epoch=1, **changes)


def test_phase_2_starts_from_phase_1_and_keeps_its_front_end(phases, train_tones):
    first = train_tones(config(architecture="wavemsnet"))
    second = train_tones(phase_2(first.path, learning_rate=0.0, optimizer="adam", weight_decay=0.0))
    assert changed(state(first), state(second)) == set(), "at a learning rate of zero it equals phase 1"
    second = train_tones(phase_2(first.path))
    assert changed(state(first), state(second)) == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("start_from", "error", "message"),
    [("", ValueError, "start_from.*wavemsnet"), ("nowhere", FileNotFoundError, "nowhere")],
)
def test_phase_2_without_a_phase_1_is_refused(phases, train_tones, tmp_path, start_from, error, message):
    with pytest.raises(error, match=message):
        train_tones(phase_2(start_from))
    assert not (tmp_path / "runs").exists(), "no run directory may be created"


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        # Phase 1 is trained on folds 1 and 2.
        (dict(), dict(train_folds=[1, 3], eval_folds=[2]), r"fold\(s\) \[2\].*not trained on here"),
        (dict(architecture="tiny"), dict(), "architecture is tiny, not wavemsnet"),
        (dict(dataset="esc10"), dict(), "dataset is esc10, not synthetic"),
    ],
    ids=["trained on the test fold", "another network", "another data set"],
)
def test_a_phase_1_that_does_not_fit_is_refused(phases, train_tones, tmp_path, monkeypatch, first, second, message):
    register(monkeypatch)
    write_set(tmp_path / "data", tones(), dataset=first.get("dataset", "synthetic"))
    start = train_tones(config(**{"architecture": "wavemsnet", **first}), data_dir=tmp_path / "data")
    with pytest.raises(ValueError, match=message):
        train_tones(phase_2(start.path, **second))


def test_the_front_ends_of_all_networks_are_their_first_layers():
    """Or a spectrogram, which learns nothing."""
    for name, network_class in esc_lib.models.ARCHITECTURES.items():
        model = network_class(2)
        first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        front = [module for part in model.FRONT_END for module in getattr(model, part).modules()]
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        learned = any(module is first for module in front)
        assert learned == (name not in ("logmel_cnn", "logmel_m5")) == any(list(part.parameters()) for part in front), (
            name
        )
        assert not any(module is last for module in front), name
