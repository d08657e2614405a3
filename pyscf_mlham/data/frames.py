"""Reading of files and collections by ASE, frame by frame; an unreadable frame does not affect the others."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyscf_mlham.state import SPIN_KEYS, stated

COLLECTION = "ase:"  # prefix of a collection's name
XYZ = (".xyz", ".extxyz")
GAUSSIAN = (".com", ".gjf")  # Gaussian input, with charge and multiplicity
COUNT = re.compile(r"\s*\d+\s*")
MOST_BAD_FRAMES = 100  # unreadable frames of a file in another format, before the rest of it is given up
MOST_BAD_AT_FIRST = 3  # the same, if no frame could be read yet
PROPERTIES = "properties="  # in a comment line that describes the columns of its frame, usually with these first:
USUAL = "properties=species:s:1:pos:r:3"
# Charge and spin in a comment line beside the key=value that ASE reads: "charge: -1", "Mult = 2"; and, as in other
# programs, "-1 2" alone.
STATED = re.compile(rf"(?<![\w.])(charge|{'|'.join(SPIN_KEYS)})\s*[:=]\s*([-+]?\d+(?:\.\d*)?)(?![\w.])", re.IGNORECASE)
TWO_NUMBERS = re.compile(r"\s*([-+]?\d+)\s+([1-9]\d*)\s*")
SDF_CHARGES = {"1": 3, "2": 2, "3": 1, "5": -1, "6": -2, "7": -3}  # codes in lines of atoms
SDF_DOUBLET = "4"


class FrameError(ValueError):
    """An error of a frame whose message needs no name of the exception before it."""


def why_unreadable(error: Exception) -> str:
    """Return the reason why a frame or a file cannot be read."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return str(error) if isinstance(error, FrameError) else f"{type(error).__name__}: {error}"


def frames(source: str) -> Iterator[tuple[str, Any]]:
    """Return the name and ASE's atoms of every frame; an exception in place of an unreadable one.

    Args:
        source: file or collection, see `read_geometries`.
    """
    if source.startswith(COLLECTION):
        yield from _collection(source.removeprefix(COLLECTION))
    elif source.lower().endswith((".sdf", ".mol")):
        yield from _sdf_frames(source)
    else:
        found = _xyz_frames(source) if source.lower().endswith(XYZ) else _other_frames(source)
        for atoms in map(_with_state, found):
            yield ("" if isinstance(atoms, Exception) else str(atoms.info.get("name", ""))), atoms


def _with_state(atoms: Any) -> Any:
    """Move charge and spin to atoms.info, by keys in lower case, from all places in which ASE stores them."""
    if isinstance(atoms, Exception):
        return atoms
    try:
        own = stated(atoms.info)
    except ValueError as error:
        return FrameError(str(error))
    parameters = getattr(atoms.calc, "parameters", None) or {}
    atoms.info.update({key: parameters[key] for key in ("charge", "mult") if key in parameters} | own)
    return atoms


def _collection(name: str) -> Iterator[tuple[str, Any]]:
    """Return members of one of ASE's collections: all of them (g2) or some (g2/H2O,CH4)."""
    import ase.collections

    name, _, wanted = name.partition("/")
    collection: Any = getattr(ase.collections, name, None)
    if not hasattr(collection, "names"):
        yield name, FrameError(f"ASE has no collection {name}; expected g2, s22, dcdft or the like")
        return
    for member in wanted.split(",") if wanted else collection.names:
        exists = member in collection.names
        yield f"{name}:{member}", collection[member] if exists else FrameError(f"collection {name} has no {member}")


def _xyz_frames(source: str) -> Iterator[Any]:
    """Return frames of an xyz file, separated by their numbers of atoms before any is read."""
    try:
        lines = Path(source).read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        yield error
        return
    start = 0
    while start < len(lines):
        if not lines[start].strip():
            start += 1
            continue
        end = _end_of_frame(lines, start)
        frame = _xyz_frame(lines[start:end], start + 1)
        yield frame
        if isinstance(frame, Exception):  # its count may be wrong: the next frame starts at a line with only a number
            after = range(start + (2 if COUNT.fullmatch(lines[start]) else 1), len(lines))
            end = next((place for place in after if COUNT.fullmatch(lines[place])), len(lines))
        start = end


def _end_of_frame(lines: list[str], start: int) -> int:
    """Return the end of a frame by its number of atoms, including the lines of cell vectors that may follow it."""
    end = start + 2 + int(lines[start]) if COUNT.fullmatch(lines[start]) else start + 1
    while end < len(lines) and lines[end].lstrip().startswith("VEC"):
        end += 1
    return end


def _xyz_frame(lines: list[str], first: int) -> Any:
    """Read the lines of a frame; `first` is the number of its first line in the file."""
    from ase.io.extxyz import read_xyz

    if not COUNT.fullmatch(lines[0]):
        return FrameError(f"line {first}: expected a number of atoms, found {lines[0].strip()[:40]!r}")
    if len(lines) < 2 + int(lines[0]):
        return FrameError(f"line {first}: expected {int(lines[0])} atoms, but the file ends before")
    try:
        atoms = next(read_xyz(io.StringIO("\n".join(lines) + "\n"), 0))
    except Exception as problem:  # ASE's readers raise errors of all types
        return _wrong_atom(lines, first) or problem
    if (numbers := TWO_NUMBERS.fullmatch(lines[1])) and (int(numbers[1]), int(numbers[2])) != (0, 1):
        advice = f"charge={int(numbers[1])} mult={int(numbers[2])} if that is meant, otherwise a comment with text"
        return FrameError(f"line {first + 1}: two numbers as a comment may be charge and multiplicity; write {advice}")
    present = {str(key).lower() for key in atoms.info}
    atoms.info.update({key: value for key, value in STATED.findall(lines[1]) if key.lower() not in present})
    return atoms


def _wrong_atom(lines: list[str], first: int) -> FrameError | None:
    """Return an error for the first line of an xyz frame that is not an atom; None if all are, or for other columns."""
    from ase.data import atomic_numbers

    if PROPERTIES in (comment := lines[1].lower()) and USUAL not in comment:
        return None
    for place, line in enumerate(lines[2 : 2 + int(lines[0])], first + 2):
        element, x, y, z = [*line.split(), "", "", "", ""][:4]
        try:
            _ = float(x), float(y), float(z)
        except ValueError:
            reason = f"expected an element and three coordinates, found {line.strip()[:40]!r}"
            return FrameError(f"line {place}: {reason}")
        if not (element.isdigit() or element.capitalize() in atomic_numbers):
            return FrameError(f"line {place}: unknown element {element[:40]!r}")
    return None


def _other_frames(source: str) -> list[Any]:
    """Return frames of a file in another format; of one that cannot be read as a whole, those that can be read."""
    from ase.io import read

    how: dict[str, Any] = {"attach_calculator": True} if source.lower().endswith(GAUSSIAN) else {}

    def one(index: int | str) -> Any:
        try:
            return read(source, index=index, **how)
        except Exception as problem:  # ASE's readers raise errors of all types
            return problem

    whole = one(":")
    if not isinstance(whole, Exception) or isinstance(whole, OSError):
        return [whole] if isinstance(whole, OSError) else list(whole)
    found: list[Any] = []
    good = 0
    for frame in map(one, itertools.count()):
        if isinstance(frame, StopIteration | IndexError):
            break
        found.append(frame)
        good += not isinstance(frame, Exception)
        if (bad := len(found) - good) >= (MOST_BAD_FRAMES if good else MOST_BAD_AT_FIRST):
            found.append(FrameError(f"{bad} frames are unreadable already; this one and the later ones were not read"))
            break
    return found if good else [whole]


def _sdf_frames(source: str) -> Iterator[tuple[str, Any]]:
    """Return molecules of an SDF file with charge and multiplicity; ASE reads only the first molecule without these."""
    from ase.io import read

    try:
        text = Path(source).read_text()
    except (OSError, UnicodeDecodeError) as error:
        yield "", error
        return
    for block in re.split(r"^\$\$\$\$.*\n?", text, flags=re.MULTILINE):
        if not block.strip():
            continue
        try:
            atoms: Any = read(io.StringIO(block), format="sdf")
            atoms.info.update(_sdf_state(block.splitlines(), len(atoms)))
        except Exception as error:
            yield "", error
            continue
        yield block.splitlines()[0].strip(), atoms


def _sdf_values(lines: list[str], kind: str) -> list[int]:
    """Return values of atoms from lines of one kind: M  CHG, number, atom, value, atom, value."""
    return [int(value) for line in lines if line.startswith(f"M  {kind}") for value in line.split()[4::2]]


def _sdf_state(lines: list[str], count: int) -> dict[str, int]:
    """Return total charge and multiplicity of an SDF molecule, if given.

    They come from its M CHG and M RAD lines, otherwise from the codes in its lines of atoms. The spins of several
    radical centres are assumed to be parallel.
    """
    if "V3000" in lines[3]:
        raise FrameError("SDF of version V3000; write it as V2000, or as xyz")
    charges, radicals = _sdf_values(lines, "CHG"), _sdf_values(lines, "RAD")
    unpaired = [max(code - 1, 0) for code in radicals]  # 1 is a carbene's singlet, 2 a doublet, 3 a triplet
    if not charges and not radicals:
        codes = [line[36:39].strip() for line in lines[4 : 4 + count]]
        charges = [SDF_CHARGES[code] for code in codes if code in SDF_CHARGES]
        unpaired = [1 for code in codes if code == SDF_DOUBLET]
    state = {"charge": sum(charges)} if charges else {}
    return state | ({"mult": sum(unpaired) + 1} if unpaired else {})
