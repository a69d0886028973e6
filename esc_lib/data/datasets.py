"""The data sets: their classes, folds and sizes, where they come from, and how their tables of clips are read.

Sources: K. J. Piczak, "ESC: Dataset for Environmental Sound Classification", ACM MM 2015 (ESC-50 and ESC-10);
J. Salamon, C. Jacoby, J. P. Bello, "A Dataset and Taxonomy for Urban Sound Research", ACM MM 2014 (UrbanSound8K).
"""

import csv
import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from esc_lib.arguments import as_path, check
from esc_lib.files import refuse_no_file
from esc_lib.paths import data_folder

LARGEST_TABLE = 5_000_000  # bytes; UrbanSound8K's has 494,104
MOST_FOLDS = 1000  # of a set of your own, to which UrbanSound8K's ten are few
ESC50_COMMIT = "33c8ce9eb2cf0b1c2f8bcf322eb349b6be34dbb6"

ESC50_CLASSES = (
    "dog", "rooster", "pig", "cow", "frog", "cat", "hen", "insects", "sheep", "crow",
    "rain", "sea_waves", "crackling_fire", "crickets", "chirping_birds",
    "water_drops", "wind", "pouring_water", "toilet_flush", "thunderstorm",
    "crying_baby", "sneezing", "clapping", "breathing", "coughing",
    "footsteps", "laughing", "brushing_teeth", "snoring", "drinking_sipping",
    "door_wood_knock", "mouse_click", "keyboard_typing", "door_wood_creaks", "can_opening",
    "washing_machine", "vacuum_cleaner", "clock_alarm", "clock_tick", "glass_breaking",
    "helicopter", "chainsaw", "siren", "car_horn", "engine",
    "train", "church_bells", "airplane", "fireworks", "hand_saw",
)  # fmt: skip
# Tokozume et al. number ESC-10's classes 0..9 in this order (their code, data preparation).
ESC10_CLASSES = (
    "dog", "rain", "sea_waves", "crying_baby", "clock_tick",
    "sneezing", "helicopter", "chainsaw", "rooster", "crackling_fire",
)  # fmt: skip
URBANSOUND8K_CLASSES = (
    "air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling",
    "engine_idling", "gun_shot", "jackhammer", "siren", "street_music",
)  # fmt: skip


@dataclass(frozen=True)
class Dataset:
    """A set of labelled clips: a published one, or the user's own (`esc_lib.data.own`).

    Attributes:
        name: as `prepare`, `load_clips` and `recipe` take it.
        title: as it is written in text.
        classes: class names; targets 0, 1, ... are indices into them.
        fold_sizes: number of clips published in each official fold: `{fold: clips}`.
        seconds: longest duration of a clip; preparing truncates longer ones, and refuses them in a set of your own.
        table: path of the table of clips inside the set's folder.
        columns: the table's own names for (file, fold, category, recording).
        licence: of the recordings.
        max_bytes: upper limit for the extracted set, with room for other formats; larger archives are rejected.
        url: official download; empty for the set that is generated here.
        size: of the download, in bytes; None where unknown.
        sha256: of the download; None where unknown.
        md5: of the download; None where unknown.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    fold_sizes: dict[int, int]
    seconds: float
    table: str
    columns: tuple[str, str, str, str]
    licence: str
    max_bytes: int
    url: str = ""
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None

    @property
    def folds(self) -> tuple[int, ...]:
        return tuple(self.fold_sizes)

    @property
    def n_clips(self) -> int:
        return sum(self.fold_sizes.values())


_ESC_LAYOUT: dict[str, Any] = dict(
    seconds=5.0,
    table="meta/esc50.csv",
    columns=("filename", "fold", "category", "src_file"),
    max_bytes=1_500_000_000,  # ESC-50 takes 0.9 GB, and is accepted as a source of ESC-10
)

DATASETS = {
    d.name: d
    for d in (
        Dataset(
            name="synthetic",
            title="the course's built-in sounds",
            classes=ESC10_CLASSES,
            fold_sizes=dict.fromkeys(range(1, 6), 40),
            licence="MIT, like the course",
            **_ESC_LAYOUT,
        ),
        Dataset(
            name="esc10",
            title="ESC-10",
            classes=ESC10_CLASSES,
            fold_sizes=dict.fromkeys(range(1, 6), 80),
            licence="CC BY 3.0",
            # ESC-10 is 400 of ESC-50's files, which can be downloaded one by one: 176 MB instead of 646 MB.
            url=f"https://raw.githubusercontent.com/karolpiczak/ESC-50/{ESC50_COMMIT}/",
            **_ESC_LAYOUT,
        ),
        Dataset(
            name="esc50",
            title="ESC-50",
            classes=ESC50_CLASSES,
            fold_sizes=dict.fromkeys(range(1, 6), 400),
            licence="CC BY-NC 3.0",
            # A pinned commit: the hash of master.zip changes with every edit of the README.
            url=f"https://github.com/karolpiczak/ESC-50/archive/{ESC50_COMMIT}.zip",
            size=645_832_161,
            sha256="661183a6f53ef04f12c9bd618fed0ddc1713280d6c94a5a5431e844ba6f6a21f",
            **_ESC_LAYOUT,
        ),
        Dataset(
            name="urbansound8k",
            title="UrbanSound8K",
            classes=URBANSOUND8K_CLASSES,
            fold_sizes=dict(enumerate((873, 888, 925, 990, 936, 823, 838, 806, 816, 837), start=1)),
            seconds=4.0,
            table="metadata/UrbanSound8K.csv",
            columns=("slice_file_name", "fold", "class", "fsID"),
            licence="CC BY-NC 3.0",
            max_bytes=12_000_000_000,  # 7 GB as published
            url="https://zenodo.org/records/1203745/files/UrbanSound8K.tar.gz?download=1",
            size=6_023_741_708,
            md5="9aa69802bbf37fb986f71ec1483a196e",
        ),
    )
}


def get_dataset(name: str) -> Dataset:
    """The published data set with that name.

    Raises:
        ValueError: unknown data set; the message lists the known ones.

    >>> get_dataset("esc10").n_clips
    400
    """
    if not isinstance(name, str) or name not in DATASETS:
        raise ValueError(f"unknown dataset {reprlib.repr(name)}: choose one of {', '.join(DATASETS)}")
    return DATASETS[name]


def is_own(name: object) -> bool:
    """Whether a set is the user's own: a name that is none of `DATASETS`.

    Raises:
        ValueError: nor can it be a set's; the message lists the published ones.

    >>> is_own("my_sounds"), is_own("esc10")
    (True, False)
    """
    if isinstance(name, str) and name in DATASETS:
        return False
    # A part of file names, also where case does not count.
    right = isinstance(name, str) and re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,63}", name)
    if not right or str(name).lower() in DATASETS:
        raise ValueError(
            f"unknown dataset {reprlib.repr(name)}: choose one of {', '.join(DATASETS)}, or for a set of your own "
            "another name, of letters, digits and underscores"
        )
    return True


def check_classes(name: str, classes: object) -> None:
    """Raises ValueError unless an argument is a list or tuple of two or more names of classes, each once."""
    right = isinstance(classes, list | tuple) and all(isinstance(of, str) and of.strip() for of in classes)
    if not right or len(set(classes)) != len(classes) or len(classes) < 2:  # type: ignore[call-overload, arg-type]
        raise ValueError(f"{name} is {reprlib.repr(classes)}: expected the names of two or more classes, each once")


def check_folds(name: str, folds: object, dataset: str, *, may_be_empty: bool = False) -> None:
    """Raises ValueError unless an argument is a list or tuple of folds that a set can have, each once.

    Which folds a set of your own has is known only where it is prepared: `Clips.in_folds` checks that.

    Args:
        name, folds: of the argument.
        dataset: the set's name.
        may_be_empty: whether there need not be any.
    """
    own = is_own(dataset)
    known = range(1, MOST_FOLDS + 1) if own else get_dataset(dataset).folds
    right = isinstance(folds, list | tuple) and all(type(fold) is int and fold in known for fold in folds)
    if not right or len(set(folds)) != len(folds) or not (folds or may_be_empty):  # type: ignore[call-overload, arg-type]
        found = reprlib.repr(list(folds) if isinstance(folds, tuple) else folds)
        text = "which are whole numbers from 1" if own else list(known)
        raise ValueError(f"{name} is {found}: expected at least one of {dataset}'s folds {text}, each once")


def find_root(dataset: Dataset, folder: str | Path) -> Path:
    """The folder with the set's table: `folder` itself, or a folder inside it, as in most archives.

    Raises:
        FileNotFoundError: the table is not there.
        ValueError: it is there more than once.
    """
    folder = as_path("folder", folder)
    candidates = (folder, *sorted(child for child in folder.glob("*") if child.is_dir()))
    # os.path.isfile: a folder beside the set that may not be opened, such as lost+found, is passed over.
    roots = [root for root in candidates if os.path.isfile(root / dataset.table)]
    if not roots:
        raise FileNotFoundError(
            f"{folder} is not {dataset.title}: expected {dataset.table} in it (or in a folder inside it); "
            "pass the extracted folder or the downloaded archive as source"
        )
    if len(roots) > 1:
        raise ValueError(
            f"{folder} holds {dataset.title} {len(roots)} times, in {' and '.join(map(str, roots))}: "
            "remove one of them, or pass the other as source"
        )
    return roots[0]


def read_table(dataset: Dataset, root: str | Path) -> pd.DataFrame:
    """The table of clips in the set's folder (see `find_root`), a row per clip, sorted by fold and file name.

    Returns:
        columns `file` (path below `root`), `fold`, `target` (0, 1, ... in the order of `dataset.classes`),
        `category` (the class's name) and `recording` (the recording that the clip was cut from).

    Raises:
        ValueError: the table cannot be read, lacks a column, or holds a row that does not fit the set.
    """
    path = as_path("root", root) / dataset.table
    table = read_columns(path, dataset.columns, remedy=f"expected {dataset.title}'s own table")
    table.columns = pd.Index(["file", "fold", "category", "recording"])
    folds = pd.to_numeric(table["fold"], errors="coerce")  # spreadsheets make 1.0 of 1
    _check_rows(dataset, table, folds, path)
    table["fold"] = folds.astype("int64")
    table["recording"] = as_numbers(table["recording"])
    table = table[table["category"].isin(dataset.classes)]  # ESC-10 is ten of ESC-50's classes
    folder = "audio/fold" + table["fold"].astype(str) if dataset.name == "urbansound8k" else "audio"
    files, targets = folder + "/" + table["file"], table["category"].map(dataset.classes.index).astype("int64")
    columns = ["file", "fold", "target", "category", "recording"]
    return table.assign(file=files, target=targets)[columns].sort_values(["fold", "file"], ignore_index=True)


def _check_rows(dataset: Dataset, table: pd.DataFrame, folds: pd.Series, path: Path) -> None:
    known = ESC50_CLASSES if dataset.name == "esc10" else dataset.classes
    problems = [
        ("a class that is not in the set", ~table["category"].isin(known)),
        ("a fold that is not in the set", ~folds.isin(dataset.folds)),
        ("no file name", table["file"] == ""),
        ("a duplicated file name", table["file"].duplicated()),
        # A table from elsewhere must not point outside the set's folder.
        ("a folder in its file name, or a name that not every system allows", ~table["file"].map(_is_file_name)),
        ("no recording", table["recording"].str.strip() == ""),
    ]
    for problem, rows in problems:
        if rows.any():
            row = reprlib.repr(table[rows].iloc[0].to_dict())
            raise ValueError(f"{path}: {int(rows.sum())} row(s) with {problem}; the first is {row}")


def _is_file_name(name: str) -> bool:
    """Whether a file can have this name on POSIX and Windows, which drops a dot or space at the end."""
    return len(name.encode()) <= 255 and bool(re.fullmatch(r"[^/\\:\x00-\x1f]*[^/\\:\x00-\x1f .]", name))


def read_columns(
    path: Path, names: Sequence[str], *, remedy: str, former: Mapping[str, str] = MappingProxyType({})
) -> pd.DataFrame:
    """Some columns of a CSV file, every cell as text.

    Args:
        path, names: the file, and the columns.
        remedy: what to do about a damaged file, as the end of a message.
        former: older names of columns, and the present ones.

    Raises:
        ValueError: as `read_rows`, or it lacks a column.
    """
    header, rows = read_rows(path, remedy=remedy)
    header = [former.get(name, name) for name in header]
    if twice := [name for name in names if header.count(name) > 1]:
        raise ValueError(f"{path} has the column(s) {', '.join(twice)} more than once; {remedy}")
    places = {name: place for place, name in enumerate(header)}
    if missing := [name for name in names if name not in places]:
        raise ValueError(f"{path} lacks the column(s) {', '.join(missing)}: it has {reprlib.repr(header)}; {remedy}")
    return pd.DataFrame({name: pd.Series([row[places[name]] for row in rows], dtype=str) for name in names})


def read_rows(path: Path, *, remedy: str, separators: str = ",") -> tuple[list[str], list[list[str]]]:
    """The first row of a CSV file and the others, as long as the first, every cell as text; blank lines are skipped.

    pandas would guess types cell by cell, and take gigabytes for a line of commas.

    Args:
        path: the file.
        remedy: what to do about a damaged file, as the end of a message.
        separators: what may stand between two cells; of several, that which is in the first line most often.

    Raises:
        ValueError: it is missing, damaged or too large, or has a row that is not as long as the first.
    """
    try:
        refuse_no_file(path)
        with open(path, newline="", encoding="utf-8-sig") as file:
            if (size := os.fstat(file.fileno()).st_size) > LARGEST_TABLE:
                raise ValueError(f"it has {size} bytes, which is too many")
            lines = file.readlines()
        separator = max(separators, key="".join(lines[:1]).count)
        header, *rows = [row for row in csv.reader(lines, delimiter=separator, strict=True) if row] or [[]]
        uneven = next((row for row in rows if len(row) != len(header)), None)
        if uneven is not None:
            raise ValueError(f"a row has {len(uneven)} cells, the first has {len(header)}: {reprlib.repr(uneven)}")
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a table ({error}); {remedy}") from error
    return header, rows


def as_numbers(cells: pd.Series) -> pd.Series:
    """Cells of text as int64 if all are whole numbers, else as they are."""
    return cells.astype("int64") if cells.str.fullmatch(r"-?[0-9]{1,18}").all() else cells


def prepared_folder(dataset: str, sample_rate: int, data_dir: str | Path | None = None) -> Path:
    """Where `prepare` stores a set and `load_clips` looks for it.

    Args:
        dataset, sample_rate, data_dir: as for `prepare`.

    Raises:
        ValueError: impossible rate, or a name that no set can have.

    >>> prepared_folder("esc10", 16000, data_dir="/sounds").name
    'esc10-16000'
    """
    check("sample_rate in Hz", sample_rate, int, 1000, 192_000)
    is_own(dataset)
    return data_folder(data_dir) / f"{dataset}-{sample_rate}"
