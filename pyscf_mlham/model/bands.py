"""A predicted Fock matrix of a crystal between the k points of its mesh."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyscf_mlham.ao.lattice import bloch_from_blocks, blocks_from_bloch, complete_graph
from pyscf_mlham.ao.layout import OrbitalLayout
from pyscf_mlham.ao.mole import atom_of_each_ao, graph_from_cell
from pyscf_mlham.ao.mulliken import ao_from_parts, of_atoms, parts_from_ao
from pyscf_mlham.arrays import Array
from pyscf_mlham.h0.atoms import superposed_atoms_of
from pyscf_mlham.model.domain import kpts_of


def fock_between(mf: Any, fock: Array, points: Array) -> Array:
    """Return F at other k points: H0 is computed there, and dH = F - H0 interpolated in the form of `ao.mulliken`.

    dH(R) ends at the cutoff of a model, so that a mesh which is long enough for the model determines it exactly.

    Args:
        mf: PySCF mean-field object of a cell.
        fock: (..., N_k, n, n) on its mesh, Hartree.
        points: (M, 3) other k points, 1/Bohr.

    Returns:
        (..., M, n, n) Hartree.
    """
    cell, kpts = mf.mol, kpts_of(mf)
    both = np.vstack([kpts, points])
    h0 = superposed_atoms_of(mf, both)
    overlap = np.asarray(cell.pbc_intor("int1e_ovlp", hermi=1, kpts=both))
    here, there = np.split(overlap, [len(kpts)])
    graph, layout, atoms = (
        complete_graph(graph_from_cell(cell), kpts),
        OrbitalLayout.from_mol(cell),
        atom_of_each_ao(cell),
    )
    spins = []
    for dh in (fock - h0[: len(kpts)]).reshape(-1, *here.shape):
        parts = parts_from_ao(dh, here, atoms)
        blocks = blocks_from_bloch(parts, kpts, graph, layout)
        spins.append(ao_from_parts(bloch_from_blocks(blocks, points, graph, layout), there, of_atoms(parts, atoms)))
    return h0[len(kpts) :] + np.reshape(spins, (*fock.shape[:-3], *there.shape))
