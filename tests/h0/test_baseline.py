"""H0 against PySCF's own, and the memory it takes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from pyscf import dft, gto, scf

from pyscf_mlham.ao.layout import OrbitalLayout
from pyscf_mlham.ao.loewdin import metric_from_overlap, orthogonal_from_ao
from pyscf_mlham.h0 import fingerprint, hamiltonian, potential, sap
from pyscf_mlham.h0.sap import SAP_BASIS, sap_potential
from support.molecules import WATER, mole


def pyscf_sap(mol):
    tables = {s: np.asarray(gto.basis.load(SAP_BASIS, s)[0][1:]) for s in set(mol.elements)}
    return scf.hf.make_sap(mol, tables)


def test_sap_is_pyscfs() -> None:
    mol = mole(WATER, "def2-tzvp")
    np.testing.assert_allclose(sap_potential(mol), pyscf_sap(mol), atol=1e-12)
    mol = mole(WATER, "def2-tzvp", cart=True)
    c = mol.cart2sph_coeff()
    np.testing.assert_allclose(c.T @ sap_potential(mol) @ c, pyscf_sap(mole(WATER, "def2-tzvp")), atol=1e-12)


def test_sap_does_not_depend_on_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    mol = mole(WATER, "def2-svp")
    whole = sap_potential(mol)
    monkeypatch.setattr(sap, "BATCH_BYTES", 1.0)
    np.testing.assert_allclose(sap_potential(mol), whole, atol=1e-13)


def test_sap_of_a_big_molecule_stays_within_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    mol = mole([("C", (2.5 * (i % 5), 2.5 * (i // 5 % 5), 2.5 * (i // 25))) for i in range(75)], "sto-3g")
    one_tensor = mol.nao**2 * mol.natm * 8
    monkeypatch.setattr(sap, "BATCH_BYTES", 1e6)
    tracemalloc.start()
    sap_potential(mol)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < one_tensor / 4


def test_minao_is_nearly_the_mean_field_of_pyscfs_minao_density() -> None:
    mol = mole(WATER, "def2-svp")
    metric = metric_from_overlap(mol.intor("int1e_ovlp"))
    objects = {"pbe": dft.RKS(mol, xc="pbe"), "b3lyp": dft.RKS(mol, xc="b3lyp"), "hf": scf.RHF(mol)}
    for (xc, mf), mean, largest in zip(objects.items(), (5e-5, 2e-4, 1e-3), (1e-3, 5e-3, 3e-2), strict=True):
        error = hamiltonian("minao", mol, xc) - mf.get_fock(dm=mf.get_init_guess(mol, "minao"))
        error = orthogonal_from_ao(error, metric)
        assert np.abs(error).mean() < mean
        assert np.abs(error).max() < largest


@pytest.mark.usefixtures("no_room")
def test_minao_without_room_for_fitted_integrals() -> None:
    mol = mole(WATER, "def2-svp")
    for xc, mf, limit in (("b3lyp", dft.RKS(mol, xc="b3lyp"), 1e-3), ("hf", scf.RHF(mol), 1e-10)):
        expected = mf.get_fock(dm=mf.get_init_guess(mol, "minao"))
        np.testing.assert_allclose(hamiltonian("minao", mol, xc), expected, atol=limit, rtol=0)


def test_hcore_is_the_core_hamiltonian() -> None:
    mol = mole()
    np.testing.assert_array_equal(hamiltonian("hcore", mol), scf.hf.get_hcore(mol))


@pytest.mark.parametrize("name", ["sap", "hcore"])
def test_analytic_baselines_rotate_exactly(name: str) -> None:
    mol = mole(WATER, "def2-svp")
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    rotated = mole([(a, q @ r) for a, r in zip(mol.elements, mol.atom_coords(), strict=True)], "def2-svp", unit="Bohr")
    layout = OrbitalLayout.from_mol(mol)
    d = layout.rotation(q)
    here = d @ layout.irreps_from_ao(hamiltonian(name, mol)) @ d.T
    np.testing.assert_allclose(layout.irreps_from_ao(hamiltonian(name, rotated)), here, atol=1e-11)


def test_ghosts_add_functions_but_no_potential() -> None:
    alone, with_ghost = mole("He 0 0 0"), mole("He 0 0 0; GHOST-He 0 0 2")
    n = alone.nao
    np.testing.assert_allclose(sap_potential(with_ghost)[:n, :n], sap_potential(alone), atol=1e-13)


def test_baseline_errors_are_specific() -> None:
    with pytest.raises(ValueError, match="unknown baseline 'sad'"):
        potential("sad", mole())
    with pytest.raises(ValueError, match="effective core potentials"):
        sap_potential(mole("I 0 0 0; H 0 0 1.6", "def2-svp", ecp={"I": "def2-svp"}))


def test_fingerprints_of_baselines_differ() -> None:
    prints = [fingerprint(b, xc) for b, xc in (("sap", "hf"), ("minao", "hf"), ("minao", "b3lyp"), ("hcore", "hf"))]
    assert np.min(np.abs(np.subtract.outer(prints, prints))[~np.eye(4, dtype=bool)]) > 1e-2
