"""Matrix <-> blocks <-> irreps: exact inverses, and blocks that move as the molecule does."""

from __future__ import annotations

import subprocess
import sys
from itertools import zip_longest

import numpy as np
import pytest
import torch
from e3nn import o3
from hypothesis import given, settings
from hypothesis import strategies as st
from pyscf import gto, scf
from scipy.spatial.transform import Rotation

from pyscf_mlham.ao.blocks import (
    Blocks,
    blocks_from_matrix,
    clebsch_gordan,
    irreps_from_blocks,
    matrix_from_blocks,
    rotate_blocks,
    shell_pairs,
)
from pyscf_mlham.ao.frames import frames_from_vectors
from pyscf_mlham.ao.layout import OrbitalLayout, ShellTemplate, wigner
from pyscf_mlham.ao.mole import graph_from_mol
from support.molecules import BASES, CLUSTER_ONE, CLUSTER_TWO, WATER, assert_close, mole

ELEMENTS = ["H", "C", "N", "O", "F", "P", "S", "Cl"]


def blocks_from_irreps(irreps: dict[tuple[int, int, int], np.ndarray], template: ShellTemplate) -> np.ndarray:
    """Expand coupled coefficients into blocks (..., B, B): the inverse of `irreps_from_blocks`."""
    leading = next(iter(irreps.values())).shape[:-3]
    blocks = np.zeros((*leading, template.size, template.size))
    for l1, l2 in shell_pairs(template):
        part = sum(
            np.einsum("...abm,ijm->...aibj", irreps[l1, l2, l], clebsch_gordan(l1, l2, l))
            for l in range(abs(l1 - l2), l1 + l2 + 1)
        )
        rows, columns = template.slices[l1], template.slices[l2]
        blocks[..., rows, columns] = np.reshape(part, (*leading, rows.stop - rows.start, columns.stop - columns.start))
    return blocks


@settings(max_examples=30, deadline=None)
@given(
    elements=st.lists(st.sampled_from(ELEMENTS), min_size=1, max_size=4),
    name=st.sampled_from(BASES[:-1]),
    cart=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_matrix_to_irreps_and_back_is_exact(elements: list[str], name: str, cart: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    places = np.arange(len(elements))[:, None] * np.array([1.1, 0.7, -0.4]) + rng.normal(
        scale=0.1, size=(len(elements), 3)
    )
    mol = mole([(e, r) for e, r in zip(elements, places, strict=True)], name, cart=cart, spin=None)
    _assert_round_trip(mol, rng.normal(size=(mol.nao, mol.nao)))


@pytest.mark.parametrize("cart", [False, True], ids=["spherical", "cartesian"])
def test_round_trip_with_g_functions(cart: bool) -> None:
    mol = mole(WATER, "cc-pvqz", cart=cart)
    _assert_round_trip(mol, mol.intor("int1e_kin"))


def _assert_round_trip(mol, matrix) -> None:
    layout, graph = OrbitalLayout.from_mol(mol), graph_from_mol(mol)
    own = layout.template().counts
    template = ShellTemplate(tuple(map(max, zip_longest(own, (3, 2, 1), fillvalue=0))))
    frames = frames_from_vectors(graph.vectors)
    blocks = blocks_from_matrix(matrix, layout, graph.pairs, template)
    onsite = blocks_from_irreps(irreps_from_blocks(blocks.onsite, template), template)
    local = irreps_from_blocks(rotate_blocks(blocks.pair, template, frames), template)
    pair = rotate_blocks(blocks_from_irreps(local, template), template, frames.swapaxes(1, 2))
    assert_close(blocks.onsite, onsite, atol=1e-12 * np.abs(matrix).max())
    back = matrix_from_blocks(Blocks(onsite, pair), layout, graph.pairs, template)
    assert_close(back, matrix, atol=1e-12 * max(1, np.abs(matrix).max()))


@pytest.mark.parametrize("cart", [False, True], ids=["spherical", "cartesian"])
@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("cluster", [CLUSTER_ONE, CLUSTER_TWO], ids=["HCNOF", "HPSCl"])
def test_blocks_of_a_fock_matrix_rotate_and_local_frames_do_not_see_it(cluster: str, name: str, cart: bool) -> None:
    mol = mole(cluster, name, spin=None, cart=cart)
    f = scf.hf.get_hcore(mol) if cart else _fock(mol)
    for improper in (1, -1):
        assert_blocks_rotate(mol, f, improper * Rotation.random(random_state=11).as_matrix(), improper)


def assert_blocks_rotate(mol: gto.Mole, f: np.ndarray, q: np.ndarray, improper: int) -> None:
    """Compare blocks of a matrix with those of the same matrix of the rotated, perhaps inverted molecule."""
    cart, name = mol.cart, mol.basis
    rotated = mole(_moved(mol, q), name, unit="Bohr", spin=None, cart=cart)
    layout, template = OrbitalLayout.from_mol(mol), OrbitalLayout.from_mol(mol).template()
    graph, rotated_graph = graph_from_mol(mol), graph_from_mol(rotated)
    if cart:  # PySCF has no rotation matrix to compare with, but its integrals are good to the last digits
        g = scf.hf.get_hcore(rotated)
    else:
        u = gto.mole.ao_rotation_matrix(mol, q * improper)
        parity = np.repeat(*zip(*[((-1) ** l, 2 * l + 1) for l in layout.shell_degree], strict=True))
        parity = parity if improper < 0 else np.ones(mol.nao)
        g = (u.T @ f @ u) * parity[:, None] * parity
        assert_close(_fock(rotated), g, atol=1e-7)  # density fitting's own noise
    here = blocks_from_matrix(f, layout, graph.pairs)
    there = blocks_from_matrix(g, layout, rotated_graph.pairs)
    assert_close(rotate_blocks(here.onsite, template, q), there.onsite, atol=1e-10)
    assert_close(rotate_blocks(here.pair, template, q), there.pair, atol=1e-10)
    # in the pairs' own frames only a turn about the pair (and a reflection) is left: norms of each |m| agree
    frames, rotated_frames = frames_from_vectors(graph.vectors), frames_from_vectors(rotated_graph.vectors)
    left = rotate_blocks(here.pair, template, frames)
    right = rotate_blocks(there.pair, template, rotated_frames)
    for l, part in enumerate(template.slices):
        for m in range(l + 1):
            rows = [part.start + k * (2 * l + 1) + l + s for k in range(template.counts[l]) for s in {-m, m}]
            norms = [np.linalg.norm(b[:, rows], axis=(1, 2)) for b in (left, right)]
            assert_close(*norms, atol=1e-10)


def _moved(mol, q):
    return [(a, q @ r) for a, r in zip(mol.elements, mol.atom_coords(), strict=True)]


def _fock(mol):
    """The Fock matrix of the minao density: real, and as equivariant as atoms are round."""
    if mol.basis == "cc-pvqz":  # the core Hamiltonian has g functions, too, and takes no seconds
        return scf.hf.get_hcore(mol)
    mf = mol.RHF().density_fit()  # spares the big basis sets their four-centre integrals; just as equivariant
    return mf.get_fock(dm=np.asarray(mf.get_init_guess(mol, "minao")))


def test_permutation_and_translation() -> None:
    mol = mole(CLUSTER_ONE, "def2-svp", spin=None)
    order = np.array([3, 0, 4, 2, 1])
    shift = np.array([3.0, -7.0, 1.5])
    moved = mole([(mol.elements[i], mol.atom_coord(i) + shift) for i in order], "def2-svp", unit="Bohr", spin=None)
    blocks = [blocks_from_matrix(_fock(m), OrbitalLayout.from_mol(m), graph_from_mol(m).pairs) for m in (mol, moved)]
    assert_close(blocks[0].onsite[order], blocks[1].onsite, atol=1e-10)
    index = {tuple(p): k for k, p in enumerate(graph_from_mol(mol).pairs.tolist())}
    same = [index[order[i], order[j]] for i, j in graph_from_mol(moved).pairs]
    assert_close(blocks[0].pair[same], blocks[1].pair, atol=1e-10)


def test_pairs_left_out_give_zero() -> None:
    mol = mole(WATER, "def2-svp")
    layout, s = OrbitalLayout.from_mol(mol), mol.intor("int1e_ovlp")
    pairs = graph_from_mol(mol, cutoff=2.0).pairs  # Bohr: the O-H bonds, not H-H
    assert len(pairs) == 4
    rebuilt = matrix_from_blocks(blocks_from_matrix(s, layout, pairs), layout, pairs)
    hydrogens = mol.aoslice_by_atom()[1:, 2:]
    (a, b), (c, d) = hydrogens
    assert np.all(rebuilt[a:b, c:d] == 0)
    rebuilt[a:b, c:d], rebuilt[c:d, a:b] = s[a:b, c:d], s[c:d, a:b]
    assert_close(rebuilt, s, atol=1e-14)


@pytest.mark.parametrize("l1", range(5))
@pytest.mark.parametrize("l2", range(5))
def test_coupling_is_orthogonal_and_equivariant(l1: int, l2: int) -> None:
    degrees = range(abs(l1 - l2), l1 + l2 + 1)
    full = np.concatenate([clebsch_gordan(l1, l2, l) for l in degrees], axis=-1)
    full = full.reshape((2 * l1 + 1) * (2 * l2 + 1), -1)
    assert_close(full.T @ full, np.eye(full.shape[1]), atol=1e-12)
    q = Rotation.random(random_state=2).as_matrix()
    for l in degrees:
        c = clebsch_gordan(l1, l2, l)
        rotated = np.einsum("ai,bj,ijm->abm", wigner(l1, q), wigner(l2, q), c)
        assert_close(rotated, c @ wigner(l, q), atol=1e-11)


def test_a_broken_convention_is_seen() -> None:
    """The equivariance check itself: p functions left in PySCF's order must fail it."""
    mol, q = mole(CLUSTER_ONE, "def2-svp", spin=None), Rotation.random(random_state=5).as_matrix()
    rotated = mole(_moved(mol, q), "def2-svp", unit="Bohr", spin=None)
    layout, template = OrbitalLayout.from_mol(mol), OrbitalLayout.from_mol(mol).template()
    layout.__dict__["order"] = np.arange(layout.n_ao)
    pairs = graph_from_mol(mol).pairs
    here = blocks_from_matrix(mol.intor("int1e_kin"), layout, pairs)
    there = blocks_from_matrix(rotated.intor("int1e_kin"), layout, pairs)
    assert np.abs(rotate_blocks(here.pair, template, q) - there.pair).max() > 1e-2


@pytest.mark.parametrize("l1", range(5))
def test_couplings_are_those_of_e3nn(l1: int) -> None:
    for l2 in range(5):
        for l in range(abs(l1 - l2), l1 + l2 + 1):
            theirs = o3.wigner_3j(l1, l2, l, dtype=torch.float64).numpy() * np.sqrt(2 * l + 1)
            np.testing.assert_allclose(clebsch_gordan(l1, l2, l), theirs, rtol=0, atol=1e-13)


def test_a_prediction_does_not_load_e3nn() -> None:
    code = (
        "import sys, pyscf, pyscf_mlham\n"
        "pyscf_mlham.fock(pyscf.M(atom='H 0 0 0; F 0 0 0.92', basis='def2-svp').RKS(xc='b3lyp'))\n"
        "print([name for name in ('e3nn', 'torch._dynamo') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
