"""Small benchmarks that several tests read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule

from pyscf_mlham import cli
from pyscf_mlham.bench.measure import Row, Task, measure
from pyscf_mlham.bench.protocol import Protocol, guess_from_text
from pyscf_mlham.data.geometries import Molecule

HF = Protocol(xc="hf", basis="sto-3g")
SMALL = ["--xc", "hf", "--basis", "sto-3g", "--quiet"]
QUICKLY = ["--xc", "hf", "--basis", "sto-3g", "--strategy", "history,scanner"]


def benchmarked(path: Path) -> Path:
    """Run it through the command line, two processes, two repetitions.

    Args:
        path: of the folder.
    """
    command = ["bench", "ase:g2/H2O,HCN", "--guess", "minao,huckel,oracle", "--repeat", "2", "-j", "2", *SMALL]
    assert cli.main([*command, "--report", str(path)]) == 0
    return path


def water(charge: int = 0, spin: int = 0, name: str = "water") -> Molecule:
    """Water, by whatever name, charge and spin."""
    atoms = molecule("H2O")
    return Molecule(name, name, "", atoms.numbers.astype(np.int64), atoms.positions / 0.529177210903, charge, spin)


def bent_water() -> Atoms:
    """Water without symmetry."""
    return Atoms("OH2", [(0, 0, 0.13), (0, 0.76, -0.47), (0.1, -0.8, -0.5)])


def run_one(guess: str, solver: str = "scf", protocol: Protocol = HF, geometry: Molecule | None = None) -> Row:
    """One run in this process."""
    return measure(Task(geometry or water(), guess_from_text(guess), solver, 0, protocol))
