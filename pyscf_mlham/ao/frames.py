"""Pair frames, and components in them ordered by m, the quantum number of rotations about the pair's axis.

A feature of order m is a complex number z that a rotation by phi about the axis multiplies by exp(i m phi) and that
a mirror plane through the axis conjugates. Components, in this order: Re z_0, Im z_0, then for m = 1, 2 ...: all
Re z_m, all Im z_m.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from pyscf_mlham.ao.layout import ShellTemplate, wigner
from pyscf_mlham.arrays import Array, IntArray


def frames_from_vectors(vectors: Array) -> Array:
    """Proper rotations R (..., 3, 3) that bring each non-zero vector (..., 3) onto +z: ``R v = |v| z``.

    The rotation about the vector itself is a free choice, made without branches except for the sign of v_z;
    nothing that is equivariant under rotations about z depends on it.
    """
    z = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    # Duff et al., "Building an orthonormal basis, revisited" (2017)
    sign = np.copysign(1.0, z[..., 2])
    a = -1.0 / (sign + z[..., 2])
    b = z[..., 0] * z[..., 1] * a
    x = np.stack([1.0 + sign * z[..., 0] ** 2 * a, sign * b, -sign * z[..., 0]], axis=-1)
    y = np.stack([b, sign + z[..., 1] ** 2 * a, -z[..., 1]], axis=-1)
    return np.stack([x, y, z], axis=-2)


@cache
def polar_order(degree: int) -> IntArray:
    """Rows of the vector of all (l, m), l = 0 .. degree, sorted by m; it has no Im z_0."""
    centre = [l * l + l for l in range(degree + 1)]
    order = list(centre)
    for m in range(1, degree + 1):
        order += [centre[l] + m for l in range(m, degree + 1)] + [centre[l] - m for l in range(m, degree + 1)]
    return np.array(order, dtype=np.int64)


def wigner_from_frames(frames: Array, degree: int) -> Array:
    """Wigner D matrices that rotate irreps of l = 0 .. degree at an atom into the pairs' frames, sorted by m.

    Args:
        frames: (P, 3, 3) rotations that bring each pair onto +z.

    Returns:
        (P, (degree+1)^2, (degree+1)^2) orthogonal matrices.
    """
    size = (degree + 1) ** 2
    wigner_d = np.zeros((len(frames), size, size))
    for l in range(degree + 1):
        wigner_d[:, l * l : (l + 1) ** 2, l * l : (l + 1) ** 2] = wigner(l, frames)
    return wigner_d[:, polar_order(degree)]


FLIP = np.diag([1.0, -1.0, -1.0])  # rotation by pi about x: from a pair's frame into the opposite pair's


@cache
def flipped_wigner(degree: int) -> Array:
    """Signs, ((degree+1)^2,), that times the rows of a pair's `wigner_from_frames` give the opposite pair's."""
    signs = np.concatenate([np.diag(wigner(l, FLIP)) for l in range(degree + 1)]).round()
    return np.asarray(signs[polar_order(degree)])


@cache
def flipped_block(template: ShellTemplate) -> Array:
    """Signs, (B, B), that times the transpose of a pair's local block give the opposite pair's."""
    parts = [np.tile(np.diag(wigner(l, FLIP)), count) for l, count in enumerate(template.counts)]
    signs = np.concatenate(parts).round()
    return np.outer(signs, signs)


class PolarBasis(NamedTuple):
    """Orthogonal change from the elements of a local block to its m-components."""

    sizes: tuple[int, ...]  # numbers of Re z_0, Im z_0, z_1, z_2, ...; each z_m from m = 1 on has two real parts
    # (B*B, B*B) components = matrix @ block.ravel(); at most two non-zero elements in each row and column
    matrix: Array


@cache
def polar_basis(template: ShellTemplate) -> PolarBasis:
    """Return the m-components of a block: m = |m_row +- m_column| for each two orbitals."""
    functions = _phases(template)
    largest = max(m for m, _, _ in functions)
    components: list[list[Array]] = [[] for _ in range(2 * (2 * largest + 1))]  # Re and Im of each m
    for a in functions:
        for b in functions:
            for m, real, imaginary in _products(a, b, template.size):
                components[2 * m].append(real)
                components[2 * m + 1].append(imaginary)
    kept = [[row for row in rows if row.any()] for rows in components]
    sizes = (len(kept[0]), len(kept[1]), *(len(rows) for rows in kept[2::2]))
    return PolarBasis(sizes, np.concatenate([np.stack(rows) for rows in kept if rows]))


def _phases(template: ShellTemplate) -> list[tuple[int, int, int]]:
    """(m, index of the cosine, index of the sine) of every complex orbital; for m = 0 only the cosine counts."""
    phases = []
    for l, (count, part) in enumerate(zip(template.counts, template.slices, strict=True)):
        for shell in range(count):
            centre = part.start + shell * (2 * l + 1) + l
            phases += [(m, centre + m, centre - m) for m in range(l + 1)]
    return phases


def _products(a: tuple[int, int, int], b: tuple[int, int, int], size: int) -> list[tuple[int, Array, Array]]:
    """Real and imaginary parts of z_a z_b and of z_a conj(z_b), as rows over block elements."""
    (m, ac, as_), (n, bc, bs) = a, b

    def row(*entries: tuple[float, int, int]) -> Array:
        block = np.zeros((size, size))
        for value, i, j in entries:
            block[i, j] = value
        return block.ravel()

    if m == 0 or n == 0:
        sine = (1.0, as_, bc) if n == 0 else (1.0, ac, bs)
        return [(m + n, row((1.0, ac, bc)), row(sine) if m + n else row())]
    h = np.sqrt(0.5)
    sign = 1.0 if m >= n else -1.0
    return [
        (m + n, row((h, ac, bc), (-h, as_, bs)), row((h, as_, bc), (h, ac, bs))),
        (abs(m - n), row((h, ac, bc), (h, as_, bs)), row((sign * h, as_, bc), (-sign * h, ac, bs))),
    ]
