"""The report of a benchmark: results.csv, table.md, plots, and one self-contained HTML page from a template."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pyscf_mlham.bench.figures import colour, draw, saved, svg
from pyscf_mlham.bench.protocol import Protocol
from pyscf_mlham.bench.results import RESULTS, Results
from pyscf_mlham.bench.summary import (
    INTERVALS,
    Sheet,
    clock_name,
    compared,
    describe,
    how_many,
    intervals,
    molecule_table,
    reference_name,
    sections,
    sheets,
    summary_table,
)
from pyscf_mlham.checkpoint import replace_file
from pyscf_mlham.errors import DataError

BEGIN, END = "<!-- mlham bench: begin -->", "<!-- mlham bench: end -->"
MARKED = re.compile(f"({re.escape(BEGIN)}\n).*?({re.escape(END)})", flags=re.DOTALL)
MOST_PROBLEMS = 30  # listed on the page; all are in results.json
BARS = ("builds", "time")  # plots with intervals
PLOTS = {
    "builds": ("Full Fock builds", "The machine-independent cost of an SCF; builds hidden in a guess are counted."),
    "time": ("Time", "Guess and SCF together."),
    "cycles": (
        "Cycles, molecule by molecule",
        "Every molecule counts, also those that do not converge (crosses, at the largest number allowed).",
    ),
    "size": (
        "Time saved against size",
        "One mark for each molecule, guess and SCF together; below the line time is saved.",
    ),
    "convergence": (
        "Convergence",
        "Orbital gradient after each full build, for the median molecule, from the guess on.",
    ),
    "orbitals": (
        "Orbital energies, predicted and converged",
        "Those of the predicted Fock matrix, before any SCF. Points on the line are exact.",
    ),
}
# headings of the table of runs, attributes of a row, and formats of numbers
RUNS = (
    ("molecule", "molecule", ""), ("geometry", "step", "d"), ("atoms", "natm", "d"), ("charge", "charge", "d"),
    ("mult.", "mult", "d"), ("AOs", "nao", "d"), ("guess", "guess", ""), ("solver", "solver", ""),
    ("cycles", "cycles", "d"), ("full builds", "full_builds", "d"), ("hidden builds", "guess_builds", "d"),
    ("single-precision builds", "single_builds", "d"), ("coarse builds", "coarse_builds", "d"),
    ("response builds", "response_solves", "d"),
    ("guess, wall s", "guess_s", ".2f"), ("total, wall s", "total_s", ".2f"), ("total, cpu s", "total_cpu_s", ".2f"),
    ("total / limit", "over_limit", ".2f"), ("energy", "e_tot", ".8f"), ("energy error", "e_err", ".1e"),
    ("S²", "s2", ".3f"), ("stable", "stable", ""), ("gap", "gap", ".4f"),
    ("initial gradient", "initial_gradient", ".1e"), ("HOMO error", "guess_homo_err", "+.4f"),
    ("LUMO error", "guess_lumo_err", "+.4f"), ("occupied MAE", "occupied_mae", ".4f"), ("note", "note", ""),
)  # fmt: skip
SOME = ("step", "over_limit", "single_builds", "response_solves", "stable")  # columns that not all benchmarks have


def write_report(results: Results, folder: Path, clock: str = "cpu") -> None:
    """Write all files that are made from results.json."""
    figures = draw(sections(results, clock), results.protocol)
    plots = {name: svg(figure, name) for name, figure in figures.items()}  # saving a figure moves its layout a little
    replace_file(folder / "results.csv", results.to_csv().encode())
    per_molecule = "" if results.is_path else f"\n{molecule_table(results)}"
    replace_file(folder / "table.md", (summary_table(results, clock) + per_molecule).encode())
    for name, figure in figures.items():
        replace_file(folder / f"{name}.png", saved(figure, "png"))
    replace_file(folder / "report.html", html(results, plots, clock).encode())


def check_marks(path: Path) -> str:
    """Return the content of a Markdown file; raise DataError unless it has one pair of marks for the table."""
    text = path.read_text()
    if len(MARKED.findall(text)) != 1:
        raise DataError(f"{path}: expected one line {BEGIN} and, below it, one line {END}, for the table between.")
    return text


def insert_table(path: Path, results: Results, clock: str = "cpu") -> None:
    """Replace the text between two marks in a Markdown file by the table of statistics."""
    text = check_marks(path)
    table = summary_table(results, clock)
    replace_file(path, MARKED.sub(lambda match: f"{match[1]}\n{table}\n{match[2]}", text).encode())


def html(results: Results, plots: Mapping[str, str], clock: str = "cpu") -> str:
    """Return the page of a benchmark; plots: SVG by name."""
    bars = " Bars: 95 % intervals over the molecules." if intervals(results) == INTERVALS else ""
    return page(
        results,
        clock,
        verdict=_verdict(results),
        sections=[(sheet, plots.get(f"steps-{k}", "")) for k, sheet in enumerate(sheets(results, clock))],
        plots=[(*PLOTS[name], bars * (name in BARS), svg) for name, svg in plots.items() if name in PLOTS],
        intervals=intervals(results),
        compared=compared(results),
        rival=_rival(results),
    )


def page(
    results: Results,
    clock: str,
    verdict: dict[str, Any],
    sections: Sequence[tuple[Sheet, str]],
    kind: str = "",
    **parts: Any,
) -> str:
    """Return a page: a verdict, tables with or without SVG, every run, protocol, and parts of some kinds of page."""
    how: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), **how)
    text: str = environment.get_template("template.html").render(
        colour=colour,
        kind=kind or results.protocol.kind,
        subtitle=describe(results),
        clock=clock_name(results, clock),
        verdict=verdict,
        sections=sections,
        runs=_runs(results, clock),
        protocol=_protocol(results),
        source=RESULTS,
        **parts,
    )
    return text


def _verdict(results: Results) -> dict[str, Any]:
    problems, notices, runs = results.problems, results.notices, len(results.rows)
    remarks = "".join(f" {notice}." for notice in notices)
    allowed = f"{results.energy_tolerance:.1e}"
    found: dict[str, Any] = {"tone": "good", "problems": problems[:MOST_PROBLEMS], "more": 0}
    if problems:
        text = f"Consider these first. The allowed difference of energies is {allowed} Ha.{remarks}"
        more = max(0, len(problems) - MOST_PROBLEMS)
        return found | {"tone": "bad", "heading": f"{how_many(problems)} in {runs} runs", "text": text, "more": more}
    errors = [abs(row.e_err) for row in results.rows if row.e_err is not None]
    if not errors:
        text = f"Only one strategy: energies are not compared.{remarks}"
        return found | {"tone": "open", "heading": f"{runs} runs", "text": text}
    agreed = f"All {runs} runs converged, and all energies agree with {reference_name(results)}'s"
    text = f"{agreed}: the largest difference is {max(errors):.1e} Ha, {allowed} Ha is allowed."
    if notices:
        heading = "Not everything can be compared"
        return found | {"tone": "open", "heading": heading, "text": text, "problems": notices}
    return found | {"heading": "Same energies", "text": text}


def _runs(results: Results, clock: str) -> dict[str, Any]:
    """Return headings and texts of every run, without columns that this benchmark does not have."""
    unit = "cpu_s" if clock == "cpu" else "s"
    rows = []
    for row in [*results.rows, *results.limits]:
        doubt, total, limit = results.doubt(row), getattr(row, f"total_{unit}"), getattr(row, f"limit_{unit}")
        values = asdict(row) | {"over_limit": (total + (row.force_cpu_s or 0)) / limit if total and limit else None}
        values["note"] = row.error or "; ".join(filter(None, (doubt.text if doubt else "", row.note)))
        rows.append((doubt is not None, values))
    some = {name for name in SOME if any(values[name] is not None for _, values in rows)}
    shown = [column for column in RUNS if column[1] in some or column[1] not in SOME]
    return {
        "headings": [heading for heading, _, _ in shown],
        "rows": [(wrong, [_text(values[name], form) for _, name, form in shown]) for wrong, values in rows],
        "alarms": [abs(values["e_err"] or 0.0) > results.energy_tolerance for _, values in rows],
    }


def _text(value: Any, form: str) -> str:
    return "" if value is None else format(value, form).replace("-", "−") if form else str(value)


def _rival(results: Results) -> str:
    """Describe the SCF of the coarse guess."""
    protocol = results.protocol
    if not isinstance(protocol, Protocol) or protocol.coarse_grid is None:
        return "on a smaller grid (not available at this level, so that there is no such guess)"
    grid = "" if protocol.xc.lower() == "hf" else f"on grid level {protocol.coarse_grid} "
    return f"{grid}to {protocol.coarse_tol:.0e} Ha"


def _protocol(results: Results) -> list[tuple[str, str]]:
    shown = asdict(results.protocol) | {"fingerprint": results.protocol.fingerprint}
    shown |= {"energy tolerance": f"{results.energy_tolerance:g} Ha"}
    shown |= {"versions": "; ".join(sorted({row.versions for row in results.rows}))}
    models = {f"{row.model} (sha256 {row.model_sha256[:12]})" for row in results.rows if row.model_sha256}
    shown |= {"models used": ", ".join(sorted(models)) or "none"}
    texts = [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in shown.items()]
    return [(key.replace("_", " "), text) for key, text in texts if text]
