"""Tables and sentences on the results of a benchmark, in Markdown and for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from pyscf_mlham.bench.protocol import Trajectory
from pyscf_mlham.bench.results import Results, method_name, molecule_of
from pyscf_mlham.bench.summary import FEWEST, NAN, NOTHING, Method, remarks, sections, summarise
from pyscf_mlham.progress import print_line

TOO_FEW = "without intervals, for a single molecule"
INTERVALS = "with 95 percent intervals (Student's t on their logarithms)"
LIMIT = " Limit: set-up and two full builds of the same object."
PATH_LIMIT = " Time with that of the forces; limit: set-up, one full build and the forces, at the first geometry."
LEGEND = (
    "Ratios are those to minao with plain SCF: geometric means over the molecules. "
    "dE: largest difference of energy to it."
)


class Sheet(NamedTuple):
    """A table of texts, for Markdown, the page and a terminal."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    texts: int = 1  # columns of words, before those of numbers
    short: list[str] | None = None  # headings on a terminal, "" to omit the column there
    alarms: Sequence[int] = ()  # rows whose last number is wrong

    def markdown(self) -> str:
        """Return the table in Markdown."""
        ruler = "|" + "---|" * self.texts + "--:|" * (len(self.headings) - self.texts)
        first, *others = (
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (self.headings, *self.rows)
        )
        return "\n".join([first, ruler, *others]) + "\n"

    def print(self, console: Console) -> None:
        """Print the table without the intervals, to fit 80 columns; only the first column wraps."""
        if self.title:
            console.print(f"\n[bold]{escape(self.title)}[/bold]", highlight=False, soft_wrap=True)
        table = Table(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False)
        headings = self.short or self.headings
        for place, heading in enumerate(headings):
            side: JustifyMethod = "left" if place < self.texts else "right"
            if heading:
                table.add_column(heading, justify=side, no_wrap=place > 0, overflow="fold", vertical="bottom")
        for row in self.rows:
            cells = (cell for cell, heading in zip(row, headings, strict=True) if heading)
            table.add_row(*(escape(cell.split(" [")[0].replace(", ", ",\n")) for cell in cells))
        if self.rows:
            console.print(table)


class Column(NamedTuple):
    """One column of the table of statistics."""

    heading: str
    short: str  # heading on a terminal of 80 columns; "" to omit the column there
    cell: Callable[[Method], str]
    # whether a method has a value; the column is omitted if all lack one. None: always shown
    needed: Callable[[Method], bool] | None = None


def _number(value: float, form: str = ".1f") -> str:
    return format(value, form) if np.isfinite(value) else NOTHING


def _cost(attribute: str) -> Callable[[Method], str]:
    """Return the mean number of builds; not for a bound, whose builds are those of its own SCF."""
    return lambda method: NOTHING if method.is_bound else _number(method.mean(attribute))


def _label(method: Method, name: str = "") -> str:
    return (name or method.guess) + (f" ({'; '.join(texts)})" if (texts := remarks(method)) else "")


def _energy(method: Method) -> str:
    error = _number(method.largest_error, ".1e").replace("0.0e+00", "0")
    return error + f", {method.elsewhere} other state{'s' * (method.elsewhere != 1)}" * bool(method.elsewhere)


def _unconverged(method: Method) -> str:
    count = sum(not case.converged for case in method.cases.values())
    return f"{count}" + f", {method.failed} failed" * bool(method.failed)


SINGLE = Column(
    "single-precision builds", "single\nbuilds", _cost("single_builds"), lambda m: m.mean("single_builds") > 0
)
RESPONSE = Column("response builds", "resp.\nbuilds", _cost("response_builds"), lambda m: m.mean("response_builds") > 0)
OVER = Column(
    "time / limit", "time /\nlimit", lambda m: m.limit_ratio.text(), lambda m: np.isfinite(m.limit_ratio.value)
)
ERROR = Column("largest energy difference / Ha", "dE\n/ Ha", _energy)
GUESSES = (
    Column("guess", "guess", _label),
    Column("solver", "solver", lambda m: m.solver),
    Column("cycles", "cycles", lambda m: _number(m.mean("cycles"))),
    Column("full builds", "full\nbuilds", _cost("builds")),
    SINGLE,
    Column("coarse builds", "coarse\nbuilds", _cost("coarse_builds")),
    RESPONSE,
    Column("builds / {reference}'s", "build\nratio", lambda m: m.mean_ratio("builds").text()),
    Column("time / {reference}'s", "time\nratio", lambda m: m.mean_ratio("seconds").text()),
    OVER,
    Column(
        "worst", "", lambda m: NOTHING if m.is_bound else _number(max(m.ratios("builds").values(), default=NAN), ".2f")
    ),
    Column("not converged", "not\nconv.", _unconverged),
    ERROR,
)


def _share(method: Method) -> str:
    reference = sum(method.number(case, "builds") for case in method.reference.values())
    return _number(method.total_of("builds") / reference if reference else np.nan, ".2f")


STRATEGIES = (  # of one molecule's path
    Column("strategy", "strategy", lambda m: _label(m, m.name)),
    Column("mean cycles", "mean\ncycles", lambda m: _number(m.mean("cycles"), ".2f")),
    Column("mean Fock builds", "mean\nbuilds", lambda m: _number(m.mean("builds"), ".2f")),
    Column("builds / {reference}'s", "", _share),
    Column("most builds", "most\nbuilds", lambda m: f"{max(m.counted('builds'), default=0):.0f}"),
    Column("all builds", "all\nbuilds", lambda m: f"{m.total_of('builds'):.0f}"),
    SINGLE,
    Column("coarse builds", "coarse\nbuilds", _cost("coarse_builds")),
    RESPONSE,
    Column("cycles, first geometry", "", lambda m: f"{m.number(next(iter(m.cases.values())), 'cycles'):.0f}"),
    Column("SCF, s per geometry", "s per\nstep", lambda m: _number(m.mean("seconds"), ".2f")),
    OVER,
    ERROR,
)


def sheets(results: Results) -> list[Sheet]:
    """Return the tables of statistics: one, or one for each molecule's path."""
    return [_sheet(results, title, methods) for title, methods in sections(results)]


def _sheet(results: Results, title: str, methods: Sequence[Method]) -> Sheet:
    """Return a table of the columns that have values, with the reference in their headings."""
    every = STRATEGIES if results.is_path else GUESSES
    methods = [method for method in methods if method.cases or not title]
    shown = [column for column in every if column.needed is None or any(map(column.needed, methods))]
    return Sheet(
        title,
        [column.heading.format(reference=reference_name(results)) for column in shown],
        [[column.cell(method) for column in shown] for method in methods],
        1 if results.is_path else 2,
        [column.short for column in shown],
        [place for place, method in enumerate(methods) if method.largest_error > results.energy_tolerance],
    )


def reference_name(results: Results) -> str:
    """Return the name of the method that all are compared with."""
    return method_name(*results.protocol.reference)


def describe(results: Results) -> str:
    """Return a line on the molecules and the level of theory."""
    protocol, rows = results.protocol, results.rows
    sizes = [row.natm for row in rows] or [0]
    count = len({molecule_of(row) for row in rows})
    size = f"{min(sizes)} to {max(sizes)} atoms" if min(sizes) != max(sizes) else f"{max(sizes)} atoms"
    parts = [
        f"{count} molecule{'s' * (count != 1)} of {size}",
        f"{protocol.xc}/{protocol.basis}",
        "/".join(sorted({row.scf for row in rows if not row.error})) or "no result",
        "density fitting" * protocol.density_fit,
        protocol.details,
        f"conv_tol {protocol.conv_tol:g}",
    ]
    return ", ".join(part for part in parts if part)


def clock_name(results: Results) -> str:
    """Return which seconds are compared, as text."""
    kind = "processor seconds" if results.clock == "cpu" else "wall time"
    threads = getattr(results.protocol, "threads", 0)
    return f"{kind} of {threads} thread{'s' * (threads != 1)}" if threads else f"{kind} of one process, guess included"


def summary_table(results: Results) -> str:
    """Return the statistics as Markdown tables with a line on the molecules and the level of theory."""
    lines = []
    for sheet in sheets(results):
        lines += [f"## {sheet.title}", ""] if sheet.title else []
        lines += [sheet.markdown()] if sheet.rows else []
    problems = results.problems
    verdict = "" if not problems else f" **{how_many(problems)}**, the first: {problems[0].rstrip('.')}."
    notices = "".join(f" **Notice**: {notice}." for notice in results.notices)
    about = f"{describe(results)}; {clock_name(results)}. {_explained(results)}"
    return "\n".join([*lines, about + verdict + notices]) + "\n"


def _explained(results: Results) -> str:
    """Return an explanation of the numbers in the tables."""
    if results.is_path:
        first = "Means leave the first geometry out. " * (results.protocol.kind == "md")
        return f"{first}Builds are full Fock builds. {compared(results)}" + PATH_LIMIT * bool(results.limits)
    means = f"Means over the molecules; ratios are geometric means {intervals(results)}."
    counted = "Full builds of a guess are counted; coarse builds are not part of the ratios."
    return f"{means} {counted}" + LIMIT * bool(results.limits)


def compared(results: Results) -> str:
    """Return a sentence on the reference of the energies."""
    if isinstance(results.protocol, Trajectory) and len(results.protocol.runs) == 1:
        return "Energies of a single run are not compared."
    return f"dE: largest difference of energy to {reference_name(results)}."


def intervals(results: Results) -> str:
    """Return which intervals the ratios have, as text."""
    return INTERVALS if len({molecule_of(row) for row in results.rows if not row.error}) >= FEWEST else TOO_FEW


def how_many(problems: Sequence[str]) -> str:
    """Return the number of problems as text."""
    return f"{len(problems)} problem{'s' * (len(problems) != 1)}"


def molecule_table(results: Results) -> str:
    """Return cycles and full builds of every molecule as a Markdown table."""
    methods = summarise(results)

    def cell(method: Method, key: str) -> str:
        if (case := method.cases.get(key)) is None:
            return NOTHING
        return f"{method.number(case, 'cycles' if method.is_bound else 'builds'):g}" + "!" * (not case.converged)

    molecules = {key: row for method in methods for key, row in method.cases.items()}
    rows = [
        [row.molecule, str(row.natm), str(row.nao or 0), *(cell(method, key) for method in methods)]
        for key, row in molecules.items()
    ]
    about = "Full Fock builds, those hidden in the guess included (oracle, chk: cycles); ! did not converge."
    return Sheet("", ["molecule", "atoms", "AOs", *(m.name for m in methods)], rows).markdown() + f"\n{about}\n"


def print_summary(results: Results, console: Console) -> None:
    """Print statistics, notices, and problems, except bad input, which is reported when it is read."""
    print_line(console, f"{describe(results)}; {clock_name(results)}")
    for sheet in sheets(results):
        sheet.print(console)
    console.print(_explained(results) if results.is_path else LEGEND, highlight=False)
    reported = {f"input: {text}" for text in results.bad_input}
    for text in results.notices:
        print_line(console, text, "notice", "yellow")
    for text in (problem for problem in results.problems if problem not in reported):
        print_line(console, text, "problem")
