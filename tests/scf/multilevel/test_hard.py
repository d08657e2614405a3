"""Difficult cases, of a size that needs time."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from pyscf_mlham import accelerate
from support import ROOT
from support.molecules import mole


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


def test_a_state_of_open_d_shells_is_no_saddle_point() -> None:
    def hydride() -> Any:
        mf = mole("Ni 0 0 0; H 0 0 1.48", "def2-svp", spin=1).UKS(xc="pbe").density_fit()
        mf.grids.level = 1
        return mf

    quick = accelerate(hydride()).run()
    assert quick.converged
    assert quick.e_tot <= hydride().run().e_tot + 1e-8
    assert quick.undo_accelerate().stability(return_status=True)[2]
    assert quick.full_builds <= 12  # 7 to 9 by rounding, 32 from the saddle point
    again = accelerate(hydride())
    again.kernel(dm0=quick.make_rdm1())
    assert again.full_builds <= 2
