"""Statistics of a benchmark: medians over repetitions, ratios to the reference, intervals over molecules."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from pyscf_mlham.bench.measure import Row
from pyscf_mlham.bench.results import Results, case_of, grouped, methods_of, molecule_of

COVERED = 0.95  # confidence level of the intervals
FEWEST = 2  # smallest number of molecules for an interval
WIDE = 99.0  # bounds beyond it are not shown
CLOCKS = ("cpu", "wall")
NAN = float("nan")
NOTHING = "–"


class Case(NamedTuple):
    """One molecule by one method: medians over the repetitions, the worst of them if one did not converge."""

    converged: bool  # whether every repetition converged
    cycles: float  # SCF cycles; max_cycle if it did not converge
    builds: float  # full Fock builds, including those hidden in the guess
    single_builds: float
    coarse_builds: float
    response_solves: float
    seconds: float  # guess and SCF, by the chosen clock
    forces: float  # seconds of the forces along a path
    limit: float | None  # see `Row.limit_s`; None if not measured
    e_err: float | None  # largest difference of energy to the reference, Hartree; None without a reference
    row: Row  # row of the first repetition


class Ratio(NamedTuple):
    """A geometric mean over molecules of ratios to the reference, and its 95 percent interval."""

    value: float
    low: float  # equal to the value for a single molecule
    high: float

    @property
    def has_interval(self) -> bool:
        """Whether there are enough molecules, and they differ."""
        return bool(self.high > self.low * (1 + 1e-9))

    def text(self) -> str:
        """Return the ratio as 0.71 [0.68, 0.74]."""
        if not np.isfinite(self.value):
            return NOTHING
        high = f"{self.high:.2f}" if self.high <= WIDE else f">{WIDE:.0f}"
        return f"{self.value:.2f}" + f" [{self.low:.2f}, {high}]" * self.has_interval


@dataclass(frozen=True)
class Method:
    """One pair of guess and solver over all cases; the ratios are not for a bound, whose builds are its own SCF's."""

    guess: str
    solver: str
    cases: dict[str, Case]  # by key, without those that failed
    reference: dict[str, Case]
    total: int  # number of molecules in the benchmark
    failed: int  # number of failed runs
    elsewhere: int  # number of molecules that converge to another state than the reference
    skipped: int = 0  # number of first geometries that are not in the means

    @property
    def is_bound(self) -> bool:
        """Whether it is a converged solution whose cost is not counted: the oracle's, or that of a file."""
        return self.guess == "oracle" or self.guess.startswith("chk:")

    @property
    def is_partial(self) -> bool:
        """Whether molecules are missing, so that its means are not over the same molecules as others."""
        return len(self.cases) < self.total

    @property
    def name(self) -> str:
        """Name in figures."""
        return self.guess if self.solver == "scf" else f"{self.guess}/{self.solver}"

    def counted(self, attribute: str) -> list[float]:
        """Return a number of all cases that the means are over."""
        return [getattr(case, attribute) for case in list(self.cases.values())[self.skipped :]]

    def mean(self, attribute: str) -> float:
        """Return the arithmetic mean of a number of the cases."""
        return float(np.mean(found)) if (found := self.counted(attribute)) else NAN

    def total_of(self, attribute: str) -> float:
        """Return the sum of a number over all cases."""
        return float(sum(getattr(case, attribute) for case in self.cases.values()))

    def ratios(self, attribute: str) -> np.ndarray:
        """Return the ratios of a number to the reference."""
        both = [(case, self.reference[key]) for key, case in self.cases.items() if key in self.reference]
        pairs = [(getattr(case, attribute), getattr(other, attribute)) for case, other in both]
        return np.array([a / b for a, b in pairs if a > 0 and b > 0])

    @property
    def cycles(self) -> float:
        """Mean number of cycles."""
        return self.mean("cycles")

    @property
    def builds(self) -> float:
        """Mean number of full builds, including those hidden in the guess."""
        return self.mean("builds")

    def mean_ratio(self, attribute: str) -> Ratio:
        """Return the geometric mean of these ratios."""
        return geometric_mean(np.array([]) if self.is_bound else self.ratios(attribute))

    @property
    def limit_ratio(self) -> Ratio:
        """Seconds, with those of the forces along a path, over the limit."""
        cases = [] if self.is_bound else list(self.cases.values())[self.skipped :]
        return geometric_mean(np.array([(case.seconds + case.forces) / case.limit for case in cases if case.limit]))

    @property
    def largest_error(self) -> float:
        """Largest difference of energy to the reference, Hartree."""
        return max((abs(case.e_err) for case in self.cases.values() if case.e_err is not None), default=NAN)


class Section(NamedTuple):
    """One table: of a benchmark of guesses, or of the path of one molecule."""

    title: str  # title of the molecule; "" for a benchmark of guesses
    methods: list[Method]


def sections(results: Results, clock: str = "cpu") -> list[Section]:
    """Return the tables of a benchmark."""
    if not results.is_path:
        return [Section("", summarise(results, clock))]
    return [
        Section(heading(rows), summarise(dataclasses.replace(results, rows=rows), clock))
        for rows in grouped(results.rows, molecule_of).values()
    ]


def heading(rows: Sequence[Row]) -> str:
    """Return the title of a molecule's path: its name, state, and number of geometries."""
    first, steps = rows[0], {row.step for row in rows if not row.error}
    state = f", charge {first.charge:+d}" if first.charge else ""
    state += f", multiplicity {first.mult}" * ((first.mult or 1) > 2)  # others are the lowest
    ends = [row.at_minimum for row in rows if row.at_minimum is not None]
    failed = " (failed)" * any(row.error for row in rows)
    stopped = " (stopped before the minimum)" * bool(ends and not any(ends))
    return f"{first.molecule}{state}, {len(steps)} geometries{failed or stopped}"


def summarise(results: Results, clock: str = "cpu") -> list[Method]:
    """Return the statistics of all methods; along a path, each geometry is a case."""
    groups: dict[tuple[str, str], dict[str, list[Row]]] = {
        pair: grouped((row for row in results.rows if (row.guess, row.solver) == pair), case_of)
        for pair in methods_of(results)
    }
    cases = {
        pair: {case: _case(sound, clock) for case, rows in found.items() if (sound := [r for r in rows if not r.error])}
        for pair, found in groups.items()
    }
    total = len({case_of(row) for row in results.rows if not (results.is_path and row.error)})
    return [
        Method(
            *pair,
            cases=cases[pair],
            reference=cases.get(results.protocol.reference, {}),
            total=total,
            failed=sum(bool(row.error) for rows in groups[pair].values() for row in rows),
            elsewhere=sum(any(map(results.is_elsewhere, rows)) for rows in groups[pair].values()),
            skipped=int(results.protocol.kind == "md" and total > 1),
        )
        for pair in groups
    ]


def _case(rows: Sequence[Row], clock: str) -> Case:
    unit = "cpu_s" if clock == "cpu" else "s"
    converged = all(row.converged for row in rows)

    def of_all(*columns: str) -> float:
        values = [sum(getattr(row, name) or 0.0 for name in columns) for row in rows]
        return float(np.median(values) if converged else np.max(values))

    errors, first = [row.e_err for row in rows if row.e_err is not None], rows[0]
    return Case(
        converged,
        of_all("cycles"),
        of_all("full_builds", "guess_builds"),
        of_all("single_builds"),
        of_all("coarse_builds"),
        of_all("response_solves"),
        of_all(f"total_{unit}"),
        of_all("force_cpu_s"),
        limit=getattr(first, f"limit_{unit}"),
        e_err=max(errors, key=abs, default=None),
        row=first,
    )


def geometric_mean(ratios: np.ndarray) -> Ratio:
    """Return the geometric mean with an interval over the molecules, by Student's t on the logarithms."""
    if len(ratios) < FEWEST:
        return Ratio(*[float(ratios[0]) if len(ratios) else NAN] * 3)
    logs = np.log(ratios)
    half = stats.t.ppf((1 + COVERED) / 2, len(logs) - 1) * stats.sem(logs)
    return Ratio(*(float(np.exp(logs.mean() + shift)) for shift in (0, -half, half)))
