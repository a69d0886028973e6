"""The textbook loop shows the same examples as the library's batches: only then is it fair to be faster."""

import numpy as np
import pytest
import tiny
import torch

from esc_lib import load_clips
from esc_lib.bench.plain_loop import PlainExamples, loudness_of, mix_two, plain_batches
from esc_lib.training.mixing import loudness, mix


@pytest.fixture
def clips(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    tiny.write_set(tmp_path, tiny.numbered([1] * 20, frames=250))
    return load_clips("synthetic", tiny.RATE, folds=(1,), data_dir=tmp_path)


def waves(samples, seed=0):
    random = np.random.default_rng(seed)
    envelope = np.linspace(0.05, 1, samples)
    return random.normal(size=samples) * 0.2 * envelope, random.normal(size=samples) * 0.05


@pytest.mark.parametrize("rate", [8000, 16000, 20000, 44100])
def test_loudness_and_mixture_are_the_librarys(rate):
    x1, x2 = waves(rate)
    t1, t2 = (torch.tensor(x, dtype=torch.float32)[None, None] for x in (x1, x2))
    assert loudness_of(x1, rate) == pytest.approx(loudness(t1, rate).item(), abs=0.01)
    for ratio in (0.0, 0.3, 0.9):
        expected = mix(t1, t2, torch.tensor([ratio]), rate)[0, 0].numpy()
        np.testing.assert_allclose(mix_two(x1, x2, ratio, rate), expected, atol=1e-4)


@pytest.mark.parametrize("pad", [True, False])
def test_an_epoch_shows_a_crop_of_every_clip(clips, pad):
    config = tiny.config(pad=pad, batch_size=6, eval_folds=[3])
    shown = list(plain_batches(config, clips))
    assert [len(x) for x, _ in shown] == [6, 6, 6, 2]
    x, label = (torch.cat(of) for of in zip(*shown, strict=True))
    assert x.shape == (20, 1, tiny.LENGTH) and x.dtype == torch.float32
    numbers = tiny.numbers_in(x)
    assert sorted(numbers) == list(range(20)) and numbers != list(range(20))
    assert label.tolist() == clips.targets[numbers].tolist()
    values = x * 32768
    inside = values == torch.tensor(numbers)[:, None, None] + 1
    assert (inside | (values == 0)).all()
    assert bool((values == 0).any()) == pad, "only padding is zero in these clips"


def test_mixtures_are_of_two_classes_and_labelled_with_their_shares(clips):
    config = tiny.config(between_class=True, batch_size=20)
    ((x, label),) = plain_batches(config, clips)
    assert x.shape == (20, 1, tiny.LENGTH) and label.shape == (20, 10)
    torch.testing.assert_close(label.sum(dim=1), torch.ones(20))
    assert ((label > 0).sum(dim=1) == 2).all()
    assert label.max(dim=1).values.std() > 0.05


def test_strong_augmentation_changes_length_by_a_quarter_and_loudness_by_six_decibels(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    time = np.arange(400) / tiny.RATE
    tone = np.rint(8000 * np.sin(2 * np.pi * 100 * time)).astype(np.int16)
    tiny.write_set(tmp_path, [(1, i % 10, tone) for i in range(300)])
    clips = load_clips("synthetic", tiny.RATE, folds=(1,), data_dir=tmp_path)
    config = tiny.config(strong_augmentation=True, pad=False, batch_size=300)
    ((x, _),) = plain_batches(config, clips)
    spectrum = torch.fft.rfft(x[:, 0] * torch.hann_window(tiny.LENGTH), n=8000).abs()
    frequency = spectrum.argmax(dim=1) * tiny.RATE / 8000
    assert 77 < frequency.min() < 84 and 120 < frequency.max() < 128
    level = 20 * torch.log10(x.square().mean(dim=2).sqrt() * 2**0.5 / (8000 / 32768))
    assert -6.6 < level.min() < -5 and 5 < level.max() < 6.6


def test_the_seed_decides(clips):
    first, again, other = (PlainExamples(tiny.config(seed=seed), clips)[0][0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert first.shape == other.shape and not torch.equal(first, other)
