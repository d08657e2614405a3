"""Molecules to label: from any file that ASE reads, from ASE's collections, and displaced copies of both."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import gto, scf
from pyscf.data import nist
from pyscf.hessian import thermo

from pyscf_mlham.data.schema import Record
from pyscf_mlham.errors import DataError, whole_number

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

SAME_PLACE = 1e-5  # Bohr; coordinates that agree so far are the same geometry
MOST_BAD_FRAMES = 100  # in a file, before the rest of it is given up
SDF_CHARGES = {"1": 3, "2": 2, "3": 1, "5": -1, "6": -2, "7": -3}  # codes in lines of atoms
SOFTEST = 200.0  # 1/cm; softer modes are displaced as if they were this stiff, for the harmonic picture fails there


class Molecule(NamedTuple):
    """A geometry that waits for its label.

    Attributes:
        name: unique among the input.
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
    """Build the PySCF molecule of a geometry, labelled or not.

    Args:
        geometry: numbers, positions, charge and spin.
        basis: PySCF's name of the basis set.
    """
    atoms = list(zip(geometry.numbers.tolist(), geometry.positions.tolist(), strict=True))
    return gto.M(atom=atoms, unit="Bohr", basis=basis, charge=geometry.charge, spin=geometry.spin, verbose=0)


def identity(numbers: IntArray, positions: Array, charge: int, spin: int) -> str:
    """Hash a geometry, for finding what is labelled already.

    Args:
        numbers: (N,) atomic numbers.
        positions: (N, 3) Bohr.
        charge: total charge.
        spin: n_alpha - n_beta.
    """
    places = np.round(np.asarray(positions) / SAME_PLACE).astype(np.int64)
    text = f"{charge} {spin} {np.asarray(numbers).tolist()} {places.tolist()}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_geometries(source: str, charge: int = 0, spin: int = 0) -> Iterator[Molecule | DataError]:
    """Read every frame; a frame that cannot be used comes as an error that names it.

    Charge and spin of a frame come from its comment line or info (charge, and spin or mult), else as given.

    Args:
        source: a file that ASE reads, ase:g2, ase:s22 and the like, or ase:g2/H2O,CH4 for some of a collection.
        charge: where a frame has none of its own.
        spin: n_alpha - n_beta, where a frame has none of its own.
    """
    count = 0
    for index, (label, atoms) in enumerate(_frames(source)):
        count += 1
        where = f"{source}, frame {index}"
        if isinstance(atoms, Exception):
            what = source if index == 0 else where
            yield DataError(f"{what}: cannot be read ({type(atoms).__name__}: {atoms}).")
            continue
        try:
            yield _molecule(label or f"{Path(source).stem}:{index}", source, atoms, charge, spin, where)
        except DataError as error:
            yield error
    if not count:
        yield DataError(f"{source}: there is no geometry in it.")


def _frames(source: str) -> Iterator[tuple[str, Any]]:
    """Names and what ASE reads of every frame; an exception in the place of one that it cannot read."""
    if source.startswith("ase:"):
        yield from _collection(source[4:])
    elif source.lower().endswith((".sdf", ".mol")):
        yield from _sdf_frames(source)
    else:
        from ase.io import read

        try:
            frames = list(read(source, index=":"))
        except Exception as error:  # ASE's readers raise whatever they meet
            frames = list(_one_by_one(source, error))
        for atoms in frames:
            yield ("" if isinstance(atoms, Exception) else str(atoms.info.get("name", ""))), atoms


def _collection(name: str) -> Iterator[tuple[str, Any]]:
    """Members of one of ASE's collections: all of g2, or some, g2/H2O,CH4."""
    import ase.collections

    name, _, wanted = name.partition("/")
    collection: Any = getattr(ase.collections, name, None)
    if not hasattr(collection, "names"):
        yield name, ValueError(f"ASE has no collection {name}; there are g2, s22, dcdft and the like")
        return
    for member in wanted.split(",") if wanted else collection.names:
        known = member in collection.names
        yield f"{name}:{member}", collection[member] if known else ValueError(f"there is no {member} in {name}")


def _one_by_one(source: str, error: Exception) -> Iterator[Any]:
    """Read the frames of a file of which not all can be read; `error` where none can be told apart."""
    found: list[Any] = []
    for index in itertools.count():
        frame = _one(source, index)
        good = sum(not isinstance(f, Exception) for f in found)
        after_last = isinstance(frame, StopIteration | IndexError)
        if after_last or (isinstance(frame, Exception) and len(found) - good >= (MOST_BAD_FRAMES if good else 1)):
            break
        found.append(frame)
    return iter(found if any(not isinstance(f, Exception) for f in found) else [error])


def _one(source: str, index: int) -> Any:
    from ase.io import read

    try:
        return read(source, index=index)
    except Exception as problem:
        return problem


def _sdf_frames(source: str) -> Iterator[tuple[str, Any]]:
    """Molecules of an SDF file, with their charges; ASE reads the first only, and no charges."""
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
            charge = _sdf_charge(block.splitlines(), len(atoms))
            if charge is not None:
                atoms.info["charge"] = charge
        except Exception as error:  # as above
            yield "", error
            continue
        yield block.splitlines()[0].strip(), atoms


def _sdf_charge(lines: list[str], count: int) -> int | None:
    """Total charge of an SDF molecule: of its M CHG lines, else of the codes in its lines of atoms, else unknown."""
    if "V3000" in lines[3]:
        raise ValueError("SDF of version V3000; write it as V2000, or as xyz")
    charges = [int(q) for line in lines if line.startswith("M  CHG") for q in line.split()[4::2]]
    if not charges:
        codes = [line[36:39].strip() for line in lines[4 : 4 + count]]
        charges = [SDF_CHARGES[code] for code in codes if code in SDF_CHARGES]
    return sum(charges) if charges else None


def _molecule(name: str, source: str, atoms: Any, charge: int, spin: int, where: str) -> Molecule:
    info = atoms.info
    numbers = atoms.numbers.astype(np.int64)
    positions = atoms.positions / nist.BOHR
    if any(atoms.pbc):
        raise DataError(f"{where}: periodic; only molecules can be used.")
    if len(numbers) == 0 or numbers.min() < 1:
        raise DataError(f"{where}: has no atoms, or an unknown element.")
    if not np.all(np.isfinite(positions)):
        raise DataError(f"{where}: coordinates are not numbers.")
    try:
        charge = whole_number(info.get("charge", charge))
        spin = whole_number(info["mult"]) - 1 if "mult" in info else whole_number(info.get("spin", spin))
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: charge, mult and spin must be integers ({error}).") from error
    electrons = int(numbers.sum()) - charge
    if electrons < 1 or spin < 0 or spin > electrons or (electrons - spin) % 2:
        raise DataError(
            f"{where}: {electrons} electrons cannot have multiplicity {spin + 1}; give the right charge and "
            "multiplicity in the comment line (charge=, mult=) or with --charge and --mult."
        )
    group = str(info.get("group") or group_of(numbers, positions))
    return Molecule(name, group, Path(source).name, numbers, positions, charge, spin)


def group_of(numbers: IntArray, positions: Array) -> str:
    """Name the molecule that a geometry is a conformer of: its formula and a hash of its bonds.

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
    for _ in range(len(numbers)):  # Weisfeiler and Leman: an atom is what it is and what its neighbours are
        neighbours = [sorted(colours[j] for j in np.flatnonzero(row)) for row in bonded]
        mixed = [f"{c} {n}" for c, n in zip(colours, neighbours, strict=True)]
        refined = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in mixed]
        if len(set(refined)) == len(set(colours)) and _ > 0:
            break
        colours = refined
    digest = hashlib.sha256(" ".join(sorted(colours)).encode()).hexdigest()[:12]
    formula = Atoms(numbers=numbers).symbols.formula.format("hill")
    return f"{formula}-{digest}"


def rattled(molecule: Molecule, copies: int, sigma: float, seed: int) -> Iterator[Molecule]:
    """Displace every atom at random.

    Args:
        molecule: to displace.
        copies: how many to make.
        sigma: standard deviation of each coordinate, Angstrom.
        seed: of the random numbers; the geometry is mixed in.
    """
    rng = np.random.default_rng([seed, int(molecule.key, 16) % 2**63])
    for copy in range(copies):
        shift = sigma / nist.BOHR * rng.normal(size=molecule.positions.shape)
        yield molecule._replace(name=f"{molecule.name}~r{copy}", positions=molecule.positions + shift)


def thermal(molecule: Molecule, copies: int, temperature: float, seed: int) -> Iterator[Molecule]:
    """Displace along normal modes as nuclei do in thermal equilibrium, zero-point motion included.

    The modes are those of HF/STO-3G at the given geometry.

    Args:
        molecule: to displace.
        copies: how many to make.
        temperature: Kelvin.
        seed: of the random numbers; the geometry is mixed in.
    """
    if len(molecule.numbers) < 2:
        return
    mol = mol_from_geometry(molecule, "sto-3g")
    mf = (scf.UHF if molecule.spin else scf.RHF)(mol).run()
    if not mf.converged:
        raise DataError(f"{molecule.name}: its HF/STO-3G calculation, for the normal modes, does not converge.")
    modes = thermo.harmonic_analysis(mol, mf.Hessian().kernel(), imaginary_freq=False)
    wavenumbers = np.maximum(np.abs(modes["freq_wavenumber"]), SOFTEST)
    frequencies = wavenumbers * 100 * nist.LIGHT_SPEED_SI * nist.PLANCK / nist.HARTREE2J  # Hartree
    occupation = np.tanh(frequencies * nist.HARTREE2J / (2 * nist.BOLTZMANN * max(temperature, 1e-3)))
    roots = np.sqrt(mol.atom_mass_list(isotope_avg=True) * nist.ATOMIC_MASS / nist.E_MASS)[:, None]
    vectors = modes["norm_mode"] * roots  # mass-weighted, orthogonal
    vectors /= np.linalg.norm(vectors, axis=(1, 2), keepdims=True)
    widths = np.sqrt(1 / (2 * frequencies * occupation))
    rng = np.random.default_rng([seed, int(molecule.key, 16) % 2**63])
    for copy in range(copies):
        # a function of the Hessian, not of its eigenvectors: their signs and degenerate mixtures are arbitrary
        along = np.einsum("mnx,nx->m", vectors, rng.normal(size=molecule.positions.shape))
        shift = np.einsum("m,mnx->nx", widths * along, vectors) / roots
        yield molecule._replace(name=f"{molecule.name}~t{copy}", positions=molecule.positions + shift)
