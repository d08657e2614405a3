"""From results to what people read: results.csv, table.md, plots, and one HTML page that needs nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

import numpy as np
from rich.console import Console, JustifyMethod
from rich.markup import escape as rich_escape
from rich.table import Table

from pyscf_mlham.bench.figures import colour, draw, key_methods, png, svg
from pyscf_mlham.bench.measure import Row
from pyscf_mlham.bench.results import RESULTS, Results
from pyscf_mlham.bench.summary import FEWEST, Case, Method, Ratio, summarise
from pyscf_mlham.checkpoint import replace_file
from pyscf_mlham.errors import DataError

TEMPLATE = Path(__file__).with_name("template.html")
BEGIN, END = "<!-- mlham bench: begin -->", "<!-- mlham bench: end -->"
MARKED = re.compile(f"({re.escape(BEGIN)}\n).*?({re.escape(END)})", flags=re.DOTALL)
MOST_PROBLEMS = 30  # listed on the page; all are in results.json
NOTHING = "–"
TOO_FEW = f"without intervals, which fewer than {FEWEST} molecules do not give"
WRONG = ' class="wrong"'
CAPTIONS = {
    "builds": "What an SCF costs, whatever the machine; builds hidden in a guess are counted.",
    "time": "Guess and SCF together.",
    "cycles": "Every molecule counts, also those that do not converge (crosses, at the largest number allowed).",
    "size": "One mark for each molecule, guess and SCF together; below the line time is saved.",
    "convergence": "How far from the solution after each full build: the median molecule, from the guess on.",
    "orbitals": "What the predicted Fock matrix says before any SCF. On the line, it is right.",
}
WITH_INTERVALS = ("builds", "time")  # among the plots
HEADINGS = {
    "builds": "Full Fock builds",
    "time": "Time",
    "cycles": "Cycles, molecule by molecule",
    "size": "Time saved against size",
    "convergence": "Convergence",
    "orbitals": "Orbital energies, predicted and converged",
}
SUMMARY = ("guess", "solver", "cycles", "full builds", "coarse builds", "builds / minao's", "time / minao's", "worst",
           "not converged", "largest energy difference / Ha")  # fmt: skip
SHORT = ("guess", "solver", "cycles", "full\nbuilds", "coarse\nbuilds", "build\nratio", "time\nratio", "worst\nratio",
         "not\nconv.", "dE\n/ Ha")  # fmt: skip
LEGEND = ("Ratios are those to minao with plain SCF: geometric means over the molecules, and the worst of builds. "
          "dE: largest difference of energy to it.")  # fmt: skip
PER_MOLECULE = ("molecule", "atoms", "AOs")


def write_report(results: Results, folder: Path, clock: str = "cpu") -> None:
    """Write everything that follows from results.json.

    Args:
        results: of a benchmark.
        folder: to write into.
        clock: which seconds to show, cpu or wall.
    """
    methods = summarise(results, clock)
    figures = draw(methods, results.protocol) if any(m.cases for m in methods) else {}
    plots = {name: svg(figure, name) for name, figure in figures.items()}  # saving a figure moves its layout a little
    replace_file(folder / "results.csv", results.to_csv().encode())
    replace_file(folder / "table.md", (summary_table(results, clock) + "\n" + molecule_table(results, clock)).encode())
    for name, figure in figures.items():
        replace_file(folder / f"{name}.png", png(figure))
    replace_file(folder / "report.html", html(results, methods, plots, clock).encode())


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
    intervals = "with 95 percent bootstrap intervals" if _enough(methods) else TOO_FEW
    verdict = "" if not problems else f" **{_count(problems)}**, the first: {problems[0].rstrip('.')}."
    about = (
        f"{describe(results)}; {clock_words(results, clock)}. Means over the molecules; ratios are geometric means "
        f"{intervals}. Builds hidden in a guess are counted.{verdict}"
    )
    return "\n".join([*lines, "", about]) + "\n"


def _enough(methods: Sequence[Method]) -> bool:
    """Whether there are molecules enough for intervals."""
    return max((len(method.cases) for method in methods), default=0) >= FEWEST


def _count(problems: Sequence[str]) -> str:
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
    error = f"{method.largest_error:.0e}".replace("0e+00", "0") if np.isfinite(method.largest_error) else NOTHING
    fallback = f" (minao for {method.fallback} of {len(method.cases)})" * bool(method.fallback)
    return [
        method.guess + fallback,
        method.solver,
        *shown,
        method.build_ratio.text(),
        method.time_ratio.text(),
        worst,
        lost,
        error,
    ]


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
    about = "Full Fock builds, those hidden in the guess included (oracle: cycles); ! did not converge."
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


def check_marks(path: Path) -> str:
    """Return the content of a Markdown file that has one place for the table.

    Args:
        path: of the file.
    """
    text = path.read_text()
    if len(MARKED.findall(text)) != 1:
        raise DataError(f"{path}: expected one line {BEGIN} and, below it, one line {END}, for the table between.")
    return text


def insert_table(path: Path, results: Results, clock: str = "cpu") -> None:
    """Replace what stands between two marks in a Markdown file by the table of statistics.

    Args:
        path: of the file.
        results: of a benchmark.
        clock: which seconds to compare, cpu or wall.
    """
    text = check_marks(path)
    table = summary_table(results, clock)
    replace_file(path, MARKED.sub(lambda match: f"{match[1]}\n{table}\n{match[2]}", text).encode())


def print_summary(results: Results, clock: str, console: Console) -> None:
    """Print the statistics, and every problem but bad input, which was told when it was read.

    Args:
        results: of a benchmark.
        clock: which seconds to compare, cpu or wall.
        console: to draw on.
    """
    console.print(f"{describe(results)}; {clock_words(results, clock)}", soft_wrap=True, highlight=False)
    table = narrow_table(SHORT, texts=2)
    for method in summarise(results, clock):  # without the intervals, to fit a narrow terminal
        table.add_row(*(rich_escape(cell.split(" [")[0].replace(", ", ",\n")) for cell in summary_cells(method)))
    console.print(table)
    console.print(LEGEND, highlight=False)
    said = {f"input: {text}" for text in results.bad_input}  # before the runs, by whoever read the input
    for text in (problem for problem in results.problems if problem not in said):
        console.print(f"[red]problem:[/red] {rich_escape(text)}", soft_wrap=True, highlight=False)


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


# the page


def html(results: Results, methods: Sequence[Method], plots: dict[str, str], clock: str) -> str:
    """Return the page.

    Args:
        results: of a benchmark.
        methods: their statistics.
        plots: SVG by name.
        clock: which seconds are shown, cpu or wall.
    """
    parts = {
        "subtitle": escape(describe(results)),
        "clock": escape(clock_words(results, clock)),
        "verdict": _verdict(results),
        "cards": "\n".join(_card(m) for m in key_methods(methods)),
        "summary": _summary_html(methods),
        "intervals": "with 95 % bootstrap intervals below" if _enough(methods) else TOO_FEW,
        "plots": "\n".join(_plot(name, text, _enough(methods)) for name, text in plots.items()),
        "rows": "\n".join(_row_html(row, results.energy_tolerance) for row in results.rows),
        "protocol": _protocol_html(results),
        "source": RESULTS,
    }
    page = TEMPLATE.read_text()
    # one pass, so that nothing inside a value is taken for a place
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], page)


def _verdict(results: Results) -> str:
    problems, runs = results.problems, len(results.rows)
    if not problems:
        largest = max((abs(row.e_err) for row in results.rows if row.e_err is not None), default=0.0)
        return verdict(
            "Same answers",
            f"All {runs} runs converged, and all energies agree with the minao reference: the largest difference is "
            f"{largest:.0e} Ha, {results.energy_tolerance:.0e} are allowed.",
        )
    about = f"Read these before anything else. Energies may differ by {results.energy_tolerance:.0e} Ha."
    return verdict(f"{_count(problems)} in {runs} runs", about, problems)


def verdict(heading: str, text: str, problems: Sequence[str] = (), source: str = RESULTS) -> str:
    """Return what a page begins with, as HTML: green, or red with the problems.

    Args:
        heading: in a word or two.
        text: a sentence.
        problems: what a reader must know first.
        source: name of the file that holds all of them.
    """
    items = "".join(f"<li>{escape(problem)}</li>" for problem in problems[:MOST_PROBLEMS])
    more = len(problems) - MOST_PROBLEMS
    rest = f"<p>and {more} more; {source} holds everything.</p>" if more > 0 else ""
    return (
        f'<section class="verdict {"bad" if problems else "good"}"><h2>{escape(heading)}</h2><p>{escape(text)}</p>'
        f"{f'<ul>{items}</ul>' * bool(problems)}{rest}</section>"
    )


def _card(method: Method) -> str:
    colours = f'style="--tint: {colour(method.guess)}"'
    title = {"coarse": "coarse SCF first"}.get(method.guess, f"{method.guess} guess")
    role = "the classical rival" if method.guess == "coarse" else "PySCF's SCF"
    if method.solver == "twolevel":
        role = "accelerate(), two-level SCF"
    fallback = f"<p class='aside'>no prediction for {method.fallback}; minao took its place</p>" * bool(method.fallback)
    return (
        f'<article class="card" {colours}><h3>{escape(title)}</h3><p class="role">{role}</p>'
        f"{_figure_of_merit(method.build_ratio, 'full Fock builds', inverse=False)}"
        f"{_figure_of_merit(method.time_ratio, 'in time', inverse=True)}{fallback}</article>"
    )


def _figure_of_merit(ratio: Ratio, words: str, inverse: bool) -> str:
    """Show a saving in percent, or a factor, with its interval."""
    if not np.isfinite(ratio.value):
        return ""
    values = [ratio.value, ratio.low, ratio.high]
    if inverse:
        big, low, high = (f"{1 / v:.2f}" for v in (ratio.value, ratio.high, ratio.low))
        text, words = f"{big}×", "faster than minao" if ratio.value <= 1 else "the speed of minao"
    else:
        big, low, high = (f"{100 * (v - 1):+.0f}".replace("-", "−") for v in values)
        text = f"{big} %"
    interval = f"{low} to {high}" if ratio.has_interval else "no interval"
    return f'<p class="merit"><b>{text}</b> <span>{words}<br><small>{interval}</small></span></p>'


def _summary_html(methods: Sequence[Method]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in SUMMARY)
    body = []
    for method in methods:
        cells = [escape(cell) for cell in summary_cells(method)]
        cells[0] = f'<i class="dot" style="--tint: {colour(method.guess)}"></i>{cells[0]}'
        body.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"


def _plot(name: str, text: str, enough: bool) -> str:
    bars = "Bars: 95 % intervals over the molecules." if enough else f"No bars of error: fewer than {FEWEST} molecules."
    caption = CAPTIONS[name] + f" {bars}" * (name in WITH_INTERVALS)
    return (
        f"<figure><figcaption><h3>{HEADINGS[name]}</h3><p>{caption}</p></figcaption>"
        f'<div class="plot">{text}</div></figure>'
    )


def _row_html(row: Row, tolerance: float) -> str:
    wrong = bool(row.error) or not row.converged or row.e_err is None or abs(row.e_err) > tolerance
    error_class = ' class="alarm"' if row.e_err is not None and abs(row.e_err) > tolerance else ""
    note = row.error or row.note or ("" if row.converged else "not converged")
    cells = [
        f"<td>{escape(row.molecule)}</td>", _number(row.natm), _number(row.nao),
        f"<td>{escape(row.guess)}</td><td>{row.solver}</td>", _number(row.cycles), _number(row.full_builds),
        _number(row.guess_builds), _number(row.coarse_builds), _number(row.guess_s, ".2f"), _number(row.total_s, ".2f"),
        _number(row.total_cpu_s, ".2f"), _number(row.e_tot, ".8f"),
        _number(row.e_err, ".0e").replace("<td", f"<td{error_class}", 1), _number(row.s2, ".3f"),
        _number(row.gap, ".4f"), _number(row.initial_gradient, ".1e"), _number(row.guess_homo_err, "+.4f"),
        _number(row.guess_lumo_err, "+.4f"), _number(row.occupied_mae, ".4f"), f'<td class="note">{escape(note)}</td>',
    ]  # fmt: skip
    return f"<tr{WRONG if wrong else ''}>{''.join(cells)}</tr>"


def _number(value: float | None, form: str = "d") -> str:
    """Show a number; its exact value is what it is sorted by."""
    if value is None:
        return '<td data-v=""></td>'
    return f'<td data-v="{value!r}">{format(value, form)}</td>'.replace(">-", ">−")


def _protocol_html(results: Results) -> str:
    shown = asdict(results.protocol) | {"fingerprint": results.protocol.fingerprint}
    shown |= {"energy tolerance": f"{results.energy_tolerance:g} Ha"}
    shown |= {"versions": "; ".join(sorted({row.versions for row in results.rows}))}
    models = {f"{row.model} (sha256 {row.model_sha256[:12]})" for row in results.rows if row.model_sha256}
    shown |= {"models used": ", ".join(sorted(models)) or "none"}
    return "".join(
        f"<dt>{escape(key.replace('_', ' '))}</dt><dd>{escape(text)}</dd>"
        for key, value in shown.items()
        if (text := value if isinstance(value, str) else json.dumps(value))
    )
