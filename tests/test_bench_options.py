"""What the options of mlham bench mean, and what is said where they mean nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from benchmarked import SMALL

from pyscf_mlham import checkpoint, cli
from pyscf_mlham.bench.protocol import absolute, guess_from_text
from pyscf_mlham.bench.results import RESULTS, read_results
from pyscf_mlham.scf.models import shipped


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--guess", "mniao"], "unknown guess 'mniao'"),
        (["--guess", "vsap"], "vsap guess needs a functional"),
        (["--guess", "minao,coarse", "--df"], "nothing is coarser than --df"),
        (["--guess", "coarse", "--xc", "pbe", "--df", "--grid", "0"], "nothing is coarser than --df"),
        (["--guess", "vsap", "--xc", "pbe", "--scf", "gks"], "has none for GKS objects"),
        (["--guess", "chk:nowhere.chk"], "there is no such file"),
        (["--solver", "diis"], "unknown solvers"),
        (["--xc", "pbe", "--scf", "rhf"], "rhf has no functional"),
        (["--xc", "b3lpy"], "PySCF knows no such functional"),
        (["--basis", "cc-pvdq"], "basis set cc-pvdq does not serve"),
        (["--basis", "@3s"], "basis set @3s does not serve"),
        (["--basis", "sto-3g@3s"], "basis set sto-3g@3s does not serve"),
        (["--insert", "nowhere.md"], "nowhere.md"),
        (["--threads", "0"], "--threads 0: expected 1 or more"),
        (["--repeat", "0"], "expected 1 or more"),
        (["--model", "nobody"], "neither a shipped model"),
        (["-j", "0"], "expected 1 or more"),
        (["--report", "/proc/none"], "/proc/none: it cannot be made: No such file or directory; name another folder"),
    ],
)
def test_wrong_arguments_are_said_at_once(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "ase:g2/H2O", *SMALL, "--report", str(tmp_path), *arguments]) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_damaged_model_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no benchmark of minao under another name."""
    name, folder = next(iter(shipped().items()))
    shutil.copytree(folder, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    command = ["bench", "ase:g2/H2O", "--guess", "ml", "--model", "mine", "--solver", "scf", *SMALL]
    assert cli.main([*command, "--report", "good"]) == 0
    weights = tmp_path / "mine" / checkpoint.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    assert cli.main([*command, "--report", "bad"]) == 1
    assert "g2:H2O, ml, scf: failed: ModelError" in " ".join(capsys.readouterr().out.split())
    good, bad = (read_results(tmp_path / report / RESULTS).rows[1] for report in ("good", "bad"))
    assert (good.error, good.model) == ("", name)
    assert "ModelError" in bad.error


def test_models_are_found_by_workers_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, folder = next(iter(shipped().items()))
    (tmp_path / "mine").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    assert guess_from_text("ml:mine").path == absolute("mine") == str(folder.resolve())
    assert guess_from_text(f"ml:{name}").path == absolute(name) == name
    assert absolute("") == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [([], "processor seconds"), (["--threads", "2"], "wall time"), (["--threads", "2", "--clock", "cpu"], "process")],
)
def test_seconds_are_those_that_users_wait_for(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Processor seconds of several threads are the sum of theirs, whether they work or wait."""
    command = ["bench", "ase:g2/H2", "--guess", "huckel", "--solver", "scf", *SMALL, "--report", str(tmp_path)]
    assert cli.main([*command, *arguments]) == 0
    assert words in " ".join(capsys.readouterr().out.split())
