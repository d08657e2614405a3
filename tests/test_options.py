"""Mistyped options are reported before anything runs or is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pyscf_mlham import __version__, cli
from pyscf_mlham.bench.protocol import Protocol
from pyscf_mlham.errors import DataError

BENCH = ["bench", "ase:g2/H2O", "--report"]
MD = ["md-bench", "ase:g2/H2O", "--out"]
GENERATE = ["data", "generate", "ase:g2/H2O", "-o"]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (BENCH, ["--energy-tol", "nan"], "--energy-tol nan"),
        (BENCH, ["--energy-tol", "-1"], "--energy-tol -1.0"),
        (GENERATE, ["--guess", "foo"], "unknown guess 'foo'; expected one of minao, scc, atom"),
        (GENERATE, ["--guess", "ml:nobody"], "'nobody': neither a shipped model"),
        (GENERATE, ["--rattle", "-3"], "--rattle -3: expected 0 or more"),
        (GENERATE, ["--sigma", "nan"], "--sigma nan: expected 0 or more"),
        (GENERATE, ["--thermal", "-2"], "--thermal -2: expected 0 or more"),
        (GENERATE, ["--temperature", "-5"], "--temperature -5.0: expected 0 or more"),
    ],
)
def test_option_values_out_of_range_are_errors(
    command: list[str], arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*command, str(tmp_path / "out"), *arguments]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (BENCH, ["--guess", ","], "argument --guess: ','"),
        (BENCH, ["--guess", "minao,", "ml"], "argument --guess: 'minao,': expected names such as minao,ml"),
        (BENCH, ["--solver", "scf,", "twolevel"], "argument --solver: 'scf,'"),
        (MD, ["--strategy", "ml,", "scanner"], "argument --strategy: 'ml,'"),
        (MD, ["--solver", ",scf"], "argument --solver: ',scf'"),
        (BENCH, ["--grid", "12"], "argument --grid: invalid choice: 12"),
        (["guess", "ase:g2/H2O", "-o"], ["--grid", "-1"], "argument --grid: invalid choice: -1"),
        (GENERATE, ["--grid", "-1"], "argument --grid: invalid choice: -1"),
    ],
)
def test_option_values_of_wrong_form_are_errors(
    command: list[str], arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([*command, str(tmp_path / "out"), *arguments])
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "pyscf_mlham"]
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout == f"mlham {__version__}\n"
    wrong = subprocess.run([*command, "eval", "nobody", "nothing.h5"], capture_output=True, text=True)
    assert wrong.returncode == 1
    assert "'nobody': neither a shipped model" in wrong.stderr


def test_grid_levels_are_those_of_pyscf() -> None:
    assert Protocol(grid_level=9).grid_level == 9
    with pytest.raises(DataError, match="grid-level 10: expected 0 to 9"):
        Protocol(grid_level=10)


def test_the_help_names_both_solvers_as_they_are_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["md-bench", "--help"])
    assert "scf,twolevel for both" in " ".join(capsys.readouterr().out.split())


def test_lists_in_options_may_have_spaces(tmp_path: Path) -> None:
    command = [*BENCH, str(tmp_path), "--guess", "minao, sap", "--solver", "scf, twolevel", "--xc", "hf"]
    assert cli.main([*command, "--basis", "sto-3g", "--quiet"]) == 0
    text = (tmp_path / "table.md").read_text()
    assert "| sap | twolevel |" in text
