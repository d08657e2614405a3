"""A structure as arrays: species, positions and ordered pairs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

COINCIDENT = 0.1  # Bohr; no two nuclei of a molecule come this close


class Graph(NamedTuple):
    """A molecule without its orbitals.

    Attributes:
        numbers: (N,) atomic numbers, 0 for a ghost.
        positions: (N, 3) Bohr.
        pairs: (P, 2) ordered pairs (i, j), i != j, sorted; both (i, j) and (j, i) are listed.
        vectors: (P, 3) r_j - r_i, Bohr.
    """

    numbers: IntArray
    positions: Array
    pairs: IntArray
    vectors: Array


def graph_from_positions(numbers: IntArray, positions: Array, cutoff: float = np.inf) -> Graph:
    """Connect every two atoms nearer than the cutoff.

    Args:
        numbers: (N,) atomic numbers.
        positions: (N, 3) Bohr.
        cutoff: Bohr; infinite gives the complete graph.
    """
    check_finite(positions)
    vectors = positions[None, :] - positions[:, None]  # (N, N, 3)
    distances = np.linalg.norm(vectors, axis=-1)
    np.fill_diagonal(distances, np.inf)
    if len(numbers) and distances.min() < COINCIDENT:
        a, b = divmod(int(np.argmin(distances)), len(numbers))
        raise ValueError(
            f"atoms {a} and {b} are {distances[a, b]:.3g} Bohr apart, closer than {COINCIDENT}; "
            "check the input geometry."
        )
    i, j = np.nonzero(distances < cutoff)
    return Graph(numbers, positions, np.stack([i, j], axis=-1), vectors[i, j])


def check_finite(positions: Array) -> None:
    """Raise ValueError for positions (N, 3) that are not finite."""
    if len(bad := np.flatnonzero(~np.all(np.isfinite(positions), axis=1))):
        raise ValueError(f"coordinates of atoms {bad.tolist()} are not finite; check the input geometry.")
