"""One recording: decoded by libsndfile, mixed to mono, resampled by soxr."""

import re
from pathlib import Path

import numpy as np
import soundfile
import soxr


def read_audio(path: str | Path) -> tuple[np.ndarray, int]:
    """Decodes a recording (anything libsndfile reads) and averages its channels.

    Returns:
        waveform `(frames,)` float32, full scale at 1.0, and its sampling rate in Hz.

    Raises:
        ValueError: empty, truncated, not audio, or with samples that are not numbers.
    """
    try:
        with soundfile.SoundFile(path) as file:
            channels = file.read(dtype="float32", always_2d=True)
            log, rate = file.extra_info, file.samplerate
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path} cannot be decoded ({error.error_string}): not audio, or damaged; {_AGAIN}") from error
    # libsndfile reads what is left of a truncated file and says so in its log alone.
    cut = re.search(r"^data : (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    if cut or any(sign in log for sign in _CUT_OGG):
        detail = f": {cut[2]} of {cut[1]} bytes of audio are there" if cut else ""
        raise ValueError(f"{path} is truncated{detail}; {_AGAIN}")
    if len(channels) == 0:
        raise ValueError(f"{path} holds no samples; {_AGAIN}")
    if not np.isfinite(channels).all():
        raise ValueError(f"{path} holds samples that are not numbers (NaN or infinite): repair or remove it")
    return channels.mean(axis=1), rate


_AGAIN = "fetch it again"
# What the log says of an ogg cut inside a page, between two pages, and inside its last one.
_CUT_OGG = ("without an End-Of-Stream", "Last page lacks an end-of-stream", "Junk after the last page")


def to_int16(waveform: np.ndarray, rate: int, sample_rate: int, seconds: float) -> np.ndarray:
    """Resamples a waveform `(frames,)` from `rate` to `sample_rate` Hz, cuts it at `seconds`, rounds it to int16."""
    resampled = soxr.resample(waveform, rate, sample_rate)
    cut = resampled[: round(seconds * sample_rate)]
    return np.clip(np.rint(cut * 32768), -32768, 32767).astype(np.int16)
