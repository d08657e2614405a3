"""The object's own field in single precision, against PySCF's in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyscf_mlham import accelerate
from pyscf_mlham.density import Orbitals, factors_from_orbitals
from pyscf_mlham.field import COARSE, CoarseField, SingleField
from support.molecules import ETHYLENE, mole

pytestmark = pytest.mark.usefixtures("small_grids")

ALLYL = (
    "C 0 0 0.43; C 1.18 0 -0.2; C -1.18 0 -0.2; H 0 0 1.51; "
    "H 2.1 0 0.35; H -2.1 0 0.35; H 1.25 0 -1.27; H -1.25 0 -1.27"
)
FUNCTIONALS = ["hf", "lda,vwn", "pbe", "b3lyp", "hse06", "camb3lyp", "wb97x", "lc_blyp", "r2scan", "m062x"]


def fitted(xc: str, spin: int = 0, **options: Any) -> Any:
    mol = mole(ALLYL, spin=1, **options) if spin else mole(ETHYLENE, **options)
    mf = (mol.UHF() if spin else mol.RHF()) if xc == "hf" else (mol.UKS(xc=xc) if spin else mol.RKS(xc=xc))
    return mf.density_fit()


@pytest.mark.parametrize("spin", [0, 1])
@pytest.mark.parametrize("xc", FUNCTIONALS)
def test_potential_is_that_of_the_object(xc: str, spin: int) -> None:
    mf = fitted(xc, spin).set(max_cycle=2).run(verbose=0)
    factors = factors_from_orbitals(mf, Orbitals(mf.mo_energy, mf.mo_coeff, mf.mo_occ))
    ours, exact = SingleField(mf).potential(factors), np.asarray(mf.get_veff(dm=mf.make_rdm1()))
    assert ours.shape == exact.shape
    assert np.abs(ours - exact).max() < 1e-5


@pytest.mark.parametrize("options", [{"cart": True}, {"basis": "def2-tzvp"}])
def test_potential_in_other_orbitals(options: dict[str, Any]) -> None:
    mf = fitted("b3lyp", **options).set(max_cycle=2).run(verbose=0)
    factors = factors_from_orbitals(mf, Orbitals(mf.mo_energy, mf.mo_coeff, mf.mo_occ))
    assert np.abs(SingleField(mf).potential(factors) - np.asarray(mf.get_veff(dm=mf.make_rdm1()))).max() < 1e-5


def test_around_is_exact_at_its_density() -> None:
    mf = fitted("b3lyp").set(max_cycle=1).run(verbose=0)
    factors = factors_from_orbitals(mf, Orbitals(mf.mo_energy, mf.mo_coeff, mf.mo_occ))
    v = np.asarray(mf.get_veff(dm=mf.make_rdm1()))
    np.testing.assert_allclose(SingleField(mf).around(factors, v).potential(factors), v, atol=1e-12)


@pytest.mark.parametrize(
    ("setting", "value", "same"), [("prune", None, True), ("level", 2, False), ("radii_adjust", None, False)]
)
def test_orbital_values_of_the_coarse_field_are_used_on_the_same_grid(setting: str, value: Any, same: bool) -> None:
    mf = fitted("b3lyp").set(max_cycle=2)
    mf.grids.level = 1
    setattr(mf.grids, setting, value)
    mf.run(verbose=0)
    factors = factors_from_orbitals(mf, Orbitals(mf.mo_energy, mf.mo_coeff, mf.mo_occ))
    coarse = CoarseField(mf, COARSE)
    coarse.potential(factors)
    stored = sum(values.nbytes for _, values in coarse._grid._orbitals._kept)
    single = SingleField(mf)
    assert np.abs(single.potential(factors) - np.asarray(mf.get_veff(dm=mf.make_rdm1()))).max() < 1e-5
    assert stored and (single._grid._orbitals is coarse._grid._orbitals) == same


def test_integrals_in_a_file() -> None:
    mf = fitted("b3lyp").set(max_memory=1)
    mf.with_df.max_memory = 1
    quick = accelerate(mf).run()
    assert quick.converged
    assert quick.e_tot == pytest.approx(fitted("b3lyp").run().e_tot, abs=1e-8)


@pytest.mark.parametrize("xc", FUNCTIONALS)
def test_one_full_build(xc: str) -> None:
    """The criteria are those of the full field, so that the energy is PySCF's however many builds it takes."""
    plain, quick = fitted(xc).run(), accelerate(fitted(xc)).run()
    assert quick.converged
    assert quick.e_tot == pytest.approx(plain.e_tot, abs=1e-8)
    assert quick.full_builds <= (2 if xc in ("r2scan", "m062x") else 1)
    assert 1 <= quick.single_builds <= 2


def test_what_it_lacks_is_left_to_the_full_field() -> None:
    """Non-local correlation and solvents are not in it."""
    fluoride = mole("H 0 0 0; F 0 0 0.92", "sto-3g")
    for mf in (mole().RKS(xc="b3lyp").density_fit().PCM(), fluoride.RKS(xc="wb97x-v").density_fit()):
        quick = accelerate(mf).run()
        assert quick.converged
        assert quick.single_builds == 0
