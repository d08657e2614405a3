"""The molecules of a benchmark: every readable frame of every input, once, by a unique name."""

from __future__ import annotations

import itertools
import re
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyscf_mlham.data.frames import frames, why_unreadable
from pyscf_mlham.data.geometries import Molecule, mult_by_moments, read_geometries
from pyscf_mlham.errors import DataError
from pyscf_mlham.state import SPIN_KEYS

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


def read_paths(source: str, which: str, charge: int, mult: int | None, follow: bool) -> dict[str, list[Any]]:
    """Return ASE's atoms by name of the molecule: a frame to start from, or all frames if they are the trajectory.

    Args:
        source: a file that ASE reads, SDF, or ase:g2/H2O and the like.
        charge: total charge if a frame has none.
        mult: multiplicity if a frame has none; None for the lowest, in collections that of the moments.
        follow: whether the frames are one trajectory.
    """
    chosen, stem = _chosen(source, which), Path(source).stem
    for _, atoms in chosen:
        _set_state(source, atoms, charge, mult)
    if follow:
        return {stem: [atoms for _, atoms in chosen]}
    found: dict[str, list[Any]] = {}
    for index, (label, atoms) in enumerate(chosen):
        name = re.sub(r"[^\w.+-]+", "_", label.strip()).lstrip(".") or f"{stem}-{index}"
        found[f"{name}-{index}" if name in found else name] = [atoms]
    return found


def _slice(which: str) -> slice:
    if not re.fullmatch(r"-?\d+|-?\d*(:-?\d*){1,2}", which):
        raise DataError(f"--frames {which!r}: expected an index or a slice, such as 0 or 0:3.")
    parts = [int(part) if part else None for part in which.split(":")]
    return slice(*parts) if len(parts) > 1 else slice(parts[0], (parts[0] or 0) + 1 or None)


def _chosen(source: str, which: str) -> list[tuple[str, Any]]:
    """Return names and atoms of the chosen frames; the others may be unreadable."""
    part = _slice(which)
    everything = list(enumerate(frames(source)))
    if len(everything) == 1 and isinstance(error := everything[0][1][1], Exception):  # of the file, most likely
        raise DataError(f"{source}: cannot be read ({why_unreadable(error)}).")
    if not (chosen := everything[part]):
        raise DataError(f"{source} has {len(everything)} frames, and --frames {which} is not among them.")
    for index, (_, atoms) in chosen:
        if isinstance(atoms, Exception):
            raise DataError(
                f"{source}, frame {index}: cannot be read ({why_unreadable(atoms)}); correct it, or choose others by "
                "--frames."
            )
    return [frame for _, frame in chosen]


def _set_state(source: str, atoms: Any, charge: int, mult: int | None) -> None:
    """Set charge and multiplicity of a frame if it has none."""
    info = atoms.info
    if charge:
        info.setdefault("charge", charge)
    own = mult_by_moments(source, atoms, charge) if mult is None else mult
    if own is not None and not info.keys() & set(SPIN_KEYS):
        info["mult"] = own
    atoms.set_initial_magnetic_moments(None)  # moments of files are often results of another program
