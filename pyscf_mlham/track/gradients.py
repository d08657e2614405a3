"""Forces of a tracked object whose SCF is converged loosely while they are large, as early in an optimisation.

Above a force `loose_above` the SCF of the next geometry converges to an orbital gradient in proportion to that force.
If the force there turns out to be smaller than `loose_above`, the SCF is converged to the object's own criteria, and
the force is computed again: near a minimum, and at it, all is as without the option.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pyscf import lib
from pyscf.lib import logger

from pyscf_mlham.arrays import Array

# orbital gradient, Hartree, over the largest force, Hartree/Bohr: the error of a force is of its size
FORCE_SHARE = 0.02
LOOSEST = 3e-4  # orbital gradient, Hartree


def loosened(own: float, force: float, loose_above: float | None) -> float:
    """Return the criterion of the orbital gradient at a geometry, Hartree.

    Args:
        own: the object's own criterion.
        force: largest force on an atom at the geometry before, Hartree/Bohr; 0 if it is unknown.
        loose_above: force above which the criterion is loosened; None if never.
    """
    if loose_above is None or force <= loose_above:
        return own
    return max(own, min(FORCE_SHARE * force, LOOSEST))


def watched(gradients: Any) -> Any:
    """Return an object of forces of a tracked object, which tightens a loose SCF."""
    if type(gradients).__bases__[0] is _TrackedGradients:
        return gradients
    plain = gradients.__class__
    if isinstance(gradients, _TrackedGradients):  # those of a solute without its solvent
        plain = lib.drop_class(plain, _TrackedGradients)
    return lib.set_class(gradients, (_TrackedGradients, plain))


class _TrackedGradients:
    __name_mixin__ = "Tracked"

    def kernel(self: Any, *args: Any, **kwargs: Any) -> Array:
        """Return the gradient of the energy, Hartree/Bohr; the arguments are those of PySCF's kernel."""
        kernel: Any = super().kernel  # type: ignore[misc]
        de, mf = kernel(*args, **kwargs), self.base
        force = mf.history.force = float(np.linalg.norm(de, axis=-1).max(initial=0.0))
        if mf.is_loose and force <= mf.loose_above:
            logger.note(self, "track: forces are small now (%.1e Hartree/Bohr); the SCF is converged further.", force)
            mf.kernel()
            de = kernel()
        return np.asarray(de)

    def as_scanner(self: Any) -> Any:
        """Return a scanner of energies and forces; see PySCF's."""
        if isinstance(self, lib.GradScanner):
            return self
        scanner = super().as_scanner()  # type: ignore[misc]
        return lib.set_class(scanner, (_TrackedGradientScanner, scanner.__class__))


class _TrackedGradientScanner:
    __name_mixin__ = "Tracked"

    def __call__(self: Any, mol: Any, **kwargs: Any) -> tuple[float, Array]:
        """Return energy, Hartree, and its gradient, Hartree/Bohr, at a geometry."""
        with lib.temporary_env(self.base, _loosened=True):
            _, de = super().__call__(mol, **kwargs)  # type: ignore[misc]
        return float(self.base.e_tot), de
