"""The page of a benchmark: one HTML file that needs nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

import numpy as np

from pyscf_mlham.bench.figures import colour, key_methods
from pyscf_mlham.bench.measure import Row
from pyscf_mlham.bench.protocol import Protocol
from pyscf_mlham.bench.results import RESULTS, Results
from pyscf_mlham.bench.summary import Method, Ratio
from pyscf_mlham.bench.table import TOO_FEW, asides, clock_words, columns, describe, enough, how_many

TEMPLATE = Path(__file__).with_name("template.html")
MOST_PROBLEMS = 30  # listed on the page; all are in results.json
VAGUE = 10.0  # an interval is not told whose bounds differ by this factor
WRONG = ' class="wrong"'
ALARM = ' class="alarm"'
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
        "cards": "\n".join(map(_card, key_methods(methods))) or "<p>Only the reference was run.</p>",
        "summary": _summary_html(methods, results.energy_tolerance),
        "intervals": "with 95 % intervals below, by Student's t on their logarithms" if enough(methods) else TOO_FEW,
        "plots": "\n".join(_plot(name, text, enough(methods)) for name, text in plots.items()),
        "rows": "\n".join(_row_html(row, results, clock) for row in [*results.rows, *results.limits]),
        "protocol": _protocol_html(results),
        "rival": escape(_rival(results.protocol)),
        "source": RESULTS,
    }
    page = TEMPLATE.read_text()
    # one pass, so that nothing inside a value is taken for a place
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], page)


def _verdict(results: Results) -> str:
    problems, notices, runs = results.problems, results.notices, len(results.rows)
    if problems:
        about = f"Read these before anything else. Energies may differ by {results.energy_tolerance:.1e} Ha."
        told = "".join(f" {notice}." for notice in notices)
        return verdict(f"{how_many(problems)} in {runs} runs", about + told, problems, "bad")
    largest = max((abs(row.e_err) for row in results.rows if row.e_err is not None), default=0.0)
    about = (
        f"All {runs} runs converged, and all energies agree with the minao reference: the largest difference is "
        f"{largest:.1e} Ha, {results.energy_tolerance:.1e} are allowed."
    )
    if notices:
        return verdict("Not everything can be compared", about, notices, "open")
    return verdict("Same answers", about)


def verdict(heading: str, text: str, items: Sequence[str] = (), tone: str = "good", source: str = RESULTS) -> str:
    """Return what a page begins with, as HTML.

    Args:
        heading: in a word or two.
        text: a sentence.
        items: what a reader must know first.
        tone: "good" is green; "bad" is red, with the problems as items; "open" is neither.
        source: name of the file that holds all of them.
    """
    listed = "".join(f"<li>{escape(item)}</li>" for item in items[:MOST_PROBLEMS])
    more = len(items) - MOST_PROBLEMS
    rest = f"<p>and {more} more; {source} holds everything.</p>" if more > 0 else ""
    return (
        f'<section class="verdict {tone}"><h2>{escape(heading)}</h2><p>{escape(text)}</p>'
        f"{f'<ul>{listed}</ul>' * bool(items)}{rest}</section>"
    )


def _card(method: Method) -> str:
    colours = f'style="--tint: {colour(method.guess)}"'
    title = {"coarse": "coarse SCF first"}.get(method.guess, f"{method.guess} guess")
    role = "the classical rival" if method.guess == "coarse" else "PySCF's SCF"
    if method.solver == "twolevel":
        role = "accelerate(), two-level SCF"
    said = f"<p class='aside'>Mind: {escape('; '.join(texts))}</p>" if (texts := asides(method)) else ""
    return (
        f'<article class="card" {colours}><h3>{escape(title)}</h3><p class="role">{role}</p>'
        f"{_figure_of_merit(method.build_ratio, 'full Fock builds', inverse=False)}"
        f"{_figure_of_merit(method.time_ratio, 'in time', inverse=True)}{said}</article>"
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
    vague = ratio.high > VAGUE * ratio.low
    interval = "too few for an interval" if vague else f"{low} to {high}" if ratio.has_interval else "no interval"
    return f'<p class="merit"><b>{text}</b> <span>{words}<br><small>{interval}</small></span></p>'


def _summary_html(methods: Sequence[Method], tolerance: float) -> str:
    shown = columns(methods)
    head = "".join(f"<th>{escape(column.heading)}</th>" for column in shown)
    body = []
    for method in methods:
        cells = [escape(column.cell(method)) for column in shown]
        cells[0] = f'<i class="dot" style="--tint: {colour(method.guess)}"></i>{cells[0]}'
        *others, error = cells
        alarm = ALARM * (method.largest_error > tolerance)
        body.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in others) + f"<td{alarm}>{error}</td></tr>")
    return f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"


def _plot(name: str, text: str, intervals: bool) -> str:
    bars = "Bars: 95 % intervals over the molecules." if intervals else "No bars of error: a single molecule."
    caption = CAPTIONS[name] + f" {bars}" * (name in WITH_INTERVALS)
    return (
        f"<figure><figcaption><h3>{HEADINGS[name]}</h3><p>{caption}</p></figcaption>"
        f'<div class="plot">{text}</div></figure>'
    )


def _over_limit(row: Row, clock: str) -> float | None:
    total, limit = (row.total_cpu_s, row.limit_cpu_s) if clock == "cpu" else (row.total_s, row.limit_s)
    return total / limit if total and limit else None


def _row_html(row: Row, results: Results, clock: str) -> str:
    doubt = results.doubt(row)
    alarm = ALARM * (row.e_err is not None and abs(row.e_err) > results.energy_tolerance)
    note = row.error or "; ".join(filter(None, (doubt.words if doubt else "", row.note)))
    cells = [
        f"<td>{escape(row.molecule)}</td>", _number(row.natm), _number(row.charge), _number(row.mult), _number(row.nao),
        f"<td>{escape(row.guess)}</td><td>{row.solver}</td>", _number(row.cycles), _number(row.full_builds),
        _number(row.guess_builds), _number(row.coarse_builds), _number(row.response_solves),
        _number(row.guess_s, ".2f"), _number(row.total_s, ".2f"),
        _number(row.total_cpu_s, ".2f"), _number(_over_limit(row, clock), ".2f"), _number(row.e_tot, ".8f"),
        _number(row.e_err, ".1e").replace("<td", f"<td{alarm}", 1), _number(row.s2, ".3f"),
        _number(row.gap, ".4f"), _number(row.initial_gradient, ".1e"), _number(row.guess_homo_err, "+.4f"),
        _number(row.guess_lumo_err, "+.4f"), _number(row.occupied_mae, ".4f"), f'<td class="note">{escape(note)}</td>',
    ]  # fmt: skip
    return f"<tr{WRONG * bool(doubt)}>{''.join(cells)}</tr>"


def _number(value: float | None, form: str = "d") -> str:
    """Show a number; its exact value is what it is sorted by."""
    if value is None:
        return '<td data-v=""></td>'
    return f'<td data-v="{value!r}">{format(value, form)}</td>'.replace(">-", ">−")


def _rival(protocol: Protocol) -> str:
    """Say how the SCF that is the coarse guess is made."""
    if protocol.coarse_grid is None:
        return "on a smaller grid (there is none here, and so no such guess)"
    grid = "" if protocol.xc.lower() == "hf" else f"on grid level {protocol.coarse_grid} "
    return f"{grid}to {protocol.coarse_tol:.0e} Ha"


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
