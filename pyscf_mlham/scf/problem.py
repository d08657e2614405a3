"""The SCF problem of a mean-field object: the quantities constant during an SCF, and the points of its iteration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pyscf import gto
from pyscf.dft import libxc
from pyscf.lib import logger
from pyscf.scf import hf, rohf, uhf

from pyscf_mlham.ao.mole import is_periodic
from pyscf_mlham.arrays import Array
from pyscf_mlham.density import (
    Orbitals,
    aligned,
    density_from_orbitals,
    factors_from_density,
    factors_from_orbitals,
    orbitals_from_density,
    orbitals_from_fock,
    undisturbed,
)
from pyscf_mlham.errors import DataError
from pyscf_mlham.field.protocol import Field

FLAT = 1e-2  # Hartree; smallest curvature assumed for an orbital rotation
TORQUE = 2e-6  # Hartree; orbital gradient that a grid gives a degenerate state: a tighter criterion must follow it
MOVED = 0.5  # electrons; another occupation moves at least one


def now() -> tuple[float, float]:
    """Return processor and wall time as PySCF's timers take them, seconds."""
    return logger.process_clock(), logger.perf_counter()


def tolerance_of(mf: Any) -> float:
    """Return the orbital gradient of an object's convergence criterion, Hartree."""
    return float(mf.conv_tol_grad or np.sqrt(mf.conv_tol))


class Problem(NamedTuple):
    """Quantities constant during an SCF: the object, h, S, the orthogonalisation X of S, and the starting time."""

    mf: Any
    hcore: Array
    overlap: Array
    x: Array
    clock: tuple[float, float]

    @classmethod
    def of(cls, mf: Any, mol: gto.Mole | None = None) -> Problem:
        """Compute the constant quantities of an object's SCF, for another molecule than its own if one is given."""
        mol = mf.mol if mol is None else mol
        clock, overlap = now(), mf.get_ovlp(mol)
        return cls(mf, mf.get_hcore(mol), overlap, mf.check_linear_dependency(overlap), clock)

    @property
    def n_k(self) -> int:
        """Number of k points over which energies are averaged."""
        return 1

    @property
    def tolerance(self) -> float:
        """Orbital gradient of the user's convergence criterion, Hartree."""
        return tolerance_of(self.mf)

    @property
    def aim(self) -> float:
        """Orbital gradient that also meets the user's criterion of the energy, Hartree."""
        return min(self.tolerance, float(np.sqrt(self.mf.conv_tol)))

    def fock(self, v: Array, density: Array, **extrapolation: Any) -> Array:
        """F = h + V in the object's shape, of a potential and its density.

        With `cycle` and `diis`, as PySCF's get_fock takes them, it is shifted and extrapolated as PySCF would.
        """
        # not mf.get_fock: for a solvated object it would build the full field to obtain the solvent's potential
        kind = rohf if self.mf.istype("ROHF") else uhf if self.mf.istype("UHF") else hf
        return np.asanyarray(kind.get_fock(self.mf, self.hcore, self.overlap, v, density, **extrapolation))

    def orbitals(self, fock: Array) -> Orbitals:
        """Solve F C = S C e and fill the orbitals; fock: Fock matrix in the object's shape, Hartree."""
        orbitals, mol = orbitals_from_fock(self.mf, fock, self.overlap, self.x), self.mf.mol
        free = mol.symmetry or is_periodic(mol) or self.aim < TORQUE
        oriented = orbitals if free else aligned(mol, orbitals)
        if oriented is not orbitals:
            logger.info(self.mf, "degenerate orbitals are occupied in part: they are oriented along the axes")
        return oriented

    def filled_like(self, reference: Orbitals, orbitals: Orbitals) -> Orbitals:
        """Fill orbitals by their overlap with the occupied ones of a reference, both of ROHF."""
        occupied = reference.coeff[:, reference.occ > 0]
        overlap = (occupied.T @ self.overlap @ orbitals.coeff) ** 2
        closed = reference.occ[reference.occ > 0] > 1.5
        occ = np.zeros_like(orbitals.occ)
        order = np.argsort(-overlap[closed].sum(axis=0), kind="stable")
        occ[order[: closed.sum()]] = 2
        free = np.where(occ == 0, overlap.sum(axis=0), -1.0)
        occ[np.argsort(-free, kind="stable")[: (~closed).sum()]] = 1
        return orbitals._replace(occ=occ)

    def filled_from_below(self, orbitals: Orbitals) -> bool:
        """Whether the lowest orbitals are occupied; True for ROHF, whose orbital energies are ambiguous."""
        if self.mf.istype("ROHF"):
            return True
        with undisturbed(self.mf):
            return np.array_equal(self.mf.get_occ(orbitals.energy, orbitals.coeff), orbitals.occ)

    def would_be_refilled(self, orbitals: Orbitals, fock: Array) -> bool:
        """Whether the next cycle of plain ROHF, with this Fock matrix, would move electrons to other orbitals.

        The energies of canonical ROHF orbitals are ambiguous: closed, open and empty ones are each sorted separately.
        A solution may therefore not be filled from below; plain SCF leaves it, second-order solvers do not.
        """
        here, there = (density_from_orbitals(self.mf, each) @ self.overlap for each in (orbitals, self.orbitals(fock)))
        moved = float(np.einsum("spp->", here) - np.einsum("spq,sqp->", here, there))
        return moved >= MOVED

    def factors(self, orbitals: Orbitals) -> list[Array]:
        """Return L with D = L L^T, one for a closed shell, alpha's and beta's otherwise."""
        return factors_from_orbitals(self.mf, orbitals)

    def factors_of(self, density: Array) -> list[Array]:
        """Return L with D = L L^T, without the negative part that guesses may have."""
        return factors_from_density(density)

    def natural(self, density: Array) -> Orbitals | None:
        """Return the natural orbitals of an idempotent density, None if they are not all there or not separable."""
        if self.mf.istype("ROHF") or self.mf.mol.symmetry or self.x.shape[0] != self.x.shape[1]:
            return None
        return orbitals_from_density(density, self.overlap)

    def canonical(self, orbitals: Orbitals, fock: Array) -> Orbitals:
        """Return canonical orbitals of the same density."""
        energy, coeff = self.mf.canonicalize(orbitals.coeff, orbitals.occ, fock)
        return Orbitals(energy, coeff, orbitals.occ)

    def final(self, point: Point) -> Orbitals:
        """Return the orbitals of a solution."""
        return point.known_orbitals

    def energies(self, orbitals: Orbitals, density: Array, vhf: Any) -> tuple[float, float]:  # noqa: ARG002
        """Return total energy and free energy of a density, Hartree; they are the same for integer occupations."""
        total = float(self.mf.energy_tot(density, self.hcore, vhf))
        return total, total

    def point(self, orbitals: Orbitals | None, factors: list[Array], density: Array, v: Array) -> Point:
        """Compute the Fock matrix, DIIS error and orbital gradient of a density from its effective potential."""
        fock = self.fock(v, density)
        error = self.error(v, factors)
        # for the density of orbitals both are the same
        gradient = float(np.linalg.norm(error)) / np.sqrt(2) if orbitals is None else self.gradient(orbitals, fock)
        return Point(self, orbitals, factors, density, v, fock, error, gradient)

    def point_of(self, orbitals: Orbitals, field: Field) -> Point:
        """Build the potential of the orbitals' density in a field."""
        factors = self.factors(orbitals)
        return self.point(orbitals, factors, density_from_orbitals(self.mf, orbitals), field.potential(factors))

    def full_point(self, orbitals: Orbitals, density: Array, vhf: Any) -> Point:
        """Return the point of a density and its full potential, the result of the object's get_veff."""
        solvent = getattr(vhf, "v_solvent", None)
        v = np.asarray(vhf) + (0.0 if solvent is None else solvent)
        canonical = self.canonical(orbitals, self.fock(v, density))
        return self.point(canonical, self.factors(canonical), density, v)

    def energy_change(self, here: Point, there: Point) -> float:
        """Return the integral of the Fock matrix along the straight line between two densities, Hartree."""
        change, mean = there.density - here.density, self.hcore + (here.v + there.v) / 2
        return float(np.vdot(change, mean).real) / self.n_k

    def error(self, v: Array, factors: Sequence[Array]) -> Array:
        """Return FDS - SDF in orthonormal orbitals, of each spin; the sum of both if they share their orbitals.

        Products of the factors L, D = L L^T, are far smaller than those of D.
        """
        spins = zip(v if np.ndim(v) == 3 else [v], factors, strict=True)
        half = [(self.x.T @ ((self.hcore + v) @ l)) @ ((l.T @ self.overlap) @ self.x) for v, l in spins]
        errors = np.stack([m - m.T for m in half])
        return errors.sum(axis=0) if self.mf.istype("ROHF") else errors

    def gradient(self, orbitals: Orbitals, fock: Array) -> float:
        """Return the norm of the orbital gradient, as PySCF measures it; Hartree."""
        gradient = self.mf.get_grad(orbitals.coeff, orbitals.occ, fock)
        norm = float(np.linalg.norm(gradient))
        return norm if hf.TIGHT_GRAD_CONV_TOL else norm / float(np.sqrt(gradient.size))

    def lowering(self, orbitals: Orbitals, v: Array) -> float:
        """Sum gradient^2 / curvature over orbital rotations: the expected energy lowering of the next step, Hartree."""
        up, down = self.hcore + v if v.ndim == 3 else (self.hcore + v,) * 2
        if self.mf.istype("UHF"):
            rotating = [(c, [(f, o > 0.5)]) for f, c, o in zip((up, down), orbitals.coeff, orbitals.occ, strict=True)]
        else:  # both spins share their orbitals
            rotating = [(orbitals.coeff, [(up, orbitals.occ > 0.5), (down, orbitals.occ > 1.5)])]
        total = 0.0
        for coeff, spins in rotating:
            gradient, curvature = np.zeros((2, coeff.shape[1], coeff.shape[1]))
            for fock, occupied in spins:
                f = coeff.T @ fock @ coeff
                free = ~occupied[:, None] & occupied
                gradient += np.where(free, f, 0.0)
                curvature += np.where(free, np.subtract.outer(f.diagonal(), f.diagonal()), 0.0)
            total += float(np.sum(gradient**2 / np.maximum(curvature, FLAT)))
        return total


@dataclass(frozen=True)
class Point:
    """A density and the Fock matrix that a level builds from it."""

    problem: Problem  # the SCF problem of both
    orbitals: Orbitals | None  # orbitals of the density, None for a density that is not idempotent
    factors: list[Array]  # L with D = L L^T, one for a closed shell, alpha's and beta's otherwise
    density: Array  # density matrix in the object's own shape
    v: Array  # effective potential, Hartree
    fock: Array  # h + v, in the object's shape
    error: Array  # commutator FDS - SDF in orthonormal orbitals
    gradient: float  # norm of the orbital gradient, Hartree

    @property
    def known_orbitals(self) -> Orbitals:
        """Orbitals of the density, of a point that has them."""
        assert self.orbitals is not None
        return self.orbitals


def check_functional(xc: str) -> None:
    """Raise DataError if PySCF lacks a functional, before the first SCF starts; xc: name of the functional, or "hf"."""
    try:
        libxc.parse_xc(xc)
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(f"xc {xc!r}: not a functional of PySCF ({error}); check its name.") from error
