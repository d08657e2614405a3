"""The full level with cheaper ones below it, and what is tried if those are too coarse or lead to a saddle point."""

from __future__ import annotations

from pyscf.lib import logger

from pyscf_mlham.ao.mole import has_open_d_shell
from pyscf_mlham.density import Orbitals, gap
from pyscf_mlham.errors import ResourceError
from pyscf_mlham.field import COARSE
from pyscf_mlham.scf.multilevel.descent import descended, rotates_freely
from pyscf_mlham.scf.multilevel.ladder import Ladder
from pyscf_mlham.scf.multilevel.levels import FullLevel, Iterate, NoProgressError, Outcome
from pyscf_mlham.scf.multilevel.solver import Course, solve
from pyscf_mlham.scf.multilevel.start import START_TOL

EASY = 8  # builds of the coarse level; a solution that takes more may be a saddle point ...
NARROW = 0.03  # ... and a closed shell of d elements with a smaller gap, Hartree
RESTARTS = 3  # from lower points
FULL_STEPS = 10  # of second order in the full level


def climb(full: FullLevel, ladder: Ladder, orbitals: Orbitals, tolerance: float, close: bool = False) -> Outcome:
    """Converge the full level with cheaper ones below it; by second-order steps if DIIS on them makes no progress.

    Args:
        orbitals: orbitals of the first full build.
        tolerance: orbital gradient of the cheaper levels' last solution, Hartree.
        close: whether the orbitals are near a known solution.
    """
    full.fields = ladder.fields
    full.is_minimum = ladder.is_minimum
    outcome = _climbed(full, ladder, orbitals, tolerance)
    for _ in range(RESTARTS):
        doubtful = ladder.builds(COARSE.name) > EASY or (not close and _may_be_saddle(outcome.best))
        if outcome.slow or not full.left or not (outcome.failure or doubtful):
            break
        lower = _lower(ladder, outcome)
        if lower is None:
            break
        full.restart()
        there = _climbed(full, ladder, lower, tolerance)
        if there.best.lies_above(outcome.best):
            break
        outcome = there
    surface = ladder.surface(outcome.best) if outcome.failure and full.left else None
    if surface is None:
        return outcome
    best, converged = descended(full, surface, tolerance, min(FULL_STEPS, full.left))
    assert isinstance(best, Iterate)
    return Outcome(best, "" if converged else outcome.failure)


def _may_be_saddle(point: Iterate) -> bool:
    """Whether a solution is of d elements, open-shell or of a small gap: there is often a lower one next to it."""
    mf = point.problem.mf
    if not (rotates_freely(point.problem) and has_open_d_shell(mf.mol)):
        return False
    return mf.istype("UHF") or gap(point.known_orbitals) < NARROW


def _lower(ladder: Ladder, outcome: Outcome) -> Orbitals | None:
    """Descend in the coarse level shifted to the best point, unless that is a solution and a minimum."""
    point, surface = outcome.best, ladder.surface(outcome.best)
    if surface is None or (not outcome.failure and surface.is_minimum):
        return None
    if not outcome.failure:
        curvature = surface.lowest[0]
        logger.info(point.problem.mf, "multilevel SCF: descent from a saddle point, curvature %.2g Hartree", curvature)
    [level] = ladder.levels([COARSE.name])
    goal = min(START_TOL, point.gradient / 10) if outcome.failure else START_TOL
    found = descended(level.shifted(point), surface, goal).point
    return None if found is point else found.orbitals


def _climbed(full: FullLevel, ladder: Ladder, orbitals: Orbitals, tolerance: float) -> Outcome:
    """Converge the full level with the first levels of the ladder below it, or with later ones if those are slow."""
    if full.build(orbitals).gradient > tolerance:
        ladder.sharpen(full.last)
    elif full.finished(Course(full.last), tolerance):  # without the cost of making the cheaper levels
        return full.outcome
    for names in ladder.rungs:
        try:
            solve(full, full.best, tolerance, ladder.levels(names))
        except ResourceError as error:
            return Outcome(full.best, str(error))
        except NoProgressError:
            continue
        if not full.outcome.slow:
            return full.outcome
    return Outcome(full.best, full.outcome.failure or "the cheaper levels make no progress", slow=True)
