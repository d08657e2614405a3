"""Symmetrically orthogonalised (Loewdin) orbitals ``phi S^-1/2``.

In AOs an error along a small eigenvalue s of the overlap is amplified by 1/s in the orbital energies, and most of
dH is the overlap times a shift of the potential. In Loewdin orbitals neither holds: dH becomes ``S^-1/2 dH S^-1/2``,
its pair blocks are ten times smaller, and an error moves no orbital energy by more than its own norm. They rotate
with the molecule exactly as AOs do, shell by shell, so the blocks are the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pyscf_mlham.arrays import Array

LOEWDIN = "loewdin"  # name of this form of dH


class Metric(NamedTuple):
    """Roots of the overlap, or of S(k) at each k point of a crystal."""

    half: Array  # (..., n, n) S^1/2
    inverse: Array  # (..., n, n) S^-1/2


def metric_from_overlap(overlap: Array) -> Metric:
    """Return the symmetric roots of S and of its inverse; overlap: (..., n, n), Hermitian and positive definite."""
    s, U = np.linalg.eigh(overlap)
    if s.min() <= 0:
        text = f"the overlap has an eigenvalue {s.min():.1e}; expected all of them positive"
        raise ValueError(f"{text}; use a basis set without linear dependence.")
    root, adjoint = np.sqrt(s)[..., None, :], np.swapaxes(U.conj(), -1, -2)
    return Metric(half=(U * root) @ adjoint, inverse=(U / root) @ adjoint)


def orthogonal_from_ao(matrix: Array, metric: Metric) -> Array:
    """Bring operator matrix elements from AOs into Loewdin orbitals; matrix: (..., n, n)."""
    return metric.inverse @ matrix @ metric.inverse


def ao_from_orthogonal(matrix: Array, metric: Metric) -> Array:
    """Bring operator matrix elements from Loewdin orbitals into AOs: the inverse of `orthogonal_from_ao`."""
    return metric.half @ matrix @ metric.half
