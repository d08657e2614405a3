"""The page of a benchmark: one self-contained HTML file, from a template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pyscf_mlham.bench.figures import colour, key_methods
from pyscf_mlham.bench.measure import Row
from pyscf_mlham.bench.protocol import Protocol
from pyscf_mlham.bench.results import RESULTS, Results
from pyscf_mlham.bench.summary import Method, Ratio, Section, sections
from pyscf_mlham.bench.table import TOO_FEW, asides, clock_name, columns, compared, describe, enough, how_many
from pyscf_mlham.bench.table import reference_name as reference_of

MOST_PROBLEMS = 30  # listed on the page; all are in results.json
VAGUE = 10.0  # intervals whose bounds differ by a larger factor are not shown
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
    ("coarse builds", "coarse_builds", "d"), ("response solves", "response_solves", "d"),
    ("guess, wall s", "guess_s", ".2f"), ("total, wall s", "total_s", ".2f"), ("total, cpu s", "total_cpu_s", ".2f"),
    ("total / limit", "over_limit", ".2f"), ("energy", "e_tot", ".8f"), ("energy error", "e_err", ".1e"),
    ("S²", "s2", ".3f"), ("stable", "stable", ""), ("gap", "gap", ".4f"),
    ("initial gradient", "initial_gradient", ".1e"), ("HOMO error", "guess_homo_err", "+.4f"),
    ("LUMO error", "guess_lumo_err", "+.4f"), ("occupied MAE", "occupied_mae", ".4f"), ("note", "note", ""),
)  # fmt: skip


def html(results: Results, plots: Mapping[str, str], clock: str = "cpu") -> str:
    """Return the page of a benchmark."""
    found = sections(results, clock)
    everything = [method for _, methods in found for method in methods]
    several = enough(everything)
    return page(
        results,
        clock,
        verdict=_verdict(results),
        sections=[_section(results, section, plots.get(f"steps-{place}", "")) for place, section in enumerate(found)],
        cards=[_card(method) for method in key_methods(everything)],
        intervals="with 95 % intervals below, by Student's t on their logarithms" if several else TOO_FEW,
        plots=[
            {"heading": PLOTS[name][0], "caption": _caption(name, several), "svg": Markup(svg)}
            for name, svg in plots.items()
            if name in PLOTS
        ],
        compared=compared(results),
        rival=_rival(results),
    )


def page(
    results: Results, clock: str, verdict: dict[str, Any], sections: list[dict[str, Any]], kind: str = "", **parts: Any
) -> str:
    """Return a page: a verdict, tables, every run and the protocol, and parts that only some kinds of page have."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = [column for column in RUNS if _has(results, column[1], clock)]
    text: str = environment.get_template("template.html").render(
        kind=kind or results.protocol.kind,
        subtitle=describe(results),
        clock=clock_name(results, clock),
        verdict=verdict,
        sections=sections,
        headings=[heading for heading, _, _ in shown],
        rows=[_run(row, results, shown, clock) for row in [*results.rows, *results.limits]],
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
    text = (
        f"All {runs} runs converged, and all energies agree with {reference_of(results)}'s: the largest difference is "
        f"{max(errors):.1e} Ha, {allowed} Ha is allowed."
    )
    if notices:
        heading = "Not everything can be compared"
        return found | {"tone": "open", "heading": heading, "text": text, "problems": notices}
    return found | {"heading": "Same energies", "text": text}


def _card(method: Method) -> dict[str, Any]:
    role = "the classical alternative" if method.guess == "coarse" else "PySCF's SCF"
    return {
        "tint": colour(method.guess),
        "title": {"coarse": "coarse SCF first"}.get(method.guess, f"{method.guess} guess"),
        "role": "accelerate(), two-level SCF" if method.solver == "twolevel" else role,
        "merits": [
            merit
            for ratio, faster in ((method.build_ratio, False), (method.time_ratio, True))
            if (merit := _merit(ratio, faster))
        ],
        "aside": "; ".join(asides(method)),
    }


def _merit(ratio: Ratio, faster: bool) -> dict[str, str]:
    """Return builds in percent, or time as a factor, with the interval."""
    if not np.isfinite(ratio.value):
        return {}
    if faster:
        big, low, high = (f"{1 / v:.2f}" for v in (ratio.value, ratio.high, ratio.low))
        text, label = f"{big}×", "faster than minao" if ratio.value <= 1 else "the speed of minao"
    else:
        big, low, high = (f"{100 * (v - 1):+.0f}".replace("-", "−") for v in ratio)
        text, label = f"{big} %", "full Fock builds"
    vague = ratio.high > VAGUE * ratio.low
    interval = "too few for an interval" if vague else f"{low} to {high}" if ratio.has_interval else "no interval"
    return {"text": text, "label": label, "interval": interval}


def _section(results: Results, section: Section, svg: str) -> dict[str, Any]:
    methods = [method for method in section.methods if method.cases or not section.title]
    shown = columns(results, methods)
    return {
        "title": section.title,
        "headings": [column.heading for column in shown],
        "plot": Markup(svg),
        "rows": [
            {
                "tint": colour(method.guess),
                "cells": [column.cell(method) for column in shown],
                "alarm": method.largest_error > results.energy_tolerance,
            }
            for method in methods
        ],
    }


def _caption(name: str, several: bool) -> str:
    bars = "Bars: 95 % intervals over the molecules." if several else "No bars of error: a single molecule."
    return PLOTS[name][1] + f" {bars}" * (name in BARS)


def _value(row: Row, name: str, clock: str) -> Any:
    if name != "over_limit":
        return getattr(row, name)
    total, limit = (row.total_cpu_s, row.limit_cpu_s) if clock == "cpu" else (row.total_s, row.limit_s)
    return total / limit if total and limit else None


def _has(results: Results, name: str, clock: str) -> bool:
    """Whether to show a column that only some benchmarks have."""
    every = name not in ("step", "over_limit", "response_solves", "stable")
    return every or any(_value(row, name, clock) is not None for row in results.rows)


def _run(row: Row, results: Results, shown: list[tuple[str, str, str]], clock: str) -> dict[str, Any]:
    doubt = results.doubt(row)
    note = row.error or "; ".join(filter(None, (doubt.text if doubt else "", row.note)))
    cells = []
    for _, name, form in shown:
        value = note if name == "note" else _value(row, name, clock)
        text = "" if value is None else format(value, form).replace("-", "−") if form else str(value)
        alarm = name == "e_err" and row.e_err is not None and abs(row.e_err) > results.energy_tolerance
        number = None if not form else "" if value is None else repr(value)  # by which it is sorted
        cells.append({"text": text, "value": number, "class": "alarm" if alarm else "note" if name == "note" else ""})
    return {"wrong": bool(doubt), "cells": cells}


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
