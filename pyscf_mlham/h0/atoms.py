"""'atoms': the Hamiltonian of superposed neutral atoms of a crystal, without SCF, fitted integrals and Ewald sums.

    H0 = T + V_nonlocal + sum_A V_A(r) + v_xc[sum_A n_A](r),   V_A(r) = V_local(r) + integral n_A(r') / |r - r'| dr'

n_A is the density of the spherical atom in the cell's own basis set. The potential V_A of a neutral atom ends within
10 Bohr, so that the sum over the crystal is finite at each point of an atomic grid; the cost is that of one
exchange-correlation matrix, at any k points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pyscf import gto
from pyscf.dft import libxc
from pyscf.dft.gen_grid import gen_atomic_grids
from scipy.special import erf

from pyscf_mlham.ao.lattice import up_to_sign
from pyscf_mlham.arrays import Array
from pyscf_mlham.errors import OutOfDomainError
from pyscf_mlham.field.atoms import atomic_densities
from pyscf_mlham.field.partition import NEAREST, ON_AXIS, RADII, Neighbour, Radial, atom_grid

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

ATOMS = "atoms"  # name of the baseline
GRID = 35, 434  # radial and angular points of an atom; the angular ones limit the accuracy: 2e-5 Ha


class Atom(NamedTuple):
    """A spherical neutral atom."""

    potential: CubicSpline  # V_A(r), Hartree; as short as the density
    radial: Radial
    spread: float  # integral of r^2 n_A, Bohr^2

    @classmethod
    def each_of(cls, cell: Any) -> dict[str, Atom]:
        """Return each kind of atom of a cell."""
        return {symbol: cls._of(*atom, cell._pseudo[symbol]) for symbol, atom in atomic_densities(cell).items()}

    @classmethod
    def _of(cls, alone: gto.Mole, dm: Array, pseudo: Any) -> Atom:
        from scipy.integrate import trapezoid  # see `Radial.of`
        from scipy.interpolate import CubicSpline

        radial = Radial.of(alone, dm)
        repulsion = np.einsum("pij,ij->p", alone.intor("int1e_grids", grids=ON_AXIS), dm)
        spread = trapezoid(4 * np.pi * RADII**4 * radial.density(RADII), RADII)
        return cls(CubicSpline(RADII, repulsion + local_potential(pseudo, RADII)), radial, float(spread))


def superposed_atoms_of(mf: Any, kpts: Array, xc: str | None = None) -> Array:
    """Return H0 of a mean-field object at k points, with its own zero of the energy; see `superposed_atoms`."""
    from pyscf.pbc.df.fft import FFTDF

    fitted = not isinstance(mf.with_df, FFTDF)
    return superposed_atoms(mf.mol, kpts, getattr(mf, "xc", "hf") if xc is None else xc, fitted)


def superposed_atoms(cell: Any, kpts: Array, xc: str, fitted: bool = True) -> Array:
    """Return H0 at k points, (N_k, n, n) Hartree.

    Args:
        cell: PySCF cell with pseudopotentials.
        kpts: (N_k, 3) 1/Bohr, any.
        xc: functional, see `functional_of`.
        fitted: whether the zero of the energy is that of fitted integrals, not that of FFTDF.
    """
    from pyscf.pbc.dft.gen_grid import BeckeGrids  # importing PySCF's periodic part takes a second
    from pyscf.pbc.dft.numint import KNumInt
    from pyscf.pbc.gto.pseudo.pp_int import get_pp_nl

    if missing := sorted({cell.atom_symbol(i) for i in range(cell.natm)} - set(cell._pseudo)):
        raise OutOfDomainError(f"{', '.join(missing)} has no pseudopotential; set cell.pseudo")
    first, of_first, opposite = up_to_sign(kpts, np.asarray(cell.lattice_vectors()))
    kpts = kpts[first]  # H(-k) = H(k)*
    xc, ni = functional_of(xc), KNumInt()
    kind = ni._xc_type(xc)
    atoms, grids, half = Atom.each_of(cell), BeckeGrids(cell), np.zeros((len(kpts), cell.nao, cell.nao), dtype=complex)
    radials, atomic_grids = {s: atom.radial for s, atom in atoms.items()}, gen_atomic_grids(cell, GRID, prune=None)
    for i in range(cell.natm):
        grids.coords, grids.weights, neighbours = atom_grid(cell, radials, atomic_grids, i)
        potential, density = _sums(atoms, neighbours, len(grids.coords))
        v = ni.eval_xc_eff(xc, density if kind == "GGA" else density[0], deriv=1, xctype=kind)[1]
        v = v.reshape(-1, len(potential))
        v[0] += potential
        start = 0
        for ao, _, mask, weights, _ in ni.block_loop(cell, grids, cell.nao, int(kind == "GGA"), kpts):
            part = weights * v[:, start : start + len(weights)]
            half += ni._vxc_mat(cell, ao, part, mask, kind, (0, cell.nbas), cell.ao_loc, 1)
            start += len(weights)
    kinetic, overlap = (np.asarray(cell.pbc_intor(f"int1e_{name}", hermi=1, kpts=kpts)) for name in ("kin", "ovlp"))
    h0 = kinetic + np.asarray(get_pp_nl(cell, kpts)) + half + half.conj().swapaxes(1, 2)
    h0 = (h0 + _mean_potential(cell, atoms, fitted) * overlap)[of_first]
    return np.asarray(np.where(opposite[:, None, None], h0.conj(), h0))


def functional_of(xc: str) -> str:
    """Return the functional of superposed atoms, for which their density is all: PBE for others than LDA and GGA."""
    exact = xc.lower() == "hf" or libxc.is_hybrid_xc(xc)
    return xc if not exact and libxc.xc_type(xc) in ("LDA", "GGA") else "pbe"


def _mean_potential(cell: Any, atoms: dict[str, Atom], fitted: bool) -> float:
    """Return what PySCF's potential of a crystal has more than that of neutral atoms, which is zero between them.

    The Coulomb potential of a bulk crystal has the mean zero. That of layers with fitted integrals is raised by the
    mean of the smeared ions, 2 pi Z r^2 / volume with the radius r of the pseudopotential, and depends on the vacuum.
    """
    present = [symbol for i in range(cell.natm) if (symbol := cell.atom_symbol(i)) in atoms]  # no ghost atoms
    if cell.dimension == 3:
        return 2 * np.pi / 3 * sum(atoms[symbol].spread for symbol in present) / float(cell.vol)
    ions = (cell._pseudo[symbol][:2] for symbol in present)
    smeared = sum(sum(charges) * radius**2 for charges, radius in ions)
    return float(2 * np.pi * smeared / cell.vol) if fitted and cell.dimension == 2 else 0.0


def _sums(atoms: dict[str, Atom], neighbours: Sequence[Neighbour], points: int) -> tuple[Array, Array]:
    """Return the potential (n,), and density and its gradient (4, n), of all atoms at the points of one atom's grid."""
    potential, density = np.zeros(points), np.zeros((4, points))
    for symbol, near, vectors in neighbours:
        v, n = atoms[symbol].potential, atoms[symbol].radial.density
        r = np.linalg.norm(vectors, axis=1).clip(NEAREST)
        potential[near] += v(r)
        density[0, near] += n(r).clip(0)
        density[1:, near] += n(r, 1) / r * vectors.T
    return potential, density


def local_potential(pseudo: Any, r: Array) -> Array:
    """Return the local part of a GTH pseudopotential, Hartree; Goedecker, Teter, Hutter, PRB 54, 1703 (1996).

    Args:
        pseudo: PySCF's list of its parameters.
        r: distances, Bohr.
    """
    charge, (radius, _, coefficients) = sum(pseudo[0]), pseudo[1:4]
    x = r / radius
    inner = np.sqrt(2 / np.pi) / radius  # limit of erf(x / sqrt(2)) / r for small r
    coulomb = np.where(r > 0, erf(x / np.sqrt(2)) / np.where(r > 0, r, 1.0), inner)
    short = np.polynomial.polynomial.polyval(x**2, [*coefficients, 0.0])
    return np.asarray(np.exp(-(x**2) / 2) * short - charge * coulomb)
