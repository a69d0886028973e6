"""Cross-validation: every official fold is the test fold once, several seeds, as many trainings at once as fit."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from joblib import Parallel, delayed
from tqdm import tqdm

from esc_lib.clips import read_clip_table
from esc_lib.config import TrainConfig
from esc_lib.datasets import get_dataset, prepared_folder
from esc_lib.evaluate import confusion, evaluate, scores
from esc_lib.runs import load_run, runs_folder
from esc_lib.statistics import bootstrap_interval
from esc_lib.train import train


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

    What is finished is not done again, and what was stopped goes on. Jobs run through joblib, on this machine. Of a set
    that was prepared as a subset, the folds that it holds are all there are.

    Args:
        config: the settings, say from `recipe`; their folds and seed are replaced.
        seeds: of the trainings.
        folds: to be tested; all official ones if not given.
        n_jobs: trainings at the same time; GPUs are dealt out in turn, processor threads shared.
        validation: whether the fold behind the test fold (behind the last comes the first) is not learned from, and
            chooses the epoch. If not, the last epoch is the result.
        data_dir, save_dir: as for `train`.
        device: "auto", "cpu", "cuda", "cuda:1".

    Raises:
        FileNotFoundError: the data has not been prepared.
        ValueError: a fold that the prepared set does not have; or what `train` raises.
    """
    table = read_clip_table(prepared_folder(config.dataset, config.sample_rate, data_dir) / "clips.csv")
    there = sorted(map(int, table["fold"].unique()))
    tested = there if folds is None else list(folds)
    if not tested or not set(tested) <= set(there):
        raise ValueError(f"folds is {tested}: expected some of {there}, which {config.dataset} holds as prepared")
    configs = {(fold, seed): _fold_config(config, there, fold, seed, validation) for seed in seeds for fold in tested}
    path = runs_folder(save_dir) / _name(config, validation)
    jobs = []
    for number, ((fold, seed), of_job) in enumerate(configs.items()):
        run_dir = path / f"fold-{fold}-seed-{seed}"
        place = (
            f"cuda:{number % torch.cuda.device_count()}" if device == "auto" and torch.cuda.is_available() else device
        )
        threads = max(1, (os.cpu_count() or 1) // n_jobs) if n_jobs > 1 else None
        jobs.append(delayed(_train_and_test)(of_job, fold, run_dir, data_dir, place, threads))
    done = Parallel(n_jobs=n_jobs, return_as="generator_unordered")(jobs)
    for _ in tqdm(done, total=len(jobs), desc=path.name, unit="run"):
        pass
    return _read(path, configs)


def _fold_config(config: TrainConfig, there: list[int], fold: int, seed: int, validation: bool) -> TrainConfig:
    checked = there[(there.index(fold) + 1) % len(there)] if validation else fold
    learned = tuple(other for other in there if other not in (fold, checked))
    return replace(config, train_folds=learned, eval_folds=(checked,), seed=seed)


def _name(config: TrainConfig, validation: bool) -> str:
    """A name that the same settings always get, whatever their folds and seed."""
    shared = {k: v for k, v in config.to_dict().items() if k not in ("train_folds", "eval_folds", "seed")}
    digest = hashlib.sha256(json.dumps([shared, validation], sort_keys=True).encode()).hexdigest()
    return f"cv-{config.architecture}-{config.dataset}-{digest[:8]}"


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
