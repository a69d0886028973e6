"""Preparing: recordings keep their samples, and a run that fails leaves nothing that looks finished."""

import csv
import errno
import functools
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from disk import largest_file
from sound_files import (
    ESC10_ORDER,
    ESC50_NAMES,
    break_disk,
    esc_noises,
    file_state,
    noise,
    read_prepared,
    tone,
    write_esc,
    write_esc_table,
    write_urbansound8k,
)

from esc_lib import load_clips, prepare
from esc_lib.data.datasets import DATASETS
from esc_lib.data.download import DownloadError
from esc_lib.files import WriteError

module = importlib.import_module("esc_lib.data.prepare")  # `esc_lib.prepare` is the function

COLUMNS = ["file", "fold", "target", "category", "offset", "frames", "recording"]
FULL_DISK = r"cannot be written .*: free space, check that you may write there .*choose another folder"


@pytest.fixture(scope="module")
def esc10(tmp_path_factory):
    """A set of 50 clips of noise, every class in every fold."""
    return write_esc(tmp_path_factory.mktemp("sources") / "esc10", esc_noises())


@pytest.fixture
def small_esc10(monkeypatch):
    """ESC-10 as if it had been published with two classes, two folds and one clip of each class in each fold."""
    monkeypatch.setitem(DATASETS, "esc10", replace(DATASETS["esc10"], classes=("dog", "rain"), fold_sizes={1: 2, 2: 2}))
    return DATASETS["esc10"]


def small_noises(**options):
    return esc_noises(range(1, 3), (0, 10), **options)


def prepare_part(source, data, sample_rate=8000, name="esc10"):
    return prepare(name, sample_rate, source=source, data_dir=data, subset=True)


def prepare_sounds(sounds, tmp_path, sample_rate=8000, rate=8000, subtype=None):
    """Samples of a few clips after `prepare`, by the name of the file."""
    source = write_esc(tmp_path / "source", sounds, rate, subtype)
    folder = prepare_part(source, tmp_path / "data", sample_rate)
    return {Path(file).name: samples for file, samples in read_prepared(folder).items()}


def metadata(folder):
    return json.loads((folder / "dataset.json").read_text(encoding="utf-8"))


def holds(folder, sounds):
    """Whether a prepared set has these samples, by the name of the file, and no others."""
    clips = read_prepared(folder)
    return len(clips) == len(sounds) and all(np.array_equal(clips[f"audio/{name}"], x) for name, x in sounds.items())


LOCKS = (".esc10.lock", ".esc50.lock", ".synthetic.lock", ".urbansound8k.lock")  # empty, and they stay


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.name not in LOCKS)


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in LOCKS]


def middle(samples):
    """The middle half: filters ring at the ends."""
    return samples[len(samples) // 4 : -(len(samples) // 4)].astype(float) / 32768


# Resampling ------------------------------------------------------------------------------------------------------


RECORDED = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000, 192000)


@pytest.mark.parametrize(
    ("recorded", "rate"), [*((44100, rate) for rate in (8000, 20000, 44100)), *((rate, 16000) for rate in RECORDED)]
)
def test_resampling_neither_delays_nor_inverts_a_tone(tmp_path, recorded, rate):
    samples = prepare_sounds({"1-1-A-0.wav": tone(1000, recorded)}, tmp_path, rate, recorded)["1-1-A-0.wav"]
    assert abs(len(samples) - rate) <= (recorded != 44100)
    assert np.abs(middle(samples[:rate]) - middle(tone(1000, rate) * 32768)).max() < 1e-3


@pytest.mark.parametrize("rate", [8000, 16000])
def test_resampling_removes_a_tone_above_half_the_rate(tmp_path, rate):
    (samples,) = prepare_sounds({"1-1-A-0.wav": tone(10000, 44100)}, tmp_path, rate, 44100).values()
    assert 20 * np.log10(np.std(middle(samples)) / np.std(tone(10000, 44100))) < -60


# Decoding --------------------------------------------------------------------------------------------------------

FORMATS = {  # ending and encoding: largest error, full scale at 1
    ("wav", "PCM_U8"): 0.01,
    **{("wav", encoding): 1e-4 for encoding in ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")},
    **{("wav", encoding): 0.05 for encoding in ("IMA_ADPCM", "MS_ADPCM")},
    ("wavex", "PCM_24"): 1e-4,
    **{("flac", encoding): 1e-4 for encoding in ("PCM_16", "PCM_24")},
    ("ogg", "VORBIS"): 0.05,
}


@pytest.mark.parametrize(("ending", "subtype"), FORMATS)
def test_formats(tmp_path, ending, subtype):
    (samples,) = prepare_sounds({f"1-1-A-0.{ending}": tone(1000, 16000)}, tmp_path, 16000, 16000, subtype).values()
    if subtype.endswith("ADPCM"):
        assert 16000 <= len(samples) < 20000  # ADPCM fills its last block up
    else:
        assert len(samples) == 16000
    error = middle(samples[:16000]) - middle(tone(1000, 16000) * 32768)
    assert np.abs(error).max() < FORMATS[ending, subtype]


def test_16_bit_mono_at_its_own_rate_comes_through_bit_for_bit(tmp_path):
    every = np.random.default_rng(0).permutation(np.arange(-32768, 32768)).astype(np.int16)[:32000]
    short, silent = np.array([-32768, 32767, 0, -1], "i2"), np.zeros(500, "i2")
    sounds = {"1-1-A-0.wav": every, "1-2-A-0.flac": every, "1-3-A-0.wav": short, "1-4-A-0.wav": silent}
    prepared = prepare_sounds(sounds, tmp_path)
    assert all(np.array_equal(prepared[name], sounds[name]) for name in sounds)


@pytest.mark.parametrize("channels", [2, 3])
def test_channels_are_averaged(tmp_path, channels):
    sounds = np.stack([noise(1000, seed) for seed in range(channels)], axis=1)
    left = np.clip(noise(1000), -32767, 32767)
    opposite = np.stack([left, -left], axis=1)
    mono, silence = prepare_sounds({"1-1-A-0.wav": sounds, "1-2-A-0.wav": opposite}, tmp_path).values()
    assert len(mono) == len(silence) == 1000 and not silence.any()
    assert np.abs(mono - sounds.astype(float).mean(axis=1)).max() < 0.51


def test_full_scale_does_not_wrap_round(tmp_path):
    levels = {f"1-{i}-A-0.wav": np.full(1000, level) for i, level in enumerate((1.0, -1.0, 1.5))}
    one, minus, over = prepare_sounds(levels, tmp_path / "levels", 16000, 16000, "FLOAT").values()
    assert set(one) == set(over) == {32767} and set(minus) == {-32768}
    square = {"1-4-A-0.wav": np.sign(tone(50, 44100, 0.5) + 1e-9)}  # overshoots when it is resampled
    (waves,) = prepare_sounds(square, tmp_path / "square", 16000, 44100, "FLOAT").values()
    expected = np.sign(tone(50, 16000, 0.5) + 1e-9)
    away = np.abs(tone(50, 16000, 0.5)) > 0.1  # from the edges
    assert np.array_equal(np.sign(waves)[away], expected[away])
    assert waves.max() == 32767 and waves.min() == -32768


# Lengths ---------------------------------------------------------------------------------------------------------


def test_clips_are_cut_at_the_sets_longest(tmp_path):
    sounds = {"1-1-A-0.wav": noise(56000), "1-2-A-0.wav": noise(40000), "1-3-A-0.wav": noise(12345)}
    prepared = prepare_sounds(sounds, tmp_path)
    assert all(np.array_equal(prepared[name], sounds[name][:40000]) for name in sounds)  # 5 s
    sounds = {(1, "1-3-0-0.wav"): noise(40000), (2, "2-5-0-0.wav"): noise(400)}
    root = write_urbansound8k(tmp_path / "us8k", sounds)
    prepared = read_prepared(prepare_part(root, tmp_path / "data", name="urbansound8k"))
    assert np.array_equal(prepared["audio/fold1/1-3-0-0.wav"], noise(40000)[:32000])  # 4 s
    assert np.array_equal(prepared["audio/fold2/2-5-0-0.wav"], noise(400))
    assert load_clips("urbansound8k", 8000, folds=[1, 2], data_dir=tmp_path / "data").targets.tolist() == [3, 5]


def test_cut_comes_after_resampling(tmp_path):
    long = prepare_sounds({"1-1-A-0.wav": tone(1000, 44100, 6)}, tmp_path, 16000, 44100)["1-1-A-0.wav"]
    assert len(long) == 80000
    assert np.abs(long[1000:] / 32768 - tone(1000, 16000, 5)[1000:]).max() < 1e-3  # up to the very end


def test_names_with_spaces_and_other_letters(tmp_path):
    sounds = {"1-1-h\u00fcnd und katze \u96e8-0.wav": noise(100), "1-2-A B-10.wav": noise(50)}
    data = tmp_path / "d\u00f6gs and c\u00e4ts \U0001f415"
    assert holds(prepare_part(write_esc(data / "source", sounds), data), sounds)
    clips = load_clips("esc10", 8000, folds=[1], data_dir=data)
    assert set(clips.table["file"]) == {f"audio/{name}" for name in sounds}


# What is written -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(esc10, tmp_path_factory):
    """The 50 clips of `esc10`, prepared at 8 kHz: the folder."""
    data = tmp_path_factory.mktemp("data")
    folder = prepare_part(esc10, data)
    assert folder == data / "esc10-8000" and names_in(data) == ["esc10-8000"]
    return folder


def test_folder_holds_three_files_and_the_samples_of_each_recording(prepared):
    assert names_in(prepared) == ["clips.csv", "clips.npy", "dataset.json"]
    samples, noises = np.load(prepared / "clips.npy", allow_pickle=False), esc_noises()
    total = sum(map(len, noises.values()))
    assert samples.dtype == np.dtype("<i2") and samples.shape == (total,)
    assert 2 * total < (prepared / "clips.npy").stat().st_size <= 2 * total + 256  # a header and nothing else
    assert holds(prepared, noises)


def test_table_of_clips(prepared):
    lines = (prepared / "clips.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].split(",") == COLUMNS
    offset = 0
    for name, row in zip(sorted(esc_noises()), csv.DictReader(lines), strict=True):  # by fold, then by name
        fold, recording, _, number = Path(name).stem.split("-")
        target, category = str(ESC10_ORDER.index(int(number))), ESC50_NAMES[int(number)]
        expected = [f"audio/{name}", fold, target, category, str(offset), row["frames"], recording]
        assert list(row.values()) == expected
        offset += int(row["frames"])


def test_description(prepared, esc10):
    text = (prepared / "dataset.json").read_text(encoding="utf-8")
    found = json.loads(text)
    assert (found["dataset"], found["sample_rate"], found["clips"]) == ("esc10", 8000, 50)
    assert found["classes"] == [ESC50_NAMES[number] for number in ESC10_ORDER]
    assert found["folds"] == {str(fold): 10 for fold in range(1, 6)}
    assert found["origin"]["name"] == "esc10" and len(bytes.fromhex(found["origin"]["sha256"])) == 32
    assert {"esc-course", "numpy", "soundfile", "soxr"} <= set(found["versions"])
    assert str(esc10.parent) not in text and '"/' not in text and "\\" not in text  # no place on this machine


# Again, and from another source ----------------------------------------------------------------------------------


def refuse_to_download(monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("nothing is to be fetched")

    monkeypatch.setattr("esc_lib.data.sources.download", fail)


@pytest.fixture(params=[False, True], ids=["subset", "whole"])
def whole(request):
    """Whether the four clips of `small_noises` count as the whole set."""
    if request.param:
        request.getfixturevalue("small_esc10")
    return request.param


def test_again_does_nothing(tmp_path, monkeypatch, whole):
    refuse_to_download(monkeypatch)
    data = tmp_path / "data"
    root, copy = (write_esc(tmp_path / name, small_noises()) for name in ("source", "copy"))
    folder = prepare("esc10", 8000, source=root, data_dir=data, subset=not whole)
    assert metadata(folder)["subset"] is not whole and metadata(folder)["clips"] == 4
    before = file_state(data), folder.stat().st_ino
    for source in (root, copy, None):  # None: whatever it came from
        for subset in {True, not whole}:
            assert prepare("esc10", 8000, source=source, data_dir=data, subset=subset) == folder
    assert (file_state(data), folder.stat().st_ino) == before and names_in(data) == ["esc10-8000"]
    clips = load_clips("esc10", 8000, folds=None if whole else [1, 2], data_dir=data)
    assert clips.subset is not whole and len(clips) == 4


def test_another_source_replaces_the_set(tmp_path, whole):
    """Each source but the second differs from the one before in a single sample."""
    sources = [small_noises(seed=1, frames=41), small_noises()]
    for name, samples in sources[1].items():
        sources.append({**sources[-1], name: samples ^ (np.arange(len(samples)) == 7)})
    for i, sounds in enumerate(sources):
        folder = prepare_part(write_esc(tmp_path / f"source {i}", sounds), tmp_path / "data")
        assert holds(folder, sounds) and names_in(tmp_path / "data") == ["esc10-8000"]
        assert metadata(folder)["origin"]["name"] == f"source {i}" and metadata(folder)["subset"] is not whole


def test_failed_replacement_keeps_what_was_there(tmp_path, esc10):
    folder = prepare_part(esc10, tmp_path / "data")
    before = file_state(tmp_path / "data")
    damaged = write_esc(tmp_path / "damaged", small_noises())
    (damaged / "audio/2-101-A-10.wav").write_bytes(b"no sound")
    with pytest.raises(ValueError, match="2-101-A-10.wav"):
        prepare_part(damaged, tmp_path / "data")
    assert file_state(tmp_path / "data") == before
    assert len(load_clips("esc10", 8000, data_dir=folder.parent)) == 50


def test_damaged_description_is_named_with_the_remedy(tmp_path, esc10):
    folder = prepare_part(esc10, tmp_path / "data")
    for text in ("", '{"dataset": "esc10"', '{"dataset": "esc10"}', "[]"):
        (folder / "dataset.json").write_text(text, encoding="utf-8")
        for source in (None, esc10):
            with pytest.raises(ValueError, match=rf"dataset\.json .*delete {folder} and prepare the set again"):
                prepare_part(source, tmp_path / "data")


# Subsets ---------------------------------------------------------------------------------------------------------


def test_less_than_published_is_refused_with_a_list_of_what_is_missing(tmp_path, esc10):
    sounds = {name: x for name, x in esc_noises(range(1, 4)).items() if not name.endswith("-38.wav")}
    root = write_esc(tmp_path / "source", sounds)
    with pytest.raises(ValueError) as error:
        prepare("esc10", 8000, source=root, data_dir=tmp_path / "data")
    for word in ("ESC-10", "fold 1: 9 of 80", "fold 5: 0 of 80", "clock_tick", "subset=True"):
        assert word in str(error.value)
    assert "dog" not in str(error.value)
    assert names_in(tmp_path / "data") == []


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["1-1-A-0.wav", "1-2-A-10.wav", "1-3-A-0.wav", "2-4-A-10.wav"], "fold 2: 1 of 2"),  # four clips in all
        (["1-1-A-0.wav", "1-2-A-0.wav", "2-3-A-0.wav", "2-4-A-0.wav"], "class rain"),  # two in each fold
    ],
)
def test_as_many_clips_as_published_are_not_yet_the_whole_set(tmp_path, small_esc10, names, missing):
    root = write_esc(tmp_path / "source", {name: noise(40, i) for i, name in enumerate(names)})
    with pytest.raises(ValueError, match=missing):
        prepare("esc10", 8000, source=root, data_dir=tmp_path / "data")


def test_subset_is_marked_and_never_taken_for_the_whole(tmp_path, small_esc10, monkeypatch):
    sounds, data = small_noises(), tmp_path / "data"
    part = write_esc(tmp_path / "part", {name: x for name, x in sounds.items() if name.startswith("1")})
    whole = write_esc(tmp_path / "whole", sounds)
    folder = prepare_part(part, data)
    assert metadata(folder)["subset"] is True
    assert load_clips("esc10", 8000, folds=[1], data_dir=data).subset
    with pytest.raises(ValueError, match="fold 2: 0 of 2"):
        prepare("esc10", 8000, source=part, data_dir=data)
    with monkeypatch.context() as context:
        refuse_to_download(context)
        with pytest.raises(AssertionError, match="nothing is to be fetched"):  # it goes for the official set
            prepare("esc10", 8000, data_dir=data)
    assert prepare("esc10", 8000, source=whole, data_dir=data) == folder
    assert metadata(folder)["subset"] is False and len(load_clips("esc10", 8000, data_dir=data)) == 4
    before = file_state(data)
    with pytest.raises(ValueError, match=r"esc10-8000 holds the whole set.*data_dir"):
        prepare_part(part, data)  # which does not replace the whole
    assert file_state(data) == before


# Unusable sources ------------------------------------------------------------------------------------------------


def cut(amount):
    """Leaves this share of a file, or this number of its bytes."""
    return lambda data: data[: int(amount * len(data)) if isinstance(amount, float) else amount]


def last_page(ogg):
    return ogg.rindex(b"OggS")


DAMAGE = {
    **{f"wav cut to {amount}": ("wav", cut(amount)) for amount in (0, 4, 30, 44, 0.5, -2, -1)},  # 44: the header
    **{f"ogg cut to {amount}": ("ogg", cut(amount)) for amount in (0, 0.5, -1)},
    **{f"flac cut to {amount}": ("flac", cut(amount)) for amount in (0.5, -1)},
    "ogg without its last page": ("ogg", lambda data: data[: last_page(data)]),
    "ogg with half its last page": ("ogg", lambda data: data[: (last_page(data) + len(data)) // 2]),
    "header that promises nothing": ("wav", lambda data: data[:40] + bytes(4)),
    "text": ("wav", lambda data: b"<html><body>404 Not Found</body></html>\n" * 40),
    "zeros": ("wav", lambda data: bytes(len(data))),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_recording_is_named(tmp_path, damage):
    ending, destroy = DAMAGE[damage]
    name = f"1-13-A-10.{ending}"
    waveform = (noise(30000) / 4).astype(np.int16)  # not too regular: its ogg has several pages
    root = write_esc(tmp_path / "source", {**esc_noises(range(1, 2)), name: waveform})
    whole = (root / "audio" / name).read_bytes()
    (root / "audio" / name).write_bytes(destroy(whole))
    with pytest.raises(ValueError) as error:
        prepare_part(root, tmp_path / "data")
    assert str(root / "audio" / name) in str(error.value) and "again" in str(error.value)
    assert names_in(tmp_path / "data") == []
    with pytest.raises(FileNotFoundError, match=r'prepare\("esc10", 8000\)'):
        load_clips("esc10", 8000, data_dir=tmp_path / "data")
    (root / "audio" / name).write_bytes(whole)
    assert len(read_prepared(prepare_part(root, tmp_path / "data"))) == 11


def unusable(what, tmp_path):
    root = write_esc(tmp_path / "source", esc_noises())
    recordings = sorted((root / "audio").iterdir())
    if what == "recordings missing":
        for path in recordings[3:10]:
            path.unlink()
    elif what == "a folder for a recording":
        recordings[0].unlink()
        recordings[0].mkdir()
    elif what == "a table of cats":  # which are not in ESC-10
        write_esc_table(root, ["1-1-A-5.wav"])
    elif what == "half an archive":
        root = pack(root, tmp_path / "ESC-50.zip")
        root.write_bytes(root.read_bytes()[:-1000])
    elif what == "another archive":
        root = pack(root / "audio", tmp_path / "other.zip")
    return root


@pytest.mark.parametrize(
    ("what", "name", "error", "message"),
    [
        ("recordings missing", "esc10", FileNotFoundError, r"lacks 7 of the 50 .*: (audio/\S+, ){5}\.\.\.; .*again"),
        ("a folder for a recording", "esc10", FileNotFoundError, r"lacks 1 of the 50 .*: audio/1-100-A-0\.wav;"),
        ("a table of cats", "esc10", ValueError, "no clips of ESC-10"),
        ("another set", "urbansound8k", FileNotFoundError, r"is not UrbanSound8K: expected metadata/UrbanSound8K\.csv"),
        ("half an archive", "esc10", ValueError, r"ESC-50\.zip .*again"),
        ("another archive", "esc10", FileNotFoundError, r"is not ESC-10: expected meta/esc50\.csv"),
    ],
)
def test_source_that_cannot_be_used_leaves_nothing(tmp_path, what, name, error, message):
    source = unusable(what, tmp_path)
    with pytest.raises(error, match=message):
        prepare_part(source, tmp_path / "data", name=name)
    assert names_in(tmp_path / "data") == []


def test_recording_that_cannot_be_read_is_not_taken_for_a_folder_that_cannot_be_written(tmp_path, esc10, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as context:
        break_disk(context)
        with pytest.raises(ValueError, match=r"1-100-A-0\.wav cannot be read"):
            prepare_part(esc10, tmp_path / "data")
    with monkeypatch.context() as context:
        context.setattr(module, "file_hash", fail)
        with pytest.raises(ValueError, match=r"esc50\.csv cannot be read"):
            prepare_part(esc10, tmp_path / "data")
    assert names_in(tmp_path / "data") == []


@pytest.mark.parametrize("wrong", [{"subset": 1}, {"subset": "yes"}, {"source": ""}, {"source": 5}, {"data_dir": 5}])
def test_arguments_of_another_kind(tmp_path, esc10, wrong):
    arguments = {"source": esc10, "data_dir": tmp_path / "data", "subset": True, **wrong}
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*expected"):
        prepare("esc10", 8000, **arguments)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "rate", "source", "message"),
    [("esc10", 8000, "nowhere", "nowhere does not exist"), ("esc11", 8000, "", "esc11"), ("esc10", 8, "", "Hz")],
)
def test_invalid_arguments_write_nothing(tmp_path, esc10, name, rate, source, message):
    with pytest.raises(FileNotFoundError if source else ValueError, match=message):
        prepare_part(tmp_path / source if source else esc10, tmp_path / "data", rate, name)
    assert not (tmp_path / "data").exists()


# Folders, disks and interruptions --------------------------------------------------------------------------------


def test_argument_precedes_environment(tmp_path, esc10, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("ESC_DATA", str(tmp_path / "environment"))
    argument = prepare_part(esc10, tmp_path / "argument")
    assert argument == tmp_path / "argument/esc10-8000" and not (tmp_path / "environment").exists()
    assert prepare("esc10", 8000, source=esc10, subset=True) == tmp_path / "environment/esc10-8000"
    assert names_in(tmp_path / "elsewhere") == []
    monkeypatch.chdir(tmp_path)
    assert len(load_clips("esc10", 8000)) == 50


def test_source_may_be_relative_and_sampling_rates_have_their_own_folders(tmp_path, monkeypatch):
    root, data = write_esc(tmp_path / "here" / "source", small_noises()), tmp_path / "data"
    for place, source, rate, data_dir, name in (
        (root.parent, "source", 8000, str(data), "source"),
        (root.parent, ".", 16000, "../data", "here"),  # the folder that `source` is in
        (root, ".", 44100, data, "source"),
    ):
        monkeypatch.chdir(place)
        folder = prepare_part(source, data_dir, rate)
        assert folder == data / f"esc10-{rate}" and metadata(folder)["origin"]["name"] == name
    assert names_in(data) == ["esc10-16000", "esc10-44100", "esc10-8000"]


def test_folder_that_cannot_be_made(tmp_path, esc10):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(WriteError, match=FULL_DISK) as error:
        prepare_part(esc10, tmp_path / "file" / "data")
    assert str(tmp_path / "file") in str(error.value)
    assert names_in(tmp_path) == ["file"]


def test_disk_that_is_full_when_all_is_written(tmp_path, esc10, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", fail)
        with pytest.raises(WriteError, match=f"esc10-8000 {FULL_DISK}") as error:
            prepare_part(esc10, tmp_path / "data")
    assert error.value.errno == errno.ENOSPC
    assert names_in(tmp_path / "data") == []
    prepare_part(esc10, tmp_path / "data")


def test_disk_that_fills_up_while_clips_are_written(tmp_path, monkeypatch):
    made, original = [], module.read_int16

    def slow(*arguments):
        time.sleep(0.002)
        made.append(1)
        return original(*arguments)

    monkeypatch.setattr(module, "read_int16", slow)
    root = write_esc(tmp_path / "source", esc_noises(frames=4000, targets=ESC10_ORDER * 6))  # 300 files of 8 kB
    with largest_file(1 << 16), pytest.raises(WriteError, match=f"esc10-8000 {FULL_DISK}") as error:
        prepare_part(root, tmp_path / "data")
    assert error.value.errno == errno.EFBIG
    assert names_in(tmp_path / "data") == []
    before = 0
    while before < len(made):  # as long as threads are at work
        before = len(made)
        time.sleep(0.1)
    assert before < 150  # of 300: what cannot be stored is not decoded either, and never are all clips in memory


@pytest.mark.parametrize("name", ["esc10", "synthetic"])
def test_disk_that_fills_up_while_the_recordings_are_unpacked_or_made(tmp_path, name):
    archive = pack(write_esc(tmp_path / "source", {"1-1-A-0.wav": noise(40_000)}), tmp_path / "set.zip")
    with largest_file(1 << 16), pytest.raises(WriteError, match=FULL_DISK):
        prepare_part(archive if name == "esc10" else None, tmp_path / "data", name=name)
    assert files_in(tmp_path / "data") == []


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, MemoryError])
def test_interrupted_run_tidies_up(tmp_path, esc10, monkeypatch, interrupt):
    calls = []

    def stop(*arguments):
        calls.append(1)
        if len(calls) > 3:
            raise interrupt
        return np.zeros(10, "i2")

    monkeypatch.setattr(module, "read_int16", stop)
    with pytest.raises(interrupt):
        prepare_part(esc10, tmp_path / "data")
    assert names_in(tmp_path / "data") == []


@pytest.mark.parametrize("other", ["the same source", "another source"])
def test_two_runs_at_once(tmp_path, monkeypatch, other):
    """While the first run decodes, a second one begins, and waits; it may be for another sampling rate."""
    sounds = {seed: small_noises(seed=seed) for seed in (0, 1)}
    roots = {seed: write_esc(tmp_path / f"source {seed}", sounds[seed]) for seed in (0, 1)}
    data, original, threads, decoded = tmp_path / "data", module.read_int16, [], []
    second = other == "another source"

    def interrupted(path, *arguments):
        if not threads:
            for rate in (8000, 16000):
                threads.append(threading.Thread(target=prepare_part, args=(roots[second], data, rate)))
            for thread in threads:
                thread.start()
            time.sleep(0.3)
        decoded.append((names_in(data).count("esc10-8000"), path.parents[1].name, arguments[0]))
        return original(path, *arguments)

    monkeypatch.setattr(module, "read_int16", interrupted)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    folder = prepare_part(roots[0], data)
    for thread in threads:
        thread.join()
    assert all(source == "source 0" for ready, source, _ in decoded if not ready)  # until it had its name
    assert len([rate for _, _, rate in decoded if rate == 8000]) == (8 if second else 4)
    assert names_in(data) == ["esc10-16000", "esc10-8000"] and holds(folder, sounds[second])


def test_what_a_killed_run_left_goes_with_the_next_and_nothing_else_does(tmp_path, esc10):
    data = tmp_path / "data"
    left = [
        ".esc10-8000-a1b2c3d4.part",
        ".unpacking-esc10-a1b2c3d4.part",
        "sources/.esc10-a_b2c3d4.part",
        "downloads/.unpacking-esc10-aaaaaaaa.part",
    ]
    others = [
        ".esc50-8000-a1b2c3d4.part",
        ".esc10-8000-mine",
        ".esc10-8000-mine.part",
        "downloads/.unpacking-esc50-aaaaaaaa.part",
        "x",
    ]
    for name in left + others:
        (data / name / "content").mkdir(parents=True)
    prepare_part(esc10, data)
    assert not any((data / name).exists() for name in left) and all((data / name).exists() for name in others)


KILLED = """
import importlib, os, signal, sys
module = importlib.import_module("esc_lib.data.prepare")
original, calls = module.read_int16, []

def killed(*arguments):
    calls.append(1)
    if len(calls) > 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)

module.read_int16 = killed
module.prepare("esc10", 8000, source=sys.argv[1], data_dir=sys.argv[2], subset=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_killed_run_can_be_repeated(tmp_path, esc10):
    result = subprocess.run([sys.executable, "-c", KILLED, esc10, tmp_path / "data"], capture_output=True, timeout=120)
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()
    assert [name[:12] for name in names_in(tmp_path / "data")] == [".esc10-8000-"]
    with pytest.raises(FileNotFoundError, match="esc10 has not been prepared at 8000 Hz"):
        load_clips("esc10", 8000, data_dir=tmp_path / "data")
    assert holds(prepare_part(esc10, tmp_path / "data"), esc_noises())
    assert names_in(tmp_path / "data") == ["esc10-8000"]


# Archives --------------------------------------------------------------------------------------------------------


def pack(root, archive, wrapper="ESC-50-33c8ce9"):
    """Packs a folder as GitHub and Zenodo do: all in one folder more."""
    with zipfile.ZipFile(archive, "w") if archive.suffix == ".zip" else tarfile.open(archive, "w:gz") as handle:
        for path in sorted(files_in(root)):
            (handle.write if archive.suffix == ".zip" else handle.add)(path, f"{wrapper}/{path.relative_to(root)}")
    return archive


@pytest.mark.parametrize("name", ["ESC-50 master.zip", "ESC-50.tar.gz"])
def test_archive_as_source(tmp_path, esc10, prepared, name):
    archive = pack(esc10, tmp_path / name)
    folder = prepare_part(archive, tmp_path / "data")
    assert (folder / "clips.npy").read_bytes() == (prepared / "clips.npy").read_bytes()
    assert metadata(folder)["origin"] == {"name": name, "sha256": metadata(prepared)["origin"]["sha256"]}
    assert names_in(tmp_path / "data") == ["esc10-8000"]  # what was unpacked is gone
    before = file_state(folder)
    prepare_part(archive, tmp_path / "data")
    assert file_state(folder) == before


# Official downloads, from a server on this machine ---------------------------------------------------------------


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.server.seen.append(self.path)
        super().do_GET()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves the folder `server.root`; `seen` are the paths asked for."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "server"
    root.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(root))) as http:
        http.seen, http.root, http.url = [], root, f"http://127.0.0.1:{http.server_port}/"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield http
        http.shutdown()
        thread.join()


def digest(path, algorithm="sha256"):
    return hashlib.new(algorithm, path.read_bytes()).hexdigest()


def change_last_byte(path):
    """As when something else was published under the same name; returns what was there."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return content


def publish(monkeypatch, root):
    """Lets the table and the recordings in `root` be the published ones."""
    monkeypatch.setattr("esc_lib.data.sources.ESC50_TABLE_SHA256", digest(root / "meta/esc50.csv"))
    monkeypatch.setattr("esc_lib.data.sources.ESC50_WAV_BYTES", (root / "audio/1-100-A-0.wav").stat().st_size)


@pytest.fixture
def official_esc10(server, monkeypatch, small_esc10):
    """ESC-10 of four clips on the server, beside a clip of another class: the folder there."""
    root = server.root / "raw"
    write_esc(root, {name: noise(40, i) for i, name in enumerate([*small_noises(), "1-7-A-5.wav"])})
    wavs = sorted((root / "audio").iterdir())
    index = {"clips": {path.stem: {"audio": [f"audio/{path.name}", digest(path, "md5")]} for path in wavs}}
    (server.root / "index.json").write_bytes(json.dumps(index).encode())
    publish(monkeypatch, root)
    monkeypatch.setattr("esc_lib.data.sources.ESC50_MD5_INDEX", server.url + "index.json")
    monkeypatch.setattr("esc_lib.data.sources.ESC50_MD5_INDEX_SHA256", digest(server.root / "index.json"))
    monkeypatch.setitem(DATASETS, "esc10", replace(small_esc10, url=server.url + "raw/"))
    return root


def test_official_esc10_fetches_its_own_files_once(tmp_path, server, official_esc10):
    folder = prepare("esc10", 8000, data_dir=tmp_path / "data")
    assert metadata(folder)["origin"]["name"] == "official" and metadata(folder)["subset"] is False
    assert len(read_prepared(folder)) == 4
    wanted = ["/index.json", "/raw/meta/esc50.csv", *(f"/raw/audio/{name}" for name in small_noises())]
    assert sorted(server.seen) == sorted(wanted)
    for rate in (8000, 16000):
        prepare("esc10", rate, data_dir=tmp_path / "data")
    assert sorted(server.seen) == sorted(wanted)


def test_official_esc10_file_with_a_wrong_hash(tmp_path, server, official_esc10):
    wav, table = official_esc10 / "audio/2-101-A-10.wav", official_esc10 / "meta/esc50.csv"
    for path in (table, wav):
        right = change_last_byte(path)
        with pytest.raises(DownloadError, match=path.name):
            prepare("esc10", 8000, data_dir=tmp_path / "data")
        with pytest.raises(FileNotFoundError):
            load_clips("esc10", 8000, data_dir=tmp_path / "data")
        path.write_bytes(right)
    prepare("esc10", 8000, data_dir=tmp_path / "data")
    assert server.seen.count("/raw/audio/2-101-A-10.wav") == 2 and server.seen.count("/raw/audio/1-100-A-0.wav") == 1


@pytest.fixture
def official_esc50(tmp_path, server, monkeypatch):
    """An ESC-50 of two classes and four clips, packed on the server: the archive there."""
    root = write_esc(tmp_path / "esc50", {name: noise(40, i) for i, name in enumerate(small_noises())})
    archive = pack(root, server.root / "archive.zip")
    published = dict(url=server.url + "archive.zip", size=None, sha256=digest(archive))
    small = replace(DATASETS["esc50"], classes=("dog", "rain"), fold_sizes={1: 2, 2: 2}, **published)
    monkeypatch.setitem(DATASETS, "esc50", small)
    monkeypatch.setattr("esc_lib.data.sources.ESC50_TABLE_SHA256", "0" * 64)  # unless the archive's own hash is right
    return archive


@pytest.mark.parametrize("packed_anew", [False, True])
def test_official_esc50(tmp_path, server, official_esc50, monkeypatch, packed_anew):
    if packed_anew:
        publish(monkeypatch, tmp_path / "esc50")
        pack(tmp_path / "esc50", official_esc50, "ESC-50-of-another-name")
    for rate in (8000, 16000):
        folder = prepare("esc50", rate, data_dir=tmp_path / "data")
        assert metadata(folder)["origin"]["name"] == "official" and len(read_prepared(folder)) == 4
    assert server.seen == ["/archive.zip"]


@pytest.mark.parametrize("wrong", ["meta/esc50.csv", "audio/2-100-A-0.wav"])
def test_official_esc50_of_other_contents(tmp_path, official_esc50, monkeypatch, wrong):
    root, right = tmp_path / "esc50", official_esc50.read_bytes()
    publish(monkeypatch, root)
    with open(root / wrong, "ab") as file:
        file.write(b"\n")
    pack(root, official_esc50)
    with pytest.raises(ValueError, match=Path(wrong).name) as error:
        prepare("esc50", 8000, data_dir=tmp_path / "data")
    for archive in files_in(tmp_path / "data"):  # one that stays has to be named: it would be in the way for ever
        assert archive.suffix == ".zip" and f"delete {archive}" in str(error.value)
        archive.unlink()
    official_esc50.write_bytes(right)
    assert len(read_prepared(prepare("esc50", 8000, data_dir=tmp_path / "data"))) == 4


@pytest.fixture
def official_urbansound8k(tmp_path, server, monkeypatch):
    """An UrbanSound8K of two clips, packed on the mirror only: the archive there."""
    sounds = {(1, "1-0-0-0.wav"): noise(40), (2, "2-1-0-0.wav"): noise(50)}
    archive = pack(write_urbansound8k(tmp_path / "us8k", sounds), server.root / "mirror.tar.gz", "UrbanSound8K")
    published = dict(url=server.url + "gone.tar.gz", size=archive.stat().st_size, md5=digest(archive, "md5"))
    classes = ("air_conditioner", "car_horn")
    small = replace(DATASETS["urbansound8k"], classes=classes, fold_sizes={1: 1, 2: 1}, **published)
    monkeypatch.setitem(DATASETS, "urbansound8k", small)
    monkeypatch.setattr("esc_lib.data.sources.URBANSOUND8K_MIRROR", server.url + "mirror.tar.gz")
    return archive


def test_official_urbansound8k_from_the_mirror(tmp_path, server, official_urbansound8k):
    part = tmp_path / "data/downloads/UrbanSound8K.tar.gz.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"gigabytes")
    prepared = read_prepared(prepare("urbansound8k", 8000, data_dir=tmp_path / "data"))
    assert {len(prepared["audio/fold1/1-0-0-0.wav"]), len(prepared["audio/fold2/2-1-0-0.wav"])} == {40, 50}
    assert server.seen == ["/gone.tar.gz", "/mirror.tar.gz"]
    assert part.read_bytes() == b"gigabytes"  # the mirror does not cost what came from the official place


def test_official_urbansound8k_with_a_wrong_hash_on_the_mirror(tmp_path, official_urbansound8k):
    change_last_byte(official_urbansound8k)
    with pytest.raises(DownloadError, match=r"mirror\.tar\.gz"):
        prepare("urbansound8k", 8000, data_dir=tmp_path / "data")
    assert files_in(tmp_path / "data") == []
