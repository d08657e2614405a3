"""Pairs, frames, and input that is no molecule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscf_mlham.ao.cell import graph_from_lattice
from pyscf_mlham.ao.frames import frames_from_vectors
from pyscf_mlham.ao.mole import graph_from_mol
from support.molecules import WATER, mole

component = st.floats(-10, 10).map(lambda x: round(x, 6))


@given(vector=st.tuples(component, component, component).filter(lambda v: np.linalg.norm(v) > 1e-3))
def test_frames_are_proper_rotations_onto_z(vector: tuple[float, float, float]) -> None:
    v = np.array(vector)
    r = frames_from_vectors(v)
    np.testing.assert_allclose(r @ v, [0, 0, np.linalg.norm(v)], atol=1e-12 * max(1, np.linalg.norm(v)))
    np.testing.assert_allclose(r @ r.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(r) == pytest.approx(1)


@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0, -0.0])
def test_frames_at_the_poles(sign: float) -> None:
    v = np.array([0.0 if sign else 1.0, 0.0, sign])
    np.testing.assert_allclose(frames_from_vectors(v) @ v, [0, 0, 1], atol=1e-15)


def test_pairs_come_in_both_orders() -> None:
    graph = graph_from_mol(mole(WATER))
    assert graph.numbers.tolist() == [8, 1, 1]
    assert graph.pairs.tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    np.testing.assert_allclose(graph.vectors, graph.positions[graph.pairs[:, 1]] - graph.positions[graph.pairs[:, 0]])


def test_bad_geometries_are_named() -> None:
    numbers = np.array([1, 1])
    with pytest.raises(ValueError, match=r"atoms \[1\] are not finite"):
        graph_from_lattice(numbers, np.array([[0, 0, 0], [0, np.nan, 1.0]]), np.eye(3), dimension=0)
    with pytest.raises(ValueError, match="atoms 0 and 1 are 0 Bohr apart"):
        graph_from_lattice(numbers, np.zeros((2, 3)), np.eye(3), dimension=0)
