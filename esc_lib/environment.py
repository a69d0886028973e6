"""What a report of a problem needs to say about a machine: `python -m esc_lib.environment`."""

import os
import platform
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from esc_lib.data.audio import read_int16
from esc_lib.paths import data_folder, runs_folder
from esc_lib.training.compute import auto_precision, hardware, pick_device

__all__ = ["environment"]

PACKAGES = ("torch", "torchaudio", "numpy", "pandas", "soundfile", "soxr", "jupyterlab", "papermill", "nbval")
AUDIO_FORMATS = ("wav", "flac", "ogg", "mp3")
RATE = 16000  # Hz, of the tone that is written and read


def environment() -> dict[str, str]:
    """The course's version and commit, its packages', the device and what "auto" means on it, folders, audio."""
    device = pick_device()
    of = hardware(device)
    return {
        "esc-course": f"{of['esc-course']}, commit {of['commit'] or 'unknown: no clone, or git is missing'}",
        "system": f"{platform.platform()}, Python {platform.python_version()}",
        "processor": f"{hardware(torch.device('cpu'))['device']}, {os.cpu_count()} threads, {of['instructions']}",
        "device": f"{device}, {of['device']}, {of['threads']} threads in PyTorch",
        "precision": f"auto is {auto_precision(device)}",
        "packages": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        "data": _folder_text(data_folder()),
        "runs": _folder_text(runs_folder()),
        "audio": ", ".join(f"{name} {_decoding(name)}" for name in AUDIO_FORMATS),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _folder_text(folder: Path) -> str:
    """A folder, and whether the course can write to it; its parent counts if it is not there yet."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return f"{folder}, {'writable' if os.access(existing, os.W_OK) else 'not writable'}"


def _decoding(audio_format: str) -> str:
    """Whether a tone survives being written in a format and read by the course: "ok", or what went wrong."""
    import soundfile

    tone = 0.5 * np.sin(2 * np.pi * 1000 / RATE * np.arange(RATE))
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"tone.{audio_format}"
            soundfile.write(path, tone, RATE)
            spectrum = np.abs(np.fft.rfft(read_int16(path, RATE, 1.0), n=RATE))
    except Exception as error:  # whatever it is, it belongs into the report
        return f"FAILED ({type(error).__name__}: {error})"
    return "ok" if spectrum.argmax() == 1000 else f"FAILED (a tone of 1000 Hz is read as {spectrum.argmax()} Hz)"


if __name__ == "__main__":
    for name, text in environment().items():
        print(f"{name}: {text}")
