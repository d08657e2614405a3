"""Many independent tasks on several processes or a dask cluster; a worker that dies costs at most its own task."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from pyscf import lib
from threadpoolctl import threadpool_limits

from pyscf_mlham.errors import DataError

PATIENCE = 20  # seconds to wait for a dask scheduler
LIVES = 2  # how many workers a task may cost before it is given up
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Job(Generic[T, R]):
    """What every worker does.

    Attributes:
        work: from a task to its result; a function of a module, so that it can be sent to a process.
        lost: the result of a task whose workers died, from the task and the reason.
        threads: of each worker.
        environment: variables of each worker process.
    """

    work: Callable[[T], R]
    lost: Callable[[T, str], R]
    threads: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """All variables of a worker process, those that tell libraries their threads among them."""
        return dict.fromkeys(THREADS, str(self.threads)) | dict(self.environment)


def process_engine(job: Job[T, R], jobs: int) -> Callable[[Sequence[T]], Iterator[R]]:
    """Return an engine of worker processes; a worker that dies is replaced, and its task tried once more.

    Args:
        job: what to do.
        jobs: number of processes.
    """
    if jobs < 1:
        raise DataError(f"{jobs} worker processes: expected 1 or more.")

    def run(tasks: Sequence[T]) -> Iterator[R]:
        waiting = deque((task, 0) for task in tasks)
        workers = [_Worker(job) for _ in range(min(jobs, len(tasks)))]
        try:
            while waiting or any(w.busy for w in workers):
                for worker in workers:
                    if not worker.busy and waiting:
                        worker.give(*waiting.popleft())
                for ready in wait([w.connection for w in workers if w.busy]):
                    worker = next(w for w in workers if w.connection is ready)
                    task, deaths = worker.task, worker.deaths
                    try:
                        result = worker.take()
                    except EOFError:
                        worker.stop()
                        workers[workers.index(worker)] = _Worker(job)
                        if deaths + 1 < LIVES:
                            waiting.appendleft((task, deaths + 1))
                            continue
                        result = job.lost(task, f"the worker process died {LIVES} times (out of memory?)")
                    yield result
        finally:
            for worker in workers:
                worker.stop()

    return run


class _Worker:
    """A process that does one task after the other."""

    def __init__(self, job: Job[Any, Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, job.work, job.threads), daemon=True)
        with environment(**job.variables):
            self._process.start()
        theirs.close()  # so that reading ends when the worker does
        self.busy = False
        self.task: Any = None
        self.deaths = 0

    def give(self, task: Any, deaths: int) -> None:
        self.busy, self.task, self.deaths = True, task, deaths
        with contextlib.suppress(OSError):  # it is dead already; reading will say so
            self.connection.send(task)

    def take(self) -> Any:
        try:
            result = self.connection.recv()
        except OSError as error:
            raise EOFError from error
        self.busy = False
        return result

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def _work(connection: Connection, work: Callable[[Any], Any], threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops its workers
    become_worker(threads)
    while True:
        try:
            task = connection.recv()
        except (EOFError, ConnectionError):  # the parent is gone
            return
        result = work(task)
        try:
            connection.send(result)
        except ConnectionError:  # gone meanwhile
            return


def dask_engine(job: Job[T, R], address: str) -> Callable[[Sequence[T]], Iterator[R]]:
    """Return an engine that hands the tasks to a dask cluster.

    Args:
        job: what to do.
        address: of the scheduler.
    """

    def run(tasks: Sequence[T]) -> Iterator[R]:
        try:
            from distributed import Client, KilledWorker, as_completed
        except ImportError as error:
            raise DataError("--dask needs the package distributed; pip install 'pyscf-mlham[dask]'.") from error
        try:
            client = Client(address, timeout=PATIENCE)
        except OSError as error:
            raise DataError(f"no dask scheduler answers at {address} ({error}).") from error
        with client:
            futures = {client.submit(_work_alone, job, task, pure=False): task for task in tasks}
            for future in as_completed(futures):
                task = futures.pop(future)
                try:
                    yield future.result()
                except KilledWorker as error:
                    yield job.lost(task, f"its workers died ({error})")
                except ImportError as error:
                    raise DataError(f"the workers at {address} lack a package ({error}); install it there.") from error
                future.release()

    return run


def _work_alone(job: Job[T, R], task: T) -> R:
    """Do a task in a process that somebody else started, with whatever threads and variables it has."""
    os.environ.update(job.variables)  # for what is imported later
    threadpool_limits(job.threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(job.threads)
    use_threads(job.threads)
    return job.work(task)


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables for processes that start meanwhile.

    Args:
        variables: by name.
    """
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


def single_threaded() -> contextlib.AbstractContextManager[None]:
    """Let processes that start meanwhile use one thread: the molecules are small, and each core has its process."""
    return environment(**dict.fromkeys(THREADS, "1"))


def use_threads(count: int) -> None:
    """Let this process use so many threads for integrals.

    Args:
        count: of threads.
    """
    lib.num_threads(count)


def become_worker(threads: int) -> None:
    """Let this process use so many threads, and end when its parent does, whatever ended that.

    A parent that is killed cannot stop its workers; one in a long molecule would go on for hours.

    Args:
        threads: for integrals.
    """
    use_threads(threads)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
