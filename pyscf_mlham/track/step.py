"""One converged geometry of a history."""

from __future__ import annotations

from collections.abc import Sequence
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

    @property
    def matrices(self) -> dict[str, Array]:
        """The matrices that rotate, by field."""
        return {name: a for name, a in self._asdict().items() if name in MATRICES and a is not None}

    def moved(self, positions: Array, stack: Array) -> Step:
        """Return the step with other positions (N, 3), and with its matrices from a stack (m, n, n)."""
        own = self.matrices
        parts = np.split(stack, np.cumsum([a.size // stack[0].size for a in own.values()])[:-1])
        changed = {name: part.reshape(a.shape) for (name, a), part in zip(own.items(), parts, strict=True)}
        return self._replace(positions=positions, **changed)

    def is_of_another_state(self, new: Step) -> bool:
        """Whether electrons have moved to another orbital between two aligned geometries."""
        if not np.array_equal(self.occ > 0, new.occ > 0):
            return True
        moved = np.linalg.norm(new.density - self.density, ord=2, axis=(-2, -1))
        whole = np.where(new.occ > 0.5, new.occ, np.inf).min(axis=-1)  # one electron if some are unpaired
        return bool(np.any((moved / whole) ** 2 > OTHER_STATE))


def rotated(steps: Sequence[Step], onto: Array, layout: OrbitalLayout) -> list[Step]:
    """Return steps aligned with other positions.

    Args:
        steps: one or more.
        onto: (N, 3) Bohr.
        layout: orbital layout of the molecule.
    """
    rotations, moved = aligned(np.stack([step.positions for step in steps]), onto)
    stacks = [np.concatenate([a.reshape(-1, *a.shape[-2:]) for a in step.matrices.values()]) for step in steps]
    sizes = [len(stack) for stack in stacks]
    # together, as the small matrices of D cost most
    matrices = layout.rotated(np.concatenate(stacks), np.repeat(rotations, sizes, axis=0))
    parts = np.split(matrices, np.cumsum(sizes)[:-1])
    return [step.moved(*there) for step, *there in zip(steps, moved, parts, strict=True)]
