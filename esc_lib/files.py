"""Files and folders that are complete or not there, and that can do no harm when they are opened."""

import io
import json
import os
import re
import reprlib
import secrets
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from filelock import FileLock, Timeout

Kind = TypeVar("Kind", dict[str, Any], list[Any])
WHAT_TO_DO = (
    "free space, check that you may write there and that no other program has it open, or choose another folder"
)

MAX_UNPACKED = 8  # times the size of a compressed file of tensors; a network's weights come nowhere near


class WriteError(OSError):
    """A file or folder cannot be written; the message says which, why, and what to do."""


@contextmanager
def explain_write_errors(path: Path, *, inside: Path | None = None) -> Iterator[None]:
    """Turns the system's errors inside the block into a `WriteError` that names `path`.

    Args:
        path: what is written.
        inside: the folder that it is written in, if the block also reads: errors about files elsewhere pass.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        if inside and error.filename is not None and inside not in Path(os.fsdecode(error.filename)).parents:
            raise
        reason = error.strerror or error
        raise WriteError(error.errno, f"{path} cannot be written ({reason}): {WHAT_TO_DO}") from error


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file by `write`, so that a reader of `path` sees the old one or the new one, never a part.

    Several processes may write the same file at the same time: the last one wins. A link in the place of `path` is
    replaced, and never followed.

    Raises:
        WriteError: it cannot be written; what was there before is still there.
    """
    part = path.with_name(f".{path.name}-{secrets.token_hex(4)}.part")
    try:
        with explain_write_errors(path):
            with open(part, "xb") as file:  # x: never through a link, never into another's file
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
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """A new folder in `parent` that is gone when the block ends; if the process is killed, `remove_parts` finds it.

    Raises:
        WriteError: it cannot be made.
    """
    with ExitStack() as stack:
        with explain_write_errors(parent):
            temporary = tempfile.TemporaryDirectory(prefix=f".{name}-", suffix=".part", dir=parent)
        yield Path(stack.enter_context(temporary))


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
    with temporary_folder(target.parent, target.name) as temporary:
        folder = temporary / "content"  # mkdtemp's own folder is closed to other users
        folder.mkdir()
        with explain_write_errors(target, inside=temporary):
            yield folder
        with explain_write_errors(target):
            try:
                os.replace(folder, target)
            except OSError:  # a folder that is not empty is never replaced
                if not target.is_dir():
                    raise
                if replace:
                    _swap(folder, target)


def make_folder(path: Path) -> None:
    """Makes a folder inside a run directory, or finds it there.

    Raises:
        WriteError: it cannot be made, or is a link, through which files elsewhere would be overwritten.
    """
    with explain_write_errors(path):
        path.mkdir(exist_ok=True)
        if path.is_symlink():
            raise OSError("it is a link, which is not written through")


def remove_parts(folder: Path, *names: str) -> None:
    """Removes what killed processes left half-written in a folder. The caller holds the lock of whoever writes there.

    Args:
        folder: where to look; not in folders inside it.
        names: final names of the files and folders; any if none is given.
    """
    for path in folder.iterdir():
        match = re.fullmatch(r"\.(.+)-[a-z0-9_]{8}\.part", path.name)
        if match and (match[1] in names or not names):
            with explain_write_errors(path):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Keeps every other process out of blocks with the same lock file; the system frees the lock of a dead process.

    Args:
        path: the lock file, which is made, stays empty, and is never followed if it is a link.
        wait: whether to wait until it is free.

    Raises:
        filelock.Timeout: another process holds it, and is not waited for.
        WriteError: the lock file cannot be made.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0, poll_interval=0.1)
    except Timeout:
        raise
    except OSError as error:
        reason = "it is a link" if path.is_symlink() else error.strerror or str(error)
        raise WriteError(error.errno, f"{path} cannot be written ({reason}): {WHAT_TO_DO}") from error
    try:
        yield
    finally:
        lock.release()


def _swap(folder: Path, target: Path) -> None:
    """Puts `folder` in the place of `target`, which steps aside; if that fails, it returns."""
    old = folder.with_name("old")
    os.replace(target, old)
    try:
        os.replace(folder, target)
    except OSError:
        os.replace(old, target)
        raise


def refuse_no_file(path: Path) -> None:
    """Raises OSError if a path is there but no regular file: a pipe would be waited for, a device read for ever."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError("it is no regular file")


def serialize(state: dict[str, Any], *, compress: bool = False) -> memoryview:
    """What torch.save would write; straight into a file it would hide that the disk is full.

    Args:
        state: tensors, by name.
        compress: whether the parts of the file, which is a ZIP archive, are compressed; torch.load reads that too.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    if compress:
        plain, buffer = buffer, io.BytesIO()
        with zipfile.ZipFile(plain) as parts, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
            for part in parts.infolist():
                packed.writestr(part.filename, parts.read(part))
    return buffer.getbuffer()


def load_tensors(path: Path) -> dict[str, Any]:
    """What torch.save wrote, on the CPU; never anything that could execute code.

    Raises:
        ValueError: the file would call something when it is opened (the message says what), or unpacks to many times
            its size, or a bit of it changed.
        Exception: the file is damaged, in the words of whatever found it.
    """
    refuse_no_file(path)
    if zipfile.is_zipfile(path):  # it is, unless PyTorch before 1.6 wrote it
        with zipfile.ZipFile(path) as file:
            if sum(part.file_size for part in file.infolist()) > MAX_UNPACKED * path.stat().st_size:
                raise ValueError(f"it unpacks to more than {MAX_UNPACKED} times its size, which no network does")
            damaged = file.testzip()  # torch.load verifies no checksum
        if damaged:
            raise ValueError(f"its part {damaged} is not what was written")
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    if unsafe:
        raise ValueError(f"it would call {', '.join(unsafe)} when it is opened, which no file of this course does")
    with torch.sparse.check_sparse_tensor_invariants():  # else one that lies about its indices ends the process
        return torch.load(path, map_location="cpu", weights_only=True)


def write_json(path: Path, value: dict[str, Any] | list[Any]) -> None:
    """Writes a JSON file by `atomic_write`."""
    atomic_write(path, lambda file: file.write(json.dumps(value, indent=4).encode()))


def read_json(path: Path, kind: type[Kind], *, remedy: str = "restore it, or train again") -> Kind:
    """A JSON file.

    Args:
        path: the file.
        kind: what it holds, `dict` or `list`.
        remedy: what to do if it does not, as the end of a message.

    Raises:
        ValueError: it is missing or damaged, or holds something else than `kind`.
    """
    try:
        refuse_no_file(path)
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # the last of lists in lists in lists
        raise ValueError(f"{path} cannot be read ({error}): {remedy}") from error
    if not isinstance(value, kind):
        what = "names and values" if kind is dict else "a list"
        raise ValueError(f"{path} holds {reprlib.repr(value)}, not {what}: {remedy}")
    return value
