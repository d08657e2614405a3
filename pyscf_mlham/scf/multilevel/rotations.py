"""Rotations of orbitals, C exp(K): the angles of each spin between virtual and occupied orbitals, or those of ROHF."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg

from pyscf_mlham.arrays import Array
from pyscf_mlham.density import OCCUPIED, Orbitals


class Spin:
    """Orbitals of one spin, or of both.

    Attributes:
        filling: electrons in an occupied orbital.
        occupied, virtual: orbitals (n_ao, ...).
        filled: whether each orbital is occupied.
    """

    def __init__(self, coeff: Array, occ: Array) -> None:
        self.filled = occ > OCCUPIED
        self.filling = float(occ.max(initial=1.0))
        self.occupied, self.virtual = coeff[:, self.filled], coeff[:, ~self.filled]

    @property
    def pairs(self) -> tuple[Array, ...]:
        """The pairs (virtual, occupied) among all orbitals."""
        return np.ix_(~self.filled, self.filled)

    def blocks(self, fock: Array) -> tuple[Array, Array, Array]:
        """Return F_vo, F_vv and F_oo."""
        fv, fo = fock @ self.virtual, fock @ self.occupied
        return self.virtual.T @ fo, self.virtual.T @ fv, self.occupied.T @ fo


class Rotations:
    """Angles of the rotations of orbitals.

    Attributes:
        spins: orbitals of each spin, of both in one if the shell is closed.
    """

    def __init__(self, orbitals: Orbitals, shared: bool) -> None:
        """Set up the angles.

        Args:
            orbitals: in the shapes of the mean-field object.
            shared: whether the spins share their orbitals although the shell is open (ROHF).
        """
        self._orbitals = orbitals
        coeff, occ = (np.asarray(a) for a in orbitals[1:])
        channels = list(zip(coeff, occ, strict=True)) if coeff.ndim == 3 else [(coeff, occ)]
        if shared:
            channels = [(coeff, np.where(occ > least, 1.0, 0.0)) for least in (OCCUPIED, 1 + OCCUPIED)]
        self.spins = [Spin(c, n) for c, n in channels]
        self._free: Array | None = None  # pairs of shared orbitals that rotate; None if each spin has its own
        if shared:
            self._free = np.zeros((occ.size,) * 2, dtype=bool)
            for spin in self.spins:
                self._free[spin.pairs] = True

    def flat(self, parts: Sequence[Array]) -> Array:
        """Return derivatives of the energy (virtual, occupied) of all spins in a row, each times twice the filling."""
        parts = [2 * spin.filling * part for spin, part in zip(self.spins, parts, strict=True)]
        if self._free is None:
            return np.concatenate([part.ravel() for part in parts])
        total = np.zeros(self._free.shape)
        for spin, part in zip(self.spins, parts, strict=True):
            total[spin.pairs] += part
        return np.asarray(total[self._free])

    def parts(self, angles: Array) -> list[Array]:
        """Return angles (virtual, occupied) of each spin."""
        if self._free is not None:
            return [self._matrix(angles)[spin.pairs] for spin in self.spins]
        shapes = [(spin.virtual.shape[1], spin.occupied.shape[1]) for spin in self.spins]
        parts = np.split(angles, np.cumsum([virtual * occupied for virtual, occupied in shapes])[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def angles(self, parts: Sequence[Array]) -> Array:
        """Return the angles of parts (virtual, occupied); the mean of both spins where they share them."""
        if self._free is None:
            return np.concatenate([part.ravel() for part in parts])
        total, count = np.zeros((2, *self._free.shape))
        for spin, part in zip(self.spins, parts, strict=True):
            total[spin.pairs] += part
            count[spin.pairs] += 1
        return np.asarray(total[self._free] / count[self._free])

    def mixed(self, angles: Array, gradients: Sequence[Array]) -> Array | float:
        """Return what rotations among the occupied, or the virtual, orbitals of a spin add to H x.

        These do not change the density of that spin, but rotate its gradient. Only shared orbitals have them.

        Args:
            angles: x.
            gradients: F_vo of each spin, Hartree.
        """
        if self._free is None:
            return 0.0
        total, k = np.zeros(self._free.shape), self._matrix(angles)
        for spin, g in zip(self.spins, gradients, strict=True):
            occupied, virtual = np.ix_(spin.filled, spin.filled), np.ix_(~spin.filled, ~spin.filled)
            x = k[spin.pairs]
            total[spin.pairs] += g @ k[occupied] - k[virtual] @ g
            total[virtual] += g @ x.T - x @ g.T
            total[occupied] += g.T @ x - x.T @ g
        return np.asarray(total[self._free])

    def rotated(self, angles: Array) -> Orbitals:
        """Return the orbitals C exp(K)."""
        if self._free is not None:
            return self._orbitals._replace(coeff=self._orbitals.coeff @ scipy.linalg.expm(self._matrix(angles)))
        coeff = np.asarray(self._orbitals.coeff)
        rotations = []
        for spin, x in zip(self.spins, self.parts(angles), strict=True):
            k = np.zeros((len(spin.filled),) * 2)
            k[spin.pairs] = x
            rotations.append(scipy.linalg.expm(k - k.T))
        return self._orbitals._replace(coeff=coeff @ (np.stack(rotations) if coeff.ndim == 3 else rotations[0]))

    def _matrix(self, angles: Array) -> Array:
        """Return K of shared orbitals."""
        assert self._free is not None
        k = np.zeros(self._free.shape)
        k[self._free] = angles
        return k - k.T
