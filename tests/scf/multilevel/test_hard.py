"""Difficult cases: cheap levels that do not converge by DIIS are held near their last density."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from pyscf_mlham import accelerate
from pyscf_mlham.field import COARSE, CoarseField, atomic_factors
from pyscf_mlham.scf.multilevel import solver
from pyscf_mlham.scf.multilevel.levels import CheapLevel
from pyscf_mlham.scf.problem import Problem
from support import ROOT


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("hard").CASES


def test_a_held_level_is_the_same_at_its_point_and_has_a_larger_gap(cases: dict[str, Any]) -> None:
    problem = Problem.of(cases["CuO doublet"].mean_field())
    level = CheapLevel(problem, CoarseField(problem.mf, COARSE))
    point = level.build(problem.orbitals(problem.hcore + level.field.potential(atomic_factors(problem.mf))))
    held, start = level.held(point, 0.5)
    assert start.gradient == pytest.approx(point.gradient, abs=1e-8)
    again = held.build(point.orbitals)
    np.testing.assert_allclose(again.v, start.v, atol=1e-5)
    for c, occ, shifted, fock in zip(point.orbitals.coeff, point.orbitals.occ, start.fock, point.fock, strict=True):
        lowered = np.einsum("pi,pq,qi->i", c, fock - shifted, c)
        np.testing.assert_allclose(lowered, 0.5 * occ, atol=1e-8)


def test_a_level_that_diis_does_not_converge_settles(cases: dict[str, Any]) -> None:
    problem = Problem.of(cases["FeCO triplet"].mean_field())
    level = CheapLevel(problem, CoarseField(problem.mf, COARSE))
    point = level.build(problem.orbitals(problem.hcore + level.field.potential(atomic_factors(problem.mf))))
    assert not solver.solve([level], point, 3e-3).converged
    assert solver.settled([level], point, 3e-3).converged


@pytest.mark.slow
@pytest.mark.parametrize("name", ["FeCO triplet", "CoO quartet", "FeC triplet", "Ni2 triplet", "Cr(CO)6"])
def test_difficult_cases_converge(name: str, cases: dict[str, Any]) -> None:
    quick = accelerate(cases[name].mean_field()).run()
    assert quick.converged
    assert quick.full_builds <= 10
