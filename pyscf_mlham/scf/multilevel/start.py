"""Orbitals of the first full build of a multilevel SCF."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pyscf.lib import logger

from pyscf_mlham.ao.mole import is_periodic
from pyscf_mlham.arrays import Array
from pyscf_mlham.density import Orbitals, spin_breaking, with_mixed_frontier
from pyscf_mlham.field import ACCURATE, CoarseField, Field, ResponseField, SingleField
from pyscf_mlham.field.single import is_fitted, is_local
from pyscf_mlham.scf.multilevel.descent import Surface, descended, rotates_freely
from pyscf_mlham.scf.multilevel.ladder import Ladder
from pyscf_mlham.scf.multilevel.levels import CheapLevel
from pyscf_mlham.scf.multilevel.solver import solve
from pyscf_mlham.scf.problem import Point, Problem

START_TOL = 3e-3  # orbital gradient at which the first coarse SCF stops; the error of the coarse field is larger
# Coarse gradient, over the root of the number of atoms, up to which a coarse SCF would not improve a density: the
# solution of the coarse field, not shifted, is no nearer to that of the full one.
AS_GOOD = 4e-3
# Expected error of a density, over the gradient of the criterion, below which it is not improved before the first full
# build. The gradient is one to two and a half times the error in Hartree. A second full build now and then costs less
# than an improvement every time.
SURE = 0.5
GOAL = 0.3  # gradient, over that of the criterion, to which an improved density is converged at most
# Orbital gradient to which the response to a guess is solved, Hartree. PySCF tests its criterion, 3e-5 by default,
# after a diagonalisation that may raise the gradient tenfold.
STEPPED = 2e-6


def is_close(density: Array | None) -> bool:
    """Whether a density is tagged as nearer to the solution than a coarse SCF's, with all its orbitals."""
    coeff = getattr(density, "mo_coeff", None)
    return bool(getattr(density, "close", False)) and coeff is not None and coeff.shape[-1] == coeff.shape[-2]


def breaks_spin_symmetry(mf: Any) -> bool:
    """Whether PySCF would break the spin symmetry of the guess.

    Its default method deletes half of the beta density. That ruins good guesses, and rounding decides whether the SCF
    leaves the symmetric state (singlet O2 is 1.2 eV too high if it does not). Here the frontier orbitals are mixed.
    """
    key = mf.init_guess
    return spin_breaking(mf, mf.mol) in (1, "mix") and isinstance(key, str) and not key.lower().startswith("chk")


def is_atomic(key: Any) -> bool:
    """Whether an initial guess consists of superposed atoms, whose field is cheap: PySCF's default, or 'scc'."""
    return isinstance(key, str) and key.lower() in ("minao", "scc")


def first_orbitals(
    problem: Problem, levels: Sequence[CheapLevel], density: Array, factors: list[Array], breaking: bool
) -> Orbitals:
    """Solve the SCF of the cheap levels, unless the initial density is as good as their solution.

    Args:
        density: initial density matrix in the object's own shape; factors: L with D = L L^T.
        breaking: whether to break its spin symmetry.
    """
    point = problem.point(None, factors, density, levels[0].field.potential(factors))
    if breaking:
        logger.info(problem.mf, "multilevel SCF: frontier orbitals are mixed to break spin symmetry")
        mixed = with_mixed_frontier(problem.mf.mol, problem.orbitals(point.fock))
        point = problem.point_of(mixed, levels[0].field)
    elif good := _good_start(problem, density, point.v):
        return good
    if is_periodic(problem.mf.mol):  # exchange of a whole density is the object's own, that of changes is fitted
        levels = [levels[0].shifted(point)]
    return _converged(levels, point, max(START_TOL, problem.aim))


def improved(problem: Problem, ladder: Ladder, orbitals: Orbitals, density: Array) -> Orbitals:
    """Return orbitals whose full build is expected to meet the criteria, or the same if there is no field for it.

    Args:
        density: initial density matrix, tagged with its expected error if that is known.
    """
    if not ladder.improving or getattr(density, "error", np.inf) < SURE * problem.aim:
        return orbitals
    [level] = ladder.levels(ladder.improving[:1])
    point = level.build(orbitals)
    ladder.sharpen(point)
    goal = float(np.clip(point.gradient / 2, GOAL * problem.aim, problem.aim))  # the full gradient may be larger
    filled = problem.filled_from_below(problem.canonical(orbitals, point.fock))
    return _converged(ladder.levels(ladder.improving), point, goal, diis=filled)


def refining_field(mf: Any, own: bool = True) -> CoarseField | SingleField | None:
    """Return the field of `stepped`, the own one of a fitted object if allowed; None for accelerated objects."""
    if hasattr(mf, "undo_accelerate"):
        return None
    return SingleField(mf) if own and is_fitted(mf) and is_local(mf) else CoarseField(mf, ACCURATE)


def stepped(problem: Problem, orbitals: Orbitals, field: Field, response: ResponseField) -> Point:
    """Build a field at the density of nearly converged orbitals once, and solve its response, of any kernel."""
    point = problem.point_of(orbitals, field)
    level = CheapLevel(problem, response.with_kernel(point.factors)).shifted(point)
    # the error of a coarse field is larger than what is left of the gradient
    share = 0.0 if isinstance(field, SingleField) else level.share
    return solve(level, point, max(share * point.gradient, STEPPED)).point


def _converged(levels: Sequence[CheapLevel], point: Point, tolerance: float, diis: bool = True) -> Orbitals:
    """Return the best orbitals of cheap levels: by DIIS, if that is to be tried, else or then by second-order steps."""
    (level, *cheaper), response = levels, levels[-1].field
    if not isinstance(response, ResponseField) or not rotates_freely(point.problem):
        return solve(level, point, tolerance, cheaper).orbitals
    if diis:
        found = solve(level, point, tolerance, cheaper)
        if found.converged:
            return found.orbitals
        point = found.point
    return descended(level, Surface(point, response), tolerance).orbitals


def _good_start(problem: Problem, density: Array, v: Array) -> Orbitals | None:
    """Return the orbitals of a density, of coarse potential v, if a coarse SCF would not improve it, else None."""
    natural = problem.natural(density)
    if natural is None:
        return None
    fock = problem.fock(v, density)
    orbitals = _in_order(problem.canonical(natural, fock))
    if not problem.filled_from_below(orbitals):  # of another charge or spin, or an excited state
        return None
    return orbitals if problem.gradient(orbitals, fock) < AS_GOOD * np.sqrt(problem.mf.mol.natm * problem.n_k) else None


def _in_order(orbitals: Orbitals) -> Orbitals:
    """Sort the orbitals of each spin by energy."""
    energy, coeff, occ = orbitals
    order = np.argsort(energy, axis=-1, kind="stable")
    columns = (np.take_along_axis(a, o, -1) for a, o in ((energy, order), (coeff, order[..., None, :]), (occ, order)))
    return Orbitals(*columns)
