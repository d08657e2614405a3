"""Work on PySCF's threads, with one thread of the linear algebra library for each.

NumPy's BLAS has its own threads. Each product wakes them, and afterwards they wait in a busy loop for a while, on the
cores needed by PySCF's threads; with both at their defaults a calculation of many products takes twice as long.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from math import inf
from threading import RLock
from typing import TypeVar

from pyscf import lib
from threadpoolctl import ThreadpoolController

R = TypeVar("R")
T = TypeVar("T")

LEAST = 8  # smallest number of items per thread
PIECE = 1e6  # bytes; smallest part of an array for a thread, about 0.1 ms of work
SHARE = 4  # parts for each thread that make all threads finish at nearly the same time

# The thread that holds the lock has set the limit for all threads; requests of others have no effect meanwhile.
_owner = RLock()
_limit = contextlib.ExitStack()
_limited = False


@cache
def _libraries() -> ThreadpoolController:
    """Return BLAS libraries with their own threads; the caller has loaded those of NumPy and SciPy."""
    loaded = ThreadpoolController().select(user_api="blas")
    # an OpenBLAS on OpenMP passes its limit on to OpenMP, which PySCF's threads use
    return loaded.select(filepath=[x["filepath"] for x in loaded.info() if x.get("threading_layer") != "openmp"])


@contextlib.contextmanager
def _blas(limited: bool) -> Iterator[None]:
    if not _owner.acquire(blocking=False):
        yield
        return
    before = _limited
    try:
        _switch(limited)
        yield
    finally:
        _switch(before)
        _owner.release()


one_blas_thread = partial(_blas, limited=True)  # limits BLAS to the calling thread
all_blas_threads = partial(_blas, limited=False)  # restores them inside of it, for a few large products


def _switch(limited: bool) -> None:
    global _limited
    if limited and not _limited:
        _limit.enter_context(_libraries().limit(limits=1))
    elif _limited and not limited:
        _limit.close()
    _limited = limited


def shared_out(work: Callable[[slice], R], number: int, most: float = inf) -> list[R]:
    """Split items among PySCF's threads into at most `most` parts, and return their results in order; see `each`."""
    size = max(LEAST, -(-number // max(1, int(min(most, lib.num_threads())))))
    return each(work, [slice(*ends) for ends in lib.prange(0, number, size)])


def each(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Return the results of a function of each item, in order, on as many threads as PySCF uses.

    It must be of NumPy or PySCF, which then use one thread each and release the lock of the interpreter.
    """
    number = min(lib.num_threads(), len(items))
    if number <= 1:
        return [work(item) for item in items]
    with one_blas_thread(), ThreadPoolExecutor(number, initializer=lib.num_threads, initargs=(1,)) as threads:
        return list(threads.map(work, items))
