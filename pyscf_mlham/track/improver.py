"""The cheaper levels beside plain SCF: they improve the guess of a history, and the densities that it keeps.

An extrapolated density of irregular steps is no nearer to the solution than a few cycles of DIIS. The object's own
field in single precision, or the coarse field with its extrapolated defect, and the response level take it to where the
first cycle of plain SCF meets the criteria: one or two builds of a cheap field in place of five full ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pyscf import lib

from pyscf_mlham.arrays import Array
from pyscf_mlham.density import Orbitals, density_from_orbitals, tagged_orbitals
from pyscf_mlham.scf.multilevel.ladder import CORRECTED, Ladder
from pyscf_mlham.scf.multilevel.start import improved
from pyscf_mlham.scf.problem import Point, Problem
from pyscf_mlham.threads import one_blas_thread
from pyscf_mlham.track.history import Kept

REFINED = 1e-3  # share of the gradient of converged orbitals that remains; an extrapolation amplifies it
FINEST = 1e-8  # Hartree; the response level in single precision converges no further


class Improver:
    """The cheaper levels of one geometry.

    Attributes:
        ladder: the levels.
        veff: the latest density matrix of the object and its full potential.
    """

    def __init__(self, mf: Any, guess: Array | None) -> None:
        """Set up the levels of a plain object; guess: a history's, None for another one."""
        self._problem, self._guess = Problem.of(mf), guess
        self.ladder = Ladder(self._problem, getattr(guess, "defect", None), getattr(guess, "response", None))
        self.veff: tuple[Any, Any] | None = None

    @one_blas_thread()
    def improved(self) -> Array:
        """Return the guess improved by the cheaper levels, or as it is if there are none for it."""
        guess: Any = self._guess
        orbitals = tagged_orbitals(guess)
        better = improved(self._problem, self.ladder, orbitals, guess)
        for field in self.ladder.fields.values():
            field.release()
        if better is orbitals:
            return np.asanyarray(guess)
        density: Array = lib.tag_array(density_from_orbitals(self._problem.mf, better), close=guess.close)
        return density

    @one_blas_thread()
    def kept(self) -> Kept:
        """Return what the history keeps of the converged object."""
        problem, mf = self._problem, self._problem.mf
        density, vhf = self.veff or (None, None)
        own: Any = getattr(density, "mo_coeff", None)
        if own is None or own is not mf.mo_coeff:
            return Kept(response=self.ladder.response)
        point = problem.full_point(Orbitals(mf.mo_energy, own, mf.mo_occ), np.asarray(density), vhf)
        return kept(self.ladder, point, alone=self._guess is not None)


def kept(ladder: Ladder, full: Point, alone: bool) -> Kept:
    """Return what the history keeps of a converged point: the defect of its coarse field only if guesses need it.

    Args:
        full: point of the full level, of canonical orbitals.
        alone: whether an extrapolated density was sufficient without the cheaper levels.
    """
    point = ladder.relaxed(full, max(REFINED * full.gradient, FINEST))
    needed = not ladder.has_single and not (alone and not ladder.builds(CORRECTED))
    return Kept(point.orbitals, ladder.defect_at(full) if needed else None, ladder.response)
