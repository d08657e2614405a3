"""models/widen.py: a network for further elements, with more shells, that starts as the old one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from pyscf import gto

from pyscf_mlham import checkpoint
from pyscf_mlham.ao.blocks import Blocks
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.nn.batch import batch_from_samples
from pyscf_mlham.nn.model import network_from_config
from support.networks import MOLECULE, SIZES, cut_of, new_sample

SCRIPT = Path(__file__).parents[2] / "models" / "widen.py"


def prediction(folder: Path, mol: gto.Mole) -> np.ndarray:
    config, weights = checkpoint.read(folder)
    network = network_from_config(config, torch.float64)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    cutoff, degree = network.options.cutoff, network.options.degree
    sample = new_sample(mol, cutoff, network.template, degree)
    with torch.no_grad():
        output = network(batch_from_samples([sample]).to("cpu", torch.float64))
    return cut_of(mol, cutoff, network.template).matrix(Blocks(*(tensor.numpy() for tensor in output)))


def test_molecules_of_the_old_elements_keep_their_hamiltonian(tmp_path: Path) -> None:
    sizes = SIZES["qhnetv2"] | {"degree": 2}
    options = {"template": [2, 1], "network": sizes}
    old = ModelConfig("old", "qhnetv2", (1, 6, 7, 8), (0,), "sto-3g", "hf", "sap", options=options)
    torch.manual_seed(1)
    network = network_from_config(old, torch.float64)
    weights = {name: (t + 0.1 * torch.randn_like(t)).numpy() for name, t in network.state_dict().items()}
    checkpoint.write(tmp_path / "old", old, weights)
    subprocess.run([sys.executable, SCRIPT, tmp_path / "old", tmp_path / "new", "Fe", "Cl"], check=True)
    config = checkpoint.read_config(tmp_path / "new")
    assert config.elements == (1, 6, 7, 8, 17, 26)
    assert config.options["template"] == [4, 3, 1]
    assert config.options["network"]["degree"] == 4
    mol = gto.M(atom=MOLECULE, basis="sto-3g", verbose=0)
    one, other = (prediction(tmp_path / name, mol) for name in ("old", "new"))
    assert np.abs(one).max() > 1e-2
    np.testing.assert_allclose(other, one, atol=1e-4 * np.abs(one).max())
    iron = gto.M(atom="Fe 0 0 0; O 0 0 1.6", basis="sto-3g", verbose=0)
    assert np.isfinite(prediction(tmp_path / "new", iron)).all()
    subprocess.run([sys.executable, SCRIPT, tmp_path / "old", tmp_path / "sp", "Fe", "--largest-l", "1"], check=True)
    without = checkpoint.read_config(tmp_path / "sp").options
    assert (without["template"], without["network"]["largest_l"], without["network"]["degree"]) == ([4, 3], 1, 2)
    np.testing.assert_allclose(prediction(tmp_path / "sp", mol), one, atol=1e-4 * np.abs(one).max())
    assert np.isfinite(prediction(tmp_path / "sp", iron)).all()
    subprocess.run([sys.executable, SCRIPT, tmp_path / "new", tmp_path / "m4", "--largest-m", "4"], check=True)
    assert checkpoint.read_config(tmp_path / "m4").options["network"]["largest_m"] == 4
    near = prediction(tmp_path / "m4", mol)  # only the norm of pairs differs, by its floor
    np.testing.assert_allclose(near, one, atol=3e-2 * np.abs(one).max())
