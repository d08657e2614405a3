"""Which cheaper levels an object's SCF uses, and what it turns to if they are too coarse."""

from __future__ import annotations

from collections.abc import Sequence

from pyscf import df
from pyscf.lib import logger

from pyscf_mlham.errors import ResourceError
from pyscf_mlham.field import COARSE, FINE, RESPONSE, CoarseField, ResponseField, atomic_factors
from pyscf_mlham.field.protocol import Field
from pyscf_mlham.scf.multilevel.levels import CheapLevel
from pyscf_mlham.scf.problem import Point, Problem

# What stands below the full level, in the order of trial.
EXACT = ((COARSE.name, RESPONSE.name), (FINE.name,))
FITTED = ((RESPONSE.name,), (COARSE.name, RESPONSE.name), (FINE.name,))
START = (COARSE.name, RESPONSE.name)  # what the first full build's density comes from


class Ladder:
    """The cheaper fields of a problem, made when they are needed.

    Attributes:
        fields: those that are made.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.fields: list[Field] = []
        self.rungs = list(FITTED if _is_fitted(problem) else EXACT)

    def levels(self, names: Sequence[str]) -> list[CheapLevel]:
        """Return levels by name; a response that cannot be had is left out."""
        fields = [self._field(name) for name in names]
        return [CheapLevel(self._problem, field) for field in fields if field is not None]

    def builds(self, name: str) -> int:
        """Count the potentials that fields of a name have built."""
        return sum(field.tally.builds for field in self.fields if field.name == name)

    def sharpen(self, point: Point) -> None:
        """Give the response the semilocal kernel of a density that is nearly the solution."""
        for i, field in enumerate(self.fields):
            if isinstance(field, ResponseField):
                self.fields[i] = field.with_kernel(point.factors)

    def _field(self, name: str) -> Field | None:
        for field in self.fields:
            if field.name == name:
                return field
        mf = self._problem.mf
        if name != RESPONSE.name:
            self.fields.append(CoarseField(mf, COARSE if name == COARSE.name else FINE))
            return self.fields[-1]
        try:
            self.fields.append(ResponseField(mf).with_kernel(atomic_factors(mf), rough=True))
        except ResourceError:
            raise
        except Exception as error:  # a functional without second derivatives, for one
            logger.info(mf, "multilevel SCF: no response level (%s: %s)", type(error).__name__, error)
            return None
        return self.fields[-1]


def _is_fitted(problem: Problem) -> bool:
    """Whether full builds are cheap: Coulomb and exchange of the object are fitted."""
    mf = problem.mf
    return isinstance(getattr(mf, "with_df", None), df.DF) and not getattr(mf, "only_dfj", False)
