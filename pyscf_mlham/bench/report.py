"""The report of a benchmark: results.csv, table.md, plots, and one self-contained HTML page."""

from __future__ import annotations

import re
from pathlib import Path

from pyscf_mlham.bench.figures import draw, png, svg
from pyscf_mlham.bench.page import html
from pyscf_mlham.bench.results import Results
from pyscf_mlham.bench.summary import sections
from pyscf_mlham.bench.table import molecule_table, summary_table
from pyscf_mlham.checkpoint import replace_file
from pyscf_mlham.errors import DataError

BEGIN, END = "<!-- mlham bench: begin -->", "<!-- mlham bench: end -->"
MARKED = re.compile(f"({re.escape(BEGIN)}\n).*?({re.escape(END)})", flags=re.DOTALL)


def write_report(results: Results, folder: Path, clock: str = "cpu") -> None:
    """Write all files that are made from results.json."""
    figures = draw(sections(results, clock), results.protocol)
    plots = {name: svg(figure, name) for name, figure in figures.items()}  # saving a figure moves its layout a little
    replace_file(folder / "results.csv", results.to_csv().encode())
    per_molecule = "" if results.is_path else f"\n{molecule_table(results, clock)}"
    replace_file(folder / "table.md", (summary_table(results, clock) + per_molecule).encode())
    for name, figure in figures.items():
        replace_file(folder / f"{name}.png", png(figure))
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
