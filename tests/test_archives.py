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
import tracemalloc
import warnings
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


TWICE = {
    "the same": ("root/a.wav", "root/a.wav"),
    "spelled otherwise": ("root/a.wav", "./root//a.wav"),
    "case": ("root/a.wav", "Root/A.WAV"),
    "accents": ("root/\u00e9.wav", "root/e\u0301.wav"),
    "dots and spaces at the end": ("root/a.wav", "root. /a.wav..."),
    "file and folder": ("root/a.wav", "root/a.wav/"),
}


@pytest.mark.parametrize(("first", "second"), TWICE.values(), ids=TWICE)
@pytest.mark.parametrize("kind", KINDS[:3])
def test_members_that_would_be_the_same_file(box, kind, first, second):
    """On Windows and macOS the second would silently replace the first."""
    members = [("root/other.wav", b"0"), (first, b"1"), (second, b"2")]
    if kind == "a.zip":
        with zipfile.ZipFile(box / kind, "w") as archive, warnings.catch_warnings(action="ignore"):
            for name, data in members:
                archive.writestr(name, b"" if name.endswith("/") else data)
    else:
        with tarfile.open(box / kind, "w:gz" if kind.endswith("gz") else "w") as archive:
            for name, data in members:
                info = tarfile.TarInfo(name.rstrip("/"))
                info.type, info.size = (tarfile.DIRTYPE, 0) if name.endswith("/") else (tarfile.REGTYPE, len(data))
                archive.addfile(info, io.BytesIO(data))
    assert "is there twice" in not_extracted(box / kind, "Nothing was extracted")


@pytest.mark.parametrize("kind", KINDS[:3])
def test_folders_may_be_there_twice(box, kind):
    with warnings.catch_warnings(action="ignore"):
        archive = make(box / kind, {"root/a": b"1", "root/b": b"2"}, folders=["root", "root"])
    assert contents(unpack(archive, box / "out")) == {"root/a": b"1", "root/b": b"2"}


@pytest.mark.parametrize("kind", KINDS[:3])
def test_number_of_members(box, kind, monkeypatch):
    monkeypatch.setattr(archives, "MOST_MEMBERS", 5)
    archive = make(box / kind, FILES)
    shutil.rmtree(unpack(archive, box / "out"))
    assert "one more than the 5" in not_extracted(make(box / kind, FILES | {"x": b""}), "'x'")


def header(kind, size, name="x"):
    """A tar's header of 512 bytes that announces so many bytes."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


MEMBER = header(tarfile.REGTYPE, 3, "y") + b"abc".ljust(512, b"\0")
# Of what GNU tar calls version 1.0 of sparse files.
PAX_SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x", "GNU.sparse.realsize": "9"}


def sparse_1_0(content):
    info = tarfile.TarInfo("x")
    info.size, info.pax_headers = 1 << 30, PAX_SPARSE
    return info.tobuf(tarfile.PAX_FORMAT) + content


BIG = 1 << 24
PIECES = b"00000000001\0" * 42 + b"\1" + bytes(7)  # 21 pieces of a sparse file, and the promise of more
BOMBS = {
    "a name": header(tarfile.GNUTYPE_LONGNAME, BIG) + bytes(BIG),
    "a link's name": header(tarfile.GNUTYPE_LONGLINK, BIG) + bytes(BIG),
    "settings": header(tarfile.XHDTYPE, BIG) + bytes(BIG),
    "settings of all": header(tarfile.XGLTYPE, BIG) + bytes(BIG),
    "the list of a sparse file": header(tarfile.GNUTYPE_SPARSE, 3)[:482] + b"\1" + bytes(29) + PIECES * (BIG // 512),
    "the list of another": sparse_1_0(b"9999999\n" + b"1\n" * (BIG // 2)),
    "the end": header(tarfile.REGTYPE, 0) + bytes(BIG),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("bomb", BOMBS)
def test_what_a_tar_keeps_in_memory_is_bounded(box, bomb, first, monkeypatch):
    monkeypatch.setattr(archives, "LONGEST_HEADER", 1 << 17)
    content = bytearray(BOMBS[bomb])
    content[148:156] = b"%06o\0 " % (256 + sum(content[:148]) + sum(content[156:512]))
    archive = box / "a.tar.gz"
    archive.write_bytes(gzip.compress((b"" if first else MEMBER) + content, 1))
    assert archive.stat().st_size < 1_000_000
    tracemalloc.start()
    try:
        not_extracted(archive, "zip file" if first and bomb != "the end" else "bytes in a row", max_bytes=10**12)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", KINDS[1:3])
def test_the_bound_is_of_headers_alone_and_of_each(box, kind, monkeypatch):
    monkeypatch.setattr(archives, "LONGEST_HEADER", 1 << 17)
    files = {"large": bytes(1 << 20), **{f"root/{i}": b"x" for i in range(300)}}
    assert contents(unpack(make_tar(box / kind, files), box / "out", 1 << 21)) == files


def test_numbers_of_a_sparse_file_that_are_none(box):
    (box / "a.tar").write_bytes(MEMBER + sparse_1_0(b"many\n".ljust(512, b"\0")))
    not_extracted(box / "a.tar", "not a complete .*invalid literal")


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="has no file here that cannot be read")
def test_archive_that_cannot_be_read_is_named_and_not_the_target(box, monkeypatch):
    with pytest.raises(OSError, match=r"cannot be read .*copy or fetch it again: '/proc/self/mem'") as error:
        unpack("/proc/self/mem", box / "out")  # its beginning belongs to nobody
    assert error.value.errno == errno.EIO
    archive = make_zip(box / "a.zip", FILES)

    def fail(*_):
        raise error.value

    monkeypatch.setattr(archives, "_extract_member", fail)  # as if it happened in the middle
    with pytest.raises(OSError, match="'/proc/self/mem'") as later:
        unpack(archive, box / "out")
    assert type(later.value) is OSError and [item.name for item in box.iterdir()] == ["a.zip"]


BAD_ARGUMENTS = [
    *((name, value) for name in ("archive", "target") for value in (None, 3, "", "a\0b", b"x", ["x"])),
    *(("max_bytes", value) for value in (0, -1, "5", 1e9, True, None)),
]


@pytest.mark.parametrize(("name", "value"), BAD_ARGUMENTS)
def test_impossible_arguments_are_named(box, name, value):
    arguments = {"archive": make_zip(box / "a.zip", FILES), "target": box / "out", "max_bytes": 10**6, name: value}
    with pytest.raises(ValueError, match=f"^{name} is "):
        extract(**arguments)
    assert [item.name for item in box.iterdir()] == ["a.zip"]


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


def test_a_member_without_a_name_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x", "content")
    data = (tmp_path / "a.zip").read_bytes()
    name = data.rindex(b"x", 0, data.rindex(b"PK\x05\x06"))
    central = data.rindex(b"PK\x01\x02")
    hollow = bytearray(data[:name] + data[name + 1 :])
    hollow[central + 28] = 0  # length of its name in the directory
    end = hollow.rindex(b"PK\x05\x06")
    hollow[end + 12] -= 1  # length of the directory
    (tmp_path / "a.zip").write_bytes(bytes(hollow))
    with pytest.raises(ValueError, match="a.zip .*no name|a.zip .*not a complete"):
        extract(tmp_path / "a.zip", tmp_path / "out", max_bytes=1000)
    assert not (tmp_path / "out").exists()
