"""Histories of comparison: idempotent guesses, better than the last density, and the same energies."""

from __future__ import annotations

import numpy as np
import pytest

from pyscf_mlham import track
from pyscf_mlham.bench.comparison import COMPARED, ComparedHistory, _exponential, _logarithm
from pyscf_mlham.bench.protocol import MD
from pyscf_mlham.bench.trajectory import calculator
from support.molecules import assert_close, mole


def test_exponential_is_the_inverse_of_the_logarithm() -> None:
    rng = np.random.default_rng(2)
    centre, other = (np.linalg.qr(rng.normal(size=(7, 3)))[0] for _ in range(2))
    there = _exponential(_logarithm(other, centre), centre)
    assert_close(there @ there.T, other @ other.T, 1e-10)
    assert_close(_exponential(0 * centre, centre), centre, 1e-12)


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize("ion", [{}, {"charge": 1, "spin": 1}])
def test_they_extrapolate(name: str, ion: dict[str, int]) -> None:
    start = mole(basis="sto-3g", **ion)
    moves = 0.02 * np.random.default_rng(1).normal(size=(3, 3))
    errors = {}
    for history in (ComparedHistory(name), "loewdin"):
        scanner, plain = track(start.UHF() if ion else start.RHF(), history).as_scanner(), start.HF().as_scanner()
        for k in range(6):
            mol = start.set_geom_(start.atom_coords() + np.sin(0.3 * k) * moves, unit="Bohr", inplace=False)
            assert scanner(mol) == pytest.approx(plain(mol), abs=1e-8)
        errors[history if isinstance(history, str) else name] = scanner.history.error
        assert scanner.coarse_builds == 0
    assert errors[name] < 0.02 * errors["loewdin"]


def test_benchmarks_take_them() -> None:
    for name in COMPARED:
        own = calculator(MD(strategy=f"history,{name}"), (name, "scf"))
        assert isinstance(own._history, ComparedHistory)
