"""The built-in data set: its layout, its repeatability, the physics its docstrings state, and how hard it is."""

import csv
import hashlib
from collections import Counter

import numpy as np
import pytest
import soundfile
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from esc_lib.data import synthetic
from esc_lib.data.synthetic import LENGTH, SAMPLE_RATE, SECONDS, SOUNDS, TARGETS, make_synthetic
from esc_lib.files import WriteError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_synthetic(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def rows(root):
    with open(root / "meta" / "esc50.csv", newline="", encoding="ascii") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def clips(root, rows):
    return [soundfile.read(root / "audio" / row["filename"], dtype="int16")[0] for row in rows]


def some(name, count=5):
    """A few clips of one class, without the digital silence, (count, n) of them."""
    clips = (SOUNDS[name](np.random.default_rng((9, i))) for i in range(count))
    return [np.trim_zeros(x) for x in clips]


def envelope(x, frames_per_second):
    """Root mean square of each frame, (n,)."""
    hop = SAMPLE_RATE // frames_per_second
    return np.sqrt(np.mean(x[: len(x) // hop * hop].reshape(-1, hop) ** 2, axis=1))


def envelope_peak(x, low, high):
    """Frequency in Hz between low and high at which the envelope moves most."""
    e = envelope(x, 1000)
    power = np.abs(np.fft.rfft((e - e.mean()) * np.hanning(len(e)), 2**16))
    hz = np.fft.rfftfreq(2**16, 1 / 1000)
    return hz[np.argmax(power * (hz >= low) * (hz <= high))]


def period(x, low, high):
    """Strongest autocorrelation, 0 to 1, at a period of a pitch between low and high Hz, and that pitch."""
    power = np.abs(np.fft.rfft(x - x.mean(), 2 * len(x))) ** 2
    r = np.fft.irfft(power)[: len(x)]
    lags = np.arange(int(SAMPLE_RATE / high), int(SAMPLE_RATE / low))
    best = lags[np.argmax(r[lags])]
    return r[best] / r[0], SAMPLE_RATE / best


def loudest(x, seconds):
    """The loudest stretch of x of the given length."""
    n = int(seconds * SAMPLE_RATE)
    return max((x[i : i + n] for i in range(0, len(x) - n + 1, n // 2)), key=lambda part: np.sum(part**2))


def unsteadiness(x):
    """Standard deviation over mean of the level in frames of 0.1 s."""
    e = envelope(x, 10)
    return e.std() / e.mean()


def quiet_share(x):
    """Level of the middle 2 ms frame over the level of the whole: small where the energy is in a few moments."""
    return np.median(envelope(x, 500)) / np.sqrt(np.mean(x**2))


def kurtosis(x):
    """3 for Gaussian noise, more where rare peaks stand out."""
    return np.mean((x - x.mean()) ** 4) / np.var(x) ** 2


def test_layout_is_that_of_esc50(root, rows):
    assert list(rows[0]) == ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    assert len(rows) == 200 and rows == sorted(rows, key=lambda row: row["filename"])
    assert sorted(p.name for p in (root / "audio").iterdir()) == [row["filename"] for row in rows]
    assert sorted(p.name for p in root.iterdir()) == ["audio", "meta"]
    for row in rows:
        assert row["filename"] == "{fold}-{src_file}-{take}-{target}.wav".format(**row)
        assert row["esc10"] == "True" and int(row["target"]) == TARGETS[row["category"]]
        info = soundfile.info(root / "audio" / row["filename"])
        assert (info.samplerate, info.frames, info.channels, info.subtype) == (44100, 220_500, 1, "PCM_16")
    counts = Counter((int(row["fold"]), row["category"]) for row in rows)
    assert counts == {(fold, name): 4 for fold in range(1, 6) for name in SOUNDS}
    folds_of_sources = {(row["src_file"], row["fold"]) for row in rows}
    assert len(folds_of_sources) == len({source for source, _ in folds_of_sources})  # no source is in two folds


def test_names_and_order_are_those_of_esc10():
    expected = "dog rain sea_waves crying_baby clock_tick sneezing helicopter chainsaw rooster crackling_fire"
    assert list(SOUNDS) == expected.split()
    assert [TARGETS[name] for name in SOUNDS] == [0, 10, 11, 20, 38, 21, 40, 41, 1, 12]
    assert SAMPLE_RATE == 44100 and SECONDS == 5 and LENGTH == 220_500


def test_levels_spread_without_clipping(clips):
    peaks = np.array([np.abs(x.astype(int)).max() for x in clips])
    assert 9_000 < peaks.min() < 12_000 and 28_000 < peaks.max() < 30_000  # -10 and -1 dB of full scale, 32,767
    at_peak = [np.sum(np.abs(x.astype(int)) == peak) for x, peak in zip(clips, peaks, strict=True)]
    assert max(at_peak) <= 3  # a plateau would be many samples long


def test_short_sounds_end_and_some_clips_begin_in_digital_silence(clips, rows):
    silent_end = [row["category"] for row, x in zip(rows, clips, strict=True) if not x[-SAMPLE_RATE // 2 :].any()]
    assert set(silent_end) == {"dog", "rooster", "sneezing"}
    assert 40 < len(silent_end) < 60  # of 60: some clips record on
    assert 4 < sum(not x[:800].any() for x in clips) < 40


def hashes(root):
    return {p.relative_to(root): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*.*")}


def test_the_seed_alone_decides_the_bytes(root, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "FOLDS", 1)
    assert make_synthetic(tmp_path / "once", clips_per_class=2) == tmp_path / "once"
    made = (make_synthetic(tmp_path / f"{i}", seed=seed, clips_per_class=1) for i, seed in enumerate((0, 0, 1)))
    once, again, other = map(hashes, made)
    table = max(once)
    assert len(once) == 11 and once == again
    assert table.name == "esc50.csv" and once.keys() == other.keys()
    assert all(once[name] != other[name] for name in once if name != table)
    del once[table]
    assert once.items() <= hashes(tmp_path / "once").items() and once.items() <= hashes(root).items()
    assert len(set(once.values())) == 10


def test_clock_ticks_at_the_stated_rate():
    for x in some("clock_tick"):
        e = envelope(x, 200)
        ticks = np.flatnonzero((e[1:-1] > e[:-2]) & (e[1:-1] >= e[2:]) & (e[1:-1] > 0.2 * e.max())) / 200
        gaps = np.diff(ticks)[np.diff(ticks) > 0.05]  # a resonance may beat within one tick
        assert 1.4 < 1 / np.median(gaps) < 4.1
        assert np.ptp(gaps) < 0.12 * np.median(gaps) + 0.02


def test_helicopter_and_chainsaw_beat_at_the_stated_rates():
    assert all(7.5 < envelope_peak(x, 4, 200) < 21 for x in some("helicopter"))
    assert all(55 < envelope_peak(x, 30, 200) < 120 for x in some("chainsaw"))


def test_the_baby_is_harmonic_and_the_rain_is_not():
    found = [period(loudest(x, 0.06), 250, 800) for x in some("crying_baby")]
    assert all(strength > 0.5 and 270 < pitch < 760 for strength, pitch in found)
    assert all(period(loudest(x, 0.06), 250, 800)[0] < 0.5 for x in some("rain"))


def test_rain_is_steady_waves_swell_and_fire_crackles():
    rain, waves, fire = some("rain"), some("sea_waves"), some("crackling_fire")
    assert max(map(unsteadiness, rain)) < 0.3 < 0.5 < min(map(unsteadiness, waves))
    assert max(map(kurtosis, waves)) < 15 < np.median([*map(kurtosis, fire)])
    assert np.median([*map(quiet_share, fire)]) < 0.55 < min(map(quiet_share, rain))


def test_the_rooster_crows_three_short_and_one_long():
    for x in some("rooster"):
        e = np.convolve(envelope(x, 100), np.full(3, 1 / 3), "same")
        turns = np.flatnonzero(np.diff((e > 0.1 * e.max()).astype(int), prepend=0, append=0))
        lengths = turns[1::2] - turns[::2]
        assert lengths[-1] > 60 and lengths[-1] == lengths.max()  # the last, in 10 ms
        assert 1 <= np.sum(lengths[:-1] > 5) <= 3  # a short gap may be lost in the ringing


def test_the_average_spectrum_alone_does_not_give_the_class_away(clips, rows):
    edges = np.geomspace(50, 8000, 66)
    hz = np.fft.rfftfreq(4096, 1 / SAMPLE_RATE)
    up, down = (hz - edges[:-2, None]) / np.diff(edges)[:-1, None], (edges[2:, None] - hz) / np.diff(edges)[1:, None]
    bands = np.maximum(np.minimum(up, down), 0) + (np.abs(hz - edges[1:-1, None]) < 8)  # (64, 2049)
    features = []
    for x in clips:
        frames = np.lib.stride_tricks.sliding_window_view(x / np.float32(32768), 4096)[::4096]
        power = np.mean(np.abs(np.fft.rfft(frames * np.hanning(4096).astype(np.float32))) ** 2, axis=0)
        features.append(np.log10(bands @ power + 1e-6))
    features, classes = np.array(features), np.array([row["category"] for row in rows])
    folds = np.array([int(row["fold"]) for row in rows])
    scores = []
    for fold in range(1, 6):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=2000))
        model.fit(features[folds != fold], classes[folds != fold])
        scores.append(model.score(features[folds == fold], classes[folds == fold]))
    assert 0.3 < np.mean(scores) < 0.75


@pytest.mark.parametrize("what", ["a folder", "a link to nowhere"])
def test_an_existing_root_is_refused(tmp_path, what):
    root = tmp_path / "set"
    root.mkdir() if what == "a folder" else root.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="exists already: delete it"):
        make_synthetic(root)
    assert list(tmp_path.iterdir()) == [root]


BAD_ARGUMENTS = [
    *(("root", value) for value in (None, 3, "", "a\0b", b"x")),
    *(("seed", value) for value in (-1, 1.0, "1", None, True, 2**63)),
    *(("clips_per_class", value) for value in (0, -1, 1001, 1.0, "4", None, True)),
]


@pytest.mark.parametrize(("name", "value"), BAD_ARGUMENTS)
def test_impossible_arguments_are_named(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"^{name} is "):
        make_synthetic(**{"root": tmp_path / "set", name: value})
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_make_leaves_nothing(tmp_path, monkeypatch):
    write, made = synthetic._write_clip, []

    def fails_at_the_fourth(folder, *arguments):
        made.append(folder)
        if len(made) == 4:
            raise OSError("disk full")
        return write(folder, *arguments)

    monkeypatch.setattr(synthetic, "_write_clip", fails_at_the_fourth)
    with pytest.raises(WriteError, match=r"set cannot be written \(disk full\)"):
        make_synthetic(tmp_path / "set")
    assert len(made) == 4 and made[0] != tmp_path / "set"
    assert list(tmp_path.iterdir()) == []
