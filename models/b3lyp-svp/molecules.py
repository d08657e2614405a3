"""Geometry files of this model's training molecules: closed shells of public sets, and what is made of them.

    python molecules.py folder-with-xyz-files out/

reads ions_train.xyz, elements_train.xyz, small_train.xyz, dimers_train.xyz and unlabelled.xyz (comment lines with
name=, charge= and mult=), and writes out/in_<size>_<part>.xyz, 300 molecules each, shuffled, by the number of orbitals,
and out/in_m_<part>.xyz: radicals, ions, triplets and complexes of dications made of the smaller ones.
Each is then labelled by `mlham data generate in_0_00.xyz -o set_0_00.h5 --solver coarse`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.io import read, write

SETS = ("ions_train", "elements_train", "small_train", "dimers_train", "unlabelled")
PARENTS = ("unlabelled", "small_train", "elements_train")  # of the radicals and triplets
RADICALS = 2600
TRIPLETS = 200
LARGEST_PARENT = 150  # orbitals
SIZES = ((0, 110), (110, 140), (140, 170), (170, 200))  # orbitals
PART = 300
SEED = 7

LARGEST_SMALL = 110  # orbitals of the parents of the files in_m
MORE_RADICALS, ANIONS, CATIONS, MORE_TRIPLETS = 1000, 900, 500, 450
COMPLEXES = 150  # of each dication, and of each number of ligands, one or several
DICATIONS = ("Mg", "Ca", "Zn")
DONORS = ("N", "O", "S")
LARGEST_LIGAND = 50  # orbitals, if there are several
CLOSEST = 1.6  # Angstrom, between atoms of ligands, or the metal and atoms that are not donors
TETRAHEDRON = np.array([[1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]) / np.sqrt(3)


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


def ion(atoms: Atoms, charge: int, rng: np.random.Generator) -> Atoms | None:
    """Remove a proton (charge -1) or a hydride ion (+1); None without hydrogen, or of two atoms and fewer."""
    hydrogens = np.flatnonzero(atoms.numbers == 1)
    if not len(hydrogens) or len(atoms) < 3:
        return None
    made = atoms.copy()
    del made[int(rng.choice(hydrogens))]
    total = int(atoms.info.get("charge", 0)) + charge
    made.info = {"name": f"{atoms.info.get('name', 'molecule')}_{charge:+d}", "charge": total, "mult": 1}
    return made


def complex_of(metal: str, atoms: Atoms, ligands: int, rng: np.random.Generator) -> Atoms | None:
    """Place copies of a neutral molecule, donor atoms first, around a dication; None if they come too close."""
    donors = [i for i, symbol in enumerate(atoms.symbols) if symbol in DONORS]
    if not donors or atoms.info.get("charge", 0):
        return None
    donor, made = int(rng.choice(donors)), Atoms(metal, [[0.0, 0.0, 0.0]])
    bonds = covalent_radii[atoms.numbers] + covalent_radii[atoms.numbers[donor]]
    near = np.flatnonzero(atoms.get_distances(donor, range(len(atoms))) < 1.25 * bonds)
    outward = len(near) * atoms.positions[donor] - atoms.positions[near].sum(axis=0)
    outward += 0.3 * rng.normal(size=3)
    length = rng.uniform(0.97, 1.15) * (covalent_radii[made.numbers[0]] + covalent_radii[atoms.numbers[donor]])
    for direction in TETRAHEDRON[:ligands]:
        copy = atoms.copy()
        copy.translate(-copy.positions[donor])
        copy.rotate(outward, -direction)
        copy.rotate(rng.uniform(0, 360), direction)
        copy.translate(length * direction)
        distances = np.linalg.norm(copy.positions[:, None] - made.positions, axis=2)
        distances[donor, 0] = np.inf
        if distances.min() < CLOSEST:
            return None
        made += copy
    made.info = {"name": f"{metal}_{ligands}_{atoms.info.get('name', 'molecule')}", "charge": 2, "mult": 1}
    return made


def made_of_small(parents: list[Atoms], rng: np.random.Generator) -> dict[str, list[Atoms]]:
    """Make radicals, ions, triplets and complexes of small parents."""
    small = [atoms for atoms in parents if orbitals(atoms) <= LARGEST_SMALL]
    ligands = [atoms for atoms in small if orbitals(atoms) <= LARGEST_LIGAND]

    def some(number: int) -> list[Atoms]:
        return [small[i] for i in rng.permutation(len(small))[:number]]

    complexes = []
    for metal in DICATIONS:
        complexes += [complex_of(metal, atoms, 1, rng) for atoms in some(COMPLEXES)]
        for _ in range(COMPLEXES):
            complexes.append(complex_of(metal, ligands[rng.integers(len(ligands))], int(rng.integers(2, 5)), rng))
    made = {
        "radicals": [radical(atoms, rng) for atoms in some(MORE_RADICALS)],
        "anions": [ion(atoms, -1, rng) for atoms in some(ANIONS)],
        "cations": [ion(atoms, 1, rng) for atoms in some(CATIONS)],
        "triplets": [triplet(atoms) for atoms in some(MORE_TRIPLETS)],
        "complexes": complexes,
    }
    return {kind: [atoms for atoms in molecules if atoms is not None] for kind, molecules in made.items()}


def labelled(sets: dict[str, list[Atoms]]) -> list[Atoms]:
    """Return the molecules of all sets, named after their set, with charge and multiplicity only."""
    molecules = []
    for name, frames in sets.items():
        for number, atoms in enumerate(frames):
            info = atoms.info
            plain = Atoms(atoms.numbers, atoms.positions)
            label = f"{name}:{info.get('name', number)}"
            plain.info = {"name": label, "charge": int(info.get("charge", 0)), "mult": int(info.get("mult", 1))}
            molecules.append(plain)
    return molecules


def key(atoms: Atoms) -> tuple[bytes, int, int]:
    """Return a key of the geometry, the charge and the multiplicity."""
    return atoms.positions.tobytes(), atoms.info["charge"], atoms.info["mult"]


def write_parts(molecules: list[Atoms], target: Path, size: str, rng: np.random.Generator) -> None:
    """Write shuffled molecules in files of `PART` each."""
    order = rng.permutation(len(molecules))
    for start in range(0, len(order), PART):
        part = [molecules[i] for i in order[start : start + PART]]
        write(target / f"in_{size}_{start // PART:02d}.xyz", part, format="extxyz")


def main(source: Path, target: Path) -> None:
    """Read the sets, make radicals, and write everything in parts."""
    rng = np.random.default_rng(SEED)
    sets = {name: read(source / f"{name}.xyz", ":") for name in SETS}
    parents = [atoms for name in PARENTS for atoms in sets[name] if orbitals(atoms) <= LARGEST_PARENT]
    order = rng.permutation(len(parents))
    drawn, excited = order[:RADICALS], order[RADICALS : RADICALS + TRIPLETS]
    sets["radicals"] = [made for i in drawn if (made := radical(parents[i], rng)) is not None]
    sets["triplets"] = [triplet(parents[i]) for i in excited]
    molecules = labelled(sets)
    target.mkdir(parents=True, exist_ok=True)
    for size, (low, high) in enumerate(SIZES):
        write_parts([atoms for atoms in molecules if low < orbitals(atoms) <= high], target, str(size), rng)
    known = {key(atoms) for atoms in molecules}
    more = {key(atoms): atoms for atoms in labelled(made_of_small(parents, rng))}
    write_parts([atoms for name, atoms in more.items() if name not in known], target, "m", rng)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
