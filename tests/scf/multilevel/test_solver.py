"""The recursion of the multilevel SCF on its own: DIIS weights, points carried to another density."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyscf_mlham.field import ResponseField, atomic_factors
from pyscf_mlham.scf.multilevel.levels import CheapLevel
from pyscf_mlham.scf.multilevel.solver import combined, diis_weights, solve
from pyscf_mlham.scf.problem import Problem
from support.molecules import ETHYLENE, mole


@given(st.integers(1, 5), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_diis_weights_minimise_the_combined_error(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    errors = rng.normal(size=(n, 3, 3))
    weights = diis_weights(list(errors))
    assert weights.sum() == pytest.approx(1.0)
    smallest = np.linalg.norm(np.tensordot(weights, errors, axes=1))
    for _ in range(10):
        change = rng.normal(size=n)
        other = weights + 0.1 * (change - change.mean())
        assert np.linalg.norm(np.tensordot(other, errors, axes=1)) >= smallest - 1e-9


def test_points_of_a_linear_field_are_carried_exactly() -> None:
    """In a field that is its own response, every combination of points expects the true potential."""
    mf = mole(ETHYLENE).RHF()
    problem, factors = Problem.of(mf), atomic_factors(mf)
    v = np.asarray(mf.get_veff(dm=factors[0] @ factors[0].T))
    level = CheapLevel(problem, ResponseField(mf).around(factors, v))
    first = level.build(problem.orbitals(problem.hcore + v))
    second = level.build(problem.orbitals(first.fock))
    np.testing.assert_allclose(combined([first, second], level).v, second.v, atol=1e-5)


def test_a_level_is_solved_to_its_tolerance_or_fails_with_a_reason() -> None:
    mf = mole(ETHYLENE).RHF()
    problem, factors = Problem.of(mf), atomic_factors(mf)
    density = factors[0] @ factors[0].T
    start = problem.point(None, factors, density, np.asarray(mf.get_veff(dm=density)))
    level = CheapLevel(problem, ResponseField(mf)).shifted(start)
    solution = solve(level, start, 1e-4)
    assert solution.converged
    assert level.build(solution.orbitals).gradient < 1.1e-4
    assert not solve(level, start, 1e-14).converged  # single precision does not allow it
