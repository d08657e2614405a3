"""One converged geometry of a history."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pyscf_mlham.ao.layout import OrbitalLayout
from pyscf_mlham.arrays import Array
from pyscf_mlham.track.extrapolation import aligned

OTHER_STATE = 0.5  # squared sine of the largest angle between old and new occupied orbitals of the same state
MATRICES = ("overlap", "density", "predicted", "external", "defect")  # fields of a step that rotate


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
        own = {name: a for name, a in self._asdict().items() if name in MATRICES and a is not None}
        stacks = [a.reshape(-1, *a.shape[-2:]) for a in own.values()]
        rotated = layout.rotated(np.concatenate(stacks), rotation)  # together, as the small matrices of D cost most
        parts = np.split(rotated, np.cumsum([len(stack) for stack in stacks])[:-1])
        changed = {name: part.reshape(a.shape) for (name, a), part in zip(own.items(), parts, strict=True)}
        return self._replace(positions=moved, **changed)

    def is_of_another_state(self, new: Step) -> bool:
        """Whether electrons have moved to another orbital between two aligned geometries."""
        if not np.array_equal(self.occ > 0, new.occ > 0):
            return True
        moved = np.linalg.norm(new.density - self.density, ord=2, axis=(-2, -1))
        whole = np.where(new.occ > 0.5, new.occ, np.inf).min(axis=-1)  # one electron if some are unpaired
        return bool(np.any((moved / whole) ** 2 > OTHER_STATE))
