"""All clips of a data set as one tensor, with a table of where each starts and what it is."""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from esc_lib.arguments import check
from esc_lib.data.datasets import (
    DATASETS,
    Dataset,
    as_numbers,
    check_classes,
    check_folds,
    get_dataset,
    is_own,
    prepared_folder,
    read_columns,
)
from esc_lib.data.own import own_dataset
from esc_lib.files import read_json, refuse_no_file

FULL_SCALE = 32768.0  # of 16-bit samples; 1.0 in a waveform
COLUMNS = ("file", "fold", "target", "category", "offset", "frames", "recording")


@dataclass(frozen=True)
class Clips:
    """Clips of one data set at one sampling rate.

    Attributes:
        samples: 16-bit samples of all clips, end to end.
        offsets: first sample of each clip.
        frames: number of samples of each clip.
        targets: class of each clip.
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
        check("rows", rows, np.ndarray)
        table = self.table[rows] if rows.dtype == bool else self.table.iloc[rows]
        keep = torch.tensor(np.asarray(rows), device=self.offsets.device)
        kept = {name: getattr(self, name)[keep] for name in ("offsets", "frames", "targets")}
        return replace(self, **kept, table=table.reset_index(drop=True))

    def in_folds(self, folds: Sequence[int]) -> "Clips":
        """The clips of these folds.

        Raises:
            ValueError: no folds of this set, or one that has no clips here.
        """
        check_folds("folds", folds, self.dataset, may_be_empty=True)
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
        """The same clips with every tensor on `device`.

        Raises:
            ValueError: PyTorch has no such device here.
        """
        try:
            torch.empty(0, device=torch.device(device))
        except (RuntimeError, TypeError, ValueError, OverflowError, AssertionError) as error:  # the last: no CUDA
            raise ValueError(f"device is {device!r}, which cannot be used here: {error}") from error
        moved = {name: getattr(self, name).to(device) for name in ("samples", "offsets", "frames", "targets")}
        return replace(self, **moved)


def trim_silence(clips: Clips) -> Clips:
    """Trims each clip to its first and last non-zero sample; a clip of nothing but zeros stays whole.

    Many clips of ESC-50 are shorter sounds that were zero-padded: untrimmed, random crops of them would often be
    silent. The samples stay where they are; only offsets and lengths change.
    """
    check("clips", clips, Clips)
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
        dataset: "synthetic", "esc10", "esc50", "urbansound8k", or a set of your own.
        sample_rate: rate that it was prepared at, in Hz.
        folds: some of the set's folds; None for all of them, which is an error if the prepared subset lacks one.
        data_dir: data folder; by default `ESC_DATA`, or else the repository's `data/`.
        device: device of the tensors.

    Raises:
        FileNotFoundError: the set has not been prepared at this rate.
        ValueError: unknown set, which no set of your own at this rate is called either; impossible rate, folds or
            device, a fold without clips, or a file that is damaged or does not fit the others.
    """
    folder = prepared_folder(dataset, sample_rate, data_dir)
    if folds is not None:
        check_folds("folds", folds, dataset)
    metadata = read_metadata(folder)
    folds = prepared_dataset(folder).folds if folds is None else folds
    table = read_clip_table(folder / "clips.csv")
    samples = _read_samples(folder / "clips.npy")
    if len(samples) != table["frames"].sum() or len(table) != metadata["clips"]:
        raise ValueError(
            f"{folder}: clips.npy holds {len(samples)} samples and clips.csv {len(table)} clips of "
            f"{table['frames'].sum()} samples, but dataset.json says {metadata['clips']} clips; {how_to_repair(folder)}"
        )
    clips = Clips(
        samples=samples,
        offsets=torch.tensor(table["offset"].to_numpy()),
        frames=torch.tensor(table["frames"].to_numpy()),
        targets=torch.tensor(table["target"].to_numpy()),
        table=table,
        dataset=dataset,
        classes=tuple(metadata["classes"]),
        sample_rate=sample_rate,
        subset=metadata["subset"],
        source_sha256=metadata["origin"]["sha256"],
    )
    return clips.in_folds(folds).to(device)


def read_metadata(folder: Path) -> dict[str, Any]:
    """The `dataset.json` of a prepared set; what the library uses of it is as `prepare` wrote it.

    Raises:
        FileNotFoundError: the set has not been prepared.
        ValueError: the file is damaged, or of another set or rate than the folder's name; or there is none, and the
            name is no published set's.
    """
    path, (name, sample_rate) = folder / "dataset.json", _name_and_rate(folder)
    own = is_own(name)
    if own and not path.is_file():
        raise ValueError(
            f"unknown dataset {name!r}: choose one of {', '.join(DATASETS)}; no set of your own of that name has been "
            f"prepared at {sample_rate} Hz in {folder.parent}: call esc_lib.prepare({name!r}, {sample_rate}, "
            "source=FOLDER), where FOLDER has a subfolder of recordings for each class"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {name} has not been prepared at {sample_rate} Hz in {folder.parent}; "
            f'call esc_lib.prepare("{name}", {sample_rate}) or run notebooks/01_prepare_data.ipynb'
        )
    metadata = read_json(path, dict, remedy=how_to_repair(folder))
    if "source" in metadata:  # its name in older sets
        metadata["origin"] = metadata.pop("source")
    expected = {"dataset": name, "sample_rate": sample_rate}
    expected |= {"folds": metadata.get("folds")} if own else {"classes": list(get_dataset(name).classes)}
    try:
        if missing := sorted({*expected, "classes", "subset", "clips", "origin"} - set(metadata)):
            raise ValueError(f"it lacks {', '.join(missing)}")
        for key, value in expected.items():
            if metadata[key] != value:
                raise ValueError(f"{key} is {reprlib.repr(metadata[key])}, not {reprlib.repr(value)}")
        check_classes("classes", metadata["classes"])
        if own:
            check("folds", metadata["folds"], dict)
            check_folds("folds", [int(fold) for fold in metadata["folds"]], name)
        check("subset", metadata["subset"], bool)
        check("clips", metadata["clips"], int, 1, 10**9)
        check("origin", metadata["origin"], dict)
        check("origin's sha256", metadata["origin"].get("sha256"), str)
    except ValueError as error:
        raise ValueError(f"{path} is damaged, or another set's: {error}; {how_to_repair(folder)}") from error
    return metadata


def read_clip_table(path: Path) -> pd.DataFrame:
    """The `clips.csv` of a prepared set: columns `COLUMNS`, in which every number is an int64.

    Raises:
        ValueError: missing or damaged, or a row that does not fit the set, or the row before it.
    """
    spec, sample_rate = prepared_dataset(path.parent), _name_and_rate(path.parent)[1]
    repair = how_to_repair(path.parent)
    table = read_columns(path, COLUMNS, remedy=repair, former={"source": "recording"})
    numbers = ["fold", "target", "offset", "frames"]
    table[[*numbers, "recording"]] = table[[*numbers, "recording"]].apply(as_numbers)  # a class may be called 7
    if texts := [name for name in numbers if table[name].dtype != "int64"]:
        raise ValueError(f"{path} has something else than whole numbers in {', '.join(texts)}; {repair}")
    classes, ends = np.array(spec.classes), table["frames"].cumsum()
    problems = [
        ("a class that is not the set's", ~table["target"].between(0, len(classes) - 1)),
        (
            "a category that is not its target's",
            table["category"] != classes[table["target"].clip(0, len(classes) - 1)],
        ),
        ("a fold that is not the set's", ~table["fold"].isin(spec.folds)),
        ("no samples, or too many", ~table["frames"].between(1, round(spec.seconds * sample_rate))),
        ("an offset that is not the end of the clip before it", table["offset"] != ends - table["frames"]),
        ("a file or recording without a name", (table["file"] == "") | (table["recording"].astype(str) == "")),
        ("a file that another row has too", table["file"].duplicated()),
    ]
    for problem, rows in problems:
        if rows.any():
            row = table[rows].iloc[0].to_dict()
            raise ValueError(f"{path}: {int(rows.sum())} row(s) with {problem}; the first is {row}; {repair}")
    return table


def _read_samples(path: Path) -> Tensor:
    """The samples of a prepared set, `(total,)` int16, as the memory-mapped file."""
    try:
        refuse_no_file(path)
        # Copy-on-write: torch needs writable memory, and the file must not change.
        samples = np.load(path, mmap_mode="c")
        if not isinstance(samples, np.ndarray) or samples.dtype != np.int16 or samples.ndim != 1:
            raise ValueError("expected 16-bit samples in one dimension")
    except Exception as error:  # a damaged header makes numpy stumble in many ways
        raise ValueError(f"{path} cannot be read ({error}); {how_to_repair(path.parent)}") from error
    return torch.from_numpy(samples)


def prepared_dataset(folder: Path) -> Dataset:
    """The set in a prepared folder; one of your own is as its `dataset.json` says.

    Raises:
        ValueError: unknown set, or its `dataset.json` is damaged.
    """
    name, _ = _name_and_rate(folder)
    if not is_own(name):
        return get_dataset(name)
    metadata = read_metadata(folder)
    return own_dataset(name, metadata["classes"], {int(fold): clips for fold, clips in metadata["folds"].items()})


def _name_and_rate(folder: Path) -> tuple[str, int]:
    """The set's name and the rate in Hz that a prepared folder is named for."""
    name, _, sample_rate = folder.name.rpartition("-")
    return name, int(sample_rate)


def how_to_repair(folder: Path) -> str:
    """What to do about a damaged prepared set."""
    return f"delete {folder} and prepare the set again"
