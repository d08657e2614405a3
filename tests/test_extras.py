"""What works without the optional dependencies, and what is missing without them."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pyscf_mlham
from pyscf_mlham.errors import needed
from support import ROOT

tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on

# h5py is not among them: PySCF itself needs it.
OPTIONAL = ("ase", "e3nn", "jinja2", "lmdb", "matplotlib", "rich", "safetensors", "torch", "yaml")

BLOCKED = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""

CORE = """
import pyscf, pyscf_mlham
mol = pyscf.M(atom="O 0 0 0.1173; H 0 0.7572 -0.4692; H 0 -0.7572 -0.4692", basis="def2-svp", verbose=0)
plain = mol.RKS(xc="b3lyp").run()
energies = [
    pyscf_mlham.accelerate(mol.RKS(xc="b3lyp")).kernel(),
    pyscf_mlham.track(mol.RKS(xc="b3lyp")).kernel(),
    mol.RKS(xc="b3lyp").set(init_guess="scc").kernel(),
]
mf = mol.RKS(xc="b3lyp").set(init_guess="ml").run()
assert max(abs(e - plain.e_tot) for e in [*energies, mf.e_tot]) < 1e-8
assert mf.guess_info.guess == "scc", mf.guess_info
print(mf.guess_info.fallback_reason)
print(pyscf_mlham.applicable(mf, "ml"))
"""


def without_extras(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCKED + code], capture_output=True, text=True)


def test_core_works_without_optional_dependencies() -> None:
    result = without_extras(CORE)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('pip install "pyscf-mlham[ml]"') == 2


def test_the_calculator_names_its_extra() -> None:
    result = without_extras("import pyscf_mlham.ase")
    assert result.returncode
    assert 'pip install "pyscf-mlham[ase]"' in result.stderr.splitlines()[-1]


def test_the_command_line_names_what_is_missing() -> None:
    result = without_extras("from pyscf_mlham.cli import main; sys.exit(main(['models']))")
    assert result.returncode == 1
    assert 'pip install "pyscf-mlham[all]"' in result.stderr
    assert "Traceback" not in result.stderr


def test_an_extra_that_is_missing_is_an_import_error() -> None:
    with pytest.raises(ImportError, match=r'not_there is not installed; .*"pyscf-mlham\[ase\]"'):
        needed("not_there", "ase")


def test_the_version_is_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    path = ROOT / project["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{pyscf_mlham.__version__}"' in path.read_text()


def test_the_core_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {name.partition(">")[0] for name in project["dependencies"]} == {"numpy", "pyscf", "scipy", "threadpoolctl"}
    listed = {name.partition(">")[0].lower() for extra in project["optional-dependencies"].values() for name in extra}
    assert {"pyyaml" if name == "yaml" else name for name in OPTIONAL} <= listed
