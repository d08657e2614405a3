"""Molecules to label: from any file that ASE reads, and from ASE's collections."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.data import nist

from pyscf_mlham.ao.mole import core_potentials
from pyscf_mlham.data.frames import COLLECTION, frames, why_unreadable
from pyscf_mlham.data.schema import HamiltonianFile, Record
from pyscf_mlham.errors import DataError
from pyscf_mlham.state import charge_and_spin, mult_of_moments

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

SAME_PLACE = 1e-5  # Bohr; tolerance of coordinates of the same geometry
# Help of --mult.
MULT = "multiplicity if a frame has no mult=; default 1, or for ASE's collections that of the magnetic moments"


class Molecule(NamedTuple):
    """A geometry to be labelled.

    Attributes:
        name: name of the geometry, unique in the input.
        group: identity of the molecule, shared by conformers and displaced copies.
        source: file or collection.
        numbers: (N,) atomic numbers.
        positions: (N, 3) Bohr.
        charge: total charge.
        spin: n_alpha - n_beta.
    """

    name: str
    group: str
    source: str
    numbers: IntArray
    positions: Array
    charge: int
    spin: int

    @property
    def key(self) -> str:
        """Identity of numbers, positions (to `SAME_PLACE`), charge and spin."""
        return identity(self.numbers, self.positions, self.charge, self.spin)


def mol_from_geometry(geometry: Molecule | Record, basis: str) -> gto.Mole:
    """Build the PySCF molecule of a geometry, labelled or not, with the core potentials of the basis set."""
    atoms = list(zip(geometry.numbers.tolist(), geometry.positions.tolist(), strict=True))
    ecp = core_potentials(basis, (gto.elements.ELEMENTS[number] for number, _ in atoms))
    return gto.M(atom=atoms, unit="Bohr", basis=basis, ecp=ecp, charge=geometry.charge, spin=geometry.spin, verbose=0)


def identity(numbers: IntArray, positions: Array, charge: int, spin: int) -> str:
    """Return a hash of a geometry, to find those that are labelled already.

    Args:
        numbers: (N,) atomic numbers.
        positions: (N, 3) Bohr.
        spin: n_alpha - n_beta.
    """
    places = np.round(np.asarray(positions) / SAME_PLACE).astype(np.int64)
    text = f"{charge} {spin} {np.asarray(numbers).tolist()} {places.tolist()}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def identity_of_record(file: HamiltonianFile, index: int) -> str:
    """Hash the geometry of a record as `identity` does, without reading its matrices."""
    return identity(file.numbers(index), file.positions(index), int(file.charge[index]), int(file.spin[index]))


def read_geometries(source: str, charge: int = 0, mult: int | None = None) -> Iterator[Molecule | DataError]:
    """Read every frame; an unusable frame yields an error with its name.

    Charge and spin of a frame come from its comment line or info (charge; mult, multiplicity or spin), otherwise from
    the arguments. Without either, a member of a collection has the spin of its magnetic moments; others are singlets.

    Args:
        source: a file that ASE reads, ase:g2, ase:s22 and the like, or ase:g2/H2O,CH4 for some of a collection.
        charge: total charge if a frame has none.
        mult: multiplicity if a frame has none.
    """
    count = 0
    for index, (label, atoms) in enumerate(frames(source)):
        count += 1
        place = f"{source}, frame {index}"
        if isinstance(atoms, Exception):
            what = source if index == 0 else place
            yield DataError(f"{what}: cannot be read ({why_unreadable(atoms)}).")
            continue
        own = mult_by_moments(source, atoms, charge) if mult is None else mult
        name = label or f"{Path(source).stem}:{index}"
        try:
            yield _molecule(name, source, atoms, charge, 1 if own is None else own, place)
        except DataError as error:
            yield error
    if not count:
        yield DataError(f"{source}: contains no geometry.")


def mult_by_moments(source: str, atoms: Any, charge: int) -> int | None:
    """Return the multiplicity of a collection's member from its magnetic moments; None for all other sources.

    Args:
        charge: total charge if the frame has none; the moments are those of neutral molecules.
    """
    if charge or not source.startswith(COLLECTION):
        return None
    return mult_of_moments(atoms.get_initial_magnetic_moments(), int(atoms.numbers.sum()))


def _molecule(name: str, source: str, atoms: Any, charge: int, mult: int, place: str) -> Molecule:
    info = atoms.info
    numbers = atoms.numbers.astype(np.int64)
    positions = atoms.positions / nist.BOHR
    if any(atoms.pbc):
        raise DataError(f"{place}: periodic; only molecules are supported.")
    if len(numbers) == 0 or numbers.min() < 1:
        raise DataError(f"{place}: has no atoms, or an unknown element.")
    if not np.all(np.isfinite(positions)):
        raise DataError(f"{place}: coordinates are not numbers.")
    try:
        charge, spin = charge_and_spin(info, int(numbers.sum()), charge, mult)
    except ValueError as error:
        raise DataError(
            f"{place}: {error}; give the correct charge and multiplicity in the comment line (charge=, mult=) or by "
            "--charge and --mult."
        ) from error
    group = str(info.get("group") or group_of(numbers, positions))
    return Molecule(name, group, Path(source).name, numbers, positions, charge, spin)


def group_of(numbers: IntArray, positions: Array) -> str:
    """Name the molecule of a conformer: its formula and a hash of its bonds.

    Args:
        numbers: (N,) atomic numbers.
        positions: (N, 3) Bohr.
    """
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
