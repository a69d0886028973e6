"""What was published and what was measured here, each from files in the repository's `data/results/`.

`published.csv` holds a row per network and way of learning, accuracies in percent. Of every finished cross-validation
`save_record` writes two files: `<name>.json`, what was done and found, and `<name>.csv.gz`, what every run says of
every test clip, from which all of it can be computed again. So no number in a table is typed in by hand.
"""

import gzip
import hashlib
import json
from io import BytesIO
from pathlib import Path

import pandas as pd

from esc_lib.config import TrainConfig
from esc_lib.cross_validation import CrossValidation, run_name
from esc_lib.datasets import get_dataset
from esc_lib.files import write_json, write_whole
from esc_lib.recipes import recipe
from esc_lib.runs import load_run

RESULTS = Path(__file__).parents[1] / "data" / "results"
CODECS = {".ogg": "Ogg Vorbis recordings"}  # the papers' were wav
MEASURED = [
    "network", "learning", "data set", "tested on", "seeds", "epochs", "accuracy", "deviation", "95 %", "published",
    "what differs from the recipe", "minutes",
]  # fmt: skip
# Settings that do not decide the last epoch's numbers, or stand in a column of their own.
NOT_COMPARED = {"train_folds", "eval_folds", "seed", "epochs", "eval_every", "keep_n", "compile", "start_from"}


def published(*networks: str) -> pd.DataFrame:
    """Published accuracies (%) of some networks, or of all: network, learning, a column per data set, source."""
    table = pd.read_csv(RESULTS / "published.csv")
    return table[table["network"].isin(networks or table["network"])].reset_index(drop=True)


def measured(*networks: str) -> pd.DataFrame:
    """What this repository's recorded cross-validations of some networks, or of all, reached: a row each.

    Accuracies in percent: mean and deviation over the runs, 95 % interval over the recordings, and the paper's.
    """
    found = [recorded(path.stem) for path in sorted(RESULTS.glob("*.json"))]
    rows = [_row(one) for one in found if not networks or one.config.architecture in networks]
    order = {name: i for i, name in enumerate(published()["network"].unique())}
    rows.sort(key=lambda row: (row[2], order.get(row[0], len(order)), row[1]))
    return pd.DataFrame(rows, columns=MEASURED)


def save_record(found: CrossValidation, results_dir: Path | None = None) -> Path:
    """Writes the record of a finished cross-validation.

    Args:
        found: what `cross_validate` returned; its run directories are still there.
        results_dir: where to, if not into the repository's `data/results/`.

    Returns:
        the JSON file.

    Raises:
        ValueError: there is a record of the same settings already, of other recordings or with runs that this has not.
    """
    folder = results_dir or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    name = found.path.name.removeprefix("cv-")
    _refuse_to_lose_runs(folder / f"{name}.json", found)
    # Significant digits: who is sure and wrong gives the true class a millionth, and that counts.
    table = found.predictions.to_csv(index=False, float_format="%.4g", lineterminator="\n").encode()
    write_whole(folder / f"{name}.csv.gz", lambda file: file.write(_packed(table)))
    runs = [load_run(found.path / run_name(row.fold, row.seed)) for row in found.runs.itertuples()]
    sittings = [{"run": run.path.name, **sitting} for run in runs for sitting in run.sittings]
    config = found.config.to_dict()
    config["start_from"] = Path(config["start_from"]).parent.name  # a path means nothing elsewhere
    record = {
        "config": config,
        "selection": "the last epoch" if _is_last(found) else "the epoch that did best on the validation fold",
        "data": found.about,
        "runs": json.loads(found.runs.round({"accuracy": 6, "best": 6, "minutes": 2}).to_json(orient="records")),
        "learned_from": {run.path.name: list(run.config.train_folds) for run in runs},
        "predictions": {"clips": len(found.predictions), "sha256": hashlib.sha256(table).hexdigest()},
        "sittings": sittings,
    }
    write_json(folder / f"{name}.json", record)
    return folder / f"{name}.json"


def recorded(name: str) -> CrossValidation:
    """A recorded cross-validation: everything that `cross_validate` returned, but for its run directories.

    Args:
        name: of the record, `<name>.json`.

    Raises:
        FileNotFoundError: no such record; the message lists those there are.
        ValueError: its predictions are not those that it was written with.
    """
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RESULTS.glob("*.json")))
        raise FileNotFoundError(f"{path} is not there: records are {known}")
    record = json.loads(path.read_text())
    table = gzip.decompress(path.with_suffix(".csv.gz").read_bytes())
    if hashlib.sha256(table).hexdigest() != record["predictions"]["sha256"]:
        raise ValueError(f"{path.with_suffix('.csv.gz')} is not what {path.name} was written with: restore both")
    runs = pd.DataFrame(record["runs"]).astype({"best": float, "temperature": float})
    predictions = pd.read_csv(BytesIO(table))
    return CrossValidation(path, TrainConfig.from_dict(record["config"]), record["data"], runs, predictions)


def learning_name(config: TrainConfig) -> str:
    """How a run learns, in words: "standard" or "between-class", and whether with strong augmentation."""
    name = "between-class" if config.between_class else "standard"
    return f"{name}, strong augmentation" if config.strong_augmentation else name


def what_differs(found: CrossValidation) -> str:
    """In what a cross-validation is not its network's published recipe on the whole set, in words."""
    config = found.config
    ways = {name: True for name in ("between_class", "strong_augmentation") if getattr(config, name)}
    own, papers = config.to_dict(), recipe(config.architecture, config.dataset, **ways).to_dict()
    said = [f"{config.epochs} epochs, not {papers['epochs']}"] if config.epochs != papers["epochs"] else []
    said += [f"phase 1 is {config.start_from}"] if config.start_from else []
    said += [
        f"{key} {own[key]}, not {papers[key]}" for key in own if key not in NOT_COMPARED and own[key] != papers[key]
    ]
    there = {*config.train_folds, *config.eval_folds, found.runs["fold"][0]}
    if there != set(get_dataset(config.dataset).folds):
        said.append(f"folds {_listed(sorted(there))} alone")
    elif found.about["subset"]:
        said.append("a subset of the clips")
    if not _is_last(found):
        said.append(f"one fold fewer to learn from: it chooses among epochs {config.eval_every} apart")
    suffixes = {Path(file).suffix for file in found.predictions["file"]}
    return "; ".join(said + [CODECS[suffix] for suffix in sorted(suffixes & set(CODECS))])


def _is_last(found: CrossValidation) -> bool:
    """Whether the last epochs are the result, not those that validation folds chose."""
    return found.config.eval_folds == (found.runs["fold"][0],)


def _row(found: CrossValidation) -> tuple:
    config, summary = found.config, found.summary()
    paper = published(config.architecture).query("learning == @name", local_dict={"name": learning_name(config)})
    of_set = paper[config.dataset].dropna() if config.dataset in paper else paper.iloc[:0, 0]
    return (
        config.architecture,
        learning_name(config),
        config.dataset,
        _listed(sorted(found.runs["fold"].unique())),
        found.runs["seed"].nunique(),
        config.epochs,
        f"{100 * summary['mean of runs']:.1f}",
        f"{100 * summary['deviation of runs']:.1f}" if len(found.runs) > 1 else "",
        f"{100 * summary['95 % from']:.1f} to {100 * summary['95 % to']:.1f}",
        f"{of_set.iloc[0]:.1f}" if len(of_set) else "",
        what_differs(found),
        round(found.runs["minutes"].sum()),
    )


def _refuse_to_lose_runs(path: Path, found: CrossValidation) -> None:
    if path.is_file():
        record = json.loads(path.read_text())
        if record["data"] != found.about:
            raise ValueError(f"{path} is kept: it is of other recordings; delete it first, or give another results_dir")
        earlier = {(run["fold"], run["seed"]) for run in record["runs"]}
        lost = sorted(earlier - {(run.fold, run.seed) for run in found.runs.itertuples()})
        if lost:
            raise ValueError(f"{path} is kept: it has runs that these results lack (fold and seed {lost})")


def _packed(table: bytes) -> bytes:
    """Without a time in it, so that the same table is the same file."""
    return gzip.compress(table, mtime=0)


def _listed(folds: tuple[int, ...] | list[int]) -> str:
    return " ".join(map(str, folds))
