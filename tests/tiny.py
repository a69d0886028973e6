"""A network small enough to train in a second, and its sounds, in the prepared format but without `esc_lib.prepare`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import esc_lib.models
from esc_lib.data.datasets import get_dataset
from esc_lib.training.config import TrainConfig
from esc_lib.training.runs import Run, make_run_folder, open_run

RATE = 1000  # Hz
LENGTH = 100  # samples that the tiny networks take
Sound = tuple[int, int, np.ndarray]  # fold, target, int16 samples


class TinyNet(nn.Module):
    """Two convolutions with batch norm, mean over time, dropout, a linear layer: `(B, 1, 100)` -> `(B, classes)`."""

    SAMPLE_RATE = RATE
    INPUT_SAMPLES = LENGTH
    LENGTHS = (LENGTH,)
    FRONT_END = ("conv1", "conv2")

    def __init__(self, n_classes: int):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(1, 16, (1, 32), bias=False), nn.BatchNorm2d(16))
        self.conv2 = nn.Sequential(nn.Conv2d(16, 16, (1, 3), bias=False), nn.BatchNorm2d(16))
        self.dropout = nn.Dropout(0.1)
        self.fc = nn.Linear(16, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x.unsqueeze(2)).relu()
        x = self.conv2(x).relu()
        return self.fc(self.dropout(x.mean(dim=(2, 3))))


def network(forward: Callable[[nn.Module, Tensor], Tensor]) -> type[nn.Module]:
    """A network class whose only parameter is `bias`, zero at first, and whose forward pass is a plain function."""

    class Net(nn.Module):
        SAMPLE_RATE = RATE
        INPUT_SAMPLES = LENGTH
        LENGTHS = (LENGTH,)
        FRONT_END = ()

        def __init__(self, n_classes: int):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(n_classes))

        def forward(self, x: Tensor) -> Tensor:
            return forward(self, x)

    return Net


def register(monkeypatch, net: type[nn.Module] = TinyNet) -> type[nn.Module]:
    """Registers the network as "tiny" until the test ends."""
    monkeypatch.setitem(esc_lib.models.ARCHITECTURES, "tiny", net)
    return net


def config(**changes) -> TrainConfig:
    """Settings that train "tiny" on folds 1 and 2 of the synthetic set and evaluate it on fold 3."""
    values = dict(
        architecture="tiny",
        dataset="synthetic",
        sample_rate=RATE,
        crop_samples=LENGTH,
        train_folds=[1, 2],
        eval_folds=[3],
        epochs=2,
        batch_size=8,
        learning_rate=0.05,
        schedule=[0.5, 0.75],
        crops=3,
        eval_every=1,
    )
    return TrainConfig(**{**values, **changes})


def new_run(settings: TrainConfig, save_dir: Path | None = None) -> Run:
    """A new run in a directory of its own."""
    return open_run(make_run_folder(settings, save_dir=save_dir), settings)


def write_set(data_dir: Path, sounds: list[Sound], dataset: str = "synthetic", subset: bool = True) -> Path:
    """Writes sounds as a prepared set; `load_clips(dataset, RATE, data_dir=data_dir)` opens it."""
    folder = data_dir / f"{dataset}-{RATE}"
    folder.mkdir(parents=True)
    frames = [len(samples) for _, _, samples in sounds]
    np.save(folder / "clips.npy", np.concatenate([samples for _, _, samples in sounds]).astype(np.int16))
    table = pd.DataFrame(
        {
            "file": [f"audio/{i:03d}.wav" for i in range(len(sounds))],
            "fold": [fold for fold, _, _ in sounds],
            "target": [target for _, target, _ in sounds],
            "category": [get_dataset(dataset).classes[target] for _, target, _ in sounds],
            "offset": np.cumsum([0, *frames[:-1]]),
            "frames": frames,
            "recording": range(len(sounds)),
        }
    )
    table.to_csv(folder / "clips.csv", index=False)
    about = {
        "dataset": dataset,
        "title": "tiny",
        "sample_rate": RATE,
        "classes": list(get_dataset(dataset).classes),
        "subset": subset,
        "origin": {"name": "tests", "sha256": "5" * 64},
        "licence": "none",
        "versions": {},
        "clips": len(sounds),
        "folds": {str(fold): int(n) for fold, n in table["fold"].value_counts().items()},
    }
    (folder / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    return data_dir


def tones(folds: tuple[int, ...] = (1, 2, 3), per_class: int = 3, seed: int = 0) -> list[Sound]:
    """A pitch per class, every third clip with silence around it, and one clip of digital silence in each fold."""
    random = np.random.default_rng(seed)
    sounds = []
    for fold in folds:
        for target in range(10):
            for i in range(per_class):
                time = np.arange(random.integers(150, 250)) / RATE
                wave = np.sin(2 * np.pi * ((40 + 42 * target) * time + random.random()))
                samples = np.rint(random.uniform(8000, 30000) * wave).astype(np.int16)
                sounds.append((fold, target, np.pad(samples, 30) if i == 2 else samples))
        sounds.append((fold, 0, np.zeros(200, np.int16)))
    return sounds


def numbered(folds: list[int], targets: list[int] | None = None, frames: int = 150) -> list[Sound]:
    """Clips that each crop identifies (`numbers_in`): every sample of clip i is i + 1.

    Args:
        folds: of each clip.
        targets: of each clip; by default 0, 1, ..., 9, 0, ...
        frames: of every clip; every crop of `LENGTH` then touches it.
    """
    targets = [i % 10 for i in range(len(folds))] if targets is None else targets
    pairs = zip(folds, targets, strict=True)
    return [(fold, target, np.full(frames, i + 1, np.int16)) for i, (fold, target) in enumerate(pairs)]


def numbers_in(x: Tensor) -> list[int]:
    """The number of the `numbered` clip that each waveform of a batch `(B, 1, T)` is a crop of."""
    return (x.amax(dim=(1, 2)) * 32768).round().long().sub(1).tolist()


def files_below(folder: Path) -> set[str]:
    """Every file below a folder, hidden ones too, as paths relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
