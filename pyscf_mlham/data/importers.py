"""Public sets of Hamiltonians brought into the project's schema: QH9 and the MD17 sets of SchNOrb.

Neither format says in which order its orbitals are. A few orders are in use; the right one is found by comparing with
what PySCF computes for the geometry: the overlap where the file has one, else H0. A file that fits none is refused.
"""

from __future__ import annotations

import io
import pickle
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.data import nist

from pyscf_mlham.ao.layout import OrbitalLayout
from pyscf_mlham.data.geometries import group_of
from pyscf_mlham.data.schema import Level, Record, check_record, splits_by_group
from pyscf_mlham.errors import DataError
from pyscf_mlham.h0 import hamiltonian

Array = NDArray[np.float64]

# Places of a shell's functions in the file, listed in PySCF's order: x, y, z for p and m = -l .. l beyond.
ORDERS: dict[str, dict[int, tuple[int, ...]]] = {
    "pyscf": {},
    "m = 0, 1, -1, 2, -2 (Psi4, ORCA)": {1: (1, 2, 0), 2: (4, 2, 0, 1, 3)},
    "p as x, y, z, then m = 0, 1, -1, 2, -2": {2: (4, 2, 0, 1, 3)},
    "p as y, z, x": {1: (2, 0, 1)},
}
SAME_OVERLAP = 1e-3  # largest difference of overlaps in the same order
NEAR_H0 = 0.1  # Hartree; the mean absolute difference of a Fock matrix from H0 is 0.03


class Foreign(NamedTuple):
    """A labelled molecule as another format has it.

    Attributes:
        name: of the record.
        group: of the molecule, "" where the format has none.
        numbers: (N,) atomic numbers.
        positions: (N, 3) Angstrom.
        fock: (n, n) Hartree, orbitals in the order of the file.
        overlap: (n, n) in the same order, None where the format has none.
        energy: Hartree, not a number where the format has none.
    """

    name: str
    group: str
    numbers: NDArray[np.int64]
    positions: Array
    fock: Array
    overlap: Array | None
    energy: float


def import_records(
    path: Path, level: Level, shares: tuple[float, float] = (0.05, 0.05)
) -> Iterator[Record | DataError]:
    """Read a public set record by record; one that cannot be used comes as an error that names it.

    Args:
        path: a QH9 database (.db) or its LMDB folder (.lmdb), an MD17 ASE database (.db) or archive (.npz).
        level: of theory of the set; the formats do not say it.
        shares: of the molecules for val and test.
    """
    reader = reader_of(path)
    for foreign in reader(path):
        if isinstance(foreign, DataError):
            yield foreign
            continue
        where = f"{path}: record {foreign.name}"
        try:
            mol = _mol(foreign, level, where)
            record = _record(foreign, mol, find_order(foreign, mol, where), path.stem, shares, where)
        except DataError as error:
            yield error
            continue
        yield record


def reader_of(path: Path) -> Callable[[Path], Iterator[Foreign | DataError]]:
    """Recognise a format by its suffix and its tables.

    Args:
        path: of the file or folder.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such file.")
    if path.suffix == ".npz":
        return read_md17_npz
    if path.is_dir() and (path / "data.mdb").exists():
        return read_qh9_lmdb
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
    except sqlite3.Error as error:
        raise DataError(f"{path}: neither SQLite, LMDB nor npz ({error}).") from error
    if "data" in tables:
        return read_qh9_sqlite
    if "systems" in tables:
        return read_md17_ase
    raise DataError(f"{path}: its tables {sorted(tables)} are those of neither QH9 (data) nor ASE (systems).")


def read_qh9_sqlite(path: Path) -> Iterator[Foreign | DataError]:
    """Read QH9's database: rows of id, [geometry,] N, Z (int32), positions (float64, Angstrom), Hamiltonian (float64).

    Args:
        path: of the .db file.
    """
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        for row in connection.execute("select * from data"):
            identity, *geometry = row[:-4]
            yield _qh9(path, identity, geometry, *row[-4:])


def read_qh9_lmdb(path: Path) -> Iterator[Foreign | DataError]:
    """Read QH9's LMDB folder; its entries are pickled, and anything in them but numbers and bytes is refused.

    Args:
        path: of the .lmdb folder.
    """
    try:
        import lmdb
    except ImportError as error:
        raise DataError("LMDB files need the package lmdb; pip install 'pyscf-mlham[lmdb]'.") from error
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        for _, value in transaction.cursor():
            entry = _NumbersOnly(io.BytesIO(value)).load()
            geometry = [entry["geo_id"]] if "geo_id" in entry else []
            yield _qh9(path, entry["id"], geometry, *(entry[k] for k in ("num_nodes", "atoms", "pos", "Ham")))


class _NumbersOnly(pickle.Unpickler):
    """Reads what is made of Python's own numbers, texts, bytes and containers; a pickle can run code otherwise."""

    def find_class(self, module: str, name: str) -> Any:
        raise DataError(f"a pickled entry wants {module}.{name}; expected numbers and bytes only. It is refused.")


def _qh9(
    path: Path, identity: int, geometry: list[int], count: int, z: bytes, positions: bytes, ham: bytes
) -> Foreign | DataError:
    name = "_".join(str(part) for part in (path.stem, identity, *geometry))
    if len(z) != 4 * count or len(positions) != 24 * count or len(ham) % 8:
        return DataError(f"{path}: record {name}: {count} atoms, but {len(z)}, {len(positions)} and {len(ham)} bytes.")
    numbers = np.frombuffer(z, dtype=np.int32).astype(np.int64)
    flat = np.frombuffer(ham, dtype=np.float64)
    places = np.frombuffer(positions, dtype=np.float64)
    size = round(len(flat) ** 0.5)
    if size**2 != len(flat):
        return DataError(f"{path}: record {name}: {len(flat)} numbers make no square matrix.")
    group = f"{path.stem}_{identity}"
    return Foreign(name, group, numbers, places.reshape(-1, 3), flat.reshape(size, size), None, np.nan)


def read_md17_ase(path: Path) -> Iterator[Foreign | DataError]:
    """Read SchNOrb's ASE database: data of each row holds hamiltonian, overlap and energy.

    Args:
        path: of the .db file.
    """
    from ase.db import connect

    for row in connect(path).select():
        name = f"{path.stem}_{row.id}"
        data = row.data
        if "hamiltonian" not in data:
            yield DataError(f"{path}: record {name} has no hamiltonian; found {sorted(data)}.")
            continue
        overlap = np.asarray(data["overlap"], dtype=np.float64) if "overlap" in data else None
        energy = float(np.ravel(data["energy"])[0]) if "energy" in data else np.nan
        fock = np.asarray(data["hamiltonian"], dtype=np.float64)
        yield Foreign(name, "", row.numbers.astype(np.int64), row.positions, fock, overlap, energy)


def read_md17_npz(path: Path) -> Iterator[Foreign | DataError]:
    """Read an archive of one molecule's geometries: atomic_numbers, positions (Angstrom), hamiltonian, overlap, energy.

    Args:
        path: of the .npz file.
    """
    with np.load(path) as archive:  # without allow_pickle
        missing = {"atomic_numbers", "positions", "hamiltonian"} - set(archive)
        if missing:
            raise DataError(f"{path}: lacks {sorted(missing)}; found {sorted(archive)}.")
        content = {key: archive[key] for key in archive}
    numbers = content["atomic_numbers"].astype(np.int64)
    for k, (positions, fock) in enumerate(zip(content["positions"], content["hamiltonian"], strict=True)):
        overlap = np.asarray(content["overlap"][k], dtype=np.float64) if "overlap" in content else None
        energy = float(np.ravel(content["energy"][k])[0]) if "energy" in content else np.nan
        own = numbers if numbers.ndim == 1 else numbers[k]
        yield Foreign(
            f"{path.stem}_{k}", "", own, np.asarray(positions, float), np.asarray(fock, float), overlap, energy
        )


def _mol(foreign: Foreign, level: Level, where: str) -> gto.Mole:
    atoms = list(zip(foreign.numbers.tolist(), foreign.positions.tolist(), strict=True))
    try:
        mol = gto.M(atom=atoms, basis=level.basis, unit="Angstrom", spin=None, verbose=0)
    except (KeyError, RuntimeError) as error:
        raise DataError(f"{where}: {level.basis} does not serve its elements ({error}).") from error
    if mol.spin:
        raise DataError(f"{where}: an odd number of electrons; only neutral closed shells are imported.")
    if foreign.fock.shape != (mol.nao, mol.nao):
        raise DataError(f"{where}: its matrix is {foreign.fock.shape}, {level.basis} has {mol.nao} functions.")
    return mol


def find_order(foreign: Foreign, mol: gto.Mole, where: str) -> str:
    """Find the order of orbitals in which a record agrees with PySCF.

    Args:
        foreign: the record.
        mol: its molecule.
        where: how to call it in the message.

    Returns:
        one of `ORDERS`.
    """
    if foreign.overlap is not None:
        reference, given, limit = np.asarray(mol.intor("int1e_ovlp")), foreign.overlap, SAME_OVERLAP
        differences = {k: float(np.abs(_reordered(given, mol, k) - reference).max()) for k in ORDERS}
    else:
        reference, given, limit = hamiltonian("sap", mol), foreign.fock, NEAR_H0
        differences = {k: float(np.abs(_reordered(given, mol, k) - reference).mean()) for k in ORDERS}
    best = min(differences, key=lambda k: differences[k])
    if differences[best] > limit:
        raise DataError(
            f"{where}: agrees with PySCF's {'H0' if foreign.overlap is None else 'overlap'} in no known order of "
            f"orbitals (differs by {differences[best]:.2g}, allowed {limit:g}); check basis set and units."
        )
    return best


def _reordered(matrix: Array, mol: gto.Mole, order: str) -> Array:
    layout = OrbitalLayout.from_mol(mol)
    index: list[int] = []
    for l, offset in zip(layout.shell_degree.tolist(), layout.shell_offset.tolist(), strict=True):
        index += [offset + place for place in ORDERS[order].get(l, tuple(range(2 * l + 1)))]
    return matrix[np.ix_(index, index)]


def _record(
    foreign: Foreign, mol: gto.Mole, order: str, source: str, shares: tuple[float, float], where: str
) -> Record:
    fock = _reordered(foreign.fock, mol, order)
    if not np.allclose(fock, fock.T, atol=1e-5):
        raise DataError(f"{where}: its matrix is not symmetric.")
    h0 = hamiltonian("sap", mol)
    if not np.abs(fock - h0).mean() < NEAR_H0:
        raise DataError(
            f"{where}: no Fock matrix of this molecule in Hartree ({np.abs(fock - h0).mean():.2g} from H0)."
        )
    e, _ = mol.RHF().eig(fock, mol.intor("int1e_ovlp"))
    occupied = mol.nelectron // 2
    positions = foreign.positions / nist.BOHR
    group = foreign.group or group_of(foreign.numbers, positions)
    record = Record(
        name=foreign.name,
        group=group,
        source=source,
        split=splits_by_group([group], shares)[0],
        numbers=foreign.numbers,
        positions=positions,
        charge=0,
        spin=0,
        fock=(fock + fock.T) / 2,
        energy=0.0 if np.isnan(foreign.energy) else foreign.energy,
        gap=float(e[occupied] - e[occupied - 1]),
    )
    check_record(record, where)
    return record
