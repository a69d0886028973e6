"""What is published about each data set, and that no table that differs from it is taken."""

import csv
from collections import Counter
from pathlib import Path

import pytest
from sound_files import (
    ESC10_ORDER,
    ESC50_NAMES,
    ESC_COLUMNS,
    SHARED_DATA,
    URBANSOUND8K_COLUMNS,
    URBANSOUND8K_NAMES,
    write_esc_table,
    write_rows,
)

import esc_lib
from esc_lib.data.datasets import DATASETS, check_folds, find_root, get_dataset, prepared_folder, read_table
from esc_lib.paths import data_folder

DOG = ["1-100032-A-0.wav", 1, 0, "dog", True, 100032, "A"]
BARK = ["7383-3-0-0.wav", 7383, 0.0, 4.0, 1, 5, 3, "dog_bark"]


def real(name):
    """Folder of the real recordings, and the rows of their table read without the library."""
    table = SHARED_DATA / name / {"esc10": "meta/esc50.csv", "urbansound8k": "metadata/UrbanSound8K.csv"}[name]
    if not table.is_file():
        pytest.skip(f"the real recordings of {name} are not in shared/data beside the project")
    with open(table, newline="", encoding="utf-8") as file:
        return SHARED_DATA / name, list(csv.DictReader(file))


def esc_row(**changes):
    return [dict(zip(ESC_COLUMNS, DOG, strict=True), **changes)[column] for column in ESC_COLUMNS]


def read_esc(root, rows, columns=ESC_COLUMNS, name="esc50"):
    write_rows(root / "meta/esc50.csv", columns, rows)
    return read_table(get_dataset(name), root)


def refused(root, rows, *words, columns=ESC_COLUMNS, name="esc50"):
    """The table must be refused by a message with its file's name and these words."""
    with pytest.raises(ValueError) as error:
        read_esc(root, rows, columns, name)
    assert type(error.value) is ValueError  # not one of its children, such as an UnicodeError that slipped through
    for word in (str(root / "meta/esc50.csv"), *words):
        assert word in str(error.value)


# What each set is ------------------------------------------------------------------------------------------------


def test_classes_are_numbered_as_published_and_esc10s_as_tokozume_does():
    esc10 = [ESC50_NAMES[number] for number in (0, 10, 11, 20, 38, 21, 40, 41, 1, 12)]
    assert list(get_dataset("esc50").classes) == [ESC50_NAMES[number] for number in range(50)]
    assert list(get_dataset("esc10").classes) == list(get_dataset("synthetic").classes) == esc10
    assert list(get_dataset("urbansound8k").classes) == [URBANSOUND8K_NAMES[number] for number in range(10)]


@pytest.mark.parametrize(
    ("name", "sizes", "clips", "seconds"),
    [
        ("synthetic", [40] * 5, 200, 5),
        ("esc10", [80] * 5, 400, 5),
        ("esc50", [400] * 5, 2000, 5),
        ("urbansound8k", [873, 888, 925, 990, 936, 823, 838, 806, 816, 837], 8732, 4),
    ],
)
def test_number_of_clips_and_longest(name, sizes, clips, seconds):
    dataset = get_dataset(name)
    assert dataset.folds == tuple(range(1, len(sizes) + 1))
    assert [dataset.fold_sizes[fold] for fold in dataset.folds] == sizes
    assert (dataset.n_clips, dataset.seconds) == (clips, seconds) and name in DATASETS


@pytest.mark.parametrize("name", ["esc-10", "", None, 10, ["esc10"], {"esc10": 1}, b"esc10"])
def test_unknown_dataset_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=r"synthetic.*esc10.*esc50.*urbansound8k") as error:
        get_dataset(name)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("folds", [[], [0], [6], [1, 1], [1.0], [True], ["1"], "1", 1, None, {1: 1}, [[1]]])
def test_folds_that_are_not_the_sets(folds):
    check_folds("eval_folds", [5, 1], "esc10")
    with pytest.raises(ValueError, match=r"eval_folds is .*esc10's folds \[1, 2, 3, 4, 5\], each once") as error:
        check_folds("eval_folds", folds, "esc10")
    assert repr(folds) in str(error.value)


# Against the real tables -----------------------------------------------------------------------------------------


def test_real_esc10_table():
    root, rows = real("esc10")
    table = read_table(get_dataset("esc10"), root)
    assert Counter(table["fold"]) == get_dataset("esc10").fold_sizes
    published = {f"audio/{row['filename']}": row for row in rows}
    assert sorted(table["file"]) == sorted(published)
    for row in table.itertuples():
        theirs = published[row.file]
        assert row.fold == int(theirs["fold"]) and row.recording == int(theirs["src_file"])
        assert row.category == theirs["category"] == ESC50_NAMES[int(theirs["target"])]
        assert row.target == ESC10_ORDER.index(int(theirs["target"]))
    table = read_table(get_dataset("esc50"), root)
    assert {row.file: row.target for row in table.itertuples()} == {
        file: int(row["target"]) for file, row in published.items()
    }


def test_real_urbansound8k_table():
    root, rows = real("urbansound8k")
    table = read_table(get_dataset("urbansound8k"), root)
    published = {f"audio/fold{row['fold']}/{row['slice_file_name']}": row for row in rows}
    assert sorted(table["file"]) == sorted(published)
    assert all((root / file).is_file() for file in table["file"])
    for row in table.itertuples():
        theirs = published[row.file]
        assert (row.fold, row.target, row.category) == (int(theirs["fold"]), int(theirs["classID"]), theirs["class"])
        assert row.recording == int(theirs["fsID"])
    sizes = get_dataset("urbansound8k").fold_sizes
    assert Counter(table["fold"]) == {fold: sizes[fold] for fold in set(table["fold"])}


# Reading a table -------------------------------------------------------------------------------------------------


def test_table_is_sorted_by_fold_and_file(tmp_path):
    names = ["2-5-A-0.wav", "1-9-A-10.wav", "2-4-A-12.wav", "1-10-A-1.wav"]
    write_esc_table(tmp_path, names)
    table = read_table(get_dataset("esc10"), tmp_path)
    assert list(table.columns) == ["file", "fold", "target", "category", "recording"]
    assert table.values.tolist() == [
        ["audio/1-10-A-1.wav", 1, 8, "rooster", 10],
        ["audio/1-9-A-10.wav", 1, 1, "rain", 9],
        ["audio/2-4-A-12.wav", 2, 9, "crackling_fire", 4],
        ["audio/2-5-A-0.wav", 2, 0, "dog", 5],
    ]


def test_esc10_is_ten_classes_of_the_table_of_esc50(tmp_path):
    write_esc_table(tmp_path, [f"1-{number}-A-{number}.wav" for number in ESC50_NAMES])
    assert set(read_table(get_dataset("esc10"), tmp_path)["recording"]) == set(ESC10_ORDER)
    assert len(read_table(get_dataset("esc50"), tmp_path)) == 50


def test_urbansound8k_files_lie_in_a_folder_for_each_fold(tmp_path):
    horn = ["1000-1-0-0.wav", 1000, 0.0, 4.0, 1, 10, 1, "car_horn"]
    write_rows(tmp_path / "metadata/UrbanSound8K.csv", URBANSOUND8K_COLUMNS, [horn, BARK])
    table = read_table(get_dataset("urbansound8k"), tmp_path)
    assert table.values.tolist() == [
        ["audio/fold5/7383-3-0-0.wav", 5, 3, "dog_bark", 7383],
        ["audio/fold10/1000-1-0-0.wav", 10, 1, "car_horn", 1000],
    ]


@pytest.mark.parametrize("name", ["h\u00fcnd und katze \u96e8.wav", "NA", "...wav", 'say "hi", dog.wav', "x" * 255])
def test_unusual_file_names(tmp_path, name):
    assert list(read_esc(tmp_path, [esc_row(filename=name)])["file"]) == [f"audio/{name}"]


def test_folds_from_a_spreadsheet(tmp_path):
    """It writes 1.0 for 1, and marks the beginning of the file."""
    rows = [[name, recording, 0.0, 4.0, 1, f"{fold}.0", 3, "dog_bark"] for name, recording, fold in [("a", 5, 2)]]
    write_rows(tmp_path / "metadata/UrbanSound8K.csv", ["\ufeffslice_file_name", *URBANSOUND8K_COLUMNS[1:]], rows)
    table = read_table(get_dataset("urbansound8k"), tmp_path)
    assert table.values.tolist() == [["audio/fold2/a", 2, 3, "dog_bark", 5]]


def test_table_without_a_row(tmp_path):
    assert len(read_esc(tmp_path, [])) == 0
    write_rows(tmp_path / "metadata/UrbanSound8K.csv", URBANSOUND8K_COLUMNS, [])
    assert len(read_table(get_dataset("urbansound8k"), tmp_path)) == 0


HEADER = b"filename,fold,category,src_file\n"
NO_TABLES = {
    "binary": b"\xff\xfe\x00\x01",
    "null bytes": bytes(200_000),
    "no end": HEADER + b'a.wav,1,dog,"5\nb.wav,1,dog,6\n',  # the rest of the file in one cell
    "a cell too few": HEADER + b"a.wav,1,dog\n",
    "a cell too many": HEADER + b"a.wav,1,dog,5,6\n",
    "a huge cell": HEADER + b"a" * 200_000 + b",1,dog,5\n",
    "a huge file": b"\n" * 5_000_001,
}


@pytest.mark.parametrize("content", NO_TABLES.values(), ids=NO_TABLES)
def test_what_is_not_a_table_is_refused(tmp_path, content):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/esc50.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"esc50\.csv cannot be read as a table .*ESC-50's own table") as error:
        read_table(get_dataset("esc50"), tmp_path)
    assert type(error.value) is ValueError and len(str(error.value)) < 500


@pytest.mark.parametrize("content", [b"", b"\n\n", b"," * 1_000_000])  # for the last, pandas takes gigabytes
def test_what_has_no_columns_is_refused(tmp_path, content):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/esc50.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"esc50\.csv lacks the column\(s\) filename, fold, category, src_file"):
        read_table(get_dataset("esc50"), tmp_path)


@pytest.mark.parametrize("column", ["filename", "fold", "category", "src_file"])
def test_missing_column_is_named(tmp_path, column):
    columns = [name if name != column else "other" for name in ESC_COLUMNS]
    refused(tmp_path, [DOG], "lacks", column, "other", columns=columns)


def test_columns_that_are_not_used_may_be_missing(tmp_path):
    columns = ["src_file", "category", "fold", "filename"]  # in an order of their own
    table = read_esc(tmp_path, [[5, "rooster", 3, "a.wav"]], columns)
    assert table.values.tolist() == [["audio/a.wav", 3, 1, "rooster", 5]]


@pytest.mark.parametrize(
    ("problem", "changes"),
    [
        *(("class that is not in the set", {"category": category}) for category in ("wolf", "Dog", "")),
        *(("fold that is not in the set", {"fold": fold}) for fold in (0, 6, -1, 1.5, "one", "", True, "nan", "1e400")),
        ("no file name", {"filename": ""}),
        ("duplicated file name", {"filename": DOG[0], "fold": 2}),
        *(("folder", {"filename": name}) for name in ("../bad.wav", "/etc/bad.wav", "..\\bad.wav", "sub/bad.wav")),
        *(("not every system allows", {"filename": name}) for name in (".", "..", "a.", "a ", "C:a", "a\0", "x" * 256)),
        *(("no recording", {"src_file": name}) for name in ("", "  ")),
    ],
)
@pytest.mark.parametrize("name", ["esc10", "esc50"])
def test_row_that_does_not_fit_the_set(tmp_path, name, problem, changes):
    row = esc_row(**{"filename": "bad.wav", **changes})
    refused(tmp_path, [DOG, row], problem, "1 row", repr(row[0][:5])[:-1].replace("xxxxx", "xxx"), name=name)


def test_rows_with_a_cell_too_many(tmp_path):
    refused(tmp_path, [[*DOG, "surplus", "surplus"]])


# Folders ---------------------------------------------------------------------------------------------------------


def test_root_is_the_folder_or_the_one_inside_it(tmp_path):
    esc50 = get_dataset("esc50")
    write_esc_table(tmp_path / "a" / "ESC-50-master", ["1-1-A-0.wav"])
    (tmp_path / "a" / "__MACOSX").mkdir()
    assert find_root(esc50, tmp_path / "a") == tmp_path / "a" / "ESC-50-master"
    assert find_root(esc50, str(tmp_path / "a" / "ESC-50-master")) == tmp_path / "a" / "ESC-50-master"


@pytest.mark.parametrize("first", ["a", "."])
def test_two_sets_in_one_folder_are_both_named(tmp_path, first):
    for folder in (first, "b"):
        write_esc_table(tmp_path / folder, ["1-1-A-0.wav"])
    with pytest.raises(ValueError, match="holds ESC-50 2 times") as error:
        find_root(get_dataset("esc50"), tmp_path)
    assert f"{tmp_path / first} and {tmp_path / 'b'}: " in str(error.value)


def test_folder_that_is_not_the_set(tmp_path):
    write_esc_table(tmp_path / "too" / "deep" / "down", ["1-1-A-0.wav"])
    for folder in (tmp_path / "too", tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match=r"is not ESC-50: expected meta/esc50\.csv .* source") as error:
            find_root(get_dataset("esc50"), folder)
        assert str(folder) in str(error.value)


def test_data_folder_is_the_argument_else_the_environments_else_the_repositorys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ESC_DATA", raising=False)
    default = data_folder()
    assert default == Path(esc_lib.__file__).resolve().parents[1] / "data"
    monkeypatch.setenv("ESC_DATA", str(tmp_path / "from environment"))
    assert data_folder() == tmp_path / "from environment"
    assert data_folder(tmp_path / "argument") == data_folder(str(tmp_path / "argument")) == tmp_path / "argument"
    monkeypatch.setenv("ESC_DATA", "")
    assert data_folder() == default
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("ESC_DATA", "~/sounds")
    assert data_folder() == tmp_path / "sounds"


def test_prepared_folder_is_named_by_set_and_rate(tmp_path):
    assert prepared_folder("esc50", 44100, tmp_path) == tmp_path / "esc50-44100"
    assert prepared_folder("esc11", 8000, tmp_path) == tmp_path / "esc11-8000", "it may be a set of your own"
    for name in ("esc-11", "ESC10", "../esc10", "", "10", None):
        with pytest.raises(ValueError, match=r"unknown dataset .*synthetic.*esc10.*of your own"):
            prepared_folder(name, 8000, tmp_path)


@pytest.mark.parametrize("rate", [0, -8000, 16, 16000.0, "16000", True, None, 10**6])
def test_invalid_sampling_rate(tmp_path, rate):
    with pytest.raises(ValueError, match="Hz"):
        prepared_folder("esc10", rate, tmp_path)


@pytest.mark.parametrize("column", ["fold", "category"])
def test_a_column_that_is_there_twice_is_refused(tmp_path, column):
    write_esc_table(tmp_path, [f"{fold}-1-A-0.wav" for fold in range(1, 6)])
    table = tmp_path / "meta" / "esc50.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    wider = [f"{lines[0]},{column}", *(f"{line},5" for line in lines[1:])]
    table.write_text("\n".join(wider), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"esc50.csv has the column\(s\) {column} more than once"):
        read_table(get_dataset("esc10"), tmp_path)
