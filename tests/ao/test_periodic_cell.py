"""Pairs of atoms and images of atoms."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyscf_mlham.ao.cell import graph_from_lattice
from pyscf_mlham.ao.mole import graph_from_cell
from support.crystals import crystal, moved, random_graph, seeds, wrapped
from support.molecules import assert_close


@given(seed=seeds, atoms=st.integers(1, 4), cutoff=st.floats(1, 12), dimension=st.integers(0, 3))
@settings(deadline=None, max_examples=30)
def test_pairs_are_those_of_a_search_through_all_cells(seed: int, atoms: int, cutoff: float, dimension: int) -> None:
    graph = random_graph(seed, atoms, cutoff, dimension)
    expected = []
    cells = list(product(*(range(-12, 13) if axis < dimension else (0,) for axis in range(3))))
    for i, j in product(range(atoms), repeat=2):
        vectors = graph.positions[j] + np.array(cells) @ graph.lattice - graph.positions[i]
        distances = np.linalg.norm(vectors, axis=-1)
        expected += [(i, j, *cells[n]) for n in np.flatnonzero((distances < cutoff) & (distances > 0.0))]
    assert [(*pair, *cell) for pair, cell in zip(graph.pairs.tolist(), graph.translations.tolist(), strict=True)] == (
        sorted(expected)
    )


def test_images_of_a_pair_and_of_an_atom_are_pairs() -> None:
    graph = graph_from_cell(crystal(), cutoff=5.0)
    assert graph.numbers.tolist() == [5, 7]
    keys = {(*pair, *cell) for pair, cell in zip(graph.pairs.tolist(), graph.translations.tolist(), strict=True)}
    assert {(0, 1, 0, 0, 0), (0, 1, 0, -1, 0), (0, 1, -1, -1, 0)} <= keys  # the three neighbours of boron
    assert (0, 0, 1, 0, 0) in keys
    assert {(j, i, -a, -b, -c) for i, j, a, b, c in keys} == keys
    i, j = graph.pairs.T
    vectors = graph.positions[j] + graph.translations @ graph.lattice - graph.positions[i]
    assert_close(graph.vectors, vectors, atol=0)
    assert len(graph_from_cell(crystal()).pairs) == 0


@given(seed=seeds, atoms=st.integers(1, 4), dimension=st.integers(0, 3))
@settings(deadline=None, max_examples=30)
def test_atoms_return_into_the_cell_with_the_same_pairs(seed: int, atoms: int, dimension: int) -> None:
    graph = random_graph(seed, atoms, 8.0, dimension)
    inside = wrapped(graph)
    periodic = (inside.positions @ np.linalg.inv(graph.lattice))[:, :dimension]
    assert np.all((periodic > -1e-8) & (periodic < 1))
    i, j = inside.pairs.T
    assert_close(inside.positions[j] + inside.translations @ graph.lattice - inside.positions[i], graph.vectors, 1e-12)
    anew = graph_from_lattice(inside.numbers, inside.positions, inside.lattice, 8.0, dimension)
    assert sorted(map(tuple, np.hstack([anew.pairs, anew.translations]))) == sorted(
        map(tuple, np.hstack([inside.pairs, inside.translations]))
    )


def test_an_atom_on_the_border_is_at_the_origin() -> None:
    graph = graph_from_lattice(np.array([1]), np.array([[-1e-14, 3.0 - 1e-14, 1.0]]), 3.0 * np.eye(3), 3.5)
    assert_close(wrapped(graph).positions, [[0, 0, 1.0]], atol=1e-12)
    shifts: Any = np.array([[2, -1, 0]])
    assert_close(moved(graph, shifts).translations, graph.translations, atol=0)  # (i, i, R) moves as a whole


def test_bad_cells_are_named() -> None:
    numbers, lattice = np.array([1, 1]), 3.0 * np.eye(3)
    with pytest.raises(ValueError, match=r"atoms \[1\] are not finite"):
        graph_from_lattice(numbers, np.array([[0, 0, 0], [0, np.nan, 1.0]]), lattice)
    with pytest.raises(ValueError, match=r"atom 0 and atom 1 of cell \[1, 0, 0\] are 0.05 Bohr apart"):
        graph_from_lattice(numbers, np.array([[2.95, 0, 0], [0, 0, 0]]), lattice)
    with pytest.raises(ValueError, match=r"atom 0 and atom 1 of cell .* are 0 Bohr apart"):
        graph_from_lattice(numbers, np.zeros((2, 3)), lattice)
