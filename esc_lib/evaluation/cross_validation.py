"""Cross-validation: every fold is the test fold once, several seeds, as many trainings at a time as fit."""

import hashlib
import json
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from esc_lib.arguments import check
from esc_lib.data.clips import read_clip_table, read_metadata
from esc_lib.data.datasets import check_folds, prepared_folder
from esc_lib.evaluation.calibration import calibrate, calibration_error, with_temperature
from esc_lib.evaluation.evaluate import as_arrays, confusion, evaluate, read_predictions, scores
from esc_lib.evaluation.statistics import bootstrap_interval, wilson_interval
from esc_lib.files import read_json
from esc_lib.paths import data_folder, runs_folder
from esc_lib.progress import progress_bar
from esc_lib.training.checkpoint import run_lock
from esc_lib.training.compute import warn_if_no_gpu
from esc_lib.training.config import TrainConfig
from esc_lib.training.runs import HISTORY_KEYS, load_run, make_run_folder
from esc_lib.training.train import train

# joblib's own ways to run jobs; any other is a cluster's.
LOCAL_BACKENDS = ("LokyBackend", "MultiprocessingBackend", "SequentialBackend", "ThreadingBackend")
# Settings younger than the first cross-validations: at their defaults they do not change the name of a folder.
YOUNGER = {
    "one_cycle": 0.0, "validation_folds": (), "unfreeze_epoch": 0, "classes": (), "source_sha256": "", "equalizer": 0.0,
}  # fmt: skip
RUN_COLUMNS = [
    "fold", "seed", "epoch", "correct", "clips", "accuracy", "best", "minutes", "processor_minutes", "temperature",
]  # fmt: skip
HISTORY_COLUMNS = ("fold", "seed", "epoch", *HISTORY_KEYS)
_turn = threading.Lock()


@dataclass(frozen=True)
class CrossValidation:
    """What a cross-validation found, read from its run directories.

    Attributes:
        path: folder that holds a run directory per job, or the record that this was read from.
        config: the settings that all runs share; folds and seed are the first run's.
        data: what all results share: dataset, subset, source_sha256.
        runs: a row per run: fold, seed, epoch, correct, clips, accuracy (of the last epoch, or of the one that the
            validation fold chose), best (the highest of all tests on the test fold: too high to report), minutes,
            processor_minutes (of all threads; training and its tests; NaN in records older than it), temperature
            (fitted on the validation fold).
        predictions: a row per clip and seed: fold, seed, file, recording, true, predicted, and the probability of each
            class.
        history: a row per run and epoch: fold, seed, epoch, loss, acc, lr, and eval_loss, eval_acc where it was tested.
            Empty in records older than it.
    """

    path: Path
    config: TrainConfig
    data: dict[str, Any]
    runs: pd.DataFrame
    predictions: pd.DataFrame
    history: pd.DataFrame

    def summary(self) -> pd.Series:
        """Accuracy over all runs: mean and standard deviation over runs, over the seeds' means, and pooled over clips.

        The interval is a bootstrap over recordings of the share of seeds that classify a clip correctly: the runs of
        several seeds see the same clips, and the clips of a recording sound alike.
        """
        accuracy = self.runs["accuracy"]
        correct = self.correct()
        recording = self.predictions.groupby("file")["recording"].first()
        low, high = bootstrap_interval(correct.to_numpy(), recording[correct.index].to_numpy())
        return pd.Series(
            {
                "mean of runs": accuracy.mean(),
                "standard deviation of runs": accuracy.std(),
                "standard deviation of seeds": self.runs.groupby("seed")["accuracy"].mean().std(),
                "pooled": correct.mean(),
                "95 % from": low,
                "95 % to": high,
                "runs": len(accuracy),
                "clips": len(correct),
                "recordings": recording.nunique(),
            },
            name="accuracy",
        )

    def per_run(self) -> pd.DataFrame:
        """`runs` with Wilson's 95 % interval of each accuracy: what it may be on other clips of the same kind."""
        low, high = zip(*map(wilson_interval, self.runs["correct"], self.runs["clips"]), strict=True)
        return self.runs.assign(**{"95 % from": low, "95 % to": high})

    def correct(self) -> pd.Series:
        """The share of seeds that classify each clip correctly."""
        correct = self.predictions["true"] == self.predictions["predicted"]
        return correct.groupby(self.predictions["file"]).mean()

    def calibration(self) -> pd.DataFrame:
        """Expected calibration error and mean log loss over all runs.

        Of the probabilities as they are and, with a validation fold, at each run's temperature.
        """
        tables = {"uncalibrated": self.predictions}
        if self.runs["temperature"].notna().all():
            tables["calibrated"] = self.calibrated()
        rows = {}
        for name, predictions in tables.items():
            probabilities, targets = as_arrays(predictions)
            of_true = probabilities[np.arange(len(targets)), targets]
            rows[name] = [calibration_error(probabilities, targets), -np.log(of_true.clip(1e-12)).mean()]
        return pd.DataFrame.from_dict(rows, orient="index", columns=["calibration error", "log loss"])

    def calibrated(self) -> pd.DataFrame:
        """`predictions` with each run's probabilities at its temperature."""
        columns = [column for column in map(str, self.predictions) if column.startswith("p_")]
        temperature: dict[Any, float] = self.runs.set_index(["fold", "seed"])["temperature"].to_dict()
        parts = []
        for (fold, seed), part in self.predictions.groupby(["fold", "seed"], sort=False):
            scaled = part.copy()
            scaled[columns] = with_temperature(part[columns].to_numpy(), temperature[fold, seed])
            parts.append(scaled)
        return pd.concat(parts)

    def confusion(self) -> pd.DataFrame:
        """Pooled over all runs: number of tests; rows are the true class, columns the predicted one."""
        return confusion(self.predictions, list(self.config.class_names))

    def per_class(self) -> pd.DataFrame:
        """Pooled over all runs: precision, recall, F1 and number of tests of each class."""
        return scores(self.predictions, list(self.config.class_names))


def cross_validate(
    config: TrainConfig,
    *,
    seeds: Sequence[int] = (0,),
    folds: Sequence[int] | None = None,
    n_jobs: int = 1,
    validation: bool = False,
    data_dir: str | Path | None = None,
    save_dir: str | Path | None = None,
    device: str = "auto",
) -> CrossValidation:
    """Trains and tests a network once per fold and seed, in run directories that the same call finds again.

    Finished runs are not repeated, and stopped ones resume. Of a set that was prepared as a subset, only the folds that
    it holds are used. Jobs, one for each fold and seed, run through joblib: on this machine, or on a cluster if there
    is a dask client (`pip install --editable '.[cluster]'`)::

        with Client("tcp://head:8786"), joblib.parallel_config("dask"):
            found = cross_validate(recipe("envnet", "esc10"))

    The cluster's machines must share the file system of data and runs, and its file locks. "auto" is a worker's first
    GPU, and its processor threads are those of its `OMP_NUM_THREADS`, 1 by dask's default. Another worker resumes the
    job of one that was lost. But dask abandons a job after `distributed.scheduler.allowed-failures` lost workers, 3 by
    default, and joblib then waits for ever: raise it beforehand.

    Args:
        config: the settings, say from `recipe`; their folds and seed are replaced. `start_from` is the folder of a
            run, which every run starts from; or of a cross-validation, where each has one of its own fold and seed.
        seeds: of the trainings.
        folds: test folds; all of the set's if not given.
        n_jobs: trainings at the same time; GPUs are assigned in turn, processor threads shared. A cluster runs as many
            as it has workers, whatever this is.
        validation: whether the fold after the test fold (after the last comes the first) is not trained on, and
            chooses the epoch and the temperature. If not, the last epoch is the result.
        data_dir, save_dir: as for `train`; the environment that counts is the caller's.
        device: "auto", "cpu", "cuda", "cuda:1".

    Raises:
        FileNotFoundError: the data has not been prepared.
        ValueError: precision "auto", no seeds, too few folds, a fold that the prepared set does not have, results on
            other recordings, or a cluster of one worker; or what `train` raises.
    """
    check("config", config, TrainConfig)
    check("n_jobs", n_jobs, int, 1, 10_000)
    check("validation", validation, bool)
    check("device", device, str)
    for seed in seeds if isinstance(seeds, list | tuple | range) else [seeds]:
        check("seeds", seed, int, 0, 2**63 - 1)
    if isinstance(seeds, int) or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds is {seeds!r}: expected a list of numbers, each once")
    if config.precision == "auto":
        raise ValueError("precision is 'auto', which may differ between machines: name one")
    prepared = prepared_folder(config.dataset, config.sample_rate, data_dir)
    metadata = read_metadata(prepared)
    table = read_clip_table(prepared / "clips.csv")
    available = sorted(map(int, table["fold"].unique()))
    if folds is not None:
        check_folds("folds", folds, config.dataset)
    tested = available if folds is None else list(folds)
    if not set(tested) <= set(available):
        raise ValueError(f"folds is {tested}: expected some of {available}, which {config.dataset} holds as prepared")
    if len(available) < 2 + validation or not seeds:
        raise ValueError(
            f"seeds is {list(seeds)} and folds are {available}: too few; give at least one seed, and a fold to train "
            "on, one to test on and, with validation, one to validate on"
        )
    configs = {
        (fold, seed): _fold_config(config, available, fold, seed, validation) for seed in seeds for fold in tested
    }
    path = runs_folder(save_dir) / _name(config, validation)
    todo = {job: of for job, of in configs.items() if not _is_done(path, *job)}
    jobs = _jobs(todo, path, data_folder(data_dir), device, n_jobs)
    from joblib import Parallel  # late: it takes long to import

    # One by one: joblib would batch jobs together if the first are short. And all are dispatched at the start, so that
    # workers that join later find jobs to do.
    done = Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="all")(jobs)
    for _ in progress_bar(done, total=len(configs), initial=len(configs) - len(todo), desc=path.name, unit="run"):
        pass
    return _read(path, configs, metadata["subset"], metadata["origin"]["sha256"])


def _jobs(
    configs: dict[tuple[int, int], TrainConfig], path: Path, data_dir: Path, device: str, n_jobs: int
) -> list[tuple[Any, ...]]:
    """A joblib job per fold and seed. Devices and threads are known here only if the jobs run on this machine."""
    from joblib import cpu_count, delayed, effective_n_jobs
    from joblib.parallel import get_active_backend

    here = type(get_active_backend()[0]).__name__ in LOCAL_BACKENDS
    if not here and effective_n_jobs() == 1:
        raise ValueError(
            "the cluster has one worker with one thread, and joblib would train on this machine instead: "
            "wait for more with client.wait_for_workers(2), or give the worker two threads"
        )
    threads = max(1, cpu_count() // n_jobs) if here and n_jobs > 1 else None
    devices = [device]
    if here and device == "auto":
        warn_if_no_gpu(device)
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        devices = [f"cuda:{i}" for i in range(gpus)] or ["cpu"]
    return [
        delayed(_job)(config, fold, path, data_dir, device, threads)
        for ((fold, _), config), device in zip(configs.items(), cycle(devices), strict=False)
    ]


def _fold_config(config: TrainConfig, available: list[int], fold: int, seed: int, validation: bool) -> TrainConfig:
    after = available[(available.index(fold) + 1) % len(available)]
    validation_folds = (after,) if validation else ()
    train_folds = tuple(other for other in available if other not in (fold, *validation_folds))
    start_from = config.start_from
    if start_from:
        first = Path(start_from).expanduser().resolve()
        start_from = str(first if (first / "config.json").is_file() else first / run_name(fold, seed))
    folds: dict[str, Any] = dict(train_folds=train_folds, eval_folds=(fold,), validation_folds=validation_folds)
    return replace(config, **folds, seed=seed, start_from=start_from)


def run_name(fold: int, seed: int) -> str:
    """The run directory's name in the folder of its cross-validation."""
    return f"fold-{fold}-seed-{seed}"


def _name(config: TrainConfig, validation: bool) -> str:
    """A name that the same settings always get, whatever their folds and seed."""
    shared = {k: v for k, v in config.to_dict().items() if k not in ("train_folds", "eval_folds", "seed")}
    shared["start_from"] = Path(config.start_from).name  # wherever it lies
    shared["compile"] = "on" if config.compile else "off"  # as it was written when the first folders were named
    for name, default in YOUNGER.items():
        if getattr(config, name) == default:
            del shared[name]
    digest = hashlib.sha256(json.dumps([shared, validation], sort_keys=True).encode()).hexdigest()
    return f"cv-{config.architecture}-{config.dataset}-{digest[:8]}"


def _job(config: TrainConfig, fold: int, path: Path, data_dir: Path, device: str, threads: int | None) -> None:
    """Trains and tests, alone in the run directory and in this process.

    A worker that was given up as lost may still be at work in the run directory: the worker that repeats its job waits,
    and then finds it done or resumes it. Trainings in threads of one process would share PyTorch's random numbers.
    """
    name = run_name(fold, config.seed)
    with run_lock(make_run_folder(config, save_dir=path, run_dir=name), wait=True), _turn:
        if _is_done(path, fold, config.seed):
            return
        if threads:
            torch.set_num_threads(threads)
        # Without bars: many at a time are of no use.
        run = train(config, data_dir=data_dir, save_dir=path, run_dir=name, device=device, progress=False, locked=True)
        if config.validation_folds:
            found = evaluate(run, folds=config.validation_folds, data_dir=data_dir, device=device)
            calibrate(run, found.predictions, fitted_on=f"fold {config.validation_folds[0]}, which chose the epoch")
        evaluate(run, data_dir=data_dir, device=device)


def _result_file(path: Path, fold: int, seed: int) -> Path:
    return path / run_name(fold, seed) / "eval" / "result.json"


def _is_done(path: Path, fold: int, seed: int) -> bool:
    file = _result_file(path, fold, seed)
    return file.is_file() and load_run(file.parents[1]).finished


def _read(path: Path, configs: dict[tuple[int, int], TrainConfig], subset: bool, source_sha256: str) -> CrossValidation:
    """The results in the run directories, if all of them are of the recordings that are prepared now."""
    runs, predictions, histories, data = [], [], [], []
    for (fold, seed), config in configs.items():
        file = _result_file(path, fold, seed)
        run = load_run(file.parents[1])
        if (run.config.seed, run.config.eval_folds) != (seed, (fold,)):
            raise ValueError(f"{run.path} holds a run of another fold or seed: delete it and cross-validate again")
        result, of_run = _read_result(file, run.config)
        spent = [[session.get(key, math.nan) for session in run.sessions] for key in ("seconds", "processor_seconds")]
        minutes, processor_minutes = (sum(of) / 60 for of in spent)
        best = None if config.validation_folds else max(run.history["eval_acc"].values())
        temperature = run.temperature() if config.validation_folds else None
        data.append({key: result[key] for key in ("dataset", "subset", "source_sha256")})
        of_result = [result[key] for key in ("epoch", "correct", "clips", "acc")]
        runs.append((fold, seed, *of_result, best, minutes, processor_minutes, temperature))
        of_run.insert(0, "seed", seed)
        predictions.append(of_run)
        history = pd.DataFrame(run.history).rename_axis("epoch").reset_index()
        histories.append(history.assign(fold=fold, seed=seed)[list(HISTORY_COLUMNS)])
    first = next(iter(configs.values()))
    table = pd.DataFrame(runs, columns=RUN_COLUMNS).astype({"best": float, "temperature": float})
    if any((of_run["subset"], of_run["source_sha256"]) != (subset, source_sha256) for of_run in data):
        raise ValueError(f"{path} holds runs on other recordings than now: choose another save_dir, or delete it")
    whole = [pd.concat(tables, ignore_index=True) for tables in (predictions, histories)]
    return CrossValidation(path, first, data[0], table, *whole)


def _read_result(file: Path, config: TrainConfig) -> tuple[dict[str, Any], pd.DataFrame]:
    """What `evaluate` wrote about a run of these settings: its result, and a row per clip.

    Raises:
        ValueError: one of the files is damaged, or they are not of the same evaluation.
    """
    remedy = f"delete {file.parent} and cross-validate again"
    result = read_json(file, dict, remedy=remedy)
    try:
        table = read_predictions(file.with_name("predictions.csv"))
        correct, clips = int((table["true"] == table["predicted"]).sum()), len(table)
        counted = {"correct": correct, "clips": clips, "acc": correct / clips}
        agree = all(result[key] == value for key, value in counted.items()) and type(result["epoch"]) is int
        agree = agree and result["dataset"] == config.dataset and {"subset", "source_sha256"} <= result.keys()
        columns = ["file", "fold", "recording", *(f"p_{name}" for name in config.class_names)]
        agree = agree and 1 <= result["epoch"] <= config.epochs and bool(table[columns].notna().all(axis=None))
    except (OSError, ValueError, KeyError, ZeroDivisionError) as error:
        raise ValueError(f"{file.with_name('predictions.csv')} cannot be read ({error!r}): {remedy}") from error
    if not agree:
        raise ValueError(f"{file} and predictions.csv beside it are not of the same evaluation: {remedy}")
    return result, table
