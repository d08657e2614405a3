"""Coulomb and exchange matrices by density fitting with a small auxiliary basis."""

from __future__ import annotations

import itertools
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, cast

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from pyscf import df, gto, lib, scf
from pyscf.data.elements import ELEMENTS

from pyscf_mlham.ao.mole import element_shells
from pyscf_mlham.errors import ResourceError
from pyscf_mlham.field.levels import Level, shared
from pyscf_mlham.threads import all_blas_threads, shared_out

Array = NDArray[Any]

LAST_LIGHT = 10  # neon
BLOCK_BYTES = 1.5e8  # bytes of one slice of the fitted integrals
DEPENDENT = 1e-7  # smaller eigenvalues of the auxiliary functions' Coulomb metric are dropped, as in PySCF


class FittedIntegrals:
    """B_P,mn with (mn|kl) = sum_P B_P,mn B_P,kl for pairs m >= n of overlapping orbitals, in memory or in a file."""

    def __init__(self, mol: gto.Mole, basis: dict[str, Any], level: Level, omega: float, budget: float) -> None:
        self.auxmol = auxmol = df.make_auxmol(mol, _loaded(basis))
        overlap = _overlapping(mol, level.far)
        self._pairs = np.nonzero(np.tril(overlap))
        place = np.empty(overlap.shape, dtype=int)
        place[self._pairs] = place.T[self._pairs] = np.arange(len(self._pairs[0]))
        self._both_ways = place[overlap]  # index of the pair of each overlapping m, n in both orders, ...
        self._columns = np.nonzero(overlap)[1]  # ... the n of each, ...
        self._starts = np.append(0, np.cumsum(overlap.sum(axis=1)))  # ... and the first one of each m
        self._shells = [slice(*ends) for ends in itertools.pairwise(mol.ao_loc_nr().tolist())]
        self._unpacked: list[Array] | None = None
        with all_blas_threads():
            self._whiten, rank = _whitening(auxmol, omega)
            self._b = self._allocated((rank, len(self._pairs[0])), level, budget)
            done = 0
            for integrals in _three_centre(mol, auxmol, omega, self._pairs):
                white = self._whiten(integrals)
                self._b[:, done : done + white.shape[1]] = white
                done += white.shape[1]

    def _allocated(self, shape: tuple[int, int], level: Level, budget: float) -> Array:
        self._file: Any = None
        wanted = float(np.prod(shape)) * np.dtype(level.dtype).itemsize
        if wanted <= budget:
            return np.empty(shape, dtype=level.dtype)
        # a memory-mapped file grows as it is written, and a full disk would then kill the process
        if wanted > (room := shutil.disk_usage(lib.param.TMPDIR).free):
            raise ResourceError(
                f"the fitted integrals need {wanted / 1e9:.2g} GB, but max_memory leaves {budget / 1e9:.2g} GB and "
                f"{lib.param.TMPDIR} has {room / 1e9:.2g} GB free. Increase max_memory, or set PYSCF_TMPDIR to a "
                "larger disk"
            )
        self._file = NamedTemporaryFile(dir=lib.param.TMPDIR)  # noqa: SIM115  (lives as long as the integrals)
        return np.memmap(Path(self._file.name), dtype=level.dtype, mode="w+", shape=shape)

    def charges(self, density: Array) -> Array:
        """Return a density in the whitened auxiliary functions: sum_mn B_P,mn D_mn.

        Args:
            density: (n, n).
        """
        return np.asarray(self._b @ self._of_pairs(density), dtype=float)

    def potential(self, charges: Array) -> Array:
        """Return the potential of charges in the whitened auxiliary functions: sum_P B_P,mn q_P, (n, n).

        Args:
            charges: (rank,).
        """
        v = np.zeros(2 * (len(self._starts) - 1,))
        v[self._pairs] = v.T[self._pairs] = charges.astype(self._b.dtype) @ self._b
        return v

    def interaction(self, others: gto.Mole) -> Array:
        """Return the Coulomb interaction of the whitened auxiliary functions with other functions, (rank, n).

        Args:
            others: molecule with these functions as its basis set.
        """
        return np.asarray(self._whiten(gto.mole.intor_cross("int2c2e", self.auxmol, others)))

    def whitened_operator(self, matrix: Array) -> Array:
        """Return a symmetric operator <P|O|Q> (n_aux, n_aux) in the whitened auxiliary functions, (rank, rank)."""
        half = self._whiten(np.array(matrix, dtype=float))
        return np.asarray(self._whiten(np.array(half.T)))

    def _of_pairs(self, density: Array) -> Array:
        """Return elements of a symmetric matrix, off-diagonal ones doubled, in the precision of the integrals."""
        twice = np.where(self._pairs[0] == self._pairs[1], 1.0, 2.0)
        return np.asarray((twice * density[self._pairs]).astype(self._b.dtype))

    def coulomb_exchange(
        self, factors: Sequence[Array], reference: Sequence[Array], with_k: bool, with_j: bool = True
    ) -> tuple[Array, list[Array]]:
        """Return J of the sum of the densities, and K of each, minus those of the reference; zero if not requested."""
        dtype = self._b.dtype
        density = density_of(factors) - (density_of(reference) if reference else 0.0)
        of_pairs = self._of_pairs(density) if with_j else None
        pairs = []
        for one, other in changes(factors, reference) if with_k else ():
            single = one.astype(dtype)
            pairs.append((single, single if other is one else other.astype(dtype)))
        j, ks = np.zeros(density.shape), np.zeros((len(factors), *density.shape))
        of_parts = shared_out(partial(self._part, of_pairs, pairs), len(self._b))
        j[self._pairs] = j.T[self._pairs] = sum(part for part, _ in of_parts)
        for _, part in of_parts:
            ks[: len(pairs)] += part
        return j, [(k + k.T) / 2 for k in ks]

    def _part(self, density: Array | None, changes: Sequence[tuple[Array, Array]], part: slice) -> tuple[Array, Array]:
        """Return J of the pairs and each K, not yet symmetrised, from some of the auxiliary functions."""
        n = len(self._starts) - 1
        j, ks = np.zeros(self._b.shape[1]), np.zeros((len(changes), n, n))
        share = BLOCK_BYTES / lib.num_threads()
        step = max(1, int(share / (2 * self._b[0].nbytes)))  # both orders of a pair are used
        for start in range(part.start, part.stop, step):
            b = self._b[start : min(start + step, part.stop)]
            if density is not None:
                j += (b @ density) @ b
            if changes:
                b = np.take(b, self._both_ways, axis=1)
            for k, (one, other) in zip(ks, changes, strict=True):
                left = self._half_transformed(b, one)
                k += left @ (left if other is one else self._half_transformed(b, other)).T
        return j, ks

    def half_transformed(self, factor: Array) -> Array:
        """Return (P|mi) of factor columns i, (n, rank * columns), from integrals of both orders of each pair."""
        if self._unpacked is None:
            self._unpacked = self._unpack()
        factor = np.asarray(factor, dtype=self._b.dtype)
        half = np.empty((len(factor), len(self._b), factor.shape[1]), dtype=factor.dtype)
        for shell, block in zip(self._shells, self._unpacked, strict=True):
            near = factor[self._columns[self._starts[shell.start] : self._starts[shell.start + 1]]]
            np.matmul(block, near, out=half[shell])
        return half.reshape(len(factor), -1)

    def half_bytes(self, columns: int) -> float:
        """Return the bytes of half-transformed integrals and of the integrals stored for them."""
        return float(len(self._b) * self._b.itemsize * (len(self._both_ways) + (len(self._starts) - 1) * columns))

    def _unpack(self) -> list[Array]:
        """Return integrals (orbitals of a shell, rank, orbitals that overlap with it) of each shell."""
        blocks = []
        for shell in self._shells:
            pairs = self._both_ways[self._starts[shell.start] : self._starts[shell.stop]]
            block = np.take(self._b, pairs, axis=1).reshape(len(self._b), shell.stop - shell.start, -1)
            blocks.append(np.ascontiguousarray(block.swapaxes(0, 1)))
        return blocks

    def _half_transformed(self, b: Array, factor: Array) -> Array:
        """Transform one index to the columns of the factor: (n, P * columns)."""
        half = np.empty((len(factor), len(b), factor.shape[1]), dtype=factor.dtype)
        for shell in self._shells:  # all of its orbitals overlap with the same ones
            near = factor[self._columns[self._starts[shell.start] : self._starts[shell.start + 1]]]
            for m in range(shell.start, shell.stop):
                np.matmul(b[:, self._starts[m] : self._starts[m + 1]], near, out=half[m])
        return half.reshape(len(factor), -1)


def _overlapping(mol: gto.Mole, far: float) -> Array:
    """Return (n, n) whether two orbitals overlap, by the Schwarz bound on the integrals of their shells."""
    bound = scf.hf.RHF(mol).init_direct_scf(mol).get_q_cond()  # sqrt (mn|mn), Hartree^1/2
    orbitals = np.diff(mol.ao_loc_nr())
    return np.repeat(np.repeat(bound > far, orbitals, axis=0), orbitals, axis=1)


def _three_centre(mol: gto.Mole, auxmol: gto.Mole, omega: float, pairs: tuple[Array, ...]) -> Iterator[Array]:
    """Yield (P|mn) of some pairs at a time, in order: those of an atom's orbitals with its own and earlier ones."""
    both, starts = mol + auxmol, mol.ao_loc_nr()
    for first, last, _, end in mol.aoslice_by_atom():
        for shells in _runs(starts[first : last + 1], BLOCK_BYTES / (8 * auxmol.nao * max(1, end))):
            begin, stop = starts[first + shells.start], starts[first + shells.stop]
            part = slice(*np.searchsorted(pairs[0], (begin, stop)))
            m, n = (index[part] for index in pairs)
            nearest = int(np.searchsorted(starts, n.min(), side="right")) - 1  # the first shell that overlaps
            bounds = (first + shells.start, first + shells.stop, nearest, last, mol.nbas, both.nbas)
            with both.with_range_coulomb(omega or None):
                integrals = both.intor("int3c2e", shls_slice=bounds)
            places = (n - starts[nearest]) * len(integrals) + m - begin
            yield np.take(integrals.T.reshape(auxmol.nao, -1), places, axis=1)


def _whitening(auxmol: gto.Mole, omega: float) -> tuple[Callable[[Array], Array], int]:
    """Return the map from (P|mn) to B_P,mn, and the number of rows of B, reduced for a linearly dependent basis set."""
    with auxmol.with_range_coulomb(omega or None):  # None leaves the molecule's own
        metric = auxmol.intor("int2c2e")
    try:
        root = scipy.linalg.cholesky(metric, lower=True)
    except scipy.linalg.LinAlgError:
        values, vectors = scipy.linalg.eigh(metric)
        kept = values > DEPENDENT
        inverse = (vectors[:, kept] / np.sqrt(values[kept])).T
        return partial(np.matmul, inverse), len(inverse)
    trsm = scipy.linalg.get_blas_funcs("trsm", (root,))
    # rows are transposed for BLAS, which works in place
    return lambda rows: trsm(1.0, root, rows.T, lower=True, trans_a=1, side=1, overwrite_b=True).T, len(root)


def _runs(starts: Array, most: float) -> Iterator[slice]:
    """Yield runs of consecutive shells with a limited number of orbitals, or of one shell.

    Args:
        starts: first orbital of each shell, and the end.
        most: largest number of orbitals in a run.
    """
    first = 0
    for shell in range(1, len(starts)):
        if shell == len(starts) - 1 or starts[shell + 1] - starts[first] > most:
            yield slice(first, shell)
            first = shell


def changes(factors: Sequence[Array], reference: Sequence[Array]) -> list[tuple[Array, Array]]:
    """Return pairs a, b with L L^T - L0 L0^T = (a b^T + b a^T) / 2, where a is as small as the change."""
    if not reference:
        return [(factor, factor) for factor in factors]
    pairs = []
    for factor, origin in zip(factors, reference, strict=True):
        columns = max(factor.shape[1], origin.shape[1])
        factor, origin = (np.pad(x, ((0, 0), (0, columns - x.shape[1]))) for x in (factor, origin))
        u, _, vt = np.linalg.svd(factor.T @ origin)
        change = factor @ (u @ vt) - origin  # the rotation among occupied orbitals that brings them nearest
        pairs.append((change, 2 * origin + change))
    return pairs


def fitted(mol: gto.Mole, level: Level, exchange: bool, omega: float, budget: float) -> FittedIntegrals:
    """Fit the integrals of a molecule, or share those of another field of the same molecule.

    Args:
        mol: molecule.
        level: level of approximation.
        exchange: whether exact exchange is fitted too.
        omega: range-separation parameter of long-range integrals, 0 for the full ones; 1/Bohr.
        budget: bytes of memory; larger integrals are stored in a file.
    """
    return fitted_in(mol, auxiliary_basis(mol, level, exchange), level, omega, budget)


def fitted_in(mol: gto.Mole, basis: dict[str, Any], level: Level, omega: float, budget: float) -> FittedIntegrals:
    """Fit the integrals in a given auxiliary basis set; see `fitted`."""
    make = partial(FittedIntegrals, mol, basis, level, omega, budget)
    return cast(FittedIntegrals, shared(("fit", level, str(sorted(basis.items())), omega), mol, make))


def density_of(factors: Sequence[Array]) -> Array:
    """Return the density matrix, the sum of L L^T.

    Args:
        factors: L of each spin, or one of both; (n, k).
    """
    return np.asarray(np.sum([factor @ factor.T for factor in factors], axis=0))


def auxiliary_basis(mol: gto.Mole, level: Level, exchange: bool) -> dict[str, Any]:
    """Return an auxiliary basis set for each element; PySCF's own choice if the level's lacks an element.

    Args:
        mol: molecule.
        level: level of approximation.
        exchange: whether exact exchange is fitted too.
    """
    heavy = {s for s in mol.elements if exchange and gto.charge(s) > LAST_LIGHT}
    chosen = {s: level.heavy if s in heavy else level.light for s in set(mol.elements)}
    if _size(mol, chosen) < level.functions * mol.nao:
        chosen = dict.fromkeys(chosen, level.heavy)
    return chosen if _size(mol, chosen) else dict(df.make_auxbasis(mol))


def _size(mol: gto.Mole, basis: dict[str, Any]) -> int:
    """Return the number of auxiliary functions, 0 if the basis set lacks an element."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PySCF's advice on other sources of basis sets
            per_element = {symbol: _functions(name, symbol, bool(mol.cart)) for symbol, name in basis.items()}
    except (KeyError, RuntimeError):
        return 0
    return sum(per_element[mol.atom_pure_symbol(atom)] for atom in range(mol.natm))


@cache
def _functions(name: str, symbol: str, cart: bool) -> int:
    """Return the number of functions of a basis set on an atom."""
    atom = gto.M(atom=[(symbol, (0, 0, 0))], spin=None, verbose=0)
    atom.cart = cart
    return int(df.make_auxmol(atom, {symbol: name}).nao)


def _loaded(basis: dict[str, Any]) -> dict[str, Any]:
    """Read the basis sets that are given by name, except those of ghost atoms."""
    named = {symbol for symbol, name in basis.items() if isinstance(name, str) and symbol in ELEMENTS}
    return {symbol: element_shells(name, symbol) if symbol in named else name for symbol, name in basis.items()}
