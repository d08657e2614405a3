"""A structure as arrays: species, positions and ordered pairs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyscf_mlham.arrays import Array, IntArray


class Graph(NamedTuple):
    """A molecule or a cell without its orbitals; a molecule is one without periodic directions, where R = 0."""

    numbers: IntArray  # (N,) atomic numbers, 0 for a ghost
    positions: Array  # (N, 3) Bohr
    lattice: Array  # (3, 3) lattice vectors A in rows, Bohr; of no meaning for a molecule
    dimension: int  # number of periodic directions, those of the first lattice vectors
    # (P, 2) atoms of ordered pairs (i, j, R), sorted, without (i, i, 0); each has its opposite (j, i, -R)
    pairs: IntArray
    translations: IntArray  # (P, 3) R: atom j is in the cell at R A
    vectors: Array  # (P, 3) r_j + R A - r_i, Bohr


def each_pair_once(graph: Graph) -> Graph:
    """Return the pairs (i, j, R) that precede their opposites (j, i, -R) in lexical order."""
    return with_pairs(graph, precedes_opposite(np.column_stack([graph.pairs, graph.translations])))


def with_opposites(graph: Graph) -> Graph:
    """Append the opposite of each pair, in the same order."""
    return graph._replace(
        pairs=np.concatenate([graph.pairs, graph.pairs[:, ::-1]]),
        translations=np.concatenate([graph.translations, -graph.translations]),
        vectors=np.concatenate([graph.vectors, -graph.vectors]),
    )


def with_pairs(graph: Graph, chosen: NDArray[np.bool_]) -> Graph:
    """Return the chosen pairs, (P,)."""
    return graph._replace(
        pairs=graph.pairs[chosen], translations=graph.translations[chosen], vectors=graph.vectors[chosen]
    )


def precedes_opposite(keys: IntArray) -> NDArray[np.bool_]:
    """Whether each of the pairs (i, j, R), (P, 5), precedes (j, i, -R) in lexical order; not (i, i, 0)."""
    difference = np.column_stack([keys[:, 1] - keys[:, 0], keys[:, 2:]])
    first = np.argmax(difference != 0, axis=1)
    return np.asarray(difference[np.arange(len(keys)), first] > 0)
