"""Models on the self-consistent baseline: both spins, ions, core potentials and other methods by the same network."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyscf import gto

from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.data.dataset import count_examples, examples, examples_from_record, template_of
from pyscf_mlham.data.record import Level, Record
from pyscf_mlham.data.schema import HamiltonianFile, write_file
from pyscf_mlham.errors import DataError, OutOfDomainError
from pyscf_mlham.h0 import SCC, hamiltonian
from pyscf_mlham.model.network import NetworkModel, Recipe
from pyscf_mlham.model.predictor import predict
from pyscf_mlham.nn.model import network_from_config
from pyscf_mlham.nn.qhnetv2 import QHNetV2Options
from pyscf_mlham.train.metrics import evaluate
from pyscf_mlham.train.preparation import prepare
from support.labelled import settings, silent
from support.molecules import mole

pytestmark = pytest.mark.usefixtures("small_grids")

BASIS = "6-31g*"
ELEMENTS = (1, 6, 7, 8)
RADICAL = "N 0 0 0; H 0 0 1.03; H 0.99 0 -0.25"
IODIDE = "I 0 0 0; C 0 0 2.13; H 1.03 0 2.46; H -0.515 0.892 2.46; H -0.515 -0.892 2.46"


@pytest.fixture(scope="module")
def network() -> NetworkModel:
    """A random network, small changes of H0."""
    torch.manual_seed(1)
    sizes = asdict(QHNetV2Options(layers=1, channels=8, pair_channels=8, hidden=16, product=4, scale=0.01))
    template = template_of(ELEMENTS, BASIS)
    options = {"template": list(template.counts), "network": sizes}
    config = ModelConfig("spins", "qhnetv2", ELEMENTS, (-1, 0, 1), BASIS, "b3lyp", SCC, options=options)
    model = network_from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2) if not parameter.any() else None
    return NetworkModel(config, model.double())


def test_exchange_of_spins(network: NetworkModel) -> None:
    mol = mole(RADICAL, BASIS, spin=1)
    alpha, beta = hamiltonian(SCC, mol, "b3lyp")
    up = network.correction(mol, np.stack([alpha, beta]))
    flipped = gto.copy(mol)
    flipped.spin = -1
    down = network.correction(flipped, np.stack([beta, alpha]))
    assert np.abs(up[0] - up[1]).max() > 1e-4
    np.testing.assert_allclose(down, up[::-1], rtol=0, atol=1e-12)


def test_a_closed_shell_has_one_answer(network: NetworkModel) -> None:
    mol = mole(basis=BASIS)
    restricted = predict(mol.RKS(xc="b3lyp"), network, refine=False)
    unrestricted = predict(mol.UKS(xc="b3lyp"), network, refine=False)
    np.testing.assert_allclose(unrestricted.fock[0], restricted.fock, rtol=0, atol=1e-5)
    np.testing.assert_allclose(unrestricted.fock[1], unrestricted.fock[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["UKS", "ROKS"])
@pytest.mark.parametrize("refine", [False, True])
def test_radicals_reach_the_energy_of_plain_scf(network: NetworkModel, kind: str, refine: bool) -> None:
    mf = getattr(mole(RADICAL, BASIS, spin=1), kind)(xc="b3lyp")
    plain = mf.copy().run(conv_tol=1e-10)
    prediction = predict(mf, network, refine=refine)
    density = mf.make_rdm1(prediction.orbitals.coeff, prediction.orbitals.occ)
    found = mf.copy().run(dm0=density, conv_tol=1e-10)
    assert found.e_tot == pytest.approx(plain.e_tot, abs=1e-8)


def test_core_potentials_are_those_of_the_basis_set() -> None:
    torch.manual_seed(1)
    elements = (1, 6, 53)
    sizes = asdict(QHNetV2Options(layers=1, channels=8, pair_channels=8, hidden=16, product=4, scale=0.01))
    options = {"template": list(template_of(elements, "def2-svp").counts), "network": sizes}
    config = ModelConfig("cores", "qhnetv2", elements, (0,), "def2-svp", "b3lyp", SCC, options=options)
    model = NetworkModel(config, network_from_config(config))
    mf = mole(IODIDE, "def2-svp", ecp={"I": "def2-svp"}).RKS(xc="b3lyp")
    assert predict(mf, model).fock.shape == (mf.mol.nao, mf.mol.nao)
    other = mole(IODIDE, {"I": "lanl2dz", "default": "def2-svp"}, ecp={"I": "lanl2dz"}).RKS(xc="b3lyp")
    with pytest.raises(OutOfDomainError, match="of I replaces 46"):
        predict(other, model)


def test_one_example_for_each_spin(network: NetworkModel, tmp_path: Path) -> None:
    mf = mole(RADICAL, BASIS, spin=1).UKS(xc="b3lyp").run()
    alpha, beta = mf.get_fock()
    record = _record(mf, alpha, {"fock_beta": beta})
    level = Level("b3lyp", BASIS)
    recipe = Recipe(network.network.template, network.network.options.degree, 16.0, SCC)
    first, second = examples_from_record(record, level, recipe)
    assert (first.n_occupied, second.n_occupied) == mf.mol.nelec
    h0 = hamiltonian(SCC, mf.mol, "b3lyp")
    expected = np.abs(np.stack([alpha, beta]) - h0 - network.correction(mf.mol, h0)).mean(axis=(1, 2))
    found = [m.h_mae for m in evaluate(network.network, [first, second])]
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    stored = record._replace(extra={"fock_beta": beta, "fock_scc": h0[0], "fock_scc_beta": h0[1]})
    again = examples_from_record(stored, level, recipe)
    for one, other in zip(again, (first, second), strict=True):
        np.testing.assert_allclose(one.pair, other.pair, rtol=0, atol=1e-6)
    with pytest.raises(DataError, match="train with baseline: scc"):
        examples_from_record(record, level, recipe._replace(baseline="minao"))
    with pytest.raises(DataError, match="Fock matrix of its beta electrons is missing"):
        examples_from_record(record._replace(extra={}), level, recipe)
    write_file(tmp_path / "both.h5", level, [record, record._replace(name="ion", charge=1, spin=0)], {})
    with HamiltonianFile(tmp_path / "both.h5") as file:
        assert [count_examples(file, indices) for indices in ([0], [1], [0, 1], [])] == [2, 1, 3, 0]
    assert len(list(examples(tmp_path / "both.h5", [0, 1], recipe))) == 3


def _record(mf: Any, fock: np.ndarray, extra: dict[str, np.ndarray]) -> Record:
    mol = mf.mol
    return Record(
        name="radical",
        group="radical",
        source="here",
        split="train",
        numbers=mol.atom_charges(),
        positions=mol.atom_coords(),
        charge=mol.charge,
        spin=mol.spin,
        fock=fock,
        energy=mf.e_tot,
        gap=0.1,
        extra=extra,
    )


def test_elements_of_the_settings_are_supported(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Molecules with other elements train nothing and validate nothing."""
    monkeypatch.setattr("pyscf_mlham.train.preparation.usable_cores", lambda: 1)
    train, val, config = prepare(settings(data, tmp_path, elements=("H", "C", "O"), baseline=SCC), silent())
    assert config.elements == (1, 6, 8)
    assert config.options["network"]["scale"] == pytest.approx(0.03)
    for split in (train, val):
        assert {int(z) for example in split for z in example.sample.numbers} == {1, 6, 8}
