"""Texts of the log and of the errors."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest

import pyscf_mlham
from pyscf_mlham import OracleModel, accelerate, track
from pyscf_mlham.errors import reason_of
from pyscf_mlham.model import guess, predictor
from support.molecules import mole


def test_a_molecule_has_no_guess() -> None:
    for function in (pyscf_mlham.guess, pyscf_mlham.fock):
        with pytest.raises(TypeError, match=r"expected a mean-field object.*got Mole"):
            function(mole())


def test_an_error_without_words_is_named() -> None:
    assert reason_of(AssertionError()) == "AssertionError"
    assert reason_of(ValueError("too small.")) == "ValueError: too small"


@pytest.mark.parametrize("key", ["mlham", "ml-organic", "ML_organic", "mlx:name"])
def test_misspelt_guess_warns_once(key: str) -> None:
    for decorate in (lambda mf: mf, accelerate):
        mf = decorate(mole(basis="6-31g").RHF()).set(init_guess=key, verbose=2, stdout=io.StringIO()).run()
        assert mf.stdout.getvalue().count(f"init_guess = {key!r} is not supported") == 1
        assert mf.guess_info is None
    quiet = mole(basis="6-31g").RHF().set(init_guess="minao", verbose=2, stdout=io.StringIO()).run()
    assert quiet.stdout.getvalue() == ""


@pytest.mark.parametrize("slow", [True, False])
def test_log_has_the_time_of_loading_a_model(slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = OracleModel.of(mole(basis="6-31g").RHF().run())
    clock, resolve = [0.0], guess.resolve

    def resolved(*args: Any) -> Any:
        clock[0] += 3.2 if slow else 0.05
        return resolve(*args)

    for module in (guess, predictor):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(guess, "resolve", resolved)
    mf = mole(basis="6-31g").RHF().set(verbose=3, stdout=io.StringIO())
    pyscf_mlham.guess(mf, oracle)
    assert ("to load the model" in mf.stdout.getvalue()) == ("3.2 s" in mf.stdout.getvalue()) == slow
    assert "ml guess: model oracle" in mf.stdout.getvalue()


def test_log_describes_each_coarse_level() -> None:
    mf = accelerate(mole(basis="6-31g").RHF()).set(verbose=4, stdout=io.StringIO()).run()
    lines = [line for line in mf.stdout.getvalue().splitlines() if line.startswith("multilevel SCF")]
    assert lines[0].startswith("multilevel SCF: coarse level fitted in")
    assert lines[1].startswith("multilevel SCF: if that is too coarse, fitted in")
    mf.kernel()
    assert "multilevel SCF: 1 full Fock build, 1 coarse, 0 response\n" in mf.stdout.getvalue()


def test_a_tracked_scanner_guesses_anew_at_another_molecule() -> None:
    def hydrogen_fluoride() -> Any:
        return mole("H 0 0 0; F 0 0 0.92", "6-31g")

    scanner = track(mole(basis="6-31g").RHF()).as_scanner()
    scanner(mole(basis="6-31g"))
    plain = hydrogen_fluoride().RHF().run()
    assert scanner(hydrogen_fluoride()) == pytest.approx(plain.e_tot, abs=1e-8)
    assert scanner.cycles == plain.cycles
    tracked = track(hydrogen_fluoride().RHF()).run()
    assert tracked.from_chk(tracked.chkfile) == pytest.approx(tracked.make_rdm1(), abs=1e-10)
