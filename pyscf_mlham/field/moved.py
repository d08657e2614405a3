"""The response level of one geometry at others nearby, along a trajectory or an optimisation.

Integrals and kernel cost as much as one or two full builds of a small molecule. They move with the atoms if changes of
density are written in Loewdin orbitals, which keeps their number of electrons. The field is exact at the density that
it is put around, so only the change from there has the error.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from pyscf_mlham.arrays import Array
from pyscf_mlham.field.protocol import Field, Tally
from pyscf_mlham.field.response import ResponseField


class MovedResponse(Field):
    """A response level with integrals and kernel of another geometry.

    Attributes:
        positions: (N, 3) of that geometry, Bohr.
    """

    name = ResponseField.name

    def __init__(self, response: ResponseField, positions: Array, inverse: Array) -> None:
        """Keep a response level; inverse: (n, n) coefficients of the Loewdin orbitals of its geometry over AOs."""
        self.tally, self.positions = Tally(), positions
        self._response, self._inverse = response.without_object(), inverse
        self._carry = np.eye(len(inverse))
        self._constant: Array | float = 0.0

    @property
    def nbytes(self) -> int:
        """Memory of the integrals and the kernel, bytes."""
        return self._response.nbytes + 2 * self._inverse.nbytes

    def at(self, root: Array) -> MovedResponse:
        """Return the level at a geometry, with a count of its own; root: (n, n) of AOs in its Loewdin orbitals."""
        moved = copy.copy(self)
        moved.tally, moved._carry = Tally(), self._inverse @ root
        return moved

    def around(self, factors: Sequence[Array], v: Array) -> MovedResponse:
        """Return the field v + R[D - L L^T]; see `Field`."""
        shifted = copy.copy(self)
        shifted._response = self._response.around([self._carry @ factor for factor in factors], np.zeros(()))
        shifted._constant = v
        return shifted

    def potential(self, factors: Sequence[Array]) -> Array:
        """Return the potential of a density; see `Field`."""
        self.tally.builds += 1
        change = self._response.potential([self._carry @ factor for factor in factors])
        return np.asarray(self._carry.T @ change @ self._carry + self._constant)
