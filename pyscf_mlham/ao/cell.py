"""The graph of a molecule or of a crystal's cell: ordered pairs (i, j, R) of an atom and an image of an atom."""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.spatial import cKDTree

from pyscf_mlham.ao.structure import Graph, precedes_opposite
from pyscf_mlham.arrays import Array, IntArray

COINCIDENT = 0.1  # Bohr; no two nuclei come this close


def graph_from_lattice(
    numbers: IntArray, positions: Array, lattice: Array, cutoff: float = 0.0, dimension: int = 3
) -> Graph:
    """Connect every atom with all atoms and images nearer than a cutoff, sorted by i, j and R.

    Args:
        numbers: (N,) atomic numbers.
        positions: (N, 3) Bohr; atoms may lie outside the cell.
        lattice: (3, 3) lattice vectors in rows, Bohr.
        cutoff: Bohr; 0 for no pairs, infinite for all of a molecule.
        dimension: number of periodic directions, those of the first lattice vectors; 0 for a molecule.
    """
    if len(bad := np.flatnonzero(~np.all(np.isfinite(positions), axis=1))):
        raise ValueError(f"coordinates of atoms {bad.tolist()} are not finite; check the input geometry.")
    fractions = positions @ np.linalg.inv(lattice)
    radius = max(cutoff, COINCIDENT)
    reach = np.floor(radius / heights(lattice) + np.ptp(fractions, axis=0))
    cells = cells_within(np.where(np.arange(3) < dimension, reach, 0))
    images = (positions + (cells @ lattice)[:, None]).reshape(-1, 3)
    found = cKDTree(positions).sparse_distance_matrix(cKDTree(images), radius, output_type="ndarray")
    i, (image, j) = found["i"], np.divmod(found["j"], len(numbers))
    keys = np.column_stack([i, j, cells[image]]).astype(np.int64)
    half = precedes_opposite(keys)  # the opposite pairs are mirrored, so that rounding at the cutoff drops none alone
    keys, distances = keys[half], found["v"][half]
    _check_apart(keys, distances, dimension)
    keys = keys[distances < cutoff]
    keys = np.concatenate([keys, np.column_stack([keys[:, 1], keys[:, 0], -keys[:, 2:]])])
    keys = keys[np.lexsort(keys.T[::-1])]
    pairs, translations = keys[:, :2], keys[:, 2:]
    vectors = positions[pairs[:, 1]] + translations @ lattice - positions[pairs[:, 0]]
    return Graph(numbers, positions, lattice, dimension, pairs, translations, vectors)


def heights(lattice: Array) -> Array:
    """Return the distances between opposite faces of a cell, (3,) Bohr."""
    return np.asarray(1 / np.linalg.norm(np.linalg.inv(lattice), axis=0))


def cells_within(reach: Array) -> IntArray:
    """Return all translations with |R_a| <= reach_a, (n, 3)."""
    return np.array(list(product(*(range(-int(n), int(n) + 1) for n in reach))), dtype=np.int64)


def _check_apart(keys: IntArray, distances: Array, dimension: int) -> None:
    """Raise ValueError if two nuclei coincide."""
    if len(distances) and distances.min() < COINCIDENT:
        a, b, *cell = (int(n) for n in keys[np.argmin(distances)])
        atoms = f"atom {a} and atom {b} of cell {cell}" if dimension else f"atoms {a} and {b}"
        raise ValueError(
            f"{atoms} are {distances.min():.3g} Bohr apart, closer than {COINCIDENT}; "
            f"check the input geometry{' and the lattice' * (dimension > 0)}."
        )
