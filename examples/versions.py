"""Fast tests with several versions of Python, PySCF, numpy and torch: a virtual environment each, and a table.

python examples/versions.py [NAME ...] [--folder versions] [--index URL]; environments are kept and tested again.
The index is one of torch's CPU wheels; the default one has several gigabytes of CUDA libraries on Linux. With --core
the package is installed without its extras, and the tests are those of the SCF.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CPU = "https://download.pytorch.org/whl/cpu"
TESTS = ("tests/ao", "tests/nn/test_nn.py", "tests/test_checkpoint.py", "tests/test_density.py",
         "tests/test_features.py", "tests/test_hooks.py", "tests/h0", "tests/field", "tests/model/test_guess.py",
         "tests/model/test_oneshot.py", "tests/scf/test_pickling.py", "tests/scf/multilevel", "tests/track",
         "tests/test_ase.py", "tests/data/test_store.py", "tests/train/test_resume.py")  # fmt: skip
MULTILEVEL = "tests/scf/multilevel"
CORE_TESTS = ("tests/field", "tests/h0", f"{MULTILEVEL}/test_multilevel.py", f"{MULTILEVEL}/test_plain.py",
              "tests/track")  # fmt: skip
CORE_TOOLS = ("pytest", "hypothesis", "h5py", "ase")
# Python, and requirements of pip; the newest version of all others.
ENVIRONMENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "oldest": ("3.10", ("pyscf==2.13.*", "numpy==1.26.*", "torch==2.6.*")),
    "numpy-1": ("3.11", ("pyscf==2.14.*", "numpy==1.26.*")),
    "pyscf-2.13": ("3.12", ("pyscf==2.13.*",)),
    "newest": ("3.13", ()),
}
SHOWN = ("pyscf", "numpy", "scipy", "torch", "ase", "h5py")
COUNT = re.compile(r"(\d+) (passed|failed|error|skipped)")


def environment(name: str, folder: Path, index: str, torch: str, core: bool) -> str:
    """Create the environment of a name if it is missing; return the reason if that fails."""
    version, requirements = ENVIRONMENTS[name]
    python = shutil.which(f"python{version}")
    # a shim of pyenv is found also if it has no such version
    if python is None or subprocess.run([python, "--version"], capture_output=True, check=False).returncode:
        return f"Python {version} is not installed"
    if (folder / "complete").exists():
        return ""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", folder], check=True)
    chosen = [torch] if torch else [each for each in requirements if each.startswith("torch")] or ["torch"]
    requirements = (*(each for each in requirements if not each.startswith("torch")), *chosen)
    pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet"]
    extra = ["--index-url", index] if index else []
    lines = [[*pip, *extra, *chosen], [*pip, *requirements, "--editable", f"{ROOT}[dev]"]]
    if core:
        without = [each for each in requirements if each not in chosen]
        lines = [[*pip, *without, *CORE_TOOLS, "--editable", str(ROOT)]]
    for line in lines:
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            return str((done.stderr.strip().splitlines() or ["pip failed"])[-1])
    (folder / "complete").touch()
    return ""


def versions(folder: Path) -> list[str]:
    """Return the versions of Python and the packages that are shown, - for a missing one."""
    code = (
        "import platform, importlib.metadata as m; "
        "have = {each.metadata['Name'].lower(): each.version for each in m.distributions()}; "
        f"print(platform.python_version(), *(have.get(name, '-') for name in {SHOWN!r}))"
    )
    done = subprocess.run([f"{folder}/bin/python", "-c", code], capture_output=True, text=True, check=True)
    return str(done.stdout).split()


def tested(folder: Path, tests: list[str]) -> str:
    """Run tests in an environment; return the numbers of those that passed and failed."""
    line = [f"{folder}/bin/python", "-m", "pytest", "-q", "-m", "not slow", *tests]
    single = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=ROOT, env=os.environ | single, capture_output=True, text=True, check=False)
    (folder / "tests.log").write_text(done.stdout + done.stderr)
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    return ", ".join(f"{count} {what}" for count, what in COUNT.findall(last)) or last


def main() -> None:
    """Make the environments, run the tests, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(ENVIRONMENTS))
    parser.add_argument("--folder", type=Path, default=Path("versions"))
    parser.add_argument("--index", default=CPU, help="index of torch's wheels, '' for pip's own; default %(default)s")
    parser.add_argument("--torch", default="", help="requirement of torch for all environments, as torch==2.13.0+cpu")
    parser.add_argument("--core", action="store_true", help="without torch and the other extras")
    parser.add_argument("--tests", nargs="*")
    args = parser.parse_args()
    tests = args.tests or list(CORE_TESTS if args.core else TESTS)
    print(f"| | Python | {' | '.join(SHOWN)} | fast tests |\n|{'---|' * (len(SHOWN) + 3)}", flush=True)
    for name in args.names:
        folder = args.folder.resolve() / name
        if reason := environment(name, folder, args.index, args.torch, args.core):
            print(f"| {name} {'| ' * (len(SHOWN) + 1)}| {reason} |", flush=True)
        else:
            print(f"| {name} | {' | '.join(versions(folder))} | {tested(folder, tests)} |", flush=True)


if __name__ == "__main__":
    main()
