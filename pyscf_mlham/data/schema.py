"""The file of labelled molecules: one HDF5 file of ragged arrays, Bohr and Hartree, read lazily, written as a whole.

Every record is a molecule with its converged Fock matrix as a lower triangle in PySCF's spherical AO order. Arrays of
numbers per molecule are read when the file is opened, matrices on access. A file of crystals, whose level of theory has
a pseudopotential, also has lattice, dimension and mesh of k points, and F between cells, (N_k, n, n), in place of
triangles.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np

from pyscf_mlham.arrays import Array, IntArray
from pyscf_mlham.checkpoint import replacement
from pyscf_mlham.data.record import SPLITS, Level, Periodic, Record, check_record
from pyscf_mlham.errors import DataError
from pyscf_mlham.scf.problem import check_functional
from pyscf_mlham.untrusted import check_basis, stored_dataset

FORMAT = "pyscf_mlham-hamiltonians"
CHANGES = "pyscf_mlham-changes"  # F - F_scc in place of F, in half precision
# Attributes of every file, besides its format.
HEAD = {"schema_version": 1, "ao_convention": "pyscf-spherical", "units": "bohr, hartree"}
COUNTS = ("n_atoms", "n_ao", "charge", "spin")
SCALARS = ("energy", "gap")
TEXTS = ("source", "name", "group", "split")
RAGGED = ("numbers", "positions", "fock")
CRYSTAL: Mapping[str, tuple[str, tuple[int, ...]]] = {  # type, and shape for each record
    "lattice": ("f8", (3, 3)),
    "dimension": ("i4", ()),
    "mesh": ("i4", (3,)),
}
WHOLE = (*COUNTS, "numbers", "dimension", "mesh")  # datasets of integers
OPTIONAL = {"pseudo", "smearing", "approximate"}  # attributes of the level of theory
MOST_MATRICES = 16  # in a file
MOST_ORBITALS = 30000  # of a molecule; a triangle has 2 GB
MOST_KPTS = 10000


class HamiltonianFile(AbstractContextManager["HamiltonianFile"]):
    """A file of labelled molecules, open for reading.

    Args:
        formats: kinds of file to accept; one of `CHANGES` has F - F_scc in place of F.

    Attributes:
        format: kind of file, one of formats.
        level: level of theory.
        split: (M,) train, val or test.
        group, name, source: (M,) strings.
        n_atoms, n_ao, charge, spin: (M,) integers.
        energy, gap: (M,) Hartree.
    """

    def __init__(self, path: str | Path, formats: Sequence[str] = (FORMAT,)) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such file; check the path.")
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read as HDF5 ({error}); check the path.") from error
        try:
            self._read_tables(formats)
        except BaseException:
            self._file.close()
            raise

    def _read_tables(self, formats: Sequence[str]) -> None:
        attributes = dict(self._file.attrs)
        self.level = _level_of(self.path, attributes, formats)
        self.format = str(attributes["format"])
        crystal = CRYSTAL if self.level.pseudo else {}
        columns = (*COUNTS, *SCALARS, *TEXTS, *crystal)
        if missing := [key for key in (*columns, *RAGGED) if key not in self._file]:
            raise DataError(f"{self.path}: datasets {missing} are missing; the file is damaged or of another kind.")
        self.matrices = [k for k in self._file if k == "fock" or k.startswith("fock_")][:MOST_MATRICES]
        sets = {k: stored_dataset(self._file, k) for k in (*columns, *RAGGED, *self.matrices)}
        count = sets["n_atoms"].size
        self._check_sets(sets, {key: (count, *CRYSTAL.get(key, ("", ()))[1]) for key in columns})
        self.n_atoms, self.n_ao, self.charge, self.spin = (sets[k][:].astype(np.int64) for k in COUNTS)
        if count and not (min(self.n_atoms.min(), self.n_ao.min()) >= 0 and self.n_ao.max() <= MOST_ORBITALS):
            raise DataError(f"{self.path}: n_atoms or n_ao is out of range; the file is damaged.")
        sizes = self.n_ao * (self.n_ao + 1) // 2
        if crystal:
            self._lattice, self._dimension, self._mesh = (sets[key][:] for key in CRYSTAL)
            self._check_crystals()
            sizes = self.n_ao**2 * np.prod(self._mesh, axis=1, dtype=np.int64)
        self._atoms, self._triangles = (np.concatenate([[0], np.cumsum(each)]) for each in (self.n_atoms, sizes))
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
            kinds = "O" if key in TEXTS else "iu" if key in WHOLE else "f"
            if sets[key].shape != shape:
                raise DataError(f"{self.path}: {key} has shape {sets[key].shape}, expected {shape}.")
            if sets[key].dtype.kind not in kinds:
                raise DataError(f"{self.path}: {key} has type {sets[key].dtype}, expected one of kind {kinds!r}.")

    def _check_crystals(self) -> None:
        points = np.prod(self._mesh.astype(float), axis=1)
        if np.any(self._mesh < 1) or np.any(points > MOST_KPTS):
            raise DataError(f"{self.path}: mesh is out of range; the file is damaged.")
        if not np.all(np.isfinite(self._lattice)) or np.any(np.abs(np.linalg.det(self._lattice)) < 1):
            raise DataError(f"{self.path}: lattice vectors do not span a cell; the file is damaged.")
        if np.any((self._dimension < 1) | (self._dimension > 3)):
            raise DataError(f"{self.path}: dimension must be 1, 2 or 3; the file is damaged.")

    def periodic(self, index: int) -> Periodic | None:
        """Return lattice and k points of a record, None for a molecule."""
        if not self.level.pseudo:
            return None
        return Periodic(self._lattice[index], int(self._dimension[index]), self._mesh[index].astype(np.int64))

    def __len__(self) -> int:
        return len(self.n_atoms)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def failed(self) -> dict[str, tuple[str, str]]:
        """Name of each molecule that has no label, and the reason, by its key."""
        if "failed_key" not in self._file:
            return {}
        columns = (stored_dataset(self._file, f"failed_{k}").asstr()[:].tolist() for k in ("key", "name", "reason"))
        return {key: (name, reason) for key, name, reason in zip(*columns, strict=True)}

    def indices(self, split: str) -> IntArray:
        """Return the records of one split."""
        return np.flatnonzero(self.split == split)

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers in the file."""
        return tuple(np.unique(self._numbers).tolist())

    def numbers(self, index: int) -> IntArray:
        """Return the atomic numbers of a record, (N,)."""
        return np.asarray(self._numbers[self._atoms[index] : self._atoms[index + 1]])

    def positions(self, index: int) -> Array:
        """Return the positions of a record, (N, 3) Bohr."""
        return np.asarray(self._positions[self._atoms[index] : self._atoms[index + 1]])

    def __getitem__(self, index: int) -> Record:
        """Read one record and check it."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        place = f"{self.path}: record {index} ({self.name[index]})"
        stored: dict[str, Array] = {}
        for key in self.matrices:
            try:
                flat = self._file[key][self._triangles[index] : self._triangles[index + 1]]
            except OSError as error:
                raise DataError(f"{place}: {key} cannot be read ({error}); the file is damaged.") from error
            stored[key] = flat
        values: dict[str, Any] = {name: str(getattr(self, name)[index]) for name in TEXTS}
        values |= {name: getattr(self, name)[index].item() for name in ("charge", "spin", *SCALARS)}
        values |= {"numbers": self.numbers(index), "positions": self.positions(index)}
        record = Record.from_stored(values, stored, int(self.n_ao[index]), self.periodic(index))
        check_record(record, place)
        return record

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))


def opened(path: Path) -> HamiltonianFile:
    """Return a file that stays open in a worker process, which reads many of its records one by one."""
    return _opened(path, path.stat().st_mtime_ns)


@cache
def _opened(path: Path, modified: int) -> HamiltonianFile:
    del modified  # part of the key: a file that was replaced is another one
    return HamiltonianFile(path, (FORMAT, CHANGES))


def _level_of(path: Path, attributes: dict[str, Any], formats: Sequence[str]) -> Level:
    """Return the level of theory of a file; raise DataError for files of another kind or version."""
    if (kind := str(attributes.get("format"))) not in formats:
        if kind == CHANGES:
            raise DataError(f"{path} is compressed; `mlham data baseline` restores its labels in another file.")
        raise DataError(f"{path}: format is {kind!r}, expected {FORMAT!r}; use `mlham data import` for other formats.")
    for key, expected in HEAD.items():
        if np.ndim(found := attributes.get(key, "")) or found != expected:
            advice = "; update pyscf_mlham" if key == "schema_version" else ""
            raise DataError(f"{path}: {key} is {found!r}, expected {expected!r}{advice}.")
    known = [f for f in fields(Level) if f.name in attributes]
    if missing := {f.name for f in fields(Level)} - {f.name for f in known} - OPTIONAL:
        raise DataError(f"{path}: attributes {sorted(missing)} of the level of theory are missing.")
    try:
        level = Level(**{f.name: type(getattr(Level, f.name))(attributes[f.name]) for f in known})
        for name in filter(None, (level.basis, level.pseudo)):
            check_basis(name)
        check_functional(level.xc)
    except (TypeError, ValueError, DataError) as error:
        raise DataError(f"{path}: wrong attributes of the level of theory ({error}).") from error
    return level


def check_new(path: Path) -> None:
    """Raise DataError if an output file exists already."""
    if path.exists():
        raise DataError(f"{path} exists already; name another output file.")


def write_file(
    path: Path,
    level: Level,
    records: Iterable[Record],
    attributes: Mapping[str, Any],
    failed: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    kind: str = FORMAT,
) -> None:
    """Write records, read once, as one file, under a temporary name first; an existing file is replaced.

    Args:
        attributes: provenance to add, such as the PySCF version.
        failed: name and reason of molecules without a label, by their key.
        kind: `FORMAT`, or `CHANGES` of records with F - F_scc in place of F.
    """
    storage = "float16" if kind == CHANGES else "float32"
    with replacement(path) as temporary, h5py.File(temporary, "w") as file:
        elements = "all elements" if level.pseudo else "lower triangle"
        head = {"format": kind, **HEAD, "fock_storage": f"{elements}, row-major, {storage}"}
        file.attrs.update(head | level.described() | dict(attributes))
        _write_records(file, records, CRYSTAL if level.pseudo else {}, storage)
        entries = [(key, *failure) for key, failure in failed.items()]
        for place, key in enumerate(("key", "name", "reason")):
            _write_texts(file, f"failed_{key}", [entry[place] for entry in entries])


def _write_records(file: h5py.File, records: Iterable[Record], crystal: Mapping[str, Any], storage: str) -> None:
    """Write matrices one by one, and all other columns at the end."""
    tables: dict[str, list[Any]] = {key: [] for key in (*TEXTS, *COUNTS, *SCALARS, *crystal, "numbers", "positions")}
    sets: dict[str, h5py.Dataset] = {}
    for record in records:
        if bool(crystal) != (record.periodic is not None):
            raise DataError(f"record {record.name}: a file has either molecules or crystals, by its level of theory.")
        values = record._asdict() | {"n_atoms": len(record.numbers), "n_ao": record.fock.shape[-1]}
        values |= record.periodic._asdict() if record.periodic else {}
        for key, column in tables.items():
            column.append(values[key])
        if not sets:
            sets = {key: _growing(file, key, storage) for key in record.matrices}
        if sets.keys() != record.matrices.keys():
            raise DataError(f"record {record.name}: has {sorted(record.matrices)}, earlier ones {sorted(sets)}.")
        for key, flat in record.stored.items():
            start = len(sets[key])
            sets[key].resize((start + len(flat),))
            sets[key][start:] = flat
    if not sets:
        _growing(file, "fock", storage)
    for key in TEXTS:
        _write_texts(file, key, tables[key])
    kinds = dict.fromkeys(COUNTS, ("i4", ())) | dict.fromkeys(SCALARS, ("f8", ())) | dict(crystal)
    for key, (kind, shape) in kinds.items():
        file.create_dataset(key, data=np.array(tables[key], dtype=kind).reshape(-1, *shape))
    file.create_dataset("numbers", data=np.concatenate([np.zeros(0), *tables["numbers"]]).astype(np.uint8))
    file.create_dataset("positions", data=np.concatenate([np.zeros((0, 3)), *tables["positions"]]))


def _write_texts(file: h5py.File, key: str, texts: Sequence[str]) -> None:
    file.create_dataset(key, data=np.array(texts, dtype=object), dtype=h5py.string_dtype())


def _growing(file: h5py.File, key: str, storage: str) -> h5py.Dataset:
    how: dict[str, Any] = {"dtype": storage, "chunks": (16384,), "compression": "gzip", "shuffle": True}
    return file.create_dataset(key, (0,), maxshape=(None,), **how)
