"""Bands of a model against SCF for a frame or a supercell of it, at the k points of the SCF, and the time of both.

python examples/crystal_bands.py FRAMES.xyz --frame 4 --kpts 2 2 1 --supercell 3 3 1 --rattle 0.03

The time of the SCF is that of PySCF with its default guess, and without its integrals. Atoms of a supercell are
displaced at random.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from pyscf.pbc import dft, tools

import pyscf_mlham
from pyscf_mlham.data.geometries import read_geometries
from pyscf_mlham.data.label import crystal_mean_field
from pyscf_mlham.data.record import Level
from pyscf_mlham.density import orbitals_from_fock
from pyscf_mlham.errors import DataError
from pyscf_mlham.h0.atoms import superposed_atoms_of

MEV = 27211.386  # of a Hartree
EDGES = (-0.2, 0.2)  # bands around the Fermi level, Hartree


def mean_field(args: argparse.Namespace) -> Any:
    """Return the KRKS object of a frame's supercell."""
    frames = read_geometries(args.file, crystals=True, kpts=args.kpts)
    geometry = next(islice(frames, args.frame, None))
    if isinstance(geometry, DataError):
        raise geometry
    mf = crystal_mean_field(geometry, Level("pbe", args.basis, 3, True, args.conv_tol, "gth-pbe", args.smearing))
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
    parser.add_argument("--model", default="2d-pbe-szv", help="name or folder")
    parser.add_argument("--basis", default="gth-szv-molopt-sr")
    parser.add_argument("--smearing", type=float, default=0.002, help="Hartree")
    parser.add_argument("--conv-tol", type=float, default=1e-8, help="Hartree")
    parser.add_argument("--kpts", type=int, nargs=3, required=True)
    parser.add_argument("--frame", type=int, default=0)
    parser.add_argument("--supercell", type=int, nargs=3, default=[1, 1, 1])
    parser.add_argument("--rattle", type=float, default=0.03, help="displacement of atoms of a supercell, Angstrom")
    parser.add_argument("--plot", help="picture of the bands of a hexagonal layer along M-Gamma-K-M, PNG")
    args = parser.parse_args()
    mf = mean_field(args)
    one = pyscf_mlham.OneShot(mf, args.model)
    seconds = {}
    seconds["H0"], h0 = timed(lambda: superposed_atoms_of(mf, mf.kpts))
    seconds["model"], _ = timed(one.run)
    bands = {"H0": orbitals_from_fock(mf, h0).energy, "model": one.mo_energy}
    integrals, _ = timed(lambda: mf.with_df.build(j_only=True))
    seconds_of_core, core = timed(mf.get_hcore)
    integrals += seconds_of_core
    mf.get_hcore = lambda _cell=None, kpts=None: core if kpts is None else type(mf).get_hcore(mf, None, kpts)
    seconds["SCF"], _ = timed(mf.run)
    print(f"{mf.mol.natm} atoms, {mf.mol.nao} orbitals, {len(mf.kpts)} k points; SCF: {mf.cycles} cycles")
    for way, found in bands.items():
        row = errors(found, mf.mo_energy, mf.mol.nelectron // 2)
        in_all, alone = (seconds[way] / (seconds["SCF"] + other) for other in (integrals, 0.0))
        print(f"{way:6s} {row}; time {in_all:.3f} of that of integrals and SCF, {alone:.3f} of the SCF's alone")
    if args.plot:
        draw(one, mf, args.plot)


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Return processor seconds, and what an action returns."""
    start = time.process_time()
    result = action()
    return time.process_time() - start, result


def draw(one: Any, mf: Any, path: str) -> None:
    """Draw the bands of both, from the Fermi level, which is that of each, eV."""
    corners = np.array([[0.5, 0, 0], [0, 0, 0], [1 / 3, 1 / 3, 0], [0.5, 0, 0]])
    scaled = np.concatenate(
        [np.linspace(a, b, 16, endpoint=False) for a, b in itertools.pairwise(corners)] + [corners[-1:]]
    )
    points = mf.mol.get_abs_kpts(scaled)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for each, color, width, label in ((mf, "0.7", 3.0, "SCF"), (one, "#2563eb", 1.0, "model")):
        energies = MEV / 1000 * (np.array(each.get_bands(points)[0]) - each.get_fermi())
        lines = axes.plot(along, energies, color=color, linewidth=width)
        lines[0].set_label(label)
    for place in along[::16]:
        axes.axvline(place, color="0.9", zorder=0)
    axes.set_xticks(along[::16], ["M", "Γ", "K", "M"])
    axes.set_ylabel("E - E(Fermi) / eV")
    axes.set_ylim(-22, 12)
    axes.legend(loc="upper right")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
