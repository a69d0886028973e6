"""Sets of your own: from a folder or a table to folds without leaks, and through everything the published sets have."""

import importlib
import json
import os
import shutil
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sound_files import file_state, noise, read_prepared, tone, write_sound
from tiny import files_below

from esc_lib import calibrate, cross_validate, evaluate, load_clips, load_run, predict, prepare, recipe, train
from esc_lib.data import audit, formats
from esc_lib.data.own import SECONDS, read_own
from esc_lib.results import load_record, measured_results, save_record
from esc_lib.training.config import TrainConfig

records = importlib.import_module("esc_lib.results.records")
RATE = 8000


def write_clips(root: Path, files: list[str], frames: int = 80) -> Path:
    """Noise, another in each file; of the format of its ending."""
    for seed, file in enumerate(files):
        write_sound(root / file, noise(frames, seed), RATE)
    return root


def write_folder(root: Path, classes=("dog", "rain"), clips: int = 10, ending: str = "wav") -> Path:
    return write_clips(root, [f"{name}/{i}.{ending}" for name in classes for i in range(clips)])


def write_csv(path: Path, rows: list[dict], separator: str = ",", encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(pd.DataFrame(rows).to_csv(index=False, sep=separator), encoding=encoding)
    return path


def rows_of(root: Path, **columns: list) -> list[dict]:
    """A row for each file below a folder, whose class is its own folder's name."""
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.wav"))
    rows = [{"file": file, "class": file.split("/")[0]} for file in files]
    return [{**row, **{name: values[i] for name, values in columns.items()}} for i, row in enumerate(rows)]


def read(source: Path, name: str = "mine") -> pd.DataFrame:
    return read_own(name, source)[2]


def refused(source: Path, message: str, tmp_path: Path, error=ValueError) -> None:
    """`prepare` must refuse it by a message, and leave nothing."""
    with pytest.raises(error, match=message) as raised:
        prepare("mine", RATE, source=source, data_dir=tmp_path / "data")
    assert type(raised.value) is error
    assert not (tmp_path / "data").exists() or files_below(tmp_path / "data") <= {".mine.lock"}


# A folder --------------------------------------------------------------------------------------------------------


def test_a_folder_becomes_a_prepared_set(tmp_path):
    source = write_folder(tmp_path / "sounds")
    folder = prepare("mine", RATE, source=source, data_dir=tmp_path / "data")
    clips = load_clips("mine", RATE, data_dir=tmp_path / "data")
    assert folder == tmp_path / "data" / "mine-8000" and clips.classes == ("dog", "rain") and len(clips) == 20
    for file, samples in read_prepared(folder).items():
        number = int(Path(file).stem) + 10 * file.startswith("rain")
        np.testing.assert_array_equal(samples, noise(80, number))
    assert (clips.table["recording"] == clips.table["file"]).all()
    each = clips.table.groupby(["fold", "category"]).size()
    assert len(each) == 10 and (each == 2).all(), "both classes are in all five folds, two clips of each"
    assert (
        not clips.subset and load_clips("mine", RATE, folds=[2], data_dir=tmp_path / "data").table["fold"].eq(2).all()
    )
    about = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert about["folds"] == {str(fold): 4 for fold in range(1, 6)} and about["origin"]["name"] == "sounds"


def test_the_folds_depend_on_the_recordings_alone(tmp_path):
    one = read(write_folder(tmp_path / "one"))
    two = read(write_folder(tmp_path / "two"))
    table = read(write_csv(tmp_path / "two" / "list.csv", rows_of(tmp_path / "two")[::-1]))
    assert one.equals(two) and one.equals(table)


def test_a_set_is_prepared_once_and_again_if_its_source_has_changed(tmp_path):
    source, data = write_folder(tmp_path / "sounds"), tmp_path / "data"
    call = partial(prepare, "mine", RATE, data_dir=data)
    folder = call(source=source)
    before = file_state(folder)
    shutil.copytree(source, tmp_path / "copy")
    assert call(source=tmp_path / "copy") == call() == folder and file_state(folder) == before
    write_sound(tmp_path / "copy" / "dog" / "new.wav", noise(80, 99), RATE)
    call(source=tmp_path / "copy")
    assert len(load_clips("mine", RATE, data_dir=data)) == 21
    (tmp_path / "copy" / "rain").rename(tmp_path / "copy" / "shower")
    call(source=tmp_path / "copy")
    assert load_clips("mine", RATE, data_dir=data).classes == ("dog", "shower")


def test_the_hash_is_the_same_at_every_rate(tmp_path):
    source = write_folder(tmp_path / "sounds")
    hashes = []
    for rate in (8000, 16000):
        prepare("mine", rate, source=source, data_dir=tmp_path)
        hashes.append(load_clips("mine", rate, data_dir=tmp_path).source_sha256)
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(("clips", "folds"), [(2, 2), (3, 3), (5, 5), (12, 5)])
def test_there_are_as_many_folds_as_the_rarest_class_has_recordings_but_no_more_than_five(tmp_path, clips, folds):
    write_folder(tmp_path, ["dog"], 12)
    table = read(write_clips(tmp_path, [f"rain/{i}.wav" for i in range(clips)]))
    assert sorted(table["fold"].unique()) == list(range(1, folds + 1))
    assert (table.groupby("fold")["category"].nunique() == 2).all()


def test_what_systems_leave_in_folders_is_passed_over(tmp_path):
    source = write_folder(tmp_path)
    expected = read(source)
    for name in (".DS_Store", "Thumbs.db", "dog/.DS_Store", "dog/Thumbs.db", "rain/desktop.ini", "rain/._1.wav"):
        (source / name).write_bytes(b"no sound")
    (source / ".git").mkdir()
    (source / "__MACOSX" / "dog").mkdir(parents=True)
    assert read(source).equals(expected)


def test_formats_and_rates_may_be_mixed(tmp_path):
    files = [f"{name}/{i}.{ending}" for name in "ab" for i, ending in enumerate(("wav", "flac", "ogg", "mp3"))]
    source = write_clips(tmp_path / "sounds", files, frames=4000)
    write_sound(source / "a" / "stereo.wav", np.stack([noise(4000, 50), noise(4000, 51)], axis=1), 44100)
    prepare("mine", RATE, source=source, data_dir=tmp_path)
    assert len(load_clips("mine", RATE, data_dir=tmp_path)) == 9
    found = formats("mine", source)
    assert found["recordings"].sum() == 9 and {"WAV", "FLAC", "OGG", "MP3"} <= set(found["container"])


ODD = ["crème brûlée", "犬", "a, \"b\" 'c'", "NA", "7", "007", "accuracy", "=1+1", "p_dog", "-"]


def test_classes_may_be_called_anything(tmp_path):
    prepare("mine", RATE, source=write_folder(tmp_path / "sounds", ODD, 2), data_dir=tmp_path)
    clips = load_clips("mine", RATE, data_dir=tmp_path)
    assert clips.classes == tuple(sorted(ODD)) and set(clips.table["category"]) == set(ODD)


def test_an_accent_counts_the_same_however_it_is_written(tmp_path):
    """macOS writes the accent after its letter."""
    write_clips(tmp_path, ["cafe\u0301/1.wav", "cafe\u0301/2.wav", "x/1.wav", "x/2.wav"])
    assert set(read(tmp_path)["category"]) == {"caf\u00e9", "x"}


def test_hundreds_of_classes_are_no_problem(tmp_path):
    table = read(write_folder(tmp_path, [f"class {i}" for i in range(300)], 2))
    assert table["category"].nunique() == 300 and (table.groupby("category")["fold"].nunique() == 2).all()


def test_a_refused_set_leaves_no_threads_behind(tmp_path):
    """A thread pool that waits for the garbage collector may be ended by one of its own threads, and never is."""
    source = write_folder(tmp_path / "sounds", clips=3)
    shutil.copy(source / "dog" / "0.wav", source / "dog" / "copy.wav")
    before = set(threading.enumerate())
    with pytest.raises(ValueError, match="are the same sound") as kept:  # with the frames in which it was raised
        prepare("refused", RATE, source=source, data_dir=tmp_path)
    left = [thread.name for thread in set(threading.enumerate()) - before if thread.name != "tqdm_monitor"]
    assert kept.tb is not None and left == []


BAD_FOLDERS = {
    "empty": (lambda root: shutil.rmtree(root) or root.mkdir(), "it holds no recordings"),
    "one class": (lambda root: shutil.rmtree(root / "rain"), "of one class, dog: a network needs two"),
    "an empty class": (lambda root: (root / "snow").mkdir(), "snow is empty"),
    "one clip": (lambda root: write_clips(root, ["snow/1.wav"]), r"class\(es\) snow have one recording each"),
    "text": (lambda root: (root / "dog" / "notes.txt").write_text("woof"), r"notes\.txt cannot be decoded"),
    "no sound": (lambda root: (root / "dog" / "0.wav").write_bytes(b""), r"0\.wav cannot be decoded"),
    "nested": (lambda root: (root / "dog" / "tuesday").mkdir(), "tuesday is a folder inside a class"),
    "beside": (lambda root: write_clips(root, ["3.wav"]), r"3\.wav lies beside the folders"),
    "table": (lambda root: write_csv(root / "list.csv", rows_of(root)), r"list\.csv lies beside .*is the source"),
    "case": (lambda root: write_folder(root, ["Dog"], 2), "classes Dog and dog differ only in capitals"),
    "long": (
        lambda root: write_clips(root, ["dog/l.wav"], round(SECONDS * RATE) + 800),
        r"dog/l\.wav lasts 30\.1 s, and a clip at most 30: cut it",
    ),
    "silent": (
        lambda root: write_sound(root / "dog" / "s.wav", np.zeros(80), RATE),
        r"dog/s\.wav is silent",
    ),
    "copy": (lambda root: shutil.copy(root / "dog" / "0.wav", root / "dog" / "copy.wav"), "dog/.* are the same sound"),
    "copy in another class": (
        lambda root: shutil.copy(root / "dog" / "0.wav", root / "rain" / "copy.wav"),
        r"(dog/0|rain/copy)\.wav and (dog/0|rain/copy)\.wav are the same sound",
    ),
    "copy in another format, with silence": (
        lambda root: write_sound(root / "rain" / "c.flac", np.pad(noise(80), 9), RATE),
        r"(dog/0\.wav|rain/c\.flac) and (dog/0\.wav|rain/c\.flac) are the same sound",
    ),
    "line break": (lambda root: (root / "dog" / "0.wav").rename(root / "dog" / "a\nb.wav"), "with line breaks"),
    "no UTF-8": (
        lambda root: os.rename(os.fsencode(root / "dog" / "0.wav"), os.fsencode(root / "dog") + b"/\xff.wav"),
        "bytes that are no UTF-8",
    ),
    "broken link": (lambda root: (root / "dog" / "l.wav").symlink_to(root / "nowhere"), r"l\.wav is no regular file"),
    "loop": (lambda root: (root / "dog" / "l").symlink_to(root), "l is a folder inside a class"),
    "pipe": (lambda root: os.mkfifo(root / "dog" / "p.wav"), r"p\.wav is no regular file"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_folders_that_cannot_be_a_set(tmp_path, case):
    source = write_folder(tmp_path / "sounds", clips=3)
    spoil, message = BAD_FOLDERS[case]
    spoil(source)
    refused(source, message, tmp_path)


def test_a_linked_recording_is_read(tmp_path):
    source = write_folder(tmp_path / "sounds", clips=3)
    (source / "dog" / "link.wav").symlink_to(write_sound(tmp_path / "elsewhere.wav", noise(80, 77), RATE))
    assert len(read(source)) == 7


# A table ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_table_as_spreadsheets_write_it(tmp_path, separator, encoding):
    rows = rows_of(write_folder(tmp_path, ["dög", "rain"]), note=["loud"] * 20)
    path = write_csv(tmp_path / "list.csv", rows, separator, encoding)
    path.write_text(path.read_text(encoding) + separator * 2 + "\n", encoding=encoding)  # an empty row at the end
    assert set(read(path)["category"]) == {"dög", "rain"} and len(read(path)) == 20


def test_recordings_stay_together_even_if_they_hold_two_classes(tmp_path):
    rows = rows_of(write_folder(tmp_path), recording=[f"day {i % 7}" for i in range(20)])
    table = read(write_csv(tmp_path / "list.csv", rows))
    assert (table.groupby("recording")["fold"].nunique() == 1).all() and table["fold"].nunique() == 5
    assert (table.groupby("recording")["category"].nunique() == 2).all()
    table = read(write_csv(tmp_path / "list.csv", rows_of(tmp_path, recording=[f"{i // 2:03d}" for i in range(20)])))
    assert (table.groupby("recording")["fold"].nunique() == 1).all() and table["recording"].dtype == "int64"


@pytest.mark.parametrize("written", [lambda fold: fold, lambda fold: f"{fold}.0", lambda fold: f" {fold} "])
def test_a_tables_own_folds_are_kept(tmp_path, written):
    folds = [[7, 2, 9][i % 3] for i in range(20)]
    source = write_csv(tmp_path / "list.csv", rows_of(write_folder(tmp_path), fold=[written(f) for f in folds]))
    prepare("mine", RATE, source=source, data_dir=tmp_path)
    table = load_clips("mine", RATE, data_dir=tmp_path).table
    files = [row["file"] for row in rows_of(tmp_path) if "mine" not in row["file"]]
    assert dict(zip(table["file"], table["fold"], strict=True)) == dict(zip(files, folds, strict=True))


def changed_row(i, **changes):
    """Changes one row of a table that is otherwise right."""
    return lambda rows: [{**row, **(changes if n == i else {})} for n, row in enumerate(rows)]


BAD_TABLES = {
    "no class": (lambda rows: [{"file": row["file"]} for row in rows], "has the columns file; expected a CSV"),
    "other names": (lambda rows: [{"path": 1, "label": 2}], "has the columns path, label; expected"),
    "folds": (
        lambda rows: [{"file": row["file"], "class": "a", "folds": 1} for row in rows],
        "has a column 'folds': call it fold",
    ),
    "Recording": (
        lambda rows: [{"file": row["file"], "class": "a", "Recording": 1} for row in rows],
        "has a column 'Recording': call it recording",
    ),
    "a file without a class": (changed_row(0, **{"class": ""}), r"1 row\(s\) without a category"),
    "a class without a file": (changed_row(0, file=" "), r"1 row\(s\) without a file"),
    "a missing fold": (changed_row(3, fold=""), r"1 row\(s\) without a fold.*dog/3"),
    "fold 0": (changed_row(3, fold=0), r"1 row\(s\) whose fold is no whole number"),
    "fold 1.5": (changed_row(3, fold=1.5), r"1 row\(s\) whose fold is no whole number"),
    "fold a": (changed_row(3, fold="a"), r"1 row\(s\) whose fold is no whole number"),
    "a missing recording": (changed_row(3, recording=""), r"1 row\(s\) without a recording"),
    "a recording in two folds": (changed_row(2, recording="r1"), r"recording\(s\) r1 are in several folds"),
    "all in one fold": (
        lambda rows: [{**row, "fold": 1} for row in rows],
        r"class\(es\) dog, rain .* in one fold alone",
    ),
    "a class in one fold": (
        lambda rows: [{**row, "fold": 1 if row["class"] == "rain" else row["fold"]} for row in rows],
        r"class\(es\) rain have clips in one fold alone",
    ),
    "absolute": (changed_row(0, file="/etc/passwd"), "whose file is not given below"),
    "drive": (changed_row(0, file="C:/sound.wav"), "whose file is not given below"),
    "above": (changed_row(0, file="dog/../../x.wav"), "whose file is not given below"),
    "backslash": (changed_row(0, file="dog\\0.wav"), "whose file is not given below .* with / between"),
    "twice": (changed_row(0, file="./dog//1.wav"), r"2? ?row\(s\) whose file another row has too"),
    "one recording": (
        lambda rows: [{**row, "recording": row["class"], "fold": 1} for row in rows],
        "one recording each",
    ),
    "a folder": (changed_row(0, file="dog"), "dog is no regular file"),
    "no rows": (lambda rows: [{"file": "", "class": ""}], "it holds no recordings"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_tables_that_cannot_be_a_set(tmp_path, case):
    change, message = BAD_TABLES[case]
    root = write_folder(tmp_path / "sounds", clips=4)
    rows = rows_of(root, recording=[f"r{i}" for i in range(8)], fold=[1 + i % 2 for i in range(8)])
    refused(write_csv(root / "list.csv", change(rows)), message, tmp_path)


def test_a_table_of_files_that_are_not_there(tmp_path):
    rows = [
        *rows_of(write_folder(tmp_path / "s")),
        {"file": "dog/x.wav", "class": "dog"},
        {"file": "a" * 999, "class": "a"},
    ]
    source = write_csv(tmp_path / "s" / "list.csv", [*rows, {"file": "b.wav", "class": "a"}])
    refused(source, r"lacks 3 file\(s\)", tmp_path, FileNotFoundError)


def test_what_is_no_table(tmp_path):
    for content in (b"PK\x03\x04 an archive \xff", "file;class\ndög;1".encode("utf-16"), b'file,class\n"a,b', b""):
        (tmp_path / "list.csv").write_bytes(content)
        refused(tmp_path / "list.csv", r"list\.csv.* expected a CSV file \(UTF-8\)", tmp_path)


# Names -----------------------------------------------------------------------------------------------------------


def test_a_mistyped_name_is_explained(tmp_path):
    everything = "'esc01': choose one of synthetic, esc10, esc50, urbansound8k.*your own.*source"
    for call in (
        lambda: prepare("esc01", RATE, data_dir=tmp_path),
        lambda: load_clips("esc01", RATE, data_dir=tmp_path),
        lambda: recipe("m5", "esc01", data_dir=tmp_path),
    ):
        with pytest.raises(ValueError, match=everything):
            call()
    settings = recipe("m5", "esc10").to_dict()
    with pytest.raises(ValueError, match="'esc01', which is none of synthetic.* let recipe make the settings"):
        TrainConfig.from_dict({**settings, "dataset": "esc01"})
    with pytest.raises(ValueError, match="classes and source_sha256 are for sets of your own"):
        TrainConfig.from_dict({**settings, "classes": ["a", "b"]})
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_set_of_your_own_says_so(tmp_path):
    folder = prepare("mine", RATE, source=write_folder(tmp_path / "sounds"), data_dir=tmp_path)
    about = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    for change in ({"classes": ["dog"]}, {"classes": "dog"}, {"folds": {"x": 1}}, {"folds": [1]}, {"dataset": "esc10"}):
        (folder / "dataset.json").write_text(json.dumps({**about, **change}), encoding="utf-8")
        with pytest.raises(ValueError, match=r"dataset\.json is damaged.*prepare the set again"):
            load_clips("mine", RATE, data_dir=tmp_path)


# From sounds to results ------------------------------------------------------------------------------------------

CLASSES = ("7", "NA")  # pandas would take them for a number and for missing
QUICK = dict(crop_samples=400, epochs=8, batch_size=2, crops=2, eval_every=8, pad=False)


def write_sounds(root: Path) -> Path:
    """Ten tones and ten noises, of 0.1 to 0.19 s."""
    for i in range(10):
        write_sound(root / "7" / f"{i}.wav", tone(300 + 20 * i, RATE, 0.1 + 0.01 * i), RATE)
        write_sound(root / "NA" / f"{i}.wav", noise(800 + 80 * i, i), RATE)
    return root


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a prepared set, its source, and a cross-validation of it."""
    folder = tmp_path_factory.mktemp("own")
    prepare("mine", RATE, source=write_sounds(folder / "sounds"), data_dir=folder)
    return folder


@pytest.fixture(scope="module")
def found(here):
    config = recipe("m3", "mine", data_dir=here, **QUICK)
    return cross_validate(config, folds=[1, 2], validation=True, data_dir=here, save_dir=here / "runs", device="cpu")


def fit(here, tmp_path, **changes):
    config = recipe("m3", "mine", data_dir=here, **{**QUICK, **changes})
    return train(config, data_dir=here, save_dir=tmp_path / "runs", device="cpu", progress=False)


def test_a_recipe_knows_the_classes_and_the_folds(here):
    config = recipe("m3", "mine", data_dir=here)
    assert config.class_names == CLASSES and (config.train_folds, config.eval_folds) == ((1, 2, 3, 4), (5,))
    own = {"dataset", "classes", "source_sha256"}
    esc10 = recipe("m3", "esc10").to_dict()
    assert {key for key, value in config.to_dict().items() if value != esc10[key]} == own
    assert recipe("m3", "mine", data_dir=here, kind="fast").one_cycle > 0
    for folds in ([0], [1.0], [True], [1, 1], [1001]):
        with pytest.raises(ValueError, match="eval_folds is .*mine's folds which are whole numbers from 1, each once"):
            recipe("m3", "mine", data_dir=here, eval_folds=folds)
    with pytest.raises(
        ValueError, match=r"mine at 8000 Hz has no clips of fold\(s\) 6, only of fold\(s\) 1, 2, 3, 4, 5"
    ):
        train(recipe("m3", "mine", data_dir=here, eval_folds=[6]), data_dir=here, save_dir=here / "none", device="cpu")


def test_tones_and_noises_are_told_apart_and_the_run_needs_no_data(here, found, tmp_path):
    assert found.summary()["pooled"] > 0.7 and found.runs["clips"].tolist() == [4, 4]
    assert list(found.confusion().index) == list(CLASSES)
    run = load_run(found.path / "fold-1-seed-0")
    write_sound(tmp_path / "new.wav", noise(13230, 99), 44100)
    away = shutil.copytree(run.path, tmp_path / "away")
    assert predict(away, tmp_path / "new.wav", device="cpu").top["class"][0] == "NA"
    with pytest.raises(ValueError, match="unknown dataset 'mine'"):
        evaluate(away, data_dir=tmp_path, device="cpu")


def test_it_is_audited_tested_and_calibrated(here, found, tmp_path):
    findings = audit(load_clips("mine", RATE, data_dir=here)).set_index("finding")["count"]
    assert findings["recordings in several folds"] == findings["duplicates across folds"] == 0
    assert findings["clips shorter than 0.19 s"] == 18
    run = load_run(found.path / "fold-2-seed-0")
    result = evaluate(run, data_dir=here, device="cpu")
    assert result.accuracy == found.runs["accuracy"][1] and set(result.predictions["true"]) == set(CLASSES)
    temperature = calibrate(run, result.predictions, fitted_on="the test fold, only here")
    assert load_run(run.path).temperature() == pytest.approx(temperature)


def test_a_record_needs_no_data_and_breaks_no_table(found, monkeypatch, tmp_path):
    for file in records.RESULTS.iterdir():
        if file.name.startswith(("published", "m3-", "m5-esc10")):
            shutil.copy(file, tmp_path)
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    monkeypatch.setenv("ESC_DATA", str(tmp_path / "nowhere"))
    file = save_record(found)
    again = load_record(file.stem)
    assert again.summary().to_dict() == pytest.approx(found.summary().to_dict(), nan_ok=True)
    assert again.per_class().equals(found.per_class()) and set(again.predictions["true"]) == set(CLASSES)
    row = measured_results("m3").set_index("data set").loc["mine"]
    assert row["accuracy"] == f"{100 * found.summary()['mean of runs']:.1f}" and row["published"] == ""
    assert "crop_samples 400" in row["difference from the recipe"] and "folds" not in row["difference from the recipe"]
    assert len(records.overview()) > 5 and records.speed_board() is not None


def test_odd_class_names_go_through_everything(tmp_path):
    prepare("odd", RATE, source=write_folder(tmp_path / "sounds", ODD, 2), data_dir=tmp_path)
    config = recipe("m3", "odd", data_dir=tmp_path, **{**QUICK, "epochs": 1})
    found = cross_validate(config, data_dir=tmp_path, save_dir=tmp_path / "runs", device="cpu")
    assert len(found.predictions) == 20 and list(found.per_class().index) == sorted(ODD)
    assert found.per_class()["clips"].tolist() == [2] * 10


def test_a_run_knows_which_recordings_it_was_trained_on(tmp_path):
    """Other recordings get other folds: what was tested on then may have been trained on before."""
    source = write_sounds(tmp_path / "sounds")
    prepare("mine", RATE, source=source, data_dir=tmp_path)
    run = fit(tmp_path, tmp_path)
    write_sound(source / "7" / "new.wav", tone(333, RATE, 0.1), RATE)
    prepare("mine", RATE, source=source, data_dir=tmp_path)
    with pytest.raises(ValueError, match="mine as it is prepared now has other recordings or folds"):
        evaluate(run, data_dir=tmp_path, device="cpu")
    with pytest.raises(ValueError, match="other recordings or folds of mine, perhaps on clips that are tested on here"):
        fit(tmp_path, tmp_path, start_from=str(run.path))
    assert fit(tmp_path, tmp_path, start_from=str(run.path), eval_folds=[], epochs=1).finished, "nothing is tested"


def test_fine_tuning_starts_from_a_run_on_another_set_in_every_fold(here, tmp_path):
    write_folder(tmp_path / "others", ["a", "b", "c"])
    prepare("others", RATE, source=tmp_path / "others", data_dir=tmp_path)
    config = recipe("m3", "others", data_dir=tmp_path, **{**QUICK, "eval_folds": []})
    first = train(config, data_dir=tmp_path, save_dir=tmp_path / "runs", device="cpu", progress=False)
    tuned = recipe("m3", "mine", data_dir=here, start_from=str(first.path), freeze_epoch=1, **{**QUICK, "epochs": 1})
    found = cross_validate(tuned, folds=[1, 3], data_dir=here, save_dir=tmp_path / "runs", device="cpu")
    before = first.model().state_dict()
    for fold in (1, 3):
        after = load_run(found.path / f"fold-{fold}-seed-0").model().state_dict()
        assert after["fc.weight"].shape == (2, 256) and before["fc.weight"].shape == (3, 256)
        assert all((after[name] == value).all() for name, value in before.items() if not name.startswith("fc."))
    file = save_record(found, results_dir=tmp_path / "results")
    assert json.loads(file.read_text(encoding="utf-8"))["config"]["start_from"] == first.path.name
    with pytest.raises(ValueError, match="its sample_rate is 8000, not 16000"):
        settings = {**tuned.to_dict(), "sample_rate": 16000}
        prepare("mine", 16000, source=here / "sounds", data_dir=here)
        train(TrainConfig.from_dict(settings), data_dir=here, save_dir=tmp_path / "runs", device="cpu")
