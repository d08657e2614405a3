"""The Coulomb metric of auxiliary functions, and the map to orthonormal ones."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from pyscf import gto, lib

from pyscf_mlham.arrays import Array

DEPENDENT = 1e-7  # smaller eigenvalues of the auxiliary functions' Coulomb metric are dropped, as in PySCF
BLOCK = 128  # number of rows that forward substitution computes at once


def coulomb_metric(auxmol: gto.Mole, omega: float) -> Array:
    """Return (P|Q) of auxiliary functions, (n_aux, n_aux)."""
    with auxmol.with_range_coulomb(omega or None):  # None leaves the molecule's own
        return np.asarray(auxmol.intor("int2c2e", hermi=1))  # as PySCF, whose rounding decides on dependence


class Whitening:
    """The map L^-1 of a metric V = L L^T; its rank, the number of rows, is reduced by linear dependence."""

    def __init__(self, metric: Array) -> None:
        self._root: Array | None = None
        try:
            self._root = root = np.ascontiguousarray(scipy.linalg.cholesky(metric, lower=True))
            self.rank = len(metric)
            blocks = [slice(*ends) for ends in lib.prange(0, self.rank, BLOCK)]
            self._inverses = [(b, scipy.linalg.inv(root[b, b], check_finite=False)) for b in blocks]
        except scipy.linalg.LinAlgError:
            values, vectors = scipy.linalg.eigh(metric)
            kept = values > DEPENDENT
            self._inverse = (vectors[:, kept] / np.sqrt(values[kept])).T
            self.rank = len(self._inverse)

    @property
    def nbytes(self) -> int:
        """Memory of the matrices, bytes."""
        if self._root is None:
            return int(self._inverse.nbytes)
        return int(self._root.nbytes) + sum(int(inverse.nbytes) for _, inverse in self._inverses)

    def __call__(self, rows: Array) -> Array:
        """Return L^-1 of rows (n_aux, n), which may be overwritten."""
        if self._root is None:
            return np.asarray(self._inverse @ rows)
        for block, inverse in self._inverses:  # SciPy's own substitution would lock out other threads
            rows[block] -= self._root[block, : block.start] @ rows[: block.start]
            rows[block] = inverse @ rows[block]
        return rows

    def transposed(self, vector: Array) -> Array:
        """Return L^-T of a vector (rank,)."""
        if self._root is None:
            return np.asarray(vector @ self._inverse)
        return np.asarray(scipy.linalg.solve_triangular(self._root, vector, trans=1, lower=True, check_finite=False))


class AtomicWhitening:
    """L^-1 of each atom's own block of a metric: a small matrix for each atom; see `Whitening`."""

    def __init__(self, auxmol: gto.Mole, metric: Array) -> None:
        atoms = [slice(*ends) for ends in auxmol.aoslice_by_atom()[:, 2:] if ends[1] > ends[0]]
        self._atoms = [(atom, Whitening(metric[atom, atom])) for atom in atoms]
        self._ends = np.cumsum([whiten.rank for _, whiten in self._atoms])
        self.rank = int(self._ends[-1])

    @property
    def nbytes(self) -> int:
        """Memory of the matrices, bytes."""
        return sum(whiten.nbytes for _, whiten in self._atoms)

    def __call__(self, rows: Array) -> Array:
        """Return L^-1 of rows (n_aux, n), which may be overwritten."""
        return np.concatenate([whiten(rows[atom]) for atom, whiten in self._atoms])

    def transposed(self, vector: Array) -> Array:
        """Return L^-T of a vector (rank,)."""
        parts = zip(self._atoms, np.split(vector, self._ends[:-1]), strict=True)
        return np.concatenate([whiten.transposed(part) for (_, whiten), part in parts])
