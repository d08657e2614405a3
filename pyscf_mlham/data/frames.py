"""What ASE reads of a file or a collection, frame by frame; a frame that it cannot read costs no other one."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyscf_mlham.state import SPIN_KEYS, stated

COLLECTION = "ase:"  # what the name of one begins with
XYZ = (".xyz", ".extxyz")
GAUSSIAN = (".com", ".gjf")  # its input, which says charge and multiplicity
COUNT = re.compile(r"\s*\d+\s*")
MOST_BAD_FRAMES = 100  # of a file in another format, before the rest of it is given up
MOST_BAD_AT_FIRST = 3  # the same, where no frame could be read yet
PROPERTIES = "properties="  # in a comment line that says itself what the columns of its frame are, mostly these first:
USUAL = "properties=species:s:1:pos:r:3"
# What a comment line may say beside the key=value that ASE reads: "charge: -1", "Mult = 2"; and, as other programs
# have it, "-1 2" and nothing else.
SAID = re.compile(rf"(?<![\w.])(charge|{'|'.join(SPIN_KEYS)})\s*[:=]\s*([-+]?\d+(?:\.\d*)?)(?![\w.])", re.IGNORECASE)
TWO_NUMBERS = re.compile(r"\s*([-+]?\d+)\s+([1-9]\d*)\s*")
SDF_CHARGES = {"1": 3, "2": 2, "3": 1, "5": -1, "6": -2, "7": -3}  # codes in lines of atoms
SDF_DOUBLET = "4"


class FrameError(ValueError):
    """What is wrong with a frame, in words that need no name of an exception before them."""


def why_unreadable(error: Exception) -> str:
    """Say in words why a frame or a file cannot be read.

    Args:
        error: what stands in the frame's place.
    """
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return str(error) if isinstance(error, FrameError) else f"{type(error).__name__}: {error}"


def frames(source: str) -> Iterator[tuple[str, Any]]:
    """Return names and what ASE reads of every frame; an exception in the place of one that it cannot read.

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
    """Let charge and spin stand in atoms.info, under keys in small letters, wherever ASE put them."""
    if isinstance(atoms, Exception):
        return atoms
    try:
        known = stated(atoms.info)
    except ValueError as error:
        return FrameError(str(error))
    parameters = getattr(atoms.calc, "parameters", None) or {}
    atoms.info.update({key: parameters[key] for key in ("charge", "mult") if key in parameters} | known)
    return atoms


def _collection(name: str) -> Iterator[tuple[str, Any]]:
    """Members of one of ASE's collections: all of g2, or some, g2/H2O,CH4."""
    import ase.collections

    name, _, wanted = name.partition("/")
    collection: Any = getattr(ase.collections, name, None)
    if not hasattr(collection, "names"):
        yield name, FrameError(f"ASE has no collection {name}; there are g2, s22, dcdft and the like")
        return
    for member in wanted.split(",") if wanted else collection.names:
        known = member in collection.names
        yield f"{name}:{member}", collection[member] if known else FrameError(f"there is no {member} in {name}")


def _xyz_frames(source: str) -> Iterator[Any]:
    """Frames of an xyz file, told apart by their counts of atoms before any is read."""
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
        if isinstance(frame, Exception):  # its count may be wrong: the next line with nothing but a number is the next
            after = range(start + (2 if COUNT.fullmatch(lines[start]) else 1), len(lines))
            end = next((place for place in after if COUNT.fullmatch(lines[place])), len(lines))
        start = end


def _end_of_frame(lines: list[str], start: int) -> int:
    """Where a frame ends by its count of atoms, with the lines of cell vectors that may follow it."""
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
        return FrameError(f"line {first}: expected {int(lines[0])} atoms, and the file ends before")
    try:
        atoms = next(read_xyz(io.StringIO("\n".join(lines) + "\n"), 0))
    except Exception as problem:  # ASE's readers raise whatever they meet
        return _wrong_atom(lines, first) or problem
    if (numbers := TWO_NUMBERS.fullmatch(lines[1])) and (int(numbers[1]), int(numbers[2])) != (0, 1):
        words = f"charge={int(numbers[1])} mult={int(numbers[2])}, if that is meant, or something that is no number"
        return FrameError(f"line {first + 1}: two numbers as a comment may be charge and multiplicity; write {words}")
    known = {str(key).lower() for key in atoms.info}
    atoms.info.update({key: value for key, value in SAID.findall(lines[1]) if key.lower() not in known})
    return atoms


def _wrong_atom(lines: list[str], first: int) -> FrameError | None:
    """Name the first line of an xyz frame that is no atom; None where there is none, or the columns are unusual."""
    from ase.data import atomic_numbers

    if PROPERTIES in (comment := lines[1].lower()) and USUAL not in comment:
        return None
    for place, line in enumerate(lines[2 : 2 + int(lines[0])], first + 2):
        fields = line.split()
        element = fields[0] if fields else ""
        if len(fields) < 4 or not all(_is_number(field) for field in fields[1:4]):
            words = f"expected an element and three coordinates, found {line.strip()[:40]!r}"
            return FrameError(f"line {place}: {words}")
        if not (element.isdigit() or element.capitalize() in atomic_numbers):
            return FrameError(f"line {place}: there is no element {element[:40]!r}")
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _other_frames(source: str) -> Iterator[Any]:
    from ase.io import read

    try:
        found: Any = list(read(source, index=":", **_options(source)))
    except OSError as error:
        found = [error]
    except Exception as error:
        found = _one_by_one(source, error)
    yield from found


def _one_by_one(source: str, error: Exception) -> Iterator[Any]:
    """Frames of a file of which not all can be read; `error` alone where none can be told apart."""
    bad: list[Any] = []  # since the last good one
    good = total = 0
    for index in itertools.count():
        frame = _one(source, index)
        if isinstance(frame, StopIteration | IndexError):
            break
        if not isinstance(frame, Exception):
            yield from bad
            yield frame
            bad, good = [], good + 1
            continue
        bad, total = [*bad, frame], total + 1
        if total >= (MOST_BAD_FRAMES if good else MOST_BAD_AT_FIRST):
            bad.append(FrameError(f"{total} frames are bad already; this one and those after it were not looked at"))
            break
    yield from bad if good else [error]


def _options(source: str) -> dict[str, Any]:
    return {"attach_calculator": True} if source.lower().endswith(GAUSSIAN) else {}


def _one(source: str, index: int) -> Any:
    from ase.io import read

    try:
        return read(source, index=index, **_options(source))
    except Exception as problem:
        return problem


def _sdf_frames(source: str) -> Iterator[tuple[str, Any]]:
    """Molecules of an SDF file, with charge and multiplicity; ASE reads the first only, and neither of them."""
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
    """Values of atoms in the lines of one kind: M  CHG, how many, atom, value, atom, value."""
    return [int(value) for line in lines if line.startswith(f"M  {kind}") for value in line.split()[4::2]]


def _sdf_state(lines: list[str], count: int) -> dict[str, int]:
    """Total charge and multiplicity of an SDF molecule, as far as it says them.

    They are those of its M CHG and M RAD lines, else of the codes in its lines of atoms. Several radical centres are
    taken to have parallel spins.
    """
    if "V3000" in lines[3]:
        raise FrameError("SDF of version V3000; write it as V2000, or as xyz")
    charges, radicals = _sdf_values(lines, "CHG"), _sdf_values(lines, "RAD")
    unpaired = [max(code - 1, 0) for code in radicals]  # 1 is a carbene's singlet, 2 a doublet, 3 a triplet
    if not charges and not radicals:
        codes = [line[36:39].strip() for line in lines[4 : 4 + count]]
        charges = [SDF_CHARGES[code] for code in codes if code in SDF_CHARGES]
        unpaired = [1 for code in codes if code == SDF_DOUBLET]
    said = {"charge": sum(charges)} if charges else {}
    return said | ({"mult": sum(unpaired) + 1} if unpaired else {})
