"""What is pinned of the official downloads, and that nothing else is taken for them."""

import hashlib
import importlib
import json
from dataclasses import replace

import pytest
from sound_files import ESC10_ORDER, ESC50_NAMES, esc_noises, write_esc

from esc_lib.data.datasets import ESC50_COMMIT, get_dataset
from esc_lib.data.download import DownloadError
from esc_lib.data.sources import official_recordings

module = importlib.import_module("esc_lib.data.sources")
SMALL = replace(get_dataset("esc10"), url="https://published.example/")


@pytest.fixture
def published(tmp_path, monkeypatch):
    """ESC-10 of one clip in each class, and its index, as if they were published: bytes by address."""
    root = write_esc(tmp_path / "published", esc_noises(range(1, 2), (*ESC10_ORDER, 5)))
    files = {SMALL.url + path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.*")}
    clips = {
        url.rpartition("/")[2][:-4]: {"audio": ["", hashlib.md5(body).hexdigest()]}
        for url, body in files.items()
        if url.endswith("wav")
    }
    index = files[module.ESC50_MD5_INDEX] = json.dumps({"clips": clips}).encode()
    monkeypatch.setattr(module, "ESC50_MD5_INDEX_SHA256", hashlib.sha256(index).hexdigest())
    table = files[SMALL.url + SMALL.table]
    monkeypatch.setattr(module, "ESC50_TABLE_SHA256", hashlib.sha256(table).hexdigest())

    def fake(url, path, **expected):
        """`download` without a network: what is published, if it is what is expected."""
        body = files[url]
        for algorithm in {"sha256", "md5"} & set(expected):
            if hashlib.new(algorithm, body).hexdigest() != expected[algorithm]:
                raise DownloadError(f"{url} is not what was published")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        return path

    monkeypatch.setattr(module, "download", fake)
    monkeypatch.setattr(module, "ESC50_WAV_BYTES", None)
    return files


def test_esc10_is_taken_file_by_file(published, tmp_path):
    folder = official_recordings(SMALL, tmp_path / "esc10", tmp_path / "downloads")
    names = {path.name for path in (folder / "audio").iterdir()}
    assert names == set(esc_noises(range(1, 2)))  # and no cat, which is in the table as well
    assert {ESC50_NAMES[int(name[:-4].split("-")[3])] for name in names} == set(SMALL.classes)


@pytest.mark.parametrize("changed", ["the table", "the index", "a recording", "the index and a recording"])
def test_nothing_of_esc10_can_be_exchanged(published, tmp_path, changed):
    """Whoever could exchange the index as well could make it vouch for other recordings."""
    wav = next(url for url in published if url.endswith("A-0.wav"))
    if changed == "the table":
        published[SMALL.url + SMALL.table] += b"\n"
    if changed == "the index":
        published[module.ESC50_MD5_INDEX] += b"\n"
    if "recording" in changed:
        before = hashlib.md5(published[wav]).hexdigest().encode()
        published[wav] = published[wav][:-2] + b"\0\0"
        if "index" in changed:
            after = hashlib.md5(published[wav]).hexdigest().encode()
            published[module.ESC50_MD5_INDEX] = published[module.ESC50_MD5_INDEX].replace(before, after)
    with pytest.raises(DownloadError, match="is not what was published"):
        official_recordings(SMALL, tmp_path / "esc10", tmp_path / "downloads")


def test_all_that_is_downloaded_is_pinned():
    """By SHA-256 or, where only that was published, MD5 and size; ESC-50's archive by what is in it, too."""
    esc50, urbansound8k = get_dataset("esc50"), get_dataset("urbansound8k")
    for name in ("ESC50_TABLE_SHA256", "ESC50_MD5_INDEX_SHA256"):
        assert len(bytes.fromhex(getattr(module, name))) == 32
    assert len(bytes.fromhex(esc50.sha256)) == 32 and esc50.size == 645_832_161
    assert len(bytes.fromhex(urbansound8k.md5)) == 16 and urbansound8k.size == 6_023_741_708
    assert ESC50_COMMIT in esc50.url and ESC50_COMMIT in get_dataset("esc10").url
    for url in (esc50.url, urbansound8k.url, get_dataset("esc10").url, module.ESC50_MD5_INDEX):
        assert url.startswith("https://")
    assert module.URBANSOUND8K_MIRROR.startswith("https://")


def test_esc50_is_unpacked_where_the_next_run_finds_its_leftovers(tmp_path, monkeypatch):
    seen = []

    def extract(archive, target, *, max_bytes):
        seen.append(target)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "extract", extract)
    monkeypatch.setattr(module, "download", lambda url, path, **limits: path)
    (tmp_path / "downloads").mkdir()
    with pytest.raises(KeyboardInterrupt):
        official_recordings(get_dataset("esc50"), tmp_path / "esc50", tmp_path / "downloads")
    assert seen[0].parent.name.startswith(".unpacking-esc50-") and seen[0].parent.name.endswith(".part")
    assert list((tmp_path / "downloads").iterdir()) == []
