"""Labels of crystals: the converged F and the H0 of models, between cells."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyscf_mlham.ao.lattice import cells_from_bloch
from pyscf_mlham.data.geometries import Molecule, cell_from_geometry
from pyscf_mlham.data.schema import Level, Record
from pyscf_mlham.density import band_gap, density_from_orbitals
from pyscf_mlham.errors import DataError
from pyscf_mlham.h0 import COARSE_SCF
from pyscf_mlham.h0.crystal import coarse_crystal, self_consistent_crystal
from pyscf_mlham.h0.scc import inapplicable
from pyscf_mlham.scf.crystal import problem_of
from pyscf_mlham.scf.multilevel import accelerate

Array = NDArray[Any]


class Solution(NamedTuple):
    """A converged SCF; of a crystal the matrices are those between cells, (N_k, n, n)."""

    matrices: dict[str, Array]  # F, and H0 if it was computed, by the names of their datasets, Hartree
    energy: float
    gap: float


def crystal_mean_field(geometry: Molecule | Record, level: Level) -> Any:
    """Create the density-fitted KRKS object of a crystal."""
    from pyscf.pbc import dft  # importing PySCF's periodic part takes a second

    assert geometry.periodic is not None
    try:
        cell = cell_from_geometry(geometry, level)
    except (KeyError, RuntimeError, AssertionError) as error:  # errors of PySCF's parsers
        raise DataError(f"{level.basis} or {level.pseudo} does not support its elements ({error})") from error
    if cell.spin or cell.nelectron % 2:
        raise DataError(f"{cell.nelectron} electrons per cell; only closed shells are supported")
    if missing := sorted({cell.atom_symbol(i) for i in range(cell.natm)} - set(cell._pseudo)):
        raise DataError(f"{level.pseudo} lacks {', '.join(missing)}")
    mf = dft.KRKS(cell, geometry.periodic.kpts, xc=level.xc).density_fit()
    mf = mf.smearing(level.smearing) if level.smearing else mf
    return mf.set(conv_tol=level.conv_tol)


def crystal_solution(mf: Any, solver: str) -> Solution:
    """Converge a crystal.

    Args:
        solver: "coarse" stops at the self-consistent field around one full build, without an energy; "twolevel" or
            "scf" converges.
    """
    if reason := inapplicable(mf, mf.mol):
        raise DataError(reason)
    problem = problem_of(mf)
    h0 = coarse_crystal(problem).point
    energy = 0.0
    if solver == "coarse":
        fock = np.asarray(self_consistent_crystal(problem, h0).point.fock)
    else:
        start = density_from_orbitals(mf, problem.orbitals(h0.fock))
        solved = accelerate(mf) if solver == "twolevel" else mf
        energy = float(solved.kernel(dm0=start) if mf.init_guess == "minao" else solved.kernel())
        if not solved.converged:
            raise DataError(f"the SCF did not converge in {solved.max_cycle} cycles")
        fock = np.asarray(mf.get_fock(problem.hcore, problem.overlap, dm=solved.make_rdm1()))
    at_k, lattice = {"fock": fock, f"fock_{COARSE_SCF}": np.asarray(h0.fock)}, np.asarray(mf.mol.lattice_vectors())
    matrices = {name: cells_from_bloch(matrix, mf.kpts, lattice) for name, matrix in at_k.items()}
    return Solution(matrices, energy, band_gap(mf, problem.orbitals(fock)))
