"""Cost of the geometries of an optimisation or a trajectory, step by step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class StepCost(NamedTuple):
    """Cost of one geometry.

    Attributes:
        cycles: SCF cycles, or full builds of the multilevel solver.
        builds: full Fock builds.
        coarse: coarse builds, those of predictions included.
        single, response: builds of the object's field in single precision, and of the response level.
        scf_seconds: processor seconds of the SCF, guess included.
        force_seconds: processor seconds of the forces.
        fallback: why the requested model was not used; "" if it was, or if none was requested.
    """

    cycles: int
    builds: int
    coarse: int
    scf_seconds: float
    force_seconds: float
    fallback: str = ""
    single: int = 0
    response: int = 0


class Report(NamedTuple):
    """Cost of all geometries so far; `str` gives a table."""

    steps: tuple[StepCost, ...]

    @property
    def mean_cycles(self) -> float:
        """Cycles per step, without the first if there are more."""
        return self._mean([step.cycles for step in self.steps])

    @property
    def mean_builds(self) -> float:
        """Full Fock builds per step, without the first if there are more."""
        return self._mean([step.builds for step in self.steps])

    @staticmethod
    def _mean(counts: list[int]) -> float:
        return float(np.mean(counts[1:] or counts or [0]))

    @property
    def builds_saved(self) -> int:
        """Full Fock builds saved, compared with the first step's cost at every step."""
        return sum(self.steps[0].builds - step.builds for step in self.steps) if self.steps else 0

    def __str__(self) -> str:
        """Return a table."""
        lines = ["step  cycles  Fock builds  single  coarse  response  SCF / s  forces / s"]
        lines += [
            f"{i:4d}  {s.cycles:6d}  {s.builds:11d}  {s.single:6d}  {s.coarse:6d}  {s.response:8d}"
            f"  {s.scf_seconds:7.1f}  {s.force_seconds:10.1f}"
            for i, s in enumerate(self.steps)
        ]
        lines.append(
            f"per step after the first: {self.mean_cycles:.1f} cycles, {self.mean_builds:.1f} Fock builds; "
            f"{self.builds_saved} Fock builds saved, compared with the first step's cost at every step"
        )
        if reasons := [step.fallback for step in self.steps if step.fallback]:
            lines.append(f"without the model at {len(reasons)} of {len(self.steps)} geometries: {reasons[0]}")
        return "\n".join(lines)
