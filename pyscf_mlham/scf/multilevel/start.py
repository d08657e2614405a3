"""What a multilevel SCF starts from: the orbitals of the first full build."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf.lib import logger

from pyscf_mlham.density import (
    Orbitals,
    orbitals_from_density,
    spin_breaking,
    with_turned_frontier,
)
from pyscf_mlham.scf.multilevel.levels import CheapLevel
from pyscf_mlham.scf.multilevel.solver import solve
from pyscf_mlham.scf.problem import Problem

Array = NDArray[Any]

START_TOL = 3e-3  # orbital gradient at which the first coarse SCF stops; the error of the coarse field is larger
# Coarse gradient, over the root of the number of atoms, up to which a start is as good as what a coarse SCF would make
# of it: the solution of the unanchored coarse field is no nearer to that of the full one.
AS_GOOD = 4e-3


def is_close(density: Array | None) -> bool:
    """Whether a density is tagged as nearer to the solution than a coarse SCF would come, with all its orbitals.

    Args:
        density: to start from, where there is one.
    """
    coeff = getattr(density, "mo_coeff", None)
    return bool(getattr(density, "close", False)) and coeff is not None and coeff.shape[-1] == coeff.shape[-2]


def breaks_spin_symmetry(mf: Any) -> bool:
    """Whether PySCF's own guess for the object would be of broken spin symmetry, in PySCF's default manner.

    Half of the beta density is deleted in it, by which good guesses are spoilt, and whether the symmetric state is
    left is a matter of rounding (singlet O2 is 1.2 eV too high where it is not). Here a turn of the frontier orbitals
    takes its place.

    Args:
        mf: PySCF mean-field object.
    """
    key = mf.init_guess
    return bool(spin_breaking(mf, mf.mol) == 1 and isinstance(key, str) and not key.lower().startswith("chk"))


def is_atomic(key: Any) -> bool:
    """Whether an initial guess is made of superposed atoms, whose field is cheap: PySCF's default, or 'scc'."""
    return isinstance(key, str) and key.lower() in ("minao", "scc")


def first_orbitals(
    problem: Problem, levels: Sequence[CheapLevel], density: Array, factors: list[Array], breaking: bool
) -> Orbitals:
    """Solve the SCF of the cheap levels, unless the start is as good as its solution already.

    Args:
        problem: of the full field.
        levels: cheaper than the full one.
        density: to start from, in the object's own shape.
        factors: L with D = L L^T.
        breaking: whether the spin symmetry of the density is to be broken.
    """
    point = problem.point(None, factors, density, levels[0].field.potential(factors))
    if breaking:
        logger.info(problem.mf, "multilevel SCF: frontier orbitals are mixed to break spin symmetry")
        mixed = with_turned_frontier(problem.mf.mol, problem.orbitals(point.fock))
        point = problem.point_of(mixed, levels[0].field)
    elif good := _good_start(problem, density, point.v):
        return good
    return solve(levels, point, max(START_TOL, problem.aim)).orbitals


def _good_start(problem: Problem, density: Array, v: Array) -> Orbitals | None:
    """Return the orbitals of a density that a coarse SCF could not improve, None where it could.

    Args:
        problem: of the full field.
        density: to start from.
        v: its coarse potential.
    """
    mf = problem.mf
    if mf.istype("ROHF") or mf.mol.symmetry or problem.x.shape[0] != problem.x.shape[1]:
        return None
    natural = orbitals_from_density(density, problem.overlap)
    if natural is None:
        return None
    fock = problem.fock(v, density)
    orbitals = _in_order(natural.occ, *mf.canonicalize(natural.coeff, natural.occ, fock))
    if not problem.filled_from_below(orbitals):  # of another charge or spin, or an excited state
        return None
    return orbitals if problem.gradient(orbitals, fock) < AS_GOOD * np.sqrt(mf.mol.natm) else None


def _in_order(occ: Array, energy: Array, coeff: Array) -> Orbitals:
    """Sort orbitals by energy, those of each spin."""
    order = np.argsort(energy, axis=-1, kind="stable")
    columns = (np.take_along_axis(a, o, -1) for a, o in ((energy, order), (coeff, order[..., None, :]), (occ, order)))
    return Orbitals(*columns)
