"""Atomic-orbital conventions: shells, AO offsets, PySCF order <-> irreps order, rotations.

No other module depends on how PySCF orders and normalises its atomic orbitals.

*Irreps order* is what e3nn uses when it is fed vectors as (y, z, x): within a shell of degree l the
components run m = -l..l, so that p functions are (y, z, x) instead of PySCF's (x, y, z), and every other
shell is in PySCF's order. The polar axis of this order is the physical z axis; parity is (-1)^l.

A cartesian shell of degree l holds one spherical shell of each degree l, l-2, l-4 ...; the layout splits
it into them, exactly and invertibly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from math import factorial, pi, prod, sqrt
from operator import gt
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from pyscf_mlham.arrays import Array, IntArray

if TYPE_CHECKING:
    from pyscf import gto


VECTOR_ORDER = (1, 2, 0)  # e3nn's axes, taken from (x, y, z)
MAX_DEGREE = 6


def irreps_from_pyscf(l: int) -> tuple[int, ...]:
    """Positions of a shell's irreps-order components in PySCF's order: ``v_irreps = v_pyscf[order]``."""
    return VECTOR_ORDER if l == 1 else tuple(range(2 * l + 1))


def solid_harmonics(l: int, points: Array) -> Array:
    """Real solid harmonics of degree l at points (..., 3), normalised as PySCF's AOs: (..., 2l+1) in irreps order."""
    x, y, z = np.moveaxis(np.asarray(points, dtype=np.float64), -1, 0)
    values = np.zeros((*x.shape, 2 * l + 1))
    for m in range(l + 1):
        phase = (x + 1j * y) ** m  # r^m sin^m(theta) e^(i m phi)
        scaled = _harmonic_norm(l, m) * _reduced_legendre(l, m, z, x * x + y * y + z * z)
        values[..., l - m] = scaled * phase.imag
        values[..., l + m] = scaled * phase.real  # last: for m = 0 there is no sine
    return values


def _reduced_legendre(l: int, m: int, z: Array, r_squared: Array) -> Array:
    """r^(l-m) P_lm(z/r) / sin^m(theta) without the Condon-Shortley phase, by upward recursion in l."""
    previous, current = np.zeros_like(z), np.full_like(z, float(prod(range(1, 2 * m, 2))))
    for k in range(m, l):
        following = ((2 * k + 1) * z * current - (k + m) * r_squared * previous) / (k - m + 1)
        previous, current = current, following
    return current


def _harmonic_norm(l: int, m: int) -> float:
    """Norm of a real spherical harmonic; PySCF leaves that of s and p functions to the radial part."""
    if l < 2:
        return 1.0
    return sqrt((2 * l + 1) / (4 * pi) * (1 if m == 0 else 2) * factorial(l - m) / factorial(l + m))


def _points_on_hemisphere(n: int) -> Array:
    """N points spread evenly, (n, 3); parity gives a harmonic on the other hemisphere."""
    z = (np.arange(n) + 0.5) / n
    phi = np.arange(n) * np.pi * (3 - np.sqrt(5))  # golden angle
    rho = np.sqrt(1 - z * z)
    return np.stack([rho * np.cos(phi), rho * np.sin(phi), z], axis=-1)


@cache
def _sample_points(l: int) -> tuple[Array, Array]:
    """Points on the sphere that determine a function of degree l, and the map from values to components."""
    points = _points_on_hemisphere(4 * l + 4)
    return points, np.asarray(np.linalg.pinv(solid_harmonics(l, points)))


def wigner(l: int, rotations: Array) -> Array:
    """Matrices D (..., 2l+1, 2l+1) with ``Y(Q r) = D(Q) Y(r)``, for proper and improper rotations Q (..., 3, 3)."""
    points, components_from_values = _sample_points(l)
    rotated = points @ np.swapaxes(rotations, -1, -2)  # (..., points, 3)
    values = solid_harmonics(l, rotated)  # (..., points, 2l+1) = Y(points) D^T
    return np.asarray(np.swapaxes(components_from_values @ values, -1, -2))


@cache
def _split_cartesian_shell(degree: int) -> tuple[tuple[int, ...], Array]:
    """Degrees inside a cartesian shell, and the matrix from its components to theirs (columns)."""
    degrees = tuple(range(degree, -1, -2))
    # x^a y^b z^c in PySCF's order; on the unit sphere r^(degree-l) Y_l is Y_l
    powers = np.array([(a, b, degree - a - b) for a in range(degree, -1, -1) for b in range(degree - a, -1, -1)])
    points = _points_on_hemisphere(4 * len(powers))
    monomials = np.prod(points[:, None] ** powers, axis=-1)  # (points, monomials)
    harmonics = np.hstack([solid_harmonics(l, points) for l in degrees])
    return degrees, np.asarray(np.linalg.lstsq(monomials, harmonics, rcond=None)[0])


@dataclass(frozen=True)
class ShellTemplate:
    """Padded set of shells that holds every atom of a set of elements: the shape of one block."""

    counts: tuple[int, ...]  # number of shells of each degree l = 0, 1, 2 ...
    largest_l: int = MAX_DEGREE  # shells beyond it are left out of blocks

    @property
    def size(self) -> int:
        """Number of components, the width B of a block."""
        return sum(n * (2 * l + 1) for l, n in enumerate(self.counts))

    def within(self, largest_l: int) -> ShellTemplate:
        """Return the template without shells beyond l = largest_l."""
        return ShellTemplate(self.counts[: largest_l + 1], largest_l)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Components of each degree; within one degree they are ordered shell by shell."""
        ends = np.cumsum([0] + [n * (2 * l + 1) for l, n in enumerate(self.counts)])
        return tuple(slice(int(a), int(b)) for a, b in pairwise(ends))


@dataclass(frozen=True)
class OrbitalLayout:
    """Positions of a molecule's shells in PySCF's AO vector."""

    n_atoms: int  # number of atoms N, ghosts included
    shell_atom: IntArray  # (n_shells,) atom of each spherical shell
    shell_degree: IntArray  # (n_shells,) degree l of each shell
    shell_offset: IntArray  # (n_shells,) first component of each shell in the irreps-order vector
    # (n_ao, n_ao) matrix T for cartesian AOs, ``functions_irreps = T^T functions_pyscf``; None for spherical AOs, which
    # are only permuted
    transform: Array | None = None

    @classmethod
    def from_mol(cls, mol: gto.Mole) -> OrbitalLayout:
        """Read the layout of a built molecule, spherical or cartesian, from its shell table."""
        atoms: list[int] = []
        degrees: list[int] = []
        splits: list[Array] = []
        for shell in range(mol.nbas):
            degree = int(mol.bas_angular(shell))
            if degree > MAX_DEGREE:
                raise ValueError(
                    f"shell {shell} has l = {degree}; up to l = {MAX_DEGREE} (i functions) is supported. "
                    "Use a basis set without it."
                )
            inside, split = _split_cartesian_shell(degree) if mol.cart else ((degree,), np.empty(0))
            for _ in range(mol.bas_nctr(shell)):  # contraction-major, then m
                atoms += [int(mol.bas_atom(shell))] * len(inside)
                degrees += inside
                splits.append(split)
        shell_degree = np.array(degrees, dtype=np.int64)
        ends = np.cumsum(2 * shell_degree + 1)
        return cls(
            n_atoms=int(mol.natm),
            shell_atom=np.array(atoms, dtype=np.int64),
            shell_degree=shell_degree,
            shell_offset=ends - (2 * shell_degree + 1),
            transform=scipy.linalg.block_diag(*splits) if mol.cart else None,
        )

    @property
    def n_ao(self) -> int:
        """Number of atomic orbitals n."""
        return int(np.sum(2 * self.shell_degree + 1))

    @cached_property
    def order(self) -> IntArray:
        """(n_ao,) ``v_irreps = v_pyscf[order]`` for spherical AOs."""
        shells = zip(self.shell_degree, self.shell_offset, strict=True)
        parts = [offset + np.array(irreps_from_pyscf(int(l))) for l, offset in shells]
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)

    def irreps_from_ao(self, matrix: Array) -> Array:
        """Bring elements <a|O|b> (F, S, H0; not of a density) from PySCF's AO order into irreps order."""
        if self.transform is None:
            return matrix[..., self.order[:, None], self.order]
        return np.asarray(self.transform.T @ matrix @ self.transform)

    def ao_from_irreps(self, matrix: Array) -> Array:
        """Bring matrix elements from irreps order into PySCF's AO order: the inverse of `irreps_from_ao`."""
        if self.transform is None:
            inverse = np.argsort(self.order)
            return matrix[..., inverse[:, None], inverse]
        back = np.linalg.inv(self.transform)
        return np.asarray(back.T @ matrix @ back)

    def rotation(self, orthogonal: Array) -> Array:
        """Block-diagonal matrix D in irreps order: ``O' = D O D^T`` when every position becomes Q r, Q orthogonal."""
        whole = np.zeros((self.n_ao, self.n_ao))
        for rows, block in self._rotations(orthogonal):
            whole[rows[:, :, None], rows[:, None, :]] = block
        return whole

    def rotated(self, matrix: Array, orthogonal: Array) -> Array:
        """Return D O D^T of matrices O (..., n_ao, n_ao), block by block; Q (..., 3, 3), see `rotation`."""
        product, rotations = np.array(matrix), list(self._rotations(orthogonal))
        for _ in range(2):  # D (D O)^T is (D O D^T)^T
            for rows, block in rotations:
                product[..., rows, :] = block[..., None, :, :] @ product[..., rows, :]
            product = np.ascontiguousarray(product.swapaxes(-1, -2))
        return product

    def _rotations(self, orthogonal: Array) -> Iterator[tuple[IntArray, Array]]:
        """Yield, for each degree, the components (shells, 2 l + 1) of its shells and their matrix."""
        for l in np.unique(self.shell_degree):
            first = self.shell_offset[self.shell_degree == l]
            yield first[:, None] + np.arange(2 * l + 1), wigner(int(l), orthogonal)

    def template(self) -> ShellTemplate:
        """Return the smallest template that holds every atom of this molecule."""
        counts = np.zeros((self.n_atoms, int(self.shell_degree.max(initial=-1)) + 1), dtype=np.int64)
        np.add.at(counts, (self.shell_atom, self.shell_degree), 1)
        return ShellTemplate(tuple(counts.max(axis=0, initial=0).tolist()))

    def slots(self, template: ShellTemplate) -> IntArray:
        """Irreps-order component in each place of a template, (N, size); -1 if an atom lacks the shell."""
        own = self.template().within(template.largest_l).counts
        if len(own) > len(template.counts) or any(map(gt, own, template.counts)):
            raise ValueError(
                f"template {template.counts} is too small for shells {own} (per degree l); "
                "build the template from the union over all elements."
            )
        slots = np.full((self.n_atoms, template.size), -1, dtype=np.int64)
        filled: dict[tuple[int, int], int] = {}
        inside = self.shell_degree <= template.largest_l
        shells = (values[inside] for values in (self.shell_atom, self.shell_degree, self.shell_offset))
        for atom, l, offset in zip(*shells, strict=True):
            place = filled.get((atom, l), 0)
            start = template.slices[l].start + place * (2 * l + 1)
            slots[atom, start : start + 2 * l + 1] = np.arange(offset, offset + 2 * l + 1)
            filled[atom, l] = place + 1
        return slots
