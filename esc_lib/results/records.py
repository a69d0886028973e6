"""Published and measured results, each from files in the repository's `data/results/`.

`published.csv` holds a row per network and training scheme, accuracies in percent. Of every finished cross-validation
`save_record` writes `<name>.json`, its settings and results, and two tables, whose names end in the beginning of their
SHA-256: `<name>-predictions-<hash>.csv.gz`, every run's probabilities for every test clip, from which all results can
be computed again, and `<name>-history-<hash>.csv.gz`, every run's learning curve. So no number is typed in by hand.
`landscape.csv` holds what others publish: networks that are not in this course, on the same data sets.
"""

import gzip
import hashlib
import json
import math
import os
import zlib
from io import BytesIO
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from esc_lib.arguments import as_path, check
from esc_lib.data.datasets import get_dataset, is_own
from esc_lib.evaluation.cross_validation import HISTORY_COLUMNS, RUN_COLUMNS, CrossValidation, run_name
from esc_lib.evaluation.evaluate import read_predictions
from esc_lib.files import atomic_write, explain_write_errors, read_json, remove_parts, write_json
from esc_lib.models import ARCHITECTURES
from esc_lib.paths import RESULTS
from esc_lib.training.config import TrainConfig
from esc_lib.training.recipes import recipe
from esc_lib.training.runs import load_run

# K. J. Piczak, "ESC: Dataset for Environmental Sound Classification", ACM MM 2015: listeners, percent.
HUMANS = {"esc10": 95.7, "esc50": 81.3}
LARGEST_TABLE = 500_000_000  # bytes; ESC-50's five folds with one seed take 2 MB
LAST_EPOCH, VALIDATED = "the last epoch", "the epoch that did best on the validation fold"
CODECS = {".ogg": "Ogg Vorbis recordings"}  # the papers' were wav
ROUNDED = {"accuracy": 6, "best": 6, "minutes": 2, "processor_minutes": 2}
COLUMNS = [
    "network", "training", "recipe", "data set", "tested on", "seeds", "epochs", "accuracy", "std", "95 %", "published",
    "difference from the recipe", "processor minutes",
]  # fmt: skip
# Settings that do not change the last epoch's numbers, or have a column of their own.
NOT_COMPARED = {
    "train_folds", "eval_folds", "validation_folds", "seed", "epochs", "eval_every", "keep_n", "compile", "start_from",
    "dataset", "classes", "source_sha256",
}  # fmt: skip


def published_results(*networks: str) -> pd.DataFrame:
    """Published accuracies (%) of some networks, or of all: network, training, a column per data set, source."""
    table = pd.read_csv(RESULTS / "published.csv").rename(columns={"learning": "training"})
    return table[table["network"].isin(networks or table["network"])].reset_index(drop=True)


def measured_results(*networks: str) -> pd.DataFrame:
    """This repository's recorded cross-validations of some networks, or of all: a row each.

    Accuracies in percent: mean and standard deviation over the runs, 95 % interval over the recordings, and the
    paper's. Processor minutes: of all threads, mean over the runs.
    """
    rows = [_row(one) for one in all_records() if not networks or one.config.architecture in networks]
    order = {name: i for i, name in enumerate(published_results()["network"].unique())}
    rows.sort(key=lambda row: (row[3], order.get(row[0], len(order)), row[2], row[1]))
    return pd.DataFrame(rows, columns=COLUMNS)


def all_records() -> list[CrossValidation]:
    """Every record in `data/results/`, in the order of their names."""
    return [load_record(path.stem) for path in sorted(RESULTS.glob("*.json"))]


def overview(dataset: str = "esc10") -> pd.DataFrame:
    """One row a network, and humans below: parameters, the best published accuracy, and this repository's (%).

    Of a network's records it is the one of `record_of_choice`.
    """
    records = [one for one in all_records() if one.config.dataset == dataset]
    rows = []
    for network, architecture in ARCHITECTURES.items():
        own, best = record_of_choice(records, network), best_published(network, dataset)
        parameters = sum(p.numel() for p in architecture(len(get_dataset(dataset).classes)).parameters())
        rows.append(
            (
                network,
                f"{parameters / 1e6:.1f} M",
                f"{best[dataset]:.1f}" if best is not None else "",
                *(_measured(own) if own else [""] * 4),
            )
        )
    rows.append(("humans", "", f"{HUMANS[dataset]:.1f}", "", "", "", ""))
    columns = ["network", "parameters", "published", "here", "95 %", "epochs", "processor minutes a fold"]
    return pd.DataFrame(rows, columns=columns)


def record_of_choice(records: list[CrossValidation], network: str) -> CrossValidation | None:
    """A network's fast recipe if one of the records is of it, else the one of the most epochs; never the best.

    Of several with the fast recipe, it is the one that differs from it in the fewest settings.
    """
    own = [one for one in records if one.config.architecture == network and not one.config.validation_folds]

    def order(one: CrossValidation) -> tuple[Any, ...]:
        return recipe_kind(one.config), len(changed_settings(one.config)), -one.config.epochs

    return min(own, key=order, default=None)


def best_published(network: str, dataset: str) -> pd.Series | None:
    """The row of `published_results` with a network's highest accuracy on a data set, if there is one."""
    papers = published_results(network).dropna(subset=[dataset])
    return papers.sort_values(dataset).iloc[-1] if len(papers) else None


def on_all_folds(found: CrossValidation) -> bool:
    """Whether every official fold was the test fold."""
    return set(get_dataset(found.config.dataset).folds) == set(found.runs["fold"])


def _measured(found: CrossValidation) -> tuple[str, str, int, str]:
    summary, minutes = found.summary(), found.runs["processor_minutes"].mean()
    folds = "" if on_all_folds(found) else " (not all folds)"
    return (
        f"{100 * summary['mean of runs']:.1f}{folds}",
        f"{100 * summary['95 % from']:.1f} to {100 * summary['95 % to']:.1f}",
        found.config.epochs,
        f"{minutes:.1f}" if math.isfinite(minutes) else "",
    )


def speed_board(dataset: str = "esc10") -> pd.DataFrame:
    """What processor time buys: a row per record of a fast recipe on all folds, the quickest first (accuracy in %).

    The recipe's number of epochs may be another, and so may the number format.
    """
    rows = []
    for found in all_records():
        minutes = found.runs["processor_minutes"].sum(skipna=False) / found.runs["seed"].nunique()
        whole = found.config.dataset == dataset and on_all_folds(found)
        as_recipe = recipe_kind(found.config) == "fast" and changed_settings(found.config).keys() <= {"precision"}
        if as_recipe and whole and math.isfinite(minutes):
            last = read_json(found.path, dict)["sessions"][-1]
            accuracy = f"{100 * found.runs['accuracy'].mean():.1f}"
            network = f"{found.config.architecture}, {found.config.epochs} epochs"
            rows.append((minutes, network, accuracy, last["date"], last["device"], last["commit"][:7]))
    rows.sort()
    columns = ["processor minutes, five folds", "network", "accuracy", "date", "machine", "commit"]
    return pd.DataFrame([(f"{minutes:.1f}", *row) for minutes, *row in rows], columns=columns)


def save_record(found: CrossValidation, *, results_dir: str | Path | None = None) -> Path:
    """Writes the record of a finished cross-validation.

    Args:
        found: what `cross_validate` returned; its run directories are still there.
        results_dir: where to, if not into the repository's `data/results/`.

    Returns:
        the JSON file; an older record stays readable until it is replaced.

    Raises:
        ValueError: there is a record of the same settings already, of other recordings or with runs that this lacks.
        WriteError: it cannot be written.
    """
    check("found", found, CrossValidation)
    folder = RESULTS if results_dir is None else as_path("results_dir", results_dir)
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    name = found.path.name.removeprefix("cv-")
    _check_no_run_is_lost(folder / f"{name}.json", found)
    # Significant digits: a confident mistake gives the true class a millionth, and that counts.
    tables = {
        "predictions": found.predictions.to_csv(index=False, float_format="%.4g", lineterminator="\n").encode(),
        "history": found.history.to_csv(index=False, float_format="%.4g", lineterminator="\n").encode(),
    }
    hashes = {kind: hashlib.sha256(table).hexdigest() for kind, table in tables.items()}
    for kind, table in tables.items():
        packed = gzip.compress(table, mtime=0)  # without a time stamp: the same table is the same file
        atomic_write(_table_file(folder / f"{name}.json", kind, hashes[kind]), methodcaller("write", packed))
    jobs = found.runs[["fold", "seed"]].to_numpy().tolist()
    runs = [load_run(found.path / run_name(fold, seed)) for fold, seed in jobs]
    config = found.config.to_dict()
    start = Path(config["start_from"])  # a path means nothing elsewhere, the name of the run or cross-validation does
    config["start_from"] = start.parent.name if start.name == runs[0].path.name else start.name
    record = {
        "config": config,
        "selection": VALIDATED if found.config.validation_folds else LAST_EPOCH,
        "data": found.data,
        "runs": json.loads(found.runs.round(ROUNDED).to_json(orient="records")),
        "trained_on": {run.path.name: list(run.config.train_folds) for run in runs},
        "predictions": {"clips": len(found.predictions), "sha256": hashes["predictions"]},
        "history": {"epochs": len(found.history), "sha256": hashes["history"]},
        "sessions": [{"run": run.path.name, **session} for run in runs for session in run.sessions],
    }
    write_json(folder / f"{name}.json", record)  # from now on the new tables count, and until now the old ones
    current = {_table_file(folder / f"{name}.json", kind, digest) for kind, digest in hashes.items()}
    for old in {folder / f"{name}.csv.gz", *folder.glob(f"{name}-*-*.csv.gz")} - current:
        old.unlink(missing_ok=True)
    remove_parts(folder, f"{name}.json", *(file.name for file in current))
    return folder / f"{name}.json"


def _table_file(record: Path, kind: str, sha256: str) -> Path:
    return record.with_name(f"{record.stem}-{kind}-{sha256[:8]}.csv.gz")


def _read_table(record: Path, kind: str, sha256: str) -> pd.DataFrame:
    path = _table_file(record, kind, sha256)
    if kind == "predictions" and not path.is_file():
        path = record.with_suffix(".csv.gz")  # its older name
    try:
        with gzip.open(path) as file:
            table = file.read(LARGEST_TABLE)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}): restore it") from error
    if hashlib.sha256(table).hexdigest() != sha256:
        raise ValueError(f"{path} is not what {record.name} was written with: restore both")
    return read_predictions(BytesIO(table)) if kind == "predictions" else pd.read_csv(BytesIO(table))


def load_record(name: str) -> CrossValidation:
    """The record `<name>.json`: everything that `cross_validate` returned, except its run directories.

    Raises:
        FileNotFoundError: no such record; the message lists those there are.
        ValueError: it is damaged, or its tables are not those that it was written with.
    """
    check("name", name, str)
    path = RESULTS / f"{name}.json"
    if not os.path.isfile(path):
        known = ", ".join(sorted(file.stem for file in RESULTS.glob("*.json")))
        raise FileNotFoundError(f"{path} is not there: records are {known}")
    record = read_json(path, dict, remedy="restore it")
    try:
        found = _from_record(path, record)
        right = found.predictions["true"] == found.predictions["predicted"]
        of_runs = right.groupby([found.predictions["fold"], found.predictions["seed"]]).mean()
        if not np.allclose(of_runs, found.runs.set_index(["fold", "seed"])["accuracy"].sort_index(), atol=1e-6):
            raise ValueError("its accuracies are not those of its predictions")
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(f"{path} is no whole record ({error!r}): restore it") from error
    return found


def _from_record(path: Path, record: dict[str, Any]) -> CrossValidation:
    runs = pd.DataFrame(record["runs"]).reindex(columns=RUN_COLUMNS)
    runs = runs.astype({"best": float, "temperature": float, "processor_minutes": float})
    check("data", record["data"], dict)
    config = record["config"]
    if record["selection"] == VALIDATED and "validation_folds" not in config:  # they were the evaluation folds once
        config |= {"validation_folds": config["eval_folds"], "eval_folds": [int(runs["fold"][0])]}
    predictions = _read_table(path, "predictions", record["predictions"]["sha256"])
    history = pd.DataFrame(columns=list(HISTORY_COLUMNS), dtype=float)
    if "history" in record:
        history = _read_table(path, "history", record["history"]["sha256"])
    return CrossValidation(path, TrainConfig.from_dict(config), record["data"], runs, predictions, history)


def training_name(config: TrainConfig) -> str:
    """The training scheme in words: "standard" or "between-class", with strong augmentation, with an equaliser."""
    parts = ["between-class" if config.between_class else "standard"]
    parts += ["strong augmentation"] if config.strong_augmentation else []
    parts += ["equaliser"] if config.equalizer else []
    return ", ".join(parts)


def recipe_kind(config: TrainConfig) -> str:
    """Which of a network's recipes the settings follow: "fast" if the learning rate rises and falls once.

    The built-in sounds have only one recipe, which does so too, and is called the paper's.
    """
    return "fast" if config.one_cycle and config.dataset != "synthetic" else "paper"


def changed_settings(config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """The settings that are not those of the network's recipe, but for its epochs: what they are, and the recipe's."""
    expected = _recipe_of(config).to_dict()
    own = config.to_dict()
    return {key: (own[key], expected[key]) for key in own if key not in NOT_COMPARED and own[key] != expected[key]}


def _recipe_of(config: TrainConfig) -> TrainConfig:
    """The recipe that some settings follow, with their training scheme."""
    scheme: dict[str, Any] = {name: True for name in ("between_class", "strong_augmentation") if getattr(config, name)}
    dataset = "esc10" if is_own(config.dataset) else config.dataset  # a set of one's own need not be here
    return recipe(config.architecture, dataset, kind=recipe_kind(config), **scheme)


def recipe_diff(found: CrossValidation) -> str:
    """How a cross-validation differs from its network's recipe on the whole set, in words."""
    config, epochs = found.config, _recipe_of(found.config).epochs
    own = is_own(config.dataset)
    parts = [f"{config.epochs} epochs, not {epochs}"] if config.epochs != epochs else []
    parts += [f"starts from {config.start_from}"] if config.start_from else []
    parts += [f"{key} {value}, not {expected}" for key, (value, expected) in changed_settings(config).items()]
    used = {*config.train_folds, *config.eval_folds, *config.validation_folds}
    if not own and used != set(get_dataset(config.dataset).folds):
        parts.append(f"only folds {_listed(sorted(used))}")
    elif found.data["subset"]:
        parts.append("a subset of the clips")
    if config.validation_folds:
        parts.append(f"one training fold fewer: it chooses among epochs {config.eval_every} apart")
    suffixes = {Path(file).suffix for file in found.predictions["file"]}
    return "; ".join(parts + [CODECS[suffix] for suffix in sorted(suffixes & set(CODECS))])


def _row(found: CrossValidation) -> tuple[Any, ...]:
    config, summary, name = found.config, found.summary(), training_name(found.config)
    minutes = found.runs["processor_minutes"].mean()
    paper = published_results(config.architecture).query("training == @name", local_dict={"name": name})
    of_set = paper[config.dataset].dropna() if config.dataset in paper else paper.iloc[:0, 0]
    return (
        config.architecture,
        name,
        recipe_kind(config),
        config.dataset,
        _listed(sorted(found.runs["fold"].unique())),
        found.runs["seed"].nunique(),
        config.epochs,
        f"{100 * summary['mean of runs']:.1f}",
        f"{100 * summary['standard deviation of runs']:.1f}" if len(found.runs) > 1 else "",
        f"{100 * summary['95 % from']:.1f} to {100 * summary['95 % to']:.1f}",
        f"{of_set.iloc[0]:.1f}" if len(of_set) else "",
        recipe_diff(found),
        f"{minutes:.1f}" if math.isfinite(minutes) else "",
    )


def _check_no_run_is_lost(path: Path, found: CrossValidation) -> None:
    if not path.is_file():
        return
    record = read_json(path, dict)
    if record.get("data") != found.data:
        raise ValueError(f"{path} is kept: it is of other recordings; delete it first, or choose another results_dir")
    earlier = {(run["fold"], run["seed"]) for run in record["runs"]}
    lost = sorted(earlier - {(run.fold, run.seed) for run in found.runs.itertuples()})
    if lost:
        raise ValueError(f"{path} is kept: it has runs that these results lack (fold and seed {lost})")


def _listed(folds: tuple[int, ...] | list[int]) -> str:
    return " ".join(map(str, folds))
