"""Many independent tasks on several processes or a dask cluster; a worker that dies loses at most its own task."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any, Generic, TypeVar

from pyscf import lib
from threadpoolctl import threadpool_limits

from pyscf_mlham.errors import DataError

PATIENCE = 20  # seconds to wait for a dask scheduler
LIVES = 2  # workers that may die on a task before it is given up
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Job(Generic[T, R]):
    """The work of each worker; its functions are defined in modules, so that they can be sent to a process."""

    work: Callable[[T], R]
    failed: Callable[[T, str], R]  # result of a task that raised an error or whose workers died, with the reason
    threads: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, task: T) -> R:
        """Work on a task; an error of any type becomes its result, so that the others continue."""
        try:
            return self.work(task)
        except Exception as error:
            return self.failed(task, f"{type(error).__name__}: {error}".strip())

    @property
    def variables(self) -> dict[str, str]:
        """All environment variables of a worker process, including those for the threads of libraries."""
        return dict.fromkeys(THREADS, str(self.threads)) | dict(self.environment)


def check_scratch() -> None:
    """Raise DataError if PySCF's scratch folder cannot be written: every molecule would fail."""
    if not os.access(lib.param.TMPDIR, os.W_OK | os.X_OK):
        text = "PySCF's scratch folder is missing or cannot be written; name another one in PYSCF_TMPDIR"
        raise DataError(f"{lib.param.TMPDIR}: {text}.")


def engine(job: Job[T, R], jobs: int, dask: str = "") -> Callable[[Sequence[T]], Iterator[R]]:
    """Return an engine of worker processes, or of a dask cluster if the address of its scheduler is given."""
    if dask:
        return functools.partial(on_cluster, job, dask)
    if jobs < 1:
        raise DataError(f"{jobs} worker processes: expected 1 or more.")
    return functools.partial(in_processes, job, jobs)


def in_processes(job: Job[T, R], jobs: int, tasks: Sequence[T]) -> Iterator[R]:
    """Work on tasks in worker processes; one that dies is replaced, and its task tried once more."""
    waiting = deque((task, 0) for task in tasks)
    idle = [_new_worker(job) for _ in range(min(jobs, len(tasks)))]
    busy: dict[Future[R], tuple[ProcessPoolExecutor, T, int]] = {}
    try:
        while waiting or busy:
            while waiting and idle:
                task, deaths = waiting.popleft()
                worker, future = _submit(idle.pop(), job, task)
                busy[future] = worker, task, deaths
            for future in wait_for(busy, return_when=FIRST_COMPLETED).done:
                worker, task, deaths = busy.pop(future)
                died = isinstance(future.exception(), BrokenProcessPool)
                idle.append(_new_worker(job) if died else worker)
                if died and deaths + 1 < LIVES:
                    waiting.appendleft((task, deaths + 1))
                elif died:
                    yield job.failed(task, f"the worker process died {LIVES} times (out of memory?)")
                else:
                    yield future.result()
    finally:
        for worker in (*idle, *(worker for worker, _, _ in busy.values())):
            for process in (worker._processes or {}).values():
                process.kill()
            worker.shutdown()


def _new_worker(job: Job[Any, Any]) -> ProcessPoolExecutor:
    """Return an executor of one process, so that a process that dies is that of a single task."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, become_worker, (job.threads,))


def _submit(worker: ProcessPoolExecutor, job: Job[T, R], task: T) -> tuple[ProcessPoolExecutor, Future[R]]:
    """Give a task to a worker, or to a new one if it died between two tasks."""
    with environment(**job.variables):  # of its process, which starts with the first task
        try:
            return worker, worker.submit(job, task)
        except BrokenProcessPool:
            worker = _new_worker(job)
            return worker, worker.submit(job, task)


def on_cluster(job: Job[T, R], address: str, tasks: Sequence[T]) -> Iterator[R]:
    """Work on tasks on a dask cluster."""
    try:
        from distributed import Client, KilledWorker, as_completed
    except ImportError as error:
        raise DataError("--dask needs the package distributed; pip install 'pyscf-mlham[dask]'.") from error
    try:
        client = Client(address, timeout=PATIENCE)
    except OSError as error:
        raise DataError(f"no dask scheduler is reachable at {address} ({error}).") from error
    with client:
        futures = {client.submit(_work_alone, job, task, pure=False): task for task in tasks}
        for future in as_completed(futures):
            task = futures.pop(future)
            try:
                yield future.result()
            except KilledWorker as error:
                yield job.failed(task, f"its workers died ({error})")
            except ImportError as error:
                raise DataError(f"the workers at {address} lack a package ({error}); install it there.") from error
            future.release()


def _work_alone(job: Job[T, R], task: T) -> R:
    """Work on a task in a process of another program, with its own threads and variables."""
    os.environ.update(job.variables)  # for what is imported later
    threadpool_limits(job.threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(job.threads)
    lib.num_threads(job.threads)
    return job(task)


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables for processes started inside the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def become_worker(threads: int) -> None:
    """Set the number of threads of this process, and end it when its parent ends for any reason.

    A parent that is killed cannot stop its workers, and a long molecule would run on for hours.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops its workers
    lib.num_threads(threads)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
