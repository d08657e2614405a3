"""Periodic objects without a coarse level: PySCF does the work, and one line has the reason."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pyscf.pbc import dft, gto, scf
from pyscf.pbc.df import GDF

from pyscf_mlham import accelerate, track

REASON = "multilevel SCF: FFTDF of periodic systems has no coarse level; use density_fit(); plain SCF is used."


def cell() -> Any:
    return gto.M(atom="H 0 0 0; H 0 0 0.9", a=4 * np.eye(3), basis="6-31g", mesh=[15] * 3, verbose=0)


def fitted() -> Any:
    return scf.KRHF(cell(), kpts=cell().make_kpts([1, 1, 2])).density_fit()


KINDS: dict[str, Callable[[], Any]] = {
    "RHF": lambda: scf.RHF(cell()),
    "RKS": lambda: dft.RKS(cell(), xc="pbe"),
    "KRHF fitted": fitted,
}


@pytest.mark.parametrize("kind", ["RHF", "RKS"])
def test_periodic_objects_run_plain_scf(kind: str) -> None:
    plain = KINDS[kind]().run()
    quick, log = accelerate(KINDS[kind]()), io.StringIO()
    quick.stdout, quick.verbose = log, 3
    assert quick.kernel() == pytest.approx(plain.e_tot, abs=1e-8)
    assert REASON in log.getvalue()
    assert track(KINDS[kind]()).kernel() == pytest.approx(plain.e_tot, abs=1e-8)


def test_fitted_integrals_of_the_original_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fitted().run()
    copies = [wrap(plain) for wrap in (accelerate, track)]
    integrals, file = plain.with_df._cderi, plain.with_df._cderi_to_save
    with monkeypatch.context() as only_here:
        only_here.setattr(GDF, "_make_j3c", None)
        assert [quick.kernel() for quick in copies] == pytest.approx([plain.e_tot] * 2, abs=1e-8)
    assert (plain.with_df._cderi, plain.with_df._cderi_to_save) == (integrals, file)
    names = {integrals, *(quick.with_df._cderi for quick in copies)}
    assert len(names) == 3
    moved = cell().set_geom_("H 0 0 0; H 0 0 1.0", inplace=False)
    energy = plain.reset(moved).kernel()
    again = copies[0]
    again.mo_coeff = None
    assert again.kernel() == pytest.approx(copies[1].e_tot, abs=1e-8)
    assert again.reset(moved).kernel() == pytest.approx(energy, abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_learned_guess_gives_way_to_pyscfs(kind: str) -> None:
    mf, log = KINDS[kind](), io.StringIO()
    mf.stdout, mf.verbose = log, 2
    guess = mf.get_init_guess(key="ml")
    assert "The minao guess is used instead." in log.getvalue()
    assert log.getvalue().count("ml guess not used: ") == log.getvalue().count("ml guess") == 1
    np.testing.assert_array_equal(guess, mf.get_init_guess(key="minao"))
