"""Alignment and weights of earlier geometries: exact where they can be, the noise of the values, symmetry in time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pyscf_mlham.track import aspc, extrapolation
from support.molecules import assert_close, mole
from support.paths import rotated


def test_aligned_geometries_and_densities() -> None:
    mol = mole()
    x, there = mol.atom_coords(), rotated(mol).atom_coords()
    rotation, moved = extrapolation.aligned(x, there)
    assert_close(moved, there, 1e-7)
    assert np.linalg.det(rotation) == pytest.approx(1)
    assert extrapolation.largest_move(x, there) < 1e-7
    assert extrapolation.largest_move(x, x + np.outer([1, 0, 0], [0, 0, 0.5])) == pytest.approx(1 / 3, abs=0.01)
    rod = np.outer([0.0, 1.0, 2.0], [0, 0, 1])
    assert_close(extrapolation.aligned(rod, rod + 1)[0], np.eye(3), 1e-6)  # no rotation about the axis
    tilted, _ = extrapolation.aligned(rod, rod @ Rotation.from_rotvec([0.3, 0, 0]).as_matrix().T)
    assert_close(tilted, Rotation.from_rotvec([0.3, 0, 0]).as_matrix(), 1e-6)


def test_weights_are_exact_where_they_can_be() -> None:
    rng = np.random.default_rng(0)
    line = rng.normal(size=7) + np.outer([0.0, 1.0, 2.5], rng.normal(size=7))
    target = line[0] - 1.5 * (line[1] - line[0])
    weights = extrapolation.fitted_weights(line, target, 1e-9)
    assert_close(weights @ line, target, 1e-6)
    assert weights.sum() == pytest.approx(1)
    assert_close(extrapolation.fitted_weights(line, line[1], 1e-3), [0, 1, 0], 1e-15)
    assert_close(extrapolation.fitted_weights(line, target, 1e6), [1, 0, 0], 1e-6)  # all noise: the nearest one
    assert_close(extrapolation.fitted_weights(line[:1], target, 1e-3), [1], 0)
    assert_close(aspc.aspc_weights(1), [1], 1e-12)
    assert_close(aspc.aspc_weights(2), [2, -1], 1e-12)
    assert_close(aspc.aspc_weights(4), [2.8, -2.8, 1.2, -0.2], 1e-12)


@pytest.mark.parametrize(("error", "most"), [(0.0, 1e-8), (1e-7, 1e-6), (1e-5, 1e-4)])
def test_noise_is_that_of_the_values(error: float, most: float) -> None:
    rng = np.random.default_rng(2)
    orders, (shape, response) = np.arange(10), rng.normal(size=(2, 10, 40))
    motion = 0.1**orders * np.cos(np.outer(np.arange(15), orders))
    values = motion @ response + error * rng.normal(size=(15, 40))
    assert error < extrapolation.best_noise(motion @ shape, values.reshape(15, 4, 10)) <= most
    assert extrapolation.best_noise(shape[:2], response[:2]) == extrapolation.NOISES[0]


@pytest.mark.parametrize("count", [3, 4, 7, 8])
def test_reversible_weights_are_the_same_backwards(count: int) -> None:
    rng = np.random.default_rng(count)
    past, new = rng.normal(size=(count, 50)), rng.normal(size=50)
    weights = extrapolation.reversible_weights(past, new, 1e-3)
    assert weights[-1] == -1
    assert_close(weights[:-1], weights[:-1][::-1], 1e-12)
    assert weights.sum() == pytest.approx(1)
    # read backwards, the new step is the oldest and the oldest is asked for
    backwards = extrapolation.reversible_weights(np.concatenate([past[:-1][::-1], new[None]]), past[-1], 1e-3)
    assert_close(backwards, weights, 1e-9)
