"""Cross-validation: every official fold is the test fold once, several seeds, as many trainings at once as fit."""

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from filelock import FileLock
from joblib import Parallel, delayed, effective_n_jobs
from joblib.parallel import get_active_backend
from tqdm import tqdm

from esc_lib.config import TrainConfig
from esc_lib.datasets import data_folder, get_dataset
from esc_lib.evaluate import confusion, evaluate, scores
from esc_lib.runs import load_run, make_run_folder, runs_folder
from esc_lib.statistics import bootstrap_interval
from esc_lib.train import train

# joblib's own ways to run jobs; any other is a cluster's.
LOCAL_BACKENDS = ("LokyBackend", "MultiprocessingBackend", "SequentialBackend", "ThreadingBackend")
_turn = threading.Lock()


@dataclass(frozen=True)
class CrossValidation:
    """What a cross-validation found, read from its run directories.

    Attributes:
        path: folder that holds a run directory per job.
        config: the settings that all runs share; folds and seed are the first run's.
        runs: a row per run: fold, seed, epoch, accuracy (of the last epoch, or of the one that the validation fold
            chose), best (the highest of all tests on the test fold: too high to report), clips, run.
        predictions: a row per clip and seed: fold, seed, file, true, predicted, and the probability of each class.
    """

    path: Path
    config: TrainConfig
    runs: pd.DataFrame
    predictions: pd.DataFrame

    def summary(self) -> pd.Series:
        """Accuracy over all runs: mean and standard deviation over runs, over the seeds' means, and pooled over clips.

        The interval is a bootstrap's over clips, of the share of the seeds that get a clip right: the runs of several
        seeds see the same clips, so they count as one clip each.
        """
        accuracy = self.runs["accuracy"]
        right = self.right()
        low, high = bootstrap_interval(right.to_numpy())
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
            },
            name="accuracy",
        )

    def right(self) -> pd.Series:
        """Of each clip, the share of the seeds that get it right."""
        right = self.predictions["true"] == self.predictions["predicted"]
        return right.groupby(self.predictions["file"]).mean()

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

    What is finished is not done again, and what was stopped goes on. Jobs, a fold and seed each, run through joblib:
    on this machine, or on a cluster if a dask client is there (`pip install --editable '.[cluster]'`):

        with Client("tcp://head:8786"), joblib.parallel_config("dask"):
            found = cross_validate(recipe("envnet", "esc10"))

    The cluster's machines must share the file system that data and runs lie in, and its file locks. "auto" is a
    worker's first GPU, and its processor threads are those of its `OMP_NUM_THREADS`, dask's default for which is 1. The
    job of a worker that was lost goes on with another. But dask gives a job up after as many lost workers as
    `distributed.scheduler.allowed-failures` says, 3 by default, and joblib then waits for ever: raise it beforehand.

    Args:
        config: the settings, say from `recipe`; their folds and seed are replaced.
        seeds: of the trainings.
        folds: to be tested; all official ones if not given.
        n_jobs: trainings at the same time; GPUs are dealt out in turn, processor threads shared. A cluster does as
            many as it has workers, whatever this is.
        validation: whether the fold behind the test fold (behind the last comes the first) is not learned from, and
            chooses the epoch. If not, the last epoch is the result.
        data_dir, save_dir: as for `train`; the environment that counts is the caller's.
        device: "auto", "cpu", "cuda", "cuda:1".

    Raises:
        ValueError: a fold that the set does not have, or a cluster of one worker; or what `train` raises.
    """
    official = get_dataset(config.dataset).folds
    tested = official if folds is None else tuple(folds)
    unknown = [fold for fold in tested if fold not in official]
    if unknown or not tested:
        raise ValueError(f"folds is {list(tested)}: expected some of {config.dataset}'s {list(official)}")
    configs = {(fold, seed): _fold_config(config, fold, seed, validation) for seed in seeds for fold in tested}
    path = runs_folder(save_dir) / _name(config, validation)
    jobs = _jobs(configs, path, data_folder(data_dir), device, n_jobs)
    # One by one: joblib would tie jobs together if the first are short, as those are that were done before. And all at
    # once: workers that come later find jobs to do.
    done = Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="all")(jobs)
    for _ in tqdm(done, total=len(jobs), desc=path.name, unit="run"):
        pass
    return _read(path, configs)


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
    threads = max(1, (os.cpu_count() or 1) // n_jobs) if here and n_jobs > 1 else None
    gpus = torch.cuda.device_count() if here and device == "auto" and torch.cuda.is_available() else 0
    return [
        delayed(_job)(
            config, fold, path / f"fold-{fold}-seed-{seed}", data_dir, f"cuda:{i % gpus}" if gpus else device, threads
        )
        for i, ((fold, seed), config) in enumerate(configs.items())
    ]


def _fold_config(config: TrainConfig, fold: int, seed: int, validation: bool) -> TrainConfig:
    official = get_dataset(config.dataset).folds
    checked = official[(official.index(fold) + 1) % len(official)] if validation else fold
    learned = tuple(other for other in official if other not in (fold, checked))
    return replace(config, train_folds=learned, eval_folds=(checked,), seed=seed)


def _name(config: TrainConfig, validation: bool) -> str:
    """A name that the same settings always get, whatever their folds and seed."""
    shared = {k: v for k, v in config.to_dict().items() if k not in ("train_folds", "eval_folds", "seed")}
    digest = hashlib.sha256(json.dumps([shared, validation], sort_keys=True).encode()).hexdigest()
    return f"cv-{config.architecture}-{config.dataset}-{digest[:8]}"


def _job(config: TrainConfig, fold: int, run_dir: Path, data_dir: Path, device: str, threads: int | None) -> None:
    """Trains and tests, alone in the run directory and in this process.

    A worker that was given up as lost may still be at work in the run directory: whoever is to do its job again waits,
    and then finds it done or goes on with it. Trainings in threads of one process would share PyTorch's random numbers.
    """
    if not _result_file(config, fold, run_dir).is_file():
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
    run = train(config, data_dir, device=device, run_dir=run_dir)
    if config.eval_folds == (fold,):
        evaluate(run.path, "last", data_dir, device)
    else:
        evaluate(run.path, "best", data_dir, device, folds=[fold])


def _result_file(config: TrainConfig, fold: int, run_dir: Path) -> Path:
    return run_dir / ("eval" if config.eval_folds == (fold,) else f"eval-best-on-{fold}") / "result.json"


def _read(path: Path, configs: dict[tuple[int, int], TrainConfig]) -> CrossValidation:
    runs, predictions = [], []
    for (fold, seed), config in configs.items():
        file = _result_file(config, fold, path / f"fold-{fold}-seed-{seed}")
        result, run = json.loads(file.read_text()), load_run(file.parents[1])
        best = max(run.history["eval_acc"].values()) if config.eval_folds == (fold,) else None
        runs.append((fold, seed, result["epoch"], result["acc"], best, result["clips"], run.path.name))
        of_run = pd.read_csv(file.with_name("predictions.csv"))
        of_run.insert(0, "seed", seed)
        predictions.append(of_run)
    columns = ["fold", "seed", "epoch", "accuracy", "best", "clips", "run"]
    first = next(iter(configs.values()))
    return CrossValidation(path, first, pd.DataFrame(runs, columns=columns), pd.concat(predictions, ignore_index=True))
