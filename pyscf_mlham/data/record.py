"""Labelled molecules and crystals, their level of theory, and their matrices as stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import lib

from pyscf_mlham.ao.lattice import kpts_of_mesh
from pyscf_mlham.arrays import Array, IntArray
from pyscf_mlham.errors import DataError
from pyscf_mlham.options import option

SPLITS = ("train", "val", "test")
GRID_LEVELS = range(10)  # PySCF's
LARGEST_FOCK = 1e4  # Hartree; a larger element is an error


@dataclass(frozen=True)
class Calculation:
    """Settings of an SCF; the help texts describe the options.

    Attributes:
        xc: PySCF's name of the functional, "hf" for Hartree-Fock.
        basis: PySCF's name of the basis set.
        grid_level: PySCF's grid level.
        density_fit: whether the two-electron integrals are density-fitted.
        conv_tol: energy criterion of the SCF, Hartree.
    """

    xc: str = option("b3lyp", "name of the functional, or hf")
    basis: str = option("def2-svp", "PySCF's name of the basis set")
    grid_level: int = option(3, "PySCF's grid level, 0 to 9", "--grid", choices=GRID_LEVELS, metavar="LEVEL")
    density_fit: bool = option(False, "density-fitted integrals", "--df")
    conv_tol: float = option(1e-9, "energy criterion, Hartree; that of the gradient is its root", above=0)


@dataclass(frozen=True)
class Level(Calculation):
    """Level of theory of the labels, the same for all of one file.

    Attributes:
        pseudo: PySCF's name of the pseudopotentials of crystals, "" for molecules.
        smearing: width of the Fermi function of the occupations, Hartree; 0 without.
        approximate: whether the SCF was converged in a coarse field.
    """

    pseudo: str = option("", "pseudopotential: the geometries are crystals; gth-pbe, for example")
    smearing: float = option(0.0, "of the occupations of crystals, Hartree", least=0)
    approximate: bool = False

    def described(self) -> dict[str, Any]:
        """Return the attributes, without those of crystals and of approximate labels for others."""
        of_others = {"pseudo", "smearing"} if not self.pseudo else set()
        return {k: v for k, v in asdict(self).items() if k not in of_others and (v or k != "approximate")}


class Periodic(NamedTuple):
    """What makes a geometry a crystal."""

    lattice: Array  # (3, 3) lattice vectors in rows, Bohr
    dimension: int  # number of periodic directions, those of the first lattice vectors
    mesh: IntArray  # (3,) numbers of k points, Gamma among them

    @property
    def kpts(self) -> Array:
        """K points, (N_k, 3) 1/Bohr."""
        return kpts_of_mesh(self.mesh, self.lattice)


class Record(NamedTuple):
    """One labelled molecule.

    Attributes:
        name: name of the geometry, not necessarily unique.
        group: identity of the molecule, shared by its conformers and rattled copies.
        source: source of the geometry.
        split: train, val or test.
        numbers: (N,) atomic numbers.
        positions: (N, 3) Bohr.
        charge: total charge.
        spin: n_alpha - n_beta.
        fock: (n, n) converged Fock matrix, Hartree; of alpha electrons if spin is not zero. Of a crystal (N_k, n, n),
            between the zeroth cell and others, see `cells_from_bloch`.
        energy: total energy, Hartree.
        gap: HOMO-LUMO gap, the smallest of the spins', Hartree.
        extra: other matrices of the same shape by the name of their dataset, see `named_by_spin`.
        periodic: lattice and k points of a crystal, None for a molecule.
    """

    name: str
    group: str
    source: str
    split: str
    numbers: IntArray
    positions: Array
    charge: int
    spin: int
    fock: Array
    energy: float
    gap: float
    extra: Mapping[str, Array] = MappingProxyType({})
    periodic: Periodic | None = None

    @property
    def matrices(self) -> dict[str, Array]:
        """All matrices by the name of their dataset."""
        return {"fock": self.fock, **self.extra}

    @property
    def stored(self) -> dict[str, NDArray[np.float32]]:
        """All matrices as they are stored: lower triangles, of a crystal all elements, in one row."""
        return {
            key: matrix.astype(np.float32).ravel() if self.periodic else triangle_from_matrix(matrix)
            for key, matrix in self.matrices.items()
        }

    @classmethod
    def from_stored(
        cls, values: Mapping[str, Any], stored: Mapping[str, Array], size: int, periodic: Periodic | None
    ) -> Record:
        """Return a record of its matrices as stored, n = size, and of all its other fields."""
        matrices = {
            key: flat.astype(np.float64).reshape(-1, size, size) if periodic else matrix_from_triangle(flat, size)
            for key, flat in stored.items()
        }
        return cls(**values, fock=matrices.pop("fock"), extra=matrices, periodic=periodic)

    def by_spin(self, name: str) -> Array | None:
        """Return a matrix (n, n), of an open shell (2, n, n) of alpha and beta electrons; None if it is missing."""
        names = _names(name)[: 2 if self.spin else 1]
        found = [self.matrices[key] for key in names if key in self.matrices]
        return None if len(found) < len(names) else np.stack(found) if self.spin else found[0]


def _names(name: str) -> tuple[str, str]:
    return name, f"{name}_beta"


def named_by_spin(name: str, matrix: Array) -> dict[str, Array]:
    """Name a matrix (n, n), or (2, n, n) of alpha and beta electrons, by spin: fock and fock_beta."""
    return dict(zip(_names(name), matrix if matrix.ndim == 3 else [matrix], strict=False))


def has_spins(matrices: Iterable[str]) -> bool:
    """Whether the records of a file have matrices of both spins."""
    return _names("fock")[1] in matrices


def with_spins(record: Record) -> Record:
    """Repeat the matrices of a closed shell for the beta electrons, under their names."""
    if has_spins(record.extra):
        return record
    matrices: dict[str, Array] = {}
    for name, matrix in record.matrices.items():
        matrices |= named_by_spin(name, np.stack([matrix, matrix]))
    return record._replace(fock=matrices.pop("fock"), extra=matrices)


def check_record(record: Record, place: str) -> None:
    """Raise DataError if a record is invalid."""
    if not np.all(np.isfinite(record.positions)):
        raise DataError(f"{place}: positions are not finite.")
    for key, matrix in record.matrices.items():
        if not np.abs(matrix).max(initial=0.0) <= LARGEST_FOCK:  # or not a number
            raise DataError(f"{place}: {key} is not finite, or not a Fock matrix in Hartree.")
    if not (np.isfinite(record.energy) and np.isfinite(record.gap)):
        raise DataError(f"{place}: energy or gap is not finite.")
    if len(record.numbers) == 0 or record.numbers.min() < 1 or record.numbers.max() > 118:
        raise DataError(f"{place}: atomic numbers are not between 1 and 118.")
    if record.periodic and record.spin:
        raise DataError(f"{place}: a crystal with spin {record.spin}; only closed shells are supported.")
    electrons = int(record.numbers.sum()) - record.charge
    if electrons < 1 or (electrons - record.spin) % 2 or abs(record.spin) > electrons:
        raise DataError(f"{place}: {electrons} electrons cannot have spin {record.spin} (n_alpha - n_beta).")


def triangle_from_matrix(matrix: Array) -> NDArray[np.float32]:
    """Return the lower triangle of a symmetric matrix, row-major, (n (n+1) / 2,) float32."""
    return np.asarray(lib.pack_tril(matrix), dtype=np.float32)


def matrix_from_triangle(triangle: NDArray[np.floating], size: int) -> Array:
    """Return the symmetric matrix (n, n) of a lower triangle; triangle: (n (n+1) / 2,) row-major."""
    return np.asarray(lib.unpack_tril(np.asarray(triangle, dtype=np.float64).reshape(size * (size + 1) // 2)))
