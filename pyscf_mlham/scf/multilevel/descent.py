"""Second-order steps of levels that DIIS does not converge: a trust-region Newton method in the rotations of orbitals.

Orbitals C exp(K) are rotated by angles x between virtual and occupied ones. With n electrons in an occupied orbital,

    E(x) = E + g x + x H x / 2,   g = 2 n F_vo,   H x = 2 n (F_vv x - x F_oo + R[dD]_vo)

where R is the response level and dD the change of density to first order: H costs no build of the level. ROHF, whose
spins share their orbitals, has angles between closed, open and empty ones (see `rotations`). A step minimises E(x) for
|x| <= radius. The radius is adapted to the ratio of the energy lowering, from the Fock matrices of both points, to the
expected one. A stationary point with a direction of negative curvature is left along it.

The response level errs by a hundredth of a Hartree, more than the curvature of a rotation that nearly leaves the energy
as it is (of a degenerate state about its axis): along the last short step the curvature is the one that was seen. Low
curvatures of a stationary point can be those of a finer field, from its potentials at nearby densities.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.optimize
from pyscf import lib

from pyscf_mlham.ao.mole import has_open_d_shell, is_periodic
from pyscf_mlham.arrays import Array
from pyscf_mlham.field import Field, ResponseField
from pyscf_mlham.scf.multilevel.levels import CheapLevel, FullLevel
from pyscf_mlham.scf.multilevel.rotations import Rotations
from pyscf_mlham.scf.multilevel.solver import Solution
from pyscf_mlham.scf.problem import Point, Problem

STEPS = 60  # of a cheap level
RADIUS, LARGEST, SMALLEST = 0.4, 1.0, 1e-3  # radians; trust radius
NO_SADDLE = 0.05  # radians; if a step of this length does not lower the energy, the negative curvature is an error
SHORT = 0.5  # radians; length of a step up to which it shows the curvature ...
ROUNDED = 1e-5  # ... and below which the rounding of its energy hides it
POOR, GOOD = 0.25, 0.75  # share of the expected lowering below and above which the radius changes
RESIDUAL = 0.05  # residual of a step's equations, as a share of the gradient; the response level is no more accurate
TRIAL_VECTORS = 30  # largest number of trial vectors
DENOMINATOR = 0.1  # Hartree; smallest denominator of trial vectors
TINY = float(np.finfo(float).tiny)
UNSTABLE = -2e-3  # Hartree; curvature of a saddle point; that of an orientation on a grid is smaller
UNSURE = 0.05  # Hartree; a curvature below may be negative in a finer field
LOWEST = 4  # number of directions in which a finer field tests the curvature
NEARBY = 0.02  # radians; length of a rotation whose change of potential is linear, and not rounding


class Seen(NamedTuple):
    """Curvature that the response level lacks along a direction."""

    direction: list[Array]  # C_v x C_o^T of each spin, with angles x of length 1
    missing: float  # curvature, Hartree


class Step(NamedTuple):
    """Rotation angles, and the change of energy that they are expected to bring, Hartree."""

    angles: Array
    expected: float


def descended(level: CheapLevel | FullLevel, surface: Surface, tolerance: float, steps: int = STEPS) -> Solution:
    """Minimise the energy of a level by second-order steps from a surface, to an orbital gradient in Hartree."""
    radius, done, point = RADIUS, False, surface.point
    for _ in range(steps):
        saddle = (done or point.gradient < tolerance) and not surface.is_minimum
        if done and not saddle:
            break
        step = surface.along(radius) if saddle else surface.step(radius)
        there = level.build(surface.rotations.rotated(step.angles))
        met = level.converged(there, point, tolerance)
        change, size = point.problem.energy_change(point, there), float(np.linalg.norm(step.angles))
        ratio = change / min(step.expected, -TINY)
        if not ratio > POOR:
            radius = quartic_minimum(step.expected, change, size) if saddle else size / 4
        elif ratio > GOOD:
            radius = min(LARGEST, max(radius, 2 * size))
        if ratio > 0 or (met and not saddle):  # rounding may decide the ratio of the last step
            seen = surface.seen(step, change) if ROUNDED < size < SHORT else None
            point, done, surface = there, met, surface.moved(there, seen)
        elif radius < (NO_SADDLE if saddle else SMALLEST):
            break
    return Solution(point, done)


def quartic_minimum(expected: float, change: float, length: float) -> float:
    """Return the distance of the minimum of a x^2 + b x^4 from its maximum.

    Args:
        expected: a x^2 at a length x, Hartree, below zero.
        change: a x^2 + b x^4 there, above `expected`.
    """
    return length * float(np.sqrt(expected / (2 * (expected - change))))


def rotates_freely(problem: Problem) -> bool:
    """Whether second-order steps apply: all occupied orbitals rotate with all virtual ones, unlike irreps and crystals.

    Not for open d shells of ROHF: their orientations are flatter than the error of the response level, in several
    directions, and DIIS, which fills other orbitals, ends sooner.
    """
    mf = problem.mf
    if mf.mol.symmetry or is_periodic(mf.mol):
        return False
    return not (mf.istype("ROHF") and mf.mol.spin and has_open_d_shell(mf.mol))


class Surface:
    """The energy to second order in rotations of a point's orbitals.

    Attributes:
        rotations: of the canonical orbitals.
        gradient: of the energy by all angles, Hartree.
        diagonal: of the Hessian without the response, Hartree.
        response: field of the same gradient and Hessian, exact at the point.
    """

    def __init__(
        self, point: Point, response: ResponseField, seen: Seen | None = None, finer: Field | None = None
    ) -> None:
        """Set up the derivatives.

        Args:
            response: response of the point's level, of any kernel.
            seen: curvature that the response lacks.
            finer: field that tests the lowest curvatures.
        """
        self.point, self._finer, problem = point, finer, point.problem
        orbitals = problem.canonical(point.known_orbitals, point.fock)
        self.rotations = Rotations(orbitals, shared=problem.mf.istype("ROHF"))
        self._spins = self.rotations.spins
        fock = problem.hcore + (point.v if point.v.ndim == 3 else point.v[None])
        self._factors = [spin.occupied * np.sqrt(spin.filling) for spin in self._spins]
        self.response = response.with_kernel(self._factors).around(self._factors, point.v)
        self._blocks = [spin.blocks(f) for spin, f in zip(self._spins, fock, strict=True)]
        self.gradient = self.rotations.flat([vo for vo, _, _ in self._blocks])
        curvatures = [np.subtract.outer(vv.diagonal(), oo.diagonal()) for _, vv, oo in self._blocks]
        self.diagonal = self.rotations.flat(curvatures)
        self._missing = seen.missing if seen else 0.0
        self._direction = self._read(seen.direction) if seen else np.zeros_like(self.gradient)

    def moved(self, point: Point, seen: Seen | None) -> Surface:
        """Return the surface at another point."""
        return Surface(point, self.response, seen, self._finer)

    def curved(self, angles: Array) -> Array:
        """Return H x."""
        # the response is linear in the density: the difference is exact for any length
        product = self._product(self.response, angles, 1.0)
        return product + self._missing * (self._direction @ angles) * self._direction

    def _product(self, field: Field, angles: Array, length: float) -> Array:
        """Return H x with the response of a field, from its potentials at rotations by +- length x."""
        parts = self.rotations.parts(angles)
        displaced = [
            length * (spin.virtual @ x) * np.sqrt(spin.filling) for spin, x in zip(self._spins, parts, strict=True)
        ]
        there, back = ([l + sign * t for l, t in zip(self._factors, displaced, strict=True)] for sign in (1, -1))
        v = (field.potential(there) - field.potential(back)) / (2 * length)
        v = v if v.ndim == 3 else v[None]
        answers = [spin.virtual.T @ dv @ spin.occupied for spin, dv in zip(self._spins, v, strict=True)]
        pairs = zip(self._blocks, parts, answers, strict=True)
        product = self.rotations.flat([vv @ x - x @ oo + answer for (_, vv, oo), x, answer in pairs])
        return product + self.rotations.mixed(angles, [vo for vo, _, _ in self._blocks])

    def seen(self, step: Step, change: float) -> Seen:
        """Return the curvature along a step that changed the energy (Hartree)."""
        size = float(np.linalg.norm(step.angles))
        x = step.angles / size
        missing = 2 * (change - step.expected) / size**2 + self._missing * float(self._direction @ x) ** 2
        parts = zip(self._spins, self.rotations.parts(x), strict=True)
        return Seen([spin.virtual @ part @ spin.occupied.T for spin, part in parts], missing)

    def _read(self, direction: list[Array]) -> Array:
        """Return the angles of a direction at a nearby point; see `Seen`."""
        s = self.point.problem.overlap
        parts = zip(self._spins, direction, strict=True)
        return self.rotations.angles([spin.virtual.T @ s @ x @ s @ spin.occupied for spin, x in parts])

    def step(self, radius: float) -> Step:
        """Return the step to the lowest energy within a radius, in a space of trial vectors as in Davidson's method."""
        space, images = np.zeros((0, self.gradient.size)), np.zeros((0, self.gradient.size))
        trial = -self.gradient / np.maximum(np.abs(self.diagonal), DENOMINATOR)
        while True:
            for _ in range(2):  # once more against rounding
                trial = trial - space.T @ (space @ trial)
                trial = trial / max(float(np.linalg.norm(trial)), TINY)
            space, images = np.vstack([space, trial]), np.vstack([images, self.curved(trial)])
            slope, matrix = space @ self.gradient, space @ images.T
            matrix = (matrix + matrix.T) / 2
            y, shift = lowest_within(slope, matrix, radius)
            residual = y @ images + shift * (y @ space) + self.gradient
            small = np.linalg.norm(residual) < RESIDUAL * np.linalg.norm(self.gradient)
            if small or len(space) >= min(TRIAL_VECTORS, self.gradient.size):
                return Step(y @ space, float(slope @ y + y @ matrix @ y / 2))
            trial = -residual / np.maximum(np.abs(self.diagonal + shift), DENOMINATOR)

    @property
    def is_minimum(self) -> bool:
        """Whether no curvature is negative, for a stationary point."""
        return self.lowest[0] > UNSTABLE

    @cached_property
    def lowest(self) -> tuple[float, Array]:
        """The lowest curvature, Hartree, and its direction, those of the finer field if they may be negative."""
        if not self.gradient.size:
            return np.inf, self.gradient
        values, vectors = self._lowest(1 if self._finer is None else min(LOWEST, self.gradient.size))
        if self._finer is None or values[0] > UNSURE:
            return float(values[0]), vectors[0]
        low = vectors[values < UNSURE]
        matrix = low @ np.array([self._product(self._finer, x, NEARBY) for x in low]).T
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        x = vectors[:, 0] @ low
        self._direction, self._missing = x, float(values[0] - x @ self._product(self.response, x, 1.0))
        return float(values[0]), x

    def _lowest(self, count: int) -> tuple[Array, Array]:
        """Return the lowest curvatures of the response level, Hartree, and their directions (Davidson's method)."""
        order = np.argsort(self.diagonal)[: count + 2]
        noise = np.random.default_rng(0).normal(scale=1e-2, size=(len(order), self.gradient.size))
        start = noise / np.maximum(np.abs(self.diagonal), DENOMINATOR)  # of any symmetry
        start[np.arange(len(order)), order] += 1
        _, values, vectors = lib.davidson1(
            lambda xs: [self.curved(x) for x in xs], list(start), self.diagonal, tol=1e-5, max_cycle=20,
            nroots=count, verbose=0,
        )  # fmt: skip
        return np.asarray(values), np.asarray(vectors)

    def along(self, length: float) -> Step:
        """Return a step downhill along the direction of the lowest curvature."""
        direction = self.lowest[1]
        x = direction * (length / np.linalg.norm(direction))
        x = -x if self.gradient @ x > 0 else x
        return Step(x, float(self.gradient @ x + x @ self.curved(x) / 2))


def lowest_within(slope: Array, matrix: Array, radius: float) -> tuple[Array, float]:
    """Return y of the lowest g y + y A y / 2 with |y| <= radius, and the shift s with (A + s) y = -g."""
    values, vectors = np.linalg.eigh(matrix)
    along = vectors.T @ slope

    def excess(shift: float) -> float:
        return float(np.linalg.norm(along / (values + shift))) - radius

    if values[0] > 0 and excess(0.0) <= 0:
        return -vectors @ (along / values), 0.0
    least = max(0.0, -float(values[0])) + 1e-10
    most = least + float(np.linalg.norm(slope)) / radius
    shift = scipy.optimize.brentq(excess, least, most) if excess(least) > 0 else least
    y = -along / (values + shift)
    if y @ y < radius**2:  # the gradient has no component along the lowest curvature
        y[0] = np.copysign(np.sqrt(radius**2 - y[1:] @ y[1:]), y[0])
    return vectors @ y, float(shift)
