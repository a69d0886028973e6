"""Jobs on a cluster: a real dask scheduler with two worker processes, one of which is killed while it trains."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

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
    """Two worker processes that see no GPU, and whose nannies start them again if they die."""
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
    """Kills a worker whose training has been tested twice or three times; returns the run and its checkpoints then."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        for pid_file in runs.glob("*/*/.pid"):
            with suppress(FileNotFoundError, ValueError):  # it has just finished, or begins
                pid, run = int(pid_file.read_text()), pid_file.parent
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
    return 2 <= len(load_run(run).history["eval_acc"]) < EPOCHS - 1


def checkpoints(run):
    """Of each checkpoint, when it was written."""
    return {name: (run / name / f"{name}.model").stat().st_mtime_ns for name in load_run(run).checkpoints}


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_a_sweep_completes_and_counts_nothing_twice_though_a_worker_is_killed(
    cluster, tmp_path, monkeypatch, one_thread
):
    """M3 on crops of a twentieth of a second: workers know nothing of the tests' network."""
    monkeypatch.setattr(tiny, "RATE", 8000)
    config = recipe("m3", "synthetic", epochs=EPOCHS, crop_samples=400, batch_size=22, crops=1, eval_every=1, keep_n=99)
    tiny.write_set(tmp_path / "data", tiny.tones(range(1, 6), per_class=1), subset=False)
    alone = cross_validate(config, folds=FOLDS, data_dir=tmp_path / "data", save_dir=tmp_path / "1", device="cpu")

    # What only this process has: an environment, a working directory, two GPUs and many processors.
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
    assert set(threads) == {1}, "a worker's threads are its own"
    assert found.runs["fold"].tolist() == list(FOLDS)
    assert not found.predictions["file"].duplicated().any()
    assert found.predictions["fold"].value_counts().to_dict() == dict.fromkeys(FOLDS, 11)
    pd.testing.assert_frame_equal(found.runs.drop(columns="minutes"), alone.runs.drop(columns="minutes"))
    pd.testing.assert_frame_equal(found.predictions, alone.predictions)
    assert found.path.parent == tmp_path / "runs"
    assert len(written) >= 2
    assert written.items() <= checkpoints(run).items(), "what the killed worker had done was done again"
    assert len(checkpoints(run)) == EPOCHS


HOLD = "import filelock, sys\nwith filelock.FileLock(sys.argv[1]):\n    print('in', flush=True)\n    sys.stdin.read()"


def test_a_job_waits_for_a_worker_that_was_given_up_but_is_still_at_it(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    data = tiny.write_set(tmp_path / "data", tiny.tones(range(1, 6), per_class=1), subset=False)
    (finished,) = cross_validate(
        tiny.config(), folds=[1], data_dir=data, save_dir=tmp_path, device="cpu"
    ).path.iterdir()
    (finished / "eval" / "result.json").unlink()
    command = [sys.executable, "-c", HOLD, str(finished / ".lock")]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other,
        ThreadPoolExecutor() as pool,
    ):
        assert other.stdout.readline() == "in\n"
        again = pool.submit(cross_validate, tiny.config(), folds=[1], data_dir=data, save_dir=tmp_path, device="cpu")
        time.sleep(1)
        assert not (finished / "eval" / "result.json").exists() and not again.done()
        other.communicate()
        assert again.result(60).runs["fold"].tolist() == [1]


def test_threads_of_one_process_take_turns(tmp_path, monkeypatch):
    """A worker of two threads: PyTorch has one source of random numbers for both."""
    tiny.register(monkeypatch)
    data = tiny.write_set(tmp_path / "data", tiny.tones(range(1, 6), per_class=1), subset=False)
    found = []
    for n in (1, 2):
        with joblib.parallel_config("threading"):
            found.append(
                cross_validate(
                    tiny.config(), folds=FOLDS, n_jobs=n, data_dir=data, save_dir=tmp_path / f"{n}", device="cpu"
                )
            )
    pd.testing.assert_frame_equal(found[0].predictions, found[1].predictions)


def test_a_cluster_that_would_leave_all_work_to_this_machine_is_refused(tmp_path, monkeypatch):
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
