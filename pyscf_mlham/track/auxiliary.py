"""Auxiliary density of shadow dynamics: it follows the ground state as a particle in a harmonic well.

    x_(k+1) = 2 x_k - x_(k-1) + kappa (D_k - x_k) + alpha sum_j c_j x_(k-j)

in Loewdin orbitals, with the modified Verlet integrator and the weak dissipation, which removes rounding, of Niklasson
et al., J. Chem. Phys. 130, 214109 (2009). Time steps are equal.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pyscf_mlham.arrays import Array

# Order of the dissipation: kappa, alpha and c; 0, without one, is reversible.
DISSIPATIONS: dict[int, tuple[float, float, tuple[int, ...]]] = {
    0: (2.0, 0.0, ()),
    3: (1.69, 150e-3, (-2, 3, 0, -1)),
    4: (1.75, 57e-3, (-3, 6, -2, -2, 1)),
    5: (1.82, 18e-3, (-6, 14, -8, -3, 4, -1)),
    6: (1.84, 5.5e-3, (-14, 36, -27, -2, 12, -6, 1)),
    7: (1.86, 1.6e-3, (-36, 99, -88, 11, 32, -25, 8, -1)),
}
DISSIPATION = 5
SAME = 1e-6  # Bohr; files of trajectories round positions


class Auxiliary:
    """Positions x of the last steps, and the force D - x at the latest.

    Attributes:
        dissipation: one of DISSIPATIONS.
        steps: (s, n, n) x of the last geometries, the latest first.
        force: (s, n, n) D - x of the latest.
        positions: (N, 3) of the latest, Bohr.
    """

    def __init__(self, dissipation: int = DISSIPATION) -> None:
        if dissipation not in DISSIPATIONS:
            raise ValueError(f"dissipation = {dissipation}; expected one of {', '.join(map(str, DISSIPATIONS))}.")
        self.dissipation = dissipation
        self.clear()

    def clear(self) -> None:
        """Remove all steps."""
        self.steps: list[Array] = []
        self.force: Array = np.zeros(())
        self.positions: Array | None = None

    def arrays(self) -> dict[str, Array]:
        """Return the state as arrays."""
        state = {"dissipation": np.array(self.dissipation), "force": self.force}
        return state | ({} if self.positions is None else {"x": np.stack(self.steps), "positions": self.positions})

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Auxiliary:
        """Return the state of `arrays`."""
        auxiliary = cls(int(arrays["dissipation"]))
        auxiliary.force, auxiliary.positions = arrays["force"], arrays.get("positions")
        auxiliary.steps = list(arrays.get("x", ()))
        return auxiliary

    def at(self, positions: Array) -> Array | None:
        """Return x at a geometry (N, 3) Bohr, that of the latest step or the next one; None before the third step."""
        if self._is_latest(positions):
            return self.steps[0]
        return self._next() if len(self.steps) > 1 else None

    def _is_latest(self, positions: Array) -> bool:
        return self.positions is not None and float(np.abs(self.positions - positions).max()) < SAME

    def _next(self) -> Array:
        kappa, alpha, c = DISSIPATIONS[self.dissipation]
        x = 2 * self.steps[0] - self.steps[1] + kappa * self.force
        if c and len(self.steps) >= len(c):
            x = x + alpha * np.tensordot(np.array(c, float), np.array(self.steps[: len(c)]), axes=1)
        return np.asarray(x)

    def record(self, positions: Array, x: Array, density: Array) -> None:
        """Add a step, or replace the latest if its geometry is the same.

        Args:
            positions: (N, 3) Bohr.
            x: (s, n, n) what `at` returned, or after an SCF its density.
            density: (s, n, n) D.
        """
        if self._is_latest(positions):
            del self.steps[0]
        self.steps.insert(0, x)
        del self.steps[max(2, len(DISSIPATIONS[self.dissipation][2])) :]
        self.force, self.positions = density - x, positions

    def reverse(self) -> None:
        """Go back in time, after the velocities have been reversed; exact without dissipation."""
        if len(self.steps) > 1:
            self.steps = [self.steps[0], self._next()]
