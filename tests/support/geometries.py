"""Geometry files for `mlham data generate`."""

from __future__ import annotations

from pathlib import Path

from ase.build import molecule
from ase.io import write

FLAGS = ["--xc", "hf", "--basis", "sto-3g"]


def geometries(path: Path, names: tuple[str, ...] = ("H2O", "NH3", "CH4", "HCN"), copies: int = 1) -> Path:
    frames = []
    for copy in range(copies):
        for name in names:
            atoms = molecule(name)
            atoms.rattle(0.02, seed=copy)
            atoms.info = {"name": f"{name}{copy}"}
            frames.append(atoms)
    write(path, frames)
    return path
