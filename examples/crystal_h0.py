"""Errors of H0, of 'scc' and of a model for crystals, against the converged Fock matrix, and SCF cycles.

python examples/crystal_h0.py FRAMES.xyz ... --kpts 6 6 1 --frame 4, a minute for one frame of each file.
"""

from __future__ import annotations

import argparse
from itertools import islice
from typing import Any

import numpy as np

import pyscf_mlham
from pyscf_mlham.ao.loewdin import metric_from_overlap, orthogonal_from_ao
from pyscf_mlham.data.geometries import read_geometries
from pyscf_mlham.data.label import crystal_mean_field
from pyscf_mlham.data.record import Level
from pyscf_mlham.density import density_from_orbitals
from pyscf_mlham.errors import DataError
from pyscf_mlham.h0.atoms import superposed_atoms_of
from pyscf_mlham.h0.crystal import coarse_crystal, self_consistent_crystal
from pyscf_mlham.scf.crystal import problem_of

MEV = 27211.386  # of a Hartree


def errors(fock: Any, reference: Any, overlap: Any, filled: int) -> str:
    """Return the mean absolute error of matrix elements, and the largest of occupied bands and the next one, meV."""
    metric = metric_from_overlap(overlap)
    bands = [np.linalg.eigvalsh(orthogonal_from_ao(matrix, metric))[:, : filled + 1] for matrix in (fock, reference)]
    return f"H MAE {MEV * np.abs(fock - reference).mean():8.4f}  bands {MEV * np.abs(bands[0] - bands[1]).max():9.4f}"


def main() -> None:
    """Print a row for each way and one frame of each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--basis", default="gth-szv-molopt-sr")
    parser.add_argument("--smearing", type=float, default=0.002)
    parser.add_argument("--kpts", type=int, nargs=3, default=())
    parser.add_argument("--frame", type=int, default=0)
    parser.add_argument("--model", default="2d-pbe-szv", help="name or folder")
    args = parser.parse_args()
    level = Level("pbe", args.basis, 3, True, 1e-9, "gth-pbe", args.smearing)
    for file in args.files:
        frames = read_geometries(file, crystals=True, kpts=args.kpts)
        geometry = next(islice(frames, args.frame, None))
        if isinstance(geometry, DataError):
            raise geometry
        mf = crystal_mean_field(geometry, level)
        problem = problem_of(mf)
        found = {
            "atoms": superposed_atoms_of(mf, mf.kpts),
            "model": pyscf_mlham.fock(mf, args.model),
            "coarse": coarse_crystal(problem).point.fock,
            "scc": self_consistent_crystal(problem).point.fock,
        }
        minao = mf.get_init_guess(key="minao")
        found = {"minao": mf.get_fock(dm=minao), **found}
        mf.kernel(dm0=minao)
        cycles, reference = {"minao": mf.cycles}, mf.get_fock(dm=mf.make_rdm1())
        for name in list(found)[1:]:
            mf.kernel(dm0=density_from_orbitals(mf, problem.orbitals(found[name])))
            cycles[name] = mf.cycles
        for name, fock in found.items():
            row = errors(fock, reference, problem.overlap, mf.mol.nelectron // 2)
            print(f"{geometry.name:18s} {name:7s} {row} meV, {cycles[name]} cycles", flush=True)


if __name__ == "__main__":
    main()
