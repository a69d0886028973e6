"""What a GPU would be given: whole steps on a device that is not there, where PyTorch computes nothing but shapes.

Its fake tensors know on which device they are, and every operation on tensors of two devices fails, as it would on a
GPU. What is computed is tested elsewhere. The way back is left out, because for it PyTorch looks for the driver.
"""

import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from esc_lib.bench.measure import VARIANTS
from esc_lib.data.clips import Clips
from esc_lib.models import ARCHITECTURES, build_model
from esc_lib.models.cpu import accelerate
from esc_lib.models.wavemsnet import WaveMsNet
from esc_lib.training.augment import even_starts
from esc_lib.training.batches import batches, build_optimizer, set_train_mode, train_step
from esc_lib.training.inference import audible_crops, crop_probabilities
from esc_lib.training.mixing import _window_and_weight
from esc_lib.training.recipes import recipe

GPU = torch.device("cuda", 0)
HERE = SimpleNamespace(device=GPU)  # stands for a generator of random numbers, which cannot be made without a GPU


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch):
    """All new tensors are fake; random numbers and pairs need no generator; values are asked nowhere."""
    for name in ("rand", "randperm", "randint"):
        draw = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *args, draw=draw, generator=None, **kwargs: draw(*args, **kwargs))
    module = sys.modules["esc_lib.training.batches"]
    monkeypatch.setattr(module, "random_pairs", lambda targets, n, generator: (targets, targets.flip(0)))
    monkeypatch.setattr(
        "torchaudio.functional.melscale_fbanks", lambda bins, low, high, bands, *_: torch.empty(bins, bands)
    )
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: None)
    _window_and_weight.cache_clear()
    with FakeTensorMode():
        yield
    _window_and_weight.cache_clear()


def clips(rate, n=6, seconds=5):
    frames = rate * seconds
    return Clips(
        samples=torch.empty(n * frames, dtype=torch.int16, device=GPU),
        offsets=frames * torch.arange(n, device=GPU),
        frames=torch.full((n,), frames, device=GPU),
        targets=torch.arange(n, device=GPU),
        table=pd.DataFrame({"file": [f"{i}.wav" for i in range(n)]}),
        dataset="esc10",
        classes=tuple("abcdefghij"),
        sample_rate=rate,
        subset=True,
        source_sha256="",
    )


def network(name):
    """As it is trained, `accelerate` and all."""
    with GPU:
        return accelerate(build_model(name, 10))


def test_two_devices_in_one_operation_are_seen():
    with pytest.raises(RuntimeError, match="two different devices"):
        torch.ones(3, device=GPU) + torch.ones(3)


@pytest.mark.parametrize("way", VARIANTS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_step_stays_on_its_device(name, way):
    config = recipe(name, "esc10", batch_size=3, **VARIANTS[way])
    model = network(name)
    set_train_mode(model, frozen=False)
    optimizer = build_optimizer(config, model)
    seen = 0
    for x, label in batches(config, clips(config.sample_rate), HERE):
        assert x.device == label.device == GPU and x.shape == (3, 1, config.crop_samples)
        results = train_step(model, optimizer, x, label)
        seen += 1
        assert {result.device for result in results} == {GPU}
    assert seen == 2


WITH_WINDOWS = [name for name, network in ARCHITECTURES.items() if issubclass(network, WaveMsNet)]


@pytest.mark.parametrize("name", WITH_WINDOWS)
def test_windows_stay_on_the_device(name):
    with torch.no_grad():
        logits = network(name).eval().windows(torch.empty(1, 1, 100_000, device=GPU), [0, 9_079])
    assert logits.shape == (2, 10) and logits.device == GPU


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in WITH_WINDOWS])
def test_crops_are_heard_on_the_device(name):
    config = recipe(name, "esc10", min_peak=0.01)
    recordings = clips(config.sample_rate)
    start = even_starts(recordings.frames, config.crop_samples, config.crops, pad=config.pad)
    assert audible_crops(recordings, start, config.crop_samples, config.min_peak).device == GPU
    first = torch.zeros_like(start[0])
    probabilities = crop_probabilities(network(name), recordings, first, start[0], config.crop_samples)
    assert probabilities.shape == (config.crops, 10) and probabilities.device.type == "cpu"
