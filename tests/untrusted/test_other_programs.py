"""Sets of other programs, DeepH folders and results of benchmarks made to do harm."""

from __future__ import annotations

import json
import os
import pickle
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pyscf_mlham.bench.results import read_results, results_from_rows
from pyscf_mlham.data.deeph import read_deeph
from pyscf_mlham.data.importers import import_records
from pyscf_mlham.data.record import Level
from pyscf_mlham.errors import DataError
from support.benchmarked import HF, run_one
from support.harmful import Change, inside


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


def archive(**arrays: Any) -> Change:
    content = {"atomic_numbers": [1, 1], "positions": np.zeros((1, 2, 3)), "hamiltonian": np.zeros((1, 2, 2))} | arrays
    return lambda path: np.savez_compressed(path, **content)


def rows(*values: Any) -> Change:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("create table data (id, N, Z, pos, Ham)")
            connection.execute("insert into data values (?, ?, ?, ?, ?)", values)

    return change


def cut(path: Path) -> None:
    rows(1, 2, b"a", b"b", b"c" * 10**6)(path)
    path.write_bytes(path.read_bytes()[:5000])


ARCHIVES: dict[str, tuple[str, Change, str]] = {
    "objects": ("a.npz", archive(hamiltonian=np.array([Harmful()])), "Object arrays cannot be loaded"),
    "bomb": ("a.npz", archive(energy=np.zeros(2**24)), "too many for a file of this size"),
    "other counts": ("a.npz", archive(energy=np.zeros(3)), "different numbers of geometries"),
    "no archive": ("a.npz", lambda p: p.write_bytes(b"PK\x03\x04" + b"\0" * 99), "cannot be read as an archive"),
    "numbers": ("a.npz", archive(atomic_numbers=[1e30, 1]), "cannot be used|invalid value"),
    "vector": ("a.npz", archive(hamiltonian=np.zeros(1)), "its matrix is"),
    "numbers as blobs": ("a.db", rows(1, 2, 3, 4, 5), "expected an id, a number of atoms and three arrays"),
    "sizes": ("a.db", rows(1, 10**12, b"", b"", b""), "0, 0 and 0 bytes"),
    "cut": ("a.db", cut, "cannot be read any further|neither SQLite"),
}


def imported(path: Path) -> None:
    """Raise the first error among the records of a set."""
    for record in import_records(path, Level("hf", "sto-3g")):
        if isinstance(record, DataError):
            raise record


@pytest.mark.parametrize(("name", "make", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_sets_of_other_programs(name: str, make: Change, message: str, folder: Path) -> None:
    make(folder / name)
    with pytest.raises(DataError, match=message):
        imported(folder / name)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (pickle.dumps(Harmful()), "expected numbers and bytes only"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 10**12) + b"x.", "cannot be unpickled"),
        (b"\x80\x02]r\xff\xff\xff\x7f.", "numbers 2147483647 objects"),
        (pickle.dumps([1, 2]), "cannot be unpickled"),
        (pickle.dumps({"id": 1, "num_nodes": "x"}), "three arrays of bytes"),
        (b"", "cannot be unpickled"),
    ],
)
def test_pickled_entries(folder: Path, entry: bytes, message: str) -> None:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open("a.lmdb", map_size=2**20) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"0", entry)
    with pytest.raises(DataError, match=message):
        imported(folder / "a.lmdb")


# DeepH folders and results of benchmarks


def deeph(folder: Path, **texts: str) -> None:
    content = {"element": "1", "site_positions": "0\n0\n0", "lat": "9 0 0\n0 9 0\n0 0 9", "orbital_types": "0"}
    for name, text in (content | texts).items():
        (folder / f"{name}.dat").write_text(text)
    (folder / "info.json").write_text("{}")
    with h5py.File(folder / "overlaps.h5", "w") as file:
        file["[0, 0, 0, 1, 1]"] = np.eye(1)


def overlaps(act: Callable[[h5py.File], Any]) -> Change:
    return lambda folder: inside(lambda f: (f.pop("[0, 0, 0, 1, 1]"), act(f)))(folder / "overlaps.h5")


DEEPH: dict[str, tuple[Change, str]] = {
    "external": (overlaps(lambda f: f.update({"[0, 0, 0, 1, 1]": h5py.ExternalLink("b.h5", "a")})), "is a link"),
    "group": (overlaps(lambda f: f.create_group("[0, 0, 0, 1, 1]")), "is not a dataset"),
    "huge": (overlaps(lambda f: f.create_dataset("[0, 0, 0, 1, 1]", shape=(10**6, 10**6), dtype="f4")), "has shape"),
    "huge number": (overlaps(lambda f: f.create_dataset(f"[{'9' * 400}, 0, 0, 1, 1]", data=[[1.0]])), "no pair"),
    "shells": (lambda f: deeph(f, orbital_types="0 " * 10**6), "more than 100 shells"),
    "degrees": (lambda f: deeph(f, orbital_types="-1"), "expected the degrees l"),
    "degree": (lambda f: deeph(f, orbital_types="9" * 30), "expected the degrees l"),
    "lattice": (lambda f: deeph(f, lat="1 2"), "expected a table of numbers"),
    "pipe": (lambda f: (f / "lat.dat").unlink() or os.mkfifo(f / "lat.dat"), "not a regular file"),
    "list": (lambda f: (f / "info.json").write_text("[1]"), "expected JSON"),
    "level": (lambda f: (f / "info.json").write_text('{"fermi_level": "x"}'), "expected JSON"),
    "deep": (lambda f: (f / "info.json").write_text("[" * 10**6), "expected JSON"),
}


@pytest.mark.parametrize(("change", "message"), DEEPH.values(), ids=DEEPH)
def test_deeph_folders(change: Change, message: str, folder: Path) -> None:
    deeph(folder)
    assert len(read_deeph(folder).graph.numbers) == 1
    change(folder)
    with pytest.raises(DataError, match=message):
        read_deeph(folder)


@pytest.mark.parametrize(
    "change",
    [{"cycles": "<script>"}, {"e_tot": [1]}, {"molecule": 3}, {"gradients": 1.0}, {"converged": 1}, {"colour": 1}],
)
def test_results_of_benchmarks(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "results.json"
    path.write_text(results_from_rows([run_one("minao")], HF, [], [], 1e-8).to_json())
    content = json.loads(path.read_text())
    read_results(path)
    content["rows"][0] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="cannot be read as results"):
        read_results(path)
    path.write_text("[" * 10**6)
    with pytest.raises(DataError, match="cannot be read as results"):
        read_results(path)
