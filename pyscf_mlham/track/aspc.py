"""Kolafa's always stable predictor, for comparison: J. Comput. Chem. 25, 335 (2004)."""

from __future__ import annotations

from math import comb

import numpy as np

from pyscf_mlham.ao.loewdin import metric_from_overlap
from pyscf_mlham.arrays import Array
from pyscf_mlham.track.extrapolation import natural
from pyscf_mlham.track.place import Place
from pyscf_mlham.track.step import Step

POINTS = 4  # ASPC(2), the usual choice


def aspc_weights(points: int) -> Array:
    """Return the coefficients B_j of the predictor, the latest step first.

    Args:
        points: number of steps, one or more; one gives the last step itself.
    """
    n = points
    return np.array([(-1) ** (j + 1) * j * comb(2 * n, n - j) / comb(2 * n - 2, n - 1) for j in range(1, n + 1)])


def predicted_orbitals(place: Place, steps: list[Step]) -> Array:
    """Return sum_j B_j (D_j S_j) C_last, orthonormalised: (s, n, n) in Loewdin orbitals, the occupied ones first.

    Args:
        steps: the old geometries, the latest first, not rotated.
    """
    steps = steps[:POINTS]
    metrics = [metric_from_overlap(step.overlap) for step in steps]
    coeff = metrics[0].inverse @ natural(steps[0].density)
    projector = np.zeros_like(steps[0].density)
    for b, step, metric in zip(aspc_weights(len(steps)), steps, metrics, strict=True):
        projector += b * (metric.inverse @ step.density @ metric.half)
    moved, orbitals = projector @ coeff, []
    for c, occ in zip(moved, steps[0].occ, strict=True):
        kept = c[:, occ > 0] / occ[occ > 0]  # each was multiplied by its own occupation
        s, u = np.linalg.eigh(kept.T @ place.overlap @ kept)
        half = place.root @ place.transform @ kept @ (u / np.sqrt(s)) @ u.T
        orbitals.append(np.hstack([half, _complement(half)]))
    return np.stack(orbitals)


def _complement(vectors: Array) -> Array:
    """Return orthonormal vectors (n, n - k) orthogonal to k orthonormal ones."""
    return np.asarray(np.linalg.svd(vectors, full_matrices=True)[0][:, vectors.shape[1] :])
