"""The runs that esc-learner's author published."""

import os
import tempfile
from pathlib import Path

from esc_lib.data.archives import extract
from esc_lib.data.download import BY_HAND, DownloadError, download
from esc_lib.esclearner.runs import NO_WAVEMSNET
from esc_lib.paths import runs_folder
from esc_lib.training.runs import Run, load_run

SERVER = "https://esc-learner-assets.s3.eu-central-1.amazonaws.com"
# The archives as its README lists them. Neither size nor hash was ever published: what can be checked is the checksum
# that a zip keeps of each of its files, which `extract` compares.
MAX_BYTES = 2_000_000_000  # of an unpacked run: two checkpoints of EnvNet have 0.4 GB
ARCHIVES = {
    "envnet": "envnet/3ea7995342f14062ab9816014010b287.zip",
    "m3": "wavemxnet/54d6681d66b5417ea1dcd5a7332d75d6.zip",
    "m5": "wavemxnet/dd6569688fb847d6a5edb4548fcb4930.zip",
    "m11": "wavemxnet/e59195cf3d3a41c896ccd8f990cf1afe.zip",
    "m18": "wavemxnet/be0a6daefcc04787a959c3c1b7c1b0cf.zip",
}


def fetch_run(name: str, *, save_dir: str | Path | None = None) -> Run:
    """A run that esc-learner's author published, fetched into `esc-learner-<name>` if it is not there already.

    Args:
        name: "envnet" (trained on ESC-50), "m3", "m5", "m11" or "m18" (on UrbanSound8K).
        save_dir: where runs lie, if not in `ESC_RUNS` or the repository's `runs/`.

    Raises:
        ValueError: no run of that name, or "wavemsnet", which is another network; or the archive is damaged or holds
            something else.
        DownloadError: it cannot be fetched.
    """
    if name == "wavemsnet":
        raise ValueError(NO_WAVEMSNET)
    if name not in ARCHIVES:
        raise ValueError(f"esc-learner's author published no run {name!r}: choose one of {', '.join(ARCHIVES)}")
    folder = runs_folder(save_dir) / f"esc-learner-{name}"
    if not folder.is_dir():
        archive = folder.with_suffix(".zip")
        _download(f"{SERVER}/{ARCHIVES[name]}", archive)
        _unpack(archive, folder)
        archive.unlink()
    return load_run(folder)


def _download(url: str, archive: Path) -> None:
    try:
        download(url, archive)
    except DownloadError as error:
        raise DownloadError(
            f"{str(error).replace(BY_HAND, '').strip()} esc-learner's author alone offers this run: if it is gone, "
            "nothing replaces it; train one of your own, or give load_run the folder of a copy"
        ) from error


def _unpack(archive: Path, folder: Path) -> None:
    """The folder that holds a config.json, however deep it lies in the archive, becomes the run."""
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder.parent) as temporary:
        found = list(extract(archive, Path(temporary) / "content", max_bytes=MAX_BYTES).rglob("config.json"))
        if len(found) != 1:
            raise ValueError(f"{archive} holds {len(found)} runs, expected one: delete it and fetch it again")
        os.replace(found[0].parent, folder)
