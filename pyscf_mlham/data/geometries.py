"""Molecules to label: from any file that ASE reads, from ASE's collections, and displaced copies of both."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import gto, scf
from pyscf.data import nist
from pyscf.hessian import thermo

from pyscf_mlham.data.schema import Record
from pyscf_mlham.errors import DataError

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

SAME_PLACE = 1e-5  # Bohr; coordinates that agree so far are the same geometry
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
        source: a file that ASE reads, or ase:g2, ase:s22 and the like.
        charge: where a frame has none of its own.
        spin: n_alpha - n_beta, where a frame has none of its own.
    """
    try:
        frames = _frames(source)
    except Exception as error:  # ASE's readers raise whatever they meet
        yield DataError(f"{source}: cannot be read ({type(error).__name__}: {error}).")
        return
    if not frames:
        yield DataError(f"{source}: there is no geometry in it.")
    for index, (label, atoms) in enumerate(frames):
        where = f"{source}, frame {index}"
        try:
            yield _molecule(label or f"{Path(source).stem}:{index}", source, atoms, charge, spin, where)
        except DataError as error:
            yield error


def _frames(source: str) -> list[tuple[str, Any]]:
    if source.startswith("ase:"):
        import ase.collections

        collection = getattr(ase.collections, source[4:])
        return [(f"{source[4:]}:{name}", collection[name]) for name in collection.names]
    from ase.io import read

    return [(str(atoms.info.get("name", "")), atoms) for atoms in read(source, index=":")]


def _molecule(name: str, source: str, atoms: Any, charge: int, spin: int, where: str) -> Molecule:
    info = atoms.info
    numbers = atoms.numbers.astype(np.int64)
    positions = atoms.positions / nist.BOHR
    if any(atoms.pbc):
        raise DataError(f"{where}: periodic; only molecules can be labelled.")
    if len(numbers) == 0 or numbers.min() < 1:
        raise DataError(f"{where}: has no atoms, or an unknown element.")
    if not np.all(np.isfinite(positions)):
        raise DataError(f"{where}: coordinates are not numbers.")
    try:
        charge = int(info.get("charge", charge))
        spin = int(info["mult"]) - 1 if "mult" in info else int(info.get("spin", spin))
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
