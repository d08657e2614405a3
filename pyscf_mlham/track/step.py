"""One converged geometry of a history."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyscf_mlham.ao.layout import OrbitalLayout
from pyscf_mlham.track.extrapolation import aligned

Array = NDArray[np.float64]


class Step(NamedTuple):
    """One converged geometry, in irreps order."""

    positions: Array  # (N, 3) Bohr
    overlap: Array  # (n, n)
    density: Array  # (s, n, n) of each set of orbitals, in Loewdin orbitals
    predicted: Array | None  # (s, n, n) density predicted by a model, or None
    occ: Array  # (s, n) occupations, in descending order
    # (1, n, n) core Hamiltonian minus that of the bare molecule, in Loewdin orbitals, Hartree; None if it is zero
    external: Array | None
    # (n, n) or (2, n, n) of the coarse field, see `Ladder`, in Loewdin orbitals, Hartree; None if unknown
    defect: Array | None = None

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, bytes."""
        return sum(0 if a is None else a.nbytes for a in self)

    def rotated(self, onto: Array, layout: OrbitalLayout) -> Step:
        """Return the step aligned with other positions.

        Args:
            onto: (N, 3) Bohr.
            layout: orbital layout of the molecule.
        """
        rotation, moved = aligned(self.positions, onto)

        def transformed(a: Array | None) -> Any:
            return None if a is None else layout.rotated(a, rotation)

        matrices = (self.overlap, self.density, self.predicted, self.external, self.defect)
        overlap, density, predicted, external, defect = map(transformed, matrices)
        return Step(moved, overlap, density, predicted, self.occ, external, defect)
