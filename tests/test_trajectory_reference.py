"""Whose energies md-bench compares with, where PySCF's scanner does not run, and with which versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase.build import molecule

from pyscf_mlham import cli
from pyscf_mlham.bench.trajectory_summary import reference_of

COMMAND = ["md-bench", "ase:g2/H2O", "--xc", "hf", "--basis", "sto-3g", "--steps", "1", "--out"]
TWO_LEVELS = ["--strategy", "history,scanner", "--solver", "twolevel"]


def test_the_scanner_of_either_solver_is_the_reference() -> None:
    assert reference_of(["ml", "scanner/twolevel", "scanner"]) == "scanner"
    assert reference_of(["ml", "scanner/twolevel"]) == "scanner/twolevel"
    assert reference_of(["ml/twolevel", "minao"]) == "ml/twolevel"


def test_two_levels_alone_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*COMMAND, str(tmp_path), *TWO_LEVELS]) == 0
    assert "converged to the energy of scanner/twolevel" in (tmp_path / "report.html").read_text()
    assert "to that of scanner/twolevel" in " ".join(capsys.readouterr().out.split())
    file = tmp_path / "g2_H2O" / "steps.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[-1]["runs"]["history/twolevel"]["energy"] += 3e-6
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli.main([*COMMAND, str(tmp_path), *TWO_LEVELS]) == 1
    assert "history/twolevel: an energy differs from that of scanner/twolevel" in capsys.readouterr().out


def test_a_run_alone_is_compared_with_nothing_and_not_green(tmp_path: Path) -> None:
    assert cli.main([*COMMAND, str(tmp_path), "--strategy", "history"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Same answers" not in page
    assert 'class="verdict open"' in page
    assert "no energy is compared" in page
    assert "nothing else ran to compare energies with" in (tmp_path / "report.md").read_text()


def test_moments_in_files_do_not_choose_the_state(tmp_path: Path) -> None:
    triplet = molecule("O2")  # with moments
    triplet.write(tmp_path / "oxygen.extxyz")
    found = {}
    for name, source in (("file", str(tmp_path / "oxygen.extxyz")), ("collection", "ase:g2/O2")):
        command = ["md-bench", source, *COMMAND[2:], str(tmp_path / name), "--strategy", "history"]
        assert cli.main(command) == 0
        (found[name],) = json.loads((tmp_path / name / "report.json").read_text())["molecules"].values()
    assert {name: report["mult"] for name, report in found.items()} == {"file": 1, "collection": 3}
    energies = {name: report["steps"][0]["runs"]["history"]["energy"] for name, report in found.items()}
    assert energies["file"] > energies["collection"] + 0.01


def test_an_upgrade_does_not_go_on_in_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*COMMAND, str(tmp_path), "--strategy", "history"]) == 0
    monkeypatch.setattr("pyscf.__version__", "9.9")
    assert cli.main([*COMMAND, str(tmp_path), "--strategy", "history"]) == 1
    assert "other versions of PySCF" in " ".join(capsys.readouterr().err.split())
