"""Where things lie: the repository's folders, and the user's for data and runs."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "data" / "results"
# A small network that comes with the course; it is there with the credits of its training clips.
PRETRAINED = REPOSITORY / "data" / "pretrained" / "m5-esc10"


def data_folder(data_dir: str | Path | None = None) -> Path:
    """Where data lies: `data_dir`, else the environment's `ESC_DATA`, else the repository's `data/`, in that order.

    The default does not depend on the working directory, so that notebooks, papermill and scripts share one place.
    """
    return _resolved(data_dir or os.environ.get("ESC_DATA") or REPOSITORY / "data")


def runs_folder(save_dir: str | Path | None = None) -> Path:
    """Where runs lie: `save_dir`, else the environment's `ESC_RUNS`, else the repository's `runs/`, in that order."""
    return _resolved(save_dir or os.environ.get("ESC_RUNS") or REPOSITORY / "runs")


def _resolved(path: str | Path) -> Path:
    return Path(path).expanduser().resolve()
