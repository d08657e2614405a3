"""Rotations of orbitals, C exp(K): the angles of each spin between virtual and occupied orbitals, or those of ROHF."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

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
        self._orbitals, self._shared = orbitals, shared
        coeff, occ = (np.asarray(a) for a in orbitals[1:])
        channels = list(zip(coeff, occ, strict=True)) if coeff.ndim == 3 else [(coeff, occ)]
        if shared:
            channels = [(coeff, np.where(occ > least, 1.0, 0.0)) for least in (OCCUPIED, 1 + OCCUPIED)]
        self.spins = [Spin(c, n) for c, n in channels]
        # pairs that rotate, of each set of orbitals
        self._free: Array = np.zeros((1 if shared else len(channels), *2 * occ.shape[-1:]), dtype=bool)
        for spin, free in zip(self.spins, cycle(self._free)):
            free[spin.pairs] = True

    def flat(self, parts: Sequence[Array]) -> Array:
        """Return derivatives of the energy (virtual, occupied) of all spins in a row, each times twice the filling."""
        total: Array = np.zeros(self._free.shape)
        for spin, part, matrix in zip(self.spins, parts, cycle(total)):
            matrix[spin.pairs] += 2 * spin.filling * part
        return np.asarray(total[self._free])

    def parts(self, angles: Array) -> list[Array]:
        """Return angles (virtual, occupied) of each spin."""
        return [k[spin.pairs] for spin, k in zip(self.spins, cycle(self._matrices(angles)))]

    def angles(self, parts: Sequence[Array]) -> Array:
        """Return the angles of parts (virtual, occupied); the mean of both spins if they share them."""
        total: Array = np.zeros(self._free.shape)
        count = total.copy()
        for spin, part, matrix, number in zip(self.spins, parts, cycle(total), cycle(count)):
            matrix[spin.pairs] += part
            number[spin.pairs] += 1
        return np.asarray(total[self._free] / count[self._free])

    def mixed(self, angles: Array, gradients: Sequence[Array]) -> Array | float:
        """Return what rotations among the occupied, or the virtual, orbitals of a spin add to H x.

        These do not change the density of that spin, but rotate its gradient. Only shared orbitals have them.

        Args:
            angles: x.
            gradients: F_vo of each spin, Hartree.
        """
        if not self._shared:
            return 0.0
        [k] = self._matrices(angles)
        total = np.zeros(k.shape)
        for spin, g in zip(self.spins, gradients, strict=True):
            occupied, virtual = np.ix_(spin.filled, spin.filled), np.ix_(~spin.filled, ~spin.filled)
            x = k[spin.pairs]
            total[spin.pairs] += g @ k[occupied] - k[virtual] @ g
            total[virtual] += g @ x.T - x @ g.T
            total[occupied] += g.T @ x - x.T @ g
        return np.asarray(total[self._free[0]])

    def rotated(self, angles: Array) -> Orbitals:
        """Return the orbitals C exp(K)."""
        coeff, rotations = np.asarray(self._orbitals.coeff), scipy.linalg.expm(self._matrices(angles))
        return self._orbitals._replace(coeff=coeff @ (rotations if coeff.ndim == 3 else rotations[0]))

    def _matrices(self, angles: Array) -> Array:
        """Return K of each set of orbitals."""
        k: Array = np.zeros(self._free.shape)
        k[self._free] = angles
        return k - k.swapaxes(1, 2)
