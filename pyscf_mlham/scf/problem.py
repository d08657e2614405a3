"""The SCF problem of a mean-field object, and its solution in a coarse field."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf.dft import libxc
from pyscf.lib import logger
from pyscf.scf import hf, rohf, uhf

from pyscf_mlham.density import (
    Orbitals,
    density_from_orbitals,
    factors_from_orbitals,
    orbitals_from_fock,
    undisturbed,
)
from pyscf_mlham.errors import DataError
from pyscf_mlham.field import CoarseField

Array = NDArray[Any]

COARSE_CYCLES = 50
MOVED = 0.5  # electrons; of a state that is filled otherwise it is one at least
STALLED = 10  # cycles without a smaller gradient, after which the smallest must do


def now() -> tuple[float, float]:
    """Return processor and wall time as PySCF's timers take them, seconds."""
    return logger.process_clock(), logger.perf_counter()


class Problem(NamedTuple):
    """What does not change during an SCF: the object, h, S, S's orthogonalisation, and when it began."""

    mf: Any
    hcore: Array
    overlap: Array
    x: Array
    clock: tuple[float, float]

    @classmethod
    def of(cls, mf: Any) -> Problem:
        """Compute what stays the same.

        Args:
            mf: PySCF mean-field object.
        """
        clock, overlap = now(), mf.get_ovlp(mf.mol)
        return cls(mf, mf.get_hcore(mf.mol), overlap, mf.check_linear_dependency(overlap), clock)

    @property
    def tolerance(self) -> float:
        """Orbital gradient at which the user calls it converged."""
        return float(self.mf.conv_tol_grad or np.sqrt(self.mf.conv_tol))

    @property
    def aim(self) -> float:
        """Orbital gradient that meets the user's criterion of the energy as well."""
        return min(self.tolerance, float(np.sqrt(self.mf.conv_tol)))

    def fock(self, v: Array, density: Array, **extrapolation: Any) -> Array:
        """F = h + V in the object's shape; with `cycle` and `diis`, shifted and extrapolated as PySCF would.

        Args:
            v: potential, Hartree.
            density: it belongs to.
            extrapolation: `cycle` and `diis`, as PySCF's get_fock takes them.
        """
        # not mf.get_fock: that of a solvated object would build the full field to find the solvent's potential
        kind = rohf if self.mf.istype("ROHF") else uhf if self.mf.istype("UHF") else hf
        return np.asanyarray(kind.get_fock(self.mf, self.hcore, self.overlap, v, density, **extrapolation))

    def orbitals(self, fock: Array) -> Orbitals:
        """Solve F C = S C e, and occupy.

        Args:
            fock: in the object's shape, Hartree.
        """
        return orbitals_from_fock(self.mf, fock, self.overlap, self.x)

    def filled_from_below(self, orbitals: Orbitals) -> bool:
        """Whether orbitals hold the object's electrons, and the lowest ones of them, as PySCF's SCF leaves them.

        Args:
            orbitals: canonical in their own field. Those of ROHF have no order of their own: nothing is said of them.
        """
        if self.mf.istype("ROHF"):
            return True
        with undisturbed(self.mf):
            return np.array_equal(self.mf.get_occ(orbitals.energy, orbitals.coeff), orbitals.occ)

    def would_be_refilled(self, orbitals: Orbitals, fock: Array) -> bool:
        """Whether the next cycle of plain ROHF would move electrons to other orbitals.

        Canonical orbitals of ROHF have no order: closed, open and empty ones are each sorted by themselves. So a
        solution may be one of those; plain SCF does not stay there, but second-order solvers do.

        Args:
            orbitals: of ROHF.
            fock: of their density, in the object's shape, Hartree.
        """
        here, there = (density_from_orbitals(self.mf, each) @ self.overlap for each in (orbitals, self.orbitals(fock)))
        moved = float(np.einsum("spp->", here) - np.einsum("spq,sqp->", here, there))
        return moved >= MOVED

    def gradient(self, orbitals: Orbitals, fock: Array) -> float:
        """Return the norm of the orbital gradient, as PySCF measures it.

        Args:
            orbitals: of the density that the Fock matrix is of.
            fock: in the object's shape, Hartree.
        """
        gradient = self.mf.get_grad(orbitals.coeff, orbitals.occ, fock)
        norm = float(np.linalg.norm(gradient))
        return norm if hf.TIGHT_GRAD_CONV_TOL else norm / float(np.sqrt(gradient.size))


def coarse_scf(problem: Problem, field: CoarseField, v: Array, density: Array, tolerance: float) -> Orbitals:
    """Solve the SCF of the coarse field from a density and its potential, to an orbital gradient.

    Args:
        problem: to solve.
        field: its coarse field.
        v: the field at the density, Hartree.
        density: to start from.
        tolerance: orbital gradient to stop at; single precision may not allow it, and the best is returned then.
    """
    mf = problem.mf
    diis = _diis(problem)
    orbitals: Orbitals | None = None
    best, smallest, since = None, np.inf, 0
    for cycle in range(COARSE_CYCLES):
        if orbitals is not None:
            v = field.potential(factors_from_orbitals(mf, orbitals))
            density = density_from_orbitals(mf, orbitals)
            gradient = problem.gradient(orbitals, problem.fock(v, density))
            if gradient < smallest:
                best, smallest, since = orbitals, gradient, cycle
            if gradient < tolerance or cycle - since > STALLED:
                break
        orbitals = problem.orbitals(problem.fock(v, density, cycle=cycle, diis=diis))
    assert best is not None
    return best


def _diis(problem: Problem) -> Any:
    mf = problem.mf
    diis = mf.DIIS(mf)
    diis.space, diis.rollback, diis.damp = mf.diis_space, mf.diis_space_rollback, mf.diis_damp
    diis.Corth, diis.verbose = problem.x, 0
    return diis


def check_functional(xc: str) -> None:
    """Refuse a functional that PySCF does not know; it would say so in the middle of the first SCF.

    Args:
        xc: name, or "hf".
    """
    try:
        libxc.parse_xc(xc)
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(f"xc {xc!r}: PySCF knows no such functional ({error}).") from error
