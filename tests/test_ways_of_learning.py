"""What a recipe may ask of a training beside the plain way: other optimisers, mixtures, a frozen part, two phases."""

import math

import numpy as np
import pytest
import torch
from tiny import TinyNet, config, network, numbered, register, tones, write_set
from torch import nn

import esc_lib.models
from esc_lib import train


@pytest.fixture(scope="module")
def tone_data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("tones"), tones())


def state(run, which="last"):
    return run.model(which).state_dict()


def changed(before, after):
    """Names of the tensors that differ."""
    return {key for key, value in before.items() if not torch.equal(value, after[key])}


# --- optimisers ---


def learn_bias(tmp_path, monkeypatch, **changes):
    """Trains a network that is only its biases on classes 3, 3, 3, 1, 1, 7; returns their shares and the biases."""
    targets = [3, 3, 3, 1, 1, 7]
    write_set(tmp_path, numbered([1, 1, 2, 2, 2, 2, 3], [*targets, 5]))
    register(monkeypatch, network(lambda self, x: self.bias.expand(len(x), -1)))
    run = train(
        config(batch_size=6, schedule=[], **changes), data_dir=tmp_path, save_dir=tmp_path / "runs", device="cpu"
    )
    return np.bincount(targets, minlength=10) / 6, state(run)["bias"].numpy()


def gradient(bias, share, weight_decay):
    return np.exp(bias) / np.exp(bias).sum() - share + weight_decay * bias


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_with_an_l2_penalty_done_by_hand(tmp_path, monkeypatch, weight_decay):
    changes = dict(optimizer="adam", learning_rate=0.3, weight_decay=weight_decay, epochs=6)
    share, found = learn_bias(tmp_path, monkeypatch, **changes)
    bias, first, second = np.zeros(10), np.zeros(10), np.zeros(10)
    for step in range(1, 7):
        g = gradient(bias, share, weight_decay)
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        bias -= 0.3 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(found, bias, rtol=1e-4, atol=1e-5)


def test_plain_momentum_done_by_hand(tmp_path, monkeypatch):
    changes = dict(nesterov=False, learning_rate=0.7, weight_decay=0.01, epochs=5)
    share, found = learn_bias(tmp_path, monkeypatch, **changes)
    bias, velocity = np.zeros(10), np.zeros(10)
    for _ in range(5):
        velocity = 0.9 * velocity + gradient(bias, share, 0.01)
        bias -= 0.7 * velocity
    np.testing.assert_allclose(found, bias, rtol=1e-4, atol=1e-6)


def test_warm_up_epochs_take_smaller_steps(tmp_path, monkeypatch):
    share, found = learn_bias(
        tmp_path, monkeypatch, warmup=2, epochs=4, momentum=0.0, learning_rate=0.5, weight_decay=0.0
    )
    bias = np.zeros(10)
    for rate in (0.05, 0.05, 0.5, 0.5):
        bias -= rate * gradient(bias, share, 0)
    np.testing.assert_allclose(found, bias, rtol=1e-4, atol=1e-6)


# --- between-class learning ---


def test_mixtures_of_tones_are_learned(tone_data, tmp_path, monkeypatch):
    register(monkeypatch)
    # No strong augmentation: a tone made 1.25 times longer is another class's tone.
    settings = config(epochs=20, learning_rate=0.1, eval_every=20, between_class=True)
    run = train(settings, data_dir=tone_data, save_dir=tmp_path, device="cpu")
    assert run.history["eval_acc"][20] > 0.6  # chance is 0.1
    assert run.history["loss"][20] < 0.8 * run.history["loss"][1]


def test_the_loss_of_mixtures_is_the_divergence_from_their_shares(tmp_path, monkeypatch):
    """A network that says "no idea" is off by ln(classes) less the entropy of a share drawn evenly, which is 1/2."""
    write_set(tmp_path, numbered([1] * 3000 + [3]))
    register(monkeypatch, network(lambda self, x: 0 * self.bias.expand(len(x), -1)))
    settings = config(train_folds=[1], epochs=1, batch_size=500, between_class=True)
    run = train(settings, data_dir=tmp_path, save_dir=tmp_path / "runs", device="cpu")
    assert run.history["loss"][1] == pytest.approx(math.log(10) - 0.5, abs=0.02)


# --- freezing ---


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_from_the_freeze_epoch_on_only_the_classifier_moves(tone_data, tmp_path, monkeypatch, optimizer):
    register(monkeypatch)
    settings = config(epochs=4, freeze_epoch=3, keep_n=4, weight_decay=0.1, optimizer=optimizer)
    run = train(settings, data_dir=tone_data, save_dir=tmp_path, device="cpu")
    epochs = [state(run, f"epoch-{epoch:04d}") for epoch in range(1, 5)]
    everything = set(epochs[0])
    assert changed(epochs[0], epochs[1]) == everything
    # Weights, and the statistics of the batch norms with their counters, bit for bit.
    assert changed(epochs[1], epochs[2]) == changed(epochs[2], epochs[3]) == {"fc.weight", "fc.bias"}


def test_without_a_freeze_epoch_everything_moves_to_the_end(tone_data, tmp_path, monkeypatch):
    register(monkeypatch)
    run = train(config(epochs=2, keep_n=2, freeze_epoch=0), data_dir=tone_data, save_dir=tmp_path, device="cpu")
    first, last = state(run, "epoch-0001"), state(run, "epoch-0002")
    assert changed(first, last) == set(first)


# --- two phases ---


class Fused(TinyNet):
    """Stands for the network of phase 2."""

    def load_phase_1(self, first: dict) -> None:
        self.load_state_dict(first)


@pytest.fixture
def phases(monkeypatch):
    monkeypatch.setitem(esc_lib.models.ARCHITECTURES, "wavemsnet", TinyNet)
    monkeypatch.setitem(esc_lib.models.ARCHITECTURES, "wavemsnet_logmel", Fused)


def test_phase_2_starts_from_phase_1_and_keeps_its_front_end(phases, tone_data, tmp_path):
    first = train(config(architecture="wavemsnet"), data_dir=tone_data, save_dir=tmp_path, device="cpu")
    settings = dict(architecture="wavemsnet_logmel", start_from=str(first.path), freeze_epoch=1)
    second = train(
        config(**settings, learning_rate=0.0, optimizer="adam", weight_decay=0.0), data_dir=tone_data, save_dir=tmp_path
    )
    assert changed(state(first), state(second)) == set(), "without a step it is phase 1 still"
    second = train(config(**settings), data_dir=tone_data, save_dir=tmp_path, device="cpu")
    assert changed(state(first), state(second)) == {"fc.weight", "fc.bias"}


def test_phase_2_without_a_phase_1_is_refused(phases, tone_data, tmp_path):
    with pytest.raises(ValueError, match="start_from.*wavemsnet"):
        train(
            config(architecture="wavemsnet_logmel", freeze_epoch=1),
            data_dir=tone_data,
            save_dir=tmp_path / "runs",
            device="cpu",
        )
    assert not (tmp_path / "runs").exists(), "no run is begun"


def test_a_phase_1_that_has_learned_from_the_test_clips_is_refused(phases, tone_data, tmp_path):
    first = train(
        config(architecture="wavemsnet"), data_dir=tone_data, save_dir=tmp_path, device="cpu"
    )  # learned from folds 1 and 2
    settings = config(
        architecture="wavemsnet_logmel", start_from=str(first.path), train_folds=[1, 3], eval_folds=[2], freeze_epoch=1
    )
    with pytest.raises(ValueError, match=r"fold\(s\) \[2\].*not trained on here"):
        train(settings, data_dir=tone_data, save_dir=tmp_path, device="cpu")


def test_another_network_is_no_phase_1(phases, tone_data, tmp_path, monkeypatch):
    register(monkeypatch)
    other = train(config(), data_dir=tone_data, save_dir=tmp_path, device="cpu")
    with pytest.raises(ValueError, match="architecture is tiny, not wavemsnet"):
        train(
            config(architecture="wavemsnet_logmel", start_from=str(other.path)),
            data_dir=tone_data,
            save_dir=tmp_path,
            device="cpu",
        )


def test_another_set_is_no_phase_1(phases, tone_data, tmp_path, monkeypatch):
    write_set(tmp_path / "data", tones(), dataset="esc10")
    first = train(
        config(architecture="wavemsnet", dataset="esc10"),
        data_dir=tmp_path / "data",
        save_dir=tmp_path / "runs",
        device="cpu",
    )
    with pytest.raises(ValueError, match="dataset is esc10, not synthetic"):
        train(
            config(architecture="wavemsnet_logmel", start_from=str(first.path)),
            data_dir=tone_data,
            save_dir=tmp_path / "runs",
            device="cpu",
        )


def test_a_folder_that_is_no_run_is_named(phases, tone_data, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train(
            config(architecture="wavemsnet_logmel", start_from=str(tmp_path / "nowhere")),
            data_dir=tone_data,
            save_dir=tmp_path,
        )


def test_the_front_ends_of_all_networks_are_their_first_layers():
    for name, network_class in esc_lib.models.ARCHITECTURES.items():
        model = network_class(2)
        first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        front = [module for part in model.FRONT_END for module in getattr(model, part).modules()]
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        assert any(module is first for module in front), name
        assert not any(module is last for module in front), name
