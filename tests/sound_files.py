"""Tiny data sets for the tests: sounds, folders in the layouts of ESC-50 and UrbanSound8K, and `Clips` made by hand."""

import csv
import errno
import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch

from esc_lib.data import audio
from esc_lib.data.clips import Clips

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"  # real recordings, on some machines

# Numbers and names as they stand in the published meta/esc50.csv (columns target, category).
ESC50_NAMES = {
    0: "dog", 1: "rooster", 2: "pig", 3: "cow", 4: "frog", 5: "cat", 6: "hen", 7: "insects", 8: "sheep", 9: "crow",
    10: "rain", 11: "sea_waves", 12: "crackling_fire", 13: "crickets", 14: "chirping_birds",
    15: "water_drops", 16: "wind", 17: "pouring_water", 18: "toilet_flush", 19: "thunderstorm",
    20: "crying_baby", 21: "sneezing", 22: "clapping", 23: "breathing", 24: "coughing",
    25: "footsteps", 26: "laughing", 27: "brushing_teeth", 28: "snoring", 29: "drinking_sipping",
    30: "door_wood_knock", 31: "mouse_click", 32: "keyboard_typing", 33: "door_wood_creaks", 34: "can_opening",
    35: "washing_machine", 36: "vacuum_cleaner", 37: "clock_alarm", 38: "clock_tick", 39: "glass_breaking",
    40: "helicopter", 41: "chainsaw", 42: "siren", 43: "car_horn", 44: "engine",
    45: "train", 46: "church_bells", 47: "airplane", 48: "fireworks", 49: "hand_saw",
}  # fmt: skip
# ESC-10's classes as numbers of ESC-50, in the order in which Tokozume et al. number them 0 to 9.
ESC10_ORDER = (0, 10, 11, 20, 38, 21, 40, 41, 1, 12)
# UrbanSound8K's column classID.
URBANSOUND8K_NAMES = {
    0: "air_conditioner", 1: "car_horn", 2: "children_playing", 3: "dog_bark", 4: "drilling",
    5: "engine_idling", 6: "gun_shot", 7: "jackhammer", 8: "siren", 9: "street_music",
}  # fmt: skip

ESC_COLUMNS = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
URBANSOUND8K_COLUMNS = ["slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class"]


# Sounds ----------------------------------------------------------------------------------------------------------


def tone(hz: float, rate: int, seconds: float = 1.0, amplitude: float = 0.5) -> np.ndarray:
    """A sine from time 0: `(frames,)` float64."""
    return amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def noise(frames: int, seed: int = 0) -> np.ndarray:
    """Every 16-bit value is equally likely: `(frames,)` int16."""
    return np.random.default_rng(seed).integers(-32768, 32768, frames).astype(np.int16)


def write_sound(path: Path, samples: np.ndarray, rate: int = 8000, subtype: str | None = None) -> Path:
    """Writes `(frames,)` or `(frames, channels)` in the format of the name's ending; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        soundfile.write(file, samples, rate, subtype=subtype, format=path.suffix[1:].upper())
    return path


def break_disk(monkeypatch, after: int = 0) -> None:
    """Lets reading of recordings fail as on a broken disk, after some successful calls for each file."""

    class Worn(io.FileIO):
        calls = 0

        def readinto(self, buffer):
            self.calls += 1
            if self.calls > after:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().readinto(buffer)

    monkeypatch.setattr(audio, "_File", type("Broken", (audio._File, Worn), {}))


# Data sets -------------------------------------------------------------------------------------------------------


def write_rows(path: Path, columns: list[str], rows: list[list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def write_esc_table(root: Path, names: list[str]) -> None:
    """ESC-50's table of the files `{fold}-{recording}-{take}-{target}.{ending}`."""
    rows = []
    for name in names:
        fold, recording, take, target = Path(name).stem.split("-")
        esc10 = int(target) in ESC10_ORDER
        rows.append([name, fold, target, ESC50_NAMES[int(target)], esc10, recording, take])
    write_rows(root / "meta" / "esc50.csv", ESC_COLUMNS, rows)


def write_esc(root: Path, sounds: dict[str, np.ndarray], rate: int = 8000, subtype: str | None = None) -> Path:
    """A folder in ESC-50's layout; `sounds` are samples by file name `{fold}-{recording}-{take}-{target}.{ending}`."""
    for name, samples in sounds.items():
        write_sound(root / "audio" / name, samples, rate, subtype)
    write_esc_table(root, list(sounds))
    return root


def esc_noises(folds: range = range(1, 6), targets: tuple[int, ...] = ESC10_ORDER, frames: int = 40, seed: int = 0):
    """One clip of noise for each class in each fold, all of different lengths, by file name."""
    names = [f"{fold}-{100 + i}-A-{target}.wav" for i, target in enumerate(targets) for fold in folds]
    return {name: noise(frames + i, seed + i) for i, name in enumerate(names)}


def write_urbansound8k(root: Path, sounds: dict[tuple[int, str], np.ndarray], rate: int = 8000) -> Path:
    """A folder in UrbanSound8K's layout; `sounds` are samples by (fold, `{fsID}-{classID}-{n}-{n}.{ending}`)."""
    rows = []
    for (fold, name), samples in sounds.items():
        write_sound(root / "audio" / f"fold{fold}" / name, samples, rate)
        recording, target = name.split("-")[:2]
        rows.append([name, recording, 0.0, 1.0, 1, fold, target, URBANSOUND8K_NAMES[int(target)]])
    write_rows(root / "metadata" / "UrbanSound8K.csv", URBANSOUND8K_COLUMNS, rows)
    return root


def read_prepared(folder: Path) -> dict[str, np.ndarray]:
    """Samples of each clip of a prepared set by the clip's file, by plain numpy and csv."""
    samples = np.load(folder / "clips.npy")
    with open(folder / "clips.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    starts = {row["file"]: int(row["offset"]) for row in rows}
    return {row["file"]: samples[starts[row["file"]] :][: int(row["frames"])] for row in rows}


def file_state(folder: Path) -> dict[str, tuple]:
    """What changes whenever a file is written again: inode, time and content of each file below `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in files}


# Clips -----------------------------------------------------------------------------------------------------------


def make_clips(waveforms: list, folds: list[int] | None = None, targets: list[int] | None = None) -> Clips:
    """A `Clips` of 8 kHz of these waveforms (16-bit numbers), end to end."""
    frames = [len(waveform) for waveform in waveforms]
    offsets = [sum(frames[:i]) for i in range(len(frames))]
    targets = targets or [i % 10 for i in range(len(frames))]
    folds = folds or [1 + i % 5 for i in range(len(frames))]
    classes = tuple(ESC50_NAMES[number] for number in ESC10_ORDER)
    table = pd.DataFrame(
        {
            "file": [f"audio/{i}.wav" for i in range(len(frames))],
            "fold": folds,
            "target": targets,
            "category": [classes[target] for target in targets],
            "offset": offsets,
            "frames": frames,
            "recording": range(len(frames)),
        }
    )
    return Clips(
        samples=torch.from_numpy(np.concatenate([np.asarray(w, dtype=np.int16) for w in waveforms])),
        offsets=torch.tensor(offsets),
        frames=torch.tensor(frames),
        targets=torch.tensor(targets),
        table=table,
        dataset="esc10",
        classes=classes,
        sample_rate=8000,
        subset=True,
        source_sha256="0" * 64,
    )
