"""The coarse field against PySCF's own density fitting and numerical integration, in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from pyscf import gto

from pyscf_mlham.field import LEVELS, CoarseField, Level, fitting, grid
from pyscf_mlham.field.fitting import FittedIntegrals, auxiliary_basis
from pyscf_mlham.field.grid import Functional, GridOrbitals, GridXC
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


@pytest.mark.parametrize("xc", FUNCTIONALS)
def test_closed_shell(xc: str) -> None:
    mf = mean_field(xc)
    left = factors(mf)
    expected = reference(mf, left @ left.T)
    np.testing.assert_allclose(CoarseField(mf, DOUBLE).potential([left]), expected, atol=2e-8)
    np.testing.assert_allclose(CoarseField(mf, SINGLE).potential([left]), expected, atol=1e-4)


@pytest.mark.parametrize("xc", FUNCTIONALS)
def test_open_shell(xc: str) -> None:
    left = factors(mean_field(xc)) / np.sqrt(2)
    mf = mean_field(xc, unrestricted=True)
    spins = [left, left[:, :-1]]
    expected = reference(mf, np.array([s @ s.T for s in spins]))
    np.testing.assert_allclose(CoarseField(mf, DOUBLE).potential(spins), expected, atol=2e-8)


def test_in_pieces_and_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    mf = mean_field("b3lyp")
    left = factors(mf)
    expected = CoarseField(mf, DOUBLE).potential([left])
    monkeypatch.setattr(fitting, "BLOCK_BYTES", 1e5)
    np.testing.assert_allclose(CoarseField(mf, DOUBLE).potential([left]), expected, atol=1e-11)
    basis = auxiliary_basis(mf.mol, DOUBLE, exchange=True)
    fit = FittedIntegrals(mf.mol, basis, DOUBLE, 0.0, budget=0)
    assert isinstance(fit._b, np.memmap)
    whole = FittedIntegrals(mf.mol, basis, DOUBLE, 0.0, budget=1e9)
    for ours, theirs in zip(
        fit.coulomb_exchange([left], [], True), whole.coulomb_exchange([left], [], True), strict=True
    ):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=1e-11)
    kept, less, partly = (GridOrbitals(mf.mol, DOUBLE, mf.grids.prune, 1) for _ in range(3))
    expected_blocks = list(kept.blocks(1e9))
    size = sum(values.nbytes for _, values in expected_blocks)
    for orbitals, many, budget in ((kept, len(expected_blocks), 1e9), (less, 0, 0.0), (partly, None, size / 2)):
        for _ in range(2):  # what is kept, and what is computed again
            for (columns, values), (same_columns, same_values) in zip(
                orbitals.blocks(budget), expected_blocks, strict=True
            ):
                np.testing.assert_array_equal(columns, same_columns)
                np.testing.assert_array_equal(values, same_values)
        assert sum(values.nbytes for _, values in orbitals._kept) <= budget
        assert 0 < len(orbitals._kept) < len(expected_blocks) if many is None else len(orbitals._kept) == many
    xc = GridXC(mf, Functional(mf), DOUBLE, budget=1e9)
    expected_xc = xc.potential([left])
    for left_over in (len(expected_blocks), 0):  # kept, and given back
        assert len(xc._orbitals._kept) == left_over
        np.testing.assert_allclose(xc.potential([left]), expected_xc, atol=1e-12)
        xc.release()


@pytest.mark.parametrize("xc", ["hf", "wb97x"])
def test_far_pairs_are_left_out(xc: str) -> None:
    far = "; ".join(f"{symbol} {x} {y} {float(z) + 9}" for symbol, x, y, z in map(str.split, ETHYLENE.split(";")))
    mol = mole(f"{ETHYLENE}; {far}")
    mf = mol.RHF() if xc == "hf" else mol.RKS(xc=xc)
    left = factors(mf)
    fit = CoarseField(mf, DOUBLE)._coulomb
    assert fit._b.shape[1] < 0.6 * mol.nao * (mol.nao + 1) / 2
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
    mol = mole(ETHYLENE, cart=True)
    diagonal = np.sqrt(np.einsum("ijij->ij", mol.intor("int2e")))
    np.testing.assert_array_equal(fitting._overlapping(mol, DOUBLE.far), fitting._overlapping(mol, DOUBLE.far).T)
    assert np.all(fitting._overlapping(mol, DOUBLE.far)[diagonal > 1.01 * DOUBLE.far])
    far = mole("H 0 0 0; H 0 0 20")
    assert not fitting._overlapping(far, DOUBLE.far)[:2, -2:].any()


def test_dependent_auxiliary_functions() -> None:
    mf = mean_field("hf")
    left = factors(mf)
    once = {symbol: gto.basis.load("def2-universal-jkfit", symbol) for symbol in "CH"}
    fits = [FittedIntegrals(mf.mol, {s: b * n for s, b in once.items()}, DOUBLE, 0.0, 1e9) for n in (1, 2)]
    assert len(fits[1]._b) < 1.5 * len(fits[0]._b)
    (j, (k,)), (same_j, (same_k,)) = (fit.coulomb_exchange([left], [], True) for fit in fits)
    np.testing.assert_allclose(same_j, j, atol=1e-5)
    np.testing.assert_allclose(same_k, k, atol=1e-5)


@pytest.mark.parametrize(("most", "runs"), [(0, ["a", "b", "c"]), (4, ["ab", "c"]), (9, ["abc"])])
def test_runs_of_shells(most: int, runs: list[str]) -> None:
    assert ["abc"[shells] for shells in fitting._runs(np.array([7, 8, 11, 16]), most)] == runs


def test_fields_of_a_molecule_share_what_is_dear() -> None:
    mf, other = mean_field("b3lyp"), mean_field("b3lyp")
    left = factors(mf)
    one, two = CoarseField(mf, SINGLE), CoarseField(other, SINGLE)
    assert one._coulomb is two._coulomb
    assert one._grid._orbitals is two._grid._orbitals
    assert CoarseField(mf, DOUBLE)._grid._orbitals is not one._grid._orbitals
    expected = one.potential([left])
    np.testing.assert_array_equal(two.potential([left]), expected)
    two.release()
    assert not one._grid._orbitals._kept
    np.testing.assert_array_equal(one.potential([left]), expected)


def test_sharing_is_safe() -> None:
    """Two readers at once, a molecule that its owner moves, and another kind of object under a like name."""
    mf, other = mean_field("b3lyp"), mean_field("b3lyp")
    left = factors(mf)
    one, two = CoarseField(mf, SINGLE), CoarseField(other, SINGLE)
    orbitals = one._grid._orbitals
    readers = [orbitals.blocks(1e9), orbitals.blocks(1e9)]
    pairs = list(zip(*readers, strict=True))
    for (columns, values), (same_columns, same_values) in pairs:
        np.testing.assert_array_equal(columns, same_columns)
        np.testing.assert_array_equal(values, same_values)
    assert len(orbitals._kept) == len(pairs)
    expected = two.potential([left])
    mf.mol.set_geom_(mf.mol.atom_coords() + 1.0, unit="Bohr")
    two.release()
    np.testing.assert_array_equal(two.potential([left]), expected)
    lda = mean_field("lda,vwn")
    lda.grids.prune = False
    assert np.all(np.isfinite(CoarseField(lda, SINGLE).potential([left])))


@pytest.mark.parametrize("name", ["ghost-H", "X-H", "ghostH"])
def test_ghost_atoms(name: str) -> None:
    mol = mole(f"H 0 0 0; F 0 0 0.92; {name} 0 0 2.5")
    mf = mol.RKS(xc="b3lyp")
    left = factors(mf)
    np.testing.assert_allclose(CoarseField(mf, DOUBLE).potential([left]), reference(mf, left @ left.T), atol=1e-3)


def test_neighbours_are_in_one_block() -> None:
    coords = np.random.default_rng(0).uniform(-20, 20, size=(20000, 3))
    order = grid.neighbours_first(coords)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(coords)))
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
    level = LEVELS[0]
    thiol = mole("S 0 0 0; C 0 0 1.8; H 0 0.97 -0.93; H 0 0.9 2.3; H 0.8 -0.5 2.3; H -0.8 -0.5 2.3", "def2-svp")
    mixed = {"S": level.heavy, "C": level.light, "H": level.light}
    assert auxiliary_basis(thiol, level, exchange=True) == mixed
    assert set(auxiliary_basis(thiol, level, exchange=False).values()) == {level.light}
    assert set(auxiliary_basis(mole(ETHYLENE, "def2-tzvp"), level, True).values()) == {level.heavy}
    uranium = mole("U 0 0 0", basis={"U": [[0, [1.0, 1.0]]]})  # not in the family
    assert level.heavy not in auxiliary_basis(uranium, level, True).values()
