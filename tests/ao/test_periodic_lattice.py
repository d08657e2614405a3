"""Bloch matrices and their blocks in real space, against matrices of PySCF."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyscf import gto
from scipy.spatial.transform import Rotation

from pyscf_mlham.ao.blocks import Blocks, rotate_blocks
from pyscf_mlham.ao.lattice import (
    bloch_from_blocks,
    blocks_from_bloch,
    complete_graph,
    image_weights,
    mesh_from_kpts,
    up_to_sign,
)
from pyscf_mlham.ao.layout import OrbitalLayout
from pyscf_mlham.ao.loewdin import ao_from_orthogonal, metric_from_overlap, orthogonal_from_ao
from pyscf_mlham.ao.mole import graph_from_cell
from pyscf_mlham.ao.structure import Graph
from support.crystals import HEXAGONAL, bands, chain, changed, crystal, krks, moved, random_graph, seeds
from support.molecules import assert_close

Array = Any


class Crystal(NamedTuple):
    """A converged cell, its matrices at the k points, and the pairs of all their elements."""

    cell: Any
    kpts: Array
    density: Array
    overlap: Array
    fock: Array
    graph: Graph
    layout: OrbitalLayout

    @classmethod
    def of(cls, cell: Any, kpts: Array, density: Array | None = None) -> Crystal:
        mf = krks(cell, kpts)
        if density is None:
            mf.kernel()
            density = mf.make_rdm1()
        graph = complete_graph(graph_from_cell(cell), kpts)
        return cls(cell, kpts, density, mf.get_ovlp(), mf.get_fock(dm=density), graph, OrbitalLayout.from_mol(cell))

    def blocks(self, matrices: Array | None = None) -> Blocks:
        return blocks_from_bloch(self.fock if matrices is None else matrices, self.kpts, self.graph, self.layout)


@pytest.fixture(scope="module")
def nitride() -> Crystal:
    cell = crystal(precision=1e-10)
    return Crystal.of(cell, cell.make_kpts([2, 2, 1]))


@pytest.fixture(scope="module")
def hydrogen() -> Crystal:
    cell = chain(precision=1e-10)
    return Crystal.of(cell, cell.make_kpts([4, 1, 1]))


@pytest.fixture(params=[pytest.param("nitride", marks=pytest.mark.slow), "hydrogen"])
def any_crystal(request: pytest.FixtureRequest) -> Crystal:
    converged: Crystal = request.getfixturevalue(request.param)
    return converged


def opposite(graph: Graph) -> list[int]:
    """Places of the pairs (j, i, -R)."""
    keys = list(map(tuple, np.hstack([graph.pairs, graph.translations])))
    place = {key: n for n, key in enumerate(keys)}
    return [place[j, i, -a, -b, -c] for i, j, a, b, c in keys]


def test_blocks_are_real_symmetric_and_return(any_crystal: Crystal) -> None:
    c = any_crystal
    blocks = c.blocks()
    assert blocks.pair.dtype == blocks.onsite.dtype == np.float64
    assert_close(bloch_from_blocks(blocks, c.kpts, c.graph, c.layout), c.fock, atol=1e-12)
    assert_close(blocks.pair[opposite(c.graph)], np.swapaxes(blocks.pair, -1, -2), atol=1e-10)
    assert_close(blocks.onsite, np.swapaxes(blocks.onsite, -1, -2), atol=1e-10)


def test_loewdin_orbitals_at_each_k_and_in_real_space(any_crystal: Crystal) -> None:
    c = any_crystal
    metric = metric_from_overlap(c.overlap)
    blocks = c.blocks(orthogonal_from_ao(c.fock, metric))
    assert blocks.pair.dtype == np.float64
    assert_close(blocks.pair[opposite(c.graph)], np.swapaxes(blocks.pair, -1, -2), atol=1e-10)
    orthogonal = bloch_from_blocks(blocks, c.kpts, c.graph, c.layout)
    assert_close(ao_from_orthogonal(orthogonal, metric), c.fock, atol=1e-10)
    expected, _ = krks(c.cell, c.kpts).eig(c.fock, c.overlap)
    assert_close(bands(orthogonal), expected, atol=1e-10)
    assert_close(bands(c.fock, c.overlap), expected, atol=1e-10)


def test_rotation_of_the_whole_cell(any_crystal: Crystal) -> None:
    c, Q = any_crystal, Rotation.from_rotvec([0.3, -0.7, 1.1]).as_matrix()
    blocks, u = c.blocks(), gto.mole.ao_rotation_matrix(c.cell, Q)
    template = c.layout.template()
    rotated = Blocks(*(rotate_blocks(each, template, Q) for each in blocks))
    graph = c.graph._replace(positions=c.graph.positions @ Q.T, lattice=c.graph.lattice @ Q.T)
    focks = bloch_from_blocks(rotated, c.kpts @ Q.T, graph, c.layout)
    assert_close(focks, u.T @ c.fock @ u, atol=1e-10)
    cell = changed(c.cell, graph.positions, graph.lattice)
    assert_close(focks, Crystal.of(cell, c.kpts @ Q.T, u.T @ c.density @ u).fock, atol=1e-10)


def test_atoms_moved_across_the_border(any_crystal: Crystal) -> None:
    c, shifts = any_crystal, np.array([[1, -1, 0], [0, 1, 0]])
    graph = moved(c.graph, shifts)
    cell = changed(c.cell, graph.positions, graph.lattice)
    density = bloch_from_blocks(c.blocks(c.density), c.kpts, graph, c.layout)
    there = Crystal.of(cell, c.kpts, density)
    assert_close(bloch_from_blocks(c.blocks(), c.kpts, graph, c.layout), there.fock, atol=1e-10)
    assert sorted(map(tuple, np.hstack([graph.pairs, graph.translations]))) == sorted(
        map(tuple, np.hstack([there.graph.pairs, there.graph.translations]))
    )


def test_permutation_of_atoms(hydrogen: Crystal) -> None:
    c = hydrogen
    cell = changed(c.cell, c.graph.positions[::-1], c.graph.lattice)
    half = c.layout.n_ao // 2
    order = np.roll(np.arange(c.layout.n_ao), half)
    there = Crystal.of(cell, c.kpts, c.density[:, order[:, None], order])
    graph = c.graph._replace(pairs=1 - c.graph.pairs)
    blocks = c.blocks()
    focks = bloch_from_blocks(Blocks(blocks.onsite[::-1], blocks.pair), c.kpts, graph, there.layout)
    assert_close(focks, there.fock, atol=1e-10)


def test_supercell_is_the_folded_primitive_cell(hydrogen: Crystal) -> None:
    c, n = hydrogen, 2
    cell = chain(n, precision=1e-10)
    kpts = cell.make_kpts([2, 1, 1])
    graph = complete_graph(graph_from_cell(cell), kpts)
    keys = map(tuple, np.hstack([c.graph.pairs, c.graph.translations]).tolist())
    places = {key: place for place, key in enumerate(keys)}
    layout = OrbitalLayout.from_mol(cell)

    def folded(blocks: Blocks) -> Array:
        pair = []
        for (a, b), (x, y, z) in zip(graph.pairs.tolist(), graph.translations.tolist(), strict=True):
            (first, i), (second, j) = divmod(a, 2), divmod(b, 2)
            pair.append(blocks.pair[places[i, j, n * x + second - first, y, z]])
        return bloch_from_blocks(Blocks(np.tile(blocks.onsite, (n, 1, 1)), np.stack(pair)), kpts, graph, layout)

    there = Crystal.of(cell, kpts, folded(c.blocks(c.density)))
    assert_close(folded(c.blocks()), there.fock, atol=1e-10)
    assert_close(folded(c.blocks(c.overlap)), there.overlap, atol=1e-10)


@pytest.mark.parametrize("mesh", [[4, 1, 1], [5, 1, 1]])
def test_mesh_without_gamma(mesh: list[int]) -> None:
    cell = chain()
    kpts = cell.make_kpts(mesh, with_gamma_point=False)
    c = Crystal.of(cell, kpts, krks(cell, kpts).get_init_guess())
    blocks = c.blocks()
    assert blocks.pair.dtype == np.float64
    assert_close(bloch_from_blocks(blocks, kpts, c.graph, c.layout), c.fock, atol=1e-10)


def test_mesh_without_opposite_points_has_complex_blocks() -> None:
    cell = chain()
    kpts = cell.make_kpts([3, 2, 1], scaled_center=[0.1, 0.07, 0.2])
    overlap = np.array(cell.pbc_intor("int1e_ovlp", kpts=kpts))
    graph, layout = complete_graph(graph_from_cell(cell), kpts), OrbitalLayout.from_mol(cell)
    blocks = blocks_from_bloch(overlap, kpts, graph, layout)
    assert blocks.pair.dtype == np.complex128
    assert_close(bloch_from_blocks(blocks, kpts, graph, layout), overlap, atol=1e-12)
    assert_close(blocks.pair[opposite(graph)], np.swapaxes(blocks.pair.conj(), -1, -2), atol=1e-12)


def test_interpolation_to_any_k() -> None:
    """Overlap and kinetic energy of d functions too, which are zero between distant cells."""
    cell = crystal(a=np.diag([4.8, 5.2, 12.0]), basis={"B": "gth-dzvp", "N": "gth-tzvp"}, precision=1e-12)
    kpts, between = cell.make_kpts([9, 9, 1]), cell.get_abs_kpts([[0.12, 0.37, 0], [0.5, -0.21, 0]])
    graph, layout = complete_graph(graph_from_cell(cell), kpts), OrbitalLayout.from_mol(cell)
    sampled, expected = (
        np.array([cell.pbc_intor(name, kpts=k) for name in ("int1e_ovlp", "int1e_kin")]) for k in (kpts, between)
    )
    blocks = blocks_from_bloch(sampled, kpts, graph, layout)
    assert blocks.pair.shape[:2] == (2, len(graph.pairs))
    assert_close(bloch_from_blocks(blocks, between, graph, layout), expected, atol=1e-7)


@pytest.mark.slow
def test_pairs_within_a_cutoff_are_a_part_of_all(nitride: Crystal) -> None:
    c, near = nitride, graph_from_cell(nitride.cell, cutoff=9.0)
    blocks, part = c.blocks(), blocks_from_bloch(c.fock, c.kpts, near, c.layout)
    places = {key: n for n, key in enumerate(map(tuple, np.hstack([c.graph.pairs, c.graph.translations])))}
    known = [places.get(tuple(key)) for key in np.hstack([near.pairs, near.translations])]
    assert 0 < known.count(None) < len(known)  # some images are nearer than the cutoff, but not the nearest
    for block, place in zip(part.pair, known, strict=True):
        assert_close(block, np.zeros(block.shape) if place is None else blocks.pair[place], atol=1e-14)


def test_a_sheet_has_no_images_above_it() -> None:
    cell = crystal([("H", (0.0, 0.0, 0.5)), ("H", (0.0, 0.0, 8.0))], 9 * np.eye(3), dimension=2)
    kpts = cell.make_kpts([2, 2, 1])
    graph = complete_graph(graph_from_cell(cell), kpts)
    assert not graph.translations[:, 2].any()
    overlap, layout = np.array(cell.pbc_intor("int1e_ovlp", kpts=kpts)), OrbitalLayout.from_mol(cell)
    blocks = blocks_from_bloch(overlap, kpts, graph, layout)
    assert_close(bloch_from_blocks(blocks, kpts, graph, layout), overlap, atol=1e-12)


meshes = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 2))
centres = st.sampled_from([0.0, 0.5])


def random_layout(rng: np.random.Generator, atoms: int) -> OrbitalLayout:
    """Give each atom one to three shells."""
    degrees = [np.sort(rng.integers(0, 4, rng.integers(1, 4))) for _ in range(atoms)]
    degree = np.concatenate(degrees)
    ends = np.cumsum(2 * degree + 1)
    return OrbitalLayout(atoms, np.repeat(np.arange(atoms), list(map(len, degrees))), degree, ends - (2 * degree + 1))


@given(seed=seeds, atoms=st.integers(1, 3), mesh=meshes, centre=st.tuples(centres, centres, centres))
@settings(deadline=None, max_examples=30)
def test_random_matrices_return(seed: int, atoms: int, mesh: Any, centre: Any) -> None:
    rng, structure = np.random.default_rng(seed), random_graph(seed, atoms)
    scaled = (np.stack(np.unravel_index(rng.permutation(np.prod(mesh)), mesh), axis=-1) + centre) / mesh
    kpts = 2 * np.pi * scaled @ np.linalg.inv(structure.lattice).T
    assert mesh_from_kpts(kpts, structure.lattice).tolist() == list(mesh)
    graph, layout = complete_graph(structure, kpts), random_layout(rng, atoms)
    near = random_graph(seed, atoms, cutoff=12.0)  # real H(R) of any range
    size = layout.template().size
    onsite = rng.normal(size=(atoms, size, size))
    pair = rng.normal(size=(len(near.pairs), size, size))
    hermitian = Blocks(onsite + np.swapaxes(onsite, -1, -2), pair + np.swapaxes(pair[opposite(near)], -1, -2))
    matrices = bloch_from_blocks(hermitian, kpts, near, layout)
    assert_close(matrices, np.swapaxes(matrices.conj(), -1, -2), atol=1e-10)
    blocks = blocks_from_bloch(matrices, kpts, graph, layout)
    assert blocks.pair.dtype == np.float64
    assert_close(blocks.pair[opposite(graph)], np.swapaxes(blocks.pair, -1, -2), atol=1e-10)
    assert_close(bloch_from_blocks(blocks, kpts, graph, layout), matrices, atol=1e-10)


@given(seed=seeds, atoms=st.integers(1, 3), mesh=meshes)
@settings(deadline=None, max_examples=30)
def test_images_share_an_element(seed: int, atoms: int, mesh: Any) -> None:
    structure = random_graph(seed, atoms)
    kpts = 2 * np.pi * np.stack(np.unravel_index(np.arange(np.prod(mesh)), mesh), axis=-1) / mesh
    graph = complete_graph(structure, kpts @ np.linalg.inv(structure.lattice).T)
    weights = image_weights(graph, np.array(mesh))
    assert weights.min(initial=1.0) > 0
    shares: dict[tuple[int, ...], float] = {(i, i, 0, 0, 0): 1.0 for i in range(atoms)}
    for (i, j), cell, weight in zip(graph.pairs.tolist(), graph.translations % np.array(mesh), weights, strict=True):
        key = (i, j, *cell.tolist())
        shares[key] = shares.get(key, 0.0) + weight
    assert len(shares) == atoms**2 * np.prod(mesh)
    assert_close(list(shares.values()), 1.0, atol=1e-12)


def test_points_that_are_not_a_mesh_are_an_error() -> None:
    cell = crystal()
    kpts = cell.make_kpts([2, 2, 1])
    for points in (kpts[:3], kpts[[0, 1, 2, 2]], cell.get_abs_kpts([[0, 0, 0], [0.4, 0, 0]])):
        with pytest.raises(ValueError, match="k points are not a uniform mesh"):
            mesh_from_kpts(points, cell.lattice_vectors())


@pytest.mark.parametrize("mesh", [[4, 4, 1], [3, 3, 1], [5, 1, 2]])
def test_matrices_at_opposite_k_points_are_conjugates(mesh: list[int]) -> None:
    cell = crystal()
    kpts = np.asarray(cell.make_kpts(mesh)) + np.linalg.inv(HEXAGONAL).T[0] * 2 * np.pi  # another zone
    overlap = np.asarray(cell.pbc_intor("int1e_ovlp", hermi=1, kpts=kpts))
    first, number, opposite = up_to_sign(kpts, HEXAGONAL)
    own = [k for k in kpts if np.abs(np.exp(2j * k @ HEXAGONAL.T) - 1).max() < 1e-9]
    assert len(first) == (len(kpts) + len(own)) // 2
    found = overlap[first][number]
    assert_close(np.where(opposite[:, None, None], found.conj(), found), overlap, 1e-9)
