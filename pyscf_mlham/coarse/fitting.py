"""Coulomb and exchange matrices by density fitting with a small auxiliary basis."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pyscf import df, gto, lib
from pyscf.data.elements import ELEMENTS

from pyscf_mlham.basis import element_shells
from pyscf_mlham.coarse.level import Level, shared
from pyscf_mlham.threads import all_blas_threads, shared_out

Array = NDArray[Any]

LAST_LIGHT = 10  # neon
ENOUGH = 2.0  # auxiliary functions per AO; with fewer, the first full build leaves too much to correct
BLOCK_BYTES = 1.5e8  # of one slice of the fitted integrals


class FittedIntegrals:
    """B_P,mn with (mn|kl) = sum_P B_P,mn B_P,kl, in memory or, where it is too large, in a file."""

    def __init__(self, mol: gto.Mole, basis: dict[str, Any], level: Level, omega: float, budget: float) -> None:
        fit = df.DF(mol, auxbasis=_loaded(basis))
        fit.verbose = 0
        # PySCF's fit must leave room for the copy made of it; where it cannot, it goes to disk
        fit.max_memory = lib.current_memory()[0] + budget / 1e6
        with all_blas_threads(), fit.range_coulomb(omega) if omega else nullcontext(fit) as ranged:
            self._store(ranged, mol.nao, level, budget)

    def _store(self, fit: Any, n: int, level: Level, budget: float) -> None:
        shape = (fit.get_naoaux(), n, n)
        size = int(np.prod(shape)) * np.dtype(level.dtype).itemsize
        self._file: Any = None
        if size <= budget:
            self._b: Array = np.empty(shape, dtype=level.dtype)
        else:
            self._file = NamedTemporaryFile(dir=lib.param.TMPDIR)  # noqa: SIM115  (lives as long as the integrals)
            self._b = np.memmap(Path(self._file.name), dtype=level.dtype, mode="w+", shape=shape)
        start = 0
        for packed in fit.loop(max(1, int(BLOCK_BYTES / (8 * n * n)))):
            square = lib.unpack_tril(np.asarray(packed))
            block = self._b[start : start + len(square)]
            shared_out(partial(_copy, square, block), len(square))
            start += len(square)

    def _blocks(self) -> Iterator[Array]:
        step = max(1, int(BLOCK_BYTES / self._b[0].nbytes))
        for start in range(0, len(self._b), step):
            yield self._b[start : start + step]

    def coulomb_exchange(
        self, factors: Sequence[Array], reference: Sequence[Array], with_k: bool, with_j: bool = True
    ) -> tuple[Array, list[Array]]:
        """J of the sum of the densities, and K of each, less those of the reference; zero where not wanted."""
        n, dtype = self._b.shape[1], self._b.dtype
        density = density_of(factors) - (density_of(reference) if reference else 0.0)
        flat_density = np.ravel(density).astype(dtype)
        pairs = [(a.astype(dtype), b.astype(dtype)) for a, b in _change(factors, reference)] if with_k else []
        j, ks = np.zeros((n, n)), np.zeros((len(factors), n, n))
        for block in self._blocks():
            work = partial(_coulomb_exchange, block, flat_density if with_j else None, pairs)
            for j_part, k_parts in shared_out(work, len(block)):
                j += j_part
                ks[: len(pairs)] += k_parts
        return j, [(k + k.T) / 2 for k in ks]


def _copy(source: Array, target: Array, part: slice) -> None:
    target[part] = source[part]


def _coulomb_exchange(
    block: Array, density: Array | None, pairs: Sequence[tuple[Array, Array]], part: slice
) -> tuple[Array, Array]:
    """J and, before it is made symmetric, K of each pair, from a part of a block; (n, n), (pairs, n, n)."""
    block, n = block[part], block.shape[1]
    flat = block.reshape(len(block), n * n)
    j = np.zeros(n * n) if density is None else (flat @ density) @ flat
    ks = np.zeros((len(pairs), n, n))
    for k, (a, b) in zip(ks, pairs, strict=True):
        left = _half_transformed(block, a)
        k += left @ (left if b is a else _half_transformed(block, b)).T
    return j.reshape(n, n), ks


def _change(factors: Sequence[Array], reference: Sequence[Array]) -> list[tuple[Array, Array]]:
    """Pairs a, b with L L^T - L0 L0^T = (a b^T + b a^T) / 2, where a is as small as the change is."""
    if not reference:
        return [(factor, factor) for factor in factors]
    pairs = []
    for factor, origin in zip(factors, reference, strict=True):
        columns = max(factor.shape[1], origin.shape[1])
        factor, origin = (np.pad(x, ((0, 0), (0, columns - x.shape[1]))) for x in (factor, origin))
        u, _, vt = np.linalg.svd(factor.T @ origin)
        change = factor @ (u @ vt) - origin  # the turn among the occupied orbitals that brings them nearest
        pairs.append((change, 2 * origin + change))
    return pairs


def fitted(mol: gto.Mole, level: Level, exchange: bool, omega: float, budget: float) -> FittedIntegrals:
    """Fit the integrals of a molecule, or share those of another field of the same molecule.

    Args:
        mol: molecule.
        level: how coarse.
        exchange: whether exact exchange is fitted too.
        omega: of the error function in long-range integrals, 0 for the plain ones; 1/Bohr.
        budget: bytes of memory; integrals that are larger are kept in a file.
    """
    basis = auxiliary_basis(mol, level, exchange)
    make = partial(FittedIntegrals, mol, basis, level, omega, budget)
    return cast(FittedIntegrals, shared(("fit", level, str(sorted(basis.items())), omega), mol, make))


def _half_transformed(block: Array, factor: Array) -> Array:
    """One index of (P, n, n) onto the columns of the factor: (n, P * columns)."""
    half = (block.reshape(-1, block.shape[-1]) @ factor).reshape(*block.shape[:2], -1)
    return np.moveaxis(half, 1, 0).reshape(block.shape[1], -1)


def density_of(factors: Sequence[Array]) -> Array:
    """Return the density matrix, the sum of L L^T.

    Args:
        factors: L of each spin, or of both together; (n, k).
    """
    return np.asarray(np.sum([factor @ factor.T for factor in factors], axis=0))


def auxiliary_basis(mol: gto.Mole, level: Level, exchange: bool) -> dict[str, Any]:
    """Return an auxiliary basis set for each element; PySCF's own choice where the level's does not know it.

    Args:
        mol: molecule.
        level: how coarse.
        exchange: whether exact exchange is fitted too.
    """
    heavy = {s for s in mol.elements if exchange and gto.charge(s) > LAST_LIGHT}
    chosen = {s: level.heavy if s in heavy else level.light for s in set(mol.elements)}
    if _size(mol, chosen) < ENOUGH * mol.nao:
        chosen = dict.fromkeys(chosen, level.heavy)
    return chosen if _size(mol, chosen) else dict(df.make_auxbasis(mol))


def _size(mol: gto.Mole, basis: dict[str, Any]) -> int:
    """Count the auxiliary functions, 0 where the basis set lacks an element."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PySCF's advice on where else to look for a basis set
            per_element = {symbol: _functions(name, symbol, bool(mol.cart)) for symbol, name in basis.items()}
    except (KeyError, RuntimeError):
        return 0
    return sum(per_element[mol.atom_pure_symbol(atom)] for atom in range(mol.natm))


@cache
def _functions(name: str, symbol: str, cart: bool) -> int:
    """Count the functions that a basis set puts on an atom."""
    atom = gto.M(atom=[(symbol, (0, 0, 0))], spin=None, verbose=0)
    atom.cart = cart
    return int(df.make_auxmol(atom, {symbol: name}).nao)


def _loaded(basis: dict[str, Any]) -> dict[str, Any]:
    """Read the basis sets that are given by name; those of ghost atoms are left to PySCF."""
    named = {symbol for symbol, name in basis.items() if isinstance(name, str) and symbol in ELEMENTS}
    return {symbol: element_shells(name, symbol) if symbol in named else name for symbol, name in basis.items()}
