"""The order of imports: kept by the package, and broken by one import upward."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT

LINT = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter, by the contracts in pyproject.toml, on the package in a folder."""
    command = [sys.executable, "-c", LINT, "--no-cache", str(ROOT / "pyproject.toml")]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_package_keeps_the_contracts() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "imported"),
    [
        ("ao.layout", "from pyscf_mlham.density import gap", "pyscf_mlham.density"),
        ("scf.problem", "def late():\n    import pyscf_mlham.bench.report", "pyscf_mlham.bench.report"),
        ("nn.layers", "import pyscf", "pyscf"),
    ],
    ids=["upward", "upward inside a function", "PySCF in a network"],
)
def test_import_against_the_contracts_is_found(tmp_path: Path, module: str, line: str, imported: str) -> None:
    shutil.copytree(ROOT / "pyscf_mlham", tmp_path / "pyscf_mlham")
    with (tmp_path / "pyscf_mlham" / module.replace(".", "/")).with_suffix(".py").open("a") as file:
        file.write(f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert f"pyscf_mlham.{module} -> {imported} " in " ".join(done.stdout.split()) + " "
