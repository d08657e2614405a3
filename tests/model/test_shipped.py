"""Every model that ships: it loads, knows its limits, is equivariant in single precision, and saves cycles."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pyscf import gto
from scipy.spatial.transform import Rotation

import pyscf_mlham
from pyscf_mlham import checkpoint, cli
from pyscf_mlham.ao.layout import OrbitalLayout
from pyscf_mlham.h0 import hamiltonian
from pyscf_mlham.model.network import NetworkModel
from pyscf_mlham.model.predictor import predict
from pyscf_mlham.model.store import load, shipped
from pyscf_mlham.nn.model import network_from_config
from support import ROOT
from support.molecules import ETHYLENE, WATER, mole

FOLDERS = shipped()
FORMALDEHYDE = "C 0 0 -0.53; O 0 0 0.68; H 0 0.93 -1.11; H 0 -0.93 -1.11"
METHANOL = "C 0.0 0.1 -0.7; O 0.1 -0.1 0.7; H 1.0 0.3 -1.1; H -0.5 0.9 -1.0; H -0.5 -0.8 -1.1; H -0.7 0.3 1.1"
CHLOROPROPANOL = """O 0.1 2.2 0.4; C 0.0 0.8 0.5; C 1.3 0.1 0.2; Cl 1.2 -1.6 0.7; H -0.3 0.5 1.5; H -0.8 0.4 -0.2
H 1.6 0.2 -0.8; H 2.1 0.6 0.8; H 0.3 2.5 -0.5"""


MOLECULES = [name for name, path in FOLDERS.items() if not checkpoint.read_config(path).pseudo]


@pytest.fixture(params=MOLECULES)
def folder(request: pytest.FixtureRequest) -> Path:
    return FOLDERS[request.param]


def native(config: checkpoint.ModelConfig, atoms: str = CHLOROPROPANOL, **options: object) -> gto.Mole:
    return gto.M(atom=atoms, basis=config.basis, verbose=0, **options)


def test_default_model_ships() -> None:
    assert "b3lyp-svp" in FOLDERS


@pytest.mark.parametrize("name", FOLDERS)
def test_files_are_small_and_have_a_card(name: str) -> None:
    folder = FOLDERS[name]
    config = checkpoint.read_config(folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 20e6
    card = (folder / "card.md").read_text()
    assert config.weights_sha256 in card
    for heading in ("Data", "Training", "What it reaches", "Domain", "Where it fails"):
        assert f"## {heading}" in card


def test_exact_and_single_precision_equivariance(folder: Path) -> None:
    """The network is exact; H0 may have a grid, whose noise must stay below the same bound."""
    config, weights = checkpoint.read(folder)
    mol = native(config)
    layout = OrbitalLayout.from_mol(mol)
    Q = Rotation.from_euler("xyz", [0.4, -1.1, 2.2]).as_matrix() @ np.diag([1, 1, -1])
    rotated = mol.copy().set_geom_(mol.atom_coords() @ Q.T, unit="Bohr")
    D = layout.rotation(Q)

    def turn(matrix: np.ndarray) -> np.ndarray:
        return layout.ao_from_irreps(D @ layout.irreps_from_ao(matrix) @ D.T)

    h0 = hamiltonian(config.baseline, mol, config.xc)

    def error(model: NetworkModel, there: np.ndarray | None = None) -> float:
        there = turn(h0) if there is None else there
        return float(np.abs(model.correction(rotated, there) - turn(model.correction(mol, h0))).max())

    import torch

    assert error(load(folder), hamiltonian(config.baseline, rotated, config.xc)) < 5e-5
    assert error(load(folder)) < 1e-5
    double = network_from_config(config, torch.float64)
    double.load_state_dict({k: torch.from_numpy(v).double() for k, v in weights.items()})
    assert error(NetworkModel(config, double)) < 1e-10


def test_energies_are_smooth_along_a_path(folder: Path) -> None:
    model = load(folder)
    base = native(model.config, METHANOL).atom_coords()
    direction = np.random.default_rng(0).normal(size=base.shape)
    path = []
    for step in range(9):  # pairs change their frames' sign of z and trade places as neighbours on the way
        mol = native(model.config, METHANOL).set_geom_(base + 0.02 * step * direction, unit="Bohr")
        path.append(predict(mol.RKS(xc=model.config.xc), model).orbitals.energy[: mol.nelectron // 2])
    third = np.diff(path, n=3, axis=0)
    assert np.abs(third).max() < 2e-3  # a jump of x shows up here as 3 x


def test_default_model_saves_cycles() -> None:
    minao = mole(basis="def2-svp").RKS(xc="b3lyp").run()
    mf = mole(basis="def2-svp").RKS(xc="b3lyp").set(init_guess="ml").run()
    assert mf.cycles <= minao.cycles - 2
    assert mf.e_tot == pytest.approx(minao.e_tot, abs=1e-8)
    assert pyscf_mlham.fock(mf).shape == (mf.mol.nao, mf.mol.nao)


@pytest.mark.parametrize(
    ("atoms", "basis", "saved"),
    [(FORMALDEHYDE, "sto-3g", 3), (FORMALDEHYDE, "6-31g*", 4), (ETHYLENE, "6-31g*", 2), (WATER, "def2-tzvp", 4)],
)
def test_lift_of_the_default_model_saves_cycles(atoms: str, basis: str, saved: int) -> None:
    minao = mole(atoms, basis).RKS(xc="b3lyp").run()
    mf = mole(atoms, basis).RKS(xc="b3lyp").set(init_guess="ml").run()
    assert mf.cycles <= minao.cycles - saved
    assert mf.e_tot == pytest.approx(minao.e_tot, abs=1e-8)


def test_default_model_refuses_molecules_outside_its_domain() -> None:
    for atoms, options in (
        ("Ti 0 0 0; Cl 0 0 2.2; Cl 2.07 0 -0.73; Cl -1.04 1.79 -0.73; Cl -1.04 -1.79 -0.73", {}),
        (WATER, {"charge": 4}),
    ):
        mf = gto.M(atom=atoms, basis="def2-svp", verbose=0, **options).RKS(xc="b3lyp")
        with pytest.raises(pyscf_mlham.MLHamError, match="not among those of model b3lyp-svp"):
            pyscf_mlham.guess(mf, fallback="raise")


LIGHT = """
import sys, pyscf_mlham
assert not {"torch", "e3nn", "matplotlib"} & set(sys.modules)
from pyscf.scf import hf
from pyscf_mlham.model.store import load
hf.kernel = None  # no SCF
assert load("b3lyp-svp") is load("b3lyp-svp")
assert not {"e3nn", "matplotlib", "ase", "rich"} & set(sys.modules)
"""


def test_importing_and_loading_are_light() -> None:
    subprocess.run([sys.executable, "-c", LIGHT], check=True)


def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models"]) == 0
    assert "b3lyp-svp" in capsys.readouterr().out


GLYCOLONITRILE = """O 0.95 0.00 0.55; H 1.70 0.55 0.35; C -0.25 0.70 0.25; H -0.35 1.55 0.95; H -0.30 1.05 -0.80
C -1.35 -0.25 0.45; N -2.20 -1.00 0.60"""


@pytest.mark.parametrize(("baseline", "tolerance"), [("minao", 2e-6), ("scc", 2e-5)])
def test_baselines_are_those_of_the_release(baseline: str, tolerance: float) -> None:
    """Models depend on their H0: changes of the solver's own levels must not reach it."""
    mol = gto.M(atom=GLYCOLONITRILE, basis="def2-svp", verbose=0)
    with np.load(ROOT / "tests" / "support" / "glycolonitrile.npz") as stored:
        h0 = hamiltonian(baseline, mol, "b3lyp")
        np.testing.assert_allclose(h0[np.tril_indices(mol.nao)], stored[baseline], rtol=0, atol=tolerance)


def test_the_correction_is_that_of_the_release() -> None:
    mol = gto.M(atom=GLYCOLONITRILE, basis="def2-svp", verbose=0)
    lower = np.tril_indices(mol.nao)
    with np.load(ROOT / "tests" / "support" / "glycolonitrile.npz") as stored:
        h0 = np.zeros((mol.nao, mol.nao))
        h0[lower] = stored["scc"]
        h0 = h0 + np.tril(h0, -1).T
        correction = load(FOLDERS["b3lyp-svp"]).correction(mol, h0)
        np.testing.assert_allclose(correction[lower], stored["correction"], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("atoms", "options", "kind"),
    [
        ("N 0 0 0; H 0 0 1.03; H 0.99 0 -0.25", {"spin": 1}, "UKS"),
        ("N 0 0 0; H 0 0 1.03; H 0.99 0 -0.25", {"spin": 1}, "ROKS"),
        ("N 0 0 0; H 0.94 0 0.4; H -0.47 0.81 0.4; H -0.47 -0.81 0.4; H 0 0 -1.03", {"charge": 1}, "RKS"),
        ("I 0 0 0; C 0 0 2.13; H 1.03 0 2.46; H -0.515 0.892 2.46; H -0.515 -0.892 2.46", {}, "RKS"),
    ],
    ids=["radical", "restricted open shell", "cation", "core potential"],
)
def test_ions_radicals_and_heavy_elements(atoms: str, options: dict[str, int], kind: str) -> None:
    mol = gto.M(atom=atoms, basis="def2-svp", ecp={"I": "def2-svp"} if "I" in atoms else {}, verbose=0, **options)
    cycles = {}
    for guess in ("minao", "ml"):
        mf = getattr(mol, kind)(xc="b3lyp").density_fit().set(init_guess=guess)
        mf.grids.level = 1
        cycles[guess], energy = (mf.run().cycles, mf.e_tot)
    assert mf.guess_info.guess == "ml"
    assert cycles["ml"] <= 0.6 * cycles["minao"]
    quick = pyscf_mlham.accelerate(mf.copy())
    assert quick.kernel() == pytest.approx(energy, abs=1e-8)


def test_accelerate_needs_no_coarse_builds_after_it() -> None:
    mf = mole(basis="def2-svp").RKS(xc="b3lyp").density_fit().set(init_guess="ml")
    quick = pyscf_mlham.accelerate(mf)
    assert quick.run().converged
    assert (quick.full_builds, quick.single_builds, quick.coarse_builds) == (1, 1, 0)


def test_withdrawn_models_are_named() -> None:
    with pytest.raises(pyscf_mlham.ModelError, match="withdrawn; use 'b3lyp-svp'"):
        load("organic-b3lyp-svp")
