"""Worker processes: none outlives the process that started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ENGINE = """
import sys
from pyscf_mlham.workers import Job, process_engine
from test_workers import lost, sleep
list(process_engine(Job(sleep, lost), 2)([sys.argv[1]] * 2))
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


def sleep(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)


def lost(task: str, reason: str) -> None:
    raise AssertionError(reason)


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
