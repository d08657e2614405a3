"""Statistics of a benchmark: medians over repetitions, ratios to the reference, intervals over molecules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from pyscf_mlham.bench.measure import PLAIN, Row
from pyscf_mlham.bench.protocol import REFERENCE
from pyscf_mlham.bench.results import Results, methods_of, molecule_of
from pyscf_mlham.bench.starts import NO_MODEL

COVERED = 0.95  # of the intervals
FEWEST = 2  # molecules with an interval
WIDE = 99.0  # bounds beyond it say nothing
CLOCKS = ("cpu", "wall")


class Case(NamedTuple):
    """One molecule by one method: medians over the repetitions, the worst of them where one did not converge.

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
        low, high: of the interval, by Student's t on the logarithms; equal to the value for a single molecule.
    """

    value: float
    low: float
    high: float

    @property
    def has_interval(self) -> bool:
        """Whether there were molecules enough, and they differ."""
        return bool(self.high > self.low * (1 + 1e-9))

    def text(self, missing: str = "–") -> str:
        """Return it as 0.71 [0.68, 0.74].

        Args:
            missing: what to say where there is none.
        """
        if not np.isfinite(self.value):
            return missing
        if not self.has_interval:
            return f"{self.value:.2f}"
        high = f"{self.high:.2f}" if self.high <= WIDE else f">{WIDE:.0f}"
        return f"{self.value:.2f} [{self.low:.2f}, {high}]"


class Method(NamedTuple):
    """One pair of guess and solver over all molecules.

    Attributes:
        guess, solver: the pair.
        cases: by key of the molecule; those without a result are missing.
        total: how many molecules the benchmark has.
        cycles, builds, coarse_builds: means; hidden full builds are among the builds.
        cycle_ratio, build_ratio, time_ratio: to the reference; nothing for an oracle's cost, which is the answer's own.
        worst: largest ratio of builds (of cycles for an oracle) to the reference.
        unconverged: how many molecules.
        failed: how many runs.
        fallback: for how many molecules the model did not serve.
        plain: for how many the two-level solver left everything to plain SCF.
        elsewhere: how many ended in another state than the reference.
        largest_error: largest |e_err|, Hartree.
    """

    guess: str
    solver: str
    cases: dict[str, Case]
    total: int
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
    plain: int
    elsewhere: int
    largest_error: float

    @property
    def is_bound(self) -> bool:
        """Whether it is no method, but a bound on what any guess can save."""
        return is_answer(self.guess)

    @property
    def is_partial(self) -> bool:
        """Whether molecules are missing, so that its means are not those of the others' molecules."""
        return len(self.cases) < self.total

    @property
    def name(self) -> str:
        """What to call it in a figure."""
        return self.guess if self.solver == "scf" else f"{self.guess} + two-level"


def is_answer(guess: str) -> bool:
    """Whether a guess is an answer that was found before, whose cost is not counted: the oracle's, or a file's.

    Args:
        guess: label.
    """
    return guess == "oracle" or guess.startswith("chk:")


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
    return [_method(pair, cases[pair], reference, groups[pair], results) for pair in methods_of(results)]


def _cases(molecules: dict[str, list[Row]], clock: str) -> dict[str, Case]:
    sound = {key: [row for row in rows if not row.error] for key, rows in molecules.items()}
    return {key: _case(rows, clock) for key, rows in sound.items() if rows}


def _case(rows: Sequence[Row], clock: str) -> Case:
    total, guess = ("total_cpu_s", "guess_cpu_s") if clock == "cpu" else ("total_s", "guess_s")
    converged = all(row.converged for row in rows)

    def of_all(value: Callable[[Row], float | None]) -> float:
        values = [value(row) or 0.0 for row in rows]
        return float(np.median(values) if converged else np.max(values))

    errors = [row.e_err for row in rows if row.e_err is not None]
    first = rows[0]
    return Case(
        name=first.molecule,
        natm=first.natm,
        nao=first.nao or 0,
        converged=converged,
        cycles=of_all(lambda row: row.cycles),
        builds=of_all(lambda row: (row.full_builds or 0) + (row.guess_builds or 0)),
        coarse_builds=of_all(lambda row: row.coarse_builds),
        seconds=of_all(lambda row: getattr(row, total)),
        guess_seconds=of_all(lambda row: getattr(row, guess)),
        e_err=max(errors, key=abs, default=None),
        row=first,
    )


def _method(
    pair: tuple[str, str],
    cases: dict[str, Case],
    reference: dict[str, Case],
    rows: dict[str, list[Row]],
    results: Results,
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

    bound = is_answer(pair[0])
    nothing = np.array([])
    compared = ratios("cycles" if bound else "builds")
    return Method(
        *pair,
        cases=cases,
        total=len({molecule_of(row) for row in results.rows}),
        cycles=mean("cycles"),
        builds=mean("builds"),
        coarse_builds=mean("coarse_builds"),
        cycle_ratio=geometric_mean(ratios("cycles")),
        build_ratio=geometric_mean(nothing if bound else ratios("builds")),
        time_ratio=geometric_mean(nothing if bound else ratios("seconds")),
        worst=float(compared.max(initial=-np.inf)) if len(compared) else float("nan"),
        unconverged=sum(not case.converged for case in cases.values()),
        failed=sum(bool(row.error) for found in rows.values() for row in found),
        fallback=sum(case.row.note.startswith(NO_MODEL) for case in cases.values()),
        plain=sum(PLAIN in case.row.note for case in cases.values()),
        elsewhere=sum(any(map(results.is_elsewhere, found)) for found in rows.values()),
        largest_error=max((abs(case.e_err) for case in cases.values() if case.e_err is not None), default=float("nan")),
    )


def geometric_mean(ratios: np.ndarray) -> Ratio:
    """Return the geometric mean with an interval over the molecules, by Student's t on the logarithms.

    Args:
        ratios: one for each molecule, positive.
    """
    if len(ratios) == 0:
        return Ratio(*[float("nan")] * 3)
    logs = np.log(ratios)
    mean, half = logs.mean(), 0.0
    if len(ratios) >= FEWEST:
        half = stdtrit(len(logs) - 1, (1 + COVERED) / 2) * logs.std(ddof=1) / np.sqrt(len(logs))
    return Ratio(*(float(np.exp(value)) for value in (mean, mean - half, mean + half)))
