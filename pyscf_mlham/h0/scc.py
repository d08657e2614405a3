"""'scc': superposed atoms, relaxed self-consistently by the response model; a guess for every element, charge and spin.

    F_0 = F[D_atoms] + R[D_0 - D_atoms],   F_0 C = S C e,   D_0 = C n C^T

F[D_atoms] is one coarse build, R the response of `pyscf_mlham.field.response` in the object's own functional and basis
set; the rest is a dozen small diagonalisations. The semilocal kernel is first that of the atoms, in the local density
approximation, and then that of the mean of both densities, which is nearly exact for the change between them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.lib import logger

from pyscf_mlham.ao.mole import is_periodic
from pyscf_mlham.density import density_from_orbitals, spin_breaking, with_mixed_frontier
from pyscf_mlham.errors import OutOfDomainError
from pyscf_mlham.field import COARSE, RESPONSE, CoarseField, ResponseField, SingleField, atomic_factors
from pyscf_mlham.scf.applicability import is_known, unknown_field
from pyscf_mlham.scf.crystal import problem_of
from pyscf_mlham.scf.multilevel.levels import CheapLevel
from pyscf_mlham.scf.multilevel.solver import solve
from pyscf_mlham.scf.multilevel.start import has_own_field, stepped
from pyscf_mlham.scf.problem import Point, Problem
from pyscf_mlham.threads import one_blas_thread

Array = NDArray[Any]

SCC, COARSE_SCF = "scc", "coarse"  # names of the self-consistent baselines; the latter of crystals only
ROUGH = 1e-3  # orbital gradient of the density that the kernel is made of, Hartree
TIGHT = 1e-5  # orbital gradient of F_0, Hartree: it is then a smooth function of the geometry


def inapplicable(mf: Any, mol: gto.Mole) -> str:
    """Return why the scc baseline is not applicable to an object, "" if it is."""
    if not is_known(mf):
        return f"{type(mf).__name__} has no scc guess"
    if mol is not mf.mol:
        return "the molecule is not the object's own"
    if (mol.natm < 2 and not is_periodic(mol)) or mol.nelectron < 2:
        return "one atom or one electron needs no scc guess"
    return unknown_field(mf)


@one_blas_thread()
def self_consistent_atoms(problem: Problem, fields: tuple[CoarseField, ResponseField] | None = None) -> Point:
    """Return the self-consistent baseline of a problem's mean-field object; `point.fock` is F_0.

    Args:
        problem: SCF problem; its object is not changed.
        fields: coarse field of the object and its response, made by default.
    """
    mf, factors = problem.mf, atomic_factors(problem.mf)
    coarse, response = fields or (CoarseField(mf, COARSE), ResponseField(mf))
    density = np.stack([l @ l.T for l in factors]) if len(factors) == 2 else factors[0] @ factors[0].T
    atoms = problem.point(None, factors, density, coarse.potential(factors))
    rough = solve(
        [CheapLevel(problem, response.with_kernel(factors, rough=True)).shifted(atoms)], atoms, ROUGH
    ).orbitals
    relaxed = problem.factors(rough)
    mean = [np.hstack([a, b]) / np.sqrt(2) for a, b in zip(factors, relaxed, strict=True)]
    level = CheapLevel(problem, response.with_kernel(mean)).shifted(atoms)
    return solve([level], level.build(rough), TIGHT).point


@one_blas_thread()
def self_consistent_crystal(problem: Problem, rough: Point | None = None) -> Point:
    """Return the self-consistent baseline of a periodic object, at the cost of a full Fock build.

    The density of PySCF's minao guess is relaxed in the coarse field, then around the full field of the result. Of
    seven crystals in PBE, its Fock matrix is within 4e-7 Ha of the converged one on average: it is a label.

    Args:
        rough: solution in the coarse field, if known.
    """
    mf, level = problem.mf, _crystal_level(problem)
    rough = rough or _relaxed(problem, level, ROUGH)
    full = rough.with_potential(np.asarray(mf.get_veff(mf.mol, rough.density)))
    return solve([level.shifted(full)], full, TIGHT).point


@one_blas_thread()
def coarse_crystal(problem: Problem, grid: int = RESPONSE.grid) -> Point:
    """Return the solution of a periodic object in the coarse field alone, without a full Fock build.

    Args:
        grid: PySCF's level of the atomic grid; models are made for the default.
    """
    return _relaxed(problem, _crystal_level(problem, grid), TIGHT)


CRYSTAL_BASELINES: dict[str, Callable[[Problem], Point]] = {SCC: self_consistent_crystal, COARSE_SCF: coarse_crystal}


def _crystal_level(problem: Problem, grid: int = RESPONSE.grid) -> CheapLevel:
    from pyscf_mlham.field.crystal import CrystalField  # importing PySCF's periodic part takes a second

    return CheapLevel(problem, CrystalField(problem.mf, grid))


def _relaxed(problem: Problem, level: CheapLevel, tolerance: float) -> Point:
    """Relax the density of PySCF's minao guess in the coarse field to an orbital gradient, Hartree."""
    density = problem.mf.get_init_guess(problem.mf.mol, "minao")
    factors = problem.factors_of(density)
    atoms = problem.point(None, factors, density, level.field.potential(factors))
    return solve([level.shifted(atoms)], atoms, tolerance).point


def is_refined(mf: Any) -> bool:
    """Whether the object's own field refines the guess; not for ROHF, whose orbital energies are ambiguous."""
    return has_own_field(mf) and not mf.istype("ROHF")


def guess(mf: Any, mol: gto.Mole) -> Array:
    """Return the density matrix of the scc baseline; raise OutOfDomainError with the reason if not applicable."""
    start = time.perf_counter()
    if reason := inapplicable(mf, mol):
        raise OutOfDomainError(reason)
    problem, refined = problem_of(mf), is_refined(mf)
    if is_periodic(mol):
        orbitals = problem.orbitals(self_consistent_crystal(problem).fock)
    else:
        fields = CoarseField(mf, COARSE), ResponseField(mf)
        orbitals = problem.orbitals(self_consistent_atoms(problem, fields).fock)
        if refined:
            orbitals = problem.orbitals(stepped(problem, orbitals, SingleField(mf), fields[1]).fock)
    if spin_breaking(mf, mol):
        orbitals = with_mixed_frontier(mol, orbitals)
    builds = "1 full" if is_periodic(mol) else f"1 coarse{', 1 single-precision' * refined}"
    logger.note(mf, "scc guess: %.2f s, %s Fock build", time.perf_counter() - start, builds)
    return density_from_orbitals(mf, orbitals)
