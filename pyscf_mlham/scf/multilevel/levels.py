"""The levels of a multilevel SCF: cheap fields, and the full field with its safeguards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from pyscf.lib import logger
from pyscf.scf.diis import CDIIS

from pyscf_mlham.arrays import Array
from pyscf_mlham.density import Orbitals, density_from_orbitals
from pyscf_mlham.field import RESPONSE, SINGLE, Field
from pyscf_mlham.field.grid import Functional
from pyscf_mlham.scf.multilevel.solver import Course
from pyscf_mlham.scf.problem import Point, Problem, now

RESPONSE_SHARE = 2e-2  # see `Cheaper.share`
COARSE_SHARE = 3e-4
COARSE_TRUST = 5e-2
SINGLE_TRUST = 1e-2  # a wrong one costs a full build, a test half of one ...
SINGLE_TRUST_HF = 2e-2  # ... all of the exchange of Hartree-Fock is fitted in a minimal basis
RESPONSE_CYCLES = 25
CYCLES = 50
RISE = 10  # multiple of the expected lowering: a saddle point may be approached from slightly below ...
GRID_NOISE = 1e-5  # ... and degenerate solutions differ by grid noise smaller than this; Hartree
FULL_SLOW = 0.2  # the full gradient must fall to this share of the last one, or the cheaper levels are too coarse
STALLED = 10  # cycles without a smaller gradient, after which the smallest is accepted: the limit of single precision
KEEPS_OCCUPATIONS = 1e-2  # orbital gradient below which ROHF keeps its occupations: its orbital energies are ambiguous


class CheapLevel:
    """A cheap field, solved by DIIS or with the help of a cheaper one; see `Cheaper`."""

    def __init__(self, problem: Problem, field: Field, trust: float | None = None) -> None:
        self._problem, self.field = problem, field
        if trust is None and field.name == SINGLE.name:
            trust = SINGLE_TRUST_HF if Functional(problem.mf).kind == "HF" else SINGLE_TRUST
        self.trust = COARSE_TRUST if trust is None else trust
        response = field.name == RESPONSE.name
        self.share, self._cycles = (RESPONSE_SHARE, RESPONSE_CYCLES) if response else (COARSE_SHARE, CYCLES)
        mf = problem.mf
        kind = mf.DIIS if issubclass(mf.DIIS, CDIIS) else CDIIS  # others need energies, which cheap fields lack
        self._diis: Any = kind(mf)
        self._diis.space, self._diis.rollback, self._diis.damp = mf.diis_space, mf.diis_space_rollback, mf.diis_damp
        self._diis.Corth, self._diis.verbose = problem.x, 0

    def build(self, orbitals: Orbitals) -> Point:
        """Build the Fock matrix of orbitals; see `Cheaper`."""
        return self._problem.point_of(orbitals, self.field)

    def shifted(self, point: Point) -> CheapLevel:
        """Return the level shifted to be exact at a point; see `Cheaper`."""
        return CheapLevel(self._problem, self.field.around(point.factors, point.v), self.trust)

    def carried(self, point: Point, to: Point) -> Array:
        """Carry a potential from one density to another; see `Cheaper`."""
        return self.field.around(point.factors, point.v).potential(to.factors)

    def step(self, point: Point, cycle: int) -> Orbitals:
        """Return the orbitals of PySCF's DIIS, damping and level shift; see `Cheaper`."""
        orbitals = self._problem.orbitals(self._problem.fock(point.v, point.density, cycle=cycle, diis=self._diis))
        if self._problem.mf.istype("ROHF") and point.orbitals is not None and point.gradient < KEEPS_OCCUPATIONS:
            return self._problem.filled_like(point.orbitals, orbitals)
        return orbitals

    def finished(self, course: Course, tolerance: float) -> bool:
        """Whether the last point is converged or the gradient has stopped falling; see `Cheaper`."""
        count = len(course.gradients)
        stalled = count - 1 - int(np.argmin(course.gradients)) > min(STALLED, self._cycles // 4)
        return self.converged(course.points[-1], None, tolerance) or stalled or count > self._cycles

    def converged(self, point: Point, last: Point | None, tolerance: float) -> bool:  # noqa: ARG002
        """Whether a point has orbitals of a small enough gradient."""
        return point.gradient < tolerance and point.orbitals is not None


@dataclass(frozen=True)
class Iterate(Point):
    """A point of the full field, of canonical orbitals."""

    vhf: Any  # result of the object's get_veff
    energy: float  # total energy, Hartree
    free_energy: float  # the same minus the entropy of smeared occupations times their width, Hartree
    lowering: float  # second-order estimate of the energy above the solution, Hartree
    clock: tuple[float, float]  # processor and wall time when it was built, seconds

    def lies_above(self, last: Iterate) -> bool:
        """Whether the energy has risen by more than a step to the solution nearest to the last point explains."""
        return self.free_energy > last.free_energy + RISE * last.lowering + GRID_NOISE


class NoProgressError(Exception):
    """The cheaper levels do not improve a point of the full one."""


class Outcome(NamedTuple):
    """Result of a multilevel SCF."""

    best: Iterate  # best point of the full level
    failure: str  # why it is not converged, "" if it is
    slow: bool = False  # whether the cause is that the cheaper levels are too coarse


class FullLevel:
    """The mean-field object's own field, its convergence criteria, and the safeguards of the solver; see `Solvable`.

    Attributes:
        builds: number of full Fock builds so far.
        fields: cheaper fields, by name; they free memory for a full build.
        is_minimum: whether no rotation of the orbitals of a stationary point lowers its energy; False if unknown.
    """

    trust = float("inf")
    last: Iterate  # latest point, from the first build on
    outcome: Outcome  # of the latest convergence test

    def __init__(self, problem: Problem, start: Array, write: bool, limit: int | None = None) -> None:
        """Set up the full level of an SCF.

        Args:
            start: density matrix of the initial guess.
            write: whether to write each full build to the checkpoint file.
            limit: largest number of full builds, max_cycle by default.
        """
        self._problem, self._start, self._write = problem, start, write
        self._limit = int(min(limit or problem.mf.max_cycle, problem.mf.max_cycle))
        self._best: Iterate | None = None
        self.fields: dict[str, Field] = {}
        self.is_minimum: Callable[[Point], bool] = lambda _: False
        self.builds = 0

    @property
    def best(self) -> Iterate:
        """Best point; defined after the first build."""
        return self._best or self.last

    @property
    def left(self) -> int:
        """Number of full builds left."""
        return max(0, self._limit - self.builds)

    def restart(self) -> None:
        """Forget the best point: the next one is another state, not a step to the same one."""
        self._best = None

    def build(self, orbitals: Orbitals) -> Iterate:
        """Build the full Fock matrix, incrementally if the object builds incrementally; see `Solvable`."""
        for field in self.fields.values():
            field.release()
        problem, mf = self._problem, self._problem.mf
        density = density_from_orbitals(mf, orbitals)
        vhf = mf.get_veff(mf.mol, density, *((self.last.density, self.last.vhf) if self.builds else ()))
        self.builds += 1
        point = problem.full_point(orbitals, density, vhf)
        canonical = point.known_orbitals
        energy, free_energy = problem.energies(canonical, density, vhf)
        self.last = Iterate(
            **vars(point),
            vhf=vhf,
            energy=energy,
            free_energy=free_energy,
            lowering=problem.lowering(canonical, point.v),
            clock=now(),
        )
        return self.last

    def finished(self, course: Course, tolerance: float) -> bool:
        """Whether the object's own criteria are met, or the iteration must stop; see `Solvable`."""
        here, best = course.points[-1], self._best
        assert isinstance(here, Iterate)
        if here is best:  # tested before, with other levels below
            return False
        converged = self.converged(here, best, tolerance)
        if not converged and best is not None and here.lies_above(best):
            self.outcome = Outcome(best, "the energy rises")
            return True
        if not converged and best is not None and here.gradient > best.gradient:
            self.outcome = Outcome(best, "the orbital gradient rises", slow=True)
            return True
        slow = best is not None and here.gradient > FULL_SLOW * best.gradient
        self._best, self.outcome = here, Outcome(here, "")
        if converged:
            return True
        if not self.left:
            self.outcome = Outcome(here, "the limit of full builds is reached")
        elif not self._problem.filled_from_below(here.known_orbitals) and self.is_minimum(here):  # DIIS would leave it
            self.outcome = Outcome(here, "the orbitals are not filled from below")
        elif slow:
            self.outcome = Outcome(here, "the orbital gradient falls too slowly", slow=True)
        return bool(self.outcome.failure)

    def converged(self, point: Point, last: Point | None, tolerance: float) -> bool:  # noqa: ARG002  (of the object)
        """Whether a new point meets the object's own criteria, and report the build."""
        assert isinstance(point, Iterate)
        assert last is None or isinstance(last, Iterate)
        envs = state_of(self._problem, point, last, self._start, self.builds)
        mf, criterion = self._problem.mf, self._problem.mf.check_convergence
        if last is not None and point.lies_above(last):
            found = False  # a higher state has replaced a lower one
        elif callable(criterion):
            # it may compare with the previous build, which the first one lacks
            found = last is not None and bool(criterion(envs))
        else:
            found = point.gradient < self._problem.tolerance and point.lowering < mf.conv_tol
        if found and not self._problem.filled_from_below(point.known_orbitals):
            found = self.is_minimum(point)  # otherwise a stationary state above the ground state
        self._report(point, envs | {"scf_conv": found})
        return found

    def _report(self, here: Iterate, envs: dict[str, Any]) -> None:
        """Log the build, write the checkpoint file and call mf.callback, as PySCF's kernel does."""
        mf = self._problem.mf
        counts = ", ".join(f"{field.tally.builds} {field.name}" for field in self.fields.values())
        logger.info(
            mf, "full build %d  E= %.15g  |g|= %4.3g  expected lowering= %4.3g  cheaper builds= %s",
            envs["cycle"] + 1, here.energy, here.gradient, here.lowering, counts or "0",
        )  # fmt: skip
        if self._write:
            mf.dump_chk(envs)
        if callable(mf.callback):
            mf.callback(envs)

    def step(self, point: Point, cycle: int) -> Orbitals:  # noqa: ARG002  (see `Solvable`)
        """Raise: the cheaper levels have made no progress; see `Solvable`."""
        raise NoProgressError


def state_of(problem: Problem, here: Iterate, last: Iterate | None, start: Array, build: int) -> dict[str, Any]:
    """Return the variables that PySCF's kernel passes to callbacks, criteria and checkpoint files; see `accelerate`."""
    mf = problem.mf
    mo_energy, mo_coeff, mo_occ = here.known_orbitals
    before = last or replace(here, density=start, clock=problem.clock)
    return {
        "mf": mf, "mol": mf.mol, "cycle": build - 1, "e_tot": here.energy, "last_hf_e": before.energy,
        "mo_energy": mo_energy, "mo_coeff": mo_coeff, "mo_occ": mo_occ, "dm": here.density, "dm_last": before.density,
        "norm_ddm": float(np.linalg.norm(np.asarray(here.density) - np.asarray(before.density))),
        "vhf": here.vhf, "fock": here.fock, "fock_last": before.fock, "norm_gorb": here.gradient, "mf_diis": None,
        "h1e": problem.hcore, "s1e": problem.overlap, "x_orth": problem.x,
        "conv_tol": mf.conv_tol, "conv_tol_grad": problem.tolerance, "cput0": problem.clock, "cput1": before.clock,
    }  # fmt: skip
