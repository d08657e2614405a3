"""DIIS that reuses the responses of earlier geometries: changes of the error with changes of the Fock matrix.

From a guess close to the solution PySCF's SCF makes two plain steps before its DIIS has two matrices to combine, and
a plain step may increase the error. Here the pairs (dF, de) of earlier geometries, in Loewdin orbitals, are added:

    F <- F_k + sum_i a_i (F_i - F_k) + sum_j b_j dF_j,   a, b minimise |e_k + sum_i a_i (e_i - e_k) + sum_j b_j de_j|,

with e = [F, D], the error that DIIS minimises. The convergence test is PySCF's own, of true Fock matrices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import lib

from pyscf_mlham.ao.loewdin import Metric

Array = NDArray[np.float64]

KEPT = 12  # responses kept
SPACE = 8  # Fock matrices of one SCF that are combined
UNSEEN = 1e-6  # share of a change of F; a smaller change of the error is only rounding
SINGULAR = 1e-3  # of normalised error differences: smaller singular values are dropped


class Response(NamedTuple):
    """A change of the Fock matrix and the resulting change of the error, in Loewdin orbitals.

    Attributes:
        fock: (..., n, n) change of F, Hartree.
        error: (..., n, n) change of [F, D].
    """

    fock: Array
    error: Array


class RecyclingDIIS(lib.diis.DIIS):  # type: ignore[misc]
    """Direct inversion in the iterative subspace, started with responses of earlier geometries.

    Attributes:
        pairs: F and e of this SCF, in Loewdin orbitals of irreps order.
    """

    def __init__(self, mf: Any, transform: Array, metric: Metric, earlier: list[Response]) -> None:
        """Set up.

        Args:
            mf: PySCF mean-field object.
            transform: (n, n) T with functions_irreps = T^T functions_pyscf.
            metric: roots of the overlap in irreps order.
            earlier: responses of earlier geometries, rotated to this one.
        """
        super().__init__(mf)
        self._down = transform @ metric.inverse  # Loewdin orbitals over AOs
        self._up = metric.half @ np.linalg.inv(transform)
        self._earlier = earlier
        self.pairs: list[Response] = []

    def update(self, s: Array, d: Array, f: Array, *_: Any, **__: Any) -> Array:
        """Return the Fock matrix to diagonalise next.

        Args:
            s: overlap; not used.
            d: density matrix, (n, n) or (2, n, n).
            f: its Fock matrix.
        """
        del s
        fock, density = self._down.T @ f @ self._down, self._up @ d @ self._up.T
        self.pairs.append(Response(fock, fock @ density - density @ fock))
        del self.pairs[:-SPACE]
        last = self.pairs[-1]
        if len(self.pairs) == SPACE:
            self._earlier = []  # they are for the first cycles only; later ones use the responses of this SCF
        ways = [Response(p.fock - last.fock, p.error - last.error) for p in self.pairs[:-1]] + self._earlier
        ways = [way for way in ways if np.linalg.norm(way.error) > UNSEEN * np.linalg.norm(way.fock)]
        if not ways:
            return f
        sizes = np.array([np.linalg.norm(way.error) for way in ways])
        columns = np.stack([np.ravel(way.error) for way in ways], axis=1) / sizes
        amounts = np.linalg.lstsq(columns, -np.ravel(last.error), rcond=SINGULAR)[0] / sizes
        best = fock + np.tensordot(amounts, np.stack([way.fock for way in ways]), axes=1)
        return np.asarray(self._up.T @ best @ self._up)

    def responses(self) -> list[Response]:
        """Return the responses of this SCF, the latest first."""
        changes = [
            Response(b.fock - a.fock, b.error - a.error) for a, b in zip(self.pairs[:-1], self.pairs[1:], strict=True)
        ]
        return changes[::-1]
