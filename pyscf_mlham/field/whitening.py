"""The Coulomb metric of auxiliary functions, and the map to orthonormal ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from pyscf import gto

Array = NDArray[Any]

DEPENDENT = 1e-7  # smaller eigenvalues of the auxiliary functions' Coulomb metric are dropped, as in PySCF


def coulomb_metric(auxmol: gto.Mole, omega: float) -> Array:
    """Return (P|Q) of auxiliary functions, (n_aux, n_aux)."""
    with auxmol.with_range_coulomb(omega or None):  # None leaves the molecule's own
        return np.asarray(auxmol.intor("int2c2e", hermi=1))  # as PySCF, whose rounding decides on dependence


class Whitening:
    """The map L^-1 of a metric V = L L^T.

    Attributes:
        rank: number of rows of L^-1, reduced for linearly dependent functions.
    """

    def __init__(self, metric: Array) -> None:
        self._root: Array | None = None
        try:
            self._root = scipy.linalg.cholesky(metric, lower=True)
            self.rank = len(metric)
        except scipy.linalg.LinAlgError:
            values, vectors = scipy.linalg.eigh(metric)
            kept = values > DEPENDENT
            self._inverse = (vectors[:, kept] / np.sqrt(values[kept])).T
            self.rank = len(self._inverse)

    def __call__(self, rows: Array) -> Array:
        """Return L^-1 of rows (n_aux, n), which may be overwritten."""
        if self._root is None:
            return np.asarray(self._inverse @ rows)
        trsm = scipy.linalg.get_blas_funcs("trsm", (self._root,))
        # rows are transposed for BLAS, which works in place
        return np.asarray(trsm(1.0, self._root, rows.T, lower=True, trans_a=1, side=1, overwrite_b=True).T)

    def transposed(self, vector: Array) -> Array:
        """Return L^-T of a vector (rank,)."""
        if self._root is None:
            return np.asarray(vector @ self._inverse)
        return np.asarray(scipy.linalg.solve_triangular(self._root, vector, trans=1, lower=True, check_finite=False))


class AtomicWhitening:
    """L^-1 of each atom's own block of a metric: a small matrix for each atom.

    Attributes:
        rank: see `Whitening`.
    """

    def __init__(self, auxmol: gto.Mole, metric: Array) -> None:
        atoms = [slice(*ends) for ends in auxmol.aoslice_by_atom()[:, 2:] if ends[1] > ends[0]]
        self._atoms = [(atom, Whitening(metric[atom, atom])) for atom in atoms]
        self._ends = np.cumsum([whiten.rank for _, whiten in self._atoms])
        self.rank = int(self._ends[-1])

    def __call__(self, rows: Array) -> Array:
        """Return L^-1 of rows (n_aux, n), which may be overwritten."""
        return np.concatenate([whiten(rows[atom]) for atom, whiten in self._atoms])

    def transposed(self, vector: Array) -> Array:
        """Return L^-T of a vector (rank,)."""
        parts = zip(self._atoms, np.split(vector, self._ends[:-1]), strict=True)
        return np.concatenate([whiten.transposed(part) for (_, whiten), part in parts])
