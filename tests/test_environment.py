"""The report on a machine: it tells the truth about versions, folders and decoding."""

import subprocess
import sys
from importlib.metadata import version

import numpy as np
import soundfile

from esc_lib import environment
from esc_lib.environment import AUDIO_FORMATS


def test_it_prints_a_line_for_everything_a_report_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("ESC_DATA", str(tmp_path / "here"))
    command = [sys.executable, "-m", "esc_lib.environment"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    found = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert list(found) == [
        "esc-course", "system", "processor", "device", "precision", "packages", "data", "runs", "audio",
    ]  # fmt: skip
    assert not done.stderr
    assert f"torch {version('torch')}," in found["packages"]
    assert found["data"] == f"{tmp_path / 'here'}, writable"
    assert found["audio"] == ", ".join(f"{name} ok" for name in AUDIO_FORMATS)


def test_a_decoder_that_fails_is_named(monkeypatch):
    def refuse(*_):
        raise RuntimeError("no such codec")

    monkeypatch.setattr(soundfile, "write", refuse)
    assert "mp3 FAILED (RuntimeError: no such codec)" in environment.environment()["audio"]


def test_a_decoder_that_gives_another_sound_is_named(monkeypatch):
    tone = np.sin(2 * np.pi * 440 / environment.RATE * np.arange(environment.RATE))
    monkeypatch.setattr(environment, "read_int16", lambda *_: (tone * 32767).astype(np.int16))
    assert "wav FAILED (a tone of 1000 Hz is read as 440 Hz)" in environment.environment()["audio"]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("numpy", "no-such-package"))
    assert environment.environment()["packages"].endswith("no-such-package missing")
