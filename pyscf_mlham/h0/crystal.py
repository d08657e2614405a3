"""'scc' of a crystal: the solution in a coarse field, and that around one full Fock build."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pyscf_mlham.density import Orbitals, density_from_orbitals
from pyscf_mlham.field import COARSE, Builds
from pyscf_mlham.scf.multilevel.levels import CheapLevel
from pyscf_mlham.scf.multilevel.solver import solve
from pyscf_mlham.scf.problem import Point, Problem
from pyscf_mlham.threads import one_blas_thread

ROUGH = 1e-3  # orbital gradient of the density that the kernel is made of, Hartree
TIGHT = 1e-5  # orbital gradient of F_0, Hartree: it is then a smooth function of the geometry


class SelfConsistent(NamedTuple):
    """A solution whose Fock matrix is `point.fock`, and the Fock builds that it took."""

    point: Point
    builds: Builds


@one_blas_thread()
def self_consistent_crystal(problem: Problem, orbitals: Orbitals | None = None) -> SelfConsistent:
    """Return the self-consistent solution around one full Fock build of a periodic object.

    Of seven crystals in PBE, its Fock matrix is within 4e-7 Ha of the converged one on average: it is a label.

    Args:
        orbitals: those of the full build; by default the solution in the coarse field, from PySCF's minao guess.
    """
    mf, level = problem.mf, _level(problem)
    if orbitals is None:
        rough = _relaxed(problem, level, ROUGH)
        factors, density = rough.factors, rough.density
    else:
        factors, density = problem.factors(orbitals), density_from_orbitals(mf, orbitals)
    full = problem.point(orbitals, factors, density, np.asarray(mf.get_veff(mf.mol, density)))
    point = solve(level.shifted(full), full, TIGHT).point
    return SelfConsistent(point, _builds(level, 1))


@one_blas_thread()
def coarse_crystal(problem: Problem, grid: int = COARSE.grid) -> SelfConsistent:
    """Return the solution of a periodic object in the coarse field alone; of hybrids around one full Fock build.

    Args:
        grid: PySCF's level of the atomic grid.
    """
    level = _level(problem, grid)
    return SelfConsistent(_relaxed(problem, level, TIGHT), _builds(level))


def _level(problem: Problem, grid: int = COARSE.grid) -> CheapLevel:
    from pyscf_mlham.field.crystal import CrystalField  # importing PySCF's periodic part takes a second

    return CheapLevel(problem, CrystalField(problem.mf, grid))


def _builds(level: CheapLevel, full: int = 0) -> Builds:
    """Return the Fock builds of a coarse field and others; without a reference that of a hybrid is the full one."""
    return Builds(level.field.tally.builds, level.field.tally.full + full)


def _relaxed(problem: Problem, level: CheapLevel, tolerance: float) -> Point:
    """Relax the density of PySCF's minao guess in the coarse field to an orbital gradient, Hartree."""
    density = problem.mf.get_init_guess(problem.mf.mol, "minao")
    factors = problem.factors_of(density)
    atoms = problem.point(None, factors, density, level.field.potential(factors))
    return solve(level.shifted(atoms), atoms, tolerance).point
