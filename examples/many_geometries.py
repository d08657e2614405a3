"""Full Fock builds of lists of geometries: PySCF's scanner against track() and track(accelerate()).

python examples/many_geometries.py --out out/many
python examples/many_geometries.py --tasks scan neb --xc b3lyp --grid 0

The geometries come from plain HF/STO-3G, so that all ways compute the same ones in the same order.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.mep import NEB
from ase.optimize import BFGS
from ase.units import Bohr
from ase.vibrations import Vibrations
from pyscf import gto
from rich.console import Console

import pyscf_mlham
from pyscf_mlham.ase import MLHam
from pyscf_mlham.scf.counting import counting_fock_builds

PEROXIDE = Atoms("OOHH", [(0, 0, 0.72), (0, 0, -0.72), (0.94, 0, 0.98), (-0.4, 0.85, -0.98)])
FORMALDEHYDE = Atoms("COHH", [(0, 0, -0.53), (0, 0, 0.68), (0, 0.94, -1.11), (0, -0.94, -1.11)])
ETHANOL = Atoms(
    "CCOHHHHHH",
    [
        (1.17, -0.41, 0), (0, 0.56, 0), (-1.19, -0.2, 0), (-1.95, 0.38, 0), (2.12, 0.13, 0), (1.13, -1.05, 0.89),
        (1.13, -1.05, -0.89), (0.05, 1.2, 0.89), (0.05, 1.2, -0.89),
    ],
)  # fmt: skip


def calculator() -> MLHam:
    """Return the cheap calculator that makes the geometries."""
    return MLHam(xc="hf", basis="sto-3g", guess="minao", history=None)


def scan() -> list[Atoms]:
    """Return hydrogen peroxide at thirteen dihedral angles."""
    frames = [PEROXIDE.copy() for _ in range(13)]
    for k, atoms in enumerate(frames):
        atoms.set_dihedral(2, 0, 1, 3, 15 * k, indices=[3])
    return frames


def frequencies() -> list[Atoms]:
    """Return formaldehyde and its displacements for finite differences."""
    return [atoms.copy() for _, atoms in Vibrations(FORMALDEHYDE, name="unused").iterdisplace()]


def neb() -> list[Atoms]:
    """Return the images of eight iterations of a band from HCN to HNC, in the order of their computation."""
    ends = [Atoms("HCN", [(0, 0, z), (0, 0, 0), (0, 0, 1.15)]) for z in (-1.07, 2.15)]
    shared, frames = calculator(), []
    images = [ends[0], *(ends[0].copy() for _ in range(5)), ends[1]]
    for k, image in enumerate(images[1:-1], start=1):
        angle = np.pi * k / 6
        image.positions[0] = [1.5 * np.sin(angle), 0, 0.55 - 1.62 * np.cos(angle)]
    for image in images:
        image.calc = shared
    band: Any = NEB(images, allow_shared_calculator=True, method="improvedtangent")
    for _ in BFGS(band, logfile=None).irun(fmax=0.0, steps=7):
        frames += [image.copy() for image in images[1:-1]]
    return frames


def irc() -> list[Atoms]:
    """Return steps downhill from near the saddle point of HCN and HNC, first to the one side, then to the other."""
    frames = []
    for sign in (1, -1):
        atoms = Atoms("HCN", [(1.18, 0, 0.48 + 0.1 * sign), (0, 0, 0), (0, 0, 1.19)])
        atoms.calc = calculator()
        for _ in range(12):
            frames.append(atoms.copy())
            step = atoms.get_forces() / atoms.get_masses()[:, None]
            atoms.positions += 0.08 * step / np.linalg.norm(step)
    return frames


def conformers() -> list[Atoms]:
    """Return rotamers of ethanol, a little distorted, in random order."""
    frames = []
    for k in range(12):
        atoms = ETHANOL.copy()
        atoms.set_dihedral(0, 1, 2, 3, 60 * (k % 6), indices=[3])
        atoms.rattle(0.02, seed=k)
        frames.append(atoms)
    return [frames[k] for k in np.random.default_rng(0).permutation(12)]


TASKS: dict[str, Callable[[], list[Atoms]]] = {
    "scan": scan, "frequencies": frequencies, "neb": neb, "irc": irc, "conformers": conformers,
}  # fmt: skip
WAYS: dict[str, Callable[[Any], Any]] = {
    "scanner": lambda mf: mf,
    "track": pyscf_mlham.track,
    "track, accelerate": lambda mf: pyscf_mlham.track(pyscf_mlham.accelerate(mf)),
}


def counted(frames: list[Atoms], way: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return full builds and energies (Hartree) of all geometries."""

    def molecule(atoms: Atoms) -> gto.Mole:
        places = list(zip(atoms.symbols, atoms.positions / Bohr, strict=True))
        return gto.M(atom=places, unit="Bohr", basis=args.basis, verbose=0)

    mol = molecule(frames[0])
    mf = mol.RHF() if args.xc == "hf" else mol.RKS(xc=args.xc)
    if args.xc != "hf":
        mf.grids.level = args.grid
    scanner = WAYS[way](mf.density_fit()).as_scanner()
    builds, energies = [], []
    for atoms in frames:
        with counting_fock_builds(scanner) as counter:
            energies.append(float(scanner(molecule(atoms))))
        if not scanner.converged:
            raise RuntimeError(f"{way}: not converged")
        builds.append(counter.builds)
    return {"builds": builds, "energies": energies}


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--xc", default="hf")
    parser.add_argument("--basis", default="def2-svp")
    parser.add_argument("--grid", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/many"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for task in args.tasks:
        frames, energies = TASKS[task](), {}
        for way in WAYS:
            path = args.out / f"{task} {way} {args.xc} {args.basis}.json"
            if not path.exists():
                path.write_text(json.dumps(counted(frames, way, args)))
            found = json.loads(path.read_text())
            builds, energies[way] = found["builds"], np.array(found["energies"])
            difference = np.abs(energies[way] - energies["scanner"]).max()
            Console().print(
                f"{task:12s} {way:18s} {len(builds):3d} geometries  {np.mean(builds[1:]):5.2f} full builds each  "
                f"largest difference of energies {difference:.0e} Hartree",
                highlight=False, soft_wrap=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
