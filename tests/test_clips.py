"""Opening a prepared set: the samples of each clip, the folds asked for, and the messages for a damaged one."""

import io
import json
import shutil
import warnings
from operator import methodcaller
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sound_files import ESC10_ORDER, ESC50_NAMES, SHARED_DATA, esc_noises, make_clips, noise, write_esc

from esc_lib import load_clips, prepare
from esc_lib.data.clips import COLUMNS, trim_silence

SOUNDS = {f"audio/{name}": samples for name, samples in esc_noises().items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder with 50 clips of noise, every class in every fold, at 8 kHz."""
    folder = tmp_path_factory.mktemp("clips")
    prepare("esc10", 8000, source=write_esc(folder / "source", esc_noises()), data_dir=folder / "data", subset=True)
    return folder / "data"


@pytest.fixture
def copied(data, tmp_path):
    """A copy of the prepared set that a test may damage."""
    return Path(shutil.copytree(data / "esc10-8000", tmp_path / "esc10-8000"))


def same_memory(a, b):
    return a.samples.untyped_storage().data_ptr() == b.samples.untyped_storage().data_ptr()


# What is opened --------------------------------------------------------------------------------------------------


def test_targets_and_table_belong_to_the_clips(data):
    clips = load_clips("esc10", 8000, data_dir=data)
    assert clips.samples.dtype == clips.waveform(0).dtype == torch.int16
    assert clips.offsets.dtype == clips.frames.dtype == clips.targets.dtype == torch.int64
    for i, row in enumerate(clips.table.itertuples()):
        number = int(Path(row.file).stem.split("-")[3])
        assert clips.targets[i] == row.target == ESC10_ORDER.index(number)
        assert clips.classes[clips.targets[i]] == row.category == ESC50_NAMES[number]
        assert (clips.offsets[i], clips.frames[i]) == (row.offset, row.frames)


def test_description_of_the_set(data):
    clips = load_clips("esc10", 8000, data_dir=data)
    assert (clips.dataset, clips.sample_rate, clips.subset) == ("esc10", 8000, True)
    assert clips.classes == tuple(ESC50_NAMES[number] for number in ESC10_ORDER)
    metadata = json.loads((data / "esc10-8000/dataset.json").read_text(encoding="utf-8"))
    assert clips.source_sha256 == metadata["origin"]["sha256"]


# The file is not read before it is needed, and never changed ------------------------------------------------------


def test_samples_are_the_mapped_file(data):
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("this system does not list its memory maps")
    clips = load_clips("esc10", 8000, folds=[2], data_dir=data)
    ranges = [line.split()[0].split("-") for line in maps.read_text().splitlines() if "esc10-8000/clips.npy" in line]
    first = clips.samples.data_ptr()
    last = first + 2 * len(clips.samples)
    assert any(int(begin, 16) <= first and last <= int(end, 16) for begin, end in ranges)


def test_writing_to_samples_leaves_the_file_alone(data):
    path = data / "esc10-8000/clips.npy"
    before = path.read_bytes()
    clips = load_clips("esc10", 8000, data_dir=data)
    clips.samples.zero_()
    del clips
    assert path.read_bytes() == before
    assert load_clips("esc10", 8000, data_dir=data).samples.any()


def test_views_share_the_samples(data):
    clips = load_clips("esc10", 8000, data_dir=data)
    part = clips.in_folds([2, 3])
    some = clips.select(np.array([4, 1]))
    assert same_memory(clips, part) and same_memory(clips, some) and same_memory(clips, clips.to("cpu"))
    assert clips.waveform(3).data_ptr() == clips.samples.data_ptr() + 2 * int(clips.offsets[3])


# Folds and choices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folds", [[1], [3, 5], (5, 3), [1, 2, 3, 4, 5], None])
def test_folds(data, folds):
    clips, chosen = load_clips("esc10", 8000, folds=folds, data_dir=data), list(folds or range(1, 6))
    assert set(clips.table["fold"]) == set(chosen)
    assert len(clips) == 10 * len(chosen) == len(clips.offsets) == len(clips.frames) == len(clips.targets)
    assert all(np.array_equal(clips.waveform(i).numpy(), SOUNDS[f]) for i, f in enumerate(clips.table["file"]))
    later = load_clips("esc10", 8000, data_dir=data).in_folds(chosen)
    pd.testing.assert_frame_equal(later.table, clips.table)
    assert torch.equal(later.offsets, clips.offsets) and torch.equal(later.targets, clips.targets)


@pytest.mark.parametrize("folds", [[1, 6], (1, 1), [1.0], "12", 1, True])
def test_folds_that_the_set_does_not_have(data, folds):
    clips = load_clips("esc10", 8000, data_dir=data)
    for choose in (clips.in_folds, lambda folds: load_clips("esc10", 8000, folds=folds, data_dir=data)):
        with pytest.raises(ValueError, match=r"folds is .*: expected .* of esc10's folds \[1, 2, 3, 4, 5\], each once"):
            choose(folds)
    assert len(clips.in_folds([])) == 0  # a network that is tested on none
    with pytest.raises(ValueError, match=r"folds is \[\]"):
        load_clips("esc10", 8000, folds=[], data_dir=data)


@pytest.mark.parametrize("device", ["gpu", "auto", "", "cuda:99", "cpu:x", None, 1.5, ["cpu"]])
def test_device_that_is_none_here(data, device):
    with pytest.raises(ValueError, match="device is") as error:
        load_clips("esc10", 8000, data_dir=data, device=device)
    assert repr(device) in str(error.value)


def test_arguments_of_another_kind(data):
    clips = load_clips("esc10", 8000, data_dir=data)
    for call, message in (
        (lambda: load_clips(["esc10"], 8000, data_dir=data), "unknown dataset"),
        (lambda: load_clips("esc10", "8000", data_dir=data), "sample_rate"),
        (lambda: load_clips("esc10", 8000, data_dir=3), "data_dir"),
        (lambda: clips.select([1, 2]), "rows"),
        (lambda: trim_silence("clips"), "clips"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_missing_fold_is_named_with_the_existing_ones(data):
    few = load_clips("esc10", 8000, folds=[2, 4], data_dir=data)
    with pytest.raises(ValueError, match=r"no clips of fold\(s\) 3, only of fold\(s\) 2, 4:"):
        few.in_folds([2, 3])


def test_folds_of_a_subset_have_to_be_named(tmp_path):
    prepare("esc10", 8000, source=write_esc(tmp_path / "part", esc_noises(range(1, 3))), data_dir=tmp_path, subset=True)
    with pytest.raises(ValueError, match=r"fold\(s\) 3, 4, 5, only of fold\(s\) 1, 2: pass only these"):
        load_clips("esc10", 8000, data_dir=tmp_path)
    assert len(load_clips("esc10", 8000, folds=[1, 2], data_dir=tmp_path)) == 20


def test_select_by_number_and_by_mask():
    clips = make_clips([noise(10 + i, i) for i in range(6)])
    by_number = clips.select(np.array([4, 0, 4]))
    assert by_number.table["file"].tolist() == ["audio/4.wav", "audio/0.wav", "audio/4.wav"]
    assert by_number.targets.tolist() == [4, 0, 4] and by_number.frames.tolist() == [14, 10, 14]
    assert np.array_equal(by_number.waveform(0).numpy(), noise(14, 4))
    by_mask = clips.select(np.array([False, True, False, False, False, True]))
    assert by_mask.table["file"].tolist() == ["audio/1.wav", "audio/5.wav"]
    assert by_mask.table.index.tolist() == [0, 1] and by_mask.targets.tolist() == [1, 5]
    assert np.array_equal(by_mask.waveform(1).numpy(), noise(15, 5))
    again = by_mask.select(np.array([1]))
    assert np.array_equal(again.waveform(0).numpy(), noise(15, 5)) and len(again) == 1
    assert len(clips) == 6 and clips.table["file"].tolist() == [f"audio/{i}.wav" for i in range(6)]


def test_choosing_folds_warns_of_nothing(data):
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_clips("esc10", 8000, folds=[1], data_dir=data)
    finally:
        torch.set_warn_always(always)


# Errors ----------------------------------------------------------------------------------------------------------


def test_set_that_was_not_prepared(data, copied, tmp_path):
    (copied / "dataset.json").unlink()  # which is written last
    for rate, folder in ((16000, data), (8000, tmp_path / "empty"), (8000, copied.parent)):
        with pytest.raises(FileNotFoundError, match=rf'esc10 .* {rate} Hz .*esc_lib\.prepare\("esc10", {rate}\)') as e:
            load_clips("esc10", rate, data_dir=folder)
        assert str(folder) in str(e.value)


def test_unknown_set_and_rate(data):
    with pytest.raises(ValueError, match="unknown dataset 'esc'"):
        load_clips("esc", 8000, data_dir=data)
    with pytest.raises(ValueError, match="Hz"):
        load_clips("esc10", 8, data_dir=data)


def without_column(name):
    return lambda path: pd.read_csv(path).drop(columns=name).to_csv(path, index=False)


def shortened(number):
    return lambda path: path.write_bytes(path.read_bytes()[:number])


def replaced(content):
    return lambda path: path.write_bytes(content)


def changed_json(change):
    def damage(path):
        metadata = json.loads(path.read_text(encoding="utf-8"))
        change(metadata)
        path.write_text(json.dumps(metadata), encoding="utf-8")

    return damage


def without_last_line(path):
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def with_one_sample_more(path):
    np.save(path, np.append(np.load(path), np.int16(1)))


def saved(change):
    """Writes clips.npy with its samples changed, in numpy's own format."""
    return lambda path: path.write_bytes(npy(change(np.load(path))))


def npy(array, save=np.save):
    file = io.BytesIO()
    save(file, array)
    return file.getvalue()


def cell(column, value, row=1):
    """Changes a cell, or all of a column if the value is a function of it; the column may become text."""

    def damage(path):
        table = pd.read_csv(path, dtype=str)
        if callable(value):
            table[column] = value(table[column])
        else:
            table.loc[row, column] = value
        table.to_csv(path, index=False)

    return damage


def swapped(path):
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[3], lines[2], *lines[4:]]), encoding="utf-8")


def empty_clip(path):
    """Gives all samples of clip 1 to clip 2."""
    table = pd.read_csv(path)
    table.loc[2, ["offset", "frames"]] = table.loc[1, "offset"], table.loc[1:2, "frames"].sum()
    table.loc[1, "frames"] = 0
    table.to_csv(path, index=False)


def too_long_a_clip(path):
    """One sample more than 5 s, in clips.npy as well."""
    table, samples = pd.read_csv(path), path.with_name("clips.npy")
    more = 40_001 - table["frames"].iloc[-1]
    table.loc[len(table) - 1, "frames"] += more
    table.to_csv(path, index=False)
    saved(lambda x: np.append(x, np.zeros(more, np.int16)))(samples)


# What no longer fits, by file and damage. Row 1 has fold 1, target 1 ("rain"), offset 40 and 41 samples at first.
CONTRADICTIONS = {
    **{f"samples as {kind}": ("clips.npy", saved(lambda x, k=kind: x.astype(k))) for kind in ("i4", "f2", "u2", ">i2")},
    "samples in two dimensions": ("clips.npy", saved(lambda x: x[:, None])),
    "samples in a zip": ("clips.npy", lambda path: path.write_bytes(npy(np.load(path), np.savez))),
    "samples that are objects": ("clips.npy", saved(lambda x: np.array([{}], dtype=object))),
    "deep header": ("clips.npy", replaced(b"\x93NUMPY\x01\x00\xe8\x1f" + b"(" * 8168)),
    "negative length": ("clips.npy", lambda path: path.write_bytes(path.read_bytes().replace(b"(", b"(-", 1))),
    **{f"fold {x}": ("clips.csv", cell("fold", x)) for x in ("0", "6", "1.0", "one", "", "-1", "1" * 30)},
    **{f"target {x}": ("clips.csv", cell("target", x)) for x in ("2", "10", "-1", "-9", "1.0", "", "dog", "9" * 18)},
    "targets": ("clips.csv", cell("target", lambda column: column[::-1].to_numpy())),
    **{f"category {x}": ("clips.csv", cell("category", x)) for x in ("dog", "wolf", "", "1")},
    "categories are numbers": ("clips.csv", cell("category", lambda column: "1")),
    **{f"offset {x}": ("clips.csv", cell("offset", x)) for x in ("0", "39", "41", "-40", "40.0", "", "9" * 18)},
    **{f"frames {x}": ("clips.csv", cell("frames", x)) for x in ("0", "-1", "40", "42", "41.5", "", "1e3", "9" * 18)},
    "target 10 of a category that fits": ("clips.csv", cell("target", "10", row=9)),
    "no samples": ("clips.csv", empty_clip),
    "too long a clip": ("clips.csv", too_long_a_clip),
    "order": ("clips.csv", swapped),
    "file twice": ("clips.csv", cell("file", lambda column: column.where(column.index != 1, column[0]))),
    **{f"no {column}": ("clips.csv", cell(column, "")) for column in ("file", "recording")},
    "a cell too many": ("clips.csv", lambda path: path.write_bytes(path.read_bytes() + b",")),
    **{
        f"{key} is {value!r:.20}": ("dataset.json", changed_json(methodcaller("update", {key: value})))
        for key, values in {
            "dataset": ("esc50", None, ["esc10"]),
            "sample_rate": (16000, "8000", None),
            "classes": (["dog"], list(range(10)), "dog", None, {}),
            "clips": (51, 0, -1, "50", 50.0, True, None, [50], 1e400),
            "subset": (1, "true", None),
            "origin": ("a folder", {}, {"sha256": 5}, None, []),
        }.items()
        for value in values
    },
    "deeply nested": ("dataset.json", replaced(b"[" * 100_000)),
    "nested in origin": ("dataset.json", replaced(b'{"origin":' * 100_000)),
}


@pytest.mark.parametrize(("name", "damage"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_what_contradicts_itself_is_named_with_what_to_do(copied, name, damage):
    damage(copied / name)
    with pytest.raises(ValueError) as error:
        load_clips("esc10", 8000, data_dir=copied.parent)
    assert type(error.value) is ValueError and name in str(error.value)
    assert f"delete {copied} and prepare the set again" in str(error.value)


@pytest.mark.parametrize(("name", "rate"), [("esc10", 16000), ("synthetic", 8000), ("esc50", 8000)])
def test_set_that_was_renamed(copied, name, rate):
    copied.rename(copied.parent / f"{name}-{rate}")
    with pytest.raises(ValueError, match=r"dataset\.json is damaged, or another set's: (dataset|sample_rate) is"):
        load_clips(name, rate, data_dir=copied.parent)


DAMAGE = [
    ("clips.npy", Path.unlink),
    *(("clips.npy", shortened(number)) for number in (0, 5, 60, 1000, -1)),
    ("clips.npy", replaced(b"no numbers " * 100)),
    ("clips.npy", with_one_sample_more),
    ("clips.csv", Path.unlink),
    *(("clips.csv", shortened(number)) for number in (0, 800, -40)),
    *(("clips.csv", replaced(content)) for content in (b"\xff\xfe\x00\x01" * 100, b'file,fold\n"no end')),
    ("clips.csv", without_last_line),
    *(("clips.csv", without_column(name)) for name in COLUMNS),
    ("dataset.json", changed_json(lambda metadata: metadata.update(clips=49))),
    ("dataset.json", shortened(100)),
    *(("dataset.json", replaced(content)) for content in (b"", b"\xff\xfe\x00\x01", b"[]", b"17")),
    *(("dataset.json", changed_json(methodcaller("pop", key))) for key in ("clips", "classes", "subset", "origin")),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE, ids=[f"{name} {i}" for i, (name, _) in enumerate(DAMAGE)])
def test_damaged_file_is_named_with_what_to_do(copied, name, damage):
    damage(copied / name)
    with pytest.raises(ValueError) as error:
        load_clips("esc10", 8000, data_dir=copied.parent)
    assert name in str(error.value)
    assert f"delete {copied} and prepare the set again" in str(error.value)


def test_set_with_the_former_column_and_key_names_is_read_and_kept(copied):
    new = load_clips("esc10", 8000, data_dir=copied.parent)
    table, metadata = copied / "clips.csv", copied / "dataset.json"
    table.write_text(table.read_text(encoding="utf-8").replace("recording", "source", 1), encoding="utf-8")
    changed_json(lambda metadata: metadata.update(source=metadata.pop("origin")))(metadata)
    before = metadata.read_bytes()
    old = load_clips("esc10", 8000, data_dir=copied.parent)
    pd.testing.assert_frame_equal(old.table, new.table)
    assert old.source_sha256 == new.source_sha256 and len(new.source_sha256) == 64
    source = write_esc(copied.parent / "source", esc_noises())
    for path in (None, source):
        prepare("esc10", 8000, source=path, data_dir=copied.parent, subset=True)
    assert metadata.read_bytes() == before


# Real recordings -------------------------------------------------------------------------------------------------


def test_real_esc10_clips(tmp_path):
    """Two classes of fold 1, 16 clips: the files as they were published."""
    source = SHARED_DATA / "esc10"
    if not (source / "meta/esc50.csv").is_file():
        pytest.skip("the real recordings of esc10 are not in shared/data beside the project")
    table = pd.read_csv(source / "meta/esc50.csv").query("fold == 1 and target in (0, 38)")
    (tmp_path / "part/meta").mkdir(parents=True)
    (tmp_path / "part/audio").mkdir()
    table.to_csv(tmp_path / "part/meta/esc50.csv", index=False)
    for name in table["filename"]:
        shutil.copy(source / "audio" / name, tmp_path / "part/audio" / name)
    prepare("esc10", 16000, source=tmp_path / "part", data_dir=tmp_path, subset=True)
    clips = load_clips("esc10", 16000, folds=[1], data_dir=tmp_path)
    assert sorted(clips.targets.tolist()) == [0] * 8 + [4] * 8
    assert clips.frames.max() <= 80000 and clips.frames.min() > 16000
    assert all(clips.waveform(i).to(torch.int32).abs().max() > 1000 for i in range(len(clips)))
