"""Self-consistent baselines of crystals: the solution in the coarse field, and that around one full Fock build."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyscf_mlham.field import RESPONSE
from pyscf_mlham.scf.multilevel.levels import CheapLevel
from pyscf_mlham.scf.multilevel.solver import solve
from pyscf_mlham.scf.problem import Point, Problem
from pyscf_mlham.threads import one_blas_thread

Array = NDArray[Any]

SCC, COARSE_SCF = "scc", "coarse"  # names of the self-consistent baselines; the latter of crystals only
ROUGH = 1e-3  # orbital gradient of the density that the kernel is made of, Hartree
TIGHT = 1e-5  # orbital gradient of F_0, Hartree: it is then a smooth function of the geometry


class CrystalBaseline(NamedTuple):
    """A solution whose Fock matrix `point.fock` is H0, and the Fock builds that it took."""

    point: Point
    coarse_builds: int
    full_builds: int = 0


@one_blas_thread()
def self_consistent_crystal(problem: Problem, rough: Point | None = None) -> CrystalBaseline:
    """Return the self-consistent baseline of a periodic object, at the cost of a full Fock build.

    The density of PySCF's minao guess is relaxed in the coarse field, then around the full field of the result. Of
    seven crystals in PBE, its Fock matrix is within 4e-7 Ha of the converged one on average: it is a label.

    Args:
        rough: solution in the coarse field, if known.
    """
    mf, level = problem.mf, _level(problem)
    rough = rough or _relaxed(problem, level, ROUGH)
    full = rough.with_potential(np.asarray(mf.get_veff(mf.mol, rough.density)))
    point = solve([level.shifted(full)], full, TIGHT).point
    return CrystalBaseline(point, level.field.tally.builds, 1)


@one_blas_thread()
def coarse_crystal(problem: Problem, grid: int = RESPONSE.grid) -> CrystalBaseline:
    """Return the solution of a periodic object in the coarse field alone, without a full Fock build.

    Args:
        grid: PySCF's level of the atomic grid; models are made for the default.
    """
    level = _level(problem, grid)
    return CrystalBaseline(_relaxed(problem, level, TIGHT), level.field.tally.builds)


CRYSTAL_BASELINES: dict[str, Callable[[Problem], CrystalBaseline]] = {
    SCC: self_consistent_crystal,
    COARSE_SCF: coarse_crystal,
}


def _level(problem: Problem, grid: int = RESPONSE.grid) -> CheapLevel:
    from pyscf_mlham.field.crystal import CrystalField  # importing PySCF's periodic part takes a second

    return CheapLevel(problem, CrystalField(problem.mf, grid))


def _relaxed(problem: Problem, level: CheapLevel, tolerance: float) -> Point:
    """Relax the density of PySCF's minao guess in the coarse field to an orbital gradient, Hartree."""
    density = problem.mf.get_init_guess(problem.mf.mol, "minao")
    factors = problem.factors_of(density)
    atoms = problem.point(None, factors, density, level.field.potential(factors))
    return solve([level.shifted(atoms)], atoms, tolerance).point
