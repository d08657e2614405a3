"""Difficult cases, of a size that needs time."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from pyscf_mlham import accelerate
from support import ROOT


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("hard").CASES


@pytest.mark.slow
@pytest.mark.parametrize("name", ["FeCO triplet", "CoO quartet", "FeC triplet", "Fe2 septet", "twisted ethylene"])
def test_difficult_cases_converge(name: str, cases: dict[str, Any]) -> None:
    quick = accelerate(cases[name].mean_field()).run()
    assert quick.converged
    assert not quick.plain_reason
    assert quick.full_builds <= 10
