"""F, S -> density in every shape; lift and filter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
from pyscf import gto, scf

from pyscf_mlham.density import (
    Orbitals,
    aligned,
    damp_small_overlaps,
    density_from_orbitals,
    fock_for,
    gap,
    has_intruder,
    lift,
    orbitals_from_density,
    orbitals_from_fock,
    same_basis,
)
from pyscf_mlham.h0 import hamiltonian
from support.molecules import WATER, mole


def test_orbitals_leave_the_object_as_it_was() -> None:
    mf = mole().RHF()
    before = dict(mf.__dict__)
    f = hamiltonian("sap", mf.mol)
    orbitals = orbitals_from_fock(mf, f)
    assert mf.__dict__ == before
    s = mf.get_ovlp()
    np.testing.assert_allclose(f @ orbitals.coeff, s @ orbitals.coeff * orbitals.energy, atol=1e-10)
    assert np.sum(density_from_orbitals(mf, orbitals) * s) == pytest.approx(10)


def test_gap_is_the_same_with_a_little_smearing() -> None:
    plain = mole().RHF().run()
    smeared = scf.addons.smearing_(mole().RHF(), sigma=0.02)
    sharp, soft = (orbitals_from_fock(mf, plain.get_fock()) for mf in (plain, smeared))
    assert 1e-12 < soft.occ[5] < 1e-3  # the lowest empty one holds something
    assert gap(soft) == pytest.approx(gap(sharp), abs=1e-12)
    assert not has_intruder(soft, sharp, plain.get_ovlp())


def test_smearing_keeps_its_entropy() -> None:
    mf = scf.addons.smearing_(mole().RHF(), sigma=0.1)
    orbitals = orbitals_from_fock(mf, hamiltonian("sap", mf.mol))
    assert mf.entropy is None
    assert np.any((orbitals.occ > 1e-3) & (orbitals.occ < 1.9))


def test_near_linear_dependence_is_removed() -> None:
    tight = [[0, [0.5 + 1e-7 * k, 1.0]] for k in range(3)]
    mol = mole("H 0 0 0; H 0 0 1.4", basis={"H": [*gto.basis.load("sto-3g", "H"), *tight]})
    mf = mol.RHF()
    s = mf.get_ovlp()
    assert np.linalg.eigvalsh(s)[0] < 1e-10
    orbitals = orbitals_from_fock(mf, hamiltonian("sap", mol))
    assert orbitals.coeff.shape[1] < mol.nao
    assert np.abs(orbitals.energy).max() < 100
    assert np.sum(density_from_orbitals(mf, orbitals) * s) == pytest.approx(2)


@pytest.mark.parametrize("kind", ["RHF", "ROHF", "UHF", "GHF"])
def test_densities_have_the_shapes_of_pyscfs(kind: str) -> None:
    mf = getattr(mole(), kind)()
    up, down = np.ones((18, 18)), np.zeros((18, 18))
    spin_free, resolved = fock_for(mf, up, 18), fock_for(mf, np.stack([up, down]), 18)
    expected = {"RHF": (18, 18), "ROHF": (18, 18), "UHF": (2, 18, 18), "GHF": (36, 36)}[kind]
    assert spin_free.shape == resolved.shape == expected
    assert spin_free.sum() == {"UHF": 2, "GHF": 2}.get(kind, 1) * 18**2
    assert resolved.sum() == {"UHF": 1, "GHF": 1}.get(kind, 0.5) * 18**2


def test_gap_is_that_of_the_narrower_spin() -> None:
    energy = np.array([[-1.0, -0.5, 0.2], [-1.0, -0.1, 0.3]])
    occ = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert gap(Orbitals(energy, np.zeros((2, 3, 3)), occ)) == pytest.approx(0.7)
    assert gap(Orbitals(energy[0], np.zeros((3, 3)), np.zeros(3))) == np.inf


@pytest.mark.parametrize("cart", [False, True], ids=["spherical", "cartesian"])
def test_lift_is_exact_where_the_target_holds_nothing_more(cart: bool) -> None:
    """An operator of the native space, seen from a target basis inside that space, is its plain projection."""
    shells = gto.basis.load("def2-svp", "O")
    native = mole("O 0 0 0; O 0 0 1.2", basis={"O": shells})
    target = mole("O 0 0 0; O 0 0 1.2", basis={"O": shells[::2]}, cart=cart)  # fewer of the same functions
    overlap, kinetic = native.intor("int1e_ovlp"), native.intor("int1e_kin")
    cross = gto.intor_cross("int1e_ovlp", native, target)
    inside = np.linalg.lstsq(overlap, cross, rcond=None)[0]
    np.testing.assert_allclose(lift(kinetic, native, target), inside.T @ kinetic @ inside, atol=1e-9)
    if not cart:
        np.testing.assert_allclose(lift(kinetic, native, target), target.intor("int1e_kin"), atol=1e-9)


def test_lift_of_the_overlap_is_the_projected_identity_and_handles_spin() -> None:
    native, target = mole(basis="sto-3g"), mole(basis="def2-svp")
    s = native.intor("int1e_ovlp")
    cross = gto.intor_cross("int1e_ovlp", native, target)
    expected = cross.T @ np.linalg.solve(s, cross)
    np.testing.assert_allclose(lift(s, native, target), expected, atol=1e-10)
    np.testing.assert_allclose(lift(np.stack([s, 2 * s]), native, target)[1], 2 * expected, atol=1e-10)
    generalised = lift(scipy.linalg.block_diag(s, s), native, target)
    np.testing.assert_allclose(generalised, scipy.linalg.block_diag(expected, expected), atol=1e-10)


def test_same_basis_looks_at_functions_not_at_names() -> None:
    named = mole(WATER, "6-31g*")
    spelt_out = mole(WATER, {e: gto.basis.load("6-31g*", e) for e in "HO"})
    assert same_basis(named, spelt_out)
    assert not same_basis(named, mole(WATER, "6-31g"))
    assert not same_basis(named, mole(WATER, "6-31g*", cart=True))
    shifted = mole(WATER.replace("0.1173", "0.1174"), "6-31g*")
    assert not same_basis(named, shifted)
    tighter = gto.M(atom=named.atom, basis=scaled_exponents(named, 1 + 1e-6), verbose=0)
    assert not same_basis(named, tighter)
    assert same_basis(named, gto.M(atom=named.atom, basis=scaled_exponents(named, 1 + 1e-12), verbose=0))


def scaled_exponents(mol: gto.Mole, factor: float) -> dict[str, list[Any]]:
    """The basis set of a molecule with all its exponents scaled."""
    shells = {e: gto.format_basis({e: mol.basis})[e] for e in mol.elements}
    return {e: [[l, *([factor * row[0], *row[1:]] for row in rows)] for l, *rows in b] for e, b in shells.items()}


def test_filter_halves_at_its_strength_and_passes_the_rest() -> None:
    s = np.diag([1e-6, 0.01, 100.0])
    filtered = damp_small_overlaps(np.eye(3), s, 0.01)
    np.testing.assert_allclose(np.diag(filtered), [1e-8, 0.25, 1.0], rtol=3e-4)
    np.testing.assert_allclose(damp_small_overlaps(np.eye(3), s, 0.0), np.eye(3), atol=1e-12)


@pytest.mark.parametrize("unrestricted", [False, True])
def test_orbitals_of_a_density_give_it_back(unrestricted: bool) -> None:
    mf = (mole(WATER).UHF() if unrestricted else mole(WATER).RHF()).run()
    density, s = np.asarray(mf.make_rdm1()), mf.get_ovlp()
    orbitals = orbitals_from_density(density, s)
    assert orbitals is not None
    np.testing.assert_allclose(mf.make_rdm1(orbitals.coeff, orbitals.occ), density, atol=1e-10)
    assert orbitals_from_density(np.asarray(mf.get_init_guess(key="minao")), s) is None


def test_degenerate_orbitals_occupied_in_part_are_rotated_to_the_axes() -> None:
    mol = mole("O 0 0 0; H 0 0 0.97", "sto-3g", charge=1)
    mf = mol.RHF()
    fock = mf.get_fock(dm=mf.get_init_guess(key="minao"))
    orbitals = orbitals_from_fock(mf, fock)
    edge = int((orbitals.occ > 0).sum())
    assert orbitals.energy[edge] - orbitals.energy[edge - 1] < 1e-9
    turn = np.eye(mol.nao)
    turn[edge - 1 : edge + 1, edge - 1 : edge + 1] = [[0.8, 0.6], [-0.6, 0.8]]
    found = aligned(mol, orbitals._replace(coeff=orbitals.coeff @ turn))
    pair = found.coeff[:, edge - 1 : edge + 1]
    np.testing.assert_allclose(np.abs(pair), np.abs(pair) > 0.9, atol=1e-6)  # one along x, the other along y
    apart = orbitals._replace(energy=orbitals.energy + 1e-3 * np.arange(mol.nao))
    assert aligned(mol, apart) is apart
