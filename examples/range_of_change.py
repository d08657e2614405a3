"""How far dH = F - H0 of a crystal reaches, in AOs and in both forms that networks predict, for a file of labels.

python examples/range_of_change.py LABELS.h5 --frame 3 --cutoffs 11 12.5 13.3

Prints the mean absolute error of H in AOs if the pairs of atoms beyond a cutoff are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pyscf_mlham.ao.blocks import Blocks
from pyscf_mlham.ao.lattice import bloch_from_blocks, bloch_from_cells, blocks_from_bloch, complete_graph
from pyscf_mlham.ao.layout import OrbitalLayout
from pyscf_mlham.ao.loewdin import ao_from_orthogonal, metric_from_overlap, orthogonal_from_ao
from pyscf_mlham.ao.mole import atom_of_each_ao, graph_from_cell
from pyscf_mlham.ao.mulliken import ao_from_parts, of_atoms, parts_from_ao
from pyscf_mlham.ao.structure import with_pairs
from pyscf_mlham.arrays import Array
from pyscf_mlham.data.geometries import cell_from_geometry
from pyscf_mlham.data.schema import HamiltonianFile
from pyscf_mlham.h0.atoms import superposed_atoms

MEV = 27211.386  # of a Hartree


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--frame", type=int, default=0)
    parser.add_argument("--cutoffs", type=float, nargs="+", default=[11.0, 12.5, 13.3], help="Bohr")
    args = parser.parse_args()
    with HamiltonianFile(args.labels) as file:
        record, level = file[args.frame], file.level
    if record.periodic is None:
        raise SystemExit(f"{args.labels} holds molecules; expected crystals.")
    cell, kpts = cell_from_geometry(record, level), record.periodic.kpts
    dh = bloch_from_cells(record.fock, kpts, record.periodic.lattice) - superposed_atoms(cell, kpts, level.xc)
    overlap = np.asarray(cell.pbc_intor("int1e_ovlp", hermi=1, kpts=kpts))
    metric, atoms = metric_from_overlap(overlap), atom_of_each_ao(cell)
    graph, layout = complete_graph(graph_from_cell(cell), kpts), OrbitalLayout.from_mol(cell)
    distances = np.linalg.norm(graph.vectors, axis=1)
    forms: dict[str, tuple[Array, Callable[[Array], Array]]] = {
        "AOs": (dh, lambda x: x),
        "Loewdin orbitals": (orthogonal_from_ao(dh, metric), lambda x: ao_from_orthogonal(x, metric)),
        "atoms and a rest": (
            parts_from_ao(dh, overlap, atoms),
            lambda x: ao_from_parts(x, overlap, of_atoms(x, atoms)),
        ),
    }
    print(f"{record.name}, H MAE / meV of H0: {MEV * np.abs(dh).mean():.0f}; beyond / Bohr:", *args.cutoffs)
    for name, (matrix, ao) in forms.items():
        blocks = blocks_from_bloch(matrix, kpts, graph, layout)
        errors = []
        for cutoff in args.cutoffs:
            near = distances < cutoff
            cut = Blocks(blocks.onsite, blocks.pair[near])
            kept = ao(bloch_from_blocks(cut, kpts, with_pairs(graph, near), layout))
            errors.append(f"{MEV * np.abs(dh - kept).mean():.3f}")
        print(f"{name:16s}", *errors)


if __name__ == "__main__":
    main()
