"""Fixtures of the history's tests."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture
def cheaper_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes molecules of few AOs use the cheaper levels, as larger ones do."""
    monkeypatch.setitem(vars(sys.modules["pyscf_mlham.track.mixin"]), "SMALL", 0)
