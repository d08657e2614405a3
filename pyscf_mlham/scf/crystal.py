"""The SCF problem of a crystal: several k points, and smeared occupations.

Energies are per cell. The residual of an orbital set C with energies e is d = C^+ F C - e, where e made the occupations
n. To second order the free energy is above the solution by

    sum_ij |d_ij|^2 (n_j - n_i) / (e_i - e_j) / 2,   its limit n (1 - n / 2) / sigma for e_i = e_j

for doubly filled orbitals. The commutator FD - DF lacks the diagonal of d, the error of the occupations. The energy
E(T) without the entropy, which PySCF converges, is off to first order, by sum_i d_ii (e_i - mu) dn/de.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, cycle
from typing import Any

import numpy as np

from pyscf_mlham.arrays import Array
from pyscf_mlham.density import Orbitals, factors_from_density, undisturbed
from pyscf_mlham.scf.problem import FLAT, Point, Problem

EMPTY = 1e-10  # electrons
SAME_LEVEL = 1e-5  # Hartree
SAME_ENERGY = 1e-6  # Hartree; the slope of the occupation takes the place of a quotient
UNKNOWN = 1e9  # Hartree; above all orbitals, as PySCF pads those of linearly dependent functions


def problem_of(mf: Any) -> Problem:
    """Return the SCF problem of a molecule or a crystal."""
    return (CrystalProblem if mf.istype("KSCF") else Problem).of(mf)


class CrystalProblem(Problem):
    """The SCF problem of an object with k points: matrices (n_k, n, n), or (2, n_k, n, n) of two spins; X a list."""

    @property
    def n_k(self) -> int:
        """Number of k points."""
        return len(self.overlap)

    @property
    def sigma(self) -> float:
        """Width of smeared occupations, Hartree; 0 for integers."""
        return float(getattr(self.mf, "sigma", None) or 0.0)

    def fock(self, v: Array, density: Array, **extrapolation: Any) -> Array:
        """F = h + V; see `Problem.fock`."""
        return np.asarray(self.mf.get_fock(self.hcore, self.overlap, v, density, **extrapolation))

    def filled_from_below(self, orbitals: Orbitals) -> bool:
        """Whether the electrons occupy the lowest orbitals, any of degenerate ones (those of k and -k, for example)."""
        with undisturbed(self.mf):
            moved = orbitals.energy[self.mf.get_occ(orbitals.energy, orbitals.coeff) != orbitals.occ]
        return bool(self.sigma) or moved.size == 0 or float(np.ptp(moved)) < SAME_LEVEL

    def factors(self, orbitals: Orbitals) -> list[Any]:
        """Return L with D = L L^+ of each spin and k point."""
        found = [c[:, n > 0] * np.sqrt(n[n > 0]) for c, n in self._blocks(orbitals.coeff, orbitals.occ)]
        return [found[i : i + self.n_k] for i in range(0, len(found), self.n_k)]

    def factors_of(self, density: Array) -> list[Any]:
        """Return L with D = L L^+ of each spin and k point, without the negative part that guesses may have."""
        n = density.shape[-1]
        return [factors_from_density(spin) for spin in np.asarray(density).reshape(-1, self.n_k, n, n)]

    def natural(self, density: Any) -> Orbitals | None:
        """Return the orbitals with which a density is tagged, None without them and for fractional occupations."""
        occ = getattr(density, "mo_occ", None)
        if self.sigma or occ is None or not np.isin(occ, (0, self._filled)).all():
            return None
        return Orbitals(np.full(np.shape(occ), UNKNOWN), np.array(density.mo_coeff), np.array(occ))

    def error(self, v: Array, factors: Sequence[Any]) -> Array:
        """Return FDS - SDF in orthonormal orbitals, of all spins and k points in a row; see `Problem.error`."""
        blocks = zip(self._blocks(self.hcore + v), chain.from_iterable(factors), strict=True)
        half = [
            (x.conj().T @ (f @ l)) @ ((l.conj().T @ s) @ x)
            for ((f,), l), (s, x) in zip(blocks, cycle(zip(self.overlap, self.x, strict=True)))
        ]
        return np.concatenate([(m - m.conj().T).ravel() for m in half])

    def canonical(self, orbitals: Orbitals, fock: Array) -> Orbitals:
        """Return canonical orbitals of the same density; only those filled and those empty are mixed."""
        energy, coeff = np.array(orbitals.energy), np.array(orbitals.coeff, dtype=np.result_type(orbitals.coeff, fock))
        for e, c, n, f in self._blocks(energy, coeff, orbitals.occ, fock):
            exists = np.abs(c).max(axis=0) > 0  # columns of zeros pad linearly dependent functions
            for subset in (n > self._filled - EMPTY, (n < EMPTY) & exists):
                e[subset], rotation = np.linalg.eigh(c[:, subset].conj().T @ f @ c[:, subset])
                c[:, subset] = c[:, subset] @ rotation
        return Orbitals(energy, coeff, orbitals.occ)

    def final(self, point: Point) -> Orbitals:
        """Return the orbitals of a solution."""
        return self.orbitals(point.fock) if self.sigma else super().final(point)

    def energies(self, orbitals: Orbitals, density: Array, vhf: Any) -> tuple[float, float]:
        """Return total energy and free energy, Hartree; they differ for smeared occupations."""
        if self.sigma:
            self.mf.get_occ(orbitals.energy, orbitals.coeff)  # sets the entropy
        total, _ = super().energies(orbitals, density, vhf)
        return total, float(self.mf.e_free) if self.sigma else total

    def gradient(self, orbitals: Orbitals, fock: Array) -> float:
        """Return the norm of PySCF's orbital gradient, with the error of smeared occupations in it."""
        if not self.sigma:
            return super().gradient(orbitals, fock)
        orbitals = self.canonical(orbitals, fock)  # PySCF counts mixing of empty orbitals too
        norm = super().gradient(orbitals, fock)
        error = [self._slope(n) * 4 / self._filled * d.diagonal() for d, _, n in self._residuals(orbitals, fock)]
        return float(np.hypot(norm, np.linalg.norm(error)))

    def lowering(self, orbitals: Orbitals, v: Array) -> float:
        """Return the expected lowering of the (free) energy by the next step, or change of E(T) if larger, Hartree."""
        total = change = 0.0
        for d, e, n in self._residuals(orbitals, self.hcore + v):
            falling, rising = np.subtract.outer(n, n), np.subtract.outer(e, e)
            if self.sigma:
                level = np.log(n.clip(EMPTY) / (self._filled - n).clip(EMPTY))  # (mu - e) / sigma
                change += float(np.sum(d.diagonal().real * self._slope(n) * level))
                flat = np.abs(rising) < SAME_ENERGY
                ratio = np.where(flat, self._slope(n) / self.sigma, -falling / np.where(flat, 1.0, rising))
            else:
                ratio = np.abs(falling) / np.maximum(np.abs(rising), FLAT)
            total += float(np.sum(ratio * np.abs(d) ** 2)) / 2
        return max(total, abs(change)) / self.n_k

    @property
    def _filled(self) -> float:
        return 1.0 if self.mf.istype("KUHF") else 2.0

    def _slope(self, n: Array) -> Array:
        """Return sigma times the slope of the occupations, that of Fermi's function."""
        return n * (1 - n / self._filled)

    def _blocks(self, *arrays: Array) -> Iterator[tuple[Array, ...]]:
        """Yield the parts of arrays at all spins and k points."""
        spins = zip(*arrays, strict=True) if self.mf.istype("KUHF") else [arrays]
        return chain.from_iterable(zip(*spin, strict=True) for spin in spins)

    def _residuals(self, orbitals: Orbitals, fock: Array) -> list[tuple[Array, Array, Array]]:
        """Return C^+ F C - e, e and n of all spins and k points; a shift of all partly filled levels is left out."""
        found = [(c.conj().T @ f @ c - np.diag(e), e, n) for e, c, n, f in self._blocks(*orbitals, fock)]
        weights = np.concatenate([self._slope(n) for _, _, n in found])
        if self.sigma and weights.sum() > 0:
            shift = np.average(np.concatenate([d.diagonal().real for d, _, _ in found]), weights=weights)
            found = [(d - shift * np.eye(len(d)), e, n) for d, e, n in found]
        return found
