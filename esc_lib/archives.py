"""Unpacking a downloaded archive without ever writing outside its folder."""

import gzip
import lzma
import os
import re
import stat
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

CHUNK = 1 << 16  # bytes per read
# What zipfile and tarfile raise for damaged, encrypted or exotic archives. Plain OSError is the disk's.
DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # also for what zipfile does not implement
    UnicodeDecodeError,
)


def extract(archive: str | Path, target: str | Path, max_bytes: int = 30 * 10**9) -> Path:
    """Unpack a .zip, .tar or .tar.gz (told apart by content) into the new folder `target`.

    All members are checked before the first is written; `._*` and `__MACOSX` of Macs are left out. The
    files appear in a temporary folder beside `target`, which is renamed when all is there.

    Args:
        archive: the file (str or Path).
        target: folder to make (str or Path); must not exist.
        max_bytes: most bytes that the unpacked files may have in all.

    Returns:
        `target` as a Path.

    Raises:
        FileExistsError: `target` is there already.
        ValueError: not a complete archive, or a member that is a link or a device, would lie outside
            `target`, or takes the sum over `max_bytes`. Nothing is left behind.
    """
    archive, target = Path(archive), Path(target)
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists already: move it away or delete it, then extract {archive} again")
    try:
        with _open_archive(archive) as handle:
            members = _checked_members(handle, archive, max_bytes)
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
                folder = Path(temporary) / "content"  # mkdtemp's own folder is closed to other users
                folder.mkdir()
                for member in tqdm(members, desc=f"extracting {archive.name}", unit="file"):
                    _write_member(handle, archive, member, folder)
                folder.rename(target)
    except DAMAGED as error:
        raise ValueError(
            f"{archive} ({archive.stat().st_size} bytes) is not a complete .zip, .tar or .tar.gz archive: "
            f"{error}. Delete it and fetch it again."
        ) from error
    return target


def _open_archive(archive):
    """Open as tar or zip by content. Tar first: a zip stored at a tar's end makes the whole look like a zip."""
    if tarfile.is_tarfile(archive):
        return tarfile.open(archive)
    if zipfile.is_zipfile(archive):
        return zipfile.ZipFile(archive)
    with open(archive, "rb") as file:
        raise zipfile.BadZipFile(f"neither kind is recognised, it begins with {file.read(20)!r}")


def _members(handle):
    """Yield (name, "file" or "folder" or "link or device", size in bytes, info object) of each member."""
    if isinstance(handle, zipfile.ZipFile):
        kinds = {0: "file", stat.S_IFREG: "file", stat.S_IFDIR: "folder"}  # 0: made on Windows
        for info in handle.infolist():
            kind = kinds.get(stat.S_IFMT(info.external_attr >> 16), "link or device")
            yield info.orig_filename, "folder" if info.is_dir() and kind == "file" else kind, info.file_size, info
        return
    for info in handle:
        yield info.name, "file" if info.isreg() else "folder" if info.isdir() else "link or device", info.size, info
    handle.fileobj.seek(handle.offset)  # tarfile takes a damaged header, or none, for the end
    if handle.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("the mark at the end is missing")
    while handle.fileobj.read(CHUNK):
        pass  # gzip compares its checksum only when it is read to its end


def _checked_members(handle, archive, max_bytes):
    """Return the members to extract; ValueError names the first that must not be."""
    members, total = [], 0
    for member in tqdm(_members(handle), desc=f"checking {archive.name}", unit="file"):
        name, kind, size, _ = member
        total += size
        reason = _refusal(name, kind, size)
        if total > max_bytes:
            reason = f"takes the sum over max_bytes={max_bytes}; pass a larger one if the archive is right"
        if reason:
            raise ValueError(f"{archive}: member {name!r} {reason}. Nothing was extracted.")
        if not any(piece == "__MACOSX" or piece.startswith("._") for piece in name.split("/")):
            members.append(member)
    if not any(kind == "file" for _, kind, _, _ in members):
        raise zipfile.BadZipFile("it holds no files")
    return members


def _refusal(name, kind, size):
    """Say why a member must not be extracted, or "". Holds for Windows and POSIX paths alike."""
    if kind not in ("file", "folder") or size < 0:
        return f"is a {kind} of {size} bytes, not a plain file or folder"
    if name.startswith("/") or re.search("(^|/)[A-Za-z]:", name):
        return "has an absolute path"
    if "\\" in name or "\0" in name:
        return "has a backslash or a null byte in its name"
    return "would lie outside the target folder" if ".." in name.split("/") else ""


def _write_member(handle, archive, member, folder):
    """Write one member below `folder`, again making sure that it stays there."""
    name, kind, size, info = member
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise zipfile.BadZipFile("it would lie outside the target folder")
        (path if kind == "folder" else path.parent).mkdir(parents=True, exist_ok=True)
        if kind == "file":
            with _open_member(handle, info, folder) as source, open(path, "wb") as file:
                _copy(source, file, size)
    except (*DAMAGED, FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise ValueError(
            f"{archive}: member {name!r} cannot be extracted: {error}. Delete the archive and fetch it again."
        ) from error


def _open_member(handle, info, folder):
    if isinstance(handle, zipfile.ZipFile):
        if info.header_offset < 0:  # zipfile would seek there: an OSError that looks like the disk's
            raise zipfile.BadZipFile("the archive's beginning is missing")
        return handle.open(info)
    if hasattr(tarfile, "data_filter"):  # Python 3.11.4 and later: its own checks, after ours
        tarfile.data_filter(info, str(folder))
    return handle.extractfile(info)


def _copy(source, file, size):
    """Copy `size` bytes and count them: a header can lie, and the limit was checked on the headers."""
    written = 0
    while chunk := source.read(CHUNK):
        written += len(chunk)
        if written > size:
            raise zipfile.BadZipFile(f"it is longer than the {size} bytes it claims")
        file.write(chunk)
    if written < size:
        raise zipfile.BadZipFile(f"it has {written} bytes but claims {size}")
