"""Options of mlham bench: their meaning, and errors that name wrong ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pyscf_mlham import checkpoint, cli
from pyscf_mlham.bench.protocol import absolute, guess_from_text
from pyscf_mlham.bench.results import RESULTS, read_results
from pyscf_mlham.model.store import shipped
from support.benchmarked import SMALL

pytestmark = pytest.mark.usefixtures("quick_commands")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--guess", "mniao"], "'mniao'"),
        (["--guess", "vsap"], "vsap"),
        (["--guess", "minao,coarse", "--df"], "--df"),
        (["--guess", "coarse", "--xc", "pbe", "--df", "--grid", "0"], "--df"),
        (["--guess", "vsap", "--xc", "pbe", "--scf", "gks"], "GKS"),
        (["--guess", "chk:nowhere.chk"], "nowhere.chk"),
        (["--solver", "diis"], "diis"),
        (["--xc", "pbe", "--scf", "rhf"], "--scf rhf"),
        (["--xc", "b3lpy"], "b3lpy"),
        (["--basis", "cc-pvdq"], "cc-pvdq"),
        (["--basis", "@3s"], "@3s"),
        (["--basis", "sto-3g@3s"], "sto-3g@3s"),
        (["--insert", "nowhere.md"], "nowhere.md"),
        (["--threads", "0"], "--threads 0"),
        (["--repeat", "0"], "--repeat 0"),
        (["--model", "nobody"], "nobody"),
        (["-j", "0"], "0 worker processes"),
        (["--report", "/proc/none"], "/proc/none: it cannot be created"),
    ],
)
def test_wrong_arguments_are_named_before_anything_runs(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "ase:g2/H2O", *SMALL, "--report", str(tmp_path), *arguments]) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_damaged_model_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no benchmark of minao under another name."""
    name, folder = "b3lyp-svp", shipped()["b3lyp-svp"]
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
    name, folder = "b3lyp-svp", shipped()["b3lyp-svp"]
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
