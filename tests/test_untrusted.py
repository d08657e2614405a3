"""Files made to do harm are refused with a reason, before they use memory, run code, or touch other files."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import resource
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from pyscf_mlham import ModelError, OracleModel, checkpoint
from pyscf_mlham.bench.results import read_results, results_from_rows
from pyscf_mlham.data.deeph import read_deeph
from pyscf_mlham.data.importers import import_records
from pyscf_mlham.data.schema import HamiltonianFile, Level, write_file
from pyscf_mlham.errors import DataError
from pyscf_mlham.model import store
from pyscf_mlham.untrusted import check_basis
from support.benchmarked import HF, run_one
from support.labelled import LEVEL, records
from support.molecules import mole
from support.networks import ELEMENTS, options_of, random_network

MOST = 2**30  # bytes that a refused file may take
Change = Callable[[Path], Any]
EVIL = "H    S\n      __import__('os').mkdir('harm')    1.0\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to run in, that stays without a trace of a file's code; memory is limited."""
    monkeypatch.chdir(tmp_path)
    here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (here + MOST, before[1]))
    yield tmp_path
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert not (tmp_path / "harm").exists()


# Model folders


@pytest.fixture(scope="module")
def oracle() -> OracleModel:
    return OracleModel.of(mole(basis="sto-3g").RHF().run())


def edited(folder: Path, **changes: Any) -> None:
    """Change a model's configuration, and its checksum with its weights."""
    path = folder / checkpoint.CONFIG
    content = yaml.safe_load(path.read_text()) | changes
    content["weights_sha256"] = hashlib.sha256((folder / checkpoint.WEIGHTS).read_bytes()).hexdigest()
    path.write_text(yaml.safe_dump(content))


def weights(folder: Path, data: bytes) -> None:
    (folder / checkpoint.WEIGHTS).write_bytes(data)
    edited(folder)


def claims(count: int) -> bytes:
    text = json.dumps({"numbers": {"dtype": "F64", "shape": [count], "data_offsets": [0, 8 * count]}}).encode()
    return struct.pack("<Q", len(text)) + text


def of_other_shapes(**changes: np.ndarray) -> Change:
    def change(folder: Path) -> None:
        content = checkpoint.read(folder)[1] | changes
        save_file({key: np.array(value, order="C") for key, value in content.items()}, folder / checkpoint.WEIGHTS)
        edited(folder)

    return change


def bomb(folder: Path) -> None:
    levels = "\n".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12))
    (folder / checkpoint.CONFIG).write_text(f"a0: &a0 [1]\n{levels}\nelements: *a11\n")


def replaced(name: str, make: Change) -> Change:
    return lambda folder: ((folder / name).unlink(), make(folder / name))


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**41)


def of_a_file(folder: Path) -> None:
    Path("evil").write_text(f"BASIS\n{EVIL}END\n")
    edited(folder, basis="evil")


MODELS: dict[str, tuple[Change, str]] = {
    "1e12 elements": (lambda f: weights(f, claims(10**12)), "not a safetensors file"),
    "a header of 1e15 bytes": (lambda f: weights(f, struct.pack("<Q", 10**15)), "not a safetensors file"),
    "huge file": (replaced(checkpoint.WEIGHTS, sparse), r"weights.safetensors: cannot be read \(larger than"),
    "pipe": (replaced(checkpoint.WEIGHTS, os.mkfifo), "not a regular file"),
    "device": (replaced(checkpoint.WEIGHTS, lambda p: p.symlink_to("/dev/zero")), "not a regular file"),
    "huge configuration": (replaced(checkpoint.CONFIG, sparse), r"config.yaml: cannot be read \(larger than"),
    "YAML bomb": (bomb, "an alias in line 2"),
    "deep YAML": (lambda f: (f / checkpoint.CONFIG).write_text("[" * 10**5), "not a YAML file"),
    "long number": (lambda f: (f / checkpoint.CONFIG).write_text("a: " + "9" * 10**5), "not a YAML file"),
    "YAML code": (lambda f: (f / checkpoint.CONFIG).write_text("!!python/object/apply:os.mkdir [harm]"), "not a YAML"),
    "keys of two types": (
        lambda f: (f / checkpoint.CONFIG).write_text("format_version: 1\n1: 1\nx: 1"),
        "unknown keys",
    ),
    "code as basis": (lambda f: edited(f, basis=EVIL), "expected the name of one of PySCF's basis sets"),
    "path as basis": (lambda f: edited(f, basis="../../etc/passwd"), "expected the name of one of PySCF's basis sets"),
    "file as basis": (of_a_file, "'evil' is the name of a file here"),
    "no basis": (lambda f: edited(f, basis="nothing"), "PySCF cannot build its molecule in basis 'nothing'"),
    "no functional": (lambda f: edited(f, xc="nothing"), "not a functional of PySCF"),
    "heavy element": (lambda f: edited(f, elements=[10**12]), "must be atomic numbers, 1 to 118"),
    "charge": (lambda f: edited(f, charges=[10**30]), "PySCF cannot build its molecule"),
    "atoms without a matrix": (of_other_shapes(correction=np.zeros((2, 2))), "its weights have the shapes"),
    "places": (of_other_shapes(positions=np.zeros((3, 2))), "its weights have the shapes"),
    "vector": (of_other_shapes(correction=np.zeros(7)), "its weights have the shapes"),
    "matrix": (of_other_shapes(correction=np.zeros((8, 8))), "has 7 functions, its matrix 8"),
    "atoms": (of_other_shapes(numbers=np.array([8, 8, 200])), "PySCF cannot build its molecule"),
}


@pytest.mark.filterwarnings("ignore:Basis may be available:UserWarning")  # PySCF's own, of unknown basis sets
@pytest.mark.parametrize(("change", "message"), MODELS.values(), ids=MODELS)
def test_model_folders(change: Change, message: str, folder: Path, oracle: OracleModel) -> None:
    oracle.save(folder / "model")
    store.load("model")
    change(folder / "model")
    with pytest.raises(ModelError, match=message):
        store.load("model")


SIZES: dict[str, tuple[dict[str, Any], str]] = {
    "channels": ({"network": {"channels": 10**9}}, "qhnetv2: channels must be .*at most 4096"),
    "degree": ({"network": {"degree": 10**6}}, "qhnetv2: degree must be .*at most 12"),
    "layers": ({"network": {"layers": 10**6}}, "qhnetv2: layers must be .*at most 64"),
    "all of them": ({"network": {"channels": 4096, "hidden": 4096, "pair_channels": 4096}}, "do not fit its network"),
    "template": ({"template": [10**6]}, "too many orbitals"),
    "no template": ({"template": []}, "too many orbitals of an atom, or none"),
    "text": ({"template": ["a"]}, "expected the number of shells"),
    "list": ({"network": [1]}, "must be keys and values"),
    "refiner": (
        {"refiner": {"name": "harmose", "channels": 10**9}},
        "harmose: channels must be .*at most 4096",
    ),
    "name": ({"refiner": {"name": ["harmose"]}}, "unknown network"),
}


@pytest.mark.parametrize(("change", "message"), SIZES.values(), ids=SIZES)
def test_sizes_of_networks(change: dict[str, Any], message: str, folder: Path) -> None:
    options = options_of("qhnetv2")
    known = {"charges": (0,), "basis": "sto-3g", "xc": "hf", "baseline": "sap", "baseline_fingerprint": 0.0}
    config = checkpoint.ModelConfig("n", "qhnetv2", ELEMENTS, **known, options=options)
    state = random_network("qhnetv2").state_dict()
    checkpoint.write(folder / "model", config, {key: tensor.numpy() for key, tensor in state.items()})
    edited(folder / "model", baseline_fingerprint=store.fingerprint("sap", "hf"))
    store.load("model")
    for key, value in change.items():
        whole = options[key] | value if isinstance(value, dict) and key in options else value
        edited(folder / "model", options=options | {key: whole})
    with pytest.raises(ModelError, match=message):
        store.load("model")


# Labelled molecules


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("labelled") / "set.h5"
    write_file(path, LEVEL, records(1)[:2], {})
    return path.read_bytes()


def inside(act: Callable[[h5py.File], Any]) -> Change:
    def change(path: Path) -> None:
        with h5py.File(path, "a") as file:
            act(file)

    return change


def dataset(name: str, **how: Any) -> Change:
    return inside(lambda f: (f.pop(name), f.create_dataset(name, **how)))


def link(name: str, target: Any) -> Change:
    return inside(lambda f: (f.move(name, "elsewhere"), f.update({name: target})))


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((2,), "i4")
    layout[:] = h5py.VirtualSource("other.h5", "charge", (2,))
    del file["charge"]
    file.create_virtual_dataset("charge", layout)


def attribute(**values: Any) -> Change:
    return inside(lambda f: f.attrs.update(values))


HUGE = 10**12
SETS: dict[str, tuple[Change, str]] = {
    "huge without chunks": (dataset("gap", shape=(HUGE,), dtype="f8"), "gap has shape .*only 0 bytes are in the file"),
    "huge in chunks": (dataset("fock", shape=(HUGE,), dtype="f4", chunks=(1024,)), "fock has shape .*only 0 bytes"),
    "huge chunk": (dataset("fock", shape=(2**28,), maxshape=(None,), dtype="f4", chunks=(2**28,)), "fock has shape"),
    "huge texts": (dataset("name", shape=(HUGE,), dtype=h5py.string_dtype()), "name has shape"),
    "huge fixed texts": (dataset("name", shape=(2,), dtype="S100000000"), "name has shape"),
    "no shape": (dataset("gap", data=h5py.Empty("f8")), "gap is not a dataset"),
    "group": (inside(lambda f: (f.pop("gap"), f.create_group("gap"))), "gap is not a dataset"),
    "soft link": (link("gap", h5py.SoftLink("/energy")), "gap is a link"),
    "external link": (link("gap", h5py.ExternalLink("other.h5", "/gap")), "gap is a link"),
    "link to a path": (link("name", h5py.ExternalLink("../../secret.h5", "/name")), "name is a link"),
    "virtual": (inside(virtual), "charge is not a dataset in the file itself"),
    "data elsewhere": (dataset("gap", shape=(2,), dtype="f8", external=[("/etc/passwd", 0, 16)]), "not a dataset in"),
    "texts as numbers": (dataset("charge", data=[b"a", b"b"]), "charge has type"),
    "numbers as texts": (dataset("name", data=[1, 2]), "name has type"),
    "complex": (dataset("gap", data=[1j, 2j]), "gap has type"),
    "negative": (dataset("n_atoms", data=[-5, 8]), "out of range"),
    "orbitals": (dataset("n_ao", data=[10**9, 7]), "out of range"),
    "other shape": (dataset("n_atoms", data=np.zeros((2, 2), int)), "n_atoms has shape"),
    "scalar": (dataset("n_atoms", data=2), "n_atoms has shape"),
    "code as basis": (attribute(basis=EVIL), "expected the name of one of PySCF's basis sets"),
    "path as basis": (attribute(basis="../secret.nw"), "expected the name of one of PySCF's basis sets"),
    "no functional": (attribute(xc="nothing"), "not a functional of PySCF"),
    "grid": (attribute(grid_level=[1, 2]), "wrong attributes of the level of theory"),
}


@pytest.mark.parametrize(("change", "message"), SETS.values(), ids=SETS)
def test_labelled_molecules(change: Change, message: str, folder: Path, labelled: bytes) -> None:
    path = folder / "set.h5"
    path.write_bytes(labelled)
    (folder / "other.h5").write_bytes(labelled)
    with HamiltonianFile(path) as file:
        assert file[1].charge == 0
    change(path)
    with pytest.raises(DataError, match=message):
        HamiltonianFile(path)


def test_names_in_a_file_are_no_paths(folder: Path) -> None:
    inside = folder / "inside"
    inside.mkdir()
    named = [r._replace(name=f"../{k}", group="../../g", source="/etc/x") for k, r in enumerate(records(1)[:2])]
    write_file(inside / "set.h5", LEVEL, named, {})
    with HamiltonianFile(inside / "set.h5") as file:
        assert [record.name for record in file] == ["../0", "../1"]
    assert [path.name for path in folder.iterdir()] == ["inside"]
    assert [path.name for path in inside.iterdir()] == ["set.h5"]


@pytest.mark.parametrize("name", ["def2-svp", "6-311++G(3df,2pd)", "cc-pv(t+d)z", "ano@3s2p", "Weigend + ET"])
def test_names_of_basis_sets(name: str) -> None:
    check_basis(name)


# Sets of other programs


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
