from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from pyscf_mlham import cli
from pyscf_mlham.data.baseline import with_baseline
from pyscf_mlham.data.generate import GenerateOptions, Journal, generate, journal_path
from pyscf_mlham.data.geometries import read_geometries
from pyscf_mlham.data.record import Level
from pyscf_mlham.data.schema import HamiltonianFile, write_file
from pyscf_mlham.errors import DataError
from pyscf_mlham.workers import engine
from support.geometries import geometries
from support.labelled import silent

pytestmark = pytest.mark.usefixtures("quick_commands")

FAILED = {"a key": ("a molecule", "the SCF did not converge in 50 cycles")}
MATRICES = {"fock", "fock_beta", "fock_scc", "fock_scc_beta"}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of a radical and a closed shell, and the failure of a molecule without a label."""
    folder = tmp_path_factory.mktemp("labelled")
    radical = read_geometries(str(geometries(folder / "radical.xyz", ("CH3",))), mult=2)
    water = read_geometries(str(geometries(folder / "water.xyz", ("H2O",))))
    options = GenerateOptions(Level("b3lyp", "sto-3g", grid_level=1))
    generate([*radical, *water], folder / "all.h5", options, silent())
    with HamiltonianFile(folder / "all.h5") as file:
        write_file(folder / "set.h5", file.level, file, {}, FAILED)
    return folder / "set.h5"


@pytest.fixture(scope="module")
def based(labelled: Path) -> Path:
    """The same with the scc baseline."""
    copy = labelled.with_name("copy.h5")
    assert cli.main(["data", "baseline", str(labelled), "-o", str(copy)]) == 0
    return copy


def test_baselines_are_kept_beside_labels(labelled: Path, based: Path) -> None:
    with HamiltonianFile(labelled) as before, HamiltonianFile(based) as after:
        assert set(after.matrices) == MATRICES
        assert after.failed == FAILED
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one.fock, other.fock)
            alpha = np.abs(other.extra["fock_scc"] - one.fock).mean()
            beta = np.abs(other.extra["fock_scc_beta"] - one.extra["fock_beta"]).mean()
            assert max(alpha, beta) < 1e-3


def test_two_labels_of_one_geometry_stay_two(labelled: Path, tmp_path: Path) -> None:
    twice, copy = tmp_path / "twice.h5", tmp_path / "copy.h5"
    with HamiltonianFile(labelled) as file:
        other = file[0]._replace(name="other", fock=file[0].fock + 0.1, split="test")
        write_file(twice, file.level, [file[0], other], {})
    assert cli.main(["data", "baseline", str(twice), "-o", str(copy)]) == 0
    with HamiltonianFile(copy) as file:
        assert file.name.tolist()[1:] == ["other"]
        assert file.split.tolist() == [file.split[0], "test"]
        np.testing.assert_allclose(file[1].fock - file[0].fock, 0.1, atol=1e-5)


def test_a_split_changed_during_an_interrupted_run_is_the_new_one(labelled: Path, tmp_path: Path) -> None:
    source, copy = tmp_path / "source.h5", tmp_path / "copy.h5"
    for split in ("train", "test"):
        with HamiltonianFile(labelled) as file:
            write_file(source, file.level, [record._replace(split=split) for record in file], {})
        if split == "train":
            with HamiltonianFile(source) as file, closing(Journal(journal_path(copy), file.level)) as journal:
                journal.append(next(iter(engine(with_baseline, 1)([(source, 0)]))))
    assert cli.main(["data", "baseline", str(source), "-o", str(copy)]) == 0
    with HamiltonianFile(copy) as file:
        assert file.split.tolist() == ["test", "test"]


def test_new_labels_lack_the_baseline(based: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "baseline", str(based), "-o", str(based)]) == 1
    ammonia = geometries(tmp_path / "ammonia.xyz", ("NH3",))
    command = ["data", "generate", str(ammonia), "-o", str(based), "--basis", "sto-3g", "--grid", "1"]
    assert cli.main(command) == 1  # before any SCF
    assert "has the scc baseline" in " ".join(capsys.readouterr().err.split())
    assert not journal_path(based).exists()


def test_compressed_labels_are_restored(based: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, again = tmp_path / "small.h5", tmp_path / "again.h5"
    assert cli.main(["data", "compress", str(based), "-o", str(small)]) == 0
    assert "2 records" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(DataError, match="restores its labels"):
        HamiltonianFile(small)
    assert cli.main(["data", "baseline", str(small), "-o", str(again)]) == 0
    with HamiltonianFile(based) as before, HamiltonianFile(again) as after:
        assert set(after.matrices) == MATRICES
        assert after.level == before.level
        for one, other in zip(before, after, strict=True):
            assert (other.split, other.energy, other.spin) == (one.split, one.energy, one.spin)
            for name, matrix in one.matrices.items():
                np.testing.assert_allclose(other.matrices[name], matrix, rtol=0, atol=2e-6, err_msg=name)


def test_compressed_files_hold_changes_only(based: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.h5"
    assert cli.main(["data", "compress", str(based), "-o", str(small)]) == 0
    with HamiltonianFile(based) as before, HamiltonianFile(small, ("pyscf_mlham-changes",)) as after:
        assert set(after.matrices) == {"fock", "fock_beta"}
        for one, other in zip(before, after, strict=True):
            change = one.fock - one.extra["fock_scc"]
            np.testing.assert_allclose(other.fock, change, rtol=1e-3, atol=1e-7)
            assert np.any(other.extra["fock_beta"]) == bool(one.spin)


def test_compression_needs_the_baseline(labelled: Path, based: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source, output, message in (
        (labelled, labelled.with_name("small.h5"), "add it with `mlham data baseline`"),
        (based, labelled, "exists already"),
    ):
        assert cli.main(["data", "compress", str(source), "-o", str(output)]) == 1
        assert message in " ".join(capsys.readouterr().err.split())
