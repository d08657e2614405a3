"""The report of a benchmark: results.csv, table.md, plots, and one self-contained HTML page from a template."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pyscf_mlham.bench import tables
from pyscf_mlham.bench.figures import colour, draw, saved, svg
from pyscf_mlham.bench.results import Results
from pyscf_mlham.bench.summary import sections
from pyscf_mlham.bench.tables import Sheet, how_many, molecule_table, reference_name, summary_table
from pyscf_mlham.checkpoint import replace_file
from pyscf_mlham.errors import DataError

BEGIN, END = "<!-- mlham bench: begin -->", "<!-- mlham bench: end -->"
MARKED = re.compile(f"({re.escape(BEGIN)}\n).*?({re.escape(END)})", flags=re.DOTALL)

Verdict = tuple[str, str, str, Sequence[str]]  # tone (good, open or bad), heading, text, problems


def write_report(results: Results, folder: Path) -> None:
    """Write all files that are made from results.json."""
    figures = draw(sections(results), results.protocol)
    plots = {name: svg(figure, name) for name, figure in figures.items()}  # saving a figure moves its layout a little
    replace_file(folder / "results.csv", results.to_csv().encode())
    per_molecule = "" if results.is_path else f"\n{molecule_table(results)}"
    replace_file(folder / "table.md", (summary_table(results) + per_molecule).encode())
    for name, figure in figures.items():
        replace_file(folder / f"{name}.png", saved(figure, "png"))
    replace_file(folder / "report.html", html(results, plots).encode())


def check_marks(path: Path) -> str:
    """Return the content of a Markdown file; raise DataError unless it has one pair of marks for the table."""
    text = path.read_text()
    if len(MARKED.findall(text)) != 1:
        raise DataError(f"{path}: expected one line {BEGIN} and, below it, one line {END}, for the table between.")
    return text


def insert_table(path: Path, results: Results) -> None:
    """Replace the text between two marks in a Markdown file by the table of statistics."""
    table = summary_table(results)
    text = MARKED.sub(lambda match: f"{match[1]}\n{table}\n{match[2]}", check_marks(path))
    replace_file(path, text.encode())


def html(results: Results, plots: Mapping[str, str]) -> str:
    """Return the page of a benchmark; plots: SVG by name."""
    return page(results, results.protocol.kind, _verdict(results), tables.sheets(results), plots)


def page(results: Results, kind: str, verdict: Verdict, sheets: Sequence[Sheet], plots: Mapping[str, str]) -> str:
    """Return a page: verdict, tables, plots, runs and protocol; kind: bench, md, opt or trust."""
    how: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), **how)
    template = environment.get_template("template.html", globals={"tables": tables, "colour": colour})
    content = {"kind": kind, "verdict": verdict, "sheets": sheets, "plots": plots, "protocol": _protocol(results)}
    return template.render(results=results, **content)


def _verdict(results: Results) -> Verdict:
    problems, notices, runs = results.problems, results.notices, len(results.rows)
    remarks = "".join(f" {notice}." for notice in notices)
    allowed = f"{results.energy_tolerance:.1e}"
    if problems:
        text = f"Consider these first. The allowed difference of energies is {allowed} Ha.{remarks}"
        return "bad", f"{how_many(problems)} in {runs} runs", text, problems
    errors = [abs(row.e_err) for row in results.rows if row.e_err is not None]
    if not errors:
        return "open", f"{runs} runs", f"Only one strategy: energies are not compared.{remarks}", ()
    agreed = f"All {runs} runs converged, and all energies agree with {reference_name(results)}'s"
    text = f"{agreed}: the largest difference is {max(errors):.1e} Ha, {allowed} Ha is allowed."
    if notices:
        return "open", "Not everything can be compared", text, notices
    return "good", "Same energies", text, ()


def _protocol(results: Results) -> list[tuple[str, str]]:
    shown = asdict(results.protocol) | {"fingerprint": results.protocol.fingerprint}
    shown |= {"energy tolerance": f"{results.energy_tolerance:g} Ha"}
    shown |= {"versions": "; ".join(sorted({row.versions for row in results.rows}))}
    models = {f"{row.model} (sha256 {row.model_sha256[:12]})" for row in results.rows if row.model_sha256}
    shown |= {"models used": ", ".join(sorted(models)) or "none"}
    texts = [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in shown.items()]
    return [(key.replace("_", " "), text) for key, text in texts if text]
