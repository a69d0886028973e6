"""Recordings: whole ones come through bit for bit, block by block; all others end in an error that names them."""

import errno
import io
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from sound_files import break_disk, noise, tone, write_sound

from esc_lib.data import audio
from esc_lib.data.audio import int16_blocks, open_recording, read_int16

RATE = 16000
SOUND = (np.stack([noise(30_000, seed) for seed in (0, 1)], axis=1) * 0.25).astype(np.int16)
FORMATS = [
    *(("wav", encoding) for encoding in ("PCM_16", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM", "MS_ADPCM")),
    ("wavex", "PCM_24"),
    *((ending, "PCM_16") for ending in ("rf64", "w64", "aiff", "au", "caf", "flac")),
    *(("ogg", "VORBIS"), ("ogg", "OPUS"), ("mp3", "MPEG_LAYER_III")),
]

LONG_COMMENTS = ("ogg", "aiff", "flac")  # which fill libsndfile's log, so that it cannot say what is missing


def encode(ending="wav", encoding=None, sound=SOUND, rate=RATE, comment=""):
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, sound.shape[1], encoding, format=ending.upper()) as recording:
        if comment:
            recording.comment = comment
        recording.write(sound)
    return file.getvalue()


def plain(path, rate):
    """Decoded, mixed and resampled as whole arrays."""
    sound, recorded = soundfile.read(path, dtype="float32", always_2d=True)
    resampled = soxr.resample(sound.mean(axis=1), recorded, rate)
    return np.clip(np.rint(resampled * 32768), -32768, 32767).astype(np.int16)


@pytest.fixture
def recording(tmp_path):
    """Writes bytes as a file."""

    def write(data, name="sound.bin"):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


def refused(path, reason=None, error=ValueError):
    """The message that names the file and can be printed."""
    with pytest.raises(error, match=reason) as caught:
        read_int16(path, 8000, 5)
    assert audio.shown(path) in str(caught.value)
    return str(caught.value).encode("utf-8").decode()


# Whole recordings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "encoding"), FORMATS)
def test_whole_recordings_come_through_as_from_libsndfile_at_once(recording, monkeypatch, ending, encoding):
    monkeypatch.setattr(audio, "_BLOCK", 1234)
    path = recording(encode(ending, encoding, comment="comment " * 400 if ending in LONG_COMMENTS else ""))
    rounding = 1 if ending == "mp3" else 0  # its decoder's depends on where in memory a block lies
    for rate in (RATE, 8000, 44100):
        found, expected = read_int16(path, rate, 60), plain(path, rate)
        assert len(found) == len(expected) and np.abs(found.astype(int) - expected).max() <= rounding
    beginning = read_int16(path, 8000, 0.5)
    assert len(beginning) == 4000 and np.abs(beginning.astype(int) - plain(path, 8000)[:4000]).max() <= rounding


@pytest.mark.parametrize("channels", [1, 2, 3, 1024])
@pytest.mark.parametrize("frames", [2, 3, 50, 3000])
def test_blocks_add_up_for_every_length_and_number_of_channels(recording, monkeypatch, frames, channels):
    monkeypatch.setattr(audio, "_BLOCK", 700)
    path = recording(encode(sound=noise(frames * channels).reshape(frames, channels), rate=44100))
    blocks = list(int16_blocks(open_recording(path), 16000))
    assert all(block.dtype == np.int16 for block in blocks)
    assert np.array_equal(np.concatenate(blocks), plain(path, 16000))


@pytest.mark.parametrize("rate", [1000, 1_000_000])
def test_lowest_and_highest_rate(recording, rate):
    found = read_int16(recording(encode(sound=tone(50, rate, 0.5)[:, None], rate=rate)), 8000, 5)
    assert np.abs(found[1000:3000] / 32768 - tone(50, 8000, 0.5)[1000:3000]).max() < 2e-3


# Cut and damaged -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "encoding", "comment"),
    [(*of, text) for of in FORMATS for text in ("", "comment " * 400) if not text or of[0] in LONG_COMMENTS],
)
def test_cut_recordings_are_refused(recording, ending, encoding, comment):
    data = encode(ending, encoding, comment=comment)
    # Decoders of mp3 do not miss the last bytes of a frame.
    for length in (len(data) - (30 if ending == "mp3" else 1), len(data) * 9 // 10, len(data) // 2, 60, 4, 0):
        refused(recording(data[:length]), "again")


@pytest.mark.parametrize(("ending", "encoding"), [("ogg", "VORBIS"), ("ogg", "OPUS"), ("flac", "PCM_16")])
def test_one_wrong_bit_anywhere_is_seen_by_formats_with_checksums(recording, ending, encoding):
    data = encode(ending, encoding)
    for place in np.linspace(400, len(data) - 1, 20, dtype=int):  # after FLAC's header, which has none
        refused(recording(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]), "again")


def test_missing_and_repeated_pages_are_seen(recording):
    data = encode("ogg", "VORBIS", sound=noise(200_000)[:, None])
    pages = [b"OggS" + page for page in data.split(b"OggS")[1:]]
    assert b"".join(pages) == data and len(pages) > 6
    for kept in (pages[:4] + pages[5:], pages[:5] + pages[4:], pages[:-1], [*pages, b"junk"]):
        refused(recording(b"".join(kept)), "page|Ogg|decoded")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(recording, value):
    sound = np.zeros((200_000, 2))
    sound[-1, 1] = value
    refused(recording(encode("wav", "FLOAT", sound)), "not finite")


# Headers that lie ------------------------------------------------------------------------------------------------


def wav(rate=RATE, size=None, riff=None, channels=1, frames=4000):
    data = noise(frames * channels).tobytes()
    align, size = 2 * channels, len(data) if size is None else size
    riff = 36 + len(data) if riff is None else riff
    head = b"RIFF" + struct.pack("<I", riff) + b"WAVEfmt " + struct.pack("<IHH", 16, 1, channels)
    return head + struct.pack("<IIHH", rate, rate * align % 2**32, align, 16) + b"data" + struct.pack("<I", size) + data


def patched(data, *changes):
    for place, new in changes:
        data = data[:place] + new + data[place + len(new) :]
    return data


def flac_of(samples):
    """A FLAC of 30,000 samples whose header says something else."""
    data = encode("flac")
    return patched(data, (21, bytes([data[21] & 0xF0 | samples >> 32]) + struct.pack(">I", samples & 0xFFFFFFFF)))


def long_rf64():
    data = encode("rf64")
    return patched(data, (20, struct.pack("<QQQ", 2**38 + 96, 2**38, 2**36)))


def untagged_mp3():
    data = encode("mp3")
    return data[data.index(data[:2], 4) :]


LIES = {
    **{f"rate of {rate} Hz": lambda rate=rate: wav(rate) for rate in (0, 1, 999, 1_000_001, 2**31 - 1, 2**31)},
    "wav streamed": lambda: wav(size=0xFFFFFFFF, riff=0xFFFFFFFF),
    "wav of no samples": lambda: wav(size=0),
    "wav of nothing": lambda: wav(frames=0),
    "wav of a week": lambda: wav(rate=1000, size=2**31, riff=2**31 + 36),
    "RF64 of 2^36 samples": long_rf64,
    "AU streamed": lambda: patched(encode("au"), (8, b"\xff" * 4)),
    "AU of no samples": lambda: patched(encode("au"), (8, bytes(4))),
    "AU that begins after its end": lambda: patched(encode("au"), (4, struct.pack(">I", 2**31 - 1))),
    "W64 whose chunks have no size": lambda: patched(encode("w64"), (56, bytes(8))),
    "CAF streamed": lambda: patched(data := encode("caf"), (data.index(b"data") + 4, b"\xff" * 8)),
    "AIFF of no samples": lambda: encode("aiff", sound=SOUND[:0]),
    "ogg of no samples": lambda: encode("ogg", sound=SOUND[:0]),
    **{f"FLAC of {samples} samples": lambda samples=samples: flac_of(samples) for samples in (0, 30_001, 2**36 - 1)},
    "mp3 of unknown length": untagged_mp3,
    "2000 channels": lambda: wav(channels=2000, frames=10),
    "no channels": lambda: patched(wav(), (22, bytes(2))),
    "zeros after a good beginning": lambda: wav()[:12] + bytes(1 << 20),
    "a tag of mp3 before a wav": lambda: b"ID3\x03" + bytes(5) + b"\x0a" + bytes(10) + wav(),
    "zeros": lambda: bytes(100_000),
    "text": lambda: b"<html>Please log in</html>" * 100,
    "MATLAB": lambda: encode("mat5"),
    "ALAC": lambda: encode("caf", "ALAC_16"),
}


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie_end_in_an_error_and_take_no_memory(recording, lie):
    path = recording(LIES[lie]())
    tracemalloc.start()
    try:
        refused(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_more_than_a_day_is_refused_by_the_header(recording):
    size = 25 * 3600 * 1000 * 2
    path = recording(wav(rate=1000, size=size, riff=size + 36))
    os.truncate(path, size + 44)
    refused(path, "lasts 25 hours, more than 24")


def test_a_long_recording_takes_no_more_memory_than_a_block(tmp_path):
    path = write_sound(tmp_path / "long.wav", np.zeros((3_000_000, 2), np.int16), 48000)
    tracemalloc.start()
    try:
        assert len(read_int16(path, 8000, 5)) == 40_000
        assert tracemalloc.get_traced_memory()[1] < 4 << 20  # as float32 it has 24 MB
    finally:
        tracemalloc.stop()


# Names and files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"caf\xe9.wav", b"\xff\xfe.raw", b"sound.raw", b"a.b.mp3", b"-"])
def test_names_do_not_matter(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    try:
        path.write_bytes(wav())
    except (OSError, UnicodeError):
        pytest.skip("this system has no such names")
    assert np.array_equal(read_int16(path, RATE, 5), noise(4000))
    path.write_bytes(wav()[:-1])
    refused(path, "cut or damaged")


def test_what_is_no_regular_file_is_not_read(tmp_path):
    refused(tmp_path, "no regular file")
    refused(tmp_path / "nowhere.wav", "is not there", FileNotFoundError)
    refused(tmp_path / f"{'long' * 100}.wav", "is not there|cannot be reached", (FileNotFoundError, ValueError))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.wav")
        refused(tmp_path / "pipe.wav", "no regular file")  # and does not wait for a writer
        refused(Path("/dev/zero"), "no regular file")
    try:
        (tmp_path / "link.wav").symlink_to(tmp_path / "nowhere.wav")
    except OSError:
        pytest.skip("this system has no links")
    refused(tmp_path / "link.wav", "cannot be reached")


@pytest.mark.parametrize("after", [0, 30])
def test_a_disk_that_cannot_read(recording, monkeypatch, after):
    """The operating system's error is told, not that the file is cut."""
    break_disk(monkeypatch, after)
    path = recording(encode("wav", sound=noise(200_000)[:, None]))
    refused(path, rf"cannot be read \({os.strerror(errno.EIO)}\)")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_file_that_may_not_be_read(recording):
    path = recording(wav())
    path.chmod(0)
    refused(path, "cannot be read .*ermission")


# What was found by attacks ---------------------------------------------------------------------------------------


def test_an_aiff_with_fewer_samples_than_it_promises_is_refused(recording):
    data = bytearray(encode("aiff"))
    at = data.index(b"COMM") + 10
    assert struct.unpack_from(">I", data, at) == (30_000,)
    struct.pack_into(">I", data, at, 30_001)
    refused(recording(bytes(data)), "promises 30001 samples, and 30000 are there")


def test_what_is_too_short_for_a_single_sample_is_refused(recording):
    for frames in (1, 2, 7):
        path = recording(encode(sound=SOUND[:frames], rate=96_000))
        with pytest.raises(ValueError, match="sound.bin is too short: at 1000 Hz not one sample"):
            read_int16(path, 1000, 5)
