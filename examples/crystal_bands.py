"""Bands of a model against SCF for a frame or a supercell of it, and the processor time of both.

python examples/crystal_bands.py FRAMES.xyz --frame 4 --kpts 2 2 1 --supercell 3 3 1 --rattle 0.03

Core Hamiltonian and fitted integrals, which both need, are computed once. Atoms of a supercell are displaced at random.
"""

from __future__ import annotations

import argparse
import time
from itertools import islice
from typing import Any

import numpy as np
from pyscf.pbc import dft, tools

import pyscf_mlham
from pyscf_mlham.data.geometries import read_geometries
from pyscf_mlham.data.label import crystal_mean_field
from pyscf_mlham.data.schema import Level
from pyscf_mlham.errors import DataError
from pyscf_mlham.h0.crystal import coarse_crystal
from pyscf_mlham.scf.crystal import problem_of

MEV = 27211.386  # of a Hartree
EDGES = (-0.2, 0.2)  # bands around the Fermi level, Hartree


def mean_field(args: argparse.Namespace) -> Any:
    """Return the KRKS object of a frame's supercell."""
    frames = read_geometries(args.file, crystals=True, kpts=args.kpts)
    geometry = next(islice(frames, args.frame, None))
    if isinstance(geometry, DataError):
        raise geometry
    mf = crystal_mean_field(geometry, Level("pbe", args.basis, 0, True, args.conv_tol, "gth-pbe", args.smearing))
    if args.supercell == [1, 1, 1]:
        return mf
    cell = tools.super_cell(mf.mol, args.supercell)
    shifts = np.random.default_rng(0).normal(scale=args.rattle / np.sqrt(3), size=(cell.natm, 3))
    cell.set_geom_(cell.atom_coords() * 0.529177210903 + shifts, unit="Angstrom")
    mf = dft.KRKS(cell, cell.make_kpts(args.kpts), xc="pbe").density_fit()
    return (mf.smearing(args.smearing) if args.smearing else mf).set(conv_tol=args.conv_tol)


def errors(found: Any, reference: Any, filled: int) -> str:
    """Return mean and largest error of occupied bands and the next one, and the largest near the Fermi level."""
    found, reference = (np.array(bands) * MEV for bands in (found, reference))
    wrong = np.abs(found - reference)[:, : filled + 1]
    fermi = reference[:, filled - 1 : filled + 1].mean()
    low, high = (fermi + MEV * edge for edge in EDGES)
    near = np.abs(found - reference)[(reference > low) & (reference < high)]
    return f"bands: mean {wrong.mean():6.2f} largest {wrong.max():6.2f} near the Fermi level {near.max():6.2f} meV"


def main() -> None:
    """Print errors and times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--model", default="examples/2d-pbe-szv", help="name or folder")
    parser.add_argument("--basis", default="gth-szv-molopt-sr")
    parser.add_argument("--smearing", type=float, default=0.002, help="Hartree")
    parser.add_argument("--conv-tol", type=float, default=1e-8, help="Hartree")
    parser.add_argument("--kpts", type=int, nargs=3, required=True)
    parser.add_argument("--frame", type=int, default=0)
    parser.add_argument("--supercell", type=int, nargs=3, default=[1, 1, 1])
    parser.add_argument("--rattle", type=float, default=0.03, help="displacement of atoms of a supercell, Angstrom")
    args = parser.parse_args()
    mf = mean_field(args)
    start = time.process_time()
    mf.with_df.build(j_only=True)
    core = mf.get_hcore()
    mf.get_hcore = lambda *_: core
    needed = time.process_time() - start
    print(f"{mf.mol.natm} atoms, {mf.mol.nao} orbitals, {len(mf.kpts)} k points: both need {needed:.1f} s", flush=True)
    seconds, bands = {}, {}
    for way in ("H0", "model", "SCF"):
        start = time.process_time()
        if way == "H0":
            problem = problem_of(mf)
            bands[way] = problem.orbitals(coarse_crystal(problem).point.fock).energy
        else:
            bands[way] = (pyscf_mlham.OneShot(mf, args.model) if way == "model" else mf).run().mo_energy
        seconds[way] = time.process_time() - start
    for way, found in bands.items():
        own, in_all = seconds[way] / seconds["SCF"], (needed + seconds[way]) / (needed + seconds["SCF"])
        row = errors(found, bands["SCF"], mf.mol.nelectron // 2)
        print(f"{way:6s} {row}  {seconds[way]:6.1f} s, {own:.3f} of the SCF's, {in_all:.2f} in all")
    print(f"SCF: {mf.cycles} cycles, converged {mf.converged}")


if __name__ == "__main__":
    main()
