"""The molecules of a benchmark: every readable frame of every input, once, under a name of its own."""

from __future__ import annotations

import itertools
import re
from collections.abc import Container, Sequence
from typing import NamedTuple

from pyscf_mlham.data.geometries import Molecule, read_geometries
from pyscf_mlham.errors import DataError

NUMBERED = re.compile(r" \(\d+\)$")


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


def read_molecules(sources: Sequence[str], charge: int = 0, mult: int | None = None) -> Input:
    """Read all frames of all inputs.

    Args:
        sources: files that ASE reads, ase:g2 and the like, ase:g2/H2O,CH4 for some of a collection.
        charge: where a frame has none of its own.
        mult: multiplicity, where a frame has none of its own; None as in `read_geometries`.
    """
    names: set[str] = set()
    seen: dict[str, str] = {}
    found = Input([], [], [])
    for source in sources:
        for molecule in read_geometries(source, charge, mult):
            if isinstance(molecule, DataError):
                found.bad.append(str(molecule))
            elif molecule.key in seen:
                found.duplicates.append(f"{molecule.name} is the same geometry as {seen[molecule.key]}")
            else:
                name = free_name(molecule.name, names)
                names.add(name)
                seen[molecule.key] = name
                found.molecules.append(molecule._replace(name=name))
    return found


def free_name(name: str, taken: Container[str]) -> str:
    """Return a name that nothing else has: itself, or itself (2), (3) and so on.

    Args:
        name: wanted.
        taken: by others.
    """
    plain = NUMBERED.sub("", name)
    others = (f"{plain} ({count})" for count in itertools.count(2))
    return next(n for n in itertools.chain([name], others) if n not in taken)
