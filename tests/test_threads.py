"""BLAS keeps to one thread where many small products are made, and the work is shared out among PySCF's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from pyscf import lib
from scipy.linalg import eigh
from threadpoolctl import threadpool_info, threadpool_limits

import pyscf_mlham
from pyscf_mlham.field import CoarseField, Level, ResponseField, SingleField, fitting, levels, pairs, three_centre
from pyscf_mlham.model.network import NetworkModel
from pyscf_mlham.threads import LEAST, all_blas_threads, each, one_blas_thread, shared_out
from support.molecules import ETHYLENE, mole

DOUBLE = Level("double", "def2-universal-jfit", "def2-universal-jfit", 0, np.float64)


def blas_threads() -> int:
    """Of the BLAS libraries that have threads, the most."""
    return max(i["num_threads"] for i in threadpool_info() if i.get("threading_layer") == "pthreads")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = lib.num_threads()
    with threadpool_limits(2, user_api="blas"):
        lib.num_threads(2)
        yield
        lib.num_threads(before)


def test_nested_thread_limits() -> None:
    assert blas_threads() == 2
    with all_blas_threads():
        assert blas_threads() == 2
    with one_blas_thread():
        assert blas_threads() == 1
        with one_blas_thread(), all_blas_threads():
            assert blas_threads() == 2
            with one_blas_thread():
                assert blas_threads() == 1
            assert blas_threads() == 2
        assert blas_threads() == 1
    assert blas_threads() == 2


def test_an_error_gives_the_threads_back() -> None:
    for limit in (one_blas_thread, all_blas_threads):
        with pytest.raises(ZeroDivisionError), limit():
            _ = 1 / 0
        assert blas_threads() == 2


def test_first_of_two_threads_sets_the_limit() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with all_blas_threads(), one_blas_thread():
            entered.set()
            leave.wait(60)

    with ThreadPoolExecutor(1) as pool:
        with one_blas_thread():
            done = pool.submit(other)
            assert entered.wait(60)
            assert blas_threads() == 1
        assert blas_threads() == 2
        leave.set()
        done.result(60)
    assert blas_threads() == 2


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("number", [1, LEAST, 7 * LEAST + 3])
def test_all_items_are_shared_out_in_order(threads: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lib, "num_threads", lambda *_: threads)
    parts = shared_out(lambda part: list(range(number))[part], number)
    assert [item for part in parts for item in part] == list(range(number))
    assert len(parts) <= threads
    assert all(len(part) >= LEAST for part in parts[:-1])


def test_parts_are_worked_on_at_once() -> None:
    barrier = threading.Barrier(2, timeout=60)
    shared_out(lambda part: barrier.wait(), 2 * LEAST)  # one after the other they would wait for ever


def test_libraries_use_one_thread_for_each_item() -> None:
    assert set(each(lambda _: (lib.num_threads(), blas_threads()), range(4))) == {(1, 1)}
    assert (lib.num_threads(), blas_threads()) == (2, 2)


def test_an_error_in_a_part_is_raised_and_releases_the_threads() -> None:
    with pytest.raises(ZeroDivisionError):
        shared_out(lambda part: 1 / part.start, 2 * LEAST)
    assert blas_threads() == 2


@pytest.mark.parametrize("make", [CoarseField, ResponseField, SingleField])
@pytest.mark.parametrize("xc", ["b3lyp", "m062x"])
def test_the_field_is_that_of_one_thread(xc: str, make: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (fitting, pairs, three_centre):
        monkeypatch.setattr(module, "PIECE", 1.0)  # the smallest arrays are shared out
    potentials = []
    for threads in (1, 2):
        lib.num_threads(threads)
        monkeypatch.setattr(levels, "_in_use", {})  # nothing is shared with the other field
        mf = mole(ETHYLENE).UKS(xc=xc).density_fit()
        left = eigh(mf.get_hcore(), mf.get_ovlp())[1][:, :8]
        reference = [left[:, :7], left[:, 1:]]
        field = make(mf) if make is SingleField else make(mf, DOUBLE)
        if make is ResponseField:
            field = field.with_kernel(reference)
        near = field.around(reference, np.zeros((2, mf.mol.nao, mf.mol.nao)))
        potentials.append(near.potential([left, left[:, :-1]]))
    np.testing.assert_allclose(*potentials, atol=1e-11 if make is CoarseField else 2e-5)


def watch(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[int]:
    """Note BLAS's threads whenever a function is called."""
    seen: list[int] = []
    original = getattr(owner, name)

    def watched(*args, **kwargs):
        seen.append(blas_threads())
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, watched)
    return seen


@pytest.mark.parametrize(("kind", "threads"), [("plain", 1), ("fitted", 2), ("solvent", 2)])
def test_accelerate_keeps_blas_to_one_thread(kind: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mf = mole(ETHYLENE, basis="sto-3g").RKS(xc="pbe")
    mf = {"plain": mf, "fitted": mf.density_fit(), "solvent": mf.PCM()}[kind]
    coarse, fits = watch(monkeypatch, CoarseField, "potential"), watch(monkeypatch, fitting, "three_centre")
    full = watch(monkeypatch, type(mf), "get_veff")
    fast = pyscf_mlham.accelerate(mf).run()
    assert fast.converged
    assert set(full) == {threads}
    assert set(coarse) == {1}
    assert set(fits) == {2}  # large products
    assert blas_threads() == 2


def test_a_prediction_keeps_blas_to_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(monkeypatch, NetworkModel, "correction")
    pyscf_mlham.guess(mole(ETHYLENE, basis="def2-svp").RKS(xc="b3lyp"), fallback="raise")
    assert seen == [1]
    assert blas_threads() == 2
