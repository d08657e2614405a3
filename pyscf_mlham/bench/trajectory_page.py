"""One self-contained page for md-bench and opt-bench: what each strategy pays at each geometry."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from html import escape
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyscf_mlham.bench.figures import svg
from pyscf_mlham.bench.page import TEMPLATE, verdict
from pyscf_mlham.bench.trajectory_summary import reference_of
from pyscf_mlham.bench.trajectory_table import REPORT, heading, shown_error, shown_name, without_model

HEADINGS = (
    "strategy",
    "mean cycles",
    "mean Fock builds",
    "builds / those of {reference}",
    "most builds",
    "all builds",
    "coarse cycles",
    "cycles, first geometry",
    "s per geometry",
    "largest energy difference / Ha",
)
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SCF along a path: {subtitle}</title>
{style}
</head>
<body>
<main>
<header>
<h1>What each geometry costs</h1>
<p class="lead">{subtitle}. All strategies converge at the same geometries, each from its own guess and with its own
history; the path is made by the forces of the first one. The scanner starts from the last density, as PySCF does.</p>
</header>
{verdict}
{molecules}
<section>
<h2>Protocol</h2>
<dl>{protocol}</dl>
</section>
</main>
</body>
</html>
"""


def page(found: dict[str, Any], settings: Any, subtitle: str, problems: list[str]) -> str:
    """Return the page.

    Args:
        found: steps and summaries by name of the molecule.
        settings: of the benchmark.
        subtitle: level of theory and kind of path.
        problems: what a reader must know first.
    """
    style = re.search(r"<style>.*?</style>", TEMPLATE.read_text(), flags=re.DOTALL)
    assert style is not None
    return PAGE.format(
        subtitle=escape(subtitle),
        style=style[0],
        verdict=_verdict(found, settings, problems),
        molecules="\n".join(_section(k, name, molecule) for k, (name, molecule) in enumerate(found.items())),
        protocol="".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in _protocol(settings)),
    )


def _protocol(settings: Any) -> list[tuple[str, str]]:
    """Return the settings in words."""
    shown = {key.replace("_", " "): value for key, value in asdict(settings).items() if value != ""}
    return [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in shown.items()]


def _verdict(found: dict[str, Any], settings: Any, problems: list[str]) -> str:
    notes = " ".join(without_model(found))
    if problems:
        about = f"Failures, or energies that differ by more than convergence explains. {notes}"
        return verdict("Read this first", about, problems, "bad", REPORT)
    errors = [s["energy_error"] for m in found.values() for s in m["summary"].values() if s["energy_error"] is not None]
    count = sum(len(molecule["steps"]) for molecule in found.values())
    if not errors:
        return verdict(f"{count} geometries", f"One strategy alone: no energy is compared. {notes}", tone="open")
    reference = reference_of(settings.runs)
    return verdict(
        "Same answers",
        f"At all {count} geometries every strategy converged to the energy of {reference}: the largest difference is "
        f"{max(errors):.1e} Ha. {notes}",
    )


def _section(place: int, name: str, molecule: dict[str, Any]) -> str:
    """Table and plot of one molecule."""
    title = f"<h2>{escape(heading(name, molecule))}</h2>"
    if not molecule["steps"]:
        return f"<section>{title}</section>"
    reference = reference_of(molecule["summary"])
    builds = molecule["summary"][reference]["total_builds"]
    rows = []
    for strategy, s in molecule["summary"].items():
        cells = [f"{s['cycles']:.2f}", f"{s['builds']:.2f}"]
        cells.append(f"{s['total_builds'] / builds:.2f}")
        cells += [str(s["most_builds"]), str(s["total_builds"]), f"{s['coarse']:.1f}", str(s["first_cycles"])]
        cells += [f"{s['seconds']:.1f}", shown_error(s["energy_error"])]
        first = f"<td>{escape(shown_name(strategy, molecule))}</td>"
        rows.append(f"<tr>{first}" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{text.format(reference=reference)}</th>" for text in HEADINGS)
    plot = svg(steps_figure({name: molecule}), f"steps-{place}")
    return (
        f"<section>{title}"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f'<figure style="margin-top:1rem"><figcaption><p>Full Fock builds at each geometry.</p></figcaption>'
        f'<div class="plot" style="max-width:46rem">{plot}</div></figure></section>'
    )


def steps_figure(found: dict[str, Any]) -> Figure:
    """Plot full Fock builds against geometries, a panel for each molecule.

    Args:
        found: steps and summaries by name of the molecule.
    """
    figure = Figure(figsize=(6.6, 3.2 * len(found)), layout="constrained")
    for panel, (name, molecule) in zip(figure.subplots(len(found), squeeze=False)[:, 0], found.items(), strict=True):
        for strategy in molecule["summary"]:
            builds = [step["runs"][strategy]["builds"] for step in molecule["steps"]]
            panel.plot(builds, label=strategy, lw=1.4, marker="o", ms=2.5)
        panel.set(xlabel="geometry", ylabel="full Fock builds", ylim=(0, None), title=name if len(found) > 1 else "")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(fontsize=8, ncols=4, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return figure
