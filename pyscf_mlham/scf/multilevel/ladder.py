"""Choice of the cheaper levels of an SCF, and of more accurate ones if those are too coarse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from pyscf.lib import logger

from pyscf_mlham.ao.mole import is_periodic
from pyscf_mlham.arrays import Array
from pyscf_mlham.errors import ResourceError, reason_of
from pyscf_mlham.field import (
    COARSE,
    FINE,
    RESPONSE,
    SINGLE,
    CoarseField,
    MovedResponse,
    ResponseField,
    SingleField,
    atomic_factors,
)
from pyscf_mlham.field.fitting import fit_overlapping
from pyscf_mlham.field.grid import Functional
from pyscf_mlham.field.protocol import Field
from pyscf_mlham.field.single import is_fitted, is_local
from pyscf_mlham.scf.multilevel.descent import Surface, rotates_freely
from pyscf_mlham.scf.multilevel.levels import CheapLevel
from pyscf_mlham.scf.multilevel.solver import solve
from pyscf_mlham.scf.problem import Point, Problem

CORRECTED = "corrected"  # name of the coarse field with a known defect
# Levels below the full one, in the order in which they are tried.
CRYSTAL = ((COARSE.name,),)
EXACT = ((COARSE.name, RESPONSE.name), (FINE.name,))
FITTED = ((RESPONSE.name,), (COARSE.name, RESPONSE.name), (FINE.name,))
START = (COARSE.name, RESPONSE.name)  # levels that give the density of the first full build ...
IMPROVED = (SINGLE.name, RESPONSE.name)  # ... and those that improve it if the object is density-fitted ...
IMPROVED_EXACT = (CORRECTED, RESPONSE.name)  # ... or the defect is known

COUNTS = ("coarse_builds", "single_builds", "response_builds")  # attributes of objects with cheaper levels


class Ladder:
    """The cheaper fields of a problem, created when needed; their settings are those of an accelerated object.

    Attributes:
        fields: the fields created so far, by name.
        has_single: whether there is a field in single precision that differs from the full one by rounding only.
        defect: full potential minus that of the coarse field in double precision, (n, n) or (2, n, n) Hartree; None if
            unknown. Single precision would make it too noisy to extrapolate.
    """

    def __init__(self, problem: Problem, defect: Array | None = None, response: MovedResponse | None = None) -> None:
        """Set up the ladder; `response`: that of a geometry nearby, moved here, to be used instead of a new one."""
        self._problem, self.defect, mf = problem, defect, problem.mf
        self._coarse, self._fine = getattr(mf, "coarse_level", COARSE), getattr(mf, "fine_level", FINE)
        self._moved = response
        self.fields: dict[str, Field] = {} if response is None else {response.name: response}
        self._failed: set[str] = set()  # levels that cannot be made
        self._surface: Surface | None = None
        self._kernel_factors: list[Array] = []  # of the density whose kernel a new response level uses
        fitted = is_fitted(mf)
        if fitted and Functional(mf).exchange:  # PySCF computes J alone from integrals that it does not store
            fit_overlapping(mf.with_df)
        self.rungs = list(CRYSTAL if is_periodic(mf.mol) else FITTED if fitted else EXACT)
        self.has_single = fitted and getattr(mf, "single_precision", True) and is_local(mf)

    @property
    def response(self) -> ResponseField | MovedResponse | None:
        """The response level that geometries nearby can use; None before it is made, and with a solvent."""
        field = self.fields.get(RESPONSE.name)
        return field if isinstance(field, ResponseField) and field.is_portable and not field.rough else self._moved

    @property
    def improving(self) -> tuple[str, ...]:
        """Names of the levels that improve a density before the first full build; empty if there are none."""
        return IMPROVED if self.has_single else IMPROVED_EXACT if self.defect is not None else ()

    def levels(self, names: Sequence[str]) -> list[CheapLevel]:
        """Return levels by name, without the response level if the functional does not allow one."""
        fields = [self._field(name) for name in names]
        return [CheapLevel(self._problem, field) for field in fields if field is not None]

    def surface(self, point: Point) -> Surface | None:
        """Return the energy near a point of the full field; None if there is no response level, or no room for it."""
        if self._surface is not None and self._surface.point is point:
            return self._surface
        if not rotates_freely(self._problem):
            return None
        moved, self._moved = self._moved, None
        if moved is not None:  # second-order steps need the response of this geometry
            del self.fields[moved.name]
        try:
            response = self._field(RESPONSE.name)
            if not isinstance(response, ResponseField):
                return None
            response.tally.builds += 0 if moved is None else moved.tally.builds
            self._surface = Surface(point, response, finer=self._field(COARSE.name))
        except ResourceError:
            return None
        return self._surface

    def is_minimum(self, point: Point) -> bool:
        """Whether no rotation of the orbitals of a stationary point lowers its energy; False if that is unknown."""
        surface = self.surface(point)
        return surface is not None and surface.is_minimum

    def builds(self, name: str) -> int:
        """Return the number of potentials built by the field of this name."""
        return self.fields[name].tally.builds if name in self.fields else 0

    @property
    def counts(self) -> dict[str, int]:
        """Builds of each kind of level, by the attribute of an accelerated object."""
        coarse = sum(map(self.builds, (COARSE.name, FINE.name, CORRECTED)))
        single, response = self.builds(SINGLE.name), self.builds(RESPONSE.name)
        return dict(zip(COUNTS, (coarse, single, response), strict=True))

    def relaxed(self, last: Point, tolerance: float) -> Point:
        """Return the solution of the cheapest level shifted to a point of the full one; the point itself without one.

        DIIS would leave a point whose orbitals are not filled from below: it is returned too.
        """
        self.sharpen(last)
        levels = self.levels(self.rungs[0][-1:])
        if not levels or not self._problem.filled_from_below(last.known_orbitals):  # the former without a kernel
            return last
        return solve(levels[0].shifted(last), last, tolerance).point

    def defect_at(self, full: Point) -> Array:
        """Return the defect of the corrected field at a point of the full one, Hartree; see `Ladder`."""
        [level] = self.levels([CORRECTED])
        known = 0.0 if self.defect is None else self.defect
        return np.asarray(known + full.v - level.field.potential(full.factors))

    def sharpen(self, point: Point) -> None:
        """Use the semilocal kernel of a nearly converged density in the response level, unless it has such a one."""
        self._kernel_factors = point.factors
        field = self.fields.get(RESPONSE.name)
        if isinstance(field, ResponseField) and field.rough:
            try:
                self.fields[field.name] = field.with_kernel(point.factors)
            except Exception as error:
                del self.fields[field.name]
                self._lacking(field.name, error)

    def _field(self, name: str) -> Field | None:
        if name not in self.fields and name not in self._failed and (field := self._created(name)) is not None:
            self.fields[name] = field
        return self.fields.get(name)

    def _created(self, name: str) -> Field | None:
        mf = self._problem.mf
        if is_periodic(mf.mol):
            from pyscf_mlham.field.crystal import CrystalField  # importing PySCF's periodic part takes a second

            return CrystalField(mf) if name == COARSE.name else None
        if name == SINGLE.name:
            return SingleField(mf, self._coarse)
        if name == CORRECTED:
            field = CoarseField(mf, replace(self._coarse, name=name, dtype=np.float64))
            return field if self.defect is None else field.plus(self.defect)
        if name != RESPONSE.name:
            return CoarseField(mf, replace(self._coarse if name == COARSE.name else self._fine, name=name))
        try:
            rough = not self._kernel_factors
            factors = atomic_factors(mf) if rough else self._kernel_factors
            return ResponseField(mf, self._coarse).with_kernel(factors, rough=rough)
        except ResourceError:
            raise
        except Exception as error:  # for example a functional without second derivatives
            self._lacking(name, error)
            return None

    def _lacking(self, name: str, error: Exception) -> None:
        """Do without a level after an error."""
        self._failed.add(name)
        text = "multilevel SCF: no %s level, so that more builds are needed: %s."
        logger.note(self._problem.mf, text, name, reason_of(error))
