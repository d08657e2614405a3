"""The file of labelled molecules: one HDF5 file of ragged arrays, Bohr and Hartree, read lazily.

Every record is a molecule with its converged Fock matrix as a lower triangle in PySCF's spherical AO order. Arrays of
numbers per molecule are read when the file is opened, matrices on access.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from pyscf_mlham.checkpoint import replacement
from pyscf_mlham.errors import DataError
from pyscf_mlham.scf.problem import check_functional
from pyscf_mlham.untrusted import check_basis, stored_dataset

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

FORMAT = "pyscf_mlham-hamiltonians"
SCHEMA_VERSION = 1
CONVENTION = "pyscf-spherical"
SPLITS = ("train", "val", "test")
COUNTS = ("n_atoms", "n_ao", "charge", "spin")
SCALARS = ("energy", "gap")
TEXTS = ("source", "name", "group", "split")
RAGGED = ("numbers", "positions", "fock")
KINDS: Mapping[Any, Any] = {"str": str, "int": int, "bool": bool, "float": float}
MOST_MATRICES = 16  # in a file
MOST_ORBITALS = 30000  # of a molecule; a triangle has 2 GB
LARGEST_FOCK = 1e4  # Hartree; a larger element is an error


@dataclass(frozen=True)
class Level:
    """Level of theory of the labels, the same for all of one file.

    Attributes:
        xc: PySCF's name of the functional, "hf" for Hartree-Fock.
        basis: PySCF's name of the basis set.
        grid_level: PySCF's grid level.
        density_fit: whether the two-electron integrals are density-fitted.
        conv_tol: energy criterion of the SCF, Hartree.
    """

    xc: str
    basis: str
    grid_level: int = 3
    density_fit: bool = False
    conv_tol: float = 1e-9


class Record(NamedTuple):
    """One labelled molecule.

    Attributes:
        name: name of the geometry, unique in its file.
        group: identity of the molecule, shared by its conformers and rattled copies.
        source: source of the geometry.
        split: train, val or test.
        numbers: (N,) atomic numbers.
        positions: (N, 3) Bohr.
        charge: total charge.
        spin: n_alpha - n_beta.
        fock: (n, n) converged Fock matrix, Hartree; of alpha electrons if spin is not zero.
        energy: total energy, Hartree.
        gap: HOMO-LUMO gap, Hartree.
        extra: other matrices of the same shape by the name of their dataset, see `named_by_spin`.
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

    @property
    def matrices(self) -> dict[str, Array]:
        """All matrices by the name of their dataset."""
        return {"fock": self.fock, **self.extra}

    def by_spin(self, name: str) -> Array | None:
        """Return a matrix (n, n), of an open shell (2, n, n) of alpha and beta electrons; None if it is missing."""
        names = _names(name)[: 2 if self.spin else 1]
        found = [self.matrices[key] for key in names if key in self.matrices]
        return None if len(found) < len(names) else np.stack(found) if self.spin else found[0]


def _names(name: str) -> tuple[str, str]:
    return name, f"{name}_beta"


def named_by_spin(name: str, matrix: Array) -> dict[str, Array]:
    """Name matrices by spin: fock and fock_beta, fock_scc and fock_scc_beta; the first one alone for both spins.

    Args:
        matrix: (n, n), or (2, n, n) of alpha and beta electrons.
    """
    return dict(zip(_names(name), matrix if matrix.ndim == 3 else [matrix], strict=False))


def has_spins(matrices: Iterable[str]) -> bool:
    """Whether the records of a file have matrices of both spins."""
    return _names("fock")[1] in matrices


class HamiltonianFile:
    """A file of labelled molecules, open for reading.

    Args:
        path: path of the file.

    Attributes:
        level: level of theory.
        split: (M,) train, val or test.
        group, name, source: (M,) strings.
        n_atoms, n_ao, charge, spin: (M,) integers.
        energy, gap: (M,) Hartree.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such file; check the path.")
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be read as HDF5 ({error}); check the path or copy it again."
            ) from error
        try:
            self._read_tables()
        except BaseException:
            self._file.close()
            raise

    def _read_tables(self) -> None:
        attributes = dict(self._file.attrs)
        _check_attributes(self.path, attributes)
        try:
            self.level = Level(**{f.name: KINDS[f.type](attributes[f.name]) for f in fields(Level)})
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.path}: wrong attributes of the level of theory ({error}).") from error
        if missing := [key for key in (*COUNTS, *SCALARS, *TEXTS, *RAGGED) if key not in self._file]:
            raise DataError(f"{self.path}: datasets {missing} are missing; the file is damaged or of another kind.")
        self.matrices = [k for k in self._file if k == "fock" or k.startswith("fock_")][:MOST_MATRICES]
        sets = {k: stored_dataset(self._file, k) for k in (*COUNTS, *SCALARS, *TEXTS, *RAGGED, *self.matrices)}
        count = sets["n_atoms"].size
        self._check_sets(sets, dict.fromkeys((*COUNTS, *SCALARS, *TEXTS), (count,)))
        self.n_atoms, self.n_ao, self.charge, self.spin = (sets[k][:].astype(np.int64) for k in COUNTS)
        if count and not (min(self.n_atoms.min(), self.n_ao.min()) >= 0 and self.n_ao.max() <= MOST_ORBITALS):
            raise DataError(f"{self.path}: n_atoms or n_ao is out of range; the file is damaged.")
        self._atoms = np.concatenate([[0], np.cumsum(self.n_atoms)])
        self._triangles = np.concatenate([[0], np.cumsum(self.n_ao * (self.n_ao + 1) // 2)])
        atoms, expected = int(self._atoms[-1]), dict.fromkeys(self.matrices, (int(self._triangles[-1]),))
        self._check_sets(sets, expected | {"numbers": (atoms,), "positions": (atoms, 3)})
        self.energy, self.gap = (sets[k][:] for k in SCALARS)
        self.source, self.name, self.group, self.split = (sets[k].asstr()[:] for k in TEXTS)
        self._numbers, self._positions = sets["numbers"][:].astype(np.int64), sets["positions"][:]
        if unknown := sorted(set(self.split) - set(SPLITS)):
            raise DataError(f"{self.path}: unknown splits {unknown}; expected {', '.join(SPLITS)}.")

    def _check_sets(self, sets: Mapping[str, h5py.Dataset], shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise DataError for shapes other than these, and for datasets that are not numbers, or not texts."""
        for key, shape in shapes.items():
            kinds = "O" if key in TEXTS else "iu" if key in (*COUNTS, "numbers") else "f"
            if sets[key].shape != shape:
                raise DataError(f"{self.path}: {key} has shape {sets[key].shape}, expected {shape}.")
            if sets[key].dtype.kind not in kinds:
                raise DataError(f"{self.path}: {key} has type {sets[key].dtype}, expected one of kind {kinds!r}.")

    def __len__(self) -> int:
        return len(self.n_atoms)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def indices(self, split: str) -> IntArray:
        """Return the records of one split."""
        return np.flatnonzero(self.split == split)

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers in the file."""
        return tuple(int(z) for z in np.unique(self._numbers))

    def numbers(self, index: int) -> IntArray:
        """Return the atomic numbers of a record, (N,)."""
        return np.asarray(self._numbers[self._atoms[index] : self._atoms[index + 1]])

    def positions(self, index: int) -> Array:
        """Return the positions of a record, (N, 3) Bohr."""
        return np.asarray(self._positions[self._atoms[index] : self._atoms[index + 1]])

    def __getitem__(self, index: int) -> Record:
        """Read one record and check it.

        Args:
            index: 0 .. len - 1.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        start, stop = self._triangles[index], self._triangles[index + 1]
        matrices: dict[str, Array] = {}
        for key in self.matrices:
            try:
                triangle = self._file[key][start:stop]
            except OSError as error:
                raise DataError(
                    f"{self._place(index)}: {key} cannot be read ({error}); the file is damaged."
                ) from error
            matrices[key] = matrix_from_triangle(triangle, int(self.n_ao[index]))
        record = Record(
            name=str(self.name[index]),
            group=str(self.group[index]),
            source=str(self.source[index]),
            split=str(self.split[index]),
            numbers=self.numbers(index),
            positions=self.positions(index),
            charge=int(self.charge[index]),
            spin=int(self.spin[index]),
            fock=matrices.pop("fock"),
            energy=float(self.energy[index]),
            gap=float(self.gap[index]),
            extra=matrices,
        )
        check_record(record, self._place(index))
        return record

    def _place(self, index: int) -> str:
        return f"{self.path}: record {index} ({self.name[index]})"

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))


def _check_attributes(path: Path, attributes: dict[str, Any]) -> None:
    found, version = attributes.get("format"), attributes.get("schema_version")
    if found != FORMAT:
        raise DataError(f"{path}: format is {found!r}, expected {FORMAT!r}; use `mlham data import` for other formats.")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{path}: schema version {version}, this installation reads {SCHEMA_VERSION}; update pyscf_mlham."
        )
    if missing := [k for k in ("xc", "basis", "grid_level", "density_fit", "conv_tol") if k not in attributes]:
        raise DataError(f"{path}: attributes {missing} of the level of theory are missing.")
    try:
        check_basis(str(attributes["basis"]))
        check_functional(str(attributes["xc"]))
    except (ValueError, DataError) as error:
        raise DataError(f"{path}: {error}") from error
    if attributes.get("ao_convention") != CONVENTION:
        raise DataError(f"{path}: AO convention {attributes.get('ao_convention')!r}, expected {CONVENTION!r}.")
    if attributes.get("units") != "bohr, hartree":
        raise DataError(f"{path}: units are {attributes.get('units')!r}, expected 'bohr, hartree'.")


def check_record(record: Record, place: str) -> None:
    """Raise DataError if a record is invalid."""
    if not np.all(np.isfinite(record.positions)):
        raise DataError(f"{place}: positions are not finite.")
    for key, matrix in record.matrices.items():
        if not np.all(np.isfinite(matrix)) or np.abs(matrix).max(initial=0.0) > LARGEST_FOCK:
            raise DataError(f"{place}: {key} is not finite, or not a Fock matrix in Hartree.")
    if not (np.isfinite(record.energy) and np.isfinite(record.gap)):
        raise DataError(f"{place}: energy or gap is not finite.")
    if len(record.numbers) == 0 or record.numbers.min() < 1 or record.numbers.max() > 118:
        raise DataError(f"{place}: atomic numbers are not between 1 and 118.")
    electrons = int(record.numbers.sum()) - record.charge
    if electrons < 1 or (electrons - record.spin) % 2 or abs(record.spin) > electrons:
        raise DataError(f"{place}: {electrons} electrons cannot have spin {record.spin} (n_alpha - n_beta).")


def write_file(
    path: Path,
    level: Level,
    records: Iterable[Record],
    attributes: Mapping[str, Any],
    failed: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> None:
    """Write records as one file, under a temporary name first.

    Args:
        path: path of the file, replaced if it exists.
        records: records, read once, one after the other.
        attributes: provenance to add, such as the PySCF version.
        failed: name and reason of molecules without a label, by their key.
    """
    with replacement(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(format=FORMAT, schema_version=SCHEMA_VERSION, ao_convention=CONVENTION)
        file.attrs.update(units="bohr, hartree", fock_storage="lower triangle, row-major, float32")
        file.attrs.update(asdict(level) | dict(attributes))
        _write_records(file, records)
        columns = {
            "key": list(failed),
            "name": [n for n, _ in failed.values()],
            "reason": [r for _, r in failed.values()],
        }
        for key, column in columns.items():
            _write_texts(file, f"failed_{key}", column)


def _write_records(file: h5py.File, records: Iterable[Record]) -> None:
    tables: dict[str, list[Any]] = {key: [] for key in (*TEXTS, *COUNTS, *SCALARS, "numbers", "positions")}
    sets: dict[str, h5py.Dataset] = {}
    for record in records:
        sizes = {"n_atoms": len(record.numbers), "n_ao": len(record.fock)}
        for key, column in tables.items():
            column.append(sizes[key] if key in sizes else getattr(record, key))
        if not sets:
            sets = {key: _growing(file, key) for key in record.matrices}
        if sets.keys() != record.matrices.keys():
            raise DataError(f"record {record.name}: has {sorted(record.matrices)}, earlier ones {sorted(sets)}.")
        for key, matrix in record.matrices.items():
            start, triangle = len(sets[key]), triangle_from_matrix(matrix)
            sets[key].resize((start + len(triangle),))
            sets[key][start:] = triangle
    if not sets:
        _growing(file, "fock")
    for key in TEXTS:
        _write_texts(file, key, tables[key])
    for key in COUNTS:
        file.create_dataset(key, data=np.array(tables[key], dtype=np.int32))
    for key in SCALARS:
        file.create_dataset(key, data=np.array(tables[key], dtype=np.float64))
    file.create_dataset("numbers", data=np.concatenate([np.zeros(0), *tables["numbers"]]).astype(np.uint8))
    file.create_dataset("positions", data=np.concatenate([np.zeros((0, 3)), *tables["positions"]]))


def _write_texts(file: h5py.File, key: str, texts: Sequence[str]) -> None:
    file.create_dataset(key, data=np.array(texts, dtype=object), dtype=h5py.string_dtype())


def _growing(file: h5py.File, key: str) -> h5py.Dataset:
    return file.create_dataset(
        key, (0,), maxshape=(None,), dtype="f4", chunks=(16384,), compression="gzip", shuffle=True
    )


def triangle_from_matrix(matrix: Array) -> NDArray[np.float32]:
    """Return the lower triangle of a symmetric matrix, row-major, (n (n+1) / 2,) float32."""
    return matrix[np.tril_indices(len(matrix))].astype(np.float32)


def matrix_from_triangle(triangle: NDArray[np.floating], size: int) -> Array:
    """Return the symmetric matrix (n, n) of a lower triangle; triangle: (n (n+1) / 2,) row-major."""
    matrix = np.zeros((size, size))
    rows, columns = np.tril_indices(size)
    matrix[rows, columns] = triangle
    matrix[columns, rows] = triangle
    return matrix
