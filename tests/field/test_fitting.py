"""PySCF's own fitted integrals, computed for overlapping pairs only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pyscf import df

from pyscf_mlham import accelerate
from pyscf_mlham.field.fitting import fit_overlapping
from support.molecules import mole

FAR = "O 0 0 0.12; H 0 0.76 -0.47; H 0 -0.76 -0.47; O 9 0 0.12; H 9 0.76 -0.47; H 9 -0.76 -0.47"  # two molecules


@pytest.mark.parametrize("omega", [0.0, 0.33, -0.2])
@pytest.mark.parametrize("cart", [False, True])
def test_fitted_integrals_are_those_of_pyscf(omega: float, cart: bool) -> None:
    mol = mole(FAR, "6-31g*", cart=cart)
    mol.omega = omega
    own, ours = df.DF(mol).build(), df.DF(mol)
    fit_overlapping(ours)
    assert ours._cderi.shape == own._cderi.shape
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
