"""The runs that esc-learner's author published."""

import os
import reprlib
from pathlib import Path

from tqdm import tqdm

from esc_lib.data.archives import extract
from esc_lib.data.download import BY_HAND, DownloadError, download
from esc_lib.files import explain_write_errors, file_lock, remove_parts, temporary_folder
from esc_lib.paths import runs_folder
from esc_lib.progress import message_stream
from esc_lib.training.runs import Run, load_run

SERVER = "https://esc-learner-assets.s3.eu-central-1.amazonaws.com"
# So the README spells WaveMsNet's address, and no other: a dead link, tried only if the one above fails.
SERVER_OF_WAVEMSNET = "https://esc-learner-assets.eu-central-1.amazonaws.com"
# Neither sizes nor hashes were ever published: what can be verified is the checksum that a zip keeps of each of its
# files, which `extract` does.
ARCHIVES = {
    "envnet": "envnet/3ea7995342f14062ab9816014010b287.zip",
    "wavemsnet": "wavemsnet/9a3f9b0ecba94a61b67572dec1a1aafd.zip",
    "m3": "wavemxnet/54d6681d66b5417ea1dcd5a7332d75d6.zip",
    "m5": "wavemxnet/dd6569688fb847d6a5edb4548fcb4930.zip",
    "m11": "wavemxnet/e59195cf3d3a41c896ccd8f990cf1afe.zip",
    "m18": "wavemxnet/be0a6daefcc04787a959c3c1b7c1b0cf.zip",
}
MAX_BYTES = 1_000_000_000  # of an unpacked run: the largest, EnvNet's, has two checkpoints of 194 MB


def fetch_run(name: str, *, save_dir: str | Path | None = None) -> Run:
    """Opens a run that esc-learner's author published; downloads it to `esc-learner-<name>` if it is not there.

    No hash of these archives was ever published. Whether a file is damaged is checked, and nothing in it is executed;
    that it is the author's cannot be verified, and a line says so when it is downloaded.

    Args:
        name: "envnet" or "wavemsnet" (trained on ESC-50), "m3", "m5", "m11" or "m18" (on UrbanSound8K).
        save_dir: where runs lie, if not in `ESC_RUNS` or the repository's `runs/`.

    Raises:
        ValueError: no run of that name, or the archive is damaged or holds something else.
        DownloadError: it cannot be downloaded.
        WriteError: the disk cannot be written.
    """
    if not isinstance(name, str) or name not in ARCHIVES:
        raise ValueError(
            f"esc-learner's author published no run {reprlib.repr(name)}: choose one of {', '.join(ARCHIVES)}"
        )
    folder = runs_folder(save_dir) / f"esc-learner-{name}"
    if not folder.is_dir():
        _fetch(name, folder)
    folder.with_suffix(".zip").unlink(missing_ok=True)  # here too: a process may be killed before this
    return load_run(folder)


def _fetch(name: str, folder: Path) -> None:
    """Downloads and unpacks a run, unless another process has done so in the meantime."""
    with explain_write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(folder.with_name(f".{folder.name}.lock")):
        remove_parts(folder.parent, f"unpacking-{folder.name}")
        if folder.is_dir():
            return
        archive = folder.with_suffix(".zip")
        servers = (SERVER, SERVER_OF_WAVEMSNET) if name == "wavemsnet" else (SERVER,)
        _download([f"{server}/{ARCHIVES[name]}" for server in servers], archive)
        note = f"{name}: no hash of this archive is known: that it is the author's is not verified"
        tqdm.write(note, message_stream())
        _unpack(archive, folder)


def _download(urls: list[str], archive: Path) -> None:
    """Fetches the archive from the first address that has it."""
    failures = []
    for url in urls:
        try:
            download(url, archive, max_bytes=MAX_BYTES)
            return
        except DownloadError as error:
            failures.append(str(error).replace(BY_HAND, "").strip())
    raise DownloadError(
        f"{' '.join(failures)} esc-learner's author alone offers this run: if it is gone, nothing replaces it; train "
        "one of your own, or give load_run the folder of a copy"
    )


def _unpack(archive: Path, folder: Path) -> None:
    """The folder that holds a `config.json`, however deep it lies in the archive, becomes the run directory."""
    with temporary_folder(folder.parent, f"unpacking-{folder.name}") as temporary:
        found = list(extract(archive, temporary / "content", max_bytes=MAX_BYTES).rglob("config.json"))
        if len(found) != 1:
            raise ValueError(f"{archive} holds {len(found)} runs, expected one: delete it and fetch it again")
        with explain_write_errors(folder):
            os.replace(found[0].parent, folder)
