"""What was published and what was measured here, each from files in the repository's `data/results/`.

`published.csv` holds a row per network and way of learning, accuracies in percent. Every other file there is the record
of one run, written by `save_record`; so no number in a notebook is typed in by hand.
"""

import json
import os
import platform
from pathlib import Path

import pandas as pd

from esc_lib.config import TrainConfig
from esc_lib.runs import load_run, write_json

MEASURED = [
    "network", "learning", "data set", "learned from", "tested on", "epochs", "accuracy", "clips", "minutes",
]  # fmt: skip
RESULTS = Path(__file__).parents[1] / "data" / "results"


def published(*networks: str) -> pd.DataFrame:
    """Published accuracies (%) of some networks, or of all: network, learning, a column per data set, source."""
    table = pd.read_csv(RESULTS / "published.csv")
    return table[table["network"].isin(networks or table["network"])].reset_index(drop=True)


def measured(*networks: str) -> pd.DataFrame:
    """What this repository's recorded runs of some networks, or of all, reached: a row per run.

    Its accuracy (%) is the last epoch's, on the named test folds alone.
    """
    records = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    rows = [_row(record) for record in records if not networks or record["config"]["architecture"] in networks]
    return pd.DataFrame(rows, columns=MEASURED)


def save_record(run_dir: str | Path, minutes: float, results_dir: Path = RESULTS) -> Path:
    """Writes the record of a finished and evaluated run.

    Args:
        run_dir: the run directory, with what `evaluate` wrote to `eval/`.
        minutes: that the training took.
        results_dir: where to.

    Raises:
        FileNotFoundError: no run there, or it has not been evaluated.
        ValueError: a run of esc-learner, which kept no last epoch.
    """
    run = load_run(run_dir)
    if run.of_esc_learner:
        raise ValueError(f"{run.path} is a run of esc-learner: it kept no last epoch, which a record is of")
    result = run.path / "eval" / "result.json"
    if not result.is_file():
        raise FileNotFoundError(f"{result} is missing: call esc_lib.evaluate on the run first")
    config = run.config.to_dict()
    config["start_from"] = Path(config["start_from"]).name  # a path means nothing elsewhere
    record = {
        "run": run.path.name,
        "config": config,
        "result": json.loads(result.read_text()),
        "tests": {epoch: round(acc, 4) for epoch, acc in run.history["eval_acc"].items()},
        "training_accuracy": round(run.history["acc"][config["epochs"]], 4),
        "minutes": round(minutes, 1),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    }
    results_dir.mkdir(parents=True, exist_ok=True)
    path = results_dir / f"{run.path.name}.json"
    write_json(path, record)
    return path


def _row(record: dict) -> tuple:
    config = TrainConfig.from_dict(record["config"])
    folds = [" ".join(map(str, of)) for of in (config.train_folds, config.eval_folds)]
    result = round(100 * record["result"]["acc"], 1), record["result"]["clips"], record["minutes"]
    return (config.architecture, learning_name(config), config.dataset, *folds, config.epochs, *result)


def learning_name(config: TrainConfig) -> str:
    """How a run learns, in words: "standard" or "between-class", and whether with strong augmentation."""
    name = "between-class" if config.between_class else "standard"
    return f"{name}, strong augmentation" if config.strong_augmentation else name
