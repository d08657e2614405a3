"""Molecules and crystals to label: from any file that ASE reads, and from ASE's collections."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.data import nist

from pyscf_mlham.ao.mole import core_potentials
from pyscf_mlham.data.frames import COLLECTION, frames, why_unreadable
from pyscf_mlham.data.schema import HamiltonianFile, Level, Periodic, Record
from pyscf_mlham.errors import DataError
from pyscf_mlham.state import charge_and_spin, mult_of_moments

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

SAME_PLACE = 1e-5  # Bohr; tolerance of coordinates of the same geometry
REACH = 18.2  # Bohr; shortest lattice vector of the crystal of the default k points, twice the cutoff of 2d-pbe-szv
ROUNDING = 1e-6
# Help of --mult.
MULT = "multiplicity if a frame has no mult=; default 1, or for ASE's collections that of the magnetic moments"


class Molecule(NamedTuple):
    """A geometry to be labelled."""

    name: str  # name of the geometry, unique in the input
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
    """Read every frame, see `geometries_of`.

    Args:
        source: a file that ASE reads, ase:g2, ase:s22 and the like, or ase:g2/H2O,CH4 for some of a collection.
        charge: total charge if a frame has none.
        mult: multiplicity if a frame has none.
        crystals: whether the frames are crystals, of three periodic lattice vectors or the first two (pbc="T T F").
        kpts: (3,) numbers of k points if a frame has none (kpts="4 4 1"); by default those that reach `REACH`.
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
    the arguments. Without either, a member of a collection has the spin of its magnetic moments.

    Args:
        default_mult: multiplicity without any other source, None for the lowest.
    """
    count = 0
    for index, (label, atoms) in enumerate(found):
        count += 1
        place = f"{source}, frame {index}"
        if isinstance(atoms, Exception):
            what = source if index == 0 else place
            yield DataError(f"{what}: cannot be read ({why_unreadable(atoms)}).")
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
        raise DataError(f"{place}: periodic; crystals need a pseudopotential (--pseudo gth-pbe).")
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
    lattice = np.asarray(atoms.cell.array) / nist.BOHR
    if not abs(np.linalg.det(lattice)) > 1:
        raise DataError(f"{place}: its lattice vectors do not span a cell; give three, also for a layer.")
    if "kpts" in atoms.info or len(kpts):
        found = np.ravel(atoms.info.get("kpts", kpts))
        if found.shape != (3,) or found.dtype.kind not in "iu" or found.min() < 1 or np.any(found[~periodic] != 1):
            raise DataError(f"{place}: kpts are {found.tolist()}; expected three numbers, 1 along the vacuum.")
        mesh = found.astype(np.int64)
    else:
        mesh = np.where(periodic, np.ceil(REACH / np.linalg.norm(lattice, axis=1) - ROUNDING), 1).astype(np.int64)
    group = str(atoms.info.get("group") or name)
    own = int(atoms.info.get("charge", charge))
    found_in = Path(source).name
    return Molecule(name, group, found_in, numbers, positions, own, 0, Periodic(lattice, int(periodic.sum()), mesh))


def group_of(numbers: IntArray, positions: Array) -> str:
    """Name the molecule of a conformer: its formula and a hash of its bonds; positions: (N, 3) Bohr."""
    from ase import Atoms
    from ase.data import covalent_radii

    radii = covalent_radii[numbers] / nist.BOHR
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    bonded = (distances < 1.25 * (radii[:, None] + radii[None])) & ~np.eye(len(numbers), dtype=bool)
    colours = [str(z) for z in numbers]
    for _ in range(len(numbers)):  # Weisfeiler-Leman: refine each atom's colour by those of its neighbours
        neighbours = [sorted(colours[j] for j in np.flatnonzero(row)) for row in bonded]
        mixed = [f"{c} {n}" for c, n in zip(colours, neighbours, strict=True)]
        refined = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in mixed]
        if len(set(refined)) == len(set(colours)) and _ > 0:
            break
        colours = refined
    digest = hashlib.sha256(" ".join(sorted(colours)).encode()).hexdigest()[:12]
    formula = Atoms(numbers=numbers).symbols.formula.format("hill")
    return f"{formula}-{digest}"
