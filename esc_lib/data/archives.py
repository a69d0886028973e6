"""Extracting a downloaded archive without ever writing outside its folder."""

import gzip
import io
import lzma
import os
import re
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from esc_lib.arguments import as_path, check
from esc_lib.files import atomic_folder
from esc_lib.progress import progress_bar

MOST_MEMBERS = 50_000  # UrbanSound8K has 8,750
LONGEST_HEADER = 1 << 20  # bytes between two members of a tar, or behind the last; a name takes some hundred
Archive = tarfile.TarFile | zipfile.ZipFile

# What zipfile and tarfile raise for damaged or exotic archives. A plain OSError comes from the disk.
DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, UnicodeDecodeError,
    RuntimeError,  # encrypted, or compressed in a way that zipfile does not support
)  # fmt: skip


def extract(archive: str | Path, target: str | Path, *, max_bytes: int) -> Path:
    """Extracts a .zip, .tar or .tar.gz archive, recognised by its content, into the new folder `target`.

    Every member is checked before the first is written; macOS's `._*` and `__MACOSX` are skipped. `target` appears
    only once it is complete.

    Args:
        archive, target: the file, and the folder to create.
        max_bytes: upper limit for the total size of the extracted files; of members there are at most `MOST_MEMBERS`.

    Raises:
        FileExistsError: `target` exists already.
        ValueError: the archive is incomplete or damaged, or one of its members is a link or a device, would lie outside
            `target`, is there twice, or takes the total over a limit. Nothing is left behind.
        OSError: the archive, which it names, cannot be read. Nothing is left behind.
        WriteError: `target` cannot be written. Nothing is left behind.
    """
    archive, target = as_path("archive", archive), as_path("target", target)
    check("max_bytes", max_bytes, int, 1, 2**50)
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists already: move it away or delete it, then extract {archive} again")
    try:
        with _opened(archive) as handle:
            members = _checked_members(handle, archive, max_bytes)
            with atomic_folder(target) as folder:
                for name, info in progress_bar(members, desc=f"extracting {archive.name}", unit="file"):
                    try:
                        _extract_member(handle, info, folder)
                    except (*DAMAGED, FileExistsError, IsADirectoryError, NotADirectoryError) as error:
                        raise zipfile.BadZipFile(f"member {name!r} cannot be extracted: {error}") from error
    except DAMAGED as error:
        raise ValueError(
            f"{archive} ({archive.stat().st_size} bytes) is not a complete .zip, .tar or .tar.gz archive: {error}. "
            "Delete it and fetch it again."
        ) from error
    return target


class _Source(io.FileIO):
    """The bytes of an archive; an error of the disk names it, and is not taken for one of the target's."""

    def readinto(self, buffer: Any) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise OSError(
                error.errno, f"cannot be read ({error.strerror}): copy or fetch it again", self.name
            ) from error


class _Headers:
    """A tar, not compressed, whose headers are bounded: tarfile keeps a whole header in memory, however long it is.

    Attributes:
        left: bytes that may be read until it is set again; None: any number.
    """

    def __init__(self, file: Any):
        self.left: int | None = LONGEST_HEADER
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        if self.left is not None:
            self.left -= size
            if self.left < 0:
                raise tarfile.ReadError(f"more than {LONGEST_HEADER} bytes in a row belong to no member")
        return self.file.read(size)


@contextmanager
def _opened(archive: Path) -> Iterator[Archive]:
    with io.BufferedReader(_Source(str(archive))) as file, ExitStack() as stack:
        headers: Any = _Headers(gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file)
        try:  # tar first: a zip stored at the end of a tar makes the whole look like a zip
            handle: Archive = stack.enter_context(tarfile.open(fileobj=headers, mode="r:"))
        except (*DAMAGED, ValueError):
            handle = stack.enter_context(zipfile.ZipFile(file))
        yield handle


def _members(handle: Archive) -> Iterator[tuple[str, str, int, Any]]:
    """Yields (name, "file" or "folder" or "link or device", size in bytes, info object) of each member."""
    if isinstance(handle, zipfile.ZipFile):
        for zipped in handle.infolist():
            if zipped.header_offset < 0:  # zipfile would seek there and raise an OSError, as if the disk had failed
                raise zipfile.BadZipFile("its beginning is missing")
            if not zipped.filename:
                raise zipfile.BadZipFile("a member has no name")
            plain = stat.S_IFMT(zipped.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)  # 0: made on Windows
            kind = "link or device" if not plain else "folder" if zipped.is_dir() else "file"
            yield zipped.orig_filename, kind, zipped.file_size, zipped
        return
    headers: Any = handle.fileobj
    try:
        for info in handle:
            headers.left = LONGEST_HEADER
            kind = "file" if info.isreg() else "folder" if info.isdir() else "link or device"
            pieces: Any = info.sparse or ()  # of a sparse file: tarfile writes them all, then truncates the file
            yield info.name, kind, max(info.size, sum(max(0, length) for _, length in pieces)), info
    except ValueError as error:  # a number of such a piece is none
        raise tarfile.ReadError(str(error)) from error
    headers.left = None
    headers.seek(handle.offset)  # tarfile takes a damaged or missing header for the end
    if headers.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("the mark at the end is missing")
    headers.left = LONGEST_HEADER
    while headers.read(1 << 16):
        pass  # gzip verifies its checksum only at the end
    headers.left = None


def _checked_members(handle: Archive, archive: Path, max_bytes: int) -> list[tuple[str, Any]]:
    """Returns (name, info object) of each member to extract; raises ValueError for the first unsafe one."""
    members, kinds, total, files = [], dict[str, str](), 0, 0
    listed = progress_bar(_members(handle), desc=f"checking {archive.name}", unit="file")
    for number, (name, kind, size, info) in enumerate(listed, start=1):
        total += size
        reason = _refusal(name, kind, size)
        if total > max_bytes:
            reason = f"takes the total over max_bytes={max_bytes}, more than this set can have"
        if number > MOST_MEMBERS:
            reason = f"is one more than the {MOST_MEMBERS} that an archive may have"
        place = _place(name)
        if place in kinds and "file" in (kind, kinds[place]):
            reason = "is there twice, or differs only in case or spelling from one before it"
        kinds[place] = kind
        if reason:
            raise ValueError(f"{archive}: member {name!r} {reason}. Nothing was extracted.")
        if not any(piece == "__MACOSX" or piece.startswith("._") for piece in name.split("/")):
            members.append((name, info))
            files += kind == "file"
    if not files:
        raise zipfile.BadZipFile("it holds no files")
    return members


def _refusal(name: str, kind: str, size: int) -> str:
    """Why a member must not be extracted, or "". The same rules apply on Windows and POSIX."""
    if kind not in ("file", "folder") or size < 0:
        return f"is a {kind} of {size} bytes, not a plain file or folder"
    if not name:
        return "has no name"
    if name.startswith("/") or re.search("(^|/)[A-Za-z]:", name):
        return "has an absolute path"
    if "\\" in name or "\0" in name:
        return "has a backslash or a null byte in its name"
    return "would lie outside the target folder" if ".." in name.split("/") else ""


def _place(name: str) -> str:
    """Equal for names of the same file: on Windows and macOS, case and the way to write an accent do not count."""
    pieces = unicodedata.normalize("NFC", name).lower().split("/")
    return "/".join(piece.rstrip(" .") for piece in pieces if piece not in ("", "."))  # Windows drops these at the end


def _extract_member(handle: Archive, info: Any, folder: Path) -> None:
    """Extracts one member into `folder`; tarfile and zipfile ensure that it stays there."""
    if isinstance(handle, tarfile.TarFile):
        handle.extract(info, folder, set_attrs=False, filter="data")
        return
    written = os.path.getsize(handle.extract(info, folder))  # never more than it claims: zipfile stops there
    if not info.is_dir() and written != info.file_size:
        raise zipfile.BadZipFile(f"it has {written} bytes but claims {info.file_size}")
