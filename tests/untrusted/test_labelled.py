"""Files of labelled molecules made to do harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pyscf_mlham.data.schema import HamiltonianFile, write_file
from pyscf_mlham.errors import DataError
from pyscf_mlham.untrusted import check_basis
from support.harmful import EVIL, Change, inside
from support.labelled import LEVEL, records


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("labelled") / "set.h5"
    write_file(path, LEVEL, records(1)[:2], {})
    return path.read_bytes()


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
