"""Geometries and mean-field objects that the tests share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from benchmarked import benchmarked
from labelled import labelled_file
from pyscf import gto

import pyscf_mlham
from pyscf_mlham.bench.results import RESULTS, Results, read_results
from pyscf_mlham.field import coarse
from pyscf_mlham.h0 import fingerprint

WATER = "O 0 0 0.1173; H 0 0.7572 -0.4692; H 0 -0.7572 -0.4692"
ETHYLENE = "C 0 0 0.66; C 0 0 -0.66; H 0 0.92 1.23; H 0 -0.92 1.23; H 0 0.92 -1.23; H 0 -0.92 -1.23"
TWISTED_ETHYLENE = "C 0 0 0.66; C 0 0 -0.66; H 0 0.92 1.23; H 0 -0.92 1.23; H 0.92 0 -1.23; H -0.92 0 -1.23"


def mole(atom: Any = WATER, basis: Any = "6-31g*", **kwargs: Any) -> gto.Mole:
    """Build a silent molecule; water in 6-31G* by default."""
    return gto.M(atom=atom, basis=basis, **{"verbose": 0, **kwargs})


def assert_close(actual: Any, expected: Any, atol: float) -> None:
    """Equal to an absolute tolerance; numpy's own default adds a relative one of 1e-7."""
    np.testing.assert_allclose(actual, expected, atol=atol, rtol=0)


@pytest.fixture(autouse=True)
def _fresh_registration() -> Iterator[None]:
    """Every test starts and ends with 'ml' registered as the import leaves it."""
    pyscf_mlham.register(model=None, fallback="minao", accelerate=False)
    yield
    pyscf_mlham.register(model=None, fallback="minao", accelerate=False)


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither memory nor disk for fitted integrals."""
    fingerprint("minao", "b3lyp")  # remembered; without room it would be another
    monkeypatch.setattr(coarse, "free_bytes", lambda mf: 0.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of labelled molecules, to be read only."""
    return labelled_file(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small benchmark, to be read only."""
    return benchmarked(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def results(folder: Path) -> Results:
    """What is in that folder."""
    return read_results(folder / RESULTS)
