"""The response level of another geometry, against one of the geometry itself."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pyscf import gto

from pyscf_mlham.ao.loewdin import metric_from_overlap
from pyscf_mlham.density import Orbitals, factors_from_orbitals
from pyscf_mlham.field import MovedResponse, ResponseField
from support.molecules import assert_close, mole

MOVES = np.random.default_rng(2).normal(size=(3, 3)) * 0.03  # Bohr


def b3lyp(mol: gto.Mole) -> Any:
    mf = mol.RKS(xc="b3lyp")
    mf.grids.level = 0
    return mf


def pbe_of_ion(mol: gto.Mole) -> Any:
    mf = mol.copy().set(charge=1, spin=1).build(False, False).UKS(xc="pbe")
    mf.grids.level = 0
    return mf


@pytest.mark.parametrize("kind", [b3lyp, pbe_of_ion])
def test_changes_of_density_are_carried_along(kind: Callable[[gto.Mole], Any]) -> None:
    here = kind(mole(basis="6-31g")).run()
    there = kind(here.mol.set_geom_(here.mol.atom_coords() + MOVES, unit="Bohr", inplace=False)).run()

    def factors(mf: Any, turn: float = 0.0) -> list[np.ndarray]:
        coeff = np.array(mf.mo_coeff)
        coeff[..., 4] += turn * mf.mo_coeff[..., 5]
        return factors_from_orbitals(mf, Orbitals(mf.mo_energy, coeff, mf.mo_occ))

    made = ResponseField(here).with_kernel(factors(here))
    moved = MovedResponse(made, here.mol.atom_coords(), metric_from_overlap(here.get_ovlp()).inverse)
    assert 0.75 * len(pickle.dumps(moved)) < moved.nbytes < len(pickle.dumps(moved))
    v = np.zeros_like(here.get_hcore()) + np.zeros_like(here.mo_coeff)
    same = moved.at(metric_from_overlap(here.get_ovlp()).half).around(factors(here), v)
    assert_close(
        same.potential(factors(here, 0.01)), made.around(factors(here), v).potential(factors(here, 0.01)), 1e-5
    )
    assert same.tally.builds == 1
    v += there.get_hcore()
    exact = ResponseField(there).with_kernel(factors(there)).around(factors(there), v).potential(factors(there, 0.01))
    carried = moved.at(metric_from_overlap(there.get_ovlp()).half)
    found, fixed = (field.around(factors(there), v).potential(factors(there, 0.01)) for field in (carried, moved))
    assert np.linalg.norm(found - exact) < 0.05 * np.linalg.norm(exact - v)
    assert np.linalg.norm(found - exact) < 0.5 * np.linalg.norm(fixed - exact)  # AOs alone do not hold the electrons
