"""The reaction field of a solvent."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
from pyscf import gto
from pyscf.solvent import pcm

from pyscf_mlham.arrays import Array
from pyscf_mlham.field.fitting import FittedIntegrals


def reaction_of(mf: Any, integrals: FittedIntegrals) -> FittedReaction | ExactReaction | None:
    """Return the reaction field of an object's solvent, None without a solvent or for a frozen one."""
    solvent = getattr(mf, "with_solvent", None)
    if solvent is None or solvent.frozen:
        return None
    solvent = solvent.copy()
    if isinstance(state := getattr(solvent, "_intermediates", None), dict):
        # PySCF's copy shares the dictionary from which the object's gradients read the reaction field
        vars(solvent)["_intermediates"] = dict(state)
    supported = isinstance(solvent, pcm.PCM) and type(solvent)._get_vind is pcm.PCM._get_vind
    # SMD without a named solvent has a dielectric constant of 0 in PySCF, and a nearly singular cavity
    named = getattr(solvent, "solvent", "PCM") != ""
    return FittedReaction(solvent, integrals) if supported and named else ExactReaction(solvent)


class FittedReaction:
    """The polarisable continuum, with the solute's density and the cavity's charges in the auxiliary basis set.

    The cavity's charges are q = K^-1 R v with the solute's potential v on the surface, symmetrised as in PySCF. In the
    auxiliary basis set v needs no integrals over pairs of orbitals, which take most of PySCF's time.
    """

    def __init__(self, solvent: Any, integrals: FittedIntegrals) -> None:
        """Prepare the cavity; PySCF's solvent object is owned by this one."""
        if not solvent._intermediates:
            solvent.build()
        self._integrals = integrals
        self._nuclear = solvent.v_grids_n
        self._r = solvent._intermediates["R"]
        self._solver = scipy.linalg.lu_factor(solvent._intermediates["K"])
        surface = solvent.surface
        charges = gto.fakemol_for_charges(surface["grid_coords"], expnt=surface["charge_exp"] ** 2)
        # Coulomb interaction of the whitened auxiliary functions with the surface, (rank, n_surface)
        self._to_surface = integrals.whitened(gto.mole.intor_cross("int2c2e", integrals.auxmol, charges))

    def potential(self, density: Array) -> Array:
        """Return the reaction field of the nuclei and a density (n, n) of both spins, (n, n) Hartree."""
        return self._potential(self._nuclear - self._integrals.charges(density) @ self._to_surface)

    def response(self, change: Array) -> Array:
        """Return the response to a change of density, in which it is linear, (n, n) Hartree."""
        return self._potential(-self._integrals.charges(change) @ self._to_surface)

    def _potential(self, outside: Array) -> Array:
        """Return the potential of the charges induced by the solute's potential (n_surface,)."""
        charges = scipy.linalg.lu_solve(self._solver, self._r @ outside)
        adjoint = self._r.T @ scipy.linalg.lu_solve(self._solver, outside, trans=1)
        return -self._integrals.potential(self._to_surface @ (charges + adjoint) / 2)


class ExactReaction:
    """Any other solvent model, by PySCF's own integrals."""

    def __init__(self, solvent: Any) -> None:
        self._solvent = solvent

    def potential(self, density: Array) -> Array:
        """Return the reaction field of a density; see `FittedReaction`."""
        return np.asarray(self._solvent.kernel(density)[1])

    def response(self, change: Array) -> Array:
        """Return the response to a change of density; see `FittedReaction`."""
        return self.potential(change) - self.potential(np.zeros_like(change))
