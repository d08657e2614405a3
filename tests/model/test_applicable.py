"""applicable(mf, what) gives the reason that the log gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pyscf import scf
from pyscf.pbc import gto as pbc_gto

import pyscf_mlham
from pyscf_mlham import OneShot, OracleModel, accelerate, applicable
from support.molecules import ETHYLENE, mole


def cell() -> Any:
    cell = pbc_gto.M(atom="He 0 0 0; He 0 0 1.5", a=np.eye(3) * 4, basis="sto-3g", mesh=[15] * 3, verbose=0)
    return cell.RHF()


CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "applicable": (lambda: mole().RHF(), ""),
    "generalised": (lambda: mole().GHF(), "no coarse level"),
    "smeared": (lambda: scf.addons.smearing(mole().RKS(xc="pbe"), sigma=0.02), "smeared"),
    "periodic": (cell, "periodic"),
    "spinors": (lambda: mole().DHF(), "no coarse level"),
    "one electron": (lambda: mole("H 0 0 0", spin=1).UHF(), "one electron"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_reason_is_that_of_accelerate(name: str) -> None:
    factory, reason = CASES[name]
    assert reason in applicable(factory())
    assert bool(reason) == bool(applicable(factory()))
    if name not in ("spinors", "one electron"):  # PySCF's own need no SCF, or seconds
        assert accelerate(factory()).run().plain_reason == applicable(factory())


def test_the_reason_is_that_of_the_guess() -> None:
    pyscf_mlham.register(model=OracleModel.of(mole().RHF().run()))
    assert applicable(mole().RHF(), "ml") == ""
    for mf in (mole(ETHYLENE).RHF(), mole().GHF(), mole(charge=1, spin=1).UHF(), mole().UHF(), cell(), mole().DHF()):
        mf.init_guess = "ml"
        reason = applicable(mf, "ml")
        mf.get_init_guess(mf.mol, "ml")
        assert (mf.guess_info.guess, mf.guess_info.fallback_reason) == ("ml" if not reason else "minao", reason)
    assert "nowhere" in applicable(mole().RHF().set(init_guess="ml:nowhere"), "ml")


def test_applicable_of_scc() -> None:
    assert applicable(mole().RHF(), "scc") == ""
    assert "no scc guess" in applicable(mole().GHF(), "scc")


def test_applicable_refuses_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="expected one of accelerate, ml, scc"):
        applicable(mole().RHF(), "newton")
    with pytest.raises(TypeError, match="mean-field"):
        applicable(mole())
    assert "OneShot" in applicable(OneShot(mole().RHF()))
