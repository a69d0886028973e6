"""Files that are whole or not there, and that can do no harm when they are opened."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch


def write_whole(path: Path, write: Callable) -> None:
    """Writes a file so that whoever looks sees the old one or the new one, never a part.

    Args:
        path: the file.
        write: is given a binary file to write to.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise OSError(
            error.errno, f"{path} cannot be written ({error.strerror}): is there space, and may you write there?"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def load_tensors(path: Path) -> dict:
    """What torch.save wrote, on the CPU; never anything that could execute code.

    Raises:
        ValueError: the file would call something when it is opened; the message says what.
        Exception: the file is damaged, in the words of whoever found it.
    """
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    if unsafe:
        raise ValueError(f"it would call {', '.join(unsafe)} when it is opened, which no file of this course does")
    return torch.load(path, map_location="cpu", weights_only=True)


def tensor_bytes(state: dict) -> memoryview:
    """What torch.save would write; straight into a file it would hide that the disk is full."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()


def write_json(path: Path, value: dict | list) -> None:
    """Writes a JSON file by `write_whole`."""
    write_whole(path, lambda file: file.write(json.dumps(value, indent=4).encode()))


def read_json(path: Path, kind: type = dict) -> dict | list:
    """A JSON file of a run.

    Raises:
        ValueError: it is missing or damaged, or holds something else than `kind`.
    """
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): restore it, or train again") from error
    if not isinstance(value, kind):
        what = "names and values" if kind is dict else "a list"
        raise ValueError(f"{path} holds {value!r}, not {what}: restore it, or train again")
    return value
