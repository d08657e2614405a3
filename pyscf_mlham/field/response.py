"""The response level: how the effective potential answers a change of density, at the cost of a few percent of it.

    V[D] = V[D_r] + R[D - D_r],   R = (J + f_xc) in a fitting basis - hybrid share of K in a minimal fitting basis

The semilocal kernel f_xc of the superposed atomic densities is folded into the metric of the fitting basis,
``B^T (1 + W^T <P|f_xc|Q> W) B`` with B = W^T (P|mn): once made, it costs nothing more than J. For unrestricted objects
the magnetisation has a kernel of its own. Near convergence the error of R is a fiftieth of the change of V. Minimal
fitting bases for responses are those of TDDFT-ris (Zhou, Della Sala, Parker, J. Phys. Chem. Lett. 14, 1968 (2023)).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import dft, gto, scf

from pyscf_mlham.ao.mole import is_ghost
from pyscf_mlham.field.coarse import free_bytes
from pyscf_mlham.field.fitting import FittedIntegrals, density_of, fitted, fitted_in
from pyscf_mlham.field.grid import Functional, neighbours_first
from pyscf_mlham.field.levels import COARSE, RESPONSE
from pyscf_mlham.field.protocol import Tally
from pyscf_mlham.field.solvent import reaction_of

Array = NDArray[Any]

THIN = 1e-4  # electrons/Bohr^3; the kernel of thinner densities is left out
# The kernel of a meta-GGA acts through the kinetic energy density as well, which the fit of a density does not have.
# Without that part it is a poor one: the gradient falls 3- to 8-fold per build, and 13- to 20-fold with a GGA's kernel.
META = "{share:.12g}*pbe,pbe"
TAIL = 1e-4  # functions below it on a block of points are left out
POINTS = 300  # of a block


class Kernel(NamedTuple):
    """Semilocal exchange-correlation kernel in whitened fitting functions, (rank, rank) each.

    Attributes:
        charge: response of both spins' potential to the density, with the Coulomb metric 1 in it.
        spin: response of half the difference of the spins' potentials to the magnetisation.
    """

    charge: Array
    spin: Array | None


class ResponseField:
    """Linear response of the potential of a mean-field object; a field only `around` a density.

    Attributes:
        name: of the level.
        tally: responses computed so far.
    """

    name = RESPONSE.name

    def __init__(self, mf: Any) -> None:
        """Prepare integrals and kernel.

        Args:
            mf: PySCF mean-field object of real orbitals; left as it is.
        """
        self.tally = Tally()
        xc, budget = Functional(mf), free_bytes(mf) / 2
        self._shares = [(omega, share) for omega, share in ((0.0, xc.hyb), (xc.omega, xc.long_range)) if share]
        self._coulomb = fitted(mf.mol, COARSE, bool(self._shares), 0.0, budget)
        self._exchange = [
            fitted_in(mf.mol, exchange_basis(mf.mol), RESPONSE, omega, budget / 2) for omega, _ in self._shares
        ]
        self._xc, self._mf = xc, mf
        self._kernel = self._kernel_of([atomic_factor(mf.mol)])
        self._solvent = reaction_of(mf, self._coulomb)
        self._reference: list[Array] = []
        self._constant: Array | float = 0.0

    def with_kernel_of(self, factors: Sequence[Array]) -> ResponseField:
        """Return the same field with the semilocal kernel of another density, the sum of L L^T."""
        other = copy.copy(self)
        other._kernel = self._kernel_of(factors)
        return other

    def _kernel_of(self, factors: Sequence[Array]) -> Kernel | None:
        return None if self._xc.kind == "HF" else _kernel(self._mf, self._xc, self._coulomb, np.hstack(factors))

    def around(self, factors: Sequence[Array], v: Array) -> ResponseField:
        """Return the field v + R[D - L L^T]; see `Field`."""
        anchored = copy.copy(self)
        anchored._reference, anchored._constant = list(factors), v
        return anchored

    def release(self) -> None:
        """Keep everything: it is small."""

    def potential(self, factors: Sequence[Array]) -> Array:
        """Return the potential of a density; see `Field`."""
        self.tally.builds += 1
        changes = [a @ a.T - b @ b.T for a, b in zip(factors, self._reference, strict=True)]
        v = self._coulomb_and_kernel(changes)
        per_electron = 1.0 if len(factors) == 2 else 0.5  # a closed shell's factor holds both spins
        for integrals, (_, share) in zip(self._exchange, self._shares, strict=True):
            ks = integrals.coulomb_exchange(factors, self._reference, with_k=True, with_j=False)[1]
            v = [a - per_electron * share * k for a, k in zip(v, ks, strict=True)]
        field = np.stack(v) if len(factors) == 2 else v[0]
        if self._solvent is not None:
            field = field + self._solvent.response(density_of(factors) - density_of(self._reference))
        return np.asarray(field + self._constant)

    def _coulomb_and_kernel(self, changes: Sequence[Array]) -> list[Array]:
        """Coulomb and semilocal response of each spin."""
        charges = [self._coulomb.charges(change) for change in changes]
        total = np.sum(charges, axis=0)
        both = self._coulomb.potential(total if self._kernel is None else self._kernel.charge @ total)
        if self._kernel is None or self._kernel.spin is None:
            return [both for _ in changes]
        half = self._coulomb.potential(self._kernel.spin @ (charges[0] - charges[1]))
        return [both + half, both - half]


def atomic_factor(mol: gto.Mole) -> Array:
    """Return L of superposed spherical neutral atoms, each projected on its own AOs: D = L L^T is block-diagonal.

    Returns:
        (n_ao, n_atomic_orbitals).
    """
    blocks = [
        np.zeros((end - begin, 0)) if is_ghost(mol, i) else _atom(mol, i)
        for i, (_, _, begin, end) in enumerate(mol.aoslice_by_atom())
    ]
    factor = np.zeros((mol.nao, sum(block.shape[1] for block in blocks)))
    row = column = 0
    for block in blocks:
        factor[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return factor


def _atom(mol: gto.Mole, atom: int) -> Array:
    """Return L of one neutral atom in its own AOs, from PySCF's minao occupations."""
    symbol = mol.atom_symbol(atom)
    alone = gto.Mole()
    alone.atom, alone.unit, alone.cart, alone.verbose = [(symbol, (0.0, 0.0, 0.0))], "Bohr", mol.cart, 0
    alone.basis = {symbol: mol._basis[symbol]}
    alone.ecp = {symbol: mol._ecp[symbol]} if symbol in mol._ecp else {}
    alone.spin = None
    alone.build(dump_input=False, parse_arg=False)
    density = scf.hf.init_guess_by_minao(alone)
    filled = density.mo_occ > 0
    orbitals = density.mo_coeff[:, filled]
    norms = np.einsum("mi,mn,ni->i", orbitals, alone.intor("int1e_ovlp"), orbitals)
    return np.asarray(orbitals * np.sqrt(density.mo_occ[filled] / norms))


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
    """Return the class of elements that share their thetas."""
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


def _kernel(mf: Any, xc: Functional, integrals: FittedIntegrals, factor: Array) -> Kernel:
    """Fold the kernel of the density L L^T on a small grid into the metric."""
    charge, *spin = _kernel_matrices(mf, xc, integrals.auxmol, factor)
    whitened = integrals.whitened_operator(charge)
    whitened[np.diag_indices_from(whitened)] += 1.0
    return Kernel(whitened, integrals.whitened_operator(spin[0]) if spin else None)


def _kernel_matrices(mf: Any, xc: Functional, auxmol: gto.Mole, factor: Array) -> Array:
    """<P|f_xc|Q> of charge, and of spin for unrestricted objects, (1 or 2, n_aux, n_aux)."""
    name, kind = (META.format(share=1 - xc.hyb), "GGA") if xc.kind == "MGGA" else (xc.name, xc.kind)
    unrestricted = mf.istype("UHF") or mf.istype("ROHF")
    grids = dft.gen_grid.Grids(mf.mol)
    grids.verbose, grids.level, grids.prune = 0, RESPONSE.grid, mf.grids.prune
    grids.build(with_non0tab=False, sort_grids=False)
    order = neighbours_first(grids.coords)
    matrices = np.zeros((1 + unrestricted, auxmol.nao, auxmol.nao))
    for start in range(0, len(order), POINTS):
        block = order[start : start + POINTS]
        coords, weights = grids.coords[block], grids.weights[block]
        ao = _values(mf.mol, coords, kind)
        reached = np.flatnonzero(np.abs(ao[0]).max(axis=0) > TAIL)
        kernels = _kernel_on_grid(mf._numint, name, kind, _density(ao[:, :, reached] @ factor[reached]), unrestricted)
        values = _values(auxmol, coords, kind).astype(np.float32)
        scaled = np.abs(values[0]) * np.sqrt(np.abs(weights))[:, None]
        reach = np.flatnonzero(scaled.max(axis=0) > TAIL)
        values = np.ascontiguousarray(values[:, :, reach])
        for matrix, kernel in zip(matrices, kernels, strict=True):
            weighted = np.einsum("abp,bpq->apq", (kernel * weights).astype(np.float32), values, optimize=True)
            n = values.shape[0] * values.shape[1]
            matrix[np.ix_(reach, reach)] += values.reshape(n, -1).T @ weighted.reshape(n, -1)
    return matrices


def _density(x: Array) -> Array:
    """Density, and gradient, of factor columns (1 or 4, points, columns) on a grid: (1 or 4, points)."""
    return np.array([np.einsum("po,po->p", x[0], x[0]), *(2 * np.einsum("po,po->p", x[0], d) for d in x[1:])])


def _kernel_on_grid(ni: Any, name: str, kind: str, rho: Array, unrestricted: bool) -> list[Array]:
    """f_xc of charge and of spin for a density of equal spins, over density and gradient: (1 or 4, 1 or 4, points)."""
    variables = rho if kind == "GGA" else rho[0]
    if not unrestricted:
        f = ni.eval_xc_eff(name, variables, deriv=2, xctype=kind, spin=0)[2]
        return [np.where(rho[0] > THIN, f, 0.0)]
    half = variables / 2
    f = np.where(rho[0] > THIN, ni.eval_xc_eff(name, np.stack([half, half]), deriv=2, xctype=kind, spin=1)[2], 0.0)
    same, other = f[0, :, 0], f[0, :, 1]
    return [(same + other) / 2, (same - other) / 2]


def _values(mol: gto.Mole, coords: Array, kind: str) -> Array:
    """Values, and gradients unless the kind is LDA, of a molecule's functions: (1 or 4, points, functions)."""
    deriv = 0 if kind == "LDA" else 1
    values = mol.eval_gto(f"GTOval_{'cart' if mol.cart else 'sph'}_deriv{deriv}", coords)
    return np.asarray(values.reshape(-1, *values.shape[-2:]))
