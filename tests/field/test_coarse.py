"""The coarse field against PySCF's own density fitting and numerical integration, in double precision."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pyscf import gto, lib

from pyscf_mlham.field import COARSE, CoarseField, Level, fitting, grid, three_centre
from pyscf_mlham.field import pairs as pairs_of_orbitals
from pyscf_mlham.field.auxiliary import auxiliary_basis
from pyscf_mlham.field.fitting import FittedIntegrals, fitted
from pyscf_mlham.field.grid import Block, Functional, GridOrbitals, GridXC, Points
from support.molecules import ETHYLENE, mole

DOUBLE = Level("double", "def2-universal-jfit", "def2-universal-jfit", 0, np.float64)
SINGLE = Level("single", "def2-universal-jfit", "def2-universal-jfit", 0)
FUNCTIONALS = ["hf", "lda,vwn", "pbe", "b3lyp", "m062x", "r2scan", "wb97x"]


def mean_field(xc: str, unrestricted: bool = False, **kwargs):
    mol = mole(ETHYLENE, **kwargs)
    if xc == "hf":
        return mol.UHF() if unrestricted else mol.RHF()
    return mol.UKS(xc=xc) if unrestricted else mol.RKS(xc=xc)


def factors(mf) -> np.ndarray:
    """Eight orbitals of the bare nuclei: any density will do."""
    return mf.eig(mf.get_hcore(), mf.get_ovlp())[1][:, :8] * np.sqrt(2)


def reference(mf, density: np.ndarray) -> np.ndarray:
    fitted = mf.density_fit(auxbasis=DOUBLE.light)
    if hasattr(fitted, "grids"):
        fitted.grids.level = 0
    return np.asarray(fitted.get_veff(mf.mol, density))


def fit_of(mol: gto.Mole, budget: float = 1e9) -> FittedIntegrals:
    """Integrals that no other field shares."""
    return FittedIntegrals(mol, auxiliary_basis(mol, DOUBLE, exchange=True), DOUBLE, 0.0, budget)


@pytest.fixture
def calculated(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts PySCF's evaluations of three-centre integrals and of orbitals on a grid."""
    counts: Counter[str] = Counter()
    getints3c, eval_gto = three_centre.getints3c, gto.Mole.eval_gto

    def integrals(*args: Any, **kwargs: Any) -> Any:
        counts["integrals"] += 1
        return getints3c(*args, **kwargs)

    def values(mol: gto.Mole, *args: Any, **kwargs: Any) -> Any:
        counts["orbital values"] += 1
        return eval_gto(mol, *args, **kwargs)

    monkeypatch.setattr(three_centre, "getints3c", integrals)
    monkeypatch.setattr(gto.Mole, "eval_gto", values)
    return counts


@pytest.mark.parametrize("xc", FUNCTIONALS)
def test_potential_of_a_closed_shell(xc: str) -> None:
    mf = mean_field(xc)
    left = factors(mf)
    expected = reference(mf, left @ left.T)
    np.testing.assert_allclose(CoarseField(mf, DOUBLE).potential([left]), expected, atol=2e-8)
    np.testing.assert_allclose(CoarseField(mf, SINGLE).potential([left]), expected, atol=1e-4)


@pytest.mark.parametrize("xc", FUNCTIONALS)
def test_potential_of_an_open_shell(xc: str) -> None:
    left = factors(mean_field(xc)) / np.sqrt(2)
    mf = mean_field(xc, unrestricted=True)
    spins = [left, left[:, :-1]]
    expected = reference(mf, np.array([s @ s.T for s in spins]))
    np.testing.assert_allclose(CoarseField(mf, DOUBLE).potential(spins), expected, atol=2e-8)


def test_potential_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    mf = mean_field("b3lyp")
    left = factors(mf)
    expected = CoarseField(mf, DOUBLE).potential([left])
    monkeypatch.setattr(fitting, "BLOCK_BYTES", 1e5)
    monkeypatch.setattr(pairs_of_orbitals, "BLOCK_BYTES", 1e5)
    np.testing.assert_allclose(CoarseField(mf, DOUBLE).potential([left]), expected, atol=1e-11)


def test_integrals_in_a_file_are_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mf = mean_field("b3lyp")
    left = factors(mf)
    monkeypatch.setattr(lib.param, "TMPDIR", str(tmp_path))
    fit, whole = fit_of(mf.mol, budget=0), fit_of(mf.mol)
    (file,) = tmp_path.iterdir()
    pairs = mf.mol.nao * (mf.mol.nao + 1) // 2
    assert file.stat().st_size == len(fit.charges(left @ left.T)) * pairs * 8
    np.testing.assert_allclose(*(each.coulomb([left]) for each in (fit, whole)), atol=1e-11)
    np.testing.assert_allclose(*(each.exchange_of_each([left], []) for each in (fit, whole)), atol=1e-11)
    del fit
    assert list(tmp_path.iterdir()) == []


def values_of(orbitals: GridOrbitals, budget: float) -> list[Block]:
    """All blocks of a grid."""
    return [block for together in orbitals.blocks(budget) for block in together]


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_orbital_values_are_stored_as_far_as_memory_allows(share: float) -> None:
    mf = mean_field("b3lyp")
    points = Points.of_level(mf.mol, DOUBLE, mf.grids.prune)
    expected = values_of(GridOrbitals(mf.mol, points, DOUBLE.dtype, 1), 1e9)
    size = sum(values.nbytes for _, values in expected)
    orbitals = GridOrbitals(mf.mol, points, DOUBLE.dtype, 1)
    first, second = (values_of(orbitals, share * size) for _ in range(2))
    for blocks in (first, second):
        for (columns, values), (same_columns, same_values) in zip(blocks, expected, strict=True):
            np.testing.assert_array_equal(columns, same_columns)
            np.testing.assert_array_equal(values, same_values)
    stored = [values.nbytes for (_, values), (_, again) in zip(first, second, strict=True) if values is again]
    assert share * size - max(values.nbytes for _, values in expected) < sum(stored) <= share * size


def test_orbital_values_are_stored_until_released(calculated: Counter[str]) -> None:
    mf = mean_field("b3lyp")
    left = factors(mf)
    xc = GridXC.of_level(mf, Functional(mf), DOUBLE, budget=1e9)
    expected = xc.potential([left])
    blocks = calculated.pop("orbital values")
    assert blocks > 1
    np.testing.assert_allclose(xc.potential([left]), expected, atol=1e-12)
    assert not calculated["orbital values"]
    xc.release()
    np.testing.assert_allclose(xc.potential([left]), expected, atol=1e-12)
    assert calculated["orbital values"] == blocks


@pytest.mark.parametrize("xc", ["hf", "wb97x"])
def test_far_pairs_are_left_out(xc: str) -> None:
    far = "; ".join(f"{symbol} {x} {y} {float(z) + 9}" for symbol, x, y, z in map(str.split, ETHYLENE.split(";")))
    mol = mole(f"{ETHYLENE}; {far}")
    mf = mol.RHF() if xc == "hf" else mol.RKS(xc=xc)
    left = factors(mf)
    near, every = (fitted(mf, level, True, 0.0, 1e9) for level in (DOUBLE, dataclasses.replace(DOUBLE, far=0.0)))
    assert near.half_bytes(0) < 0.6 * every.half_bytes(0)
    np.testing.assert_allclose(CoarseField(mf, DOUBLE).potential([left]), reference(mf, left @ left.T), atol=1e-7)


@pytest.mark.parametrize("omega", [0.3, -0.3])
def test_integrals_of_the_molecule_s_own_range(omega: float) -> None:
    mf = mean_field("hf")
    mf.mol.omega = omega
    left = factors(mf)
    np.testing.assert_allclose(CoarseField(mf, DOUBLE).potential([left]), reference(mf, left @ left.T), atol=2e-8)


@pytest.mark.parametrize("atoms", [f"X 0 0 3; {ETHYLENE}", f"{ETHYLENE}; X 0 0 3"])
def test_atoms_without_orbitals(atoms: str) -> None:
    mf = mole(atoms, basis={"C": "6-31g*", "H": "6-31g*"}).RHF()
    left = factors(mf)
    expected = mf.density_fit().get_veff(mf.mol, left @ left.T)  # PySCF's choice: the level's does not know X
    np.testing.assert_allclose(CoarseField(mf, DOUBLE).potential([left]), expected, atol=2e-8)


def test_pairs_are_judged_by_their_own_integrals() -> None:
    def fitted_pairs(mol: gto.Mole) -> np.ndarray:
        fit = fit_of(mol)
        charges = np.random.default_rng(0).normal(size=len(fit.charges(np.eye(mol.nao))))
        return fit.potential(charges) != 0

    mol = mole(ETHYLENE, cart=True)
    diagonal = np.sqrt(np.einsum("ijij->ij", mol.intor("int2e")))
    assert np.all(fitted_pairs(mol)[diagonal > 1.01 * DOUBLE.far])
    far = fitted_pairs(mole("H 0 0 0; H 0 0 20"))
    assert far[:2, :2].all()
    assert not far[:2, -2:].any()
    assert not far[-2:, :2].any()


def test_dependent_auxiliary_functions_are_left_out() -> None:
    mf = mean_field("hf")
    left = factors(mf)
    once = {symbol: gto.basis.load("def2-universal-jkfit", symbol) for symbol in "CH"}
    fits = [FittedIntegrals(mf.mol, {s: b * n for s, b in once.items()}, DOUBLE, 0.0, 1e9) for n in (1, 2)]
    one, two = (len(fit.charges(left @ left.T)) for fit in fits)
    assert two < 1.5 * one
    np.testing.assert_allclose(*(fit.coulomb([left]) for fit in fits), atol=1e-5)
    np.testing.assert_allclose(*(fit.exchange_of_each([left], []) for fit in fits), atol=1e-5)


def test_fields_of_a_molecule_share_integrals_and_orbital_values(calculated: Counter[str]) -> None:
    mf, other = mean_field("b3lyp"), mean_field("b3lyp")
    left = factors(mf)
    one = CoarseField(mf, SINGLE)
    expected = one.potential([left])
    first = calculated.copy()
    assert min(first["integrals"], first["orbital values"]) > 0
    two = CoarseField(other, SINGLE)
    np.testing.assert_array_equal(two.potential([left]), expected)
    assert calculated == first
    CoarseField(mf, DOUBLE).potential([left])  # of another precision
    assert calculated["integrals"] == 2 * first["integrals"]
    assert calculated["orbital values"] == 2 * first["orbital values"]
    two.release()
    np.testing.assert_array_equal(one.potential([left]), expected)
    assert calculated["orbital values"] == 3 * first["orbital values"]
    assert calculated["integrals"] == 2 * first["integrals"]


def test_two_readers_at_once_get_the_same_values(calculated: Counter[str]) -> None:
    mf = mean_field("b3lyp")
    orbitals = GridOrbitals(mf.mol, Points.of_level(mf.mol, SINGLE, mf.grids.prune), SINGLE.dtype, 1)
    slow = orbitals.blocks(1e9)
    early = next(slow)
    whole = values_of(orbitals, 1e9)
    late = [block for together in slow for block in together]
    for (columns, values), (same_columns, same_values) in zip([*early, *late], whole, strict=True):
        np.testing.assert_array_equal(columns, same_columns)
        np.testing.assert_array_equal(values, same_values)
    calculated.clear()
    assert len(values_of(orbitals, 1e9)) == len(whole)
    assert not calculated


def test_shared_data_outlive_a_move_of_the_molecule() -> None:
    mf, other = mean_field("b3lyp"), mean_field("b3lyp")
    left = factors(mf)
    _, two = CoarseField(mf, SINGLE), CoarseField(other, SINGLE)
    expected = two.potential([left])
    mf.mol.set_geom_(mf.mol.atom_coords() + 1.0, unit="Bohr")
    two.release()
    np.testing.assert_array_equal(two.potential([left]), expected)


def test_pruning_may_be_off() -> None:
    lda = mean_field("lda,vwn")
    lda.grids.prune = False
    assert np.all(np.isfinite(CoarseField(lda, SINGLE).potential([factors(lda)])))


@pytest.mark.parametrize("name", ["ghost-H", "X-H", "ghostH"])
def test_ghost_atoms(name: str) -> None:
    mol = mole(f"H 0 0 0; F 0 0 0.92; {name} 0 0 2.5")
    mf = mol.RKS(xc="b3lyp")
    left = factors(mf)
    np.testing.assert_allclose(CoarseField(mf, DOUBLE).potential([left]), reference(mf, left @ left.T), atol=1e-3)


def test_neighbours_are_in_one_block() -> None:
    coords = np.random.default_rng(0).uniform(-20, 20, size=(20000, 3))
    sorted_, order = Points.of(SimpleNamespace(coords=coords, weights=np.arange(len(coords))))
    np.testing.assert_array_equal(np.sort(order), np.arange(len(coords)))
    np.testing.assert_array_equal(sorted_, coords[order])
    box = np.floor((coords - coords.min(axis=0)) / grid.BOX)[order]
    changes = np.any(np.diff(box, axis=0) != 0, axis=1).sum()
    assert changes + 1 == len(np.unique(box, axis=0))


def test_anchored_field_is_exact_there_and_smooth_near_it() -> None:
    """Single precision must not show in small changes: that is what lets the inner SCF converge."""
    mf = mean_field("b3lyp", basis="def2-svp")
    left = factors(mf)
    v = np.random.default_rng(0).normal(size=(48, 48))
    single, double = (CoarseField(mf, level).around([left], v) for level in (SINGLE, DOUBLE))
    for field in (single, double):
        np.testing.assert_allclose(field.potential([left]), v, atol=1e-12)
    nearby = left * (1 + 1e-4)
    changes = [field.potential([nearby]) - v for field in (single, double)]
    assert np.abs(changes[1]).max() > 1e-3
    np.testing.assert_allclose(*changes, atol=3e-6)


def test_auxiliary_basis_suits_element_functional_and_orbital_basis() -> None:
    level = COARSE
    thiol = mole("S 0 0 0; C 0 0 1.8; H 0 0.97 -0.93; H 0 0.9 2.3; H 0.8 -0.5 2.3; H -0.8 -0.5 2.3", "def2-svp")
    mixed = {"S": level.heavy, "C": level.light, "H": level.light}
    assert auxiliary_basis(thiol, level, exchange=True) == mixed
    assert set(auxiliary_basis(thiol, level, exchange=False).values()) == {level.light}
    assert set(auxiliary_basis(mole(ETHYLENE, "def2-tzvp"), level, True).values()) == {level.heavy}
    uranium = mole("U 0 0 0", basis={"U": [[0, [1.0, 1.0]]]})  # not in the family
    assert level.heavy not in auxiliary_basis(uranium, level, True).values()
