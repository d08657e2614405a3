from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from pyscf_mlham.data.geometries import mol_from_geometry
from pyscf_mlham.data.record import has_spins, named_by_spin
from pyscf_mlham.data.schema import HamiltonianFile, write_file
from pyscf_mlham.errors import DataError
from support.labelled import LEVEL, labelled_file, records


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_file(tmp_path_factory.mktemp("labelled"))


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(original, tmp_path))


def test_labels_are_read_as_they_were_written(path: Path) -> None:
    with HamiltonianFile(path) as file:
        assert file.level == LEVEL
        assert file.elements == (1, 6, 7, 8)
        assert len(file) == len(list(file)) == 12
        assert [len(file.indices(s)) for s in ("train", "val", "test")] == [5, 5, 2]
        for record, written in zip(file, records(), strict=True):
            assert record.name == written.name
            assert (record.group, record.source, record.split) == (written.group, written.source, written.split)
            np.testing.assert_array_equal(record.numbers, written.numbers)
            np.testing.assert_array_equal(record.positions, written.positions)
            np.testing.assert_allclose(record.fock, written.fock, rtol=1e-6, atol=1e-7)
            assert (record.energy, record.gap) == (written.energy, written.gap)


def test_stored_fock_is_that_of_its_own_density(path: Path) -> None:
    with HamiltonianFile(path) as file:
        for index in (0, 5, 9):
            mf = mol_from_geometry(file[index], file.level.basis).RHF()
            e, C = mf.eig(file[index].fock, mf.get_ovlp())
            again = mf.get_fock(dm=mf.make_rdm1(C, mf.get_occ(e, C)))
            np.testing.assert_allclose(again, file[index].fock, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("format", "something else", "mlham data import"),
        ("format", np.arange(3), "mlham data import"),
        ("schema_version", 2, "update pyscf_mlham"),
        ("xc", np.arange(3), "wrong attributes of the level of theory"),
        ("ao_convention", "orca", "expected 'pyscf-spherical'"),
        ("units", "angstrom, ev", "expected 'bohr, hartree'"),
    ],
)
def test_another_kind_of_file_is_refused(path: Path, attribute: str, value: object, message: str) -> None:
    with h5py.File(path, "a") as file:
        file.attrs[attribute] = value
    with pytest.raises(DataError, match=message):
        HamiltonianFile(path)


def test_missing_parts_of_a_file_are_named(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["gap"]
    with pytest.raises(DataError, match="'gap'"):
        HamiltonianFile(path)
    with h5py.File(path, "a") as file:
        file["gap"] = np.zeros(3)
    with pytest.raises(DataError, match=r"gap has shape \(3,\), expected \(12,\)"):
        HamiltonianFile(path)
    with h5py.File(path, "a") as file:
        del file.attrs["xc"]
    with pytest.raises(DataError, match="of the level of theory are missing"):
        HamiltonianFile(path)


def test_damage_is_named_by_record(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["fock"][3] = np.nan
    with HamiltonianFile(path) as file, pytest.raises(DataError, match=r"record 0 \(H2O_0\): fock is not finite"):
        file[0]
    with HamiltonianFile(path) as file:
        assert file[1].name == "H2O_1"


def test_impossible_numbers_of_electrons_are_refused(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["spin"][1] = 1
    with HamiltonianFile(path) as file, pytest.raises(DataError, match=r"H2O_1.*10 electrons cannot have spin 1"):
        file[1]


def test_damaged_and_foreign_files_are_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(DataError, match="cannot be read as HDF5"):
        HamiltonianFile(tmp_path / "text.h5")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="cannot be read as HDF5"):
        HamiltonianFile(path)


def test_failed_writing_leaves_the_old_file(path: Path) -> None:
    before = path.read_bytes()

    def interrupted():
        yield records()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(path, LEVEL, interrupted(), {})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_an_empty_file_can_be_read(tmp_path: Path) -> None:
    write_file(tmp_path / "empty.h5", LEVEL, [], {})
    with HamiltonianFile(tmp_path / "empty.h5") as file:
        assert len(file) == 0


def test_names_of_matrices_by_spin() -> None:
    pair = np.arange(8.0).reshape(2, 2, 2)
    assert list(named_by_spin("fock_scc", pair[0])) == ["fock_scc"]
    named = named_by_spin("fock", pair) | named_by_spin("fock_scc", pair + 1)
    assert list(named) == ["fock", "fock_beta", "fock_scc", "fock_scc_beta"]
    assert has_spins(named)
    assert not has_spins(["fock", "fock_scc_beta"])
    closed = records()[0]._replace(fock=named.pop("fock"), extra=named)
    np.testing.assert_array_equal(closed.by_spin("fock_scc"), pair[0] + 1)
    np.testing.assert_array_equal(closed._replace(spin=2).by_spin("fock_scc"), pair + 1)
    assert closed.by_spin("fock_minao") is None
    assert closed._replace(spin=2, extra={}).by_spin("fock") is None
