"""Geometry files of this model's training molecules: closed shells of public sets, radicals and triplets made of them.

    python molecules.py folder-with-xyz-files out/

reads ions_train.xyz, elements_train.xyz, small_train.xyz, dimers_train.xyz and unlabelled.xyz (comment lines with
name=, charge= and mult=), and writes out/in_<size>_<part>.xyz, 300 molecules each, shuffled, by the number of orbitals.
Each is then labelled by `mlham data generate in_0_00.xyz -o set_0_00.h5 --solver coarse`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read, write

SETS = ("ions_train", "elements_train", "small_train", "dimers_train", "unlabelled")
PARENTS = ("unlabelled", "small_train", "elements_train")  # of the radicals and triplets
RADICALS = 2600
TRIPLETS = 200
LARGEST_PARENT = 150  # orbitals
SIZES = ((0, 110), (110, 140), (140, 170), (170, 200))  # orbitals
PART = 300
SEED = 7


def orbitals(atoms: Atoms) -> int:
    """Estimate the number of def2-SVP orbitals."""
    steps = ((2, 5), (4, 9), (10, 14), (18, 18), (20, 23), (30, 31), (86, 32))
    return sum(next(n for last, n in steps if z <= last) for z in atoms.numbers)


def radical(atoms: Atoms, rng: np.random.Generator) -> Atoms | None:
    """Remove a hydrogen atom or an electron, or add an electron; None if no doublet comes of it."""
    made, kind = atoms.copy(), rng.choice(["H", "cation", "anion"], p=[0.6, 0.2, 0.2])
    charge = int(atoms.info.get("charge", 0))
    hydrogens = np.flatnonzero(atoms.numbers == 1)
    if kind == "H" and len(hydrogens) and len(atoms) > 2:
        del made[int(rng.choice(hydrogens))]
    else:
        charge += 1 if kind == "cation" else -1
    made.info = {"name": f"{atoms.info.get('name', 'molecule')}_{kind}", "charge": charge, "mult": 2}
    return made if (made.numbers.sum() - charge) % 2 else None


def triplet(atoms: Atoms) -> Atoms:
    """Return the molecule with two unpaired electrons."""
    made = atoms.copy()
    made.info = {"name": atoms.info.get("name", "molecule"), "charge": int(atoms.info.get("charge", 0)), "mult": 3}
    return made


def main(source: Path, target: Path) -> None:
    """Read the sets, make radicals, and write everything in parts."""
    rng = np.random.default_rng(SEED)
    sets = {name: read(source / f"{name}.xyz", ":") for name in SETS}
    parents = [atoms for name in PARENTS for atoms in sets[name] if orbitals(atoms) <= LARGEST_PARENT]
    order = rng.permutation(len(parents))
    drawn, excited = order[:RADICALS], order[RADICALS : RADICALS + TRIPLETS]
    sets["radicals"] = [made for i in drawn if (made := radical(parents[i], rng)) is not None]
    sets["triplets"] = [triplet(parents[i]) for i in excited]
    molecules = []
    for name, frames in sets.items():
        for number, atoms in enumerate(frames):
            info = atoms.info
            plain = Atoms(atoms.numbers, atoms.positions)
            label = f"{name}:{info.get('name', number)}"
            plain.info = {"name": label, "charge": int(info.get("charge", 0)), "mult": int(info.get("mult", 1))}
            molecules.append(plain)
    target.mkdir(parents=True, exist_ok=True)
    for size, (low, high) in enumerate(SIZES):
        chosen = [atoms for atoms in molecules if low < orbitals(atoms) <= high]
        order = rng.permutation(len(chosen))
        for start in range(0, len(order), PART):
            part = [chosen[i] for i in order[start : start + PART]]
            write(target / f"in_{size}_{start // PART:02d}.xyz", part, format="extxyz")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
