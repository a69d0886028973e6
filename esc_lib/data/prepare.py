"""From a data set's recordings to one packed file: decode, mix down to mono, resample, store end to end as int16."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pandas as pd
import soundfile

from esc_lib.arguments import as_path, check
from esc_lib.data.archives import extract
from esc_lib.data.audio import Samples, explain_read_errors, read_int16
from esc_lib.data.clips import COLUMNS, read_metadata
from esc_lib.data.datasets import DATASETS, Dataset, find_root, get_dataset, is_own, prepared_folder, read_table
from esc_lib.data.download import file_hash
from esc_lib.data.own import distinct_sounds, read_own
from esc_lib.data.sources import official_recordings
from esc_lib.files import atomic_folder, explain_write_errors, file_lock, remove_parts, temporary_folder
from esc_lib.progress import progress_bar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prepare(
    dataset: str,
    sample_rate: int,
    *,
    source: str | Path | None = None,
    data_dir: str | Path | None = None,
    subset: bool = False,
) -> Path:
    """Packs a data set at one sampling rate into the folder `<data_dir>/<dataset>-<sample_rate>/`, for `load_clips`.

    Every recording is decoded, averaged to mono, resampled, truncated to the set's longest duration (5 s for ESC, 4 s
    for UrbanSound8K) and rounded to 16 bits. The folder holds `clips.npy`, `clips.csv` and `dataset.json`, and gets its
    name only once it is complete: if a run is killed, run it again. A set that is already prepared is kept, unless
    `source` holds other recordings. While one process prepares a set, others that want to prepare it too wait.

    Any other name makes a set of your own, from a folder with a subfolder for each class, or from a CSV file: see
    `esc_lib.data.own.read_own`. Its folds are kept with it, and follow from the recordings. Clips last up to 30 s; none
    may be silent, and no two the same.

    Args:
        dataset: "synthetic", "esc10", "esc50", "urbansound8k", or a new name for a set of your own: letters, digits
            and underscores.
        sample_rate: Hz; the papers use 8000, 16000, 20000 and 44100.
        source: the extracted set or its archive; None generates the synthetic set and downloads the others. Of a set
            of your own: its folder or CSV file; None once it is prepared.
        data_dir: data folder; by default `ESC_DATA`, or else the repository's `data/`.
        subset: accept a source with fewer clips than were published, and mark the prepared set as a subset.

    Raises:
        ValueError: unknown set, impossible rate, a recording or table that cannot be read or is damaged, or fewer clips
            than were published although `subset` is not set; or, of a set of your own, what cannot be trained on.
        FileNotFoundError: `source` does not exist, is another set, or lacks recordings that its table lists.
        DownloadError: the official download failed.
        WriteError: the folder cannot be written.
    """
    check("subset", subset, bool)
    folder = prepared_folder(dataset, sample_rate, data_dir)
    source = None if source is None else as_path("source", source)
    if source and not source.is_dir() and not source.is_file():
        raise FileNotFoundError(f"source {source} does not exist (seen from {Path.cwd()}): pass a folder or an archive")
    if source is None and _is_ready(folder, subset):
        return folder
    if is_own(dataset):
        return _prepare_own(dataset, sample_rate, folder, source)
    spec, data = get_dataset(dataset), folder.parent
    with _data_lock(data, dataset):
        for place in filter(Path.is_dir, (data, data / "sources", data / "downloads")):
            remove_parts(place, folder.name, spec.name, f"unpacking-{spec.name}")
        if source or not _is_ready(folder, subset):  # another process may have prepared it in the meantime
            _prepare(spec, sample_rate, folder, source, subset)
    return folder


def _prepare(spec: Dataset, sample_rate: int, folder: Path, source: Path | None, subset: bool) -> None:
    with _open_source(spec, source, folder.parent) as (name, opened):
        root = find_root(spec, opened)
        table = read_table(spec, root)
        is_subset = _check_complete(spec, table, root, subset)
        source_sha256 = _hash_recordings(spec, table, root)
        if not _is_ready(folder, subset, source_sha256):
            if is_subset and _is_ready(folder, subset=False):
                raise ValueError(
                    f"{folder} holds the whole set, which a subset would replace: "
                    "pass another data_dir for the subset, or delete the folder first"
                )
            metadata = _describe(spec, sample_rate, is_subset, {"name": name, "sha256": source_sha256})
            _pack(spec, table, root, folder, metadata)


def _prepare_own(name: str, sample_rate: int, folder: Path, source: Path | None) -> Path:
    if source is None:
        raise ValueError(
            f"unknown dataset {name!r}: choose one of {', '.join(DATASETS)}; or, for a set of your own, pass source, a "
            "folder with a subfolder of recordings for each class"
        )
    spec, root, table = read_own(name, source)
    with _data_lock(folder.parent, name):
        remove_parts(folder.parent, folder.name)
        origin = {"name": source.resolve().name, "sha256": _hash_recordings(spec, table, root)}
        if not _is_ready(folder, subset=False, source_sha256=origin["sha256"]):
            _pack(spec, table, root, folder, _describe(spec, sample_rate, False, origin))
    return folder


@contextmanager
def _data_lock(data: Path, name: str) -> Iterator[None]:
    """Makes the data folder, and keeps other processes from preparing a set of that name in it."""
    with explain_write_errors(data):
        data.mkdir(parents=True, exist_ok=True)
    with file_lock(data / f".{name}.lock"):
        yield


@contextmanager
def _open_source(spec: Dataset, source: Path | None, data: Path) -> Iterator[tuple[str, Path]]:
    """The source's name (without its path) and a folder with its recordings, which may exist only inside the block."""
    if source is None:
        yield "official", official_recordings(spec, data / "sources" / spec.name, data / "downloads")
        return
    source = source.resolve()
    if source.is_dir():
        yield source.name, source
        return
    with temporary_folder(data, f"unpacking-{spec.name}") as folder:
        yield source.name, extract(source, folder / "set", max_bytes=spec.max_bytes)


def _check_complete(spec: Dataset, table: pd.DataFrame, root: Path, subset: bool) -> bool:
    """Whether the table is a subset. Raises if that is not allowed, or if a file is missing."""
    absent = [file for file in table["file"] if not os.path.isfile(root / file)]  # Path's raises for long names
    if absent:
        raise FileNotFoundError(
            f"{root} lacks {len(absent)} of the {len(table)} recordings in {spec.table}: {', '.join(absent[:5])}"
            f"{', ...' if len(absent) > 5 else ''}; download the set again"
        )
    if len(table) == 0:
        raise ValueError(f"{root / spec.table} lists no clips of {spec.title}")
    sizes = table["fold"].value_counts()
    short = [f"fold {f}: {sizes.get(f, 0)} of {n} clips" for f, n in spec.fold_sizes.items() if sizes.get(f, 0) != n]
    short += [f"class {name}: no clips" for name in spec.classes if name not in set(table["category"])]
    if short and not subset:
        raise ValueError(
            f"{root} is not the whole of {spec.title}: {'; '.join(short)}. "
            "Download what is missing, or prepare it as a subset: prepare(..., subset=True)"
        )
    return bool(short)


def _is_ready(folder: Path, subset: bool, source_sha256: str | None = None) -> bool:
    """Whether `folder` holds the whole set (or a subset, if that will do), and from this source if one is given."""
    if not (folder / "dataset.json").is_file():
        return False
    metadata = read_metadata(folder)
    return (subset or not metadata["subset"]) and source_sha256 in (None, metadata["origin"]["sha256"])


def _hash_recordings(spec: Dataset, table: pd.DataFrame, root: Path) -> str:
    """SHA-256 of the table and every recording in it: the same recordings have the same hash wherever they are.

    The table of a set of your own is the one that was read, with its folds.
    """

    def of(file: str) -> str:
        with explain_read_errors(root / file):
            return file_hash(root / file)

    own = hashlib.sha256(table.to_csv(index=False, lineterminator="\n").encode()).hexdigest()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hashes = [of(spec.table) if spec.table else own, *pool.map(of, table["file"])]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _pack(spec: Dataset, table: pd.DataFrame, root: Path, folder: Path, metadata: dict[str, Any]) -> None:
    """Writes the prepared folder; an older one is replaced only once the new one is complete."""
    rate = metadata["sample_rate"]
    # The pool ends here, in this thread, whatever stops the packing. Were it the generator's, a refusal would leave its
    # end to the garbage collector, which may run in one of the pool's own threads, inside soundfile's lock: a deadlock.
    with atomic_folder(folder, replace=True) as making, ThreadPoolExecutor(os.cpu_count()) as pool:
        clips = _map_ahead(pool, lambda file: read_int16(root / file, rate, spec.seconds), table["file"])
        clips = distinct_sounds(clips, table["file"]) if is_own(spec.name) else clips
        progress = progress_bar(clips, desc=f"{spec.title} at {rate} Hz", total=len(table), unit="clip")
        frames = _write_end_to_end(making / "clips.npy", progress)
        offsets = np.cumsum([0, *frames[:-1]])
        table.assign(offset=offsets, frames=frames)[list(COLUMNS)].to_csv(making / "clips.csv", index=False)
        metadata = {**metadata, "clips": len(table), "folds": table["fold"].value_counts(sort=False).to_dict()}
        (making / "dataset.json").write_text(json.dumps(metadata, indent=4), encoding="utf-8")


def _map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int = 64
) -> Iterator[Result]:
    """`map` on every core (decoding and resampling release Python's lock), at most `ahead` results early."""
    pending: deque[Future[Result]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _write_end_to_end(path: Path, clips: Iterable[Samples]) -> list[int]:
    """Writes int16 arrays as one `.npy` file, never all in memory, and returns the length of each."""
    frames = []
    with open(path, "wb") as file:
        _write_npy_header(file, 0)
        for clip in clips:
            file.write(clip.tobytes())
            frames.append(len(clip))
        file.seek(0)
        _write_npy_header(file, sum(frames))  # as long as the first one: numpy leaves room for larger numbers
        os.fsync(file.fileno())
    return frames


def _write_npy_header(file: BinaryIO, length: int) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<i2", "fortran_order": False, "shape": (length,)})


def _describe(spec: Dataset, sample_rate: int, subset: bool, origin: dict[str, str]) -> dict[str, Any]:
    libraries = {name: version(name) for name in ("esc-course", "numpy", "soundfile", "soxr")}
    return {
        "dataset": spec.name,
        "title": spec.title,
        "sample_rate": sample_rate,
        "classes": list(spec.classes),
        "subset": subset,
        "origin": origin,
        "licence": spec.licence,
        "versions": {**libraries, "libsndfile": soundfile.__libsndfile_version__},
    }
