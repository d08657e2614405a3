"""Water and a quick calculator for it."""

from __future__ import annotations

from typing import Any

from ase import Atoms

from pyscf_mlham.ase import MLHam
from support.molecules import mole


def water(**info: Any) -> Atoms:
    atoms = Atoms("OH2", [(0, 0, 0.13), (0, 0.76, -0.47), (0.1, -0.8, -0.5)])
    atoms.info.update(info)
    return atoms


def quick(**parameters: Any) -> MLHam:
    return MLHam(**{"xc": "hf", "basis": "sto-3g", "guess": "minao", **parameters})


def plain_energy(atoms: Atoms) -> float:
    mol = mole(list(zip(atoms.symbols, atoms.positions, strict=True)), basis="sto-3g")
    return float(mol.RHF().kernel())


def energy_of(atoms: Atoms) -> tuple[float, int]:
    return float(atoms.get_potential_energy()), len(atoms.calc.report().steps)
