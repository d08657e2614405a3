"""Whose energies md-bench compares with, where PySCF's scanner does not run, and with which versions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from ase.build import molecule

from pyscf_mlham import cli
from pyscf_mlham.bench.protocol import MD
from pyscf_mlham.bench.results import RESULTS, read_results

COMMAND = ["md-bench", "ase:g2/H2O", "--xc", "hf", "--basis", "sto-3g", "--steps", "1", "--out"]
TWO_LEVELS = ["--strategy", "history,scanner", "--solver", "twolevel"]


def test_the_scanner_of_either_solver_is_the_reference() -> None:
    assert MD(strategy="ml,scanner/twolevel,scanner").reference == ("scanner", "scf")
    assert MD(strategy="ml,scanner", solver="twolevel").reference == ("scanner", "twolevel")
    assert MD(strategy="ml/twolevel,minao").reference == ("ml", "twolevel")


def test_two_levels_alone_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*COMMAND, str(tmp_path), *TWO_LEVELS]) == 0
    assert "energies agree with scanner/twolevel" in (tmp_path / "report.html").read_text()
    assert "difference of energy to scanner/twolevel" in " ".join(capsys.readouterr().out.split())
    found = read_results(tmp_path / RESULTS)
    changed = [dataclasses.replace(row, e_tot=row.e_tot + 3e-6 * (row.guess == "history")) for row in found.rows]
    (tmp_path / RESULTS).write_text(dataclasses.replace(found, rows=changed).to_json())
    assert cli.main([*COMMAND, str(tmp_path), *TWO_LEVELS]) == 1
    assert "3.0e-06 Ha above" in capsys.readouterr().out


def test_a_run_alone_is_compared_with_nothing_and_not_green(tmp_path: Path) -> None:
    assert cli.main([*COMMAND, str(tmp_path), "--strategy", "history"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Same energies" not in page
    assert 'class="verdict open"' in page
    assert "Only one strategy" in page
    assert "Energies of a single run are not compared" in (tmp_path / "table.md").read_text()


def test_moments_in_files_do_not_choose_the_state(tmp_path: Path) -> None:
    triplet = molecule("O2")  # with moments
    triplet.write(tmp_path / "oxygen.extxyz")
    found = {}
    for name, source in (("file", str(tmp_path / "oxygen.extxyz")), ("collection", "ase:g2/O2")):
        command = ["md-bench", source, *COMMAND[2:], str(tmp_path / name), "--strategy", "history"]
        assert cli.main(command) == 0
        found[name] = read_results(tmp_path / name / RESULTS).rows[0]
    assert {name: row.mult for name, row in found.items()} == {"file": 1, "collection": 3}
    assert found["file"].e_tot > found["collection"].e_tot + 0.01


def test_an_upgrade_does_not_go_on_in_the_same_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*COMMAND, str(tmp_path), "--strategy", "history"]) == 0
    file = tmp_path / RESULTS
    found = read_results(file)
    file.write_text(dataclasses.replace(found, protocol=dataclasses.replace(found.protocol, pyscf="9.9")).to_json())
    assert cli.main([*COMMAND, str(tmp_path), "--strategy", "history"]) == 1
    assert "another protocol: pyscf '9.9'" in " ".join(capsys.readouterr().err.split())
