"""The training loop of a textbook, to compare with: clip by clip in numpy, a `DataLoader`, float32.

It has the same examples and the same recipe as `esc_lib.train`, so the difference in speed is what batched operations,
memory layouts and number formats gain.
"""

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from esc_lib.data.clips import FULL_SCALE, Clips
from esc_lib.training.config import TrainConfig
from esc_lib.training.mixing import FLOOR_DB, a_weighting


class PlainExamples(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The examples of an epoch, one by one: `(1, crop_samples)` waveforms and their labels."""

    def __init__(self, config: TrainConfig, clips: Clips):
        self.config, self.targets, self.n_classes = config, clips.targets.numpy(), len(clips.classes)
        self.waveforms = [clips.waveform(i).numpy() for i in range(len(clips))]
        self.random = np.random.default_rng(config.seed)

    def __len__(self) -> int:
        return len(self.waveforms)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.config.between_class:
            x, label = self._mixture()
        else:
            x, label = self._crop(i), self.targets[i]
        if self.config.strong_augmentation:
            x = x * 10 ** (self.random.uniform(-6, 6) / 20)
        return torch.from_numpy(x.astype(np.float32))[None], torch.as_tensor(label)

    def _crop(self, i: int) -> np.ndarray:
        x, length = self.waveforms[i] / FULL_SCALE, self.config.crop_samples
        if self.config.strong_augmentation:
            factor = 1.25 ** self.random.uniform(-1, 1)
            x = np.interp(np.arange(int(len(x) * factor)) / factor, np.arange(len(x)), x)
        x = np.pad(x, length // 2) if self.config.pad else np.pad(x, (0, max(0, length - len(x))))
        start = self.random.integers(len(x) - length + 1)
        return x[start : start + length]

    def _mixture(self) -> tuple[np.ndarray, np.ndarray]:
        first, second = self.random.integers(len(self), size=2)
        while self.targets[first] == self.targets[second]:
            first, second = self.random.integers(len(self), size=2)
        ratio = self.random.random()
        label = np.zeros(self.n_classes, np.float32)
        label[self.targets[first]], label[self.targets[second]] = ratio, 1 - ratio
        return mix_two(self._crop(first), self._crop(second), ratio, self.config.sample_rate), label


def mix_two(x1: np.ndarray, x2: np.ndarray, ratio: float, sample_rate: int) -> np.ndarray:
    """`esc_lib.training.mixing.mix` of two waveforms.

    Args:
        x1, x2, ratio, sample_rate: as there, of one pair: `(T,)`, `(T,)` and two numbers.
    """
    louder = 10 ** ((loudness_of(x1, sample_rate) - loudness_of(x2, sample_rate)) / 20)
    p = ratio / (ratio + louder * (1 - ratio))
    return (p * x1 + (1 - p) * x2) / np.sqrt(p**2 + (1 - p) ** 2)


def loudness_of(x: np.ndarray, sample_rate: int) -> float:
    """`esc_lib.training.mixing.loudness` of a waveform `(T,)`, in dB."""
    n_fft = 2 ** round(np.log2(sample_rate / 10))
    x = np.pad(x, (0, max(0, n_fft - len(x))))
    frames = np.lib.stride_tricks.sliding_window_view(x, n_fft)[:: n_fft // 2]
    window = np.hanning(n_fft + 1)[:-1]
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    weight = 10 ** (a_weighting(torch.fft.rfftfreq(n_fft, 1 / sample_rate)).numpy() / 10)
    return 10 * np.log10(max((power @ weight).max(), 10 ** (FLOOR_DB / 10)))


def plain_batches(config: TrainConfig, clips: Clips) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of one epoch."""
    shuffled = torch.Generator().manual_seed(config.seed)
    return DataLoader(PlainExamples(config, clips), config.batch_size, shuffle=True, generator=shuffled)
