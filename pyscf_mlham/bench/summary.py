"""Statistics of a benchmark: medians over repetitions, ratios to the reference, intervals over molecules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from pyscf_mlham.bench.measure import Row
from pyscf_mlham.bench.protocol import REFERENCE
from pyscf_mlham.bench.results import Results, methods_of, molecule_of

RESAMPLES = 10_000
SEED = 0
FEWEST = 6  # molecules with an interval: those of fewer, drawn from a handful of values, are far too narrow
CLOCKS = ("cpu", "wall")


class Case(NamedTuple):
    """One molecule by one method: medians over the repetitions.

    Attributes:
        name: of the molecule.
        natm: atoms.
        nao: basis functions.
        converged: in every repetition.
        cycles: of the SCF; max_cycle where it did not converge.
        builds: full Fock builds, those hidden in the guess among them.
        coarse_builds: coarse Fock builds.
        seconds: guess and SCF, by the chosen clock.
        guess_seconds: the guess alone.
        e_err: largest difference of energy to the reference, Hartree; None without a reference.
        row: of the first repetition.
    """

    name: str
    natm: int
    nao: int
    converged: bool
    cycles: float
    builds: float
    coarse_builds: float
    seconds: float
    guess_seconds: float
    e_err: float | None
    row: Row


class Ratio(NamedTuple):
    """A geometric mean over molecules of ratios to the reference, and its 95 percent interval.

    Attributes:
        value: the mean.
        low, high: of the interval; equal to the value for fewer than `FEWEST` molecules.
    """

    value: float
    low: float
    high: float

    @property
    def has_interval(self) -> bool:
        """Whether there were molecules enough, and they differ."""
        return bool(np.isfinite(self.value)) and self.low != self.high

    def text(self, missing: str = "–") -> str:
        """Return it as 0.71 [0.68, 0.74].

        Args:
            missing: what to say where there is none.
        """
        if not np.isfinite(self.value):
            return missing
        if not self.has_interval:
            return f"{self.value:.2f}"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


class Method(NamedTuple):
    """One pair of guess and solver over all molecules.

    Attributes:
        guess, solver: the pair.
        cases: by key of the molecule.
        cycles, builds, coarse_builds: means; hidden full builds are among the builds.
        cycle_ratio, build_ratio, time_ratio: to the reference; nothing for an oracle's cost, which is the answer's own.
        worst: largest ratio of builds (of cycles for an oracle) to the reference.
        unconverged: how many molecules.
        failed: how many molecules have no result.
        fallback: for how many the model did not serve.
        largest_error: largest |e_err|, Hartree.
    """

    guess: str
    solver: str
    cases: dict[str, Case]
    cycles: float
    builds: float
    coarse_builds: float
    cycle_ratio: Ratio
    build_ratio: Ratio
    time_ratio: Ratio
    worst: float
    unconverged: int
    failed: int
    fallback: int
    largest_error: float

    @property
    def is_bound(self) -> bool:
        """Whether it is no method, but a bound on what any guess can save."""
        return self.guess == "oracle"

    @property
    def name(self) -> str:
        """What to call it in a figure."""
        return self.guess if self.solver == "scf" else f"{self.guess} + two-level"


def summarise(results: Results, clock: str = "cpu") -> list[Method]:
    """Compute the statistics of every method that occurs.

    Args:
        results: of a benchmark.
        clock: which seconds to compare, one of `CLOCKS`.
    """
    groups: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in results.rows:
        groups.setdefault((row.guess, row.solver), {}).setdefault(molecule_of(row), []).append(row)
    cases = {pair: _cases(molecules, clock) for pair, molecules in groups.items()}
    reference = cases.get(REFERENCE, {})
    return [_method(pair, cases[pair], reference, groups[pair]) for pair in methods_of(results)]


def _cases(molecules: dict[str, list[Row]], clock: str) -> dict[str, Case]:
    sound = {key: [row for row in rows if not row.error] for key, rows in molecules.items()}
    return {key: _case(rows, clock) for key, rows in sound.items() if rows}


def _case(rows: Sequence[Row], clock: str) -> Case:
    total, guess = ("total_cpu_s", "guess_cpu_s") if clock == "cpu" else ("total_s", "guess_s")

    def median(value: Callable[[Row], float | None]) -> float:
        return float(np.median([value(row) or 0.0 for row in rows]))

    errors = [row.e_err for row in rows if row.e_err is not None]
    first = rows[0]
    return Case(
        name=first.molecule,
        natm=first.natm,
        nao=first.nao or 0,
        converged=all(row.converged for row in rows),
        cycles=median(lambda row: row.cycles),
        builds=median(lambda row: (row.full_builds or 0) + (row.guess_builds or 0)),
        coarse_builds=median(lambda row: row.coarse_builds),
        seconds=median(lambda row: getattr(row, total)),
        guess_seconds=median(lambda row: getattr(row, guess)),
        e_err=max(errors, key=abs, default=None),
        row=first,
    )


def _method(
    pair: tuple[str, str], cases: dict[str, Case], reference: dict[str, Case], rows: dict[str, list[Row]]
) -> Method:
    def ratios(attribute: str) -> np.ndarray:
        values = [
            (getattr(case, attribute), getattr(reference[key], attribute))
            for key, case in cases.items()
            if key in reference
        ]
        return np.array([a / b for a, b in values if a > 0 and b > 0])

    def mean(attribute: str) -> float:
        return float(np.mean([getattr(case, attribute) for case in cases.values()])) if cases else float("nan")

    bound = pair[0] == "oracle"
    nothing = np.array([])
    compared = ratios("cycles" if bound else "builds")
    return Method(
        *pair,
        cases=cases,
        cycles=mean("cycles"),
        builds=mean("builds"),
        coarse_builds=mean("coarse_builds"),
        cycle_ratio=geometric_mean(ratios("cycles")),
        build_ratio=geometric_mean(nothing if bound else ratios("builds")),
        time_ratio=geometric_mean(nothing if bound else ratios("seconds")),
        worst=float(compared.max(initial=-np.inf)) if len(compared) else float("nan"),
        unconverged=sum(not case.converged for case in cases.values()),
        failed=sum(any(row.error for row in found) for found in rows.values()),
        fallback=sum(case.row.note.startswith("ml not used") for case in cases.values()),
        largest_error=max((abs(case.e_err) for case in cases.values() if case.e_err is not None), default=float("nan")),
    )


def geometric_mean(ratios: np.ndarray) -> Ratio:
    """Return the geometric mean with a bootstrap interval over the molecules, if there are enough; always the same.

    Args:
        ratios: one for each molecule, positive.
    """
    if len(ratios) == 0:
        return Ratio(*[float("nan")] * 3)
    logs = np.log(ratios)
    value = float(np.exp(logs.mean()))
    if len(ratios) < FEWEST:
        return Ratio(value, value, value)
    chosen = np.random.default_rng(SEED).integers(len(logs), size=(RESAMPLES, len(logs)))
    low, high = np.exp(np.percentile(logs[chosen].mean(axis=1), [2.5, 97.5]))
    return Ratio(value, float(low), float(high))
