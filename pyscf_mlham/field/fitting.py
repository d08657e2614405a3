"""Coulomb and exchange matrices by density fitting with a small auxiliary basis."""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, cast

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from pyscf import df, gto, lib
from pyscf.data.elements import ELEMENTS

from pyscf_mlham.ao.mole import element_shells
from pyscf_mlham.errors import ResourceError
from pyscf_mlham.field.levels import Level, shared
from pyscf_mlham.field.pairs import BLOCK_BYTES, Pairs, changes, in_precision
from pyscf_mlham.threads import all_blas_threads, shared_out

Array = NDArray[Any]

LAST_LIGHT = 10  # neon
DEPENDENT = 1e-7  # smaller eigenvalues of the auxiliary functions' Coulomb metric are dropped, as in PySCF
EXACT = 1e-12  # Hartree^1/2; Schwarz bound below which PySCF's own fitted integrals of a pair are zero


class FittedIntegrals:
    """B_P,mn with (mn|kl) = sum_P B_P,mn B_P,kl for pairs m >= n of overlapping orbitals, in memory or in a file."""

    def __init__(
        self, mol: gto.Mole, basis: dict[str, Any], level: Level, omega: float, budget: float, rough: bool = False
    ) -> None:
        """Compute the integrals.

        Args:
            mol: molecule.
            basis: auxiliary basis set.
            level: level of approximation.
            omega: see `fitted`.
            budget: see `fitted`.
            rough: whether they are whitened in the precision in which they are stored; J then differs by 1e-5 Hartree.
        """
        self.auxmol = auxmol = df.make_auxmol(mol, _loaded(basis))
        self.pairs = Pairs(mol, level.far)
        self._unpacked: list[Array] | None = None
        with all_blas_threads():
            self._whiten = Whitening(auxmol, omega)
            whiten = self._whiten.in_precision(level.dtype if rough else np.float64)
            self._b = self._allocated((whiten.rank, len(self.pairs)), level, budget)
            done = 0
            for integrals in _three_centre(mol, auxmol, omega, self.pairs.both):
                white = whiten(integrals)
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
        return np.asarray(self._b @ self.pairs.elements(density, self._b.dtype), dtype=float)

    def potential(self, charges: Array) -> Array:
        """Return the potential of charges in the whitened auxiliary functions: sum_P B_P,mn q_P, (n, n).

        Args:
            charges: (rank,).
        """
        return self.pairs.matrix(charges.astype(self._b.dtype) @ self._b)

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

    def coulomb_exchange(
        self, factors: Sequence[Array], reference: Sequence[Array], with_k: bool, with_j: bool = True
    ) -> tuple[Array, list[Array]]:
        """Return J of the sum of the densities, and K of each, minus those of the reference; zero if not requested."""
        change = density_of(factors) - (density_of(reference) if reference else 0.0)
        j = self._coulomb(change) if with_j else np.zeros(change.shape)
        if not with_k:
            return j, [np.zeros(change.shape) for _ in factors]
        return j, list(self.pairs.exchange(self._b, in_precision(changes(factors, reference), self._b.dtype)))

    def _coulomb(self, density: Array) -> Array:
        """Return J (n, n), summed in double precision over blocks of auxiliary functions."""
        elements, j = self.pairs.elements(density, self._b.dtype), np.zeros(len(self.pairs))
        step = max(1, int(BLOCK_BYTES / self._b[0].nbytes))
        for start in range(0, len(self._b), step):
            b = self._b[start : start + step]
            j += (b @ elements) @ b
        return self.pairs.matrix(j)

    def half_transformed(self, factor: Array, functions: slice = slice(None)) -> Array:
        """Return (P|mi) of factor columns i, (n, functions, columns), from integrals of both orders of each pair."""
        return self.pairs.half_transformed(self._both_orders(), factor, functions)

    def exchange_of_change(self, change: Array, doubled: Array) -> Array:
        """Return K of (a (2 L + a)^T + transpose) / 2, the change of a density L L^T if L becomes L + a.

        Args:
            change: a, (n, columns).
            doubled: half-transformed 2 L, (n, rank, columns).
        """
        self._both_orders()
        work = partial(self._exchange_of_change, change, doubled)
        k = np.sum(shared_out(work, len(self._b)), axis=0)
        return np.asarray(k + k.T) / 2

    def _exchange_of_change(self, change: Array, doubled: Array, part: slice) -> Array:
        """Return `exchange_of_change` of some of the functions, not yet symmetrised."""
        k = np.zeros((len(change), len(change)))
        step = max(1, int(BLOCK_BYTES / lib.num_threads() / (2 * doubled[:, 0].nbytes + 1)))  # no column: no bytes
        for start in range(part.start, part.stop, step):
            functions = slice(start, min(start + step, part.stop))
            half = self.half_transformed(change, functions)
            k += half.reshape(len(k), -1) @ (doubled[:, functions] + half).reshape(len(k), -1).T
        return k

    def _both_orders(self) -> list[Array]:
        if self._unpacked is None:
            self._unpacked = self.pairs.unpacked(self._b)
        return self._unpacked

    def half_bytes(self, columns: int) -> float:
        """Return the bytes of half-transformed integrals and of the integrals stored for them."""
        orbitals = self.pairs.shells[-1].stop
        return float(len(self._b) * self._b.itemsize * (self.pairs.orders + orbitals * columns))


def fit_overlapping(integrals: Any) -> None:
    """Compute the integrals of PySCF's own density fitting for pairs of overlapping orbitals; the others are zero.

    Half of the pairs overlap in a molecule of fifty atoms; PySCF computes all of them. Integrals that are computed
    already, or are to be in a file, are left to PySCF.

    Args:
        integrals: `with_df` of a mean-field object.
    """
    mol = integrals.mol
    if type(integrals) is not df.DF or integrals._cderi is not None or isinstance(integrals._cderi_to_save, str):
        return
    auxmol = df.make_auxmol(mol, integrals.auxbasis)
    orbital_pairs = mol.nao * (mol.nao + 1) // 2
    if orbital_pairs * auxmol.nao * 8e-6 > 0.9 * (integrals.max_memory - lib.current_memory()[0]):  # PySCF's own rule
        return
    pairs, done = Pairs(mol, EXACT), 0
    with all_blas_threads():
        whiten = Whitening(auxmol, mol.omega)
        b, rows, packed = np.zeros((whiten.rank, orbital_pairs)), np.arange(whiten.rank), pairs.packed
        for block in _three_centre(mol, auxmol, mol.omega, pairs.both):
            lib.takebak_2d(b, whiten(block), rows, packed[done : done + block.shape[1]])
            done += block.shape[1]
    integrals.auxmol, integrals._cderi = auxmol, b


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


class Whitening:
    """The map from (P|mn) to B_P,mn.

    Attributes:
        rank: number of rows of B, reduced for a linearly dependent basis set.
    """

    def __init__(self, auxmol: gto.Mole, omega: float) -> None:
        with auxmol.with_range_coulomb(omega or None):  # None leaves the molecule's own
            metric = auxmol.intor("int2c2e", hermi=1)  # as PySCF, whose rounding decides whether a basis is dependent
        self._root: Array | None = None
        try:
            self._root = scipy.linalg.cholesky(metric, lower=True)
            self.rank = len(metric)
        except scipy.linalg.LinAlgError:
            values, vectors = scipy.linalg.eigh(metric)
            kept = values > DEPENDENT
            self._inverse = (vectors[:, kept] / np.sqrt(values[kept])).T
            self.rank = len(self._inverse)

    def in_precision(self, dtype: Any) -> Whitening:
        """Return the same map in another precision; that of a dependent basis set stays in double precision."""
        other = copy.copy(self)
        other._root = None if self._root is None else self._root.astype(dtype, copy=False)
        return other

    def __call__(self, rows: Array) -> Array:
        """Return B of rows (n_aux, pairs), which may be overwritten."""
        if self._root is None:
            return np.asarray(self._inverse @ rows)
        rows = rows.astype(self._root.dtype, copy=False)
        trsm = scipy.linalg.get_blas_funcs("trsm", (self._root,))
        # rows are transposed for BLAS, which works in place
        return np.asarray(trsm(1.0, self._root, rows.T, lower=True, trans_a=1, side=1, overwrite_b=True).T)


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


def fitted(mol: gto.Mole, level: Level, exchange: bool, omega: float, budget: float) -> FittedIntegrals:
    """Fit the integrals of a molecule, or share those of another field of the same molecule.

    Args:
        mol: molecule.
        level: level of approximation.
        exchange: whether exact exchange is fitted too.
        omega: range-separation parameter of long-range integrals, 0 for the full ones; 1/Bohr.
        budget: bytes of memory; larger integrals are stored in a file.
    """
    return fitted_in(mol, auxiliary_basis(mol, level, exchange), level, omega, budget, rough=not exchange)


def fitted_in(
    mol: gto.Mole, basis: dict[str, Any], level: Level, omega: float, budget: float, rough: bool = False
) -> FittedIntegrals:
    """Fit the integrals in a given auxiliary basis set; see `fitted` and `FittedIntegrals`."""
    make = partial(FittedIntegrals, mol, basis, level, omega, budget, rough)
    return cast(FittedIntegrals, shared(("fit", level, str(sorted(basis.items())), omega, rough), mol, make))


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
