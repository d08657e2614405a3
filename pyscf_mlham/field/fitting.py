"""Coulomb and exchange matrices by density fitting with a small auxiliary basis."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
from pyscf import df, gto, lib

from pyscf_mlham.arrays import Array
from pyscf_mlham.errors import ResourceError
from pyscf_mlham.field.atoms import atomic_factor
from pyscf_mlham.field.auxiliary import auxiliary_basis, auxiliary_molecule, loaded
from pyscf_mlham.field.grid import Functional
from pyscf_mlham.field.levels import Level, shared
from pyscf_mlham.field.pairs import BLOCK_BYTES, Pairs, changes
from pyscf_mlham.field.three_centre import three_centre
from pyscf_mlham.field.whitening import AtomicWhitening, Whitening, coulomb_metric
from pyscf_mlham.threads import PIECE, all_blas_threads, shared_out

EXACT = 1e-12  # Hartree^1/2; Schwarz bound below which PySCF's own fitted integrals of a pair are zero


class FittedIntegrals:
    """B_P,mn with (mn|kl) = sum_P B_P,mn B_P,kl for pairs m >= n of overlapping orbitals, in memory or in a file.

    Attributes:
        auxmol: molecule with the auxiliary functions.
        pairs: pairs of overlapping orbitals.
    """

    far = np.inf  # largest Schwarz bound of pairs that are left out, beside the level's; Hartree^1/2

    def __init__(self, mol: gto.Mole, basis: dict[str, Any], level: Level, omega: float, budget: float) -> None:
        self.auxmol = df.make_auxmol(mol, loaded(basis))
        self.pairs = Pairs(mol, min(level.far, self.far))
        self._unpacked: list[Array] = []  # the integrals of both orders of each pair, for exchange
        with all_blas_threads():
            self._prepare(mol, omega)
            self._b = self._allocated((self._stored.rank, len(self.pairs)), level, budget)
            three_centre(mol, self.auxmol, omega, self.pairs, self._store)

    def _prepare(self, mol: gto.Mole, omega: float) -> None:  # noqa: ARG002
        """Make the map of (P|mn) to what is stored."""
        self._stored: Whitening | AtomicWhitening = Whitening(coulomb_metric(self.auxmol, omega))

    def _store(self, integrals: Array, pairs: slice) -> None:
        """Store (P|mn) of some pairs; the array may be overwritten."""
        self._b[:, pairs] = self._stored(integrals)

    def _allocated(self, shape: tuple[int, int], level: Level, budget: float) -> Array:
        self._file: Any = None
        size = float(np.prod(shape)) * np.dtype(level.dtype).itemsize
        if size <= budget:
            return np.empty(shape, dtype=level.dtype)
        # a memory-mapped file grows as it is written, and a full disk would then kill the process
        if size > (room := shutil.disk_usage(lib.param.TMPDIR).free):
            raise ResourceError(
                f"the fitted integrals need {size / 1e9:.2g} GB, but max_memory leaves {budget / 1e9:.2g} GB and "
                f"{lib.param.TMPDIR} has {room / 1e9:.2g} GB free. Increase max_memory, or set PYSCF_TMPDIR to a "
                "larger disk"
            )
        self._file = NamedTemporaryFile(dir=lib.param.TMPDIR)  # noqa: SIM115  (lives as long as the integrals)
        return np.memmap(Path(self._file.name), dtype=level.dtype, mode="w+", shape=shape)

    @property
    def nbytes(self) -> int:
        """Memory of the integrals and the root of their metric, bytes."""
        return int(self._b.nbytes) + sum(a.nbytes for a in self._unpacked) + self._stored.nbytes

    def charges(self, density: Array) -> Array:
        """Return a density (n, n) in the whitened auxiliary functions: sum_mn B_P,mn D_mn, (rank,)."""
        elements = self.pairs.elements(density, self._b.dtype)
        return np.concatenate(self._shared_out(lambda part: self._b[part] @ elements)).astype(float)

    def potential(self, charges: Array) -> Array:
        """Return the potential of charges (rank,) in the whitened auxiliary functions: sum_P B_P,mn q_P, (n, n)."""
        q = charges.astype(self._b.dtype)
        return self.pairs.matrix(np.sum(self._shared_out(lambda part: q[part] @ self._b[part]), axis=0))

    def whitened(self, rows: Array) -> Array:
        """Return L^-1 of rows (n_aux, n), which may be overwritten; V = L L^T is the metric."""
        return self._stored(rows)

    def exchange_of_each(self, factors: Sequence[Array], reference: Sequence[Array]) -> Array:
        """Return K (spins, n, n) of each density, minus that of the reference."""
        return self.pairs.exchange(self._b, changes(factors, reference, self._b.dtype))

    def coulomb(self, factors: Sequence[Array], reference: Sequence[Array] = ()) -> Array:
        """Return J (n, n) of the sum of the densities, minus that of the reference; summed in double precision."""
        change = density_of(factors) - (density_of(reference) if reference else 0.0)
        work = partial(self._coulomb, self.pairs.elements(change, self._b.dtype))
        return self.pairs.matrix(np.sum(self._shared_out(work), axis=0))

    def _coulomb(self, elements: Array, part: slice) -> Array:
        """Return J of some of the functions, (pairs,)."""
        j = np.zeros(len(self.pairs))
        for functions in self._blocks(part):
            b = self._b[functions]
            j += (b @ elements) @ b
        return j

    def _shared_out(self, work: Callable[[slice], Array]) -> list[Array]:
        """Share the functions out among threads, if there is enough work; see `shared_out`."""
        return shared_out(work, len(self._b), self._b.nbytes / PIECE)

    def _blocks(self, part: slice) -> Iterator[slice]:
        """Yield ranges of auxiliary functions whose integrals are small arrays."""
        step = max(1, int(BLOCK_BYTES / (8 * len(self.pairs))))
        return (slice(*ends) for ends in lib.prange(part.start, part.stop, step))

    def half_transformed(self, factor: Array, half: Array | None = None) -> Array:
        """Return (P|mi) of factor columns i, (n, functions, columns), from both orders of each pair.

        A new large array gets its pages from the system, which takes as long; `half` is one to be used instead.
        """
        if half is None:
            half = np.empty((len(factor), len(self._b), factor.shape[1]), dtype=self._b.dtype)
        if not self._unpacked:
            self._unpacked = self.pairs.unpacked(self._b)
        self.pairs.half_transform(self._unpacked, factor, half)
        return half

    def exchange(self, factor: Array) -> Array:
        """Return K of a density L L^T (n, n), from integrals of both orders of each pair."""
        half = self.half_transformed(factor).reshape(len(factor), -1)
        parts = shared_out(lambda part: half[:, part] @ half[:, part].T, half.shape[1], half.nbytes / PIECE)
        return np.asarray(np.sum(parts, axis=0))

    def half_bytes(self, columns: int) -> float:
        """Return the bytes of half-transformed integrals and of the integrals stored for them."""
        orbitals = self.pairs.shells[-1].stop
        return float(len(self._b) * self._b.itemsize * (self.pairs.orders + orbitals * columns))


class CoulombIntegrals(FittedIntegrals):
    """The integrals for J alone, without the cost of whitening them and as accurate as those of double precision.

    Single precision has too few digits for a whole density, so J of superposed atoms is computed beside the integrals,
    in double precision. They are whitened within each atom, V = A V' A^T, and V' is applied to charges.
    """

    far = 1e-10  # the orbital gradient then differs by less than 1e-6 Hartree, with 1e-8 by 5e-5

    def _prepare(self, mol: gto.Mole, omega: float) -> None:
        metric = coulomb_metric(self.auxmol, omega)
        self._stored = atomic = AtomicWhitening(self.auxmol, metric)
        self._rest = Whitening(atomic(atomic(metric).T))
        factor = atomic_factor(mol)
        self._atoms, self._j_of_atoms = factor @ factor.T, np.zeros(len(self.pairs))
        charges = _charges_of_atoms(mol, self.auxmol, omega, self._atoms)
        self._fit_of_atoms = atomic.transposed(self._fit(atomic(charges[:, None])[:, 0]))

    @property
    def nbytes(self) -> int:
        """Memory of all that is kept, bytes."""
        return super().nbytes + self._rest.nbytes + sum(a.nbytes for a in (self._atoms, self._j_of_atoms))

    def _store(self, integrals: Array, pairs: slice) -> None:
        self._j_of_atoms[pairs] = self._fit_of_atoms @ integrals
        super()._store(integrals, pairs)

    def charges(self, density: Array) -> Array:
        """Return a density in the whitened auxiliary functions; see `FittedIntegrals`."""
        return self._rest(super().charges(density)[:, None])[:, 0]

    def potential(self, charges: Array) -> Array:
        """Return the potential of charges; see `FittedIntegrals`."""
        return super().potential(self._rest.transposed(charges))

    def whitened(self, rows: Array) -> Array:
        """Return L^-1 of rows; see `FittedIntegrals`."""
        return self._rest(self._stored(rows))

    def _fit(self, charges: Array) -> Array:
        """Return V'^-1 of charges A^-1 (P|D), (n_aux,)."""
        return self._rest.transposed(self._rest(charges[:, None])[:, 0])

    def coulomb(self, factors: Sequence[Array], reference: Sequence[Array] = ()) -> Array:
        """Return J in double precision of arithmetic, a whole one as that of the atoms and of the deformation."""
        change = density_of(factors) - (density_of(reference) if reference else self._atoms)
        work = partial(self._charges_of, self.pairs.elements(change, float))
        fit = self._fit(np.concatenate(self._shared_out(work)))
        j = np.sum(self._shared_out(partial(self._potential_of, fit)), axis=0)
        return self.pairs.matrix(j if reference else j + self._j_of_atoms)

    def _charges_of(self, elements: Array, part: slice) -> Array:
        """Return the charges of some of the functions in double precision."""
        return np.concatenate([self._b[functions].astype(float) @ elements for functions in self._blocks(part)])

    def _potential_of(self, charges: Array, part: slice) -> Array:
        """Return the potential of some of the charges in double precision, (pairs,)."""
        return np.asarray(sum(charges[block] @ self._b[block].astype(float) for block in self._blocks(part)))


def _charges_of_atoms(mol: gto.Mole, auxmol: gto.Mole, omega: float, density: Array) -> Array:
    """Return sum_mn (P|mn) D_mn of a density that is block-diagonal by atoms, (n_aux,)."""
    both, charges = mol + auxmol, np.zeros(auxmol.nao)
    with both.with_range_coulomb(omega or None):
        for first, last, begin, end in mol.aoslice_by_atom():
            integrals = both.intor("int3c2e", shls_slice=(first, last, first, last, mol.nbas, both.nbas))
            charges += np.einsum("mnp,mn->p", integrals, density[begin:end, begin:end])
    return charges


def fit_overlapping(integrals: Any) -> None:
    """Compute the integrals of `mf.with_df`, PySCF's own density fitting, for overlapping pairs; the others are zero.

    Half of the pairs overlap in a molecule of fifty atoms; PySCF computes all of them. Integrals that are computed
    already, or are to be in a file, are left to PySCF.
    """
    mol = integrals.mol
    if type(integrals) is not df.DF or integrals._cderi is not None or isinstance(integrals._cderi_to_save, str):
        return
    auxmol = auxiliary_molecule(integrals)
    orbital_pairs = mol.nao * (mol.nao + 1) // 2
    if orbital_pairs * auxmol.nao * 8e-6 > 0.9 * (integrals.max_memory - lib.current_memory()[0]):  # PySCF's own rule
        return
    pairs = Pairs(mol, EXACT)
    with all_blas_threads():
        whiten = Whitening(coulomb_metric(auxmol, mol.omega))
        b, rows, packed = np.zeros((whiten.rank, orbital_pairs)), np.arange(whiten.rank), pairs.packed

        def store(block: Array, part: slice) -> None:
            lib.takebak_2d(b, whiten(block), rows, packed[part])

        three_centre(mol, auxmol, mol.omega, pairs, store)
    integrals.auxmol, integrals._cderi = auxmol, b


def fitted(mf: Any, level: Level, exchange: bool, omega: float, budget: float) -> FittedIntegrals:
    """Fit the integrals of a mean-field object, or share those of another field of the same molecule.

    Args:
        exchange: whether exact exchange is fitted too.
        omega: range-separation parameter of long-range integrals, 0 for the full ones; 1/Bohr.
        budget: bytes of memory; larger integrals are stored in a file.
    """
    if exchange or not fits_unstored(mf):
        basis = auxiliary_basis(mf.mol, level, exchange)
    else:
        basis = dict(auxiliary_molecule(mf.with_df)._basis)
    return fitted_in(mf.mol, basis, level, omega, budget, exchange)


def fits_unstored(mf: Any) -> bool:
    """Whether an object fits the Coulomb matrix alone, and stores no integrals for it."""
    integrals: Any = getattr(mf, "with_df", None)
    return type(integrals) is df.DF and integrals._cderi is None and not Functional(mf).exchange


def fitted_in(
    mol: gto.Mole, basis: dict[str, Any], level: Level, omega: float, budget: float, exchange: bool = True
) -> FittedIntegrals:
    """Fit the integrals in a given auxiliary basis set; see `fitted` and `FittedIntegrals`."""
    make = partial(FittedIntegrals if exchange else CoulombIntegrals, mol, basis, level, omega, budget)
    return shared(("fit", level, str(sorted(basis.items())), omega, exchange), mol, make)


def density_of(factors: Sequence[Array]) -> Array:
    """Return the density matrix, the sum of L L^T; factors: L of each spin, or one of both, (n, k)."""
    return np.asarray(np.sum([factor @ factor.T for factor in factors], axis=0))
