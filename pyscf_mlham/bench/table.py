"""The tables of a benchmark: in Markdown, and for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from pyscf_mlham.bench.results import Results
from pyscf_mlham.bench.summary import FEWEST, Case, Method, summarise

NOTHING = "–"
TOO_FEW = "without intervals, which a single molecule does not give"
LEGEND = ("Ratios are those to minao with plain SCF: geometric means over the molecules, and the worst of builds. "
          "dE: largest difference of energy to it.")  # fmt: skip
LIMIT = " Limit: set-up and two full builds of the same object."
PER_MOLECULE = ("molecule", "atoms", "AOs")


def describe(results: Results) -> str:
    """Say in one line what was measured.

    Args:
        results: of a benchmark.
    """
    protocol = results.protocol
    rows = [row for row in results.rows if not row.error]
    sizes = [row.natm for row in results.rows] or [0]
    count = len({row.key.split(" ", 1)[0] for row in results.rows})
    kinds = "/".join(sorted({row.scf for row in rows}))
    fitted = ", density fitting" if protocol.density_fit else ""
    grid = f", grid level {protocol.grid_level}" if protocol.xc.lower() != "hf" else ""
    size = f"{min(sizes)} to {max(sizes)} atoms" if min(sizes) != max(sizes) else f"{max(sizes)} atoms"
    molecules = f"{count} molecule{'s' * (count != 1)} of {size}"
    level = f"{protocol.xc}/{protocol.basis}, {kinds or protocol.scf}{fitted}{grid}, conv_tol {protocol.conv_tol:g}"
    return f"{molecules}, {level}"


def clock_words(results: Results, clock: str) -> str:
    """Say which seconds are compared.

    Args:
        results: of a benchmark.
        clock: cpu or wall.
    """
    threads = results.protocol.threads
    kind = "processor seconds" if clock == "cpu" else "wall time"
    return f"{kind} of {threads} thread{'s' * (threads != 1)}"


def summary_table(results: Results, clock: str = "cpu") -> str:
    """Return the statistics as a Markdown table with a line on what was measured.

    Args:
        results: of a benchmark.
        clock: which seconds to compare, cpu or wall.
    """
    methods = summarise(results, clock)
    shown = columns(methods)
    lines = [_line([column.heading for column in shown]), "|---|---|" + "--:|" * (len(shown) - 2)]
    lines += [_line([column.cell(method) for column in shown]) for method in methods]
    problems = results.problems
    intervals = "with 95 percent intervals (Student's t on their logarithms)" if enough(methods) else TOO_FEW
    verdict = "" if not problems else f" **{how_many(problems)}**, the first: {problems[0].rstrip('.')}."
    notices = "".join(f" **Notice**: {notice}." for notice in results.notices)
    about = (
        f"{describe(results)}; {clock_words(results, clock)}. Means over the molecules; ratios are geometric means "
        f"{intervals}. Builds hidden in a guess are counted.{LIMIT * bool(results.limits)}{verdict}{notices}"
    )
    return "\n".join([*lines, "", about]) + "\n"


def enough(methods: Sequence[Method]) -> bool:
    """Whether there are molecules enough for intervals.

    Args:
        methods: of a benchmark.
    """
    return max((len(method.cases) for method in methods), default=0) >= FEWEST


def how_many(problems: Sequence[str]) -> str:
    """Say how many problems there are.

    Args:
        problems: of a benchmark.
    """
    return f"{len(problems)} problem{'s' * (len(problems) != 1)}"


class Column(NamedTuple):
    """One column of the table of statistics.

    Attributes:
        heading: in Markdown and on the page.
        short: for a terminal of 80 columns.
        cell: text of a method.
        needed: whether a method has something to show; the column is left out if none has. None: always shown.
    """

    heading: str
    short: str
    cell: Callable[[Method], str]
    needed: Callable[[Method], bool] | None = None


def _number(value: float, form: str = ".1f") -> str:
    return format(value, form) if np.isfinite(value) else NOTHING


def _cost(attribute: str) -> Callable[[Method], str]:
    """Mean number of builds; none for a bound, whose builds are those that found the answer."""
    return lambda method: NOTHING if method.is_bound else _number(method.mean(attribute))


def _label(method: Method) -> str:
    return method.guess + (f" ({'; '.join(texts)})" if (texts := asides(method)) else "")


def _not_converged(method: Method) -> str:
    return str(method.unconverged) + (f", {method.failed} failed" if method.failed else "")


def _energy(method: Method) -> str:
    error = _number(method.largest_error, ".1e").replace("0.0e+00", "0")
    return error + f", {method.elsewhere} other state{'s' * (method.elsewhere != 1)}" * bool(method.elsewhere)


COLUMNS = (
    Column("guess", "guess", _label),
    Column("solver", "solver", lambda m: m.solver),
    Column("cycles", "cycles", lambda m: _number(m.cycles)),
    Column("full builds", "full\nbuilds", _cost("builds")),
    Column("coarse builds", "coarse\nbuilds", _cost("coarse_builds")),
    Column("response solves", "resp.\nsolves", _cost("response_solves"), lambda m: m.mean("response_solves") > 0),
    Column("builds / minao's", "build\nratio", lambda m: m.build_ratio.text()),
    Column("time / minao's", "time\nratio", lambda m: m.time_ratio.text()),
    Column("time / limit", "time /\nlimit", lambda m: m.limit_ratio.text(), lambda m: np.isfinite(m.limit_ratio.value)),
    Column("worst", "worst\nratio", lambda m: NOTHING if m.is_bound else _number(m.worst, ".2f")),
    Column("not converged", "not\nconv.", _not_converged),
    Column("largest energy difference / Ha", "dE\n/ Ha", _energy),
)


def columns(methods: Sequence[Method]) -> list[Column]:
    """Return the columns of the table of statistics that have something to show."""
    return [column for column in COLUMNS if column.needed is None or any(map(column.needed, methods))]


def asides(method: Method) -> list[str]:
    """Say where a method was not what its name says, and where it lacks molecules.

    Args:
        method: statistics of a guess and a solver.
    """
    done = len(method.cases)
    said = [
        f"minao for {method.fallback} of {done}" * bool(method.fallback),
        f"plain SCF for {method.plain} of {done}" * bool(method.plain),
        f"{done} of {method.total} molecules" * method.is_partial,
    ]
    return [text for text in said if text]


def molecule_table(results: Results, clock: str = "cpu") -> str:
    """Return cycles and full builds of every molecule as a Markdown table.

    Args:
        results: of a benchmark.
        clock: which seconds to compare, cpu or wall.
    """
    methods = summarise(results, clock)
    lines = [_line([*PER_MOLECULE, *(m.name for m in methods)]), "|---|--:|--:|" + "--:|" * len(methods)]
    for key, name, natm, nao in _molecules(methods):
        cells = [_build_cell(m, m.cases.get(key)) for m in methods]
        lines.append(_line([name, str(natm), str(nao), *cells]))
    about = "Full Fock builds, those hidden in the guess included (oracle, chk: cycles); ! did not converge."
    return "\n".join([*lines, "", about]) + "\n"


def _molecules(methods: Sequence[Method]) -> list[tuple[str, str, int, int]]:
    found = {key: (case.name, case.natm, case.nao) for m in methods for key, case in m.cases.items()}
    return [(key, *about) for key, about in found.items()]


def _build_cell(method: Method, case: Case | None) -> str:
    if case is None:
        return NOTHING
    return f"{case.cycles if method.is_bound else case.builds:g}" + "!" * (not case.converged)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def print_summary(results: Results, clock: str, console: Console) -> None:
    """Print the statistics, notices, and every problem but bad input, which was told when it was read.

    Args:
        results: of a benchmark.
        clock: which seconds to compare, cpu or wall.
        console: to draw on.
    """
    console.print(f"{describe(results)}; {clock_words(results, clock)}", soft_wrap=True, highlight=False)
    methods = summarise(results, clock)
    shown = columns(methods)
    table = narrow_table([column.short for column in shown], texts=2)
    for method in methods:  # without the intervals, to fit a narrow terminal
        table.add_row(*(escape(column.cell(method).split(" [")[0].replace(", ", ",\n")) for column in shown))
    console.print(table)
    console.print(LEGEND, highlight=False)
    said = {f"input: {text}" for text in results.bad_input}  # before the runs, by whoever read the input
    for text in results.notices:
        console.print(f"[yellow]notice:[/yellow] {escape(text)}", soft_wrap=True, highlight=False)
    for text in (problem for problem in results.problems if problem not in said):
        console.print(f"[red]problem:[/red] {escape(text)}", soft_wrap=True, highlight=False)


def narrow_table(headings: Sequence[str], texts: int) -> Table:
    """Return an empty table for 80 columns, in which the first one gives way to the numbers.

    Args:
        headings: of the columns.
        texts: how many of them hold no numbers.
    """
    table = Table(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for place, heading in enumerate(headings):
        side: JustifyMethod = "left" if place < texts else "right"
        table.add_column(heading, justify=side, no_wrap=place > 0, overflow="fold", vertical="bottom")
    return table
