"""The course's built-in data set: ten sounds modelled on ESC-10's classes, made by numpy from a little physics.

It needs no download, no licence and only seconds: the notebooks use it by default, the tests always. The files are in
ESC-50's own layout (Piczak, "ESC: Dataset for Environmental Sound Classification", ACM MM 2015), so code that reads
this set reads the real one. The sounds are models, not recordings: an accuracy on them shows whether the code learns,
and nothing about real sounds.

The classes form three families; within a family the spectra are similar, and the sounds differ in how they evolve:

- noise: rain (steady), sea_waves (slow swells), crackling_fire (10 to 30 irregular clicks a second);
- pulses through resonances: clock_tick (1.5 to 4 a second), helicopter (8 to 20), chainsaw (60 to 120);
- voices: dog (a series of short barks), rooster (short, short, short, long), crying_baby (long, with vibrato),
  sneezing (a breath, a burst).

Every clip has its own microphone and room (a random equaliser, background noise, level), so that the average spectrum
alone does not give the class away.
"""

import csv
import os
import wave
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from esc_lib.arguments import as_path, check
from esc_lib.files import atomic_folder

SAMPLE_RATE = 44100  # Hz
SECONDS = 5
FOLDS = 5
LENGTH = SAMPLE_RATE * SECONDS  # samples in a clip
# The classes in the order of Tokozume et al., with ESC-50's numbers.
TARGETS = {
    "dog": 0, "rain": 10, "sea_waves": 11, "crying_baby": 20, "clock_tick": 38,
    "sneezing": 21, "helicopter": 40, "chainsaw": 41, "rooster": 1, "crackling_fire": 12,
}  # fmt: skip
COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file", "take")

Samples = npt.NDArray[Any]
_FFT = 240_000  # 0.44 s longer than a clip, so that resonances at its end do not wrap around to its start
_HZ = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE).astype(np.float32)  # single precision: the transforms take half the time
_HZ4 = np.maximum(_HZ, 1) ** 4
_OCTAVES = np.log2(np.maximum(_HZ, 20) / 20)  # 0 to 10 octaves above 20 Hz
_TIME = np.arange(LENGTH) / SAMPLE_RATE  # s


def _filter(x: Samples, gain: Samples) -> Samples:
    """Filters (LENGTH,) with a gain, real or complex, for each frequency in _HZ."""
    return np.fft.irfft(np.fft.rfft(x.astype(np.float32), _FFT) * gain.astype(np.complex64), _FFT)[:LENGTH]


def _unit(x: Samples) -> Samples:
    """Scales to a root mean square of 1."""
    return x / np.sqrt(np.mean(x**2) + 1e-20)


def _noise(rng: Generator, tilt: float = 0.0, low: float = 40.0, high: float = 16000.0) -> Samples:
    """Coloured noise, (LENGTH,), RMS 1: `tilt` dB per octave between the corners `low` and `high` in Hz."""
    band = 1 / np.sqrt((1 + np.float32(low**4) / _HZ4) * (1 + _HZ4 / np.float32(high**4)))  # Butterworth, order 2
    spectrum = rng.standard_normal(2 * len(_HZ), dtype=np.float32).view(np.complex64)
    return _unit(np.fft.irfft(spectrum * band * np.exp2(np.float32(tilt / 6.02) * _OCTAVES), _FFT)[:LENGTH])


def _resonate(x: Samples, centres: Samples, widths: Samples) -> Samples:
    """A sum of resonators (masses on springs): each rings at its centre and decays by 8.7 dB per 1 / (pi width) s."""
    damping = [1j * np.float32(w) * _HZ for w in widths]
    return _filter(x, sum(d / (np.float32(c**2) - _HZ**2 + d) for c, d in zip(centres, damping, strict=True)))


def _spread(rng: Generator, low: float, high: float, size: int | None = None) -> Any:
    """Random number(s) between low and high, log-uniform: pitch and tempo are perceived on a logarithmic scale."""
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def _drift(rng: Generator, per_second: float) -> Samples:
    """A slow random curve in [-1, 1], (LENGTH,): `per_second` random points a second, joined by straight lines."""
    points = rng.uniform(-1, 1, int(SECONDS * per_second) + 2)
    return np.interp(_TIME * per_second, np.arange(len(points)), points)


def _clicks(times: Samples, levels: Samples | float) -> Samples:
    """Impulses of the given levels at the given times in seconds, (LENGTH,); those outside the clip are dropped."""
    x, at = np.zeros(LENGTH), np.round(np.asarray(times) * SAMPLE_RATE).astype(int)
    inside = (at >= 0) & (at < LENGTH)
    np.add.at(x, at[inside], np.broadcast_to(levels, at.shape)[inside])
    return x


def _ticks(rate: Samples) -> Samples:
    """Times in seconds at which a wheel completes a turn; `rate`, (LENGTH,), is its turns per second."""
    return np.flatnonzero(np.diff(np.floor(np.cumsum(rate) / SAMPLE_RATE))) / SAMPLE_RATE


def _syllables(parts: list[tuple[Any, ...]]) -> tuple[Samples, Samples]:
    """Pitch in Hz and level in [0, 1], (LENGTH,) each, of (start s, length s, pitch points, attack, decay) parts."""
    pitch, level = np.full(LENGTH, 300.0), np.zeros(LENGTH)
    for start, seconds, points, attack, decay in parts:
        part = slice(max(int(start * SAMPLE_RATE), 0), max(int((start + seconds) * SAMPLE_RATE), 0))
        t = np.clip((_TIME[part] - start) / seconds, 0, 1)  # 0 to 1 within the syllable
        pitch[part] = np.interp(t, np.linspace(0, 1, len(points)), points)
        level[part] = np.minimum(t / attack, 1) * np.minimum((1 - t) / 0.1, 1) * np.exp(-decay * t)
    return pitch, level


def _voice(rng: Generator, pitch: Samples, level: Samples, breath: float) -> Samples:
    """Vocal cords (a sawtooth) and breath (noise) through four resonances of a throat of random length."""
    turns = np.cumsum(pitch * (1 + 0.01 * _drift(rng, 40))) / SAMPLE_RATE
    source = (1 - breath) * (2 * (turns % 1) - 1) + breath * 0.5 * _noise(rng, -6, 300)  # as steep as a sawtooth
    centres = _spread(rng, 0.8, 1.3) * np.array([800, 1500, 2900, 4300]) * _spread(rng, 0.8, 1.25, 4)
    return _resonate(source * level, centres, centres * _spread(rng, 0.1, 0.3))


def _record(rng: Generator, x: Samples, quiet: float = 0.0, end: float = SECONDS) -> Samples:
    """Simulates a recording of (LENGTH,): background noise, a random equaliser, a peak level between -10 and -1 dB.

    With probability `quiet`, the clip ends after the event, at `end` in seconds, and is zero-padded, as in ESC-50.
    """
    x = x / np.max(np.abs(x)) + 10 ** (rng.uniform(-60, -40) / 20) * _noise(rng, rng.uniform(-6, 0))
    gain = np.interp(_OCTAVES, np.arange(11), rng.normal(0, 5, 11)) + rng.normal(0, 1.5) * (_OCTAVES - 5)  # dB
    x = _filter(x, np.exp2(gain.astype(np.float32) / 6.02))
    x *= 10 ** (rng.uniform(-10, -1) / 20) / np.max(np.abs(x))
    if rng.random() < quiet:
        x[int((end + rng.uniform(0.05, 0.4)) * SAMPLE_RATE) :] = 0
    if rng.random() < 0.07:
        x[: int(rng.uniform(0.02, 0.2) * SAMPLE_RATE)] = 0
    return x


def dog(rng: Generator) -> Samples:
    """Barks: 3 to 6 of 0.11 to 0.22 s; the pitch jumps up, then falls; a hard start and a quick decay."""
    count, length, gap = rng.integers(3, 7), rng.uniform(0.12, 0.2), rng.uniform(0.26, 0.4)
    starts = rng.uniform(0.05, 0.5) + np.arange(count) * gap * rng.uniform(0.95, 1.1)
    f = _spread(rng, 300, 700)
    parts = []
    for start in starts:
        parts.append((start, length * rng.uniform(0.9, 1.1), (0.7 * f, f * rng.uniform(0.95, 1.1), 0.6 * f), 0.08, 2))
    return _record(rng, _voice(rng, *_syllables(parts), rng.uniform(0.1, 0.3)), 0.85, starts[-1] + length)


def rooster(rng: Generator) -> Samples:
    """A crow: cock-a-doodle-doo, three short syllables and one long one whose pitch arches and sinks."""
    f, tempo, start = _spread(rng, 450, 850), _spread(rng, 0.8, 1.25), rng.uniform(0.05, 0.8)
    parts = []
    for length, points in ((0.22, (0.7, 0.8)), (0.14, (0.9, 0.9)), (0.28, (0.9, 1.1)), (0.9, (0.9, 1.15, 1.0, 0.6))):
        parts.append((start, length * tempo, f * np.array(points), 0.15, 0))
        start += (length + rng.uniform(0.03, 0.08)) * tempo
    return _record(rng, _voice(rng, *_syllables(parts), rng.uniform(0.1, 0.4)), 0.85, start)


def crying_baby(rng: Generator) -> Samples:
    """Cries of 0.6 to 1.3 s between breaths: an arching pitch of 250 to 660 Hz, with a vibrato of 5 to 9 Hz."""
    f, start, parts = _spread(rng, 330, 550), rng.uniform(-0.5, 0.3), []
    while start < SECONDS:
        length, top = rng.uniform(0.6, 1.3), f * rng.uniform(1.0, 1.2)
        parts.append((start, length, (0.8 * f, top, top, 0.75 * f), 0.1, 0))
        start += length + rng.uniform(0.15, 0.4)
    pitch, level = _syllables(parts)
    shake = np.sin(2 * np.pi * rng.uniform(5, 9) * _TIME)
    pitch, level = pitch * (1 + rng.uniform(0.02, 0.06) * shake), level * (1 + rng.uniform(0.5, 0.9) * shake)
    return _record(rng, _voice(rng, pitch, level, rng.uniform(0.1, 0.4)))


def sneezing(rng: Generator) -> Samples:
    """Ah-choo: breath drawn in, 0.4 to 0.7 s and swelling, then a burst of air with a little falling voice."""
    start, draw, burst = rng.uniform(0.05, 0.6), rng.uniform(0.4, 0.7), rng.uniform(0.35, 0.6)
    f = _spread(rng, 250, 550)
    choo = start + draw + 0.08
    pitch, level = _syllables([(start, draw, (f, 1.1 * f), 1.0, 0), (choo, burst, (f, 0.5 * f), 0.04, 3)])
    level[: int((start + draw) * SAMPLE_RATE)] *= rng.uniform(0.2, 0.5)
    return _record(rng, _voice(rng, pitch, level, rng.uniform(0.9, 0.98)), 0.85, choo + burst)


def rain(rng: Generator) -> Samples:
    """Rain: steady noise from thousands of distant drops a second, and a hundred or so nearby ones."""
    count = int(_spread(rng, 60, 300) * SECONDS)
    clicks = _clicks(rng.uniform(0, SECONDS, count), rng.exponential(1, count))
    drops = _resonate(clicks, _spread(rng, 1000, 6000, 2), _spread(rng, 800, 2000, 2))
    return _record(rng, _noise(rng, rng.uniform(-5, 0), 150) + _spread(rng, 0.5, 1.5) * _unit(drops))


def sea_waves(rng: Generator) -> Samples:
    """Surf: noise that swells and breaks every 1.5 to 3.5 s; as a wave breaks, its noise gets brighter."""
    period = _spread(rng, 1.5, 3.5)
    phase = (_TIME / period + rng.random() + 0.15 * _drift(rng, 0.5)) % 1
    rise = rng.uniform(0.3, 0.6)
    swell = np.where(phase < rise, phase / rise, (1 - phase) / (1 - rise)) ** _spread(rng, 1.5, 3)
    tilt = rng.uniform(-5, 0)  # the lull between waves is darker by 3 dB per octave
    return _record(rng, (0.03 + swell) * _noise(rng, tilt, 150) + 0.04 * _noise(rng, tilt - 3))


def crackling_fire(rng: Generator) -> Samples:
    """Wood splitting: 10 to 30 clicks a second at irregular times, of very different levels, over a faint rumble."""
    count = rng.poisson(_spread(rng, 10, 30) * SECONDS) + 5
    clicks = _clicks(rng.uniform(0, SECONDS, count), _spread(rng, 0.15, 1, count) * rng.choice([-1, 1], count))
    clicks = _resonate(clicks, _spread(rng, 600, 5000, 3), _spread(rng, 80, 500, 3))
    bed = _noise(rng, rng.uniform(-5, 0), 60) * (1 + 0.3 * _drift(rng, 4))
    return _record(rng, clicks / np.max(np.abs(clicks)) + _spread(rng, 0.005, 0.03) * bed)


def clock_tick(rng: Generator) -> Samples:
    """Tick, tock: the escapement strikes 1.5 to 4 times a second, and three resonances ring a few ms."""
    times = rng.uniform(0, 0.25) + np.arange(0, SECONDS, 1 / _spread(rng, 1.5, 4))
    levels = np.where(np.arange(len(times)) % 2, rng.uniform(0.5, 1), 1.0)
    return _record(rng, _resonate(_clicks(times, levels), _spread(rng, 600, 5000, 3), _spread(rng, 60, 300, 3)))


def helicopter(rng: Generator) -> Samples:
    """The rotor: 8 to 20 blades a second slap the air, each a thud through low resonances, over turbine noise."""
    times = _ticks(_spread(rng, 8, 20) * (1 + 0.02 * _drift(rng, 1)))
    clicks = _clicks(times, rng.uniform(0.8, 1, len(times)))
    slaps = _resonate(clicks, _spread(rng, 150, 3000, 4), _spread(rng, 60, 300, 4))
    return _record(rng, _unit(slaps) * (1 + 0.3 * _drift(rng, 0.5)) + _spread(rng, 0.03, 0.15) * _noise(rng, -3))


def chainsaw(rng: Generator) -> Samples:
    """A two-stroke engine: 60 to 120 bangs a second through exhaust and bar resonances, louder as it revs up."""
    throttle = _drift(rng, 2)
    times = _ticks(_spread(rng, 65, 105) * (1 + 0.1 * throttle))
    clicks = _clicks(times, rng.uniform(0.6, 1, len(times)))
    bangs = _resonate(clicks, _spread(rng, 150, 3000, 4), _spread(rng, 60, 300, 4))
    return _record(rng, _unit(bangs) * (1 + 0.4 * throttle) + _spread(rng, 0.03, 0.15) * _noise(rng, -3))


_SOUNDS = (
    dog, rain, sea_waves, crying_baby, clock_tick, sneezing, helicopter, chainsaw, rooster, crackling_fire,
)  # fmt: skip
SOUNDS: dict[str, Callable[[Generator], Samples]] = {sound.__name__: sound for sound in _SOUNDS}


def make_synthetic(root: str | Path, *, seed: int = 0, clips_per_class: int = 4) -> Path:
    """Writes the data set in ESC-50's layout: audio/{FOLD}-{CLIP_ID}-{TAKE}-{TARGET}.wav and meta/esc50.csv.

    Each clip is 5 s long, at 44.1 kHz, mono, 16-bit. Its random numbers depend only on (seed, fold, class, index), not
    on the other clips, and the same seed gives the same bytes. Every clip is its own source recording: no `src_file` is
    in two folds. The folder gets its name only once it is complete.

    Args:
        root, seed: the folder to create, which is returned, and a number from 0; another gives other clips.
        clips_per_class: clips of each class in each of the 5 folds, at most 1000; 4 makes 200 clips, 88 MB.

    Raises:
        ValueError: an argument is not what it has to be.
        FileExistsError: `root` exists already.
        WriteError: it cannot be written.
    """
    root = as_path("root", root)
    check("seed", seed, int, 0, 2**63 - 1)
    check("clips_per_class", clips_per_class, int, 1, 1000)  # `_write_clip` numbers them with three digits
    if os.path.lexists(root):
        raise FileExistsError(f"{root} exists already: delete it or name another folder for the synthetic data set")
    with atomic_folder(root) as part:
        for folder in ("audio", "meta"):
            (part / folder).mkdir()
        clips = product(range(1, FOLDS + 1), SOUNDS, range(clips_per_class))
        rows = [_write_clip(part, seed, *clip) for clip in clips]
        with open(part / "meta" / "esc50.csv", "w", newline="", encoding="ascii") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *sorted(rows)])
    return root


def _write_clip(part: Path, seed: int, fold: int, name: str, index: int) -> tuple[Any, ...]:
    """Generates one clip, writes it, and returns its row of the table, in the order of COLUMNS."""
    number = list(SOUNDS).index(name)
    x = SOUNDS[name](np.random.default_rng((seed, fold, number, index)))
    source = fold * 100_000 + number * 1_000 + index  # made up; in ESC-50, the number of the recording on Freesound
    filename = f"{fold}-{source}-A-{TARGETS[name]}.wav"
    with open(part / "audio" / filename, "wb") as file, wave.open(file) as recording:
        recording.setparams((1, 2, SAMPLE_RATE, LENGTH, "NONE", "not compressed"))
        recording.writeframes(np.round(x * 32767).astype("<i2").tobytes())
    return filename, fold, TARGETS[name], name, True, source, "A"
