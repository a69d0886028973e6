"""The official recordings of a set: downloaded from where its authors publish them and verified, or generated."""

import json
import os
from pathlib import Path

from esc_lib.data.archives import extract
from esc_lib.data.datasets import Dataset, find_root, read_table
from esc_lib.data.download import DownloadError, download, file_hash
from esc_lib.data.synthetic import make_synthetic
from esc_lib.files import explain_write_errors, temporary_folder
from esc_lib.progress import progress_bar

ESC50_TABLE_SHA256 = "ca660da60191a97de289983a05821c9382d852a38a2ba8428980816b68cf6246"
ESC50_WAV_BYTES = 441_044
ESC50_MD5_INDEX = "https://zenodo.org/records/11176809/files/esc50_index_2.0.json"
# Of 264,164 bytes with the MD5 7f1bf89ff69ee6aaa5c7018a75de73cf, by which the loader "soundata" verifies this index.
ESC50_MD5_INDEX_SHA256 = "13c2dc51adf28481b2a6400e4698bc9d8f9c621f93d783270b204e187285ee76"
URBANSOUND8K_MIRROR = "https://s3.amazonaws.com/pytorch-tutorial-assets/UrbanSound8K.tar.gz"


def official_recordings(spec: Dataset, folder: Path, downloads: Path) -> Path:
    """Downloads or generates the set in `folder`, if it is not there already.

    Args:
        spec, folder: the set, and where its recordings go.
        downloads: where archives are kept.

    Raises:
        ValueError: what was downloaded is not the published set.
        DownloadError: it cannot be downloaded.
        WriteError: it cannot be written.
    """
    if spec.name == "esc10":
        return _fetch_esc10(spec, folder)
    if folder.is_dir():
        return folder
    if spec.name == "synthetic":
        return make_synthetic(folder)
    if spec.name == "esc50":
        return _fetch_esc50(spec, folder, downloads)
    archive = downloads / "UrbanSound8K.tar.gz"
    try:
        download(spec.url, archive, md5=spec.md5, size=spec.size)
    except DownloadError:
        archive = downloads / "UrbanSound8K-mirror.tar.gz"  # with its own .part, so that the first one is kept
        download(URBANSOUND8K_MIRROR, archive, md5=spec.md5, size=spec.size)
    return extract(archive, folder, max_bytes=spec.max_bytes)


def _fetch_esc50(spec: Dataset, folder: Path, downloads: Path) -> Path:
    archive = download(spec.url, downloads / "ESC-50.zip", max_bytes=spec.max_bytes)
    with temporary_folder(downloads, f"unpacking-{spec.name}") as temporary:
        unpacked = extract(archive, temporary / "set", max_bytes=spec.max_bytes)
        if file_hash(archive) != spec.sha256:  # GitHub does not guarantee an archive's bytes: check its contents
            _check_esc50_contents(find_root(spec, unpacked), archive)
        with explain_write_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            os.replace(unpacked, folder)
    return folder


def _check_esc50_contents(root: Path, archive: Path) -> None:
    hint = f"delete {archive} and prepare again, or download the set by hand and pass it as source"
    found = file_hash(root / "meta/esc50.csv")
    if found != ESC50_TABLE_SHA256:
        raise ValueError(
            f"meta/esc50.csv in the downloaded ESC-50 has SHA-256 {found}, expected {ESC50_TABLE_SHA256}; {hint}"
        )
    wrong = [path.name for path in sorted((root / "audio").glob("*.wav")) if path.stat().st_size != ESC50_WAV_BYTES]
    if wrong:
        raise ValueError(
            f"{len(wrong)} wav(s) of the downloaded ESC-50 do not have {ESC50_WAV_BYTES} bytes: {wrong[:5]}; {hint}"
        )


def _fetch_esc10(spec: Dataset, folder: Path) -> Path:
    """Downloads ESC-10's 400 files, unless they are there; each is verified by its MD5 in an index that is pinned."""
    download(spec.url + spec.table, folder / spec.table, sha256=ESC50_TABLE_SHA256)
    index = download(ESC50_MD5_INDEX, folder / "esc50_index_2.0.json", sha256=ESC50_MD5_INDEX_SHA256)
    clips = json.loads(index.read_text(encoding="utf-8"))["clips"]
    for file in progress_bar(read_table(spec, folder)["file"], desc="ESC-10", unit="file"):
        _, md5 = clips[Path(file).stem]["audio"]
        download(spec.url + file, folder / file, md5=md5, size=ESC50_WAV_BYTES)
    return folder
