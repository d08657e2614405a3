"""Tables of the benchmarks page from committed results: `python docs/make_benchmarks.py`.

Each `results.json` that `mlham bench` wrote becomes a table in docs/tables, which docs/benchmarks.md includes. A new
table: commit its results.json under examples/, add a line to RESULTS, and include it on the page with its command. The
table of optimisations is from the `results.json` of `examples/optimise.py`, the tables and the picture of large
molecules are from `examples/time_by_part.py`, the tables of states are from the `verdicts.jsonl` of `mlham trust`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyscf_mlham.bench.results import read_results
from pyscf_mlham.bench.tables import Sheet, summary_table
from pyscf_mlham.bench.trust import VERDICTS

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "examples"))
import time_by_part

TABLES = ROOT / "docs" / "tables"
OPTIMISATIONS = "examples/table/optimise.json"
LARGE = {name: ROOT / "examples" / "table" / f"{name}.jsonl" for name in ("B3LYP", "PBE")}
STATES = {  # sets of molecules
    "W4-11, closed shells": "closed",
    "QM9": "qm9",
    "W4-11, charged copies": "charged",
    "W4-11, open shells": "open",
    "W4-11, open shells, without VV10": "local",
    "ions, 2 to 9 atoms": "ions",
    "rarer elements, 2 to 7 atoms": "elements",
    "dimers, 4 to 19 atoms": "dimers",
    "drug-like": "druglike",
    "W4-11, closed shells, with VV10": "nonlocal",
    "CuO, NiO": "oxides",
}
PICTURE = ROOT / "docs" / "assets" / "large.png"
RESULTS = {
    "g2-ten": "examples/table/results.json",
    **{name: f"examples/table/{name}.json" for name in ("qm9", "druglike", "ions", "elements", "radicals")},
}


def table(name: str) -> str:
    """Return a table, a key of `RESULTS`, as Markdown, with the versions that its numbers are of."""
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


def verdicts() -> dict[str, list[dict[str, Any]]]:
    """Return the stored verdicts of `mlham trust`, by set of molecules."""
    folder = ROOT / "examples" / "table" / "states"
    return {name: [json.loads(line) for line in (folder / f"{file}.jsonl").open()] for name, file in STATES.items()}


def states() -> str:
    """Return the table of verdicts as Markdown: how many of each, and full builds, of each set and way."""
    sets = verdicts()
    seen = {one["verdict"] for lines in sets.values() for one in lines}
    shown = [verdict for verdict in VERDICTS if verdict in seen]
    headings = ["set", "method", "way", "molecules", *shown, "full builds", "plain's", "largest dE of the same / Ha"]
    sheet = Sheet("", headings, [], 3)
    for name, lines in sets.items():
        for xc, way in dict.fromkeys((one["xc"], one["way"]) for one in lines):
            own = [one for one in lines if (one["xc"], one["way"]) == (xc, way)]
            count = Counter(one["verdict"] for one in own)
            same = max(abs(one["difference"]) for one in own if one["verdict"] == "same")
            numbers = [str(len(own)), *(str(count[verdict]) for verdict in shown)]
            means = [f"{mean(own, key):.1f}" for key in ("builds", "plain_builds")]
            sheet.rows.append([name, xc, way, *numbers, *means, f"{same:.0e}"])
    return sheet.markdown()


def differences() -> str:
    """Return the table of all verdicts but "same" as Markdown."""
    stability = {None: "–", True: "stable", False: "unstable"}
    headings = ["set", "method", "molecule", "way", "verdict", "dE / Ha", "S²", "plain's", "higher state"]
    sheet = Sheet("", headings, [], 5)
    for name, lines in verdicts().items():
        for one in lines:
            if one["verdict"] != "same":
                words = [name, one["xc"], one["molecule"], one["way"], one["verdict"]]
                formats = {"difference": "+.1e", "s2": ".4f", "plain_s2": ".4f"}
                numbers = [format(one[key], form) if key in one else "–" for key, form in formats.items()]
                sheet.rows.append([*words, *numbers, stability[one.get("stable")]])
    return sheet.markdown()


def mean(lines: Sequence[dict[str, Any]], key: str) -> float:
    """Return the mean of a number over the lines that have it."""
    values = [one[key] for one in lines if key in one]
    return sum(values) / len(values)


if __name__ == "__main__":
    TABLES.mkdir(exist_ok=True)
    PICTURE.write_bytes(time_by_part.plot(list(LARGE.values())))
    for name in LARGE:
        (TABLES / f"large-{name}.md").write_text(large(name))
    (TABLES / "optimise.md").write_text(optimisations())
    (TABLES / "states.md").write_text(states())
    (TABLES / "differences.md").write_text(differences())
    for name in RESULTS:
        (TABLES / f"{name}.md").write_text(table(name))
