"""A predicted Fock matrix of a crystal between the k points of its mesh."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyscf_mlham.ao.lattice import bloch_from_blocks, blocks_from_bloch, complete_graph
from pyscf_mlham.ao.layout import OrbitalLayout
from pyscf_mlham.ao.loewdin import ao_from_orthogonal, metric_from_overlap, orthogonal_from_ao
from pyscf_mlham.ao.mole import graph_from_cell
from pyscf_mlham.arrays import Array
from pyscf_mlham.h0.atoms import superposed_atoms


def fock_between(cell: Any, xc: str, fock: Array, kpts: Array, points: Array) -> Array:
    """Return F at other k points: H0 is computed there, and dH = F - H0 is interpolated in Loewdin orbitals.

    dH(R) ends at the cutoff of a model, so that a mesh which is long enough for the model determines it exactly.

    Args:
        cell: PySCF cell.
        xc: functional of H0.
        fock: (..., N_k, n, n) on a uniform mesh, Hartree.
        kpts: (N_k, 3) that mesh, 1/Bohr.
        points: (M, 3) other k points.

    Returns:
        (..., M, n, n) Hartree.
    """
    both = np.vstack([kpts, points])
    h0 = superposed_atoms(cell, both, xc)
    overlap = np.asarray(cell.pbc_intor("int1e_ovlp", hermi=1, kpts=both))
    here, there = (metric_from_overlap(part) for part in np.split(overlap, [len(kpts)]))
    graph, layout = complete_graph(graph_from_cell(cell), kpts), OrbitalLayout.from_mol(cell)
    blocks = blocks_from_bloch(orthogonal_from_ao(fock - h0[: len(kpts)], here), kpts, graph, layout)
    return h0[len(kpts) :] + ao_from_orthogonal(bloch_from_blocks(blocks, points, graph, layout), there)
