"""The coarse field of a crystal: Coulomb of the object's fitted integrals, exchange-correlation on a small grid.

A build of PySCF's periodic part is nearly all exchange-correlation, as the orbital values of each k point are computed
again, or exact exchange of all pairs of k points. Here the former is that of an atomic grid of level 1 with stored
values; on level 0 boron nitride and diamond would take another full build. Coulomb is exact; its integrals are read
from disk once. The exchange of a change of density is fitted in the minimal basis of `pyscf_mlham.field.response`, with
PySCF's own treatment of G = 0; that of a whole density is exact.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from pyscf import lib
from pyscf.dft.gen_grid import gen_atomic_grids
from pyscf.pbc import df
from pyscf.pbc.dft.gen_grid import BeckeGrids

from pyscf_mlham.arrays import Array
from pyscf_mlham.field.coarse import free_bytes
from pyscf_mlham.field.grid import Functional
from pyscf_mlham.field.levels import COARSE
from pyscf_mlham.field.partition import shared_grid
from pyscf_mlham.field.protocol import Field, Tally
from pyscf_mlham.field.response import exchange_basis


class CrystalField(Field):
    """A coarse approximation to the potential of a periodic mean-field object; see `CoarseField`.

    Factors are (n, m) matrices of each spin, or lists of such matrices, one for each k point. Potentials have the
    object's own shape: (n, n) or (n_k, n, n), and (2, ...) for two spins.
    """

    def __init__(self, mf: Any, grid: int = COARSE.grid) -> None:
        """Prepare grid and integrals.

        Args:
            mf: PySCF mean-field object with Gaussian density fitting; only its fitted integrals are made.
            grid: PySCF's level of the atomic grid.
        """
        self.name, self.tally = COARSE.name, Tally()
        self._mf, self._xc = mf, Functional(mf)
        self._numint: Any = None
        if self._xc.kind != "HF":
            self._numint, self._grids = _small_grid(mf, self._xc, grid)
        self._constant: Array | None = None
        if mf.with_df._cderi is None:
            mf.with_df.build(j_only=not self._xc.exchange)
        self._coulomb = _Coulomb(mf.with_df) if _Coulomb.size(mf.with_df) < free_bytes(mf) / 2 else None
        if self._xc.exchange:
            self._exchange = df.GDF(mf.mol, mf.kpts)
            self._exchange.auxbasis, self._exchange.verbose = exchange_basis(mf.mol), 0

    def around(self, factors: Sequence[Any], v: Array) -> CrystalField:
        """Return a field that is exact at one density; see `Field`."""
        self.tally.builds += 1
        shifted = copy.copy(self)
        shifted._constant = v - self._fitted(_density(factors))
        return shifted

    def potential(self, factors: Sequence[Any]) -> Array:
        """Return the potential of a density; with exact exchange and without a reference, the object's own."""
        density = _density(factors)
        if self._constant is None and self._xc.exchange:
            self.tally.full += 1
            return np.asarray(self._mf.get_veff(self._mf.mol, density))
        self.tally.builds += 1
        return self._fitted(density) + (0.0 if self._constant is None else self._constant)

    def _fitted(self, density: Any) -> Array:
        """Return Coulomb, exchange in the minimal basis, and exchange-correlation on the small grid."""
        mf, k_sampled = self._mf, self._mf.istype("KSCF")
        two = density.ndim == (4 if k_sampled else 3)
        both = density.sum(axis=0) if two else np.asarray(density)
        j = self._coulomb.potential(both) if self._coulomb else mf.get_j(mf.mol, both)
        v = np.stack([j] * 2) if two else j
        kpts = mf.kpts if k_sampled else mf.kpt
        for omega, share in self._xc.exchange:
            k = self._exchange.get_jk(density, 1, kpts, with_j=False, omega=omega or None, exxdiv=mf.exxdiv)[1]
            v = v - share * (k if two else k / 2)
        if self._numint is not None:
            build = self._numint.nr_uks if two else self._numint.nr_rks
            v = v + build(mf.mol, self._grids, mf.xc, density, 0, 1, kpts)[2]
        return np.asarray(v)


class _Coulomb:
    """Fitted integrals (P|mn) of all k points in memory, in the metric that PySCF has made diagonal, +1 and -1.

    Matrices are Hermitian, and so are the integrals: real and imaginary parts of the lower triangles are stored.
    """

    def __init__(self, with_df: Any) -> None:
        """Read the integrals from disk."""
        at_k = [list(with_df.sr_loop(np.stack([k, k]), compact=True)) for k in with_df.kpts]
        self._signs = np.concatenate([np.full(len(real), sign) for real, _, sign in at_k[0]])
        self._integrals = np.stack([np.vstack([np.hstack(block[:2]) for block in blocks]) for blocks in at_k], axis=1)
        self._lower = np.tril_indices(with_df.cell.nao)

    @staticmethod
    def size(with_df: Any) -> float:
        """Return the bytes of all integrals."""
        n = with_df.cell.nao
        return float(8 * len(with_df.kpts) * with_df.get_naoaux() * n * (n + 1))

    def potential(self, density: Array) -> Array:
        """Return J of a density, both of shape (n, n) or (n_k, n, n); Hartree."""
        n, (row, column) = density.shape[-1], self._lower
        lower = density.reshape(-1, n, n)[:, row, column] * np.where(row == column, 1.0, 2.0)
        integrals = self._integrals.reshape(len(self._signs), -1)
        charges = integrals @ np.hstack([lower.real, lower.imag]).ravel() / len(lower)
        halves = ((self._signs * charges) @ integrals).reshape(len(lower), 2, -1)
        at_k = density.ndim == 3  # complex then, even of a real density
        j = lib.unpack_tril(halves[:, 0] + 1j * halves[:, 1] if at_k else halves[:, 0])
        return np.asarray(j).reshape(density.shape)


def _density(factors: Sequence[Any]) -> Any:
    """Return L L^T in the object's shape, tagged with L as orbitals, which makes exchange and densities cheap."""
    if isinstance(factors[0], list):
        density = np.stack([[l @ l.conj().T for l in spin] for spin in factors])
        coeff, occ = list(factors), [[np.ones(l.shape[1]) for l in spin] for spin in factors]
        both = lib.tag_array(density, mo_coeff=coeff, mo_occ=occ)
        return both if len(factors) == 2 else lib.tag_array(density[0], mo_coeff=coeff[0], mo_occ=occ[0])
    density = np.stack([l @ l.T for l in factors])
    return density if len(factors) == 2 else density[0]


def _small_grid(mf: Any, xc: Functional, level: int) -> tuple[Any, Any]:
    """Return PySCF's numerical integration with stored orbital values, if memory allows, and an atomic grid for it."""
    cell, ni = mf.mol, copy.copy(mf._numint)
    grids = BeckeGrids(cell)  # PySCF's class, for its coordinates and weights alone
    grids.coords, grids.weights = shared_grid(cell, gen_atomic_grids(cell, level=level))
    kpts = mf.kpts if mf.istype("KSCF") else mf.kpt
    values = len(grids.weights) * cell.nao * (4 if xc.deriv else 1) * max(1, len(kpts) if np.ndim(kpts) == 2 else 1)
    if 16 * values < free_bytes(mf) / 2:
        blocks = list(ni.block_loop(cell, grids, cell.nao, xc.deriv, kpts))
        ni.block_loop = lambda *_, **__: iter(blocks)
    return ni, grids
