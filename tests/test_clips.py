"""Opening a prepared set: the samples of each clip, the folds asked for, and the messages for a damaged one."""

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
from esc_lib.data.clips import COLUMNS

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


def test_missing_fold_is_named_with_the_existing_ones(data):
    for folds in ([1, 6, 7], (7, 6)):
        with pytest.raises(ValueError, match=r"no clips of fold\(s\) (6, 7|7, 6), only of fold\(s\) 1, 2, 3, 4, 5:"):
            load_clips("esc10", 8000, folds=folds, data_dir=data)
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
