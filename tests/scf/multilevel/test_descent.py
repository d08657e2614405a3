"""Second-order steps: their equations, saddle points that they leave, and minima whose orbitals are not in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyscf_mlham import accelerate
from pyscf_mlham.field import COARSE, CoarseField, ResponseField, atomic_factors
from pyscf_mlham.scf.multilevel.descent import Step, Surface, descended, lowest_within, quartic_minimum
from pyscf_mlham.scf.multilevel.levels import CheapLevel
from pyscf_mlham.scf.multilevel.solver import solve
from pyscf_mlham.scf.problem import Point, Problem
from support.molecules import TWISTED_ETHYLENE, mole

OBJECTS = {
    "RHF": lambda: mole(basis="6-31g").RHF(),
    "RKS": lambda: mole(basis="6-31g").RKS(xc="pbe"),
    "UKS": lambda: mole(basis="6-31g", charge=1, spin=1).UKS(xc="pbe0"),
    "ROHF": lambda: mole(basis="6-31g", charge=1, spin=1).ROHF(),
    "ROKS": lambda: mole(basis="6-31g", spin=2).ROKS(xc="pbe0"),
    "UHF of one spin": lambda: mole("H 0 0 0; H 0 0 1.4", "6-31g", spin=2).UHF(),
}


def started(mf: Any) -> tuple[CheapLevel, Point]:
    """Return the coarse level, and its point for the orbitals of superposed atoms."""
    problem = Problem.of(mf)
    level = CheapLevel(problem, CoarseField(mf, COARSE))
    factors = atomic_factors(mf)
    fock = problem.fock(level.field.potential(factors), np.stack([l @ l.T for l in factors]))
    return level, level.build(problem.orbitals(fock))


@pytest.mark.parametrize("name", OBJECTS)
def test_gradient_and_hessian_are_derivatives_of_the_energy(name: str, small_grids: None) -> None:
    _, point = started(OBJECTS[name]())
    surface = Surface(point, ResponseField(point.problem.mf))
    anchored = CheapLevel(point.problem, surface.response)
    rng, h = np.random.default_rng(0), 0.02
    x, z = rng.normal(size=(2, surface.gradient.size))
    x /= np.linalg.norm(x)
    up, down = (point.problem.energy_change(point, anchored.build(surface.rotations.rotated(t * x))) for t in (h, -h))
    assert (up - down) / (2 * h) == pytest.approx(surface.gradient @ x, abs=2e-3)
    assert (up + down) / h**2 == pytest.approx(x @ surface.curved(x), rel=1e-3)
    assert z @ surface.curved(x) == pytest.approx(x @ surface.curved(z), rel=1e-4)


def test_the_curvature_seen_along_a_step_is_that_of_the_next_hessian(small_grids: None) -> None:
    _, point = started(OBJECTS["UKS"]())
    response = ResponseField(point.problem.mf)
    surface = Surface(point, response)
    x, z = np.random.default_rng(1).normal(size=(2, surface.gradient.size))
    z -= x * (x @ z) / (x @ x)
    step = Step(0.1 * x / np.linalg.norm(x), expected := -1.0)
    after = Surface(point, response, surface.seen(step, expected - 0.03 * 0.1**2 / 2))  # softer than expected
    y = step.angles / 0.1
    assert y @ after.curved(y) == pytest.approx(y @ surface.curved(y) - 0.03, abs=1e-5)
    np.testing.assert_allclose(after.curved(z), surface.curved(z), atol=1e-5)
    again = Surface(point, response, after.seen(step, expected))  # as expected with that curvature
    assert y @ again.curved(y) == pytest.approx(y @ after.curved(y), abs=1e-5)


@given(st.integers(1, 6), st.floats(0.01, 10.0), st.integers(0, 1000), st.booleans())
@settings(max_examples=50, deadline=None)
def test_no_other_step_within_the_radius_is_lower(n: int, radius: float, seed: int, hard: bool) -> None:
    rng = np.random.default_rng(seed)
    values, vectors = np.linalg.eigh((a := rng.normal(size=(n, n))) + a.T)
    slope = rng.normal(size=n)
    if hard:  # no component along the lowest curvature
        slope -= vectors[:, 0] * (vectors[:, 0] @ slope)
    matrix = (vectors * values) @ vectors.T
    y, shift = lowest_within(slope, matrix, radius)
    assert np.linalg.norm(y) <= radius * (1 + 1e-6)
    np.testing.assert_allclose(matrix @ y + shift * y, -slope, atol=1e-6 * max(1.0, radius))
    energy = slope @ y + y @ matrix @ y / 2
    for _ in range(30):
        other = rng.normal(size=n)
        other *= radius * rng.random() ** (1 / n) / np.linalg.norm(other)
        assert energy <= slope @ other + other @ matrix @ other / 2 + 1e-6 * max(1.0, radius**2)


def test_a_level_that_diis_does_not_converge_descends(small_grids: None) -> None:
    level, point = started(mole(TWISTED_ETHYLENE, "sto-3g").RKS(xc="pbe"))
    failed = solve(level, point, 3e-3)
    assert not failed.converged
    response = ResponseField(point.problem.mf)
    found = descended(level, Surface(failed.point, response), 3e-3)
    assert found.converged
    assert level.build(found.orbitals).gradient < 3e-3
    assert Surface(found.point, response).is_minimum
    assert point.problem.energy_change(failed.point, found.point) < 0


def test_a_saddle_point_is_left(small_grids: None) -> None:
    mf = mole("H 0 0 0; H 0 0 2.5", "6-31g").UHF()  # stretched: the closed shell is a saddle point
    level, point = started(mf)
    closed = solve(level, point, 1e-4)
    response = ResponseField(mf)
    assert closed.converged
    assert not Surface(closed.point, response).is_minimum
    found = descended(level, Surface(closed.point, response), 1e-4)
    assert found.converged
    assert Surface(found.point, response).is_minimum
    assert point.problem.energy_change(closed.point, found.point) < -1e-2
    broken = accelerate(mf).run()  # from mixed frontier orbitals
    assert broken.spin_square()[0] > 0.9
    assert mf.energy_tot(found.point.density) == pytest.approx(broken.e_tot, abs=1e-4)


def test_a_low_curvature_is_that_of_the_finer_field(small_grids: None) -> None:
    mf = mole("N 0 0 0; N 0 0 1.3", "6-31g").UHF()  # near the length at which the spins separate
    level, point = started(mf)
    closed = solve(level, point, 1e-5).point
    rough = Surface(closed, ResponseField(mf)).lowest[0]
    surface = Surface(closed, ResponseField(mf), finer=level.field)
    value, x = surface.lowest
    h = 0.05
    up, down = (closed.problem.energy_change(closed, level.build(surface.rotations.rotated(t * x))) for t in (h, -h))
    assert value == pytest.approx((up + down) / h**2, abs=1e-3)
    assert abs(value - rough) > 5e-3
    assert x @ surface.curved(x) == pytest.approx(value, abs=1e-6)  # the steps know it too


@given(st.floats(1e-4, 1.0), st.floats(1e-2, 10.0), st.floats(0.1, 1.0))
@settings(max_examples=20, deadline=None)
def test_a_failed_step_from_a_saddle_point_gives_the_minimum_of_a_quartic(a: float, b: float, x: float) -> None:
    assert quartic_minimum(-a * x**2, b * x**4 - a * x**2, x) == pytest.approx(np.sqrt(a / (2 * b)))


def test_a_minimum_is_a_solution_if_its_orbitals_are_not_filled_from_below(small_grids: None) -> None:
    mol = mole(TWISTED_ETHYLENE, "6-31g")
    quick = accelerate(mol.RKS(xc="pbe").density_fit()).run()
    assert quick.converged
    assert not quick.plain_reason
    assert not np.array_equal(quick.get_occ(quick.mo_energy), quick.mo_occ)
    exact = mol.RKS(xc="pbe").density_fit().newton()  # from minao it may find a higher state
    exact.kernel(quick.mo_coeff, quick.mo_occ)
    assert exact.converged
    assert quick.e_tot == pytest.approx(exact.e_tot, abs=1e-7)
