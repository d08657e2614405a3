"""Bloch matrices H(k) <-> blocks H_ij(R) of pairs (i, j, R), exact on a Born-von Karman mesh.

    H_ij(k) = sum_R exp(i k R) H_ij(R),   H_ij(R) = w_ij(R) / N_k sum_k exp(-i k R) H_ij(k)

A mesh of N_1 x N_2 x N_3 points cannot distinguish R from R + N T: the weights w share an element equally among the
nearest of these images of atom j, and leave nothing for the others. The blocks are then Hermitian,
H_ij(R) = H_ji(-R)^dagger, as local as possible, and interpolate H(k) between the points of the mesh. They are real
for time-reversal symmetry, if the mesh contains -k for each k.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pyscf_mlham.ao.blocks import Blocks
from pyscf_mlham.ao.cell import cells_within, graph_from_lattice, heights
from pyscf_mlham.ao.layout import OrbitalLayout, ShellTemplate
from pyscf_mlham.ao.structure import Graph, with_pairs
from pyscf_mlham.arrays import Array, IntArray

UNIFORM = 1e-5  # of a reciprocal lattice vector; deviation of k points from a uniform mesh
EQUAL = 1e-5  # Bohr; images whose distances differ by less are equally near
REAL = 1e-10  # Hartree; smaller imaginary parts are dropped


def mesh_from_kpts(kpts: Array, lattice: Array) -> IntArray:
    """Return the numbers of points along the reciprocal lattice vectors of a uniform mesh, (3,).

    Args:
        kpts: (N_k, 3) 1/Bohr, in any order, with or without Gamma.
        lattice: (3, 3) lattice vectors in rows, Bohr.
    """
    scaled = (kpts - kpts[0]) @ lattice.T / (2 * np.pi)
    steps = np.mod(scaled + UNIFORM, 1.0) - UNIFORM
    mesh = np.array([1 + np.sum(np.diff(np.sort(axis)) > UNIFORM) for axis in steps.T], dtype=np.int64)
    places = np.rint(steps * mesh)
    distinct = len(np.unique(places, axis=0)) == len(kpts) == np.prod(mesh)
    if not distinct or np.abs(steps * mesh - places).max() > UNIFORM * mesh.max():
        raise ValueError(
            f"the {len(kpts)} k points are not a uniform mesh; expected all points of cell.make_kpts(...), "
            "not reduced by symmetry."
        )
    return mesh


def kpts_of_mesh(mesh: IntArray, lattice: Array) -> Array:
    """Return the k points of a uniform mesh with Gamma, (N_k, 3) 1/Bohr; mesh: (3,) numbers of points."""
    return cells_of_mesh(mesh) / mesh @ (2 * np.pi * np.linalg.inv(lattice).T)


def shortest_vector(mesh: IntArray, lattice: Array, dimension: int) -> float:
    """Return the length of the shortest lattice vector of the crystal whose cells a mesh distinguishes, Bohr."""
    cells = cells_within(np.where(np.arange(3) < dimension, 1, 0))
    vectors = cells[np.any(cells, axis=1)] @ (mesh[:, None] * lattice)
    return float(np.linalg.norm(vectors, axis=1).min())


def mesh_reaching(reach: float, lattice: Array, dimension: int) -> IntArray:
    """Return a mesh, (3,), whose crystal has no lattice vector shorter than reach, Bohr."""
    lengths = np.linalg.norm(lattice, axis=1)
    mesh = np.where(np.arange(3) < dimension, np.ceil(reach / lengths - EQUAL / reach), 1).astype(np.int64)
    while shortest_vector(mesh, lattice, dimension) < reach - EQUAL:
        mesh[:dimension] += 1  # a skewed cell
    return mesh


def cells_of_mesh(mesh: IntArray) -> IntArray:
    """Return the translations that a mesh distinguishes, (N_k, 3) from 0 to N - 1 each."""
    return np.stack(np.unravel_index(np.arange(np.prod(mesh)), mesh), axis=-1)


def up_to_sign(kpts: Array, lattice: Array) -> tuple[IntArray, IntArray, Array]:
    """Choose one of each pair k, -k up to reciprocal lattice vectors; matrices of a real operator are conjugates.

    Returns:
        indices of the chosen points, (M,); for each point the number of the chosen one, (N_k,), and whether it is the
        opposite one, (N_k,).
    """
    scaled = kpts @ lattice.T / (2 * np.pi)
    both = np.mod(np.rint(np.vstack([scaled, -scaled]) / UNIFORM), round(1 / UNIFORM))
    _, first, number = np.unique(both, axis=0, return_index=True, return_inverse=True)
    here, there = np.split(first[number.ravel()], 2)  # where k and -k occur first
    chosen, of_chosen = np.unique(np.minimum(here, there), return_inverse=True)
    return chosen, of_chosen, here > there


def cells_from_bloch(matrices: Array, kpts: Array, lattice: Array) -> Array:
    """Transform the Hermitian matrices of a real operator at k points with Gamma to those between two cells.

    Args:
        matrices: (..., N_k, n, n).

    Returns:
        (..., N_k, n, n) real, of the zeroth cell and those of `cells_of_mesh`.
    """
    cells = cells_of_mesh(mesh_from_kpts(kpts, lattice)) @ lattice
    phases = np.exp(-1j * cells @ kpts.T) / len(kpts)
    return np.asarray(np.einsum("rk,...kij->...rij", phases, matrices).real)


def bloch_from_cells(matrices: Array, kpts: Array, lattice: Array) -> Array:
    """Transform matrices between cells to those at k points: the inverse of `cells_from_bloch`."""
    cells = cells_of_mesh(mesh_from_kpts(kpts, lattice)) @ lattice
    return np.asarray(np.einsum("kr,...rij->...kij", np.exp(1j * kpts @ cells.T), matrices))


def complete_graph(graph: Graph, kpts: Array) -> Graph:
    """Return the pairs of all elements of H(R) that a mesh of k points determines.

    Args:
        kpts: (N_k, 3) uniform mesh, 1/Bohr.
    """
    mesh = mesh_from_kpts(kpts, graph.lattice)
    cells = cells_of_mesh(mesh) @ graph.lattice
    vectors = graph.positions[None, :, None] - graph.positions[:, None, None] + cells
    farthest = np.linalg.norm(_folded(vectors.reshape(-1, 3), graph, mesh), axis=-1).max()
    structure = (graph.numbers, graph.positions, graph.lattice)
    every = graph_from_lattice(*structure, cutoff=float(farthest) + EQUAL, dimension=graph.dimension)
    return with_pairs(every, image_weights(every, mesh) > 0)


def image_weights(graph: Graph, mesh: IntArray) -> Array:
    """Return the weight of each pair among its images in the Born-von Karman crystal.

    Args:
        mesh: (3,) numbers of k points.

    Returns:
        (P,) 1/n for one of the n nearest images, 0 for a farther one.
    """
    span, folded = mesh[:, None] * graph.lattice, _folded(graph.vectors, graph, mesh)
    farthest = np.linalg.norm(folded, axis=-1).max(initial=0.0)
    reach = np.floor(farthest / heights(span) + 0.5)
    shifts = cells_within(np.where(np.arange(3) < graph.dimension, reach, 0)) @ span
    distances = np.linalg.norm(folded[:, None] + shifts, axis=-1)  # (P, images)
    limit = distances.min(axis=1) + EQUAL
    count = np.sum(distances < limit[:, None], axis=1)
    return np.where(np.linalg.norm(graph.vectors, axis=-1) < limit, 1 / count, 0.0)


def blocks_from_bloch(
    matrices: Array, kpts: Array, graph: Graph, layout: OrbitalLayout, template: ShellTemplate | None = None
) -> Blocks:
    """Transform matrices H(k) in PySCF's AO order to blocks H(R) in irreps order.

    Args:
        matrices: (..., N_k, n_ao, n_ao) operator matrix elements; of both spins, for example.
        kpts: (N_k, 3) uniform mesh, 1/Bohr.
        graph: pairs; those of `complete_graph` contain all of H(k), others cut it off.
        template: shape of a block; the cell's own by default.

    Returns:
        blocks (..., N, B, B) and (..., P, B, B), complex if H(k) has no time-reversal symmetry.
    """
    slots = layout.slots(template or layout.template())
    weights = image_weights(graph, mesh_from_kpts(kpts, graph.lattice)) / len(kpts)
    ordered = layout.irreps_from_ao(matrices)
    padded = np.pad(ordered, [(0, 0)] * (ordered.ndim - 2) + [(0, 1), (0, 1)])  # index -1 reads the zero border
    onsite = padded.mean(axis=-3)[..., slots[:, :, None], slots[:, None, :]]
    pair = np.zeros((*onsite.shape[:-3], len(graph.pairs), *onsite.shape[-2:]), dtype=np.complex128)
    for phases, members, rows, columns in _by_translation(kpts, graph, slots):
        matrix = np.tensordot(phases.conj(), padded, axes=(0, padded.ndim - 3))
        pair[..., members, :, :] = matrix[..., rows, columns] * weights[members, None, None]
    if max(np.abs(each.imag).max(initial=0.0) for each in (onsite, pair)) < REAL:
        return Blocks(onsite.real, pair.real)
    return Blocks(onsite, pair)


def bloch_from_blocks(
    blocks: Blocks, kpts: Array, graph: Graph, layout: OrbitalLayout, template: ShellTemplate | None = None
) -> Array:
    """Transform blocks H(R) to matrices H(k) in PySCF's AO order, at any k: on the mesh the inverse transform.

    Args:
        blocks: blocks (..., N, B, B) and (..., P, B, B) in irreps order.
        kpts: (N_k, 3) 1/Bohr.
        template: shape of a block; the cell's own by default.

    Returns:
        (..., N_k, n_ao, n_ao).
    """
    slots = layout.slots(template or layout.template())
    shape = (*blocks.onsite.shape[:-3], len(kpts), layout.n_ao + 1, layout.n_ao + 1)
    padded = np.zeros(shape, dtype=np.complex128)  # padding goes to the border
    padded[..., slots[:, :, None], slots[:, None, :]] = blocks.onsite[..., None, :, :, :]
    for phases, members, rows, columns in _by_translation(kpts, graph, slots):
        padded[..., rows, columns] += phases[:, None, None, None] * blocks.pair[..., None, members, :, :]
    return layout.ao_from_irreps(padded[..., :-1, :-1])


def _folded(vectors: Array, graph: Graph, mesh: IntArray) -> Array:
    """Return an image of each vector (P, 3) in the cell of the Born-von Karman crystal around the origin."""
    span = mesh[:, None] * graph.lattice
    images = np.rint(vectors @ np.linalg.inv(span))
    return np.asarray(vectors - np.where(np.arange(3) < graph.dimension, images, 0.0) @ span)


def _by_translation(kpts: Array, graph: Graph, slots: IntArray) -> Iterator[tuple[Array, IntArray, Array, Array]]:
    """Yield exp(i k R) of each R, its pairs, and the rows and columns of their blocks; R has each (i, j) once."""
    cells, which = np.unique(graph.translations, axis=0, return_inverse=True)
    for n, cell in enumerate(cells):
        members = np.flatnonzero(which.ravel() == n)
        i, j = graph.pairs[members].T
        yield np.exp(1j * kpts @ (cell @ graph.lattice)), members, slots[i][:, :, None], slots[j][:, None, :]
