"""Archives that try to escape, lie or are damaged: nothing is ever written outside the target."""

import errno
import gzip
import io
import os
import random
import shutil
import stat
import struct
import tarfile
import zipfile
from contextlib import suppress

import pytest
from disk import largest_file

from esc_lib.data import archives
from esc_lib.data.archives import extract
from esc_lib.files import WriteError

BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
FILES = {
    "root/meta/list.csv": b"a,b\n1,2\n",
    "root/audio/dog bark 1.wav": BODY,
    "root/audio/\u00e9t\u00e9 \u96e8.wav": b"rain",
    "root/..hidden..name": b"two dots inside a name are no parent folder",
    "root/empty": b"",
}
# A Mac's own members, which are skipped.
OF_A_MAC = {"root/._list.csv": b"x", "._root": b"x", "__MACOSX/root/._a.wav": b"x", "__MACOSX/b.wav": b"x"}


def make_zip(path, files, folders=(), modes=()):
    """Write a zip; `modes` maps a name to Unix mode bits."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in folders:
            archive.mkdir(name)
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = dict(modes).get(name, 0o100644) << 16
            archive.writestr(info, data)
    return path


def make_tar(path, files, folders=(), specials=(), pax=None):
    """Write a tar (gzipped if its name ends in gz); `specials` are (name, type, link target), written first."""
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, kind, target in [(name, tarfile.DIRTYPE, "") for name in folders] + list(specials):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(data), pax or {}
            archive.addfile(info, io.BytesIO(data))
    return path


def make(path, files, folders=()):
    return (make_zip if path.suffix == ".zip" else make_tar)(path, files, folders)


def unpack(archive, target, max_bytes=10**6):
    return extract(archive, target, max_bytes=max_bytes)


def tree(folder):
    return {str(item.relative_to(folder)): item.is_file() and item.read_bytes() for item in folder.rglob("*")}


def contents(folder):
    return {name.replace(os.sep, "/"): data for name, data in tree(folder).items() if data is not False}


@pytest.fixture
def box(tmp_path):
    """A folder in a folder, so that what climbs out of the inner one is seen by `not_extracted`."""
    (tmp_path / "box").mkdir()
    return tmp_path / "box"


def not_extracted(archive, match, error=ValueError, **options):
    """Call extract, which must raise, name the archive and leave every folder as it was; returns the message."""
    before = tree(archive.parent.parent)
    with pytest.raises(error, match=match) as caught:
        unpack(archive, archive.parent / "out", **options)
    assert tree(archive.parent.parent) == before
    assert error is not ValueError or str(archive) in str(caught.value)
    return str(caught.value)


KINDS = ["a.zip", "a.tar", "a.tar.gz", "a.tgz"]


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_without_the_members_of_a_mac(box, kind, capsys):
    archive = make(box / kind, FILES | OF_A_MAC, folders=["root", "root/no files here"])
    out = box / "deep" / "out"
    assert unpack(str(archive), str(out)) == out
    assert contents(out) == FILES
    assert (out / "root" / "no files here").is_dir()
    assert [item.name for item in out.parent.iterdir()] == ["out"]
    assert f"extracting {kind}: 100%" in capsys.readouterr().err
    (box / "ordinary").mkdir()
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE((box / "ordinary").stat().st_mode)


def test_content_decides_not_the_name(box):
    made_on_windows = make_zip(box / "c.zip", FILES, modes=dict.fromkeys(FILES, 0))
    assert contents(unpack(make_tar(box / "b.tar.gz", FILES).rename(box / "b.zip"), box / "x")) == FILES
    assert contents(unpack(made_on_windows.rename(box / "c.tar.gz"), box / "y")) == FILES
    files = {"inner.zip": (box / "c.tar.gz").read_bytes()}
    archive = make_tar(box / "a.tar", files)
    assert zipfile.is_zipfile(archive)  # it ends with one
    assert contents(unpack(archive, box / "z")) == files


@pytest.mark.parametrize("make_target", ["mkdir", "touch", "dangling link"])
def test_existing_target_is_left_alone(box, make_target):
    out = box / "out"
    out.symlink_to(box / "nowhere") if make_target == "dangling link" else getattr(out, make_target)()
    message = not_extracted(make_zip(box / "a.zip", FILES), "exists already", FileExistsError)
    assert str(out) in message


EVIL = ["../evil", "root/../../evil", "..", "/evil", "C:/evil", "C:evil", "root/c:/evil", "..\\evil", "\\\\host\\evil"]
EVIL += ["__MACOSX/../../evil", "root/..", "{tmp_path}/evil"]


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("kind", KINDS[:3])
def test_names_that_lead_outside(box, tmp_path, monkeypatch, kind, name):
    monkeypatch.setattr(archives, "_extract_member", lambda *_: pytest.fail("written before all was checked"))
    name = name.format(tmp_path=tmp_path)
    message = not_extracted(make(box / kind, FILES | {name: b"evil"}), "absolute|outside|backslash")
    assert repr(name) in message and "Nothing was extracted" in message


def test_null_byte(box):
    archive = make_zip(box / "a.zip", FILES | {"evil!.wav": b"evil"})
    archive.write_bytes(archive.read_bytes().replace(b"l!", b"l\0"))
    assert repr("evil\0.wav") in not_extracted(archive, "null byte")


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("name", ["../../../evil", "../contentevil", "{tmp_path}/evil"])  # content: the new folder
def test_nothing_escapes_even_without_the_check_of_names(box, tmp_path, monkeypatch, kind, name):
    monkeypatch.setattr(archives, "_refusal", lambda *_: "")
    archive = make(box / kind, FILES | {name.format(tmp_path=tmp_path): b"evil"})
    before = tree(tmp_path)
    with suppress(ValueError):  # a tar's "..": the other names are made to lie inside
        shutil.rmtree(unpack(archive, box / "out"))
    assert tree(tmp_path) == before


TAR_SPECIAL = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
SPECIAL = [("a.zip", mode) for mode in (0o120777, 0o020666, 0o060666, 0o010666)]
SPECIAL += [("a.tar", kind) for kind in TAR_SPECIAL]


@pytest.mark.parametrize("target", ["..", "../..", "/", "meta", "{box}/victim"])
@pytest.mark.parametrize(("kind", "special"), SPECIAL)
def test_links_and_devices_and_what_is_written_through_them(box, kind, special, target):
    (box / "victim").write_bytes(b"untouched")
    target = target.format(box=box)
    if kind == "a.zip":
        archive = make_zip(box / kind, {"link": target.encode(), "link/evil": b"evil"}, modes={"link": special})
    else:
        archive = make_tar(box / kind, {"link": b"e", "link/evil": b"evil"}, specials=[("link", special, target)])
    assert "'link'" in not_extracted(archive, "link or device")


@pytest.mark.parametrize("kind", KINDS[:3])
def test_size_limit(box, kind):
    archive = make(box / kind, {"one": bytes(60_000), "two": bytes(60_000)})
    message = not_extracted(archive, "max_bytes=119999", max_bytes=119_999)
    assert "'two'" in message
    unpack(archive, box / "out", max_bytes=120_000)


@pytest.mark.parametrize("claimed", [10, 200_000])
def test_zip_header_that_lies(box, claimed):
    archive = make_zip(box / "a.zip", {"bomb": bytes(123_456)})
    data = archive.read_bytes()
    assert data.count(struct.pack("<I", 123_456)) == 2  # before the member, and in the list at the end
    archive.write_bytes(data.replace(struct.pack("<I", 123_456), struct.pack("<I", claimed)))
    with largest_file(max(claimed, 50_000)):  # nor does it write all and look then
        assert "'bomb'" in not_extracted(archive, "cannot be extracted", max_bytes=250_000)


def test_tar_member_with_holes(box):
    pax = {"GNU.sparse.map": "0,5,100,5", "GNU.sparse.size": "200"}
    holes = unpack(make_tar(box / "a.tar", {"x": b"helloworld"}, pax=pax), box / "out")
    assert contents(holes) == {"x": b"hello" + bytes(95) + b"world" + bytes(95)}
    shutil.rmtree(holes)
    pax = {"GNU.sparse.map": "0,200000,0,-190000", "GNU.sparse.size": "10"}
    not_extracted(make_tar(box / "a.tar.gz", {"bomb": bytes(200_000)}, pax=pax), "max_bytes", max_bytes=199_999)


def test_modification_time_out_of_range(box):
    archive = make_tar(box / "a.tar", FILES, pax={"mtime": "1e300"})
    assert contents(unpack(archive, box / "out")) == FILES


def cut(share):
    return lambda data: data[: int(len(data) * share)]


def overwrite(start, new):
    return lambda data: data[:start] + new + data[start + len(new) :]


def encrypt(data):
    """Only claim it, before the member and in the list at the end."""
    return overwrite(data.index(b"PK\x01\x02") + 8, b"\1")(overwrite(6, b"\1")(data))


SECOND = 512 * 587  # where the second member's header begins in the tar
DAMAGE = [
    *((kind, cut(share), None) for kind in KINDS[:3] for share in (0.0, 0.001, 0.5, 0.99)),
    ("a.tar", lambda data: data[:SECOND], "the mark at the end is missing"),  # tarfile takes this for the end
    ("a.tar", lambda data: gzip.compress(data[:SECOND]), "the mark at the end is missing"),
    ("a.tar", overwrite(SECOND, b"#" * 10), None),
    ("a.tar.gz", overwrite(150_000, bytes(100)), None),
    ("a.zip", overwrite(150_000, bytes(100)), "'noise.wav' cannot be extracted"),
    ("a.zip", overwrite(30 + len("noise.wav"), b"\xff" * 5), "'noise.wav' cannot be extracted"),  # not even deflated
    ("a.zip", lambda data: data[10:], None),  # without its beginning
    ("a.zip", encrypt, "encrypted"),
    ("a.zip", lambda data: b"<!DOCTYPE html><html>log in</html>", None),
    ("a.zip", lambda data: bytes(20_000), None),
]


@pytest.mark.parametrize(("kind", "edit", "match"), DAMAGE)
def test_damaged(box, kind, edit, match):
    archive = make(box / kind, {"noise.wav": BODY, "more.wav": OTHER})
    archive.write_bytes(edit(archive.read_bytes()))
    message = not_extracted(archive, match)
    assert f"({archive.stat().st_size} bytes) is not a complete .zip, .tar or .tar.gz" in message
    assert "Delete it and fetch it again" in message


@pytest.mark.parametrize("kind", KINDS[:2])
def test_file_that_is_also_a_folder(box, kind):
    not_extracted(make(box / kind, {"x": b"1", "x/y": b"2"}), "'x/y' cannot be extracted")


def test_missing_archive(box):
    not_extracted(box / "none.zip", "none.zip", FileNotFoundError)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_full_disk_leaves_nothing(box, kind):
    archive = make(box / kind, FILES)
    with largest_file(150_000):
        assert str(box / "out") in not_extracted(archive, os.strerror(errno.EFBIG), WriteError)
    assert contents(unpack(archive, box / "out")) == FILES


def test_interrupt_leaves_nothing(box, monkeypatch):
    real = archives._extract_member

    def interrupt(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(archives, "_extract_member", interrupt)
    not_extracted(make_zip(box / "a.zip", FILES), None, KeyboardInterrupt)
