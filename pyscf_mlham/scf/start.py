"""What a two-level SCF starts from: the orbitals of the first full build."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf.lib import logger

from pyscf_mlham.density import (
    Orbitals,
    density_from_orbitals,
    factors_from_density,
    factors_from_orbitals,
    orbitals_from_density,
    spin_breaking,
    with_turned_frontier,
)
from pyscf_mlham.field import CoarseField
from pyscf_mlham.scf.problem import Problem, coarse_scf

Array = NDArray[Any]

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


def first_orbitals(
    problem: Problem, field: CoarseField, density: Array, tolerance: float, breaking: bool = False
) -> Orbitals:
    """Solve the coarse SCF, where the start is not as good as its solution already.

    Args:
        problem: of the full field.
        field: coarse.
        density: to start from.
        tolerance: orbital gradient at which the coarse SCF stops.
        breaking: whether the spin symmetry of the density is to be broken.
    """
    v = field.potential(factors_from_density(density))
    if breaking:
        logger.info(problem.mf, "two-level SCF: the frontier orbitals are turned to break spin symmetry")
        turned = with_turned_frontier(problem.mf.mol, problem.orbitals(problem.fock(v, density)))
        density = density_from_orbitals(problem.mf, turned)
        v = field.potential(factors_from_orbitals(problem.mf, turned))
    elif good := _good_start(problem, density, v):
        return good
    return coarse_scf(problem, field, v, density, tolerance)


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
