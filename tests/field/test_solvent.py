"""The coarse reaction field against PySCF's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pyscf_mlham import accelerate, track
from pyscf_mlham.field import COARSE, FINE
from pyscf_mlham.field.fitting import fitted
from pyscf_mlham.field.solvent import ExactReaction, FittedReaction, reaction_of
from support.molecules import ETHYLENE, WATER, mole

pytestmark = pytest.mark.usefixtures("small_grids")

METHODS = ("C-PCM", "IEF-PCM", "SS(V)PE", "COSMO", "SMD")


def solvated(method: str, mf: Any) -> Any:
    mf = getattr(mf, method if method in ("SMD", "ddCOSMO") else "PCM")()
    if method == "SMD":
        mf.with_solvent.solvent = "water"
    elif method in METHODS:
        mf.with_solvent.method = method
    return mf


def reaction(mf: Any, level: int = 0) -> Any:
    return reaction_of(mf, fitted(mf, (COARSE, FINE)[level], True, 0.0, 1e9))


@pytest.mark.parametrize("method", METHODS)
def test_fitted_reaction_field(method: str) -> None:
    mf = solvated(method, mole(ETHYLENE).RHF())
    here = mf.get_init_guess()
    there = here + 0.1 * np.diag(np.random.default_rng(0).normal(size=len(here)))
    exact = [np.asarray(mf.with_solvent.kernel(density)[1]) for density in (here, there)]
    for level, share in ((0, 0.1), (1, 0.02)):
        made = reaction(mf, level)
        assert isinstance(made, FittedReaction)
        np.testing.assert_allclose(made.potential(here), exact[0], atol=share * np.abs(exact[0]).max())
        change = exact[1] - exact[0]
        np.testing.assert_allclose(
            made.potential(there) - made.potential(here), change, atol=share * np.abs(change).max()
        )
        np.testing.assert_allclose(made.response(there - here), change, atol=share * np.abs(change).max())


@pytest.mark.parametrize("method", ["SMD", "ddCOSMO"])
def test_other_solvents_answer_with_their_own_integrals(method: str) -> None:
    mf = solvated(method, mole().RHF())
    if method == "SMD":
        mf.with_solvent.solvent = ""
    density = mf.get_init_guess()
    made, expected = reaction(mf), np.asarray(mf.with_solvent.kernel(density)[1])
    assert isinstance(made, ExactReaction)
    np.testing.assert_allclose(made.potential(density), expected, rtol=1e-10)
    change = expected - made.potential(density / 2)
    np.testing.assert_allclose(made.response(density / 2), change, atol=1e-10 * np.abs(expected).max())


def test_a_frozen_solvent_answers_nothing() -> None:
    mf = mole().RHF().PCM()
    mf.with_solvent.frozen = True
    assert reaction(mf) is None
    assert reaction(mole().RHF()) is None


ALIKE = ("IEF-PCM", "SS(V)PE", "COSMO")  # of other matrices than C-PCM, which closed shells test


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        pytest.param(method, kind, marks=[pytest.mark.slow] * (method in ALIKE and kind != "RHF"))
        for method in (*METHODS, "ddCOSMO")
        for kind in ("RHF", "UKS", "ROKS")
    ],
)
def test_two_full_builds_in_every_solvent(method: str, kind: str) -> None:
    def made() -> Any:
        mf = getattr(mole(spin=0 if kind == "RHF" else 1, charge=0 if kind == "RHF" else 1), kind)()
        return solvated(method, mf if kind == "RHF" else mf.set(xc="pbe0"))

    plain, quick = made().run(), accelerate(made()).run()
    assert quick.e_tot == pytest.approx(plain.e_tot, abs=1e-8)
    assert quick.full_builds <= 3
    if method in METHODS:
        charges = quick.with_solvent._intermediates["q"]
        np.testing.assert_allclose(charges, plain.with_solvent._intermediates["q"], atol=1e-4 * np.abs(charges).max())


@pytest.mark.parametrize("wrap", [accelerate, track])
def test_the_solvent_of_the_original_stays_as_it_was(wrap: Callable[[Any], Any]) -> None:
    mf = mole(basis="sto-3g").RHF().ddCOSMO().run()
    gradient = mf.nuc_grad_method().kernel()
    wrap(mf).as_scanner()(mole(WATER.replace("0.1173", "0.3"), "sto-3g"))
    np.testing.assert_allclose(mf.nuc_grad_method().kernel(), gradient, atol=1e-10)
