"""Other ways to extrapolate densities along a path, for comparison; no cheaper level improves them.

Weights from the overlap or the core Hamiltonian; densities in Loewdin orbitals, or Grassmann extrapolation: logarithms
of the occupied spaces at the nearest geometry are combined (Polack, Dusson, Stamm, Lipparini, J. Chem. Theory Comput.
17, 6965 (2021)), so that the result is idempotent. With DIIS the weights are those of Pulay's equations, the errors of
the latest descriptors taken as his residuals, without damping (Lao, Wickramasinghe, Tan, J. Chem. Phys., doi
10.1063/5.0289936).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyscf_mlham.arrays import Array
from pyscf_mlham.track.extrapolation import extrapolation_weights, fitted_weights
from pyscf_mlham.track.history import History
from pyscf_mlham.track.place import Place
from pyscf_mlham.track.step import Step, rotated

COMPARED = {  # name: descriptor, whether logarithms are combined, whether with DIIS
    "overlap": ("overlap", False, False),
    "hcore": ("hcore", False, False),
    "gext": ("overlap", True, False),
    "gext-hcore": ("hcore", True, False),
    "gext-diis": ("overlap", True, True),
    "gext-diis-hcore": ("hcore", True, True),
}
DIIS_SPACE = 8  # steps, as in PySCF's DIIS


class ComparedHistory(History):
    """A history with another extrapolation."""

    def __init__(self, name: str) -> None:
        super().__init__("loewdin")  # as those of comparison: not improved
        self._descriptor, self._logarithms, self._diis = COMPARED[name]

    def _vectors(self, mf: Any, place: Place, steps: list[Step]) -> tuple[Array, float]:
        """Return orbitals of the guess, (s, n, n) in Loewdin orbitals, the occupied ones first; see `History`."""
        steps = rotated(steps[: DIIS_SPACE if self._diis else None], place.positions, place.layout)
        target = self._described(mf, place, place.positions)
        d = np.stack([self._described(mf, place, step.positions) for step in steps])
        nearest = int(np.argmin(np.linalg.norm(d - target, axis=1)))
        spaces = [np.linalg.eigh(step.density)[1][..., ::-1] for step in steps]
        orbitals = []
        for spin, occ in enumerate(steps[0].occ):
            filled = int(np.count_nonzero(occ))
            occupied = [space[spin, :, :filled] for space in spaces]
            centre = occupied[nearest]
            values = np.stack([_logarithm(c, centre) if self._logarithms else c @ c.T for c in occupied])
            weights = fitted_weights(d, target, 0.0) if self._diis else extrapolation_weights(d, target, values)
            mean = np.tensordot(weights, values, axes=1)
            if self._logarithms:
                c = _exponential(mean, centre)
                mean = c @ c.T
            orbitals.append(np.linalg.eigh(mean)[1][:, ::-1])
        return np.stack(orbitals), float(np.inf)

    def _described(self, mf: Any, place: Place, positions: Array) -> Array:
        mol = mf.mol.set_geom_(positions, unit="Bohr", inplace=False)
        matrix = mf.get_hcore(mol) if self._descriptor == "hcore" else mf.get_ovlp(mol)
        return np.ravel(place.transform.T @ matrix @ place.transform)


def _logarithm(c: Array, centre: Array) -> Array:
    """Return the tangent vector (n, k) at the space of `centre` that leads to the space of c, both orthonormal."""
    u, s, vt = np.linalg.svd(c @ np.linalg.inv(centre.T @ c) - centre, full_matrices=False)
    return np.asarray((u * np.arctan(s)) @ vt)


def _exponential(tangent: Array, centre: Array) -> Array:
    """Return orthonormal vectors (n, k) of the space that a tangent vector at `centre` leads to."""
    u, s, vt = np.linalg.svd(tangent, full_matrices=False)
    return np.asarray(((centre @ vt.T) * np.cos(s) + u * np.sin(s)) @ vt)
