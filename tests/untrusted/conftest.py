"""Files made to do harm are refused with a reason, before they use memory, run code, or touch other files."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

MOST = 2**30  # bytes that a refused file may take


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to run in, that stays without a trace of a file's code; memory is limited."""
    monkeypatch.chdir(tmp_path)
    here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (here + MOST, before[1]))
    yield tmp_path
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert not (tmp_path / "harm").exists()
