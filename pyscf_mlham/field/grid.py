"""Exchange-correlation potentials on a grid, with stored orbital values."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from pyscf import dft, gto, lib

from pyscf_mlham.arrays import Array
from pyscf_mlham.field.levels import Level, shared
from pyscf_mlham.threads import LEAST, each, shared_out

GRID_BLOCK = 512  # neighbouring points; a third to a half of a large molecule's orbitals are non-zero on them
BOX = 3.0  # Bohr; points in the same box are neighbours
TOGETHER = 64  # blocks whose functional is evaluated at once, to save the start of threads for each block
# Orbital values on the grid and weighted potentials below these are set to zero; their products stay above 1e-38.
ORBITAL_TAIL = 1e-8
POTENTIAL_TAIL = 1e-15
SETTINGS = {"atomic_radii", "radii_adjust", "radi_method", "becke_scheme"}  # of PySCF's grids, beside the level


class Functional:
    """A functional: its kind HF, LDA, GGA or MGGA, and its shares of exact exchange."""

    def __init__(self, mf: Any) -> None:
        self.name = getattr(mf, "xc", "hf")
        self.kind, self.hyb, self.long_range, self.omega = "HF", 1.0, 0.0, 0.0
        if isinstance(mf, dft.rks.KohnShamDFT):
            ni = mf._numint
            self.kind = ni._xc_type(mf.xc)
            omega, alpha, self.hyb = ni.rsh_and_hybrid_coeff(mf.xc, spin=mf.mol.spin)
            self.omega, self.long_range = omega, (alpha - self.hyb) if omega else 0.0
        self.deriv = 0 if self.kind == "LDA" else 1  # of the orbitals

    @property
    def exchange(self) -> list[tuple[float, float]]:
        """Ranges (omega, 0 for all, negative for the short range) and shares of exact exchange, as PySCF adds them."""
        alpha = self.hyb + self.long_range
        if not self.omega:
            terms = [(0.0, self.hyb)]
        elif not alpha:
            terms = [(-self.omega, self.hyb)]
        elif not self.hyb:
            terms = [(self.omega, alpha)]
        else:
            terms = [(0.0, self.hyb), (self.omega, self.long_range)]
        return [(omega, share) for omega, share in terms if share]


class Block(NamedTuple):
    """Atomic orbitals on a block of points."""

    columns: Array  # indices of the orbitals that are non-zero on it
    ao: Array  # their values, or values and gradients, (1 or 4, points, orbitals)


class Points(NamedTuple):
    """A grid, neighbours first."""

    coords: Array  # (points, 3), Bohr
    weights: Array  # (points,)

    @classmethod
    def of(cls, grids: dft.gen_grid.Grids) -> Points:
        """Sort the points of a built grid, box by box, in a tenth of the time of PySCF's own sorting."""
        box = np.floor((grids.coords - grids.coords.min(axis=0)) / BOX).astype(int)
        ny, nz = box[:, 1].max() + 1, box[:, 2].max() + 1
        order = np.argsort((box[:, 0] * ny + box[:, 1]) * nz + box[:, 2], kind="stable")
        return cls(grids.coords[order], grids.weights[order])

    @classmethod
    def of_level(cls, mol: gto.Mole, level: Level, prune: Any) -> Points:
        """Build the grid of a level."""
        grids = dft.gen_grid.Grids(mol)
        grids.verbose, grids.prune, grids.level = 0, prune, level.grid
        grids.build(with_non0tab=False, sort_grids=False)
        return cls.of(grids)


def orbital_values(mol: gto.Mole, coords: Array, deriv: int, cutoff: float) -> Array:
    """Return values, with deriv = 1 and gradients, of a molecule's functions: (1 or 4, points, functions)."""
    values = dft.numint.eval_ao(mol, coords, deriv, cutoff=cutoff)
    return np.asarray(values.reshape(-1, *values.shape[-2:]))


def density_rows(occupied: Array) -> list[Array]:
    """Return the density, and its gradient if there is one, of occupied orbitals (1 or 4, points, orbitals)."""
    value, *gradient = occupied
    return [np.einsum("po,po->p", value, value), *(2 * np.einsum("po,po->p", value, d) for d in gradient)]


class GridOrbitals:
    """Values of the atomic orbitals on a grid, computed once; with deriv = 1 their gradients, too."""

    def __init__(self, mol: gto.Mole, points: Points, dtype: type, deriv: int) -> None:
        self._coords, self.weights = points
        self._mol, self.dtype, self._deriv = mol.copy(), dtype, deriv  # callers may move their molecules
        self._kept: list[Block] = []

    def release(self) -> None:
        """Free the values; they are recomputed when needed."""
        self._kept = []

    def blocks(self, budget: float) -> Iterator[list[Block]]:
        """Yield several blocks of points at a time, and store their values up to a number of bytes."""
        kept = list(self._kept)  # other threads may do the same: lists are only replaced as a whole
        size, number = sum(block.ao.nbytes for block in kept), -(-len(self.weights) // GRID_BLOCK)
        together = max(TOGETHER, LEAST * lib.num_threads())
        for start in range(0, number, together):
            stored = kept[start : start + together]
            missing = each(self._block, range(start + len(stored), min(start + together, number)))
            for block in missing:
                size += block.ao.nbytes
                if size <= budget:  # the size only grows, so the stored blocks are the first ones
                    kept.append(block)
            yield stored + missing
        if len(kept) > len(self._kept):
            self._kept = kept

    def _block(self, number: int) -> Block:
        """Return the values on a block of points."""
        points = slice(number * GRID_BLOCK, (number + 1) * GRID_BLOCK)
        values = orbital_values(self._mol, self._coords[points], self._deriv, ORBITAL_TAIL)
        values = _without_tails(values.astype(self.dtype), ORBITAL_TAIL)
        columns = np.flatnonzero(values.any(axis=(0, 1)))
        return Block(columns, values if len(columns) == values.shape[2] else values[:, :, columns])


def is_of_level(grids: dft.gen_grid.Grids, level: Level) -> bool:
    """Return whether a grid is PySCF's own of a level, with no other setting changed."""
    changed = SETTINGS & vars(grids).keys()  # PySCF's defaults are attributes of the class
    return bool(grids.level == level.grid and not grids.atom_grid and not changed)


class Weighted(NamedTuple):
    """A potential on a block of points."""

    columns: Array  # indices of the orbitals that are non-zero on it
    ao: Array  # their values
    potential: Array  # potential times the weights of the points, (spins, 1 to 5, points)


class GridXC:
    """Exchange-correlation potential on a grid."""

    def __init__(self, mf: Any, functional: Functional, orbitals: GridOrbitals, budget: float) -> None:
        self._xc, self._ni = functional, mf._numint
        self._mol, self._orbitals = mf.mol, orbitals
        self._budget = budget
        self._reference: list[Array] = []

    @classmethod
    def of_level(cls, mf: Any, functional: Functional, level: Level, budget: float) -> GridXC:
        """Return the potential on the grid of a level, whose orbital values all fields of the molecule share."""
        prune, deriv = mf.grids.prune, functional.deriv

        def make() -> GridOrbitals:
            return GridOrbitals(mf.mol, Points.of_level(mf.mol, level, prune), level.dtype, deriv)

        orbitals = shared(("grid", level.grid, level.dtype, prune, deriv), mf.mol, make)
        return cls(mf, functional, orbitals, budget)

    def release(self) -> None:
        """Free the memory of the orbital values."""
        self._orbitals.release()

    def around(self, factors: Sequence[Array]) -> GridXC:
        """Return the change of the potential from that of a density, subtracted point by point to keep its digits."""
        change = copy.copy(self)
        change._reference = []
        change._reference = [weighted for together in change._on_grid(factors) for _, _, weighted in together]
        return change

    def potential(self, factors: Sequence[Array]) -> Array:
        """Return the potential (spins, n, n), minus that of the reference; see `CoarseField.potential`."""
        v = np.zeros((len(factors), self._mol.nao, self._mol.nao))
        for together in self._on_grid(factors):
            for part in shared_out(partial(self._summed, together), len(together)):
                v += part
        return np.asarray(v + v.swapaxes(1, 2))

    def _on_grid(self, factors: Sequence[Array]) -> Iterator[list[Weighted]]:
        """Yield potentials minus those of the reference, several blocks at a time."""
        occupied: list[Array] = [np.asarray(factor, dtype=self._orbitals.dtype) for factor in factors]
        spin, start, number = len(factors) - 1, 0, 0
        for together in self._orbitals.blocks(self._budget):
            rho = np.concatenate(shared_out(partial(self._densities, together, occupied), len(together)), axis=-1)
            if self._xc.kind == "LDA":
                rho = rho[:, 0]
            weights = self._orbitals.weights[start : start + rho.shape[-1]]
            start += len(weights)
            argument = rho if spin else rho[0]
            vxc = self._ni.eval_xc_eff(self._xc.name, argument, deriv=1, xctype=self._xc.kind, spin=spin)[1]
            weighted = weights * np.asarray(vxc).reshape(spin + 1, -1, len(weights))
            ends = np.cumsum([block.ao.shape[1] for block in together])[:-1]
            parts = np.split(weighted, ends, axis=-1)
            if self._reference:
                parts = [part - self._reference[number + i] for i, part in enumerate(parts)]
            yield [Weighted(columns, ao, part) for (columns, ao), part in zip(together, parts, strict=True)]
            number += len(parts)

    def _densities(self, blocks: Sequence[Block], occupied: Sequence[Array], part: slice) -> Array:
        """Return rho, and if needed its gradient and tau, of each spin on some blocks, (spins, 1 to 5, points)."""
        spins: list[list[Array]] = [[] for _ in occupied]
        for columns, ao in blocks[part]:
            for factor, parts in zip(occupied, spins, strict=True):
                x = ao @ factor[columns]  # (1 or 4, points, occupied)
                tau = [0.5 * np.einsum("cpo,cpo->p", x[1:], x[1:])] if self._xc.kind == "MGGA" else []
                parts.append(np.array([*density_rows(x), *tau], dtype=np.float64))
        return np.stack([np.concatenate(parts, axis=-1) for parts in spins])

    def _summed(self, blocks: Sequence[Weighted], part: slice) -> Array:
        """Return the sum of `_matrix` over some of the blocks, for each spin."""
        v = np.zeros((len(blocks[0].potential), self._mol.nao, self._mol.nao))
        for columns, ao, potential in blocks[part]:
            reached = slice(None) if len(columns) == self._mol.nao else np.ix_(columns, columns)
            for k, wv in enumerate(potential):
                v[k][reached] += self._matrix(ao, wv)
        return v

    def _matrix(self, ao: Array, wv: Array) -> Array:
        """Return half of the potential matrix; the other half is its transpose."""
        wv = _without_tails(wv, POTENTIAL_TAIL).astype(ao.dtype)
        weighted = (0.5 * wv[0])[:, None] * ao[0]
        for d, w in zip(ao[1:], wv[1:4], strict=True):
            weighted += w[:, None] * d
        half = ao[0].T @ weighted
        if self._xc.kind == "MGGA":
            for d in ao[1:]:
                half += d.T @ ((0.25 * wv[4])[:, None] * d)
        return np.asarray(half, dtype=np.float64)


def _without_tails(values: Array, limit: float) -> Array:
    """Set values below a limit to zero, as underflow in products is 100 times slower on many processors."""
    return values * (np.abs(values) >= limit)
