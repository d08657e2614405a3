"""The tables of a benchmark: in Markdown, and for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from pyscf_mlham.bench.results import Results
from pyscf_mlham.bench.summary import FEWEST, Case, Method, summarise

NOTHING = "–"
TOO_FEW = "without intervals, which a single molecule does not give"
SUMMARY = ("guess", "solver", "cycles", "full builds", "coarse builds", "builds / minao's", "time / minao's", "worst",
           "not converged", "largest energy difference / Ha")  # fmt: skip
SHORT = ("guess", "solver", "cycles", "full\nbuilds", "coarse\nbuilds", "build\nratio", "time\nratio", "worst\nratio",
         "not\nconv.", "dE\n/ Ha")  # fmt: skip
LEGEND = ("Ratios are those to minao with plain SCF: geometric means over the molecules, and the worst of builds. "
          "dE: largest difference of energy to it.")  # fmt: skip
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
    lines = [_line(SUMMARY), "|---|---|" + "--:|" * (len(SUMMARY) - 2)]
    methods = summarise(results, clock)
    lines += [_line(summary_cells(method)) for method in methods]
    problems = results.problems
    intervals = "with 95 percent intervals (Student's t on their logarithms)" if enough(methods) else TOO_FEW
    verdict = "" if not problems else f" **{how_many(problems)}**, the first: {problems[0].rstrip('.')}."
    notices = "".join(f" **Notice**: {notice}." for notice in results.notices)
    about = (
        f"{describe(results)}; {clock_words(results, clock)}. Means over the molecules; ratios are geometric means "
        f"{intervals}. Builds hidden in a guess are counted.{verdict}{notices}"
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


def summary_cells(method: Method) -> list[str]:
    """Return the cells of a method in the table of statistics.

    Args:
        method: statistics of a guess and a solver.
    """
    numbers = (method.cycles, method.builds, method.coarse_builds)
    shown = [f"{value:.1f}" if np.isfinite(value) else NOTHING for value in numbers]
    if method.is_bound:  # its builds are those that found the answer
        shown[1:] = [NOTHING, NOTHING]
    worst = f"{method.worst:.2f}" if np.isfinite(method.worst) and not method.is_bound else NOTHING
    lost = str(method.unconverged) + (f", {method.failed} failed" if method.failed else "")
    error = f"{method.largest_error:.1e}".replace("0.0e+00", "0") if np.isfinite(method.largest_error) else NOTHING
    if method.elsewhere:
        error += f", {method.elsewhere} other state{'s' * (method.elsewhere != 1)}"
    return [
        method.guess + (f" ({'; '.join(said)})" if (said := asides(method)) else ""),
        method.solver,
        *shown,
        method.build_ratio.text(),
        method.time_ratio.text(),
        worst,
        lost,
        error,
    ]


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
    table = narrow_table(SHORT, texts=2)
    for method in summarise(results, clock):  # without the intervals, to fit a narrow terminal
        table.add_row(*(escape(cell.split(" [")[0].replace(", ", ",\n")) for cell in summary_cells(method)))
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
