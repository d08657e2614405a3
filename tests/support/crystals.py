"""Small crystals that the tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyscf.pbc import dft, gto

from pyscf_mlham.ao.cell import graph_from_lattice
from pyscf_mlham.ao.loewdin import metric_from_overlap, orthogonal_from_ao
from pyscf_mlham.ao.structure import Graph

Array = NDArray[Any]

HEXAGONAL = np.array([[4.73, 0, 0], [-2.365, 4.73 * np.sqrt(3) / 2, 0], [0, 0, 12.0]])  # Bohr
BORON_NITRIDE = [("B", (0.0, 0.0, 6.0)), ("N", (0.05, 4.73 / np.sqrt(3), 6.1))]  # without any symmetry
BORDER = 1e-9  # fraction of a lattice vector; an atom nearer to the border of the cell counts as on it
seeds = st.integers(0, 2**32 - 1)


def crystal(atom: Any = BORON_NITRIDE, a: Array = HEXAGONAL, **kwargs: Any) -> Any:
    """Build a silent cell, Bohr; boron nitride in a minimal basis set by default."""
    settings = {"basis": "gth-szv", "pseudo": "gth-pbe", "verbose": 0, "ke_cutoff": 60}
    return gto.M(atom=atom, a=a, unit="Bohr", **{**settings, **kwargs})


def chain(cells: int = 1, **kwargs: Any) -> Any:
    """Build hydrogen molecules in a row, not along it, one in each primitive cell."""
    atoms = [("H", (4.0 * n + x, 4.5, z)) for n in range(cells) for x, z in ((0.3, 4.5), (1.7, 4.9))]
    mesh = {"ke_cutoff": None, "mesh": [15 * cells, 33, 33]}  # the same points in each primitive cell
    return crystal(atoms, np.diag([4.0 * cells, 9.0, 9.0]), **{"basis": "gth-dzvp", **mesh, **kwargs})


def changed(cell: Any, positions: Array, a: Array) -> Any:
    """Build a cell with the atoms and settings of another."""
    settings = {"basis": cell.basis, "precision": cell.precision, "mesh": cell.mesh, "ke_cutoff": None}
    return crystal([(symbol, tuple(r)) for symbol, r in zip(cell.elements, positions, strict=True)], a, **settings)


def krks(cell: Any, kpts: Array) -> Any:
    """Prepare a density-fitted PBE calculation on a grid that rotates with the lattice, unlike PySCF's default."""
    mf = dft.KRKS(cell, kpts, xc="pbe").density_fit()
    mf.grids = dft.gen_grid.UniformGrids(cell)
    return mf


def random_graph(seed: int, atoms: int, cutoff: float = 0.0, dimension: int = 3) -> Graph:
    """Make a skewed cell of a few Bohr with atoms inside and outside of it."""
    rng = np.random.default_rng(seed)
    lattice = np.diag([5.0, 6.0, 7.0]) + rng.uniform(-2, 2, (3, 3))
    positions = rng.uniform(-1.5, 1.5, (atoms, 3)) @ lattice
    try:
        return graph_from_lattice(np.arange(1, atoms + 1), positions, lattice, cutoff, dimension)
    except ValueError:  # two atoms coincide
        assume(False)
        raise


def moved(graph: Graph, shifts: Array) -> Graph:
    """Move atoms by lattice vectors; each pair keeps its place, vector and blocks, and gets another R.

    Args:
        shifts: (N, 3) lattice vectors added to the positions, as integers.
    """
    i, j = graph.pairs.T
    return graph._replace(
        positions=graph.positions + shifts @ graph.lattice, translations=graph.translations + shifts[i] - shifts[j]
    )


def wrapped(graph: Graph) -> Graph:
    """Move every atom into the cell along the periodic directions; see `moved`."""
    fractions = graph.positions @ np.linalg.inv(graph.lattice)
    shifts = -np.floor(fractions + BORDER).astype(np.int64)
    return moved(graph, np.where(np.arange(3) < graph.dimension, shifts, 0))


def bands(matrices: Array, overlaps: Array | None = None) -> Array:
    """Return the eigenvalues of matrices H(k), in ascending order, (..., N_k, n).

    Args:
        matrices: (..., N_k, n, n) Hermitian.
        overlaps: (N_k, n, n) S(k), None for orthonormal orbitals such as Loewdin's.
    """
    if overlaps is not None:
        matrices = orthogonal_from_ao(matrices, metric_from_overlap(overlaps))
    return np.asarray(np.linalg.eigvalsh(matrices))
