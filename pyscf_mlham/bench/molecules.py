"""The molecules of a benchmark: every readable frame of every input, once, under a name of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pyscf_mlham.data.geometries import Molecule, read_geometries
from pyscf_mlham.errors import DataError


class Input(NamedTuple):
    """What was found in the files.

    Attributes:
        molecules: in order, each geometry once.
        bad: what cannot be used, in words.
        duplicates: what was there twice, in words.
    """

    molecules: list[Molecule]
    bad: list[str]
    duplicates: list[str]


def read_molecules(sources: Sequence[str], charge: int = 0, mult: int = 1) -> Input:
    """Read all frames of all inputs.

    Args:
        sources: files that ASE reads, ase:g2 and the like, ase:g2/H2O,CH4 for some of a collection.
        charge: where a frame has none of its own.
        mult: multiplicity, where a frame has none of its own.
    """
    names: Counter[str] = Counter()
    seen: dict[str, str] = {}
    found = Input([], [], [])
    for source in sources:
        for molecule in read_geometries(source, charge, mult - 1):
            if isinstance(molecule, DataError):
                found.bad.append(str(molecule))
            elif molecule.key in seen:
                found.duplicates.append(f"{molecule.name} is the same geometry as {seen[molecule.key]}")
            else:
                names[molecule.name] += 1
                if names[molecule.name] > 1:
                    molecule = molecule._replace(name=f"{molecule.name} ({names[molecule.name]})")
                seen[molecule.key] = molecule.name
                found.molecules.append(molecule)
    return found
