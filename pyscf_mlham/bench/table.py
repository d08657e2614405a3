"""The tables of a benchmark: in Markdown, and for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from pyscf_mlham.bench.protocol import Trajectory
from pyscf_mlham.bench.results import Results
from pyscf_mlham.bench.summary import FEWEST, Case, Method, sections, summarise

NOTHING = "–"
TOO_FEW = "without intervals, for a single molecule"
INTERVALS = "with 95 percent intervals (Student's t on their logarithms)"
LIMIT = " Limit: set-up and two full builds of the same object."
LEGEND = (
    "Ratios are those to minao with plain SCF: geometric means over the molecules. "
    "dE: largest difference of energy to it."
)
PER_MOLECULE = ("molecule", "atoms", "AOs")


class Column(NamedTuple):
    """One column of the table of statistics.

    Attributes:
        heading: heading in Markdown and on the page.
        short: heading on a terminal of 80 columns; "" to omit the column there.
        cell: function from a method to its text.
        needed: whether a method has a value; the column is omitted if all lack one. None: always shown.
    """

    heading: str
    short: str
    cell: Callable[[Method], str]
    needed: Callable[[Method], bool] | None = None


def _number(value: float, form: str = ".1f") -> str:
    return format(value, form) if np.isfinite(value) else NOTHING


def _cost(attribute: str) -> Callable[[Method], str]:
    """Return the mean number of builds; not for a bound, whose builds are those of its own SCF."""
    return lambda method: NOTHING if method.is_bound else _number(method.mean(attribute))


def _label(method: Method, name: str = "") -> str:
    return (name or method.guess) + (f" ({'; '.join(texts)})" if (texts := asides(method)) else "")


def _not_converged(method: Method) -> str:
    return str(method.unconverged) + (f", {method.failed} failed" if method.failed else "")


def _energy(method: Method) -> str:
    error = _number(method.largest_error, ".1e").replace("0.0e+00", "0")
    return error + f", {method.elsewhere} other state{'s' * (method.elsewhere != 1)}" * bool(method.elsewhere)


RESPONSE = Column("response solves", "resp.\nsolves", _cost("response_solves"), lambda m: m.mean("response_solves") > 0)
ERROR = Column("largest energy difference / Ha", "dE\n/ Ha", _energy)
GUESSES = (
    Column("guess", "guess", _label),
    Column("solver", "solver", lambda m: m.solver),
    Column("cycles", "cycles", lambda m: _number(m.cycles)),
    Column("full builds", "full\nbuilds", _cost("builds")),
    Column("coarse builds", "coarse\nbuilds", _cost("coarse_builds")),
    RESPONSE,
    Column("builds / {reference}'s", "build\nratio", lambda m: m.build_ratio.text()),
    Column("time / {reference}'s", "time\nratio", lambda m: m.time_ratio.text()),
    Column("time / limit", "time /\nlimit", lambda m: m.limit_ratio.text(), lambda m: np.isfinite(m.limit_ratio.value)),
    Column("worst", "", lambda m: NOTHING if m.is_bound else _number(m.worst, ".2f")),
    Column("not converged", "not\nconv.", _not_converged),
    ERROR,
)


def _share(method: Method) -> str:
    reference = sum(case.builds for case in method.reference.values())
    return _number(method.total_of("builds") / reference if reference else np.nan, ".2f")


STRATEGIES = (  # of one molecule's path
    Column("strategy", "strategy", lambda m: _label(m, m.name)),
    Column("mean cycles", "mean\ncycles", lambda m: _number(m.cycles, ".2f")),
    Column("mean Fock builds", "mean\nbuilds", lambda m: _number(m.builds, ".2f")),
    Column("builds / {reference}'s", "", _share),
    Column("most builds", "most\nbuilds", lambda m: f"{max(m.counted('builds'), default=0):.0f}"),
    Column("all builds", "all\nbuilds", lambda m: f"{m.total_of('builds'):.0f}"),
    Column("coarse cycles", "coarse\ncycles", _cost("coarse_builds")),
    RESPONSE,
    Column("cycles, first geometry", "first\ncycles", lambda m: f"{next(iter(m.cases.values())).cycles:.0f}"),
    Column("s per geometry", "s per\nstep", lambda m: _number(m.mean("seconds"))),
    ERROR,
)


def columns(results: Results, methods: Sequence[Method]) -> list[Column]:
    """Return the columns of a table of statistics that have values, with the reference in their headings."""
    name = reference_name(results)
    every = STRATEGIES if results.is_path else GUESSES
    shown = [column for column in every if column.needed is None or any(map(column.needed, methods))]
    return [column._replace(heading=column.heading.format(reference=name)) for column in shown]


def reference_name(results: Results) -> str:
    """Return the name of the method that all are compared with."""
    guess, solver = results.protocol.reference
    return guess if solver == "scf" else f"{guess}/{solver}"


def describe(results: Results) -> str:
    """Return a line on the molecules and the level of theory."""
    protocol, rows = results.protocol, results.rows
    sizes = [row.natm for row in rows] or [0]
    count = len({row.key.split(" ", 1)[0] for row in rows})
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


def clock_name(results: Results, clock: str) -> str:
    """Return which seconds are compared, as text."""
    kind = "processor seconds" if clock == "cpu" else "wall time"
    threads = getattr(results.protocol, "threads", 0)
    return f"{kind} of {threads} thread{'s' * (threads != 1)}" if threads else f"{kind} of one process, guess included"


def summary_table(results: Results, clock: str = "cpu") -> str:
    """Return the statistics as Markdown tables with a line on the molecules and the level of theory."""
    lines, found = [], sections(results, clock)
    for title, methods in found:
        lines += [f"## {title}", ""] if title else []
        if not any(method.cases for method in methods):
            continue
        shown = columns(results, methods)
        rows = [[column.cell(method) for column in shown] for method in methods if method.cases or not title]
        lines.append(markdown([column.heading for column in shown], rows, texts=1 if results.is_path else 2))
    problems = results.problems
    verdict = "" if not problems else f" **{how_many(problems)}**, the first: {problems[0].rstrip('.')}."
    notices = "".join(f" **Notice**: {notice}." for notice in results.notices)
    about = (
        f"{describe(results)}; {clock_name(results, clock)}. {_explained(results, found[0].methods if found else [])}"
    )
    return "\n".join([*lines, about + verdict + notices]) + "\n"


def _explained(results: Results, methods: Sequence[Method]) -> str:
    """Return an explanation of the numbers in the tables."""
    if results.is_path:
        first = "Means leave the first geometry out. " * (results.protocol.kind == "md")
        return f"{first}Builds are full Fock builds. {compared(results)}"
    intervals = INTERVALS if enough(methods) else TOO_FEW
    limit = LIMIT * bool(results.limits)
    means = f"Means over the molecules; ratios are geometric means {intervals}."
    return f"{means} Builds hidden in a guess are counted.{limit}"


def compared(results: Results) -> str:
    """Return a sentence on the reference of the energies."""
    if isinstance(results.protocol, Trajectory) and len(results.protocol.runs) == 1:
        return "Energies of a single run are not compared."
    return f"dE: largest difference of energy to {reference_name(results)}."


def enough(methods: Sequence[Method]) -> bool:
    """Whether there are enough molecules for intervals."""
    return max((len(method.cases) for method in methods), default=0) >= FEWEST


def how_many(problems: Sequence[str]) -> str:
    """Return the number of problems as text."""
    return f"{len(problems)} problem{'s' * (len(problems) != 1)}"


def asides(method: Method) -> list[str]:
    """Return for how many molecules a method used its fallback, and how many it lacks."""
    done = len(method.cases)
    instead = "no model" if "+" in method.guess else "minao"  # a history continues without the model
    texts = [
        f"{instead} for {method.fallback} of {done}" * bool(method.fallback),
        f"plain SCF for {method.plain} of {done}" * bool(method.plain),
        f"{done} of {method.total} molecules" * method.is_partial,
    ]
    return [text for text in texts if text]


def molecule_table(results: Results, clock: str = "cpu") -> str:
    """Return cycles and full builds of every molecule as a Markdown table."""
    methods = summarise(results, clock)
    rows = [
        [name, str(natm), str(nao), *(_build_cell(m, m.cases.get(key)) for m in methods)]
        for key, name, natm, nao in _molecules(methods)
    ]
    about = "Full Fock builds, those hidden in the guess included (oracle, chk: cycles); ! did not converge."
    return markdown([*PER_MOLECULE, *(m.name for m in methods)], rows) + f"\n{about}\n"


def _molecules(methods: Sequence[Method]) -> list[tuple[str, str, int, int]]:
    found = {key: (case.name, case.natm, case.nao) for m in methods for key, case in m.cases.items()}
    return [(key, *about) for key, about in found.items()]


def _build_cell(method: Method, case: Case | None) -> str:
    if case is None:
        return NOTHING
    return f"{case.cycles if method.is_bound else case.builds:g}" + "!" * (not case.converged)


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Return a Markdown table, whose first columns are texts and the others numbers."""
    ruler = "|" + "---|" * texts + "--:|" * (len(headings) - texts)
    first, *others = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (headings, *rows))
    return "\n".join([first, ruler, *others]) + "\n"


def print_summary(results: Results, clock: str, console: Console) -> None:
    """Print statistics, notices, and problems, except bad input, which is reported when it is read."""
    console.print(f"{describe(results)}; {clock_name(results, clock)}", soft_wrap=True, highlight=False)
    found = sections(results, clock)
    for title, methods in found:
        if title:
            console.print(f"\n[bold]{escape(title)}[/bold]", highlight=False, soft_wrap=True)
        shown = [column for column in columns(results, methods) if column.short]
        table = narrow_table([column.short for column in shown], texts=1 if results.is_path else 2)
        for method in methods:  # without the intervals, to fit a narrow terminal
            if method.cases or not title:
                cells = (column.cell(method).split(" [")[0].replace(", ", ",\n") for column in shown)
                table.add_row(*map(escape, cells))
        if table.rows:
            console.print(table)
    console.print(_explained(results, []) if results.is_path else LEGEND, highlight=False)
    reported = {f"input: {text}" for text in results.bad_input}
    for text in results.notices:
        console.print(f"[yellow]notice:[/yellow] {escape(text)}", soft_wrap=True, highlight=False)
    for text in (problem for problem in results.problems if problem not in reported):
        console.print(f"[red]problem:[/red] {escape(text)}", soft_wrap=True, highlight=False)


def narrow_table(headings: Sequence[str], texts: int) -> Table:
    """Return an empty table for 80 columns, in which only the first column wraps."""
    table = Table(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for place, heading in enumerate(headings):
        side: JustifyMethod = "left" if place < texts else "right"
        table.add_column(heading, justify=side, no_wrap=place > 0, overflow="fold", vertical="bottom")
    return table
