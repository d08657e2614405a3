"""mf.guess_info: how the last guess was made."""

from __future__ import annotations

import io

import numpy as np
import pytest

import pyscf_mlham
from pyscf_mlham import GuessInfo, OracleModel, accelerate, track
from support.molecules import ETHYLENE, mole

pytestmark = pytest.mark.usefixtures("small_grids")


@pytest.fixture(scope="module")
def oracle() -> OracleModel:
    return OracleModel.of(mole().RHF().run())


def test_guess_info_is_that_of_the_last_guess(oracle: OracleModel) -> None:
    pyscf_mlham.register(model=oracle)
    mf, other = mole().RHF().set(init_guess="ml"), mole().RHF().set(init_guess="ml")
    assert mf.guess_info is None
    mf.run()
    assert (mf.guess_info.guess, mf.guess_info.fallback_reason, mf.guess_info.model) == ("ml", "", "oracle")
    assert mf.guess_info.seconds > 0
    assert other.guess_info is None
    mf.get_init_guess(mf.mol, "scc")
    assert (mf.guess_info.guess, mf.guess_info.model, mf.guess_info.coarse_builds) == ("scc", "", 2)
    mf.get_init_guess(mf.mol, "minao")
    assert mf.guess_info is None


def test_guess_info_has_the_reason_of_a_fallback(oracle: OracleModel) -> None:
    pyscf_mlham.register(model=oracle, fallback="atom")
    mf = mole(ETHYLENE).RHF().set(init_guess="ml").run()
    assert mf.guess_info.guess == "atom"
    assert "element C" in mf.guess_info.fallback_reason
    pyscf_mlham.register(fallback="scc")
    mf.get_init_guess(mf.mol, "ml")
    assert (mf.guess_info.guess, mf.guess_info.coarse_builds) == ("scc", 2)
    assert "element C" in mf.guess_info.fallback_reason
    generalised = mole().GHF()
    generalised.get_init_guess(generalised.mol, "scc")
    assert generalised.guess_info.guess == "minao"
    assert "no scc guess" in generalised.guess_info.fallback_reason


def test_explicit_functions_leave_guess_info_alone(oracle: OracleModel) -> None:
    mf = mole(ETHYLENE).RHF().set(init_guess="scc").run()
    before = mf.guess_info
    assert isinstance(before, GuessInfo)
    pyscf_mlham.guess(mf, oracle)
    pyscf_mlham.guess(mf, oracle, fallback="scc")
    assert mf.guess_info is before


def test_guess_info_of_decorated_objects(oracle: OracleModel) -> None:
    pyscf_mlham.register(model=oracle)
    plain = mole().RHF().set(init_guess="ml", verbose=5, stdout=io.StringIO()).run()
    quick = accelerate(plain)
    assert quick.guess_info is None
    quick.reset(mole())
    quick.set(mo_coeff=None).run()
    assert quick.guess_info.guess == "ml"
    assert quick.undo_accelerate().guess_info == quick.guess_info
    assert mole().RHF().set(init_guess="ml").newton().run().guess_info.guess == "ml"
    relaxed = accelerate(mole().RHF().set(init_guess="scc")).run()
    assert relaxed.guess_info.guess == "scc"
    assert relaxed.guess_info.coarse_builds >= 1
    assert "does not have attributes" not in plain.stdout.getvalue()


def test_guess_info_of_scanners_and_histories(oracle: OracleModel) -> None:
    pyscf_mlham.register(model=oracle)
    scanner = mole().RHF().set(init_guess="ml").as_scanner()
    scanner(mole())
    assert scanner.guess_info.guess == "ml"
    tracked = track(mole().RHF().set(init_guess="ml")).as_scanner()
    tracked(mole())
    assert tracked.guess_info.guess == "ml"
    near = mole()
    near.set_geom_(near.atom_coords() + np.array([0, 0, 0.01]) * np.arange(3)[:, None], unit="Bohr")
    tracked(near)
    assert tracked.guess_info.guess == "history"
