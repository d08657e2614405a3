"""AO matrix <-> onsite and pair blocks <-> irreps coefficients: exact inverse pairs.

A block is the sub-matrix between the orbitals of two atoms, in irreps order, padded to the (B, B) shape of a
`ShellTemplate`; elements of shells that an atom lacks are zero. No function loops over pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from math import factorial, prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyscf_mlham.ao.layout import OrbitalLayout, ShellTemplate, wigner
from pyscf_mlham.arrays import Array, IntArray

Irreps = dict[tuple[int, int, int], Array]


class Blocks(NamedTuple):
    """A matrix cut into atoms."""

    onsite: Array  # (N, B, B) blocks of each atom with itself
    pair: Array  # (P, B, B) blocks of each ordered pair


def blocks_from_matrix(
    matrix: Array, layout: OrbitalLayout, pairs: IntArray, template: ShellTemplate | None = None
) -> Blocks:
    """Cut a matrix (n_ao, n_ao) in PySCF's AO order into onsite and pair blocks in irreps order.

    The shape of a block is that of the template, by default the molecule's own.
    """
    slots = layout.slots(template or layout.template())  # (N, B), -1 = empty
    padded = np.pad(layout.irreps_from_ao(matrix), (0, 1))  # index -1 reads the zero border
    rows, columns = slots[pairs[:, 0]], slots[pairs[:, 1]]
    return Blocks(
        onsite=padded[slots[:, :, None], slots[:, None, :]], pair=padded[rows[:, :, None], columns[:, None, :]]
    )


def matrix_from_blocks(
    blocks: Blocks, layout: OrbitalLayout, pairs: IntArray, template: ShellTemplate | None = None
) -> Array:
    """Assemble a matrix in PySCF's AO order: the inverse of `blocks_from_matrix`.

    No pair may occur twice; blocks of pairs that are not listed are zero.
    """
    slots = layout.slots(template or layout.template())
    rows, columns = slots[pairs[:, 0]], slots[pairs[:, 1]]
    padded = np.zeros((layout.n_ao + 1, layout.n_ao + 1), dtype=blocks.onsite.dtype)
    padded[slots[:, :, None], slots[:, None, :]] = blocks.onsite  # padding goes to the border
    padded[rows[:, :, None], columns[:, None, :]] = blocks.pair
    return layout.ao_from_irreps(padded[:-1, :-1])


def rotate_blocks(blocks: Array, template: ShellTemplate, rotations: Array) -> Array:
    """Rotate blocks (..., B, B), each by its own rotation (..., 3, 3): ``D block D^T``."""
    left = _rotate_rows(blocks, template, rotations)
    return np.swapaxes(_rotate_rows(np.swapaxes(left, -1, -2), template, rotations), -1, -2)


def _rotate_rows(blocks: Array, template: ShellTemplate, rotations: Array) -> Array:
    rotated = np.empty(np.broadcast_shapes(blocks.shape, (*rotations.shape[:-2], 1, 1)), dtype=blocks.dtype)
    for l, (count, part) in enumerate(zip(template.counts, template.slices, strict=True)):
        rows = blocks[..., part, :]
        shells = rows.reshape(*rows.shape[:-2], count, 2 * l + 1, rows.shape[-1])  # (..., n, 2l+1, B)
        product = wigner(l, rotations)[..., None, :, :] @ shells
        rotated[..., part, :] = product.reshape(*product.shape[:-3], *rows.shape[-2:])
    return rotated


@cache
def clebsch_gordan(l1: int, l2: int, l: int) -> Array:
    """Orthogonal coupling coefficients in e3nn's convention, (2 l1 + 1, 2 l2 + 1, 2 l + 1).

    Computed here, because importing e3nn takes longer than a prediction. For fixed l1, l2 the columns of all l form an
    orthogonal matrix.
    """
    to_real = [_complex_from_real(degree) for degree in (l1, l2, l)]
    coupling = np.einsum("ai,bj,cm,abc->ijm", to_real[0], to_real[1], to_real[2].conj(), _complex_coupling(l1, l2, l))
    return np.asarray(coupling.real)


def _complex_from_real(l: int) -> NDArray[np.complex128]:
    """Complex spherical harmonics in terms of the real ones, times (-i)^l, which makes real couplings real."""
    u = np.zeros((2 * l + 1, 2 * l + 1), dtype=np.complex128)
    u[l, l] = 1.0
    for m in range(1, l + 1):
        sign = (-1) ** m
        u[l + m, [l + m, l - m]] = sign / np.sqrt(2), 1j * sign / np.sqrt(2)
        u[l - m, [l + m, l - m]] = 1 / np.sqrt(2), -1j / np.sqrt(2)
    return (-1j) ** l * u


def _complex_coupling(l1: int, l2: int, l: int) -> Array:
    """<l1 m1 l2 m2 | l m> by Racah's formula, phases of Condon and Shortley."""
    coupling = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l + 1))
    triangle = _ratio([l + l1 - l2, l - l1 + l2, l1 + l2 - l], [l1 + l2 + l + 1])
    for m1, m2 in product(range(-l1, l1 + 1), range(-l2, l2 + 1)):
        m = m1 + m2
        if abs(m) > l:
            continue
        terms = 0.0
        for k in range(max(0, l2 - l - m1, l1 - l + m2), min(l1 + l2 - l, l1 - m1, l2 + m2) + 1):
            below = [k, l1 + l2 - l - k, l1 - m1 - k, l2 + m2 - k, l - l2 + m1 + k, l - l1 - m2 + k]
            terms += (-1) ** k * _ratio([], below)
        inside = _ratio([l + m, l - m, l1 + m1, l1 - m1, l2 + m2, l2 - m2], [])
        coupling[l1 + m1, l2 + m2, l + m] = np.sqrt((2 * l + 1) * triangle * inside) * terms
    return coupling


def _ratio(above: Sequence[int], below: Sequence[int]) -> float:
    """Product of factorials over product of factorials."""
    return prod(map(factorial, above)) / prod(map(factorial, below))


def irreps_from_blocks(blocks: Array, template: ShellTemplate) -> Irreps:
    """Couple the shells of blocks (..., B, B) to total degrees L = |l1-l2| .. l1+l2.

    Returns:
        for each (l1, l2, L) the coefficients (..., n1, n2, 2L+1), of parity (-1)^(l1+l2).
    """
    irreps: Irreps = {}
    for l1, l2 in shell_pairs(template):
        part = blocks[..., template.slices[l1], template.slices[l2]]
        n1, n2 = template.counts[l1], template.counts[l2]
        part = part.reshape(*part.shape[:-2], n1, 2 * l1 + 1, n2, 2 * l2 + 1)
        for l in range(abs(l1 - l2), l1 + l2 + 1):
            irreps[l1, l2, l] = np.einsum("...aibj,ijm->...abm", part, clebsch_gordan(l1, l2, l))
    return irreps


def shell_pairs(template: ShellTemplate) -> list[tuple[int, int]]:
    """Return the degrees of each two kinds of shells."""
    degrees = [l for l, n in enumerate(template.counts) if n]
    return [(l1, l2) for l1 in degrees for l2 in degrees]
