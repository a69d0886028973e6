"""Files and folders that are complete or not there, and that can do no harm when they are opened."""

import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch

Kind = TypeVar("Kind", dict[str, Any], list[Any])


class WriteError(OSError):
    """A file or folder cannot be written; the message says which, why, and what to do."""


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turns the system's errors inside the block into a `WriteError` that names `path`."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(
            error.errno,
            f"{path} cannot be written ({error.strerror or error}): free space, check that you may write there and "
            "that no other program has it open, or choose another folder",
        ) from error


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file by `write`, so that a reader of `path` sees the old one or the new one, never a part.

    Raises:
        WriteError: it cannot be written; what was there before is still there.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with explain_write_errors(path):
            with open(part, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            _replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _replace(part: Path, path: Path) -> None:
    """`os.replace`; on Windows it fails for as long as another process reads `path`, which is not long."""
    for pause in (0.01, 0.1, 1.0):
        try:
            return os.replace(part, path)
        except PermissionError:
            if os.name != "nt":
                raise
            time.sleep(pause)
    os.replace(part, path)


@contextmanager
def atomic_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, which takes the name `target` when the block ends without an error.

    If the block raises, the folder is removed, and what `target` was before stays.

    Args:
        target: the folder's final name.
        replace: whether it takes the place of an older `target`. If not, and another process has made `target` in the
            meantime, that one stays.

    Raises:
        WriteError: something in it, or `target` itself, cannot be written.
    """
    with explain_write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
            folder = Path(temporary) / "content"  # mkdtemp's own folder is closed to other users
            folder.mkdir()
            yield folder
            try:
                os.replace(folder, target)
            except OSError:  # a folder that is not empty is never replaced
                if not target.is_dir():
                    raise
                if replace:
                    _swap(folder, target)


def _swap(folder: Path, target: Path) -> None:
    """Puts `folder` in the place of `target`, which steps aside; if that fails, it returns."""
    old = folder.with_name("old")
    os.replace(target, old)
    try:
        os.replace(folder, target)
    except OSError:
        os.replace(old, target)
        raise


def serialize(state: dict[str, Any]) -> memoryview:
    """What torch.save would write; straight into a file it would hide that the disk is full."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()


def load_tensors(path: Path) -> dict[str, Any]:
    """What torch.save wrote, on the CPU; never anything that could execute code.

    Raises:
        ValueError: the file would call something when it is opened; the message says what.
        Exception: the file is damaged, in the words of whatever found it.
    """
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    if unsafe:
        raise ValueError(f"it would call {', '.join(unsafe)} when it is opened, which no file of this course does")
    return torch.load(path, map_location="cpu", weights_only=True)


def write_json(path: Path, value: dict[str, Any] | list[Any]) -> None:
    """Writes a JSON file by `atomic_write`."""
    atomic_write(path, lambda file: file.write(json.dumps(value, indent=4).encode()))


def read_json(path: Path, kind: type[Kind]) -> Kind:
    """A JSON file of a run.

    Raises:
        ValueError: it is missing or damaged, or holds something else than `kind`.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): restore it, or train again") from error
    if not isinstance(value, kind):
        what = "names and values" if kind is dict else "a list"
        raise ValueError(f"{path} holds {value!r}, not {what}: restore it, or train again")
    return value
