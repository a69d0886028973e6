"""Archives that try to escape, lie or are damaged: nothing is ever written outside the target."""

import errno
import gzip
import importlib
import io
import os
import random
import stat
import struct
import tarfile
import zipfile

import pytest
from disk import largest_file

from esc_lib.archives import extract

module = importlib.import_module("esc_lib.archives")

BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)


FILES = {
    "root/meta/list.csv": b"a,b\n1,2\n",
    "root/audio/dog bark 1.wav": BODY,
    "root/audio/\u00e9t\u00e9 \u96e8.wav": b"rain",
    "root/..hidden..name": b"two dots inside a name are no parent folder",
    "root/empty": b"",
}


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


def make_tar(path, files, folders=(), specials=()):
    """Write a tar (packed if the name says so); `specials` are (name, type, link target), written first."""
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, kind, target in [(name, tarfile.DIRTYPE, "") for name in folders] + list(specials):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def make(path, files, folders=()):
    return (make_zip if path.suffix == ".zip" else make_tar)(path, files, folders)


def tree(folder):
    return {str(item.relative_to(folder)): item.is_file() and item.read_bytes() for item in folder.rglob("*")}


def contents(folder):
    return {name: data for name, data in tree(folder).items() if data is not False}


@pytest.fixture
def box(tmp_path):
    """A folder in a folder, so that what climbs out of the inner one is seen by `not_extracted`."""
    (tmp_path / "box").mkdir()
    return tmp_path / "box"


def not_extracted(archive, match, error=ValueError, **options):
    """Call extract, which must raise, name the archive and leave every folder as it was; returns the message."""
    before = tree(archive.parent.parent)
    with pytest.raises(error, match=match) as caught:
        extract(archive, archive.parent / "out", **options)
    assert tree(archive.parent.parent) == before
    assert error is not ValueError or str(archive) in str(caught.value)
    return str(caught.value)


KINDS = ["a.zip", "a.tar", "a.tar.gz", "a.tgz"]


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(box, kind, capsys):
    archive = make(box / kind, FILES, folders=["root", "root/no files here"])
    assert extract(str(archive), str(box / "deep" / "out")) == box / "deep" / "out"
    assert contents(box / "deep" / "out") == FILES
    assert (box / "deep" / "out" / "root" / "no files here").is_dir()
    assert sorted(item.name for item in (box / "deep").iterdir()) == ["out"]
    assert f"extracting {kind}: 100%" in capsys.readouterr().err


def test_content_decides_not_the_name(box):
    assert contents(extract(make_tar(box / "b.tar.gz", FILES).rename(box / "b.zip"), box / "x")) == FILES
    assert contents(extract(make_zip(box / "c.zip", FILES).rename(box / "c.tar.gz"), box / "y")) == FILES


def test_tar_that_ends_with_a_zip_is_a_tar(box):
    files = {"inner.zip": make_zip(box / "inner.zip", {"x": b"1"}).read_bytes()}
    archive = make_tar(box / "a.tar", files)
    assert zipfile.is_zipfile(archive)
    assert contents(extract(archive, box / "out")) == files


def test_folder_has_ordinary_permissions(box):
    (box / "ordinary").mkdir()
    out = extract(make_zip(box / "a.zip", FILES), box / "out")
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE((box / "ordinary").stat().st_mode)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_mac_members_are_skipped(box, kind):
    extra = {"root/._list.csv": b"x", "._root": b"x", "__MACOSX/root/._a.wav": b"x", "__MACOSX/b.wav": b"x"}
    assert contents(extract(make(box / kind, FILES | extra), box / "out")) == FILES


@pytest.mark.parametrize("make_target", ["mkdir", "touch", "dangling link"])
def test_existing_target_is_left_alone(box, make_target):
    out = box / "out"
    out.symlink_to(box / "nowhere") if make_target == "dangling link" else getattr(out, make_target)()
    message = not_extracted(make_zip(box / "a.zip", FILES), "exists already", FileExistsError)
    assert str(out) in message


EVIL = ["../evil", "root/../../evil", "..", "/evil", "C:/evil", "C:evil", "root/c:/evil", "..\\evil", "\\\\host\\evil"]
EVIL += ["__MACOSX/../../evil", "root/.."]


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("kind", KINDS[:3])
def test_names_that_lead_outside(box, kind, name):
    message = not_extracted(make(box / kind, FILES | {name: b"evil"}), "absolute|outside|backslash")
    assert repr(name) in message and "Nothing was extracted" in message


@pytest.mark.parametrize("kind", KINDS[:2])
def test_absolute_path_that_could_be_written(box, tmp_path, kind):
    not_extracted(make(box / kind, {str(tmp_path / "evil"): b"evil"}), "has an absolute path")


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("name", ["../../../evil", "../contentevil", "{}/evil"])  # content: the temporary folder
def test_second_line_of_defence(box, tmp_path, monkeypatch, kind, name):
    """Even without the check of the names nothing is written outside."""
    monkeypatch.setattr(module, "_refusal", lambda *_: "")
    not_extracted(make(box / kind, FILES | {name.format(tmp_path): b"evil"}), "it would lie outside|outside the dest")


def test_checked_before_the_first_byte(box, monkeypatch):
    monkeypatch.setattr(module, "_write_member", lambda *_: pytest.fail("written before all was checked"))
    for kind in KINDS:
        not_extracted(make(box / kind, FILES | {"../evil": b"evil"}), "outside")


@pytest.mark.parametrize("target", ["..", "../..", "/", "meta"])
@pytest.mark.parametrize("kind", KINDS[:2])
def test_symbolic_link_and_file_through_it(box, kind, target):
    if kind == "a.zip":
        archive = make_zip(box / kind, {"link": target.encode(), "link/evil": b"evil"}, modes={"link": 0o120777})
    else:
        archive = make_tar(box / kind, {"link/evil": b"evil"}, specials=[("link", tarfile.SYMTYPE, target)])
    assert "'link'" in not_extracted(archive, "link or device")


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_hard_links_and_devices(box, kind):
    (box / "victim").write_text("untouched")
    archive = make_tar(box / "a.tar", {"x": b"evil"}, specials=[("x", kind, str(box / "victim"))])
    assert "'x'" in not_extracted(archive, "link or device")


def test_tar_members_pass_the_data_filter(box, monkeypatch):
    if not hasattr(tarfile, "data_filter"):
        pytest.skip("Python before 3.11.4")
    seen, real = [], tarfile.data_filter
    monkeypatch.setattr(tarfile, "data_filter", lambda info, folder: (seen.append(info.name), real(info, folder)))
    extract(make_tar(box / "a.tar", FILES), box / "out")
    assert seen == list(FILES)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_size_limit(box, kind):
    archive = make(box / kind, {"one": bytes(60_000), "two": bytes(60_000)})
    message = not_extracted(archive, "max_bytes=119999", max_bytes=119_999)
    assert "'two'" in message
    extract(archive, box / "out", max_bytes=120_000)


@pytest.mark.parametrize("claimed", [10, 200_000])
def test_zip_header_that_lies(box, claimed):
    archive = make_zip(box / "a.zip", {"bomb": bytes(123_456)})
    data = archive.read_bytes()
    assert data.count(struct.pack("<I", 123_456)) == 2  # before the member, and in the list at the end
    archive.write_bytes(data.replace(struct.pack("<I", 123_456), struct.pack("<I", claimed)))
    assert "'bomb'" in not_extracted(archive, "cannot be extracted", max_bytes=250_000)


def test_bytes_are_counted_as_they_are_written(box, monkeypatch):
    """zipfile itself stops at the claimed size; a reader that did not would be stopped by the count."""
    monkeypatch.setattr(module, "_open_member", lambda *_: io.BytesIO(bytes(10**7)))
    written = []
    copy = module._copy

    def watched(source, file, size):
        try:
            copy(source, file, size)
        finally:
            written.append(file.tell())

    monkeypatch.setattr(module, "_copy", watched)
    not_extracted(make_zip(box / "a.zip", {"bomb": b"tiny"}), "longer than the 4 bytes")
    assert written == [0]


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.99])
def test_truncated(box, kind, keep):
    archive = make(box / kind, {"noise.wav": BODY, "more.wav": OTHER})
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * keep)])
    assert "fetch it again" in not_extracted(archive, "not a complete .zip, .tar or .tar.gz")


@pytest.mark.parametrize("packed", [False, True])
def test_tar_cut_off_between_members(box, packed):
    """tarfile itself takes this for the end and would return one file of two."""
    data = make_tar(box / "a.tar", {"one": bytes(512), "two": bytes(512)}).read_bytes()[:1024]
    (box / "a.tar").write_bytes(data if not packed else gzip.compress(data))
    not_extracted(box / "a.tar", "the mark at the end is missing")


def test_tar_with_a_damaged_second_header(box):
    archive = make_tar(box / "a.tar", {"one": bytes(512), "two": bytes(512)})
    data = bytearray(archive.read_bytes())
    data[1024:1034] = b"##########"
    archive.write_bytes(data)
    not_extracted(archive, "not a complete")


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_damaged_content(box, kind):
    archive = make(box / kind, {"noise.wav": BODY})
    data = bytearray(archive.read_bytes())
    for i in range(150_000, 150_100):
        data[i] ^= 0xFF
    archive.write_bytes(data)
    not_extracted(archive, "fetch it again")


@pytest.mark.parametrize("data", [b"<!DOCTYPE html><html>log in</html>", b"", bytes(20_000)], ids=["html", "", "zeros"])
def test_no_archive_at_all(box, data):
    (box / "a.zip").write_bytes(data)
    message = not_extracted(box / "a.zip", "not a complete .zip, .tar or .tar.gz")
    assert f"({len(data)} bytes)" in message and "Delete it and fetch it again" in message


@pytest.mark.parametrize("kind", KINDS[:2])
def test_file_that_is_also_a_folder(box, kind):
    not_extracted(make(box / kind, {"x": b"1", "x/y": b"2"}), "'x/y' cannot be extracted")


def test_encrypted_zip(box):
    archive = make_zip(box / "a.zip", {"secret": b"1"})
    data = bytearray(archive.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    not_extracted(archive, "encrypted")


def test_zip_without_its_beginning(box):
    archive = make_zip(box / "a.zip", FILES)
    archive.write_bytes(archive.read_bytes()[10:])
    not_extracted(archive, "fetch it again")


def test_missing_archive(box):
    not_extracted(box / "none.zip", "none.zip", FileNotFoundError)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_full_disk_leaves_nothing(box, kind):
    archive = make(box / kind, FILES)
    with largest_file(150_000):
        not_extracted(archive, os.strerror(errno.EFBIG), OSError)
    assert contents(extract(archive, box / "out")) == FILES


def test_interrupt_leaves_nothing(box, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_copy", interrupt)
    not_extracted(make_zip(box / "a.zip", FILES), None, KeyboardInterrupt)
