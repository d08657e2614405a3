"""The response level: linear response of the effective potential to a change of density, at a few percent of its cost.

    V[D] = V[D_r] + R[D - D_r],   R = (J + f_xc) in a fitting basis - hybrid share of K in a minimal fitting basis

The semilocal kernel f_xc of a reference density is folded into the metric of the fitting basis,
``B^T (1 + W^T <P|f_xc|Q> W) B`` with B = W^T (P|mn): once made, it costs no more than J. Near convergence the error
of R is a fiftieth of the change of V or less. Minimal fitting bases for responses are those of TDDFT-ris (Zhou, Della
Sala, Parker, J. Phys. Chem. Lett. 14, 1968 (2023)), with exponents fitted to changes of exchange in SCF.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from functools import cache, cached_property, partial
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from pyscf import gto, lib
from pyscf.dft.numint import NumInt

from pyscf_mlham.arrays import Array
from pyscf_mlham.field.coarse import free_bytes
from pyscf_mlham.field.fitting import FittedIntegrals, density_of, fitted, fitted_in
from pyscf_mlham.field.grid import Functional, Points, density_rows, orbital_values
from pyscf_mlham.field.levels import COARSE, RESPONSE, Level
from pyscf_mlham.field.pairs import BLOCK_BYTES, changes
from pyscf_mlham.field.protocol import Field, Tally
from pyscf_mlham.field.solvent import reaction_of
from pyscf_mlham.threads import PIECE, each, shared_out

THIN = 1e-4  # electrons/Bohr^3; the kernel of lower densities is neglected
# The kernel of a meta-GGA also depends on the kinetic energy density, which a fitted density lacks. Without that part
# it is poor: the gradient falls 3- to 8-fold per build, and 13- to 20-fold with a GGA's kernel.
ROUGH_KERNEL = "{share:.12g}*lda,vwn"
META_KERNEL = "{share:.12g}*pbe,pbe"
TAIL = 1e-4  # functions with smaller values on a block of points are neglected
BLOCK = 300  # number of points in a block


class ResponseField(Field):
    """Linear response of the potential of a mean-field object; a field only `around` a density.

    Attributes:
        rough: whether the semilocal kernel is a rough one.
        is_portable: whether it can be separated from its object; not with a solvent.
    """

    name = RESPONSE.name
    rough = False

    def __init__(self, mf: Any, level: Level = COARSE) -> None:
        """Prepare the response of an object of real orbitals, which is not changed, in the fitting basis of a level."""
        self.tally = Tally()
        xc, budget = Functional(mf), free_bytes(mf) / 2
        self._shares = [(omega, share) for omega, share in ((0.0, xc.hyb), (xc.omega, xc.long_range)) if share]
        self._coulomb = fitted(mf, level, bool(self._shares), 0.0, budget)
        self._exchange = [
            fitted_in(mf.mol, exchange_basis(mf.mol), RESPONSE, omega, budget / 2) for omega, _ in self._shares
        ]
        self._xc, self._mf = xc, mf
        self._points = Points.of_level(mf.mol, RESPONSE, mf.grids.prune) if xc.kind != "HF" else None
        self._kernel: Array | None = None  # (spins, spins, rank, rank), with the Coulomb metric 1 in it
        self._solvent = reaction_of(mf, self._coulomb)
        self.is_portable = self._solvent is None
        self._reference: list[Array] = []
        self._changes: list[list[_ExchangeOfChange]] = []  # of each share of exchange and each spin
        self._budget = budget / 2
        self._constant: Array | float = 0.0

    def with_kernel(self, factors: Sequence[Array], rough: bool = False) -> ResponseField:
        """Return the same field with the semilocal kernel of a density, the sum of L L^T.

        Args:
            rough: use the local density approximation, at a third of the cost, which is sufficient for a first guess.
        """
        other = copy.copy(self)
        other.rough = rough and self._points is not None
        if self._points is not None:
            xc = Semilocal(self._mf._numint, self._xc.name, self._xc.kind)
            if rough or xc.kind == "MGGA":
                template, kind = (ROUGH_KERNEL, "LDA") if rough else (META_KERNEL, "GGA")
                # not the object's NumInt, which may have another functional in the place of every name
                xc = Semilocal(NumInt(), template.format(share=1 - self._xc.hyb), kind)
            other._kernel = _kernel(self._mf.mol, xc, self._coulomb, factors, self._points, self._budget)
        return other

    def around(self, factors: Sequence[Array], v: Array) -> ResponseField:
        """Return the field v + R[D - L L^T]; see `Field`."""
        shifted = copy.copy(self)
        shifted._reference, shifted._constant = list(factors), v
        shifted._changes = [[_ExchangeOfChange(fit, origin) for origin in factors] for fit in self._exchange]
        return shifted

    def without_object(self) -> ResponseField:
        """Return the same response without the mean-field object, so that it does not keep that in memory."""
        other = copy.copy(self)
        other.tally, other._mf, other._reference, other._changes, other._constant = Tally(), None, [], [], 0.0
        other._points = None  # a new kernel needs the object
        return other

    @property
    def nbytes(self) -> int:
        """Memory of the integrals, the roots of their metrics and the kernel, bytes."""
        kernel = 0 if self._kernel is None else self._kernel.nbytes
        return kernel + sum(integrals.nbytes for integrals in (self._coulomb, *self._exchange))

    def potential(self, factors: Sequence[Array]) -> Array:
        """Return the potential of a density; see `Field`."""
        self.tally.builds += 1
        changes = [a @ a.T - b @ b.T for a, b in zip(factors, self._reference, strict=True)]
        v = self._coulomb_and_kernel(changes)
        per_electron = len(factors) / 2  # a closed shell's factor holds both spins
        for i, (_, share) in enumerate(self._shares):
            for of_spin, k in zip(v, self._exchange_of_change(i, factors), strict=True):
                of_spin -= per_electron * share * k
        field = v if len(factors) == 2 else v[0]
        if self._solvent is not None:
            field = field + self._solvent.response(density_of(factors) - density_of(self._reference))
        return np.asarray(field + self._constant)

    def _exchange_of_change(self, i: int, factors: Sequence[Array]) -> list[Array]:
        """Return K[L L^T] - K[L_r L_r^T] of each spin; half-transformed L_r are stored if memory allows."""
        integrals, columns = self._exchange[i], max(factor.shape[1] for factor in self._reference)
        # for each spin the reference and the change
        if integrals.half_bytes(2 * len(factors) * columns) > self._budget / len(self._shares):
            return list(integrals.exchange_of_each(factors, self._reference))
        return [change(factor) for change, factor in zip(self._changes[i], factors, strict=True)]

    def _coulomb_and_kernel(self, changes: Sequence[Array]) -> Array:
        """Return the Coulomb and semilocal response, (spins, n, n)."""
        charges = [self._coulomb.charges(change) for change in changes]
        if self._kernel is None:
            return np.stack([self._coulomb.potential(np.sum(charges, axis=0))] * len(changes))
        induced = (sum(kernel @ q for kernel, q in zip(row, charges, strict=True)) for row in self._kernel)
        return np.stack([self._coulomb.potential(q) for q in induced])


class _ExchangeOfChange:
    """K of a density L L^T minus that of a reference, of which half-transformed integrals are stored."""

    def __init__(self, integrals: FittedIntegrals, origin: Array) -> None:
        self._integrals, self._origin = integrals, origin
        self._doubled: Array | None = None  # half-transformed twice the origin
        self._work = np.empty(0)  # room for a change

    def __call__(self, factor: Array) -> Array:
        origin, columns = self._origin, factor.shape[1]
        if origin.shape[1] > columns:  # superposed atoms: the change is not small, and has more columns than L
            return self._integrals.exchange(factor) - self._whole
        if self._doubled is None or self._doubled.shape[2] != columns:
            padded = np.pad(origin, ((0, 0), (0, columns - origin.shape[1])))
            self._doubled = self._integrals.half_transformed(2 * padded)
            self._work = np.empty_like(self._doubled)
        ((change, _),) = changes([factor], [origin])
        half = self._integrals.half_transformed(change, self._work)
        a, b = (array.reshape(len(change), -1) for array in (half, self._doubled))
        k = np.sum(shared_out(partial(_products, a, b), a.shape[1], a.nbytes / PIECE), axis=0)
        return np.asarray(k + k.T) / 2

    @cached_property
    def _whole(self) -> Array:
        return self._integrals.exchange(self._origin)


def _products(a: Array, b: Array, part: slice) -> Array:
    """Return a (a + b)^T of some of the columns, a few at a time."""
    k = np.zeros((len(a), len(a)))
    step = max(1, int(BLOCK_BYTES / (2 * a.itemsize * len(a))))
    for start, stop in lib.prange(part.start, part.stop, step):
        k += a[:, start:stop] @ (a[:, start:stop] + b[:, start:stop]).T
    return k


def exchange_basis(mol: gto.Mole) -> dict[str, Any]:
    """Return the minimal fitting basis of each element: exponents theta / R^2 with the atomic radius R."""
    table = _exchange_table()
    basis = {}
    for symbol in set(mol.elements):
        element = gto.mole._std_symbol_without_ghost(symbol)
        radius = table["radii_bohr"].get(element, table["radii_bohr"]["Rn"])
        functions = table["functions"][_class(gto.charge(element))]
        basis[symbol] = [[l, [theta / radius**2, 1.0]] for l, theta in functions]
    return basis


def _class(charge: int) -> str:
    """Return the class of an element, whose members share their thetas."""
    if charge <= 2:
        return "hydrogen"
    if 5 <= charge <= 10:
        return "BF"
    if 14 <= charge <= 18:
        return "SiCl"
    p_block = any(first <= charge <= last for first, last in ((31, 36), (49, 54), (81, 86)))
    return "heavy" if p_block else "metal"


@cache
def _exchange_table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(files("pyscf_mlham.field").joinpath("exchange_set.json").read_text())
    return table


class Semilocal(NamedTuple):
    """A functional without exact exchange: its name or PySCF's formula, kind LDA or GGA, and what evaluates it."""

    ni: NumInt
    name: str
    kind: str

    def kernel(self, rho: Array) -> list[Array]:
        """Return f_xc of rho (spins, 1 or 4, points): one, or those of aa, ab, bb, (1|4, 1|4, points)."""
        variables, spin = rho if self.kind == "GGA" else rho[:, 0], len(rho) - 1
        rho_or_pair = variables if spin else variables[0]
        f = self.ni.eval_xc_eff(self.name, rho_or_pair, deriv=2, xctype=self.kind, spin=spin)[2]
        f = np.where(rho[:, 0].sum(axis=0) > THIN, f, 0.0)
        return [f[0, :, 0], f[0, :, 1], f[1, :, 1]] if spin else [f]


def _kernel(
    mol: gto.Mole, xc: Semilocal, integrals: FittedIntegrals, factors: Sequence[Array], points: Points, budget: float
) -> Array:
    """Return the Coulomb and semilocal kernel of a density in whitened functions, (spins, spins, rank, rank)."""
    blocks = [slice(*ends) for ends in lib.prange(0, len(points.weights), BLOCK)]
    rho = np.concatenate(each(lambda block: _density(mol, points.coords[block], xc.kind, factors), blocks), axis=-1)
    f = [points.weights * kernel for kernel in xc.kernel(rho)]
    work = partial(_kernel_matrices, integrals.auxmol, points, xc.kind, f, blocks)
    most = budget / (8 * len(f) * integrals.auxmol.nao**2)
    matrices = np.sum(shared_out(work, len(blocks), most), axis=0)
    halves = [integrals.whitened((matrix + matrix.T) / 2) for matrix in matrices]
    folded = [integrals.whitened(np.array(half.T)) for half in halves]
    for matrix in folded:
        matrix[np.diag_indices_from(matrix)] += 1.0
    same, *rest = folded
    return np.array([[same, rest[0]], [rest[0], rest[1]]] if rest else [[same]])


def _kernel_matrices(
    auxmol: gto.Mole, points: Points, kind: str, f: Sequence[Array], blocks: Sequence[slice], part: slice
) -> Array:
    """Return <P|f|Q> of weighted kernels f on some blocks of points, (len(f), n_aux, n_aux), not yet symmetrised."""
    matrices = np.zeros((len(f), auxmol.nao, auxmol.nao))
    for block in blocks[part]:
        values = orbital_values(auxmol, points.coords[block], int(kind != "LDA"), TAIL).astype(np.float32)
        size = np.abs(values[0]) * np.sqrt(np.abs(points.weights[block]))[:, None]
        reach = np.flatnonzero(size.max(axis=0) > TAIL)
        values = np.ascontiguousarray(values[:, :, reach])
        rows = values.shape[0] * values.shape[1]
        for matrix, kernel in zip(matrices, f, strict=True):
            weighted = np.einsum("abp,bpq->apq", kernel[:, :, block].astype(np.float32), values, optimize=True)
            matrix[np.ix_(reach, reach)] += values.reshape(rows, -1).T @ weighted.reshape(rows, -1)
    return matrices


def _density(mol: gto.Mole, coords: Array, kind: str, factors: Sequence[Array]) -> Array:
    """Return the density of each spin, and its gradient unless the kind is LDA: (spins, 1 or 4, points)."""
    ao = orbital_values(mol, coords, int(kind != "LDA"), TAIL)
    reached = np.flatnonzero(np.abs(ao[0]).max(axis=0) > TAIL)
    return np.array([density_rows(ao[:, :, reached] @ factor[reached]) for factor in factors])
