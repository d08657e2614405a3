"""A mean field at a few percent of the cost of the full one, with nearly the same derivative.

Coulomb and exchange by density fitting with a small auxiliary basis, exchange-correlation on a small grid with stored
orbital values, both in single precision by default. The neglected terms (non-local correlation, dispersion) change
little with the density; the multilevel solver corrects for them at every full build.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from pyscf import lib

from pyscf_mlham.arrays import Array
from pyscf_mlham.field.fitting import density_of, fitted
from pyscf_mlham.field.grid import Functional, GridXC
from pyscf_mlham.field.levels import Level
from pyscf_mlham.field.protocol import Builds, Field, Tally
from pyscf_mlham.field.solvent import reaction_of

SMALLEST_BUDGET = 2e8  # bytes; lower bound for any max_memory


class CoarseField(Field):
    """A coarse approximation to the potential of a mean-field object."""

    cost = Builds(coarse_builds=1)  # of one potential

    def __init__(self, mf: Any, level: Level) -> None:
        """Prepare integrals and grid for an object of real orbitals, which is not changed."""
        self.name, self.tally = level.name, Tally()
        self._constant: Array | float = 0.0
        self._xc = Functional(mf)
        budget = free_bytes(mf) / 2
        self._reference: list[Array] = []  # factors of the density that the field is exact at
        self._coulomb = fitted(mf, level, bool(self._xc.hyb or self._xc.long_range), 0.0, budget)
        self._long_range = None
        if self._xc.long_range:
            self._long_range = fitted(mf, level, True, self._xc.omega, budget / 2)
        self._solvent = reaction_of(mf, self._coulomb)
        self._grid = GridXC.of_level(mf, self._xc, level, budget / 2) if self._xc.kind != "HF" else None

    def around(self, factors: Sequence[Array], v: Array) -> CoarseField:
        """Return a field that is exact at one density: its potential plus the coarse change from it; see `Field`.

        Coulomb and exchange are then computed for the change of density only, without loss of digits.
        """
        self.tally.builds += 1
        shifted = copy.copy(self)
        shifted._reference = list(factors)
        shifted._grid = self._grid.around(factors) if self._grid is not None else None
        shifted._constant = v
        return shifted

    def plus(self, v: Array | float) -> CoarseField:
        """Return the field with a constant potential added, of the shape of `potential`; Hartree."""
        raised = copy.copy(self)
        raised._constant = self._constant + v
        return raised

    def release(self) -> None:
        """Free the orbital values on the grid."""
        if self._grid is not None:
            self._grid.release()

    def potential(self, factors: Sequence[Array]) -> Array:
        """Return the potential of a density, and its change from the reference if there is one; see `Field`."""
        self.tally.builds += 1
        v = np.stack([self._coulomb.coulomb(factors, self._reference)] * len(factors))
        per_electron = len(factors) / 2  # a closed shell's factor holds both spins
        if self._xc.hyb:
            v -= per_electron * self._xc.hyb * self._coulomb.exchange_of_each(factors, self._reference)
        if self._long_range is not None:
            v -= per_electron * self._xc.long_range * self._long_range.exchange_of_each(factors, self._reference)
        if self._grid is not None:
            v += self._grid.potential(factors)
        field = v if len(factors) == 2 else v[0]
        if self._solvent is not None:
            density = density_of(factors)
            change = density - density_of(self._reference) if self._reference else None
            field += self._solvent.potential(density) if change is None else self._solvent.response(change)
        return np.asarray(field + self._constant)


def free_bytes(mf: Any) -> float:
    """Return the bytes left by mf.max_memory beside the four-centre integrals that PySCF will store."""
    free = mf.max_memory * 1e6 - lib.current_memory()[0] * 1e6
    if mf._eri is None and not hasattr(mf, "with_df") and mf._is_mem_enough():
        free -= mf.mol.nao**4
    return float(max(SMALLEST_BUDGET, free))
