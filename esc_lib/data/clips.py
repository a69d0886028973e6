"""All clips of a data set as one tensor, with a table of where each starts and what it is."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from esc_lib.data.datasets import get_dataset, prepared_folder

FULL_SCALE = 32768.0  # of 16-bit samples; 1.0 in a waveform
COLUMNS = ("file", "fold", "target", "category", "offset", "frames", "recording")


@dataclass(frozen=True)
class Clips:
    """Clips of one data set at one sampling rate.

    Attributes:
        samples: 16-bit samples of all clips, end to end.
        offsets, frames, targets: first sample, number of samples and class of each clip.
        table: a row per clip as in `clips.csv`; its `offset` and `frames` are the untrimmed clip's.
        dataset: the set's name.
        classes: class names; a target is an index into them.
        sample_rate: Hz.
        subset: whether the prepared set holds fewer clips than were published.
        source_sha256: hash of the recordings that the set was prepared from.

    Shape:
        samples: `(total,)` int16; offsets, frames, targets: `(clips,)` int64, on the same device.
    """

    samples: Tensor
    offsets: Tensor
    frames: Tensor
    targets: Tensor
    table: pd.DataFrame
    dataset: str
    classes: tuple[str, ...]
    sample_rate: int
    subset: bool
    source_sha256: str

    def __len__(self) -> int:
        return len(self.table)

    def waveform(self, i: int) -> Tensor:
        """The samples of clip `i`, as a view: `(frames,)` int16."""
        return self.samples[self.offsets[i] : self.offsets[i] + self.frames[i]]

    def select(self, rows: npt.NDArray[Any]) -> "Clips":
        """The clips of a mask `(clips,)` bool, or of indices; the samples are shared, not copied."""
        table = self.table[rows] if rows.dtype == bool else self.table.iloc[rows]
        keep = torch.tensor(np.asarray(rows), device=self.offsets.device)
        kept = {name: getattr(self, name)[keep] for name in ("offsets", "frames", "targets")}
        return replace(self, **kept, table=table.reset_index(drop=True))

    def in_folds(self, folds: Sequence[int]) -> "Clips":
        """The clips of these folds.

        Raises:
            ValueError: one of the folds has no clips here.
        """
        held = sorted(self.table["fold"].unique())
        missing = [fold for fold in folds if fold not in held]
        if missing:
            lacks, holds = (", ".join(map(str, of)) for of in (missing, held))
            raise ValueError(
                f"{self.dataset} at {self.sample_rate} Hz has no clips of fold(s) {lacks}, "
                f"only of fold(s) {holds}: pass only these, or prepare the whole set"
            )
        return self.select(self.table["fold"].isin(folds).to_numpy())

    def to(self, device: str | torch.device) -> "Clips":
        """The same clips with every tensor on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("samples", "offsets", "frames", "targets")}
        return replace(self, **moved)


def trim_silence(clips: Clips) -> Clips:
    """Trims each clip to its first and last non-zero sample; a clip of nothing but zeros stays whole.

    Many clips of ESC-50 are shorter sounds that were zero-padded: untrimmed, random crops of them would often be
    silent. The samples stay where they are; only offsets and lengths change.
    """
    offsets, frames = clips.offsets.clone(), clips.frames.clone()
    for i in range(len(clips)):
        nonzero = clips.waveform(i).nonzero()
        if len(nonzero):
            first, last = int(nonzero[0]), int(nonzero[-1])
            offsets[i] += first
            frames[i] = last + 1 - first
    return replace(clips, offsets=offsets, frames=frames)


def load_clips(
    dataset: str,
    sample_rate: int,
    *,
    folds: Sequence[int] | None = None,
    data_dir: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Clips:
    """Opens a prepared set as one tensor, memory-mapped unless it goes to another device.

    Args:
        dataset: "synthetic", "esc10", "esc50" or "urbansound8k".
        sample_rate: rate that it was prepared at, in Hz.
        folds: official folds; None for all of them, which is an error if the prepared subset lacks one.
        data_dir: data folder; by default `ESC_DATA`, or else the repository's `data/`.
        device: device of the tensors.

    Raises:
        FileNotFoundError: the set has not been prepared at this rate.
        ValueError: unknown set, impossible rate, a damaged file, or a fold without clips.
    """
    folder = prepared_folder(dataset, sample_rate, data_dir)
    metadata = read_metadata(folder)
    table = read_clip_table(folder / "clips.csv")
    try:
        # Copy-on-write: torch needs writable memory, and the file must not change.
        samples = torch.from_numpy(np.load(folder / "clips.npy", mmap_mode="c"))
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{folder / 'clips.npy'} cannot be read ({error}); {how_to_repair(folder)}") from error
    if len(samples) != table["frames"].sum() or len(table) != metadata["clips"]:
        raise ValueError(
            f"{folder}: clips.npy holds {len(samples)} samples and clips.csv {len(table)} clips of "
            f"{table['frames'].sum()} samples, but dataset.json says {metadata['clips']} clips; {how_to_repair(folder)}"
        )
    clips = Clips(
        samples=samples,
        offsets=torch.tensor(table["offset"].to_numpy("int64")),
        frames=torch.tensor(table["frames"].to_numpy("int64")),
        targets=torch.tensor(table["target"].to_numpy("int64")),
        table=table,
        dataset=dataset,
        classes=tuple(metadata["classes"]),
        sample_rate=sample_rate,
        subset=metadata["subset"],
        source_sha256=metadata["origin"]["sha256"],
    )
    return clips.in_folds(get_dataset(dataset).folds if folds is None else folds).to(device)


def read_metadata(folder: Path) -> dict[str, Any]:
    """The `dataset.json` of a prepared set.

    Raises:
        FileNotFoundError: the set has not been prepared.
        ValueError: the file is damaged.
    """
    path = folder / "dataset.json"
    if not path.is_file():
        name, _, rate = folder.name.rpartition("-")
        raise FileNotFoundError(
            f"{path} is missing: {name} has not been prepared at {rate} Hz in {folder.parent}; "
            f'call esc_lib.prepare("{name}", {rate}) or run notebooks/01_prepare_data.ipynb'
        )
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        if "source" in metadata:  # its name in older sets
            metadata["origin"] = metadata.pop("source")
        missing = {"clips", "classes", "subset", "origin"} - set(metadata)
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); {how_to_repair(folder)}") from error
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; {how_to_repair(folder)}")
    return metadata


def read_clip_table(path: Path) -> pd.DataFrame:
    """The `clips.csv` of a prepared set.

    Raises:
        ValueError: missing, or without one of its columns.
    """
    try:
        table = pd.read_csv(path).rename(columns={"source": "recording"})  # its name in older sets
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); {how_to_repair(path.parent)}") from error
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise ValueError(f"{path} lacks the column(s) {', '.join(missing)}; {how_to_repair(path.parent)}")
    return table


def how_to_repair(folder: Path) -> str:
    """What to do about a damaged prepared set."""
    return f"delete {folder} and prepare the set again"
