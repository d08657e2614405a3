from __future__ import annotations

import pickle
import sqlite3
from pathlib import Path

import lmdb
import numpy as np
import pytest
from ase.build import molecule
from ase.db import connect
from pyscf import gto

from pyscf_mlham import cli
from pyscf_mlham.ao.layout import OrbitalLayout
from pyscf_mlham.data.importers import import_records
from pyscf_mlham.data.record import Level
from pyscf_mlham.data.schema import HamiltonianFile
from pyscf_mlham.errors import DataError

LEVEL = Level(xc="pbe", basis="def2-svp")
NAMES = ("H2O", "NH3", "CO")
PSI4 = {0: (0,), 1: (2, 0, 1), 2: (2, 3, 1, 4, 0)}  # PySCF's places of m = 0, 1, -1, 2, -2; p is x, y, z there


@pytest.fixture(scope="module")
def calculations() -> dict[str, tuple[gto.Mole, np.ndarray, np.ndarray, float]]:
    made = {}
    for name in NAMES:
        atoms = molecule(name)
        atom_list = list(zip(atoms.get_chemical_symbols(), atoms.positions.tolist(), strict=True))
        mol = gto.M(atom=atom_list, basis=LEVEL.basis, verbose=0)
        mf = mol.RKS(xc=LEVEL.xc).run()
        made[name] = (mol, mf.get_fock(), mf.get_ovlp(), mf.e_tot)
    return made


def in_psi4_order(matrix: np.ndarray, mol: gto.Mole) -> np.ndarray:
    layout = OrbitalLayout.from_mol(mol)
    shells = zip(layout.shell_degree.tolist(), layout.shell_offset.tolist(), strict=True)
    index = [offset + k for l, offset in shells for k in PSI4[l]]
    return matrix[np.ix_(index, index)]


def check(path: Path, calculations: dict, *, energy: bool) -> None:
    records = list(import_records(path, LEVEL))
    assert not [r for r in records if isinstance(r, DataError)]
    for record, (mol, fock, _, total) in zip(records, calculations.values(), strict=True):
        np.testing.assert_allclose(record.fock, fock, atol=1e-10)
        np.testing.assert_allclose(record.positions, mol.atom_coords(), atol=1e-10)
        np.testing.assert_array_equal(record.numbers, mol.atom_charges())
        assert record.energy == (pytest.approx(total) if energy else 0.0)


def qh9_rows(calculations: dict) -> list[tuple]:
    rows = []
    for k, (mol, fock, _, _) in enumerate(calculations.values()):
        positions = mol.atom_coords(unit="Angstrom")
        rows.append((k, mol.natm, mol.atom_charges().astype(np.int32).tobytes(), positions.tobytes(), fock.tobytes()))
    return rows


def qh9_database(path: Path, rows: list[tuple]) -> Path:
    with sqlite3.connect(path) as connection:
        connection.execute("create table data (id integer, N integer, Z blob, pos blob, Ham blob)")
        connection.executemany("insert into data values (?, ?, ?, ?, ?)", rows)
    return path


def test_qh9_stable_database(tmp_path: Path, calculations: dict) -> None:
    check(qh9_database(tmp_path / "QH9Stable.db", qh9_rows(calculations)), calculations, energy=False)


def test_qh9_dynamic_database_has_one_group_for_a_molecule(tmp_path: Path, calculations: dict) -> None:
    path = tmp_path / "QH9Dynamic.db"
    rows = [(7, k, *row[1:]) for k, row in enumerate(qh9_rows(calculations)[:1] * 3)]
    with sqlite3.connect(path) as connection:
        connection.execute("create table data (id integer, geo_id integer, N integer, Z blob, pos blob, Ham blob)")
        connection.executemany("insert into data values (?, ?, ?, ?, ?, ?)", rows)
    records = list(import_records(path, LEVEL))
    assert [r.name for r in records] == ["QH9Dynamic_7_0", "QH9Dynamic_7_1", "QH9Dynamic_7_2"]
    assert {r.group for r in records} == {"QH9Dynamic_7"}
    assert len({r.split for r in records}) == 1


def lmdb_folder(path: Path, entries: list[object]) -> Path:
    with lmdb.open(str(path), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for k, entry in enumerate(entries):
            transaction.put(k.to_bytes(4, "big"), pickle.dumps(entry))
    return path


def test_qh9_lmdb(tmp_path: Path, calculations: dict) -> None:
    keys = ("id", "num_nodes", "atoms", "pos", "Ham")
    entries = [dict(zip(keys, row, strict=True)) for row in qh9_rows(calculations)]
    check(lmdb_folder(tmp_path / "QH9Stable.lmdb", entries), calculations, energy=False)


def test_a_pickle_that_wants_to_run_something_is_refused(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "harm",))

    path = lmdb_folder(tmp_path / "bad.lmdb", [Harmful()])
    with pytest.raises(DataError, match="expected numbers and bytes only"):
        list(import_records(path, LEVEL))
    assert not (tmp_path / "harm").exists()


def test_md17_ase_database_in_psi4_order(tmp_path: Path, calculations: dict) -> None:
    path = tmp_path / "schnorb_hamiltonian_water.db"
    with connect(path) as database:
        for name, (mol, fock, overlap, energy) in calculations.items():
            matrices = {"hamiltonian": in_psi4_order(fock, mol), "overlap": in_psi4_order(overlap, mol)}
            database.write(molecule(name), data=matrices | {"energy": np.array([energy])})
    check(path, calculations, energy=True)


@pytest.mark.parametrize("overlap", [True, False], ids=["with overlap", "without"])
def test_md17_npz(tmp_path: Path, calculations: dict, overlap: bool) -> None:
    mol, fock, s, energy = calculations["NH3"]
    arrays = {
        "atomic_numbers": mol.atom_charges(),
        "positions": mol.atom_coords(unit="Angstrom")[None],
        "hamiltonian": in_psi4_order(fock, mol)[None],
        "energy": np.array([energy]),
    }
    np.savez(tmp_path / "nh3.npz", **arrays, **({"overlap": in_psi4_order(s, mol)[None]} if overlap else {}))
    check(tmp_path / "nh3.npz", {"NH3": calculations["NH3"]}, energy=True)


def test_a_damaged_record_does_not_stop_the_others(tmp_path: Path, calculations: dict) -> None:
    rows = qh9_rows(calculations)
    rows[1] = (*rows[1][:4], rows[1][4][:-5])
    rows[2] = (*rows[2][:4], rows[2][4][:-8])
    first, second, third, last = import_records(qh9_database(tmp_path / "cut.db", [*rows, rows[0]]), LEVEL)
    assert "record cut_1" in str(second)
    assert "record cut_2" in str(third)
    assert not isinstance(first, DataError)
    assert not isinstance(last, DataError)


def test_wrong_units_basis_and_order_are_refused(tmp_path: Path, calculations: dict) -> None:
    rows = qh9_rows(calculations)
    positions = np.frombuffer(rows[0][3]) / 0.529177
    matrix = np.frombuffer(rows[1][4]) * 27.2114
    broken = [(*rows[0][:3], positions.tobytes(), rows[0][4]), (*rows[1][:4], matrix.tobytes()), rows[2]]
    path = qh9_database(tmp_path / "broken.db", broken)
    first, second, third = import_records(path, LEVEL)
    for error in (first, second):
        assert isinstance(error, DataError)
        assert "check basis set and units" in str(error)
    assert not isinstance(third, DataError)
    assert all("functions" in str(e) for e in import_records(path, Level("pbe", "sto-3g")))


def test_import_from_the_command_line(tmp_path: Path, calculations: dict, capsys: pytest.CaptureFixture[str]) -> None:
    path = qh9_database(tmp_path / "QH9Stable.db", qh9_rows(calculations))
    out = tmp_path / "qh9.h5"
    flags = ["-o", str(out), "--xc", "pbe", "--basis", "def2-svp"]
    assert cli.main(["data", "import", str(path), *flags]) == 0
    assert "No molecule is in val" in capsys.readouterr().out  # shares of 5 percent of three molecules
    with HamiltonianFile(out) as file:
        assert len(file) == 3
        assert file.level == Level("pbe", "def2-svp")
    assert cli.main(["data", "import", str(path), *flags]) == 1
    assert "exists already" in capsys.readouterr().err
    assert cli.main(["data", "import", str(tmp_path / "none.db"), "-o", str(tmp_path / "x.h5")]) == 1
