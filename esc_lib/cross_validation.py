"""Cross-validation: every official fold is the test fold once, several seeds, as many trainings at once as fit."""

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from joblib import Parallel, cpu_count, delayed, effective_n_jobs
from joblib.parallel import get_active_backend
from tqdm import tqdm

from esc_lib.calibration import calibrate
from esc_lib.clips import read_about, read_clip_table
from esc_lib.config import TrainConfig
from esc_lib.datasets import data_folder, get_dataset, prepared_folder
from esc_lib.device import say_if_no_gpu
from esc_lib.evaluate import as_arrays, confusion, evaluate, scores
from esc_lib.runs import load_run, make_run_folder, runs_folder
from esc_lib.statistics import bootstrap_interval, calibration_error, wilson_interval, with_temperature
from esc_lib.train import train

# joblib's own ways to run jobs; any other is a cluster's.
LOCAL_BACKENDS = ("LokyBackend", "MultiprocessingBackend", "SequentialBackend", "ThreadingBackend")
_turn = threading.Lock()


@dataclass(frozen=True)
class CrossValidation:
    """What a cross-validation found, read from its run directories.

    Attributes:
        path: folder that holds a run directory per job, or the record that this was read from.
        config: the settings that all runs share; folds and seed are the first run's.
        about: what all results share: dataset, subset, source_sha256.
        runs: a row per run: fold, seed, epoch, correct, clips, accuracy (of the last epoch, or of the one that the
            validation fold chose), best (the highest of all tests on the test fold: too high to report), minutes,
            temperature (fitted on the validation fold).
        predictions: a row per clip and seed: fold, seed, file, source (the recording), true, predicted, and the
            probability of each class.
    """

    path: Path
    config: TrainConfig
    about: dict
    runs: pd.DataFrame
    predictions: pd.DataFrame

    def summary(self) -> pd.Series:
        """Accuracy over all runs: mean and standard deviation over runs, over the seeds' means, and pooled over clips.

        The interval is a bootstrap's over recordings, of the share of the seeds that get a clip right: the runs of
        several seeds see the same clips, and the clips of a recording sound alike.
        """
        accuracy = self.runs["accuracy"]
        right = self.right()
        source = self.predictions.groupby("file")["source"].first()
        low, high = bootstrap_interval(right.to_numpy(), source[right.index].to_numpy())
        return pd.Series(
            {
                "mean of runs": accuracy.mean(),
                "deviation of runs": accuracy.std(),
                "deviation of seeds": self.runs.groupby("seed")["accuracy"].mean().std(),
                "pooled": right.mean(),
                "95 % from": low,
                "95 % to": high,
                "runs": len(accuracy),
                "clips": len(right),
                "recordings": source.nunique(),
            },
            name="accuracy",
        )

    def per_run(self) -> pd.DataFrame:
        """`runs`, and of each accuracy Wilson's 95 % interval: what it may be on other clips of the same kind."""
        counts = zip(self.runs["correct"], self.runs["clips"], strict=True)
        intervals = [wilson_interval(correct, clips) for correct, clips in counts]
        return self.runs.assign(
            **{"95 % from": [low for low, _ in intervals], "95 % to": [high for _, high in intervals]}
        )

    def right(self) -> pd.Series:
        """Of each clip, the share of the seeds that get it right."""
        right = self.predictions["true"] == self.predictions["predicted"]
        return right.groupby(self.predictions["file"]).mean()

    def calibration(self) -> pd.DataFrame:
        """Whether probabilities mean what they say: expected calibration error and mean log loss over all runs.

        As the networks say them, and, with a validation fold, at each run's temperature.
        """
        ways = {"as they come": self.predictions}
        if self.runs["temperature"].notna().all():
            ways["calibrated"] = self.calibrated()
        rows = {}
        for name, predictions in ways.items():
            probabilities, targets = as_arrays(predictions)
            of_true = probabilities[np.arange(len(targets)), targets]
            rows[name] = [calibration_error(probabilities, targets), -np.log(of_true.clip(1e-12)).mean()]
        return pd.DataFrame.from_dict(rows, orient="index", columns=["calibration error", "log loss"])

    def calibrated(self) -> pd.DataFrame:
        """`predictions`, each run's probabilities at its temperature."""
        columns = [column for column in self.predictions if column.startswith("p_")]
        temperature = self.runs.set_index(["fold", "seed"])["temperature"]
        parts = []
        for run, part in self.predictions.groupby(["fold", "seed"], sort=False):
            mended = with_temperature(part[columns].to_numpy(), temperature[run])
            parts.append(part.assign(**dict(zip(columns, mended.T, strict=True))))
        return pd.concat(parts)

    def confusion(self) -> pd.DataFrame:
        """Pooled over all runs: number of tests; rows are the true class, columns the predicted one."""
        return confusion(self.predictions, list(get_dataset(self.config.dataset).classes))

    def per_class(self) -> pd.DataFrame:
        """Pooled over all runs: precision, recall, F1 and number of tests of each class."""
        return scores(self.predictions, list(get_dataset(self.config.dataset).classes))


def cross_validate(
    config: TrainConfig,
    seeds: Sequence[int] = (0,),
    folds: Sequence[int] | None = None,
    n_jobs: int = 1,
    validation: bool = False,
    data_dir: str | Path | None = None,
    save_dir: str | Path | None = None,
    device: str = "auto",
) -> CrossValidation:
    """Trains and tests a network once per fold and seed, in run directories that the same call finds again.

    What is finished is not done again, and what was stopped goes on. Of a set that was prepared as a subset, the folds
    that it holds are all there are. Jobs, a fold and seed each, run through joblib: on this machine, or on a cluster if
    a dask client is there (`pip install --editable '.[cluster]'`):

        with Client("tcp://head:8786"), joblib.parallel_config("dask"):
            found = cross_validate(recipe("envnet", "esc10"))

    The cluster's machines must share the file system that data and runs lie in, and its file locks. "auto" is a
    worker's first GPU, and its processor threads are those of its `OMP_NUM_THREADS`, dask's default for which is 1. The
    job of a worker that was lost goes on with another. But dask gives a job up after as many lost workers as
    `distributed.scheduler.allowed-failures` says, 3 by default, and joblib then waits for ever: raise it beforehand.

    Args:
        config: the settings, say from `recipe`; their folds and seed are replaced. `start_from` is then the folder of
            a cross-validation: each run starts from the one of its fold and seed there.
        seeds: of the trainings.
        folds: to be tested; all official ones if not given.
        n_jobs: trainings at the same time; GPUs are dealt out in turn, processor threads shared. A cluster does as
            many as it has workers, whatever this is.
        validation: whether the fold behind the test fold (behind the last comes the first) is not learned from, and
            chooses the epoch and the temperature. If not, the last epoch is the result.
        data_dir, save_dir: as for `train`; the environment that counts is the caller's.
        device: "auto", "cpu", "cuda", "cuda:1".

    Raises:
        FileNotFoundError: the data has not been prepared.
        ValueError: precision "auto", no seeds, too few folds, a fold that the prepared set does not have, results on
            other recordings, or a cluster of one worker; or what `train` raises.
    """
    if config.precision == "auto":
        raise ValueError("precision is 'auto', which each run would settle by itself: name one")
    prepared = prepared_folder(config.dataset, config.sample_rate, data_dir)
    about = read_about(prepared)
    table = read_clip_table(prepared / "clips.csv")
    there = sorted(map(int, table["fold"].unique()))
    tested = there if folds is None else list(folds)
    if not tested or not set(tested) <= set(there):
        raise ValueError(f"folds is {tested}: expected some of {there}, which {config.dataset} holds as prepared")
    if len(there) < 2 + validation or not seeds:
        raise ValueError(
            f"seeds is {list(seeds)} and folds are {there}: too few; give at least one seed, and a fold to learn from, "
            "one to test on and one more to validate on"
        )
    configs = {(fold, seed): _fold_config(config, there, fold, seed, validation) for seed in seeds for fold in tested}
    path = runs_folder(save_dir) / _name(config, validation)
    todo = {job: of for job, of in configs.items() if not _result_file(of, job[0], path / run_name(*job)).is_file()}
    jobs = _jobs(todo, path, data_folder(data_dir), device, n_jobs)
    # One by one: joblib would tie jobs together if the first are short, as those are that were done before. And all at
    # once: workers that come later find jobs to do.
    done = Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="all")(jobs)
    for _ in tqdm(done, total=len(configs), initial=len(configs) - len(todo), desc=path.name, unit="run"):
        pass
    return _read(path, configs, about["subset"], about["source"]["sha256"])


def _jobs(
    configs: dict[tuple[int, int], TrainConfig], path: Path, data_dir: Path, device: str, n_jobs: int
) -> list[tuple]:
    """A job for joblib per fold and seed. What devices and threads there are is known here only if jobs run here."""
    here = type(get_active_backend()[0]).__name__ in LOCAL_BACKENDS
    if not here and effective_n_jobs() == 1:
        raise ValueError(
            "the cluster has one worker with one thread, and joblib would rather train on this machine: "
            "wait for more with client.wait_for_workers(2), or give the worker two threads"
        )
    threads = max(1, cpu_count() // n_jobs) if here and n_jobs > 1 else None
    places = [device]
    if here and device == "auto":
        say_if_no_gpu(device)
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        places = [f"cuda:{i}" for i in range(gpus)] or ["cpu"]
    return [
        delayed(_job)(config, fold, path / run_name(fold, seed), data_dir, place, threads)
        for ((fold, seed), config), place in zip(configs.items(), cycle(places), strict=False)
    ]


def _fold_config(config: TrainConfig, there: list[int], fold: int, seed: int, validation: bool) -> TrainConfig:
    checked = there[(there.index(fold) + 1) % len(there)] if validation else fold
    learned = tuple(other for other in there if other not in (fold, checked))
    start_from = config.start_from and str(Path(config.start_from).expanduser().resolve() / run_name(fold, seed))
    return replace(config, train_folds=learned, eval_folds=(checked,), seed=seed, start_from=start_from)


def run_name(fold: int, seed: int) -> str:
    """The run directory's name in the folder of its cross-validation."""
    return f"fold-{fold}-seed-{seed}"


def _name(config: TrainConfig, validation: bool) -> str:
    """A name that the same settings always get, whatever their folds and seed."""
    shared = {k: v for k, v in config.to_dict().items() if k not in ("train_folds", "eval_folds", "seed")}
    shared["start_from"] = Path(config.start_from).name  # the same wherever it lies
    digest = hashlib.sha256(json.dumps([shared, validation], sort_keys=True).encode()).hexdigest()
    return f"cv-{config.architecture}-{config.dataset}-{digest[:8]}"


def _job(config: TrainConfig, fold: int, run_dir: Path, data_dir: Path, device: str, threads: int | None) -> None:
    """Trains and tests, alone in the run directory and in this process.

    A worker that was given up as lost may still be at work in the run directory: whoever is to do its job again waits,
    and then finds it done or goes on with it. Trainings in threads of one process would share PyTorch's random numbers.
    """
    lock = FileLock(make_run_folder(config, run_dir.parent, run_dir) / ".job")
    with lock.acquire(poll_interval=1), _turn:
        _train_and_test(config, fold, run_dir, data_dir, device, threads)


def _train_and_test(
    config: TrainConfig, fold: int, run_dir: Path, data_dir: str | Path | None, device: str, threads: int | None
) -> None:
    if _result_file(config, fold, run_dir).is_file():
        return
    if threads:
        torch.set_num_threads(threads)
    run = train(config, data_dir, device=device, run_dir=run_dir, progress=False)  # many bars at once say nothing
    if config.eval_folds == (fold,):
        evaluate(run.path, "last", data_dir, device)
    else:
        checked = evaluate(run.path, "best", data_dir, device)
        calibrate(run, checked.predictions, f"fold {config.eval_folds[0]}, which chose the epoch", "best")
        evaluate(run.path, "best", data_dir, device, folds=[fold])


def _result_file(config: TrainConfig, fold: int, run_dir: Path) -> Path:
    return run_dir / ("eval" if config.eval_folds == (fold,) else f"eval-best-on-{fold}") / "result.json"


def _read(path: Path, configs: dict[tuple[int, int], TrainConfig], subset: bool, source_sha256: str) -> CrossValidation:
    """What is in the run directories, if all of it is of the recordings that are prepared now."""
    runs, predictions, about = [], [], []
    for (fold, seed), config in configs.items():
        file = _result_file(config, fold, path / run_name(fold, seed))
        result, run = json.loads(file.read_text()), load_run(file.parents[1])
        last = config.eval_folds == (fold,)
        best = max(run.history["eval_acc"].values()) if last else None
        temperature = None if last else run.temperature("best")
        minutes = sum(sitting["seconds"] for sitting in run.sittings) / 60
        about.append({key: result[key] for key in ("dataset", "subset", "source_sha256")})
        of_result = [result[key] for key in ("epoch", "correct", "clips", "acc")]
        runs.append((fold, seed, *of_result, best, minutes, temperature))
        of_run = pd.read_csv(file.with_name("predictions.csv"))
        of_run.insert(0, "seed", seed)
        predictions.append(of_run)
    columns = ["fold", "seed", "epoch", "correct", "clips", "accuracy", "best", "minutes", "temperature"]
    first = next(iter(configs.values()))
    table = pd.DataFrame(runs, columns=columns).astype({"best": float, "temperature": float})
    if any((of_run["subset"], of_run["source_sha256"]) != (subset, source_sha256) for of_run in about):
        raise ValueError(f"{path} holds runs on other recordings than now: choose another save_dir, or delete it")
    return CrossValidation(path, first, about[0], table, pd.concat(predictions, ignore_index=True))
