"""Where things lie: the repository's folders, and the user's for data and runs."""

import os
from pathlib import Path

from esc_lib.arguments import as_path

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "data" / "results"
# The networks that come with the course, with the credits of their training clips: a small one, which the lessons look
# at, and the most accurate on recordings.
PRETRAINED = REPOSITORY / "data" / "pretrained" / "m11-esc10"
MOST_ACCURATE = REPOSITORY / "data" / "pretrained" / "acdnet-esc10"
# The learned first layers of the networks, before and after training.
FRONTENDS = REPOSITORY / "data" / "frontends"


def data_folder(data_dir: str | Path | None = None) -> Path:
    """Where data lies: `data_dir`, else the environment's `ESC_DATA`, else the repository's `data/`, in that order.

    The default does not depend on the working directory, so that notebooks, papermill and scripts share one place.
    """
    return _folder("data_dir", data_dir, "ESC_DATA", "data")


def runs_folder(save_dir: str | Path | None = None) -> Path:
    """Where runs lie: `save_dir`, else the environment's `ESC_RUNS`, else the repository's `runs/`, in that order."""
    return _folder("save_dir", save_dir, "ESC_RUNS", "runs")


def _folder(name: str, value: str | Path | None, variable: str, default: str) -> Path:
    if value is not None and not (isinstance(value, str) and value == ""):
        return as_path(name, value).resolve()
    return as_path(variable, os.environ.get(variable) or REPOSITORY / default).resolve()
