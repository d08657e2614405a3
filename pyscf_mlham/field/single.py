"""The field of a density-fitted object itself, with exchange and exchange-correlation in single precision.

Its integrals are those of the object, read once per build, and its grid is the object's own: the orbital gradient of a
density differs from the full one by rounding, 1e-6 to 1e-5 Hartree. A build costs a third to a half of a full one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from pyscf import df

from pyscf_mlham.arrays import Array
from pyscf_mlham.field.coarse import free_bytes
from pyscf_mlham.field.fitting import density_of, fit_overlapping, fits_unstored, fitted
from pyscf_mlham.field.grid import Functional, GridOrbitals, GridXC, Points, is_of_level
from pyscf_mlham.field.levels import COARSE, SINGLE, Level
from pyscf_mlham.field.pairs import Pairs, changes
from pyscf_mlham.field.protocol import Builds, Field, Tally

PRUNED = 1e-20  # small_rho_cutoff above which PySCF removes points by the density of the first build


def is_fitted(mf: Any) -> bool:
    """Whether full builds are cheap: Coulomb and exchange are density-fitted."""
    return isinstance(getattr(mf, "with_df", None), df.DF) and not getattr(mf, "only_dfj", False)


def is_local(mf: Any) -> bool:
    """Whether nothing but Coulomb, exchange and semilocal correlation depends on the density, nor the grid."""
    nonlocal_, pruned = hasattr(mf, "do_nlc") and mf.do_nlc(), getattr(mf, "small_rho_cutoff", 0) > PRUNED
    return not (nonlocal_ or pruned or hasattr(mf, "with_solvent") or has_hubbard(mf))


def has_hubbard(mf: Any) -> bool:
    """Whether the object's potential has the Hubbard term of DFT+U, which no cheaper field has."""
    return hasattr(mf, "U_idx")


class SingleField(Field):
    """The potential of a density-fitted object, without non-local correlation and solvent."""

    name, cost = SINGLE.name, Builds(single_builds=1)  # of one potential

    def __init__(self, mf: Any, coarse: Level = COARSE) -> None:
        """Prepare the field of an object with fitted Coulomb and exchange matrices; its grid is built.

        Args:
            coarse: level whose orbital values are used if its grid is the object's.
        """
        self.tally, self._coarse = Tally(), coarse
        self._mf, self._xc = mf, Functional(mf)
        self._pairs = Pairs(mf.mol, SINGLE.far)
        self._coulomb = fitted(mf, coarse, False, 0.0, free_bytes(mf) / 2) if fits_unstored(mf) else None
        self._grid: GridXC | None = None
        self._constant: Array | float = 0.0

    def around(self, factors: Sequence[Array], v: Array) -> SingleField:
        """Return a field that is exact at one density; see `Field`."""
        shifted = copy.copy(self)
        shifted._constant = v - self.potential(factors) + self._constant
        return shifted

    def potential(self, factors: Sequence[Array]) -> Array:
        """Return the potential of a density; see `Field`."""
        self.tally.builds += 1
        density = density_of(factors)
        v = -self._exchange(factors)  # first: PySCF then takes the integrals for the Coulomb matrix too
        if self._coulomb is None:  # single precision would lose too many digits of it, and it is cheap
            v += self._mf.with_df.get_jk(density, hermi=1, with_k=False)[0]
        else:
            v += self._coulomb.coulomb(factors)
        if self._xc.kind != "HF":
            v += self._on_grid(density).potential(factors)
        return np.asarray((v if len(factors) == 2 else v[0]) + self._constant)

    def _exchange(self, factors: Sequence[Array]) -> Array:
        """Return the exchange potential of each spin, (spins, n, n)."""
        pairs = changes(factors, [], SINGLE.dtype)
        per_electron = len(factors) / 2  # a closed shell's factor holds both spins
        k = np.zeros((len(factors), *2 * factors[0].shape[:1]))
        for omega, share in self._xc.exchange:
            whole = self._mf.with_df
            with whole.range_coulomb(omega) if omega else nullcontext(whole) as integrals:
                fit_overlapping(integrals)
                for b in integrals.loop():
                    k += per_electron * share * self._pairs.exchange(b, pairs, packed=True)
        return k

    def _on_grid(self, density: Array) -> GridXC:
        """Return the exchange-correlation potential on the object's own grid."""
        mf, coarse = self._mf, self._coarse
        if self._grid is not None:
            return self._grid
        if is_of_level(mf.grids, coarse) and coarse.dtype is SINGLE.dtype:
            self._grid = GridXC.of_level(mf, self._xc, coarse, budget=0.0)
        else:
            mf.initialize_grids(mf.mol, density)
            orbitals = GridOrbitals(mf.mol, Points.of(mf.grids), SINGLE.dtype, self._xc.deriv)
            self._grid = GridXC(mf, self._xc, orbitals, budget=0.0)
        return self._grid
