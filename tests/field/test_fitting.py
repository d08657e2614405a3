"""PySCF's own fitted integrals, computed for overlapping pairs only."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from pyscf import df, gto

from pyscf_mlham import accelerate
from pyscf_mlham.field import COARSE, CoarseField, SingleField, atomic_factor
from pyscf_mlham.field.auxiliary import _size, auxiliary_basis
from pyscf_mlham.field.fitting import CoulombIntegrals, FittedIntegrals, fit_overlapping
from support.molecules import ETHYLENE, mole

FAR = "O 0 0 0.12; H 0 0.76 -0.47; H 0 -0.76 -0.47; O 9 0 0.12; H 9 0.76 -0.47; H 9 -0.76 -0.47"  # two molecules


@pytest.mark.parametrize("omega", [0.0, 0.33, -0.2])
@pytest.mark.parametrize("cart", [False, True])
def test_fitted_integrals_are_those_of_pyscf(omega: float, cart: bool) -> None:
    mol = mole(FAR, "6-31g*", cart=cart)
    mol.omega = omega
    own, ours = df.DF(mol).build(), df.DF(mol)
    fit_overlapping(ours)
    assert ours._cderi.shape == own._cderi.shape
    assert np.array_equal(ours.auxmol._bas, own.auxmol._bas)
    assert np.array_equal(ours.auxmol._env, own.auxmol._env)
    assert np.mean(np.all(ours._cderi == 0, axis=0)) > 0.05
    density = mol.RKS().get_init_guess(key="minao")
    for mine, theirs in zip(ours.get_jk(density), own.get_jk(density), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-9)


@pytest.mark.parametrize("xc", ["b3lyp", "camb3lyp"])
def test_accelerated_energies_and_gradients_are_those_of_pyscfs_integrals(xc: str) -> None:
    plain, quick = (mole(FAR).RKS(xc=xc).density_fit().set(conv_tol=1e-10) for _ in range(2))
    quick = accelerate(quick)
    assert quick.kernel() == pytest.approx(plain.kernel(), abs=1e-8)
    gradients = [mf.nuc_grad_method().kernel() for mf in (plain, quick)]
    np.testing.assert_allclose(*gradients, atol=1e-5)
    fitted = quick.with_df._cderi
    assert np.mean(np.all(fitted == 0, axis=0)) > 0.05
    quick.with_df.build()
    assert np.abs(quick.with_df._cderi - fitted).max() < 1e-8


def test_integrals_that_exist_or_belong_in_a_file_are_left_alone(tmp_path: Any) -> None:
    built = df.DF(mole(FAR)).build()
    integrals = built._cderi
    fit_overlapping(built)
    assert built._cderi is integrals
    filed, small = df.DF(mole(FAR)), df.DF(mole(FAR))
    filed._cderi_to_save, small.max_memory = str(tmp_path / "cderi.h5"), 0
    for left in (filed, small):
        fit_overlapping(left)
        assert left._cderi is None


def test_integrals_that_pyscf_would_not_store_are_not_stored() -> None:
    mf = accelerate(mole(FAR).RKS(xc="pbe").density_fit()).run()
    assert mf.converged
    assert mf.with_df._cderi is None


@pytest.mark.parametrize("options", [{}, {"cart": True}, {"basis": "def2-tzvp"}, {"atom": "Br 0 0 0; ghost-H 0 0 1.5"}])
def test_coulomb_matrix_of_single_precision_is_accurate(options: dict[str, Any]) -> None:
    mol = mole(**({"atom": FAR} | options), spin=None)
    mf = mol.RKS(xc="pbe").density_fit() if not mol.spin else mol.UKS(xc="pbe").density_fit()
    factors = [np.random.default_rng(0).normal(0, 0.1, (mol.nao, 5)) + atomic_factor(mol)[:, :1]]
    expected = mf.with_df.get_jk(factors[0] @ factors[0].T, with_k=False)[0]
    integrals = CoarseField(mf, COARSE)._coulomb
    assert isinstance(integrals, CoulombIntegrals)
    assert integrals._b.dtype == np.float32
    np.testing.assert_allclose(integrals.coulomb(factors), expected, atol=2e-6)
    change = integrals.coulomb(factors, [atomic_factor(mol)]) + integrals.coulomb([atomic_factor(mol)])
    np.testing.assert_allclose(change, expected, atol=1e-4)


@pytest.mark.parametrize("copies", [1, 2])  # two: linearly dependent functions on each atom
def test_coulomb_integrals_whiten_as_those_of_exchange(copies: int) -> None:
    mol = mole(ETHYLENE)
    basis = {symbol: gto.basis.load("def2-universal-jfit", symbol) * copies for symbol in "CH"}
    level = dataclasses.replace(COARSE, dtype=np.float64)
    both, alone = (kind(mol, basis, level, 0.0, 1e9) for kind in (FittedIntegrals, CoulombIntegrals))
    density = atomic_factor(mol) @ atomic_factor(mol).T
    np.testing.assert_allclose(
        alone.potential(alone.charges(density)), both.potential(both.charges(density)), atol=1e-5
    )
    points = gto.fakemol_for_charges(np.eye(3) * 4)
    outside = [
        kind.charges(density) @ kind.whitened(gto.mole.intor_cross("int2c2e", kind.auxmol, points))
        for kind in (alone, both)
    ]
    np.testing.assert_allclose(*outside, atol=1e-5)


def test_pyscf_computes_the_coulomb_matrix_of_full_builds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    passes, get_jk = [], df.DF.get_jk
    monkeypatch.setattr(df.DF, "get_jk", lambda *args, **kwargs: (passes.append(1), get_jk(*args, **kwargs))[1])
    mf = accelerate(mole(FAR).RKS(xc="pbe").density_fit()).run()
    assert mf.single_builds > 0
    assert len(passes) == mf.full_builds
    mf.with_df.build()  # stored integrals are at hand
    assert SingleField(mf)._coulomb is None


@pytest.mark.parametrize("cart", [False, True])
def test_auxiliary_sets_of_heavy_elements_are_those_of_the_level(cart: bool) -> None:
    mol = gto.M(atom="Au 0 0 0; H 0 0 1.52", basis="def2-svp", ecp="def2-svp", cart=cart)
    chosen = auxiliary_basis(mol, COARSE, exchange=False)
    assert set(chosen.values()) == {COARSE.light}
    assert _size(mol, chosen) == df.make_auxmol(mol, chosen).nao


def test_grids_that_depend_on_the_density_are_left_to_the_full_builds() -> None:
    plain, quick = (mole(FAR).UKS(xc="b3lyp").density_fit().set(small_rho_cutoff=1e-7) for _ in range(2))
    plain.kernel()
    assert accelerate(quick).kernel() == pytest.approx(plain.e_tot, abs=1e-8)
