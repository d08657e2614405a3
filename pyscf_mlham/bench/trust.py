"""`mlham trust`: whether each way to a solution ends in the state of plain PySCF."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from pyscf_mlham.bench.measure import Row, Task
from pyscf_mlham.bench.molecules import Input
from pyscf_mlham.bench.protocol import REFERENCE, TRACK, Guess, Protocol
from pyscf_mlham.bench.report import page
from pyscf_mlham.bench.results import Results, grouped, method_name, molecule_of
from pyscf_mlham.bench.runner import Plan, run
from pyscf_mlham.bench.starts import NO_MODEL
from pyscf_mlham.bench.tables import Sheet, describe
from pyscf_mlham.checkpoint import replace_file
from pyscf_mlham.data.geometries import Molecule
from pyscf_mlham.progress import print_line

SAME_S2 = 1e-3  # of first order in the error of the density, as the energy is not: soft modes leave 1e-4
MINAO, ML, SCC = (Guess(name, name) for name in ("minao", "ml", "scc"))
WAYS = {  # guess and solver
    "ml": (ML, "scf"),
    "scc": (SCC, "scf"),
    "minao/twolevel": (MINAO, "twolevel"),
    "scc/twolevel": (SCC, "twolevel"),
    "ml/twolevel": (ML, "twolevel"),
    "track": (TRACK, "scf"),
    "track/twolevel": (TRACK, "twolevel"),
}
STATES = ("same", "lower", "higher", "other S²")
NEITHER, WAY, PLAIN = "both not converged", "not converged", "plain not converged"
FAILED = "failed"
VERDICTS = (*STATES, WAY, PLAIN, NEITHER, FAILED)
BAD = ("higher", WAY, FAILED)
LINES = "verdicts.jsonl"


class Verdict(NamedTuple):
    """The end of one way for one molecule, beside that of plain PySCF; stable: of the higher of two states."""

    way: str
    text: str
    row: Row
    plain: Row
    stable: bool | None = None

    @property
    def differs(self) -> bool:
        """Whether both converged, to two states."""
        return self.text in STATES[1:]

    @property
    def higher(self) -> Row:
        """The run in the higher of two states."""
        return self.plain if self.text == "lower" else self.row

    @property
    def difference(self) -> float | None:
        """Energy minus that of plain PySCF, Hartree; None if one of the two is missing."""
        energies = self.row.e_tot, self.plain.e_tot
        return None if None in energies else (energies[0] or 0.0) - (energies[1] or 0.0)

    def line(self) -> str:
        """Return the verdict as a line of JSON, without what is not known."""
        row, plain = self.row, self.plain
        parts = {
            "molecule": row.molecule, "natm": row.natm, "charge": row.charge, "mult": row.mult, "xc": row.xc,
            "basis": row.basis, "way": self.way, "verdict": self.text, "difference": self.difference,
            "builds": row.full_builds, "plain_builds": plain.full_builds, "s2": row.s2, "plain_s2": plain.s2,
            "stable": self.stable, "note": row.error or plain.error or row.note or None,
        }  # fmt: skip
        return json.dumps({key: value for key, value in parts.items() if value is not None})


def with_radicals(found: Input) -> Input:
    """Add the cation and the anion of each closed-shell molecule, as doublets, unless they are there."""
    ions = [
        molecule._replace(name=f"{molecule.name}{sign}", charge=molecule.charge + charge, spin=1)
        for molecule in found.molecules
        if molecule.spin == 0
        for sign, charge in (("+", 1), ("-", -1))
    ]
    known = {molecule.key for molecule in found.molecules}
    new = {ion.key: ion for ion in ions if ion.key not in known}  # that of a neutral molecule is also its dication's
    return found._replace(molecules=[*found.molecules, *new.values()])


def run_trust(found: Input, plan: Plan, protocol: Protocol, folder: Path, console: Console) -> list[Verdict]:
    """Run all ways and, if states differ, the stability analysis of the higher one; write results and reports."""
    results = run(found, plan, protocol, folder, console)
    more = _stability_tasks(verdicts(results), found.molecules, protocol)
    if more:
        print_line(console, f"{len(more)} stability analyses, of the higher of two states.")
        results = run(found, plan, protocol, folder, console, more)
    judged = verdicts(results)
    replace_file(folder / LINES, "".join(one.line() + "\n" for one in judged).encode())
    sheets = [sheet for sheet in (_counts(judged), _differences(judged), _molecules(judged)) if sheet.rows]
    parts = [f"## {sheet.title}\n\n{sheet.markdown()}" for sheet in sheets]
    replace_file(folder / "trust.md", "\n".join([*parts, f"{describe(results)}. {_headline(judged)}.\n"]).encode())
    tone = "bad" if is_bad(judged) else "good" if all(one.text == "same" for one in judged) else "open"
    allowed = f"Same: |dE| up to {results.energy_tolerance:g} Ha and |dS²| up to {SAME_S2:g}."
    box = tone, _headline(judged), allowed, results.bad_input
    replace_file(folder / "trust.html", page(results, "trust", box, sheets, {}).encode())
    for sheet in reversed(sheets):
        sheet.print(console)
    print_line(console, _headline(judged))
    return judged


def verdicts(results: Results) -> list[Verdict]:
    """Return the verdicts of all ways, by molecule."""
    rows = {_run_of(row): row for row in results.rows if not row.key.endswith("stability")}
    stable = {_run_of(row): row.stable for row in results.rows if row.stable is not None}
    found = []
    for (key, _, _), row in rows.items():
        plain, name = rows.get((key, *REFERENCE)), method_name(row.guess, row.solver)
        if plain and name in WAYS:
            one = Verdict(name, verdict(row, plain, results.energy_tolerance), row, plain)
            found.append(one._replace(stable=stable.get(_run_of(one.higher)) if one.differs else None))
    return found


def verdict(row: Row, plain: Row, tolerance: float) -> str:
    """Compare a run with plain PySCF; tolerance: allowed difference of energies, Hartree."""
    if row.error or plain.error:
        return FAILED
    if not (row.converged and plain.converged):
        return PLAIN if row.converged else WAY if plain.converged else NEITHER
    difference = (row.e_tot or 0.0) - (plain.e_tot or 0.0)
    if abs(difference) > tolerance:
        return "lower" if difference < 0 else "higher"
    return "other S²" if abs((row.s2 or 0.0) - (plain.s2 or 0.0)) > SAME_S2 else "same"


def _run_of(row: Row) -> tuple[str, str, str]:
    return molecule_of(row), row.guess, row.solver


def _stability_tasks(judged: Sequence[Verdict], molecules: Sequence[Molecule], protocol: Protocol) -> list[Task]:
    by_key = {molecule.key: molecule for molecule in molecules}
    guesses = {guess.label: guess for guess, _ in WAYS.values()}
    rows = {_run_of(one.higher): one.higher for one in judged if one.differs and molecule_of(one.row) in by_key}
    return [
        Task(by_key[key], guesses[row.guess], row.solver, 0, protocol, stability=True)
        for (key, _, _), row in rows.items()
    ]


def _counts(judged: Sequence[Verdict]) -> Sheet:
    """Return the number of verdicts of each way."""
    shown = [text for text in VERDICTS if text == "same" or any(one.text == text for one in judged)]
    rows = []
    for way in dict.fromkeys(one.way for one in judged):
        own = [one for one in judged if one.way == way]
        count = Counter(one.text for one in own)
        alone = sum(one.row.note.startswith(NO_MODEL) for one in own)
        name = way + f" (no model for {alone})" * bool(alone)
        means = (_mean_builds([v.row for v in own]), _mean_builds([v.plain for v in own]))
        rows.append([name, *(str(count[text]) for text in shown), *means])
    return Sheet("Verdicts", ["way", *shown, "full builds", "plain's"], rows)


def _differences(judged: Sequence[Verdict]) -> Sheet:
    """Return what is not the same."""
    headings = ["molecule", "way", "verdict", "dE / Ha", "S²", "plain's", "builds", "plain's", "higher state", "note"]
    rows = []
    for one in judged:
        if one.text == "same":
            continue
        stable = {None: "–", True: "stable", False: "unstable"}[one.stable]
        dE = "–" if one.difference is None else f"{one.difference:+.1e}"
        numbers = [dE, *(_s2(row) for row in (one.row, one.plain)), *(_cell(row) for row in (one.row, one.plain))]
        note = one.row.error or one.plain.error or one.row.note
        rows.append([one.row.molecule, one.way, one.text, *numbers, stable, note])
    return Sheet("Not the same", headings, rows, 3, [*headings[:-1], ""])


def _molecules(judged: Sequence[Verdict]) -> Sheet:
    """Return full builds and verdicts of each molecule."""
    ways = list(dict.fromkeys(one.way for one in judged))
    rows = []
    for alike in grouped(judged, lambda one: molecule_of(one.row)).values():
        own, plain = {one.way: one for one in alike}, alike[0].plain
        cells = [f"{_cell(v.row)} {v.text}" if (v := own.get(way)) else "–" for way in ways]
        rows.append([plain.molecule, _s2(plain), _cell(plain), *cells])
    return Sheet("Full builds and verdicts", ["molecule", "S²", "plain", *ways], rows)


def _cell(row: Row) -> str:
    return "–" if row.error else str(row.full_builds or 0)


def _s2(row: Row) -> str:
    return "–" if row.s2 is None else f"{row.s2:.4f}"


def _mean_builds(rows: Sequence[Row]) -> str:
    builds = [row.full_builds or 0 for row in rows if not row.error]
    return f"{sum(builds) / len(builds):.1f}" if builds else "–"


def _headline(judged: Sequence[Verdict]) -> str:
    count = Counter(one.text for one in judged)
    return f"{len(judged)} runs: " + ", ".join(f"{count[text]} {text}" for text in VERDICTS if count[text])


def is_bad(judged: Sequence[Verdict]) -> bool:
    """Whether a way ends higher than plain PySCF, or does not converge although plain PySCF does, or a run fails."""
    return any(one.text in BAD for one in judged)
