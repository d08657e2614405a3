"""Alignment of geometries, weights of old geometries in the extrapolation to a new one, and orbitals of the result."""

from __future__ import annotations

import numpy as np

from pyscf_mlham.arrays import Array

NOISES = (1e-5, 1e-4, 3e-6, 1e-6, 3e-7, 1e-7, 3e-8, 1e-8)  # Frobenius norm; the first one until there are three steps
TESTED = 3  # latest steps whose extrapolation is tested
PINNED = 1e-8  # share of the second moments; suppresses rotations about the axis of a linear molecule


def aligned(positions: Array, onto: Array) -> tuple[Array, Array]:
    """Return the rotation that aligns a molecule with other positions, and the aligned positions.

    Args:
        positions: (..., N, 3) Bohr.
        onto: (N, 3) Bohr.

    Returns:
        proper rotations Q (..., 3, 3), and positions (..., N, 3), Bohr.
    """
    there, here = positions - positions.mean(axis=-2, keepdims=True), onto - onto.mean(axis=0)
    # of equally good rotations (of a linear molecule) the pin selects the smallest
    pin = PINNED * np.maximum(1.0, np.sum(there * there, axis=(-2, -1)))
    u, _, vt = np.linalg.svd(here.T @ there + pin[..., None, None] * np.eye(3))
    u[..., 2] *= np.sign(np.linalg.det(u @ vt))[..., None]
    rotation = u @ vt
    return rotation, there @ np.swapaxes(rotation, -1, -2) + onto.mean(axis=0)


def largest_move(positions: Array, onto: Array) -> Array:
    """Return the largest displacement of an atom after alignment, (...) Bohr.

    Args:
        positions: (..., N, 3) Bohr.
        onto: (N, 3) Bohr.
    """
    return np.asarray(np.linalg.norm(aligned(positions, onto)[1] - onto, axis=-1).max(axis=-1))


def fitted_weights(descriptors: Array, target: Array, noise: float) -> Array:
    """Return weights of sum one whose combination of descriptors is nearest to a target.

    The nearest descriptor is the centre: the rest that the others do not describe well is left to it, and it has
    weight one if it equals the target.

    Args:
        descriptors: (m, k).
        target: (k,).
        noise: error of a descriptor, in the norm of k; weights that only amplify it are damped.

    Returns:
        (m,).
    """
    centre = int(np.argmin(np.linalg.norm(descriptors - target, axis=1)))
    others = np.delete(np.arange(len(descriptors)), centre)
    damped = np.vstack([(descriptors[others] - descriptors[centre]).T, noise * np.eye(len(others))])
    aim = np.append(target - descriptors[centre], np.zeros(len(others)))
    weights = np.zeros(len(descriptors))
    weights[others] = np.linalg.lstsq(damped, aim, rcond=1e-14)[0]
    weights[centre] = 1 - weights.sum()
    return weights


def best_noise(descriptors: Array, values: Array) -> float:
    """Return the noise with which `fitted_weights` extrapolates the latest values best, each from those before it.

    Args:
        descriptors: (m, k), the latest first.
        values: (m, ...), to be combined with the weights.
    """
    x, y = _compressed(descriptors), _compressed(values)

    def squared_error(noise: float) -> float:
        errors = [fitted_weights(x[i + 1 :], x[i], noise) @ y[i + 1 :] - y[i] for i in range(min(TESTED, len(x) - 2))]
        return float(np.sum(np.square(errors)))

    return min(NOISES, key=squared_error)


def extrapolation_weights(descriptors: Array, target: Array, values: Array) -> Array:
    """Return the weights of values (m, ...) at a target (k,) from their descriptors (m, k), the latest first."""
    *known, aim = _compressed(np.vstack([descriptors, target]))
    return fitted_weights(np.stack(known), aim, best_noise(np.stack(known), values))


def _compressed(points: Array) -> Array:
    """Return few coordinates of points (m, ...) in which they have the same distances, (m, m or fewer)."""
    flat = points.reshape(len(points), -1)
    return np.asarray(np.linalg.qr((flat - flat[0]).T, mode="r")).T


def reversible_weights(descriptors: Array, target: Array, noise: float) -> Array:
    """Return weights as `fitted_weights`, but symmetric in time, for q steps of equal spacing.

    With steps x_1 (the latest) to x_q, x_0 + x_q is fitted by x_k + x_(q-k): backwards in time the same weights give
    x_q from x_0 to x_(q-1). As Polack, Dusson, Stamm and Lipparini do with overlaps.

    Args:
        descriptors: (q, k), the latest first.
        target: (k,).
        noise: error of a descriptor, in the norm of k.

    Returns:
        (q,).
    """
    q = len(descriptors)
    if q < 3:
        return fitted_weights(descriptors, target, noise)
    means = np.zeros((q // 2, q))
    for k in range(q // 2):
        means[k, k] += 0.5
        means[k, q - 2 - k] += 0.5
    weights = 2 * fitted_weights(means @ descriptors, (target + descriptors[-1]) / 2, noise) @ means
    weights[-1] -= 1
    return np.asarray(weights)


def natural(density: Array) -> Array:
    """Return eigenvectors (s, n, n) of densities, in descending order of occupation."""
    return np.asarray(np.linalg.eigh((density + np.swapaxes(density, -1, -2)) / 2)[1][..., ::-1])
