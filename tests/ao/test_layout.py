"""Orbital conventions against two independent authorities: PySCF's rotation matrices and e3nn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyscf import gto
from scipy.spatial.transform import Rotation

from pyscf_mlham.ao import mole as ao_mole
from pyscf_mlham.ao.layout import (
    MAX_DEGREE,
    VECTOR_ORDER,
    OrbitalLayout,
    ShellTemplate,
    irreps_from_pyscf,
    solid_harmonics,
    wigner,
)
from support.molecules import BASES, CLUSTER_ONE, CLUSTER_TWO, WATER, assert_close, mole


def random_orthogonal(seed: int, improper: bool = False) -> np.ndarray:
    return Rotation.random(random_state=seed).as_matrix() * (-1 if improper else 1)


@pytest.mark.parametrize("l", range(MAX_DEGREE + 1))
def test_irreps_order_is_e3nns(l: int) -> None:
    import torch
    from e3nn import o3

    points = np.random.default_rng(l).normal(size=(20, 3))
    ours = solid_harmonics(l, points)
    fed = torch.tensor(points[:, VECTOR_ORDER])
    theirs = o3.spherical_harmonics(l, fed, normalize=False, normalization="norm").numpy()
    scale = (ours * theirs).sum() / (theirs * theirs).sum()
    assert_close(ours, scale * theirs, atol=1e-10 * np.abs(ours).max())
    assert scale > 0


@pytest.mark.parametrize("l", range(MAX_DEGREE + 1))
@pytest.mark.parametrize("improper", [False, True])
def test_wigner_is_orthogonal_and_multiplicative(l: int, improper: bool) -> None:
    q = np.stack([random_orthogonal(seed, improper) for seed in range(5)])
    d = wigner(l, q)
    assert_close(d @ np.swapaxes(d, -1, -2), np.broadcast_to(np.eye(2 * l + 1), d.shape), atol=1e-12)
    assert_close(wigner(l, q[0] @ q[1]), d[0] @ d[1], atol=1e-12)
    assert_close(wigner(l, -np.eye(3)), (-1) ** l * np.eye(2 * l + 1), atol=1e-12)


def test_rotation_is_that_of_pyscf_up_to_the_highest_degree() -> None:
    shells = [[l, [1.0 + l, 1.0]] for l in range(MAX_DEGREE + 1)]
    mol = mole("H 0 0 0; H 0.3 0.5 0.9", basis={"H": shells})
    q = random_orthogonal(3)
    layout = OrbitalLayout.from_mol(mol)
    u = gto.mole.ao_rotation_matrix(mol, q)
    assert_close(layout.rotation(q), layout.irreps_from_ao(u.T), atol=1e-12)


@pytest.mark.parametrize("cart", [False, True], ids=["spherical", "cartesian"])
@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "inversion"])
@pytest.mark.parametrize("cluster", [CLUSTER_ONE, CLUSTER_TWO], ids=["HCNOF", "HPSCl"])
@pytest.mark.parametrize("name", BASES)
def test_real_matrices_rotate(name: str, cluster: str, improper: bool, cart: bool) -> None:
    mol = mole(cluster, name, cart=cart, spin=None)
    q = random_orthogonal(7, improper)
    rotated = mole([(a, q @ r) for a, r in zip(mol.elements, mol.atom_coords(), strict=True)], name, unit="Bohr",
                  cart=cart, spin=None)  # fmt: skip
    layout = OrbitalLayout.from_mol(mol)
    d = layout.rotation(q)
    for integral in ("int1e_ovlp", "int1e_kin", "int1e_nuc"):
        here, there = mol.intor(integral), rotated.intor(integral)
        expected = layout.ao_from_irreps(d @ layout.irreps_from_ao(here) @ d.T)
        assert_close(there, expected, atol=1e-10)
        pair = np.stack([layout.irreps_from_ao(here), np.triu(here)])  # the second is not symmetric
        assert_close(layout.rotated(pair, q), d @ pair @ d.T, atol=1e-12)
        assert_close(layout.rotated(pair, np.stack([q, q.T])), [d @ pair[0] @ d.T, d.T @ pair[1] @ d], atol=1e-12)
        if not cart and not improper:  # what PySCF offers
            u = gto.mole.ao_rotation_matrix(mol, q)
            assert_close(u.T @ here @ u, expected, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), cart=st.booleans(), name=st.sampled_from(BASES))
def test_order_round_trip(seed: int, cart: bool, name: str) -> None:
    layout = OrbitalLayout.from_mol(mole(WATER, name, cart=cart))
    matrix = np.random.default_rng(seed).normal(size=(layout.n_ao, layout.n_ao))
    assert_close(layout.ao_from_irreps(layout.irreps_from_ao(matrix)), matrix, atol=1e-12)


def test_contracted_and_unsorted_basis_sets() -> None:
    # general contraction (two functions from one set of primitives) and shells given d first
    basis_set = {"H": [[2, [0.8, 1.0]], [0, [3.0, 0.2, 0.5], [0.9, 0.7, -0.3]], [1, [1.1, 1.0]]]}
    mol = mole("H 0 0 0; H 0.2 0.3 0.9", basis=basis_set)
    layout = OrbitalLayout.from_mol(mol)
    assert layout.n_ao == mol.nao
    assert layout.template() == ShellTemplate((2, 1, 1))
    q = random_orthogonal(1)
    u = gto.mole.ao_rotation_matrix(mol, q)
    assert_close(layout.rotation(q), layout.irreps_from_ao(u.T), atol=1e-12)


def test_a_template_may_leave_out_shells_of_high_degree() -> None:
    layout = OrbitalLayout.from_mol(mole("Fe 0 0 0; C 0 0 1.7; O 0 0 2.9", basis="def2-svp"))
    whole = layout.template()
    within = whole.within(2)
    assert (whole.counts, within.counts) == ((5, 3, 2, 1), (5, 3, 2))
    assert whole.within(6) == whole
    slots, f_shell = layout.slots(within), layout.shell_degree == 3
    places = slots[slots >= 0]
    assert len(set(places.tolist())) == len(places) == layout.n_ao - 7
    start = layout.shell_offset[f_shell].item()
    assert not set(places.tolist()) & set(range(start, start + 7))
    np.testing.assert_array_equal(slots, layout.slots(whole)[:, : within.size])
    with pytest.raises(ValueError, match="too small"):
        layout.slots(ShellTemplate((5, 3), largest_l=2))


def test_too_small_template_and_too_high_degree_are_errors() -> None:
    layout = OrbitalLayout.from_mol(mole())
    with pytest.raises(ValueError, match="too small"):
        layout.slots(ShellTemplate((1, 1)))
    with pytest.raises(ValueError, match="l = 7"):
        OrbitalLayout.from_mol(mole("H 0 0 0; H 0 0 1", basis={"H": [[7, [1.0, 1.0]]]}))


def test_basis_sets_are_read_once() -> None:
    assert ao_mole.element_shells("def2-svp", "C") is ao_mole.element_shells("def2-svp", "C")
    asked = ao_mole.has_core_potential.cache_info().hits
    assert [ao_mole.has_core_potential("def2-svp", "I") for _ in range(3)] == [True] * 3
    assert not ao_mole.has_core_potential("def2-svp", "C")
    assert ao_mole.has_core_potential.cache_info().hits >= asked + 2


@pytest.mark.parametrize("l", range(MAX_DEGREE + 1))
def test_solid_harmonics_are_normalised_as_those_of_pyscf(l: int) -> None:
    points = np.random.default_rng(l).normal(size=(20, 3))
    powers = [(x, y, l - x - y) for x in range(l, -1, -1) for y in range(l - x, -1, -1)]
    expected = np.prod(points[:, None] ** np.array(powers), axis=-1) @ gto.cart2sph(l, normalized="sp")
    assert_close(solid_harmonics(l, points), expected[:, irreps_from_pyscf(l)], atol=1e-13 * np.abs(expected).max())
