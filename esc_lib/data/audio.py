"""Recordings: decoded block by block, mixed to mono, resampled, and refused unless they are whole."""

import io
import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

Waveform = npt.NDArray[np.float32]
Samples = npt.NDArray[np.int16]
# Formats whose files tell whether they are whole. libsndfile knows more, whose ends nobody can check.
FORMATS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3")
RATES = (1000, 1_000_000)  # Hz, lowest and highest
LONGEST = 24 * 3600  # seconds
_BLOCK = 1 << 17  # numbers, of all channels, that are decoded at a time
_AGAIN = "download it again, or convert it to wav or flac with a program that plays it to the end"
# Formats of chunks, by their first bytes: where the first chunk begins, how name and size are stored, how many bytes
# the size counts before the chunk's content, and of how many bytes a chunk's length is a multiple.
_CHUNKS = {
    b"RIFF": (12, "<4sI", 0, 2),
    b"RIFX": (12, ">4sI", 0, 2),
    b"RF64": (12, "<4sI", 0, 2),
    b"FORM": (12, ">4sI", 0, 2),
    b"riff": (40, "<16sQ", 24, 8),
    b"caff": (8, ">4sQ", 0, 1),
}
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Recording:
    """What a recording's header says; the samples are read by `int16_blocks`.

    Attributes:
        path: the file.
        container, encoding: as libsndfile calls them: WAV, PCM_16.
        rate, channels, frames: Hz, number of channels, and number of samples of each.
    """

    path: Path
    container: str
    encoding: str
    rate: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        return self.frames / self.rate


class _File(io.FileIO):
    """A file that libsndfile reads, which no exception could pass through: the last one is kept."""

    problem: OSError | None = None

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            return super().readinto(buffer) or 0
        except OSError as error:
            self.problem = error
            return 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except OSError:  # before the file's start: libsndfile sees for itself that it did not move
            return self.tell()


def open_recording(path: Path) -> Recording:
    """Reads a recording's header: wav, flac, ogg, mp3, aiff, au, caf, w64 or rf64.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it cannot be read, is no such file, or one of no samples, of a rate outside `RATES`, or of more than
            a day.
    """
    with _decoder(path) as (_, sound):
        of = Recording(path, sound.format, sound.subtype, sound.samplerate, sound.channels, sound.frames)
    name = shown(path)
    if of.container not in FORMATS or of.encoding.startswith("ALAC"):
        kind = f"{of.container} with {of.encoding}"
        raise ValueError(f"{name} is {kind}, whose end cannot be checked: convert it to wav or flac")
    if of.frames <= 0:
        raise ValueError(f"{name} holds no samples; {_AGAIN}")
    if not RATES[0] <= of.rate <= RATES[1]:
        raise ValueError(f"{name} has a sampling rate of {of.rate} Hz, not {RATES[0]} to {RATES[1]}; {_AGAIN}")
    if of.seconds > LONGEST:
        hours = f"{of.seconds / 3600:.3g} hours, more than {LONGEST // 3600}"
        raise ValueError(f"{name} says that it lasts {hours}: cut it into parts; or, if that is not so, {_AGAIN}")
    return of


def int16_blocks(recording: Recording, sample_rate: int) -> Iterator[Samples]:
    """A recording's samples at another rate, rounded to 16 bits, block by block: each `(frames,)`.

    Args:
        recording: of `open_recording`.
        sample_rate: of the blocks, in Hz.

    Raises:
        ValueError: the recording cannot be read, is cut or damaged, or has samples that are not finite; perhaps only
            after its last block.
    """
    stream, total = soxr.ResampleStream(recording.rate, sample_rate, 1), 0
    for block in _mono_blocks(recording):
        yield (samples := _round(stream.resample_chunk(block)))
        total += len(samples)
    yield (samples := _round(stream.resample_chunk(np.empty(0, np.float32), last=True)))
    if not total + len(samples):
        raise ValueError(f"{shown(recording.path)} is too short: at {sample_rate} Hz not one sample of it is left")


def read_int16(path: Path, sample_rate: int, seconds: float) -> Samples:
    """The beginning of a recording, at another rate and rounded to 16 bits. The whole recording is checked.

    Args:
        path: of the recording.
        sample_rate: of the result, in Hz.
        seconds: longest duration of the result.

    Shape:
        `(at most seconds * sample_rate,)`

    Raises:
        FileNotFoundError, ValueError: as `open_recording` and `int16_blocks`.
    """
    room, kept = round(seconds * sample_rate), []
    for block in int16_blocks(open_recording(path), sample_rate):
        kept.append(block[:room].copy())
        room -= len(kept[-1])
    return np.concatenate(kept)


def shown(path: Path) -> str:
    """A path for a message, which can always be printed: what is not UTF-8 in it is escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Turns the system's errors about a recording inside the block into a ValueError that names it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{shown(path)} cannot be read ({reason}): check it, or download it again") from error


@contextmanager
def _decoder(path: Path) -> Iterator[tuple[_File, soundfile.SoundFile]]:
    if not os.path.lexists(path):
        raise FileNotFoundError(f"{shown(path)} is not there: give the path of a recording")
    if not os.path.isfile(path):  # a pipe would be waited for, a device read for ever
        raise ValueError(f"{shown(path)} is no regular file, or cannot be reached: give the path of a recording")
    with explain_read_errors(path), _File(path) as file:
        file.name = ""  # soundfile would take an ending .raw for the format
        try:
            with soundfile.SoundFile(file) as sound:
                yield file, sound
        except soundfile.LibsndfileError as error:
            if file.problem:
                raise file.problem from error
            reason = error.error_string
            raise ValueError(f"{shown(path)} cannot be decoded ({reason}): not audio, or damaged; {_AGAIN}") from error


def _mono_blocks(recording: Recording) -> Iterator[Waveform]:
    """The mean of a recording's channels, full scale at 1: blocks `(frames,)` float32. Raises as `int16_blocks`."""
    name, frames = shown(recording.path), 0
    with _decoder(recording.path) as (file, sound):
        if flaw := _flaw(recording):
            raise ValueError(f"{name} is cut or damaged: {flaw}; {_AGAIN}")
        buffer = np.empty((max(1, _BLOCK // recording.channels), recording.channels), np.float32)
        # `out` asks for as much as there is; by default soundfile reads no more than the header promises.
        while frames <= recording.frames and len(block := sound.read(out=buffer)):
            frames += len(block)
            if not np.isfinite(block).all():
                raise ValueError(f"{name} holds samples that are not finite (NaN or infinite): repair or remove it")
            yield block.mean(axis=1)
        if file.problem:
            raise file.problem
    if frames != recording.frames:
        found = f"at least {frames}" if frames > recording.frames else frames
        raise ValueError(f"{name} is cut or damaged: it has {found} of {recording.frames} samples; {_AGAIN}")


def _round(resampled: Waveform) -> Samples:
    return np.clip(np.rint(resampled * 32768), -32768, 32767).astype(np.int16)


def _flaw(recording: Recording) -> str:
    """What a file's own structure says is wrong with it, or "".

    libsndfile decodes what is left of a file, and mentions what is missing at most in a log of 2047 characters, which
    a long comment fills.
    """
    with open(recording.path, "rb") as file:
        size = os.path.getsize(recording.path)
        if recording.container == "OGG":
            return _ogg_flaw(file)
        if recording.container == "MP3":
            return "" if _says_how_long(file) else "its header does not say how long it is"
        if recording.container == "FLAC":
            return ""  # libsndfile checks it
        end, frames = _end_of_samples(file, size)
        if end is None:
            return "its samples cannot be found"
        if end > size:
            return f"its samples end at byte {end} by its header, but it has {size} bytes"
        if recording.container == "AIFF" and recording.encoding.startswith("PCM") and frames != recording.frames:
            return f"its header promises {frames} samples, and {recording.frames} are there"
        return ""


def _end_of_samples(file: io.BufferedReader, length: int) -> tuple[int | None, int | None]:
    """Where the chunk of samples ends by its header, in bytes from the file's start, and how many an aiff promises.

    Args:
        file: at its start.
        length: of the file, in bytes.

    Returns:
        None where there is no such chunk.
    """
    frames = None
    magic, rest = file.read(4), file.read(8)
    if magic in (b".snd", b"dns."):
        offset, size = struct.unpack(">2I" if magic == b".snd" else "<2I", rest)
        return int(offset + size), None
    if magic not in _CHUNKS:  # a tag of an mp3 in front, say, for which libsndfile cuts off as much at the end
        return None, None
    start, layout, counted, multiple = _CHUNKS[magic]
    file.seek(start)
    long_size = 0
    for _ in range(10_000):  # no recording has more chunks than that
        header = file.read(struct.calcsize(layout))
        if len(header) < struct.calcsize(layout):
            break
        name, size = struct.unpack(layout, header)
        size, here = max(0, size - counted), file.tell()
        if name[:4] == b"ds64":  # the size of RF64's samples, which is too long for its own chunk
            (long_size,) = struct.unpack("<8xQ", file.read(16))
        if magic == b"FORM" and name == b"COMM" and size >= 6:
            (frames,) = struct.unpack(">2xI", file.read(6))
        if name[:4] in (b"data", b"SSND"):
            return int(here + (long_size if magic == b"RF64" and size == 0xFFFFFFFF else size)), frames
        if here + size > length:
            break
        file.seek(here + size + -size % multiple)
    return None, frames


def _ogg_flaw(file: io.BufferedReader) -> str:
    """An ogg file is pages: each has a checksum and a number in its stream, and a stream's last page says so."""
    numbers: dict[int, int] = {}
    while header := file.read(27):
        if len(header) < 27 or header[:4] != b"OggS":
            return "what follows its last whole page is no page"
        flags, stream, number, checksum, segments = struct.unpack("<5xB8xIIIB", header)
        lengths = file.read(segments)
        page = header[:22] + bytes(4) + header[26:] + lengths + file.read(sum(lengths))
        if checksum != _ogg_checksum(page):
            return f"page {number} is cut or wrong"
        if number != numbers.get(stream, -1) + 1:
            return f"page {number} follows page {numbers.get(stream, -1)}"
        numbers[stream] = number
        if flags & 4:
            del numbers[stream]
    return "its last page is missing" if numbers else ""


def _ogg_checksum(page: bytes) -> int:
    """zlib's CRC-32 with the bits of every byte in the other order, and zeros at first."""
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def _says_how_long(file: io.BufferedReader) -> bool:
    """Whether an mp3 has the frame that holds its length; without it libsndfile guesses, and reads no further."""
    header, skip = file.read(10), 0
    if header[:3] == b"ID3":
        for byte in header[6:]:
            skip = skip << 7 | byte & 127
        skip += 10
    file.seek(skip)
    start = file.read(4096)
    mark = re.search(rb"VBRI|(?:Xing|Info)...(.)", start, re.DOTALL)
    return bool(mark and (mark[1] is None or mark[1][0] & 1))  # that bit: the number of frames is there
