"""'scc': superposed atoms, relaxed self-consistently by the response model; a guess for every element, charge and spin.

    F_0 = F[D_atoms] + R[D_0 - D_atoms],   F_0 C = S C e,   D_0 = C n C^T

F[D_atoms] is one coarse build, R the response of `pyscf_mlham.field.response` in the object's own functional and basis
set; the rest is a dozen small diagonalisations. The semilocal kernel is first that of the atoms, in the local density
approximation, and then that of the mean of both densities, which is nearly exact for the change between them.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from pyscf import gto
from pyscf.lib import logger

from pyscf_mlham.ao.mole import is_periodic
from pyscf_mlham.arrays import Array
from pyscf_mlham.density import Orbitals, density_from_orbitals, spin_breaking, with_mixed_frontier
from pyscf_mlham.errors import OutOfDomainError
from pyscf_mlham.field import COARSE, Builds, CoarseField, ResponseField, atomic_factors
from pyscf_mlham.h0.crystal import ROUGH, TIGHT, self_consistent_crystal
from pyscf_mlham.scf.applicability import is_known, unknown_field
from pyscf_mlham.scf.core import keep_core
from pyscf_mlham.scf.crystal import problem_of
from pyscf_mlham.scf.guess_info import GuessInfo
from pyscf_mlham.scf.multilevel.levels import CheapLevel
from pyscf_mlham.scf.multilevel.solver import solve
from pyscf_mlham.scf.multilevel.start import refining_field, stepped
from pyscf_mlham.scf.problem import Point, Problem
from pyscf_mlham.threads import one_blas_thread

SCC = "scc"  # name of the baseline and of the guess


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
    """Return the self-consistent baseline of an SCF problem, whose `fock` is F_0; its fields are made by default."""
    mf, factors = problem.mf, atomic_factors(problem.mf)
    coarse, response = fields or (CoarseField(mf, COARSE), ResponseField(mf))
    density = np.stack([l @ l.T for l in factors]) if len(factors) == 2 else factors[0] @ factors[0].T
    atoms = problem.point(None, factors, density, coarse.potential(factors))
    level = CheapLevel(problem, response.with_kernel(factors, rough=True)).shifted(atoms)
    rough = solve(level, atoms, ROUGH).orbitals
    relaxed = problem.factors(rough)
    mean = [np.hstack([a, b]) / np.sqrt(2) for a, b in zip(factors, relaxed, strict=True)]
    level = CheapLevel(problem, response.with_kernel(mean)).shifted(atoms)
    return solve(level, level.build(rough), TIGHT).point


def guess(mf: Any, mol: gto.Mole) -> tuple[Array, GuessInfo]:
    """Return the density matrix of the scc baseline, and its builds; raise OutOfDomainError if it is not applicable."""
    start = time.perf_counter()
    if reason := inapplicable(mf, mol):
        raise OutOfDomainError(reason)
    problem = problem_of(mf)
    if is_periodic(mol):
        point, builds = self_consistent_crystal(problem)
        orbitals = problem.orbitals(point.fock)
    else:
        orbitals, builds = _of_molecule(problem)
    if spin_breaking(mf, mol):
        orbitals = with_mixed_frontier(mol, orbitals)
    keep_core(problem)
    seconds = time.perf_counter() - start
    logger.note(mf, "scc guess: %.2f s, Fock builds: %s", seconds, builds)
    return density_from_orbitals(mf, orbitals), GuessInfo(SCC, seconds=seconds, **builds._asdict())


def _of_molecule(problem: Problem) -> tuple[Orbitals, Builds]:
    """Return the refined orbitals of a molecule's scc baseline."""
    mf = problem.mf
    coarse, response = CoarseField(mf, COARSE), ResponseField(mf)
    orbitals = problem.orbitals(self_consistent_atoms(problem, (coarse, response)).fock)
    # not for ROHF, whose orbital energies are ambiguous
    field = None if mf.istype("ROHF") else refining_field(mf)
    if field is None:
        return orbitals, coarse.cost
    return problem.orbitals(stepped(problem, orbitals, field, response).fock), coarse.cost.plus(field.cost)
