"""Pairs of overlapping orbitals, and the exchange of fitted integrals stored for them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from pyscf import gto, lib, scf

from pyscf_mlham.arrays import Array
from pyscf_mlham.threads import PIECE, SHARE, each, shared_out

BLOCK_BYTES = 2.5e7  # of one slice of the integrals; larger arrays get new pages from the system every time


class Pairs:
    """Pairs m >= n of overlapping orbitals.

    Attributes:
        both: orbitals m and n of each pair, (pairs,) each.
        orders: number of pairs in both orders.
        shells: orbitals of each shell; all of them overlap with the same ones.
    """

    def __init__(self, mol: gto.Mole, far: float) -> None:
        """Find the pairs with a Schwarz bound above `far`, Hartree^1/2."""
        overlap = overlapping(mol, far)
        self.both = m, n = np.nonzero(np.tril(overlap))
        place = np.empty(overlap.shape, dtype=int)
        place[m, n] = place[n, m] = np.arange(len(m))
        self._both_ways = place[overlap]  # index of the pair of each overlapping m, n in both orders, ...
        self.orders = len(self._both_ways)
        self._columns = np.nonzero(overlap)[1]  # ... the n of each, ...
        self._starts = np.append(0, np.cumsum(overlap.sum(axis=1)))  # ... and the first one of each m
        self.shells = [slice(*ends) for ends in itertools.pairwise(mol.ao_loc_nr().tolist())]

    def __len__(self) -> int:
        return len(self.both[0])

    @property
    def packed(self) -> Array:
        """Index of each pair in a packed lower triangle."""
        m, n = self.both
        return np.asarray(m * (m + 1) // 2 + n)

    def elements(self, matrix: Array, dtype: Any) -> Array:
        """Return the elements of a symmetric matrix, off-diagonal ones doubled."""
        m, n = self.both
        return np.asarray((np.where(m == n, 1.0, 2.0) * matrix[m, n]).astype(dtype))

    def matrix(self, elements: Array) -> Array:
        """Return the symmetric matrix (n, n) of these elements."""
        orbitals = len(self._starts) - 1
        full = np.zeros((orbitals, orbitals))
        full[self.both] = full.T[self.both] = elements
        return full

    def exchange(self, b: Array, changes: Sequence[tuple[Array, Array]], packed: bool = False) -> Array:
        """Return sum_P B_P (a b^T + b a^T) / 2 B_P of pairs of factors a, b: (len(changes), n, n).

        Args:
            b: fitted integrals of the pairs, (functions, pairs).
            changes: a and b of each density (n, columns).
            packed: whether the columns of b are packed lower triangles with all pairs instead.
        """
        places = self.packed[self._both_ways] if packed else self._both_ways
        step = max(1, int(BLOCK_BYTES / (2 * len(places) * b.itemsize)))
        work = partial(self._exchange, b, places, changes, step)
        ks = np.sum(shared_out(work, len(b), b.nbytes / PIECE), axis=0)
        return np.asarray(ks + ks.swapaxes(1, 2)) / 2

    def _exchange(
        self, b: Array, places: Array, changes: Sequence[tuple[Array, Array]], step: int, part: slice
    ) -> Array:
        """Return `exchange` of some of the functions, a few at a time, not yet symmetrised."""
        orbitals, dtype = len(self._starts) - 1, changes[0][0].dtype
        ks = np.zeros((len(changes), orbitals, orbitals))
        for start, stop in lib.prange(part.start, part.stop, step):
            block = np.take(b[start:stop], places, axis=1).astype(dtype, copy=False)
            for k, (one, other) in zip(ks, changes, strict=True):
                left = self._half_transformed(block, one)
                k += left @ (left if other is one else self._half_transformed(block, other)).T
        return ks

    def _half_transformed(self, b: Array, factor: Array) -> Array:
        """Transform one index of integrals in both orders to the columns of a factor: (n, functions * columns)."""
        half = np.empty((len(factor), len(b), factor.shape[1]), dtype=factor.dtype)
        for shell in self.shells:
            near = self._near(shell)
            integrals = b[:, self._starts[shell.start] : self._starts[shell.stop]]
            integrals = integrals.reshape(len(b), shell.stop - shell.start, len(near)).swapaxes(0, 1)
            np.matmul(integrals, factor[near], out=half[shell])
        return half.reshape(len(factor), -1)

    def unpacked(self, b: Array) -> list[Array]:
        """Return integrals (orbitals of a shell, functions, orbitals that overlap with it) of each shell."""
        blocks = []
        for shell in self.shells:
            places = self._both_ways[self._starts[shell.start] : self._starts[shell.stop]]
            block = np.take(b, places, axis=1).reshape(len(b), shell.stop - shell.start, len(self._near(shell)))
            blocks.append(np.ascontiguousarray(block.swapaxes(0, 1)))
        return blocks

    def half_transform(self, unpacked: Sequence[Array], factor: Array, half: Array) -> None:
        """Compute (P|mi) of factor columns i from (P|mn) of `unpacked` into `half`, (n, functions, columns)."""
        factor = np.asarray(factor, dtype=half.dtype)

        def transform(part: slice) -> None:
            for shell, block in zip(self.shells[part], unpacked[part], strict=True):
                np.matmul(block, factor[self._near(shell)], out=half[shell])

        step = max(1, int(len(self.shells) / min(SHARE * lib.num_threads(), 1 + half.nbytes / PIECE)))
        each(transform, [slice(*ends) for ends in lib.prange(0, len(self.shells), step)])

    def _near(self, shell: slice) -> Array:
        """Return the orbitals that overlap with those of a shell."""
        return self._columns[self._starts[shell.start] : self._starts[shell.start + 1]]


def overlapping(mol: gto.Mole, far: float) -> Array:
    """Return (n, n) whether two orbitals overlap, by the Schwarz bound on the integrals of their shells."""
    bound = scf.hf.RHF(mol).init_direct_scf(mol).get_q_cond()  # sqrt (mn|mn), Hartree^1/2
    orbitals = np.diff(mol.ao_loc_nr())
    return np.repeat(np.repeat(bound > far, orbitals, axis=0), orbitals, axis=1)


def changes(factors: Sequence[Array], reference: Sequence[Array], dtype: Any = float) -> list[tuple[Array, Array]]:
    """Return pairs a, b with L L^T - L0 L0^T = (a b^T + b a^T) / 2, where a is as small as the change."""
    if not reference:
        rounded = [factor.astype(dtype) for factor in factors]
        return [(factor, factor) for factor in rounded]
    pairs = []
    for factor, origin in zip(factors, reference, strict=True):
        columns = max(factor.shape[1], origin.shape[1])
        factor, origin = (np.pad(x, ((0, 0), (0, columns - x.shape[1]))) for x in (factor, origin))
        u, _, vt = np.linalg.svd(factor.T @ origin)
        change = factor @ (u @ vt) - origin  # the rotation among occupied orbitals that brings them nearest
        pairs.append((change.astype(dtype), (2 * origin + change).astype(dtype)))
    return pairs
