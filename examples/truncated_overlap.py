"""What it costs to drop eigenvectors of the overlap with small eigenvalues from the solution of F C = S C e.

python examples/truncated_overlap.py LABELS.h5 --model b3lyp-svp --below 1e-3

Some methods need it to keep errors of a predicted F from being amplified. Prints mean errors over the closed shells of
the test split that have such eigenvalues.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from pyscf_mlham import checkpoint
from pyscf_mlham.arrays import Array
from pyscf_mlham.data.geometries import mol_from_geometry
from pyscf_mlham.data.schema import HamiltonianFile
from pyscf_mlham.h0 import SCC, hamiltonian
from pyscf_mlham.model.network import NetworkModel
from pyscf_mlham.model.store import find


def solve(fock: Array, overlap: Array, below: float) -> tuple[Array, Array]:
    """Return orbital energies and coefficients without eigenvectors of the overlap below a bound."""
    s, U = np.linalg.eigh(overlap)
    kept = s > below
    X = U[:, kept] / np.sqrt(s[kept])
    e, C = np.linalg.eigh(X.T @ fock @ X)
    return e, X @ C


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--model", default="b3lyp-svp", help="name or folder, with the scc baseline")
    parser.add_argument("--below", type=float, default=1e-3)
    args = parser.parse_args()
    model = NetworkModel.from_weights(*checkpoint.read(find(args.model)))
    found: dict[str, list[tuple[float, ...]]] = {}
    with HamiltonianFile(args.labels) as file:
        test = [int(i) for i in file.indices("test") if not file.spin[i]]
        for index in test:
            record = file[index]
            mol = mol_from_geometry(record, file.level.basis)
            o, overlap, h0 = mol.nelectron // 2, mol.intor("int1e_ovlp"), record.by_spin(f"fock_{SCC}")
            if np.linalg.eigvalsh(overlap)[0] > args.below:
                continue
            h0 = hamiltonian(SCC, mol, file.level.xc) if h0 is None else h0
            predicted, (e, C) = h0 + model.correction(mol, h0), solve(record.fock, overlap, 0.0)
            ways = {"converged F, truncated": (record.fock, args.below)}
            ways |= {"predicted F": (predicted, 0.0), "predicted F, truncated": (predicted, args.below)}
            for name, (fock, below) in ways.items():
                energies, orbitals = solve(fock, overlap, below)
                gap_error = abs(energies[o] - energies[o - 1] - e[o] + e[o - 1])
                density = np.linalg.norm(C[:, o:].T @ overlap @ orbitals[:, :o]) / np.sqrt(o)
                found.setdefault(name, []).append((np.abs(energies[:o] - e[:o]).mean(), gap_error, density))
    count = len(next(iter(found.values()), []))
    print(f"{count} of {len(test)} molecules; occupied orbital energies, gap / Ha; density error per occupied orbital")
    for name, rows in found.items():
        print(f"{name:24s}", *(f"{value:.1e}" for value in np.mean(rows, axis=0)))


if __name__ == "__main__":
    main()
