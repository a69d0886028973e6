"""The audit against sets in which every finding was planted, and formats against files written for it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sound_files import SHARED_DATA, noise, tone, write_esc_table, write_sound
from tiny import RATE, write_set

from esc_lib import load_clips
from esc_lib.data.audit import audit, describe_clips, formats
from esc_lib.data.datasets import get_dataset

BARK, RAIN, CRACKLE = (np.clip(noise(100, seed), -30000, 30000) | 1 for seed in range(3))  # 100 samples, none is zero
LOUD = BARK.copy()
LOUD[[10, 20, 21, 30, 40]] = [32767, -32767, -32768, 32767, -32768]  # never three in a row
CUT_OFF = RAIN.copy()
CUT_OFF[50:53] = [-32767, -32768, 32767]
SILENCE = np.zeros(80, np.int16)
FULL_LENGTH = 5 * RATE
PLANTED = [  # fold, target, samples
    (1, 0, BARK),  # 0: the only clip that has nothing to it but its equals
    (1, 0, np.pad(BARK, (7, 0))),  # 1: equal to clip 0, of the same fold
    (2, 0, np.pad(BARK, (0, 5))),  # 2: equal to both, of another fold
    (2, 1, RAIN),  # 3
    (3, 1, np.pad(RAIN, (3, 4))),  # 4: equal to clip 3, of another fold
    (3, 2, np.resize(CRACKLE, FULL_LENGTH)),  # 5: as long as a clip may be
    (4, 2, CRACKLE[:99]),  # 6: equal to clip 5 up to where it ends, so not equal
    (4, 3, SILENCE),  # 7 to 9: equal to one another, and to nothing that sounds
    (4, 3, SILENCE),
    (5, 3, SILENCE[:30]),
    (5, 4, LOUD),  # 10
    (5, 4, CUT_OFF),  # 11
    (5, 5, -CRACKLE),  # 12 and 13: equal to one another, in the same fold alone
    (5, 6, -CRACKLE),
]
RECORDINGS = [70, 71, 72, 73, 74, 75, 75, 77, 78, 79, 80, 81, 82, 82]  # 75 stands in folds 3 and 4; 82 in fold 5 alone


@pytest.fixture
def clips(tmp_path):
    clips = load_clips("synthetic", RATE, data_dir=write_set(tmp_path, PLANTED))
    return replace(clips, table=clips.table.assign(recording=RECORDINGS))


def files(*rows):
    return ", ".join(f"audio/{row:03d}.wav" for row in rows)


def rows_where(column):
    return column[column].index.to_list()


def test_every_finding_is_counted(clips):
    samples = sum(len(samples) for _, _, samples in PLANTED)
    expected = [
        ("recordings in several folds", 1, 12, "75"),
        ("clips of these recordings", 2, 14, files(5, 6)),
        ("duplicates within a fold", 4, 14, files(0, 1)),
        ("duplicates across folds", 5, 14, files(0, 1)),
        ("silent clips (all zeros)", 3, 14, files(7, 8)),
        ("other clips with leading zeros", 2, 14, files(1, 4)),
        ("other clips with trailing zeros", 2, 14, files(2, 4)),
        ("clips that reach full scale", 2, 14, files(10, 11)),
        ("clips with 3 samples in a row at full scale", 1, 14, files(11)),
        ("clips shorter than 5 s", 13, 14, files(0, 1)),
        ("samples of digital silence", 7 + 5 + 3 + 4 + 80 + 80 + 30, samples, ""),
        ("samples in the shortest clip, of 5 s", 30, FULL_LENGTH, files(9)),
        ("samples in the longest clip, of 5 s", FULL_LENGTH, FULL_LENGTH, files(5)),
    ]
    found = audit(clips)
    assert found.columns.to_list() == ["finding", "count", "of", "share", "example"]
    assert list(found.drop(columns="share").itertuples(index=False, name=None)) == expected
    assert found["share"].to_list() == [count / of for _, count, of, _ in expected]


def test_each_clip_is_described(clips):
    facts = describe_clips(clips)
    assert facts["file"].to_list() == clips.table["file"].to_list()
    assert facts["frames"].to_list() == [len(samples) for _, _, samples in PLANTED]
    assert rows_where(facts["crosses_folds"]) == [5, 6]
    assert rows_where(facts["equal_in_fold"]) == [0, 1, 12, 13]
    assert rows_where(facts["equal_across_folds"]) == [0, 1, 2, 3, 4]
    assert rows_where(facts["silent"]) == [7, 8, 9]
    assert facts["zeros_before"].to_list() == [0, 7, 0, 0, 3] + 9 * [0]
    assert facts["zeros_after"].to_list() == [0, 0, 5, 0, 4] + 9 * [0]
    assert rows_where(facts["full_scale"]) == [10, 11]
    assert rows_where(facts["clipped"]) == [11]
    assert facts["sound"].to_list() == [0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]


def test_an_example_of_equal_clips_is_two_equal_clips(tmp_path):
    """Those of the other pair stand between them in the set."""
    sounds = [(1, 0, BARK), (1, 1, RAIN), (2, 1, RAIN), (2, 0, BARK)]
    clips = load_clips("synthetic", RATE, folds=[1, 2], data_dir=write_set(tmp_path, sounds))
    found = audit(clips).set_index("finding")
    assert found["example"]["duplicates across folds"] == files(0, 3)
    assert found["count"]["duplicates across folds"] == 4
    assert found["count"]["duplicates within a fold"] == 0


def test_only_the_folds_that_are_given_count(clips):
    found = audit(clips.in_folds([2, 4])).set_index("finding")["count"]
    assert found["recordings in several folds"] == found["duplicates across folds"] == 0
    assert found["samples in the longest clip, of 5 s"] == 105


def test_runs_at_full_scale_are_found_at_both_ends(tmp_path):
    begin, end, only = BARK.copy(), BARK.copy(), np.full(3, -32768, np.int16)
    begin[:3] = end[-3:] = 32767
    sounds = [(1, target, samples) for target, samples in enumerate((begin, end, only, only[:2]))]
    facts = describe_clips(load_clips("synthetic", RATE, folds=[1], data_dir=write_set(tmp_path, sounds)))
    assert facts["clipped"].to_list() == [True, True, True, False] and facts["full_scale"].all()


def test_a_set_without_any_finding(tmp_path):
    sounds = [(fold, 0, np.resize(noise(97, fold) // 2 | 1, FULL_LENGTH)) for fold in range(1, 6)]
    found = audit(load_clips("synthetic", RATE, data_dir=write_set(tmp_path, sounds)))
    assert found["count"].to_list() == 11 * [0] + 2 * [FULL_LENGTH]
    assert set(found["example"][:11]) == {""}


# Formats ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path):
    """Six recordings of four kinds in ESC-50's layout, inside the folder that an archive wraps them in."""
    root, sound = tmp_path / "ESC-50-master", tone(440, 8000, 0.1)
    kinds = [
        ("1-1-A-0.wav", sound, 8000, "PCM_16"),
        ("1-2-A-0.wav", np.stack([sound, -sound], axis=1), 44100, "PCM_24"),
        *((f"2-{i}-A-0.ogg", sound, 16000, None) for i in (3, 4, 5)),
        ("3-6-A-0.wav", sound, 11025, "PCM_16"),
    ]
    for name, *options in kinds:
        write_sound(root / "audio" / name, *options)
    write_esc_table(root, [name for name, *_ in kinds])
    return tmp_path


def test_recordings_in_the_table_are_counted_by_format(published):
    write_sound(published / "ESC-50-master" / "audio" / "not-in-the-table.wav", tone(440, 8000, 0.1))
    table = formats("esc50", published)
    assert table.columns.to_list() == ["container", "encoding", "rate", "channels", "recordings"]
    rows = list(table.itertuples(index=False, name=None))
    assert rows[0] == ("OGG", "VORBIS", 16000, 1, 3)
    assert sorted(rows[1:]) == [
        ("WAV", "PCM_16", 8000, 1, 1),
        ("WAV", "PCM_16", 11025, 1, 1),
        ("WAV", "PCM_24", 44100, 2, 1),
    ]


def test_a_recording_that_cannot_be_opened_is_named(published):
    path = published / "ESC-50-master" / "audio" / "2-4-A-0.ogg"
    path.write_bytes(b"<html>Please log in</html>")
    with pytest.raises(ValueError, match=r"2-4-A-0\.ogg cannot be decoded .*: not audio, or damaged; download"):
        formats("esc50", published)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"2-4-A-0\.ogg is not there"):
        formats("esc50", published)


def test_a_folder_that_is_no_set_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not ESC-50: expected meta/esc50.csv"):
        formats("esc50", tmp_path)


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="no real recordings here")
@pytest.mark.parametrize(("name", "rate"), [("esc10", 44100), ("urbansound8k", 16000)])
def test_formats_of_real_recordings(name, rate):
    expected = pd.DataFrame([("OGG", "VORBIS", rate, 1)], columns=["container", "encoding", "rate", "channels"])
    found = formats(name, SHARED_DATA / name)
    pd.testing.assert_frame_equal(found.drop(columns="recordings"), expected)
    assert 0 < found["recordings"].sum() <= get_dataset(name).n_clips
