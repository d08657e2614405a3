"""A model of your own: labels, training, and use. Far too small to be good: it shows the steps."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pyscf

import pyscf_mlham  # noqa: F401  adds 'ml' to PySCF

MOLECULES = {
    "water": "O 0 0 0.12; H 0 0.76 -0.47; H 0 -0.76 -0.47",
    "ammonia": "N 0 0 0.12; H 0 0.94 -0.27; H 0.81 -0.47 -0.27; H -0.81 -0.47 -0.27",
    "formaldehyde": "C 0 0 -0.53; O 0 0 0.67; H 0 0.94 -1.12; H 0 -0.94 -1.12",
    "methanimine": "C 0.06 0.59 0; N 0.06 -0.68 0; H -0.84 1.22 0; H 0.99 1.15 0; H -0.87 -1.09 0",
}
SETTINGS = """
name: tiny
data: set.h5
output: tiny
steps: 100
validate_every: 50
warmup: 10
network: {channels: 8, pair_channels: 8, hidden: 16, layers: 1, product: 4}
"""

folder = Path(tempfile.mkdtemp())
for name, atoms in MOLECULES.items():
    lines = atoms.split("; ")
    (folder / f"{name}.xyz").write_text("\n".join([str(len(lines)), "", *lines, ""]))
(folder / "tiny.yaml").write_text(SETTINGS)


def mlham(*words):
    """Run a command as a shell would, in the folder; return what it prints."""
    print("$ mlham", *words)
    done = subprocess.run([sys.executable, "-m", "pyscf_mlham", *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# 1. labels: the molecules and three displaced copies of each. All copies of a molecule are in one split.
files = [f"{name}.xyz" for name in MOLECULES]
mlham("data", "generate", *files, "-o", "set.h5", "--xc", "hf", "--basis", "6-31g", "--rattle", "3", "--val", "0.3")
print(mlham("data", "info", "set.h5"))

# 2. training; the model is in tiny/model
mlham("train", "tiny.yaml")
print(mlham("eval", "tiny/model", "set.h5", "--split", "val").split("h_mae:")[0])

# 3. use
mol = pyscf.M(atom="O 0 0 0.12; H 0 0.77 -0.48; H 0 -0.76 -0.47", basis="6-31g", verbose=3)
mf = mol.RHF()
mf.init_guess = f"ml:{folder / 'tiny' / 'model'}"
mf.run()
plain = mol.RHF().run()
print(f"cycles: minao {plain.cycles}, ml {mf.cycles}")
assert abs(mf.e_tot - plain.e_tot) < 1e-8
assert mf.cycles < plain.cycles
