"""Fixtures for all tests; they import what they need themselves, so that one broken module fails its own tests only."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import pyscf_mlham


@pytest.fixture(autouse=True)
def _fresh_registration() -> Iterator[None]:
    """Every test starts and ends with 'ml' registered as the import leaves it."""
    pyscf_mlham.register(model=None, fallback="minao", accelerate=False)
    yield
    pyscf_mlham.register(model=None, fallback="minao", accelerate=False)


@pytest.fixture(scope="module")
def small_grids() -> Iterator[None]:
    """Objects of PySCF have small grids by default, for what does not depend on them."""
    from pyscf.dft.gen_grid import Grids

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Grids, "level", 1)
        yield


@pytest.fixture
def quick_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands work in this process and draw no figures; workers and figures have tests of their own."""
    from pyscf_mlham import workers
    from pyscf_mlham.bench import report

    monkeypatch.setattr(workers, "in_processes", lambda job, _, tasks: map(job, tasks))
    monkeypatch.setattr(report, "draw", lambda *_: {})


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither memory nor disk for fitted integrals."""
    from pyscf_mlham.field import coarse
    from pyscf_mlham.h0 import fingerprint

    fingerprint("minao", "b3lyp")  # remembered; without room it would be another
    monkeypatch.setattr(coarse, "free_bytes", lambda mf: 0.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of labelled molecules, to be read only."""
    from support.labelled import labelled_file

    return labelled_file(tmp_path_factory.mktemp("labelled"))
