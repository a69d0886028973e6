"""Jobs on a cluster: a real dask scheduler with two worker processes, one of which is killed while it trains."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import joblib
import pandas as pd
import pytest
import tiny
import torch
from distributed import Client, LocalCluster

from esc_lib import cross_validate, load_run, recipe

EPOCHS = 5
FOLDS = (1, 2, 3)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two worker processes without a GPU, which dask restarts if they die."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=":0",
        local_directory=tmp_path_factory.mktemp("workers"),
        env={"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    ) as cluster:
        yield cluster


def kill_one_in_the_middle(runs, workers):
    """Kills a worker after the second or third evaluation of its run; returns the run and its checkpoints then."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        for pid_file in runs.glob("*/*/.pid"):
            with suppress(FileNotFoundError, ValueError):  # the run just finished, or is about to start
                pid, run = int(pid_file.read_text(encoding="utf-8")), pid_file.parent
                if in_the_middle(run):
                    assert pid in workers
                    os.kill(pid, signal.SIGSTOP)
                    late = not in_the_middle(run)
                    os.kill(pid, signal.SIGCONT if late else signal.SIGKILL)
                    if not late:
                        return run, checkpoints(run)
        time.sleep(0.005)
    raise TimeoutError(f"no training in {runs}")


def in_the_middle(run):
    return 2 <= len(load_run(run).checkpoints) < EPOCHS - 1


def checkpoints(run):
    """The time at which each checkpoint was written: {name: ns}."""
    return {name: (run / name / f"{name}.model").stat().st_mtime_ns for name in load_run(run).checkpoints}


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_cross_validation_survives_a_killed_worker(cluster, tmp_path, monkeypatch, one_thread):
    """M3 on crops of a twentieth of a second: workers do not know the tests' network."""
    monkeypatch.setattr(tiny, "RATE", 8000)
    config = recipe("m3", "synthetic", epochs=EPOCHS, crop_samples=400, batch_size=22, crops=1, eval_every=1, keep_n=99)
    tiny.write_set(tmp_path / "data", tiny.tones(range(1, 6), per_class=1), subset=False)
    alone = cross_validate(config, folds=FOLDS, data_dir=tmp_path / "data", save_dir=tmp_path / "1", device="cpu")

    # Only this process has: an environment variable, a working directory, two GPUs and many processors.
    monkeypatch.setenv("ESC_RUNS", "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    with Client(cluster) as client, joblib.parallel_config("dask"), ThreadPoolExecutor() as pool:
        workers = client.run(os.getpid)
        killed = pool.submit(kill_one_in_the_middle, tmp_path / "runs", workers.values())
        found = cross_validate(config, folds=FOLDS, n_jobs=2, data_dir="data")
        run, written = killed.result()
        threads = client.gather(
            [client.submit(torch.get_num_threads, workers=w, pure=False) for w in client.nthreads()]
        )
    assert set(threads) == {1}, "the number of threads is the worker's"
    assert found.runs["fold"].tolist() == list(FOLDS)
    assert not found.predictions["file"].duplicated().any()
    assert found.predictions["fold"].value_counts().to_dict() == dict.fromkeys(FOLDS, 11)
    pd.testing.assert_frame_equal(
        found.runs.drop(columns=["minutes", "processor_minutes"]),
        alone.runs.drop(columns=["minutes", "processor_minutes"]),
    )
    pd.testing.assert_frame_equal(found.predictions, alone.predictions)
    assert found.path.parent == tmp_path / "runs"
    assert len(written) >= 2
    assert written.items() <= checkpoints(run).items(), "finished epochs of the killed worker were repeated"
    assert len(checkpoints(run)) == EPOCHS


HOLD = "import filelock, sys\nwith filelock.FileLock(sys.argv[1]):\n    print('in', flush=True)\n    sys.stdin.read()"


@pytest.fixture
def validate_tiny(tmp_path, monkeypatch):
    """Cross-validates the tests' network on five folds of tones."""
    tiny.register(monkeypatch)
    data = tiny.write_set(tmp_path / "data", tiny.tones(range(1, 6), per_class=1), subset=False)
    return partial(cross_validate, tiny.config(), data_dir=data, save_dir=tmp_path / "runs", device="cpu")


def test_a_job_waits_until_a_worker_given_up_as_lost_releases_the_run(validate_tiny):
    (finished,) = validate_tiny(folds=[1]).path.iterdir()
    (finished / "eval" / "result.json").unlink()
    command = [sys.executable, "-c", HOLD, str(finished / ".lock")]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other,
        ThreadPoolExecutor() as pool,
    ):
        assert other.stdout.readline() == "in\n"
        again = pool.submit(validate_tiny, folds=[1])
        time.sleep(1)
        assert not (finished / "eval" / "result.json").exists() and not again.done()
        other.communicate()
        assert again.result(60).runs["fold"].tolist() == [1]


def test_threads_of_one_process_take_turns(validate_tiny, tmp_path):
    """A worker with two threads: both draw from PyTorch's one global random state."""
    with joblib.parallel_config("threading"):
        one, two = (validate_tiny(folds=FOLDS, n_jobs=n, save_dir=tmp_path / f"{n}") for n in (1, 2))
    pd.testing.assert_frame_equal(one.predictions, two.predictions)


def test_a_cluster_of_one_worker_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "RATE", 8000)
    data = tiny.write_set(tmp_path / "data", tiny.tones((1, 2), per_class=1))
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0", local_directory=tmp_path
        ) as small,
        Client(small),
        joblib.parallel_config("dask"),
        pytest.raises(ValueError, match=r"one worker.*wait_for_workers\(2\)"),
    ):
        cross_validate(recipe("m3", "synthetic"), data_dir=data, save_dir=tmp_path)
