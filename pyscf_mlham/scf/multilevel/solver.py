"""The multilevel SCF: one recursion over fields of falling cost.

A level builds a Fock matrix F from a density D. Near a point (F_r, D_r) of one level the next cheaper one is shifted to
be exact there, F_r + G[D] - G[D_r], and solved in its place: its error is that of its *response*, not that of its
field. Its solution is the level's next density. The cheapest level takes plain DIIS steps.

    full:      F_1     solve the shifted coarse level     F_2     solve ...     converged
    coarse:       F_1   solve the shifted response  F_2   ...
    response:        F_1  DIIS  F_2  DIIS  F_3  ...

Each level combines its points so far as DIIS does, min |sum_k c_k e_k| with e = FDS - SDF. Points of other densities
than the last one are first carried there by the response, F_k + R[D - D_k]. The first level makes its own convergence
test, so its solution does not depend on the others; those below may accept a cheaper level's solution without a build.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from pyscf_mlham.arrays import Array
from pyscf_mlham.density import Orbitals
from pyscf_mlham.scf.problem import Point

LARGEST_GOAL = 1e-2  # Hartree; a guess may have any gradient
FLOOR = 0.15  # of a level's own criterion: no cheaper level is converged further
NEARLY = 3  # a goal below this multiple of the level's criterion is lowered, as the next build may be the last one
SLOW = 0.3  # a build must reduce the gradient to this share of the last one, or the cheaper levels are dropped
ABOVE = 5e-3  # Hartree; a solution that lies further above an earlier point is another state
SPACE = 5  # points of a level that are combined


class Solvable(Protocol):
    """Interface of a level to the recursion.

    Attributes:
        trust: upper estimate of the share of the gradient that the next cheaper level's solution leaves: one that is
            accurate enough is accepted without a build. Infinite for a level that tests every solution.
    """

    trust: float

    def build(self, orbitals: Orbitals) -> Point:
        """Build the Fock matrix of the orbitals' density, the expensive step."""

    def step(self, point: Point, cycle: int) -> Orbitals:
        """Return the orbitals of the next density by DIIS."""

    def finished(self, course: Course, tolerance: float) -> bool:
        """Whether the last point is converged or no further progress is possible."""


class Cheaper(Solvable, Protocol):
    """Interface of a level below another one.

    Attributes:
        share: convergence goal, as a share of the next more expensive level's gradient: what its solution leaves.
    """

    share: float

    def shifted(self, point: Point) -> Solvable:
        """Return the level shifted to be exact at a point of a more expensive one."""

    def carried(self, point: Point, to: Point) -> Array:
        """Return the effective potential that this level expects at another density, v + G[D] - G[D_r]."""


class Course:
    """The points of a level so far; old ones are not kept.

    Attributes:
        points: the last ones, which are combined.
        gradients: of all points, Hartree.
        best: the one with orbitals and the smallest gradient.
        lowest: the one with orbitals and the lowest energy.
        rise: energy of the last point above the lowest, Hartree.
    """

    def __init__(self, point: Point) -> None:
        self.points, self.gradients = [point], [point.gradient]
        self.best = self.lowest = point
        self.rise = 0.0

    def add(self, point: Point) -> None:
        """Append a point, which has orbitals."""
        last = self.points[-1]
        self.rise += point.problem.energy_change(last, point)
        self.points, self.gradients = [*self.points, point][-SPACE:], [*self.gradients, point.gradient]
        if self.rise < 0 or self.lowest.orbitals is None:  # superposed atoms are no reference
            self.lowest, self.rise = point, 0.0
        if point.gradient < self.best.gradient or self.best.orbitals is None:
            self.best = point


class Solution(NamedTuple):
    """Result of a level's SCF."""

    point: Point  # best point, of the level itself or of a cheaper one that it trusts
    converged: bool  # whether its orbitals meet, or are expected to meet, the tolerance

    @property
    def orbitals(self) -> Orbitals:
        """Orbitals of the best point."""
        return self.point.known_orbitals


def solve(level: Solvable, point: Point, tolerance: float, cheaper: Sequence[Cheaper] = ()) -> Solution:
    """Converge a level from a point to an orbital gradient, Hartree, with the help of cheaper ones."""
    course = Course(point)
    while not level.finished(course, tolerance):
        if len(course.gradients) > 1 and point.gradient > SLOW * course.gradients[-2]:
            cheaper = ()  # too inaccurate here
        if cheaper:
            last = combined(course.points, cheaper[-1])
            floor = min(FLOOR * tolerance, last.gradient / 2)
            goal = min(cheaper[0].share * last.gradient, LARGEST_GOAL)
            goal = goal if goal > NEARLY * tolerance else floor
            solution = solve(cheaper[0].shifted(last), last, goal, cheaper[1:])
            orbitals = solution.orbitals
            stuck = orbitals is last.orbitals
            if stuck or not solution.converged:
                cheaper = ()
            if stuck:
                continue
            if solution.converged and level.trust * point.gradient < tolerance:
                return solution
        else:
            orbitals = level.step(point, len(course.gradients) - 1)
        point = level.build(orbitals)
        course.add(point)
    if course.rise > ABOVE:
        return Solution(course.lowest, False)
    return Solution(course.best, course.best.gradient < tolerance)


def combined(points: Sequence[Point], response: Cheaper) -> Point:
    """Return the last point with the potential that all points, carried there by the response level, expect."""
    *earlier, last = points
    if not earlier:
        return last
    *weights, own = diis_weights([point.error for point in points])
    v = own * last.v + sum(c * response.carried(point, last) for c, point in zip(weights, earlier, strict=True))
    return last.problem.point(last.orbitals, last.factors, last.density, v)


def diis_weights(errors: Sequence[Array]) -> Array:
    """Return the coefficients c, sum 1, that minimise the norm of the combined error (Pulay's equations)."""
    n = len(errors)
    scale = float(np.linalg.norm(errors[-1])) or 1.0
    flat = [np.ravel(error) / scale for error in errors]
    A = np.zeros((n + 1, n + 1))
    A[:n, n] = A[n, :n] = 1
    A[:n, :n] = [[np.vdot(a, b).real for b in flat] for a in flat]
    return np.asarray(np.linalg.lstsq(A, np.eye(n + 1)[n], rcond=1e-12)[0][:n])
