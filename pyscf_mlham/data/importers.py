"""Import of public sets of Hamiltonians into the project's schema: QH9 and the MD17 sets of SchNOrb.

Neither format contains the order of its orbitals. A few orders are in use; the correct one is found by comparison with
PySCF's overlap if the file has one, otherwise with H0. A record that agrees in no order is rejected.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import pickletools
import sqlite3
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.data import nist

from pyscf_mlham.ao.layout import OrbitalLayout
from pyscf_mlham.arrays import Array
from pyscf_mlham.data.geometries import group_of
from pyscf_mlham.data.record import Level, Record, check_record
from pyscf_mlham.data.splits import splits_by_group
from pyscf_mlham.errors import DataError, MLHamError
from pyscf_mlham.h0 import hamiltonian

# Positions of a shell's functions in the file, listed in PySCF's order: x, y, z for p and m = -l .. l beyond.
ORDERS: dict[str, dict[int, tuple[int, ...]]] = {
    "pyscf": {},
    "m = 0, 1, -1, 2, -2 (Psi4, ORCA)": {1: (1, 2, 0), 2: (4, 2, 0, 1, 3)},
    "p as x, y, z, then m = 0, 1, -1, 2, -2": {2: (4, 2, 0, 1, 3)},
    "p as y, z, x": {1: (2, 0, 1)},
}
MOST_GAIN = 100  # by compression, of a file of matrices
SAME_OVERLAP = 1e-3  # largest difference of overlaps in the same order
NEAR_H0 = 0.1  # Hartree; the mean absolute difference of a Fock matrix from H0 is 0.03


class RawRecord(NamedTuple):
    """A labelled molecule of another program, in the format of its file."""

    name: str
    group: str  # name of the molecule, "" if the format has none
    numbers: NDArray[np.int64]  # (N,) atomic numbers
    positions: Array  # (N, 3) Angstrom
    fock: Array  # (n, n) Fock matrix in the orbital order of the file, Hartree
    overlap: Array | None  # (n, n) in the same order, None if the format has none
    energy: float  # total energy, Hartree, not a number if the format has none


def import_records(
    path: Path, level: Level, shares: tuple[float, float] = (0.05, 0.05)
) -> Iterator[Record | DataError]:
    """Read a public set, see `reader_of`, record by record; an unusable record yields an error with its name."""
    for raw in _read(reader_of(path), path):
        if isinstance(raw, DataError):
            yield raw
            continue
        place = f"{path}: record {raw.name}"
        try:
            mol = _mol(raw, level, place)
            record: Record | DataError = _record(raw, mol, find_order(raw, mol, place), path.stem, shares, place)
        except DataError as error:
            record = error
        except (ValueError, TypeError, IndexError, ArithmeticError, np.linalg.LinAlgError) as error:
            record = DataError(f"{place}: it cannot be used ({error}).")
        yield record


def _read(reader: Callable[[Path], Iterator[RawRecord | DataError]], path: Path) -> Iterator[RawRecord | DataError]:
    try:
        yield from reader(path)
    except MLHamError:
        raise
    except Exception as error:  # readers of damaged files raise errors of all types
        raise DataError(f"{path}: cannot be read any further ({type(error).__name__}: {error}).") from error


def reader_of(path: Path) -> Callable[[Path], Iterator[RawRecord | DataError]]:
    """Return the reader of a file's format, recognised by its suffix and its tables."""
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path.")
    if path.suffix == ".npz":
        return read_md17_npz
    if path.is_dir() and (path / "data.mdb").exists():
        return read_qh9_lmdb
    try:
        with _readonly(path) as connection:
            tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
    except sqlite3.Error as error:
        raise DataError(f"{path}: neither SQLite, LMDB nor npz ({error}); expected QH9 or MD17 data.") from error
    if "data" in tables:
        return read_qh9_sqlite
    if "systems" in tables:
        return read_md17_ase
    raise DataError(f"{path}: its tables {sorted(tables)} are those of neither QH9 (data) nor ASE (systems).")


def read_qh9_sqlite(path: Path) -> Iterator[RawRecord | DataError]:
    """Read QH9's database: rows of id, [geometry,] N, Z (int32), positions (float64, Angstrom), matrix (float64)."""
    with _readonly(path) as connection:
        for row in connection.execute("select * from data"):
            yield _qh9(path, row[:-4], *row[-4:])


def _readonly(path: Path) -> contextlib.closing[sqlite3.Connection]:
    """Open a database whose own views and triggers cannot do more than read it."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    connection.execute("PRAGMA trusted_schema = OFF")
    return contextlib.closing(connection)


def read_qh9_lmdb(path: Path) -> Iterator[RawRecord | DataError]:
    """Read QH9's LMDB folder; its entries are pickled, and only numbers and bytes in them are accepted."""
    try:
        import lmdb
    except ImportError as error:
        raise DataError("LMDB files need the package lmdb; pip install 'pyscf-mlham[lmdb]'.") from error
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        for _, value in transaction.cursor():
            entry = _unpickled(value)
            identity = [entry[k] for k in ("id", "geo_id") if k in entry]
            yield _qh9(path, identity, *(entry.get(k) for k in ("num_nodes", "atoms", "pos", "Ham")))


def _unpickled(value: bytes) -> dict[str, Any]:
    """Return a pickled dictionary of numbers and bytes; raise DataError for anything else."""
    try:
        for code, number, _ in pickletools.genops(value):  # the unpickler makes room for so many objects
            if "PUT" in code.name and int(number or 0) > len(value):
                raise DataError(f"a pickled entry of {len(value)} bytes numbers {number} objects.")
        return dict(_NumbersOnly(io.BytesIO(value)).load())
    except DataError:
        raise
    except Exception as error:  # the unpickler raises errors of all types
        raise DataError(f"an entry cannot be unpickled ({type(error).__name__}: {error}).") from error


class _NumbersOnly(pickle.Unpickler):
    """Unpickler of Python's own numbers, strings, bytes and containers; other pickles could run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise DataError(f"a pickled entry contains {module}.{name}; expected numbers and bytes only.")


def _qh9(path: Path, identity: Sequence[Any], count: Any, z: Any, positions: Any, ham: Any) -> RawRecord | DataError:
    name = "_".join(str(part) for part in (path.stem, *identity))
    if not (identity and isinstance(count, int) and all(isinstance(part, bytes) for part in (z, positions, ham))):
        return DataError(f"{path}: record {name}: expected an id, a number of atoms and three arrays of bytes.")
    if len(z) != 4 * count or len(positions) != 24 * count or len(ham) % 8:
        return DataError(f"{path}: record {name}: {count} atoms, but {len(z)}, {len(positions)} and {len(ham)} bytes.")
    numbers = np.frombuffer(z, dtype=np.int32).astype(np.int64)
    flat = np.frombuffer(ham, dtype=np.float64)
    places = np.frombuffer(positions, dtype=np.float64)
    size = round(len(flat) ** 0.5)
    if size**2 != len(flat):
        return DataError(f"{path}: record {name}: {len(flat)} numbers are not a square matrix.")
    group = f"{path.stem}_{identity[0]}"
    return RawRecord(name, group, numbers, places.reshape(-1, 3), flat.reshape(size, size), None, np.nan)


def read_md17_ase(path: Path) -> Iterator[RawRecord | DataError]:
    """Read SchNOrb's ASE database: data of each row holds hamiltonian, overlap and energy."""
    from ase.db import connect

    for row in connect(path).select():
        name = f"{path.stem}_{row.id}"
        data = row.data
        if "hamiltonian" not in data:
            yield DataError(f"{path}: record {name} has no hamiltonian; found {sorted(data)}.")
            continue
        yield _md17(name, row.numbers, row.positions, data)


def read_md17_npz(path: Path) -> Iterator[RawRecord | DataError]:
    """Read an archive of one molecule: atomic_numbers, positions (Angstrom), hamiltonian, overlap, energy."""
    needed = {"atomic_numbers", "positions", "hamiltonian"}
    try:
        with np.load(path, allow_pickle=False) as archive:
            if missing := needed - set(archive):
                raise DataError(f"{path}: lacks {sorted(missing)}; found {sorted(archive)}.")
            if (size := sum(each.file_size for each in archive.zip.infolist())) > MOST_GAIN * path.stat().st_size:
                raise DataError(f"{path}: its arrays have {size} bytes, too many for a file of this size.")
            content = {key: archive[key] for key in archive if key in {*needed, "overlap", "energy"}}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile, zlib.error, MemoryError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as an archive of numbers ({error}).") from error
    if len({len(np.atleast_1d(content[key])) for key in content if key != "atomic_numbers"}) > 1:
        raise DataError(f"{path}: its arrays are of different numbers of geometries.")
    numbers = content["atomic_numbers"]
    for k, positions in enumerate(content["positions"]):
        own = {key: content[key][k] for key in ("hamiltonian", "overlap", "energy") if key in content}
        yield _md17(f"{path.stem}_{k}", numbers if numbers.ndim == 1 else numbers[k], positions, own)


def _md17(name: str, numbers: Any, positions: Any, data: Mapping[str, Any]) -> RawRecord:
    overlap = np.asarray(data["overlap"], dtype=np.float64) if "overlap" in data else None
    energy = float(np.ravel(data["energy"])[0]) if "energy" in data else np.nan
    numbers, positions = np.asarray(numbers, np.int64), np.asarray(positions, float)
    return RawRecord(name, "", numbers, positions, np.asarray(data["hamiltonian"], float), overlap, energy)


def _mol(raw: RawRecord, level: Level, place: str) -> gto.Mole:
    atoms = list(zip(raw.numbers.tolist(), raw.positions.tolist(), strict=True))
    try:
        mol = gto.M(atom=atoms, basis=level.basis, unit="Angstrom", spin=None, verbose=0)
    except (KeyError, RuntimeError) as error:
        raise DataError(f"{place}: basis set {level.basis} does not support its elements ({error}).") from error
    if mol.spin:
        raise DataError(f"{place}: an odd number of electrons; only neutral closed shells are imported.")
    if raw.fock.shape != (mol.nao, mol.nao):
        raise DataError(f"{place}: its matrix is {raw.fock.shape}, {level.basis} has {mol.nao} functions.")
    return mol


def find_order(raw: RawRecord, mol: gto.Mole, place: str) -> str:
    """Find the one of `ORDERS` in which a record agrees with PySCF."""
    if raw.overlap is not None:
        reference, given, limit = np.asarray(mol.intor("int1e_ovlp")), raw.overlap, SAME_OVERLAP
    else:
        reference, given, limit = hamiltonian("sap", mol), raw.fock, NEAR_H0
    errors = {order: np.abs(_reordered(given, mol, order) - reference) for order in ORDERS}
    differences = {order: float(e.mean() if raw.overlap is None else e.max()) for order, e in errors.items()}
    best = min(differences, key=differences.__getitem__)
    if differences[best] > limit:
        raise DataError(
            f"{place}: agrees with PySCF's {'H0' if raw.overlap is None else 'overlap'} in no supported order of "
            f"orbitals (differs by {differences[best]:.2g}, allowed {limit:g}); check basis set and units."
        )
    return best


def _reordered(matrix: Array, mol: gto.Mole, order: str) -> Array:
    layout = OrbitalLayout.from_mol(mol)
    index: list[int] = []
    for l, offset in zip(layout.shell_degree.tolist(), layout.shell_offset.tolist(), strict=True):
        index += [offset + place for place in ORDERS[order].get(l, tuple(range(2 * l + 1)))]
    return matrix[np.ix_(index, index)]


def _record(raw: RawRecord, mol: gto.Mole, order: str, source: str, shares: tuple[float, float], place: str) -> Record:
    fock = _reordered(raw.fock, mol, order)
    if not np.allclose(fock, fock.T, atol=1e-5):
        raise DataError(f"{place}: its matrix is not symmetric.")
    h0 = hamiltonian("sap", mol)
    if not np.abs(fock - h0).mean() < NEAR_H0:
        raise DataError(f"{place}: no Fock matrix in Hartree ({np.abs(fock - h0).mean():.2g} from H0).")
    e, _ = mol.RHF().eig(fock, mol.intor("int1e_ovlp"))
    occupied = mol.nelectron // 2
    positions = raw.positions / nist.BOHR
    group = raw.group or group_of(raw.numbers, positions)
    split = splits_by_group([group], shares)[0]
    energy, gap = 0.0 if np.isnan(raw.energy) else raw.energy, float(e[occupied] - e[occupied - 1])
    fock = (fock + fock.T) / 2
    record = Record(raw.name, group, source, split, raw.numbers, positions, 0, 0, fock, energy, gap)
    check_record(record, place)
    return record
