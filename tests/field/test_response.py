"""The response level against PySCF's own kernels and true changes of the potential."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pyscf import data, gto
from pyscf.dft import libxc

from pyscf_mlham.density import Orbitals, density_from_orbitals, factors_from_orbitals
from pyscf_mlham.field import ResponseField, atomic_factor, atomic_factors
from pyscf_mlham.field.response import exchange_basis
from support.molecules import ETHYLENE, WATER, mole

AMIDE = "C 0 0 0; O 0 1.21 0.1; N 1.18 -0.68 0; H -0.95 -0.56 0; H 1.2 -1.68 0.1; H 2.03 -0.2 0"
METHODS = {
    "RHF": (lambda: mole(AMIDE).RHF(), 0.06),
    "LDA": (lambda: mole(AMIDE).RKS(xc="lda,vwn"), 0.04),
    "PBE": (lambda: mole(AMIDE).RKS(xc="pbe"), 0.04),
    "B3LYP": (lambda: mole(AMIDE).RKS(xc="b3lyp"), 0.04),
    "wB97X": (lambda: mole(AMIDE).RKS(xc="wb97x"), 0.06),
    "M06-2X": (lambda: mole(AMIDE).RKS(xc="m062x"), 0.35),
    "UKS": (lambda: mole(AMIDE, charge=1, spin=1).UKS(xc="b3lyp"), 0.06),
    "ROKS": (lambda: mole(AMIDE, charge=1, spin=1).ROKS(xc="b3lyp"), 0.06),
    "cartesian": (lambda: mole(AMIDE, cart=True).RKS(xc="pbe"), 0.04),
    "PCM": (lambda: mole("C 0 0 0; N 0 0 1.16; H 0 0 -1.07").RKS(xc="pbe").PCM(), 0.02),
}


def potential(mf: Any, density: np.ndarray) -> np.ndarray:
    vhf = mf.get_veff(mf.mol, density)
    return np.asarray(vhf) + np.asarray(getattr(vhf, "v_solvent", 0.0))


@pytest.mark.parametrize("name", METHODS)
def test_response_to_a_change_near_convergence(name: str) -> None:
    """Occupied-virtual part of the change between the second density of an SCF and the converged one."""
    make, bound = METHODS[name]
    mf, early = make(), make().set(max_cycle=3)
    for each in (mf, early):
        if hasattr(each, "grids"):
            each.grids.level = 1
        each.run()
    here, there = (Orbitals(m.mo_energy, m.mo_coeff, m.mo_occ) for m in (early, mf))
    factors = [factors_from_orbitals(mf, each) for each in (here, there)]
    v = [potential(mf, density_from_orbitals(mf, each)) for each in (here, there)]
    field = ResponseField(mf).with_kernel(factors[0]).around(factors[0], v[0])
    np.testing.assert_allclose(field.potential(factors[0]), v[0], atol=1e-5)
    error, change = field.potential(factors[1]) - v[1], v[1] - v[0]
    coeff = mf.mo_coeff if mf.mo_coeff.ndim == 3 else np.stack([mf.mo_coeff] * 2)
    spins = (0, 1) if change.ndim == 3 else (None,)
    sizes = []
    for matrix in (error, change):
        blocks = []
        for spin in spins:
            occupied = factors[1][spin or 0].shape[1]
            m = coeff[spin or 0].T @ (matrix if spin is None else matrix[spin]) @ coeff[spin or 0]
            blocks.append(m[occupied:, :occupied].ravel())
        sizes.append(np.linalg.norm(np.concatenate(blocks)))
    assert sizes[0] < bound * sizes[1]


def test_kernel_is_the_derivative_of_the_potential() -> None:
    """The folded kernel, against PySCF's integration of it over pairs of orbitals."""
    mf = mole(ETHYLENE).RKS(xc="pbe").run(verbose=0)
    orbitals = Orbitals(mf.mo_energy, mf.mo_coeff, mf.mo_occ)
    factors = factors_from_orbitals(mf, orbitals)
    field = ResponseField(mf).with_kernel(factors)
    occupied = mf.mo_occ > 0
    moved = mf.mo_coeff[:, occupied] + 1e-3 * mf.mo_coeff[:, ~occupied][:, : occupied.sum()]
    other = [moved * np.sqrt(2)]
    change = other[0] @ other[0].T - factors[0] @ factors[0].T
    exact = mf.gen_response(mf.mo_coeff, mf.mo_occ, hermi=1)(change)
    ours = field.around(factors, np.zeros_like(change)).potential(other)
    block = np.ix_(~occupied, occupied)
    ours, exact = (mf.mo_coeff.T @ m @ mf.mo_coeff for m in (ours, exact))
    assert np.linalg.norm((ours - exact)[block]) < 0.06 * np.linalg.norm(exact[block])


def test_response_is_linear() -> None:
    mf = mole(WATER).RHF()
    factors = atomic_factors(mf)
    field = ResponseField(mf).around(factors, np.zeros((mf.mol.nao, mf.mol.nao)))
    v = [field.potential([factors[0] * np.sqrt(1 + x)]) for x in (0.01, 0.02)]
    np.testing.assert_allclose(v[1], 2 * v[0], atol=2e-5)


def test_exchange_functions_of_every_element() -> None:
    symbols = data.elements.ELEMENTS[1:87]
    basis = exchange_basis(
        gto.M(atom=[(s, (0, 0, 4.0 * i)) for i, s in enumerate(symbols)], basis={}, spin=None, verbose=0)
    )
    assert set(basis) == set(symbols)
    assert all(0 < shell[1][0] < 1e4 for shells in basis.values() for shell in shells)


@pytest.mark.parametrize("options", [{}, {"cart": True}, {"basis": "def2-tzvp"}])
def test_superposed_atoms_hold_their_electrons_at_home(options: dict[str, Any]) -> None:
    mol = mole(AMIDE + "; ghost-O 0 0 5", **options)
    factor = atomic_factor(mol)
    density = factor @ factor.T
    electrons = np.einsum("mn,nm->", density, mol.intor("int1e_ovlp"))
    assert electrons == pytest.approx(24, abs=1e-8)
    slices = mol.aoslice_by_atom()
    for i, (_, _, begin, end) in enumerate(slices):
        assert not density[begin:end, : slices[i][2]].any()


def test_superposed_atoms_with_core_potentials() -> None:
    mol = mole("I 0 0 0; H 0 0 1.6", "def2-svp", ecp={"I": "def2-svp"})
    factor = atomic_factor(mol)
    assert np.einsum("mi,mn,ni->", factor, mol.intor("int1e_ovlp"), factor) == pytest.approx(26, abs=1e-8)


def pbe_under_another_name(_: str, *args: Any, **options: Any) -> Any:
    return libxc.eval_xc("pbe", *args, **options)


def test_rough_kernels_of_a_functional_of_the_users_own() -> None:
    """NumInt with a function in the place of every functional; the rough kernel is that of PBE all the same."""
    kernels = []
    for mf in (mole(WATER).RKS(xc="pbe"), mole(WATER).RKS().define_xc_(pbe_under_another_name, "GGA")):
        mf.grids.level = 0
        factors = atomic_factors(mf)
        field = ResponseField(mf).with_kernel(factors, rough=True)
        kernels.append(field.around(factors, np.zeros((mf.mol.nao,) * 2)).potential([0.9 * f for f in factors]))
    np.testing.assert_allclose(kernels[1], kernels[0], atol=1e-7)
