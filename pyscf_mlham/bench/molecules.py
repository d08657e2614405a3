"""The molecules of a benchmark: every readable frame of every input, once, by a unique name."""

from __future__ import annotations

import itertools
import re
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyscf_mlham.data.geometries import Molecule, frames, geometries_of, read_geometries
from pyscf_mlham.errors import DataError

Paths = dict[str, list[Any]]  # for each molecule a frame to start from, or all frames if they are the trajectory
NUMBERED = re.compile(r" \(\d+\)$")


class Input(NamedTuple):
    """Content of the input files."""

    molecules: list[Molecule]  # molecules in order, each geometry once
    bad: list[str]  # messages about unusable input
    duplicates: list[str]  # messages about geometries that occur twice


def read_molecules(sources: Sequence[str], charge: int = 0, mult: int | None = None, which: str = ":") -> Input:
    """Read frames (an index or a slice) of all inputs, files or ase:g2/H2O,CH4 and the like; see `read_geometries`."""
    names: set[str] = set()
    seen: dict[str, str] = {}
    found = Input([], [], [])
    for source in sources:
        for molecule in list(read_geometries(source, charge, mult))[_slice(which)]:
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
    """Return a unique name: the name itself, or with (2), (3) and so on."""
    plain = NUMBERED.sub("", name)
    others = (f"{plain} ({count})" for count in itertools.count(2))
    return next(n for n in itertools.chain([name], others) if n not in taken)


def read_paths(source: str, which: str, charge: int, mult: int | None, follow: bool) -> tuple[Paths, list[str]]:
    """Return ASE's atoms by name of the molecule, and messages about unusable frames.

    Args:
        mult: multiplicity if a frame has none; None for the lowest, in collections that of the moments.
        follow: whether the frames are one trajectory, not frames to start from.
    """
    part, found = _slice(which), list(frames(source))
    for _, atoms in found:
        if not isinstance(atoms, Exception):
            atoms.pbc = False  # the box of a molecule
    read = list(geometries_of(found, source, charge, mult, default_mult=None))
    chosen = list(zip(read, found, strict=False))[part]
    if not chosen:
        few = DataError(f"{source} has {len(read)} frames, and --frames {which} is not among them.")
        raise read[0] if isinstance(read[0], DataError) else few  # of the file, most likely
    bad = [str(frame) for frame, _ in chosen if isinstance(frame, DataError)]
    good = [(frame, atoms) for frame, (_, atoms) in chosen if isinstance(frame, Molecule)]
    if bad and (follow or not good):
        raise DataError(bad[0])
    for molecule, atoms in good:
        atoms.info = {"charge": molecule.charge, "mult": molecule.spin + 1}
    if follow:
        _check_same([molecule for molecule, _ in good])
        return {Path(source).stem: [atoms for _, atoms in good]}, []
    paths: Paths = {}
    for molecule, atoms in good:
        paths[free_name(molecule.name, paths)] = [atoms]
    return paths, bad


def _slice(which: str) -> slice:
    if not re.fullmatch(r"-?\d+|-?\d*(:-?\d*){1,2}", which):
        raise DataError(f"--frames {which!r}: expected an index or a slice, such as 0 or 0:3.")
    parts = [int(part) if part else None for part in which.split(":")]
    return slice(*parts) if len(parts) > 1 else slice(parts[0], (parts[0] or 0) + 1 or None)


def _check_same(frames: Sequence[Molecule]) -> None:
    """Raise DataError if the frames of --follow are not of one molecule in one state."""
    first = frames[0]
    for place, frame in enumerate(frames):
        if not np.array_equal(frame.numbers, first.numbers):
            raise DataError(f"{frame.source}: --follow needs frames of the same atoms in the same order.")
        if (frame.charge, frame.spin) != (first.charge, first.spin):
            raise DataError(
                f"{frame.source}: frame {place} has charge {frame.charge} and multiplicity {frame.spin + 1}, the first "
                f"one {first.charge} and {first.spin + 1}; --follow needs frames of one charge and multiplicity."
            )
