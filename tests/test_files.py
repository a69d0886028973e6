"""Files and folders that are complete or not there, whatever goes wrong, and files that are safe to open."""

import errno
import json
import os
import zipfile

import pytest
import torch
from disk import largest_file
from tiny import files_below

from esc_lib.data.datasets import read_columns
from esc_lib.files import (
    WriteError,
    atomic_folder,
    atomic_write,
    explain_write_errors,
    load_tensors,
    read_json,
    serialize,
    write_json,
)

FULL, DENIED = (OSError(number, os.strerror(number)) for number in (errno.ENOSPC, errno.EACCES))


def raise_(error):
    raise error


def refuse_replacing(patch, which):
    """Makes these calls of `os.replace`, counted from 1, fail; returns the list of all calls."""
    calls, replace = [], os.replace

    def refuse(*names):
        calls.append(names)
        if len(calls) in which:
            raise DENIED
        replace(*names)

    patch.setattr(os, "replace", refuse)
    return calls


def fill(target, text, *, error=None, **options):
    with atomic_folder(target, **options) as folder:
        (folder / "file").write_text(text, encoding="utf-8")
        assert not (target / "file").exists() or (target / "file").read_text(encoding="utf-8") == "old"
        if error:
            raise error


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "file"
    for old, new in ((None, b"first"), (b"first", b"second")):

        def look(file, old=old, new=new):
            file.write(new)
            file.flush()
            assert (path.read_bytes() if path.exists() else None) == old

        atomic_write(path, look)
        assert path.read_bytes() == new and files_below(tmp_path) == {"file"}


@pytest.mark.parametrize("error", [FULL, DENIED, KeyboardInterrupt()], ids=["full", "denied", "interrupt"])
@pytest.mark.parametrize("fails", ["writing", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_says_why(tmp_path, monkeypatch, fails, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    if fails != "writing":
        monkeypatch.setattr(os, fails, lambda *_: raise_(error))
    with pytest.raises(WriteError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        atomic_write(path, lambda file: file.write(b"new, but no") and fails == "writing" and raise_(error))
    if isinstance(error, OSError):
        assert caught.value.errno == error.errno
        assert f"{path} cannot be written ({error.strerror}): free space, check that you may" in str(caught.value)
    assert path.read_bytes() == b"old" and files_below(tmp_path) == {"file"}


@pytest.mark.parametrize(("system", "refusals", "attempts"), [("nt", 3, 4), ("nt", 9, 4), ("posix", 1, 1)])
def test_on_windows_alone_a_reader_is_waited_for(tmp_path, monkeypatch, system, refusals, attempts):
    with monkeypatch.context() as patch:
        patch.setattr("esc_lib.files.time.sleep", lambda seconds: None)
        patch.setattr(os, "name", system)
        calls = refuse_replacing(patch, range(1, refusals + 1))
        try:
            atomic_write(tmp_path / "file", lambda file: file.write(b"new"))
        except WriteError:
            assert refusals >= attempts
    assert len(calls) == attempts and (tmp_path / "file").exists() == (refusals < attempts)


def test_errors_are_explained_once_and_only_the_systems(tmp_path):
    outer, inner = explain_write_errors(tmp_path / "outer"), explain_write_errors(tmp_path / "inner")
    with pytest.raises(WriteError, match=r"inner cannot be written \(no number\)") as caught, outer, inner:
        raise OSError("no number")
    assert "outer" not in str(caught.value)
    with pytest.raises(ValueError, match="^as it is$"), explain_write_errors(tmp_path):
        raise ValueError("as it is")


@pytest.mark.parametrize(("replace", "left"), [(False, {"theirs"}), (True, {"file"})])
def test_a_folder_appears_when_it_is_complete(tmp_path, replace, left):
    fill(tmp_path / "made" / "set", "mine")
    assert files_below(tmp_path) == {"made/set/file"}
    with atomic_folder(tmp_path / "new", replace=replace) as folder:
        (folder / "file").touch()
        (tmp_path / "new").mkdir()  # another process makes it in the meantime
        (tmp_path / "new/theirs").touch()
    assert files_below(tmp_path / "new") == left and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, FULL], ids=str)
@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_that_fails_leaves_what_was_there(tmp_path, error, replace):
    fill(tmp_path / "set", "old")
    for target in (tmp_path / "set", tmp_path / "new"):
        with pytest.raises(WriteError if error is FULL else error):
            fill(target, "new", error=error, replace=replace)
    assert (tmp_path / "set/file").read_text(encoding="utf-8") == "old" and files_below(tmp_path) == {"set/file"}


@pytest.mark.parametrize("failing", [2, 3])  # the first attempt finds the old folder in the way, the second moves it
def test_a_replacement_that_fails_brings_the_old_folder_back(tmp_path, monkeypatch, failing):
    fill(tmp_path / "set", "old")
    refuse_replacing(monkeypatch, [failing])
    with pytest.raises(WriteError, match=r"set cannot be written \(Permission denied\)"):
        fill(tmp_path / "set", "new", replace=True)
    assert (tmp_path / "set/file").read_text(encoding="utf-8") == "old" and files_below(tmp_path) == {"set/file"}


def test_a_file_in_the_way_of_a_folder_stays(tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    for target in (tmp_path / "file", tmp_path / "file" / "set"):
        with pytest.raises(WriteError) as caught:
            fill(target, "new", replace=True)
        assert f"{target} cannot be written" in str(caught.value)
    assert files_below(tmp_path) == {"file"}


def test_tensors_come_back_and_a_full_disk_is_named(tmp_path):
    path, state = tmp_path / "state", {"weight": torch.randn(100_000), "steps": 7, "names": ["a", "b"]}
    # Of a large tensor, torch.save turns the file's own OSError into a RuntimeError about its archive.
    with largest_file(1000), pytest.raises(WriteError, match="state cannot be written") as caught:
        atomic_write(path, lambda file: file.write(serialize(state)))
    assert caught.value.errno == errno.EFBIG and files_below(tmp_path) == set()
    atomic_write(path, lambda file: file.write(serialize(state)))
    found = load_tensors(path)
    assert torch.equal(found.pop("weight"), state.pop("weight")) and found == state
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(Exception, match="."):
        load_tensors(path)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("made by a file",)


def test_a_file_that_would_call_something_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Harmful()}, "state")
    with pytest.raises(ValueError, match="it would call .*mkdir when it is opened"):
        load_tensors(tmp_path / "state")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("value", [{"h\u00fcnd": [None, "\u96e8"]}, [1, {"b": 2.5}], {}, []])
def test_json_comes_back_as_it_was_written(tmp_path, value):
    write_json(tmp_path / "file.json", value)
    assert read_json(tmp_path / "file.json", type(value)) == value
    (tmp_path / "file.json").write_bytes(json.dumps(value, ensure_ascii=False).encode())
    assert read_json(tmp_path / "file.json", type(value)) == value  # whatever the system's own encoding is


@pytest.mark.parametrize("content", [None, b"", b'{"a": ', b"\xff\xfe\x00\x01", b"[]", b"17", b"null"])
def test_json_that_cannot_be_used_is_named_with_what_to_do(tmp_path, content):
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"file\.json (cannot be read|holds .*not names and values).*: restore it, or"):
        read_json(path, dict)
    path.write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(ValueError, match="not a list: restore it, or train again"):
        read_json(path, list)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe cannot be read .it is no regular file"):
        read_json(tmp_path / "pipe", dict)
    with pytest.raises(OSError, match="it is no regular file"):
        load_tensors(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe cannot be read as a table .it is no regular file"):
        read_columns(tmp_path / "pipe", ["a"], remedy="")


def compressed(file, value):
    """A file of a tensor as torch.save writes it, then compressed."""
    torch.save({"weight": value}, file.with_name("state"))
    with zipfile.ZipFile(file.with_name("state")) as plain, zipfile.ZipFile(file, "w") as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name), zipfile.ZIP_DEFLATED)


def test_a_compressed_file_of_tensors_is_read_unless_it_unpacks_to_many_times_its_size(tmp_path):
    weights = torch.randint(-63, 64, (100_000,), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    compressed(tmp_path / "weights", weights)
    assert torch.equal(load_tensors(tmp_path / "weights")["weight"], weights)
    compressed(tmp_path / "bomb", torch.zeros(100_000))
    with pytest.raises(ValueError, match="it unpacks to more than 8 times its size"):
        load_tensors(tmp_path / "bomb")


@pytest.mark.parametrize("compress", [False, True])
def test_tensors_are_read_as_they_were_written(tmp_path, compress):
    weights = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    (tmp_path / "state").write_bytes(serialize({"weight": weights}, compress=compress))
    assert torch.equal(load_tensors(tmp_path / "state")["weight"], weights)
    with zipfile.ZipFile(tmp_path / "state") as file:
        assert {part.compress_type != zipfile.ZIP_STORED for part in file.infolist()} == {compress}
