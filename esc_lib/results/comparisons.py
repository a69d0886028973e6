"""The course's networks beside the whole field, and beside a front-end that is not learned."""

from typing import Any

import pandas as pd

from esc_lib.arguments import check
from esc_lib.data.datasets import get_dataset
from esc_lib.evaluation.cross_validation import CrossValidation
from esc_lib.evaluation.statistics import bootstrap_interval
from esc_lib.models import ARCHITECTURES
from esc_lib.paths import RESULTS
from esc_lib.results.records import (
    HUMANS,
    NOT_COMPARED,
    all_records,
    best_published,
    on_all_folds,
    record_of_choice,
    training_name,
)

# Each log-mel network, and the one whose learned filters its spectrogram replaces.
LEARNED = {"logmel_cnn": "envnet", "logmel_m5": "m5"}


def landscape(dataset: str = "esc50") -> pd.DataFrame:
    """The whole field on one data set, the lowest accuracy first: what others publish beside what was measured here.

    Of the course's networks it has the best published accuracy, and the same record as `overview` if that is of all
    folds.

    Args:
        dataset: "esc10", "esc50" or "urbansound8k".

    Returns:
        a row a result: label, accuracy (%), kind ("chance", "published", "here", "humans" or "pretrained", which is
        trained on other recordings first), low and high (95 % interval in %, NaN if unknown), pretraining (on what,
        "" for none), source.

    Raises:
        ValueError: another data set.
    """
    others = pd.read_csv(RESULTS / "landscape.csv").fillna({"pretraining": ""})
    check("dataset", dataset, str)
    if dataset not in others:
        raise ValueError(f"dataset is {dataset!r}: expected esc10, esc50 or urbansound8k")
    records = [one for one in all_records() if one.config.dataset == dataset and on_all_folds(one)]
    classes = len(get_dataset(dataset).classes)
    rows: list[dict[Any, Any]] = []
    rows.append({"label": "chance", "kind": "chance", "accuracy": 100 / classes, "source": f"one of {classes} classes"})
    if dataset in HUMANS:
        source = "Piczak, ACM MM 2015, section 3.1: listeners, crowdsourced"
        rows.append({"label": "humans", "kind": "humans", "accuracy": HUMANS[dataset], "source": source})
    rows += others.rename(columns={dataset: "accuracy"}).dropna(subset=["accuracy"]).to_dict("records")
    for network in ARCHITECTURES:
        best, own = best_published(network, dataset), record_of_choice(records, network)
        if best is not None:
            source = f"{best['source']} ({best['training']})"
            rows.append({"label": network, "kind": "published", "accuracy": best[dataset], "source": source})
        if own is not None:
            accuracy, low, high = 100 * own.summary()[["mean of runs", "95 % from", "95 % to"]]
            source = f"{own.path.stem}: {training_name(own.config)}, {own.config.epochs} epochs"
            here = {"label": network, "kind": "here", "accuracy": accuracy, "low": low, "high": high, "source": source}
            rows.append(here)
    table = pd.DataFrame(rows, columns=["label", "accuracy", "kind", "low", "high", "pretraining", "source"])
    return table.fillna({"pretraining": ""}).sort_values("accuracy", kind="stable", ignore_index=True)


def learned_filters_gain(dataset: str = "esc10") -> pd.DataFrame:
    """What learning the filters gains over a log-mel spectrogram, from pairs of records that differ in nothing else.

    Both networks of a pair have the same settings, folds and seeds, and were tested on the same clips.

    Returns:
        for every pair a row for all classes and one a class: log-mel network, learned network, epochs, class, accuracy
        (%) of each, and the gain (percentage points) with its 95 % interval over the recordings.
    """
    records = [one for one in all_records() if one.config.dataset == dataset]
    rows = []
    for fixed in records:
        for learned in records:
            pair = (fixed.config.architecture, learned.config.architecture)
            if pair in LEARNED.items() and _all_settings(fixed) == _all_settings(learned):
                rows += [(*pair, fixed.config.epochs, *row) for row in _gain_by_class(fixed, learned)]
    columns = ["log-mel network", "learned network", "epochs", "class", "log-mel", "learned", "gain", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def _all_settings(found: CrossValidation) -> dict[str, Any]:
    """What two records must share to differ in the network alone."""
    skipped = NOT_COMPARED - {"epochs"} | {"architecture"}
    return {
        **{key: value for key, value in found.config.to_dict().items() if key not in skipped},
        "validated": bool(found.config.validation_folds),
        "data": found.data,
        "runs": found.runs[["fold", "seed"]].to_numpy().tolist(),
    }


def _gain_by_class(fixed: CrossValidation, learned: CrossValidation) -> list[tuple[Any, ...]]:
    clips = fixed.predictions.groupby("file")[["true", "recording"]].first()
    clips = clips.assign(fixed=100 * fixed.correct(), learned=100 * learned.correct())
    rows = []
    for name, part in [("all classes", clips), *clips.groupby("true")]:
        gain = part["learned"] - part["fixed"]
        interval = bootstrap_interval(gain, part["recording"])
        rows.append((name, part["fixed"].mean(), part["learned"].mean(), gain.mean(), *interval))
    return rows
