"""A small benchmark that tests read."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyscf_mlham.bench.results import RESULTS, Results, read_results
from support.benchmarked import benchmarked


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small benchmark, to be read only."""
    return benchmarked(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def results(folder: Path) -> Results:
    """What is in that folder."""
    return read_results(folder / RESULTS)
