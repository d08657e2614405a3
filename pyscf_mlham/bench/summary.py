"""Statistics of a benchmark.

Repetitions of a run are merged to their medians; methods are compared with the reference by the ratios of all
molecules, with intervals over the molecules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from pyscf_mlham.bench.measure import ONE_LEVEL, Row
from pyscf_mlham.bench.results import Results, case_of, grouped, method_name, methods_of, molecule_of
from pyscf_mlham.bench.starts import REFUSED

COVERED = 0.95  # confidence level of the intervals
FEWEST = 2  # smallest number of molecules for an interval
WIDE = 99.0  # bounds beyond it are not shown
NAN = float("nan")
NOTHING = "–"
# columns of a row that are merged over repetitions
MERGED = (
    "cycles", "full_builds", "guess_builds", "single_builds", "coarse_builds", "response_builds",
    "total_s", "total_cpu_s", "force_cpu_s",
)  # fmt: skip


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
    clock: str  # of the seconds: cpu or wall
    cases: dict[str, Row]  # merged repetitions by key, without those that failed
    reference: dict[str, Row]
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
        return method_name(self.guess, self.solver)

    def number(self, case: Row, column: str) -> float:
        """Return a number of a case: a column of its row, "builds", hidden ones included, or "seconds"."""
        if column == "builds":
            return (case.full_builds or 0) + (case.guess_builds or 0)
        column = {"seconds": "total_cpu_s" if self.clock == "cpu" else "total_s"}.get(column, column)
        return float(getattr(case, column) or 0)

    def counted(self, column: str) -> list[float]:
        """Return a number of all cases that the means are over."""
        return [self.number(case, column) for case in self.cases.values()][self.skipped :]

    def mean(self, column: str) -> float:
        """Return the arithmetic mean of a number of the cases."""
        return float(np.mean(found)) if (found := self.counted(column)) else NAN

    def total_of(self, column: str) -> float:
        """Return the sum of a number over all cases."""
        return sum(self.number(case, column) for case in self.cases.values())

    def ratios(self, column: str) -> dict[str, float]:
        """Return the ratios of a number to the reference, by key."""
        both = {key: (case, self.reference[key]) for key, case in self.cases.items() if key in self.reference}
        pairs = {key: [self.number(case, column) for case in cases] for key, cases in both.items()}
        return {key: a / b for key, (a, b) in pairs.items() if a > 0 and b > 0}

    def mean_ratio(self, column: str) -> Ratio:
        """Return the geometric mean of these ratios."""
        return geometric_mean(np.array([] if self.is_bound else list(self.ratios(column).values())))

    @property
    def limit_ratio(self) -> Ratio:
        """Seconds, with those of the forces along a path, over the limit."""
        limits = [(c.limit_cpu_s if self.clock == "cpu" else c.limit_s) for c in self.cases.values()][self.skipped :]
        times = zip(self.counted("seconds"), self.counted("force_cpu_s"), limits, strict=True)
        ratios = [(seconds + forces) / limit for seconds, forces, limit in times if limit and not self.is_bound]
        return geometric_mean(np.array(ratios))

    @property
    def largest_error(self) -> float:
        """Largest difference of energy to the reference, Hartree."""
        return max((abs(case.e_err) for case in self.cases.values() if case.e_err is not None), default=NAN)


def geometric_mean(ratios: np.ndarray) -> Ratio:
    """Return the geometric mean with an interval over the molecules, by Student's t on the logarithms."""
    if len(ratios) < FEWEST:
        return Ratio(*[float(ratios[0]) if len(ratios) else NAN] * 3)
    logs = np.log(ratios)
    half = stats.t.ppf((1 + COVERED) / 2, len(logs) - 1) * stats.sem(logs)
    return Ratio(*(float(np.exp(logs.mean() + shift)) for shift in (0, -half, half)))


def summarise(results: Results) -> list[Method]:
    """Return the statistics of all methods; along a path, each geometry is a case."""
    methods = methods_of(results)
    runs = {pair: [row for row in results.rows if (row.guess, row.solver) == pair] for pair in methods}
    cases = {
        pair: {key: _merged(rows) for key, rows in grouped((r for r in own if not r.error), case_of).items()}
        for pair, own in runs.items()
    }
    total = len({case_of(row) for row in results.rows if not (results.is_path and row.error)})
    return [
        Method(
            *pair,
            clock=results.clock,
            cases=cases[pair],
            reference=cases.get(results.protocol.reference, {}),
            total=total,
            failed=sum(bool(row.error) for row in runs[pair]),
            elsewhere=len({case_of(row) for row in runs[pair] if results.is_elsewhere(row)}),
            skipped=int(results.protocol.kind == "md" and total > 1),
        )
        for pair in methods
    ]


def _merged(rows: Sequence[Row]) -> Row:
    """Return the medians over the repetitions of a run, the worst of them if one did not converge."""
    converged = all(row.converged for row in rows)
    middle = np.median if converged else np.max
    numbers = {column: float(middle([getattr(row, column) or 0 for row in rows])) for column in MERGED}
    e_err = max((row.e_err for row in rows if row.e_err is not None), key=abs, default=None)
    return dataclasses.replace(rows[0], converged=converged, e_err=e_err, **numbers)  # type: ignore[arg-type]


def sections(results: Results) -> list[tuple[str, list[Method]]]:
    """Return title and methods of each table: one without title, or one for each molecule's path."""
    if not results.is_path:
        return [("", summarise(results))]
    return [
        (heading(rows), summarise(dataclasses.replace(results, rows=rows)))
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


def remarks(method: Method) -> list[str]:
    """Return for how many molecules a method used its fallback, and how many it lacks."""
    done = len(method.cases)
    matches = [match for case in method.cases.values() if (match := REFUSED.match(case.note))]
    instead = (matches[0][1] if matches else "") or "no model"  # a history continues without the model
    plain = sum(ONE_LEVEL in case.note for case in method.cases.values())
    texts = [
        f"{instead} for {len(matches)} of {done}" * bool(matches),
        f"plain SCF for {plain} of {done}" * bool(plain),
        f"{done} of {method.total} molecules" * method.is_partial,
    ]
    return [text for text in texts if text]
