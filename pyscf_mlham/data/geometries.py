"""Molecules and crystals to label: from any file that ASE reads, and from ASE's collections.

An unreadable frame does not affect the others.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pyscf import gto
from pyscf.data import nist

from pyscf_mlham.ao.lattice import mesh_reaching
from pyscf_mlham.ao.mole import core_potentials
from pyscf_mlham.arrays import Array, IntArray
from pyscf_mlham.data.record import Level, Periodic, Record
from pyscf_mlham.data.schema import HamiltonianFile
from pyscf_mlham.errors import DataError
from pyscf_mlham.state import SPIN_KEYS, charge_and_spin, is_closed_shell, mult_of_moments, stated, total_charge

SAME_PLACE = 1e-5  # Bohr; tolerance of coordinates of the same geometry
REACH = 26.6  # Bohr; shortest lattice vector of the crystal of the default k points, twice the cutoff of 2d-pbe-szv
ANY_ENCODING = {"encoding": "utf-8-sig", "errors": "replace"}  # of comments
COLLECTION = "ase:"  # prefix of a collection's name
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
# Help of --mult.
MULT = "multiplicity if a frame has no mult=; default 1, or for ASE's collections that of the magnetic moments"


class Molecule(NamedTuple):
    """A geometry to be labelled."""

    name: str  # name of the geometry, not necessarily unique
    group: str  # identity of the molecule, shared by conformers and displaced copies
    source: str
    numbers: IntArray  # (N,) atomic numbers
    positions: Array  # (N, 3) Bohr
    charge: int
    spin: int  # n_alpha - n_beta
    periodic: Periodic | None = None

    @property
    def key(self) -> str:
        """Identity of numbers, positions and lattice (to `SAME_PLACE`), charge and spin."""
        return identity(self.numbers, self.positions, self.charge, self.spin, self.periodic)


def mol_from_geometry(geometry: Molecule | Record, basis: str) -> gto.Mole:
    """Build the PySCF molecule of a geometry, labelled or not, with the core potentials of the basis set."""
    atoms = list(zip(geometry.numbers.tolist(), geometry.positions.tolist(), strict=True))
    ecp = core_potentials(basis, (gto.elements.ELEMENTS[number] for number, _ in atoms))
    return gto.M(atom=atoms, unit="Bohr", basis=basis, ecp=ecp, charge=geometry.charge, spin=geometry.spin, verbose=0)


def cell_from_geometry(geometry: Molecule | Record, level: Level) -> Any:
    """Build the PySCF cell of a crystal, labelled or not."""
    from pyscf.pbc import gto as pbc  # importing PySCF's periodic part takes a second

    assert geometry.periodic is not None
    atoms = list(zip(geometry.numbers.tolist(), geometry.positions.tolist(), strict=True))
    periodic = {"a": geometry.periodic.lattice, "dimension": geometry.periodic.dimension, "pseudo": level.pseudo}
    return pbc.M(atom=atoms, unit="Bohr", basis=level.basis, charge=geometry.charge, verbose=0, **periodic)


def identity(numbers: IntArray, positions: Array, charge: int, spin: int, periodic: Periodic | None = None) -> str:
    """Return a hash of a geometry, to find those that are labelled already; positions: (N, 3) Bohr."""
    places = np.round(np.asarray(positions) / SAME_PLACE).astype(np.int64)
    text = f"{charge} {spin} {np.asarray(numbers).tolist()} {places.tolist()}"
    if periodic:
        lattice = np.round(np.asarray(periodic.lattice) / SAME_PLACE).astype(np.int64)
        text += f" {lattice.tolist()} {periodic.dimension} {np.asarray(periodic.mesh).tolist()}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def identity_of_record(file: HamiltonianFile, index: int) -> str:
    """Hash the geometry of a record as `identity` does, without reading its matrices."""
    state = int(file.charge[index]), int(file.spin[index])
    return identity(file.numbers(index), file.positions(index), *state, file.periodic(index))


def keys_of(file: HamiltonianFile) -> list[str]:
    """Return the identities of all records."""
    return [identity_of_record(file, index) for index in range(len(file))]


def read_geometries(
    source: str, charge: int = 0, mult: int | None = None, crystals: bool = False, kpts: Sequence[int] = ()
) -> Iterator[Molecule | DataError]:
    """Read every frame, see `geometries_of`; charge, mult and kpts are for frames without them.

    Args:
        source: a file that ASE reads, ase:g2, ase:s22 and the like, or ase:g2/H2O,CH4 for some of a collection.
        crystals: whether the frames are crystals, of three periodic lattice vectors or the first two (pbc="T T F").
        kpts: (3,) numbers of k points (in a frame kpts="4 4 1"); by default those that reach `REACH`.
    """
    return geometries_of(frames(source), source, charge, mult, crystals, kpts)


def geometries_of(
    found: Iterable[tuple[str, Any]],
    source: str,
    charge: int = 0,
    mult: int | None = None,
    crystals: bool = False,
    kpts: Sequence[int] = (),
    default_mult: int | None = 1,
) -> Iterator[Molecule | DataError]:
    """Convert frames with their names, see `frames`; an unusable frame yields an error with its name.

    Charge and spin of a frame come from its comment line or info (charge; mult, multiplicity or spin), otherwise from
    the arguments. Without either, a member of a collection has the spin of its magnetic moments, and any other frame
    has `default_mult`, None for the lowest.
    """
    source = source.encode(errors="replace").decode()  # a name that is not UTF-8 cannot be stored
    count = 0
    for index, (label, atoms) in enumerate(found):
        count += 1
        place = f"{source}, frame {index}"
        if isinstance(atoms, Exception):
            reason = str(atoms) if isinstance(atoms, FrameError) else f"{type(atoms).__name__}: {atoms}"
            reason = "no such file" if isinstance(atoms, FileNotFoundError) else reason
            yield DataError(f"{place if index else source}: cannot be read ({reason}).")
            continue
        own = mult
        if mult is None and not charge and source.startswith(COLLECTION):  # moments are of neutral molecules
            own = mult_of_moments(atoms.get_initial_magnetic_moments(), int(atoms.numbers.sum()))
        name = label or f"{Path(source).stem}:{index}"
        try:
            if crystals:
                yield _crystal(name, source, atoms, charge, kpts, place)
            else:
                yield _molecule(name, source, atoms, charge, default_mult if own is None else own, place)
        except DataError as error:
            yield error
    if not count:
        yield DataError(f"{source}: contains no geometry.")


def _molecule(name: str, source: str, atoms: Any, charge: int, mult: int | None, place: str) -> Molecule:
    info = atoms.info
    if any(atoms.pbc):
        advice = 'remove the lattice of a molecule, or write pbc="F F F"; labels of crystals need a pseudopotential'
        raise DataError(f"{place}: periodic; {advice} (mlham data generate --pseudo gth-pbe).")
    numbers, positions = _nuclei(atoms, place)
    try:
        charge, spin = charge_and_spin(info, int(numbers.sum()), charge, mult)
    except ValueError as error:
        advice = "give charge and multiplicity in the comment line (charge=, mult=) or by --charge and --mult"
        raise DataError(f"{place}: {error}; {advice}.") from error
    group = str(info.get("group") or group_of(numbers, positions))
    return Molecule(name, group, Path(source).name, numbers, positions, charge, spin)


def _nuclei(atoms: Any, place: str) -> tuple[IntArray, Array]:
    """Return atomic numbers and positions in Bohr, (N,) and (N, 3)."""
    numbers, positions = atoms.numbers.astype(np.int64), atoms.positions / nist.BOHR
    if len(numbers) == 0 or numbers.min() < 1:
        raise DataError(f"{place}: has no atoms, or an unknown element.")
    if not np.all(np.isfinite(positions)):
        raise DataError(f"{place}: coordinates are not numbers.")
    return numbers, positions


def _crystal(name: str, source: str, atoms: Any, charge: int, kpts: Sequence[int], place: str) -> Molecule:
    """Return a crystal; each frame is a group of its own, so that frames of one material are in all splits."""
    numbers, positions = _nuclei(atoms, place)
    periodic = np.array(atoms.pbc)
    if not periodic[:2].all():  # PySCF has no grids for chains
        raise DataError(f"{place}: pbc is {periodic.tolist()}; expected the first two lattice vectors, or all three.")
    dimension, lattice = int(periodic.sum()), np.asarray(atoms.cell.array) / nist.BOHR
    if not abs(np.linalg.det(lattice)) > 1:
        raise DataError(f"{place}: its lattice vectors do not span a cell; give three, also for a layer.")
    if "kpts" in atoms.info or len(kpts):
        found = np.ravel(atoms.info.get("kpts", kpts))
        if found.shape != (3,) or found.dtype.kind not in "iu" or found.min() < 1 or np.any(found[~periodic] != 1):
            raise DataError(f"{place}: kpts are {found.tolist()}; expected three numbers, 1 along the vacuum.")
        mesh = found.astype(np.int64)
    else:
        mesh = mesh_reaching(REACH, lattice, dimension)
    group = str(atoms.info.get("group") or name)
    try:
        own, closed = total_charge(atoms.info, charge), is_closed_shell(atoms.info)
    except ValueError as error:
        raise DataError(f"{place}: {error}.") from error
    if not closed:
        raise DataError(f"{place}: an open shell; crystals have no spin here, leave it out of the comment line.")
    return Molecule(name, group, Path(source).name, numbers, positions, own, 0, Periodic(lattice, dimension, mesh))


def group_of(numbers: IntArray, positions: Array) -> str:
    """Name the molecule of a conformer: its formula and a hash of its bonds; positions: (N, 3) Bohr."""
    from ase import Atoms
    from ase.data import covalent_radii

    radii = covalent_radii[numbers] / nist.BOHR
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    bonded = (distances < 1.25 * (radii[:, None] + radii[None])) & ~np.eye(len(numbers), dtype=bool)
    colours = [str(z) for z in numbers]
    for step in range(len(numbers)):  # Weisfeiler-Leman: refine each atom's colour by those of its neighbours
        neighbours = [sorted(colours[j] for j in np.flatnonzero(row)) for row in bonded]
        mixed = [f"{c} {n}" for c, n in zip(colours, neighbours, strict=True)]
        refined = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in mixed]
        if len(set(refined)) == len(set(colours)) and step > 0:
            break
        colours = refined
    digest = hashlib.sha256(" ".join(sorted(colours)).encode()).hexdigest()[:12]
    formula = Atoms(numbers=numbers).symbols.formula.format("hill")
    return f"{formula}-{digest}"


class FrameError(ValueError):
    """An error of a frame whose message needs no name of the exception before it."""


def frames(source: str) -> Iterator[tuple[str, Any]]:
    """Return the name and ASE's atoms of every frame of a file or collection; an exception for an unreadable one."""
    if source.startswith(COLLECTION):
        yield from _collection(source.removeprefix(COLLECTION))
    elif source.lower().endswith((".sdf", ".mol")):
        yield from _sdf_frames(source)
    else:
        read = _xyz_frames if source.lower().endswith((".xyz", ".extxyz")) else _other_frames
        for atoms in map(_with_state, read(source)):
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

    name, _, members = name.partition("/")
    collection: Any = getattr(ase.collections, name, None)
    if not hasattr(collection, "names"):
        yield name, FrameError(f"ASE has no collection {name}; expected g2, s22, dcdft or the like")
        return
    for member in members.split(",") if members else collection.names:
        exists = member in collection.names
        yield f"{name}:{member}", collection[member] if exists else FrameError(f"collection {name} has no {member}")


def _xyz_frames(source: str) -> Iterator[Any]:
    """Return frames of an xyz file, separated by their numbers of atoms before any is read."""
    try:
        lines = Path(source).read_text(**ANY_ENCODING).split("\n")
    except OSError as error:
        yield error
        return
    start = 0
    while start < len(lines):
        if not lines[start].strip():
            start += 1
            continue
        end = start + 2 + int(lines[start]) if COUNT.fullmatch(lines[start]) else start + 1
        while end < len(lines) and lines[end].lstrip().startswith("VEC"):  # cell vectors
            end += 1
        frame = _xyz_frame(lines[start:end], start + 1)
        yield frame
        if isinstance(frame, Exception):  # its count may be wrong: the next frame starts at a line with only a number
            after = range(start + (2 if COUNT.fullmatch(lines[start]) else 1), len(lines))
            end = next((place for place in after if COUNT.fullmatch(lines[place])), len(lines))
        start = end


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
        text = Path(source).read_text(**ANY_ENCODING)
    except OSError as error:
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


def _sdf_state(lines: list[str], count: int) -> dict[str, int]:
    """Return total charge and multiplicity of an SDF molecule, if given.

    They come from its M CHG and M RAD lines, otherwise from the codes in its lines of atoms. The spins of several
    radical centres are assumed to be parallel.
    """
    if "V3000" in lines[3]:
        raise FrameError("SDF of version V3000; write it as V2000, or as xyz")
    charges, radicals = (  # M  CHG, number, atom, value, atom, value
        [int(value) for line in lines if line.startswith(f"M  {kind}") for value in line.split()[4::2]]
        for kind in ("CHG", "RAD")
    )
    unpaired = [max(code - 1, 0) for code in radicals]  # 1 is a carbene's singlet, 2 a doublet, 3 a triplet
    if not charges and not radicals:
        codes = [line[36:39].strip() for line in lines[4 : 4 + count]]
        charges = [SDF_CHARGES[code] for code in codes if code in SDF_CHARGES]
        unpaired = [1 for code in codes if code == SDF_DOUBLET]
    state = {"charge": sum(charges)} if charges else {}
    return state | ({"mult": sum(unpaired) + 1} if unpaired else {})
