"""Sets of your own: a folder with a subfolder for each class, or a table of files; what `prepare` makes its folds from.

Nothing in a set of your own is published, so that its classes and folds are kept with the prepared set, in its
`dataset.json`.
"""

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import numpy.typing as npt
import pandas as pd

from esc_lib.data.audio import Samples, explain_read_errors, open_recording, shown
from esc_lib.data.datasets import LARGEST_TABLE, MOST_FOLDS, Dataset, as_numbers, check_classes, read_rows

FOLDS = 5
# E. Fonseca et al., "FSD50K: An Open Dataset of Human-Labeled Sound Events", 2022: clips of up to 30 s. In a longer one
# most random crops would miss a short event.
SECONDS = 30.0
# What systems leave in folders, besides hidden files.
IGNORED = {"thumbs.db", "desktop.ini", "icon\r", "__macosx"}
_ROW = 60  # bytes of a row of clips.csv besides its names, at most
_EXPECTED = "expected a CSV file (UTF-8) with the columns file and class, and if you like recording and fold"


def own_dataset(name: str, classes: Iterable[str], fold_sizes: dict[int, int]) -> Dataset:
    """What the library knows of a set of your own, in the terms of the published ones.

    Args:
        name, classes: of the set.
        fold_sizes: number of clips in each fold.
    """
    columns = ("file", "fold", "class", "recording")
    unknown = dict(table="", columns=columns, licence="your own recordings", max_bytes=0)
    return Dataset(name, name, tuple(classes), fold_sizes, SECONDS, **unknown)  # type: ignore[arg-type]


def read_own(name: str, source: Path) -> tuple[Dataset, Path, pd.DataFrame]:
    """The recordings of a set of your own, their classes, and folds of them.

    A table's own folds are kept. Else there are five, or as many as the class of the fewest recordings has:
    scikit-learn balances the classes and keeps the clips of a recording together. Without a table every file is a
    recording of its own; with one, a recording may hold clips of several classes.

    Args:
        name: of the set.
        source: a folder with a subfolder for each class; or a CSV file with the columns file (relative to it), class,
            and optionally recording and fold. What is hidden is passed over.

    Returns:
        the set, the folder that its files are in, and a table as `read_table` returns it.

    Raises:
        FileNotFoundError: the table lists files that are not there.
        ValueError: another source, or one that no network could be trained and tested on: a single class; a class of
            one recording; a recording in two folds; a file that is no recording, or of more than `SECONDS`.
    """
    try:
        root = source if source.is_dir() else source.parent
        table = _from_folder(source) if source.is_dir() else _from_table(source)
        table["recording"] = as_numbers(table["recording"])
        _check(table)
        _check_recordings(root, table["file"])
        classes = sorted(set(table["category"]))
        check_classes("classes", classes)
        table["target"] = table["category"].map(classes.index).astype("int64")
        if "fold" not in table:
            table["fold"] = _make_folds(table)
        alone = table.groupby("category")["fold"].nunique() == 1
        if alone.any():
            raise ValueError(
                f"class(es) {_first(alone[alone].index)} have clips in one fold alone, to train on or to test on, but "
                "not both: spread their recordings over the folds, or record more"
            )
    except ValueError as error:
        raise ValueError(f"{shown(source)} cannot be the set {name}: {error}") from error
    table = table.sort_values(["fold", "file"], ignore_index=True)[["file", "fold", "target", "category", "recording"]]
    sizes = {int(fold): int(clips) for fold, clips in table["fold"].value_counts(sort=False).items()}  # type: ignore[call-overload]
    return own_dataset(name, classes, sizes), root, table


def distinct_sounds(clips: Iterable[Samples], files: Iterable[str]) -> Iterator[Samples]:
    """The clips, as long as none is silent and none sounds like one before it, but for the silence around it.

    Raises:
        ValueError: it names the file, and the one that it equals. In two folds such a pair is a leak: the test clip was
            trained on.
    """
    first: dict[bytes, str] = {}
    for clip, file in zip(clips, files, strict=True):
        sound = np.flatnonzero(clip)
        if not len(sound):
            raise ValueError(f"{file} is silent, every sample of it is zero: record it again, or take it out")
        digest = hashlib.sha256(clip[sound[0] : sound[-1] + 1].tobytes()).digest()
        if digest in first:
            raise ValueError(f"{first[digest]} and {file} are the same sound, sample by sample: take one of them out")
        first[digest] = file
        yield clip


def _from_folder(folder: Path) -> pd.DataFrame:
    """Columns file, category and recording: each file is a recording, of the class that its folder is called."""
    rows = []
    for category in _visible(folder):
        if not category.is_dir():
            raise ValueError(
                f"{shown(category)} lies beside the folders: each class has a folder of its own, or a CSV file lists "
                "the recordings and is the source"
            )
        files = _visible(category)
        if not files:
            raise ValueError(f"{shown(category)} is empty: remove the folder, or record something for it")
        for file in files:
            if file.is_dir():
                raise ValueError(
                    f"{shown(file)} is a folder inside a class: put its recordings into {category.name}, or list them "
                    "in a CSV file, which may say what belongs together (recording)"
                )
            rows.append((f"{category.name}/{file.name}", unicodedata.normalize("NFC", category.name).strip()))
    table = pd.DataFrame(rows, columns=["file", "category"], dtype=str)
    return table.assign(recording=table["file"])


def _visible(folder: Path) -> list[Path]:
    with explain_read_errors(folder):
        found = sorted(folder.iterdir())
    return [path for path in found if not path.name.startswith(".") and path.name.lower() not in IGNORED]


def _from_table(path: Path) -> pd.DataFrame:
    """Columns file, category, recording and, if the table has it, fold."""
    header, rows = read_rows(path, remedy=_EXPECTED, separators=",;\t")
    header = [name.strip() for name in header]
    known = ["file", "class", "recording", "fold"]
    for name in header:
        near = get_close_matches(name.lower(), known, n=1)
        if name not in known and near and near[0] not in header:  # "folds" would silently count for nothing
            raise ValueError(f"{path.name} has a column {name!r}: call it {near[0]}, or something quite different")
    if header.count("file") != 1 or header.count("class") != 1 or len(set(header)) < len(header):
        raise ValueError(f"{path.name} has the columns {', '.join(header)}; {_EXPECTED}, each once")
    table = pd.DataFrame([row for row in rows if any(row)], columns=header, dtype=str).apply(lambda of: of.str.strip())
    table = table[[name for name in known if name in header]].rename(columns={"class": "category"})
    for name in table:
        _refuse(table, table[name] == "", f"without a {name}")
    _refuse(table, ~table["file"].map(_is_inside), "whose file is not given below the CSV's own folder, with / between")
    table["file"] = table["file"].map(lambda file: PurePosixPath(file).as_posix())
    table["category"] = table["category"].map(lambda name: unicodedata.normalize("NFC", name))
    if "fold" in table:
        folds = pd.to_numeric(table["fold"], errors="coerce")  # spreadsheets make 1.0 of 1
        _refuse(table, ~folds.isin(range(1, MOST_FOLDS + 1)), f"whose fold is no whole number from 1 to {MOST_FOLDS}")
        table["fold"] = folds.astype("int64")
    return table if "recording" in table else table.assign(recording=table["file"])


def _is_inside(file: str) -> bool:
    """Whether a file's name stays in the folder that it is relative to, on every system."""
    path = PureWindowsPath(file)
    return not path.anchor and ".." not in path.parts and "\\" not in file


def _check(table: pd.DataFrame) -> None:
    if table.empty:
        raise ValueError("it holds no recordings; expected a folder for each class, or a CSV file that lists them")
    odd = ["".join(map(str, row)) for row in table[["file", "category", "recording"]].to_numpy()]
    unprintable = [any(unicodedata.category(c) in ("Cc", "Cs") for c in text) for text in odd]
    _refuse(table, pd.Series(unprintable), "with line breaks, control characters or bytes that are no UTF-8 in a name")
    _refuse(table, table["file"].duplicated(), "whose file another row has too")
    spellings = table.groupby(table["category"].str.casefold())["category"].unique()
    if (alike := spellings[spellings.str.len() > 1]).size:
        raise ValueError(f"the classes {' and '.join(alike.iloc[0])} differ only in capitals: give them one name")
    recordings = table.groupby("category")["recording"].nunique()
    if len(recordings) < 2:
        raise ValueError(f"all recordings are of one class, {recordings.index[0]}: a network needs two to choose from")
    if (recordings < 2).any():
        raise ValueError(
            f"class(es) {_first(recordings[recordings < 2].index)} have one recording each: at least two are needed, "
            "one to train on and one to test on, and better ten"
        )
    if "fold" in table:
        folds = table.groupby("recording")["fold"].nunique()
        if (folds > 1).any():
            raise ValueError(
                f"recording(s) {_first(folds[folds > 1].index)} are in several folds, so that what is tested on would "
                "have been trained on: give all clips of a recording the same fold"
            )
    size = len(table.to_csv(index=False).encode()) + _ROW * len(table)
    if size > LARGEST_TABLE:
        raise ValueError(f"its {len(table)} clips are too many: their names alone would take {size} bytes")


def _check_recordings(root: Path, files: pd.Series) -> None:
    absent = [file for file in files if not os.path.lexists(root / file)]  # Path's own raises for long names
    if absent:
        raise FileNotFoundError(f"{shown(root)} lacks {len(absent)} file(s) that the table lists: {_first(absent)}")
    for file in files:
        if (seconds := open_recording(root / file).seconds) > SECONDS:
            raise ValueError(
                f"{file} lasts {seconds:.1f} s, and a clip at most {SECONDS:g}: cut it into clips, and list them in a "
                "CSV file as of the same recording"
            )


def _make_folds(table: pd.DataFrame) -> npt.NDArray[np.int64]:
    from sklearn.model_selection import StratifiedGroupKFold  # late: it takes longer to import than all the rest

    most = int(table.groupby("category")["recording"].nunique().min())
    folds = np.zeros(len(table), np.int64)
    splits = StratifiedGroupKFold(min(FOLDS, most), shuffle=True, random_state=0)
    in_order = table["file"].argsort().to_numpy()  # the same folds, whatever the order of the table
    of = table.iloc[in_order]
    for fold, (_, rows) in enumerate(splits.split(of, of["target"], of["recording"].astype(str)), start=1):
        folds[in_order[rows]] = fold
    return folds


def _refuse(table: pd.DataFrame, rows: "pd.Series[bool]", problem: str) -> None:
    if rows.any():
        row = table[rows.to_numpy()].iloc[0].to_dict()
        raise ValueError(f"{int(rows.sum())} row(s) {problem}; the first is {row}")


def _first(names: Iterable[object]) -> str:
    """The first five, as text."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")
