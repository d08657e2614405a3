"""Worker processes: none outlives the process that started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from pyscf import lib

from pyscf_mlham import cli
from pyscf_mlham.workers import Job, on_cluster

ENGINE = """
import sys
from pyscf_mlham.workers import Job, in_processes
from test_workers import lost, sleep
list(in_processes(Job(sleep, lost), 2, [sys.argv[1]] * 2))
"""
POOL = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pyscf_mlham.workers import become_worker
from test_workers import sleep
pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=become_worker, initargs=(1,))
list(pool.map(sleep, [sys.argv[1]] * 2))
"""
POOLS = "set(x['num_threads'] for x in __import__('threadpoolctl').threadpool_info() if {})"


def sleep(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)


def lost(task: str, reason: str) -> None:
    raise AssertionError(reason)


def test_workers_of_a_cluster_are_pinned_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else started them, with one thread and with a card in sight."""
    from distributed import LocalCluster

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    asked = [
        "__import__('pyscf.lib').lib.num_threads()",
        "__import__('torch').get_num_threads()",
        POOLS.format("x['user_api'] == 'openmp'"),
        POOLS.format("x.get('threading_layer') == 'pthreads'"),
        "__import__('os').environ['OMP_NUM_THREADS'], __import__('os').environ['CUDA_VISIBLE_DEVICES']",
    ]
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        for threads in (2, 1):
            job = Job(eval, lost, threads, {"CUDA_VISIBLE_DEVICES": ""})
            found = [next(on_cluster(job, cluster.scheduler_address, [question])) for question in asked]
            assert found == [threads, threads, {threads}, {threads}, (str(threads), "")]


@pytest.mark.parametrize("script", [ENGINE, POOL], ids=["engine", "pool"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_busy_workers_end_with_their_parent(tmp_path: Path, script: str, how: signal.Signals) -> None:
    path = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    quiet = {"stderr": subprocess.DEVNULL, "env": os.environ | {"PYTHONPATH": path}}
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], **quiet)
    deadline = time.monotonic() + 60
    while len(workers := list(tmp_path.iterdir())) < 2:
        assert parent.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    busy = [psutil.Process(int(worker.name)) for worker in workers]
    parent.send_signal(how)
    parent.wait()
    assert not psutil.wait_procs(busy, timeout=20)[1]


def test_a_missing_scratch_folder_stops_a_command_before_it_fails_molecules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lib.param, "TMPDIR", str(tmp_path / "missing"))
    assert cli.main(["models"]) == 1
    assert "scratch folder is missing" in capsys.readouterr().err
