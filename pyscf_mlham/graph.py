"""The molecule as arrays: species, positions, ordered pairs and their local frames."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import gto

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

COINCIDENT = 0.1  # Bohr; no two nuclei of a molecule come this close


class Graph(NamedTuple):
    """A molecule without its orbitals.

    Attributes:
        numbers: (N,) atomic numbers, 0 for a ghost.
        positions: (N, 3) Bohr.
        pairs: (P, 2) ordered pairs (i, j), i != j, sorted; (i, j) and (j, i) are both there.
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
    if not np.all(np.isfinite(positions)):
        bad = np.flatnonzero(~np.all(np.isfinite(positions), axis=1))
        raise ValueError(f"coordinates of atoms {bad.tolist()} are not finite; check the input geometry.")
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


def graph_from_mol(mol: gto.Mole, cutoff: float = np.inf) -> Graph:
    """Return the graph of a PySCF molecule; see `graph_from_positions`.

    Args:
        mol: molecule.
        cutoff: Bohr.
    """
    numbers = np.array([gto.charge(mol.atom_symbol(i)) for i in range(mol.natm)], dtype=np.int64)
    return graph_from_positions(numbers, np.asarray(mol.atom_coords(unit="Bohr")), cutoff)


def frames_from_vectors(vectors: Array) -> Array:
    """Proper rotations R that turn each vector onto +z: ``R v = |v| z``.

    The turn about the vector itself is a free choice, made without branches except for the sign of v_z;
    nothing that is equivariant under turns about z depends on it.

    Args:
        vectors: (..., 3), none of them zero.

    Returns:
        (..., 3, 3) rotation matrices.
    """
    z = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    # Duff et al., "Building an orthonormal basis, revisited" (2017)
    sign = np.copysign(1.0, z[..., 2])
    a = -1.0 / (sign + z[..., 2])
    b = z[..., 0] * z[..., 1] * a
    x = np.stack([1.0 + sign * z[..., 0] ** 2 * a, sign * b, -sign * z[..., 0]], axis=-1)
    y = np.stack([b, sign + z[..., 1] ** 2 * a, -z[..., 1]], axis=-1)
    return np.stack([x, y, z], axis=-2)
