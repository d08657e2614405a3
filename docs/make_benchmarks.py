"""Tables of the benchmarks page from committed results: `python docs/make_benchmarks.py`.

Each `results.json` that `mlham bench` wrote becomes a table in docs/tables, which docs/benchmarks.md includes. A new
table: commit its results.json under examples/, add a line to RESULTS, and include it on the page with its command. The
table of optimisations is from the `results.json` of `examples/optimise.py`, the tables and the picture of large
molecules are from `examples/time_by_part.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pyscf_mlham.bench.results import read_results
from pyscf_mlham.bench.summary import summary_table

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "examples"))
import time_by_part

TABLES = ROOT / "docs" / "tables"
OPTIMISATIONS = "examples/table/optimise.json"
LARGE = {name: ROOT / "examples" / "table" / f"{name}.jsonl" for name in ("B3LYP", "PBE")}
PICTURE = ROOT / "docs" / "assets" / "large.png"
RESULTS = {
    "g2-ten": "examples/table/results.json",
    **{name: f"examples/table/{name}.json" for name in ("qm9", "druglike", "ions", "elements", "radicals")},
}


def table(name: str) -> str:
    """Return a table as Markdown, with the versions that its numbers are of.

    Args:
        name: key of `RESULTS`.
    """
    results = read_results(ROOT / RESULTS[name])
    versions = sorted({row.versions for row in results.rows})
    return summary_table(results) + "\n" + "\n".join(f"Versions: {version}." for version in versions) + "\n"


def optimisations() -> str:
    """Return the table of optimisations as Markdown: sums of full builds, and differences to the scanner's minima."""
    rows = json.loads((ROOT / OPTIMISATIONS).read_text())
    text = [
        "| optimiser | | molecules | geometries | full builds | of the scanner's | largest energy difference / Ha | "
        "largest distance of minima / Bohr |", "|---|---|--:|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    for optimiser, way in dict.fromkeys((row["optimiser"], row["way"]) for row in rows):
        own = [row for row in rows if (row["optimiser"], row["way"]) == (optimiser, way)]
        scanner = sum(row["builds"] for row in rows if (row["optimiser"], row["way"]) == (optimiser, "scanner"))
        builds, steps = (sum(row[key] for row in own) for key in ("builds", "geometries"))
        energy, apart = (max(abs(row[key]) for row in own) for key in ("from_first", "distance"))
        text.append(
            f"| {optimiser} | {way} | {len(own)} | {steps} | {builds} | {builds / scanner:.3f} | {energy:.0e} | "
            f"{apart:.0e} |"
        )
    return "\n".join(text) + "\n"


def large(functional: str) -> str:
    """Return the table of large molecules of a functional as Markdown."""
    return time_by_part.table(time_by_part.stored(LARGE[functional])) + "\n"


if __name__ == "__main__":
    TABLES.mkdir(exist_ok=True)
    PICTURE.write_bytes(time_by_part.plot(list(LARGE.values())))
    for name in LARGE:
        (TABLES / f"large-{name}.md").write_text(large(name))
    (TABLES / "optimise.md").write_text(optimisations())
    for name in RESULTS:
        (TABLES / f"{name}.md").write_text(table(name))
