"""Tables of the benchmarks page from committed results: `python docs/make_benchmarks.py`.

Each `results.json` that `mlham bench` wrote becomes a table in docs/tables, which docs/benchmarks.md includes. A new
table: commit its results.json under examples/, add a line to RESULTS, and include it on the page with its command.
"""

from __future__ import annotations

from pathlib import Path

from pyscf_mlham.bench.results import read_results
from pyscf_mlham.bench.table import summary_table

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "docs" / "tables"
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


if __name__ == "__main__":
    TABLES.mkdir(exist_ok=True)
    for name in RESULTS:
        (TABLES / f"{name}.md").write_text(table(name))
