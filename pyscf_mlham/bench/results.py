"""Files of a benchmark: a journal while it runs, then results.json, from which the report is made."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

from rich.console import Console

from pyscf_mlham.bench.measure import Row
from pyscf_mlham.bench.molecules import free_name
from pyscf_mlham.bench.protocol import LIMIT, PROTOCOLS, SOLVERS, AnyProtocol
from pyscf_mlham.bench.starts import NO_MODEL, REFUSED
from pyscf_mlham.checkpoint import replace_file
from pyscf_mlham.errors import DataError
from pyscf_mlham.progress import print_line
from pyscf_mlham.store import Store

T = TypeVar("T")

FORMAT = "pyscf_mlham-benchmark"
VERSION = 1
RESULTS = "results.json"
JOURNAL = "runs.journal"
LONG = ("gradients", "predicted", "reached", "positions", "momenta")  # lists, in results.json only
COLUMNS = tuple(f.name for f in fields(Row) if f.name not in LONG)
TYPES = {"str": (str,), "bool": (bool,), "int": (int,), "float": (int, float), "list": (list,), "None": (type(None),)}
KINDS = {f.name: sum((TYPES[part.split("[")[0]] for part in str(f.type).split(" | ")), ()) for f in fields(Row)}
# Larger differences of converged runs indicate another state: in energy and gap, Hartree, and in S^2. Soft modes leave
# a few 1e-8 Ha between runs of the same state.
OTHER_ENERGY, OTHER_GAP, OTHER_S2 = 1e-5, 1e-3, 1e-2
FAILED = "failed: "
CLOCKS = ("cpu", "wall")


class RunProblem(NamedTuple):
    """A problem of a run."""

    kind: str
    size: float  # of two problems of a kind, the larger one is reported
    text: str


@dataclass(frozen=True)
class Results:
    """A finished benchmark."""

    protocol: AnyProtocol  # settings that all rows share
    rows: list[Row]  # all runs, in order of molecule, guess, solver and repetition
    bad_input: list[str]  # messages about unreadable input
    energy_tolerance: float = 1e-8  # allowed difference of energies from the reference, Hartree
    limits: list[Row] = field(default_factory=list)  # timings of set-up and two full builds of each molecule
    clock: str = CLOCKS[0]  # of the seconds that are compared

    @property
    def problems(self) -> list[str]:
        """All problems of the runs and the input, failed runs first; of repetitions, the worst of each kind."""
        found = []
        everything = grouped([*self.rows, *self.limits], lambda row: f"{molecule_of(row)} {row.guess} {row.solver}")
        for runs in everything.values():
            unit = "runs" if runs[0].step is None else "geometries"
            for alike in grouped(filter(None, map(self.problem, runs)), lambda problem: problem.kind).values():
                count = f"{len(alike)} of {len(runs)} {unit}: " * (len(runs) > 1)
                run = f"{runs[0].molecule}, {runs[0].guess}, {runs[0].solver}"
                found.append((alike[0].kind, f"{run}: {count}{max(alike, key=lambda d: d.size).text}"))
        found.sort(key=lambda problem: not problem[0].startswith(FAILED))
        return list(dict.fromkeys([*(text for _, text in found), *(f"input: {text}" for text in self.bad_input)]))

    @property
    def notices(self) -> list[str]:
        """Limits of comparison: methods that lack molecules, runs of other versions or machines; mostly empty."""
        every = {molecule_of(row) for row in self.rows}
        found = list(self._without_model()) if self.is_path else []
        for guess, solver in [] if self.is_path else methods_of(self):
            own = {molecule_of(row) for row in self.rows if (row.guess, row.solver) == (guess, solver)}
            if missing := len(every - own):
                text = f"{missing} of {len(every)} molecules missing; its means are over fewer molecules than others"
                found.append(f"{guess}, {solver}: {text}")
        used = list(dict.fromkeys(row.versions or "unknown" for row in self.rows if not row.error))
        if len(used) > 1:
            text = f"runs on {len(used)} sets of versions or machines, whose times cannot be compared"
            found.append(f"{text}: {'; '.join(used)}")
        return found

    @property
    def is_path(self) -> bool:
        """Whether rows are geometries along a path."""
        return self.protocol.kind != "bench"

    def _without_model(self) -> Iterator[str]:
        """Yield for each molecule how often along its path a model was not applicable, and why."""
        for rows in grouped(self.rows, molecule_of).values():
            total = len({row.step for row in rows})
            refused = [row for row in rows if row.note.startswith(NO_MODEL)]
            for reason, alike in grouped(refused, lambda row: REFUSED.sub(r"\2", row.note)).items():
                counts = Counter(method_name(row.guess, row.solver) for row in alike)
                runs = ", ".join(f"{run} at {count} of {total} geometries" for run, count in counts.items())
                yield f"{rows[0].molecule}: without the model: {runs} ({reason})"

    @cached_property
    def _references(self) -> dict[str, Row]:
        return references(self.rows, self.protocol.reference)

    def problem(self, row: Row) -> RunProblem | None:
        """Return the problem of a run, or None."""
        if row.error:
            return RunProblem(FAILED + row.error, 0.0, FAILED + row.error)
        if row.guess == LIMIT.label:
            return None
        if not row.converged:
            return RunProblem("not converged", float(row.cycles or 0), f"not converged in {row.cycles} cycles")
        if row.e_err is None:
            if self.is_path:
                return None  # a single run, or a reference that failed, which is reported
            text = f"there is no converged {'/'.join(self.protocol.reference)} run to compare its energy with"
            return RunProblem("no reference", 0.0, text)
        if abs(row.e_err) <= self.energy_tolerance:
            return None
        side = "below" if row.e_err < 0 else "above"
        incomplete = ", which may be incomplete convergence; a tighter --conv-tol decides"
        state = ": another state" if self.is_elsewhere(row) else incomplete
        size = abs(row.e_err)
        return RunProblem("energy", size, f"its energy is {size:.1e} Ha {side} the reference{state}")

    def is_elsewhere(self, row: Row) -> bool:
        """Whether a run ended in another state than the reference, by energy, spin and gap."""
        other = self._references.get(case_of(row))
        if other is None or not row.converged or abs(row.e_err or 0.0) <= self.energy_tolerance:
            return False
        pairs = ((row.s2, other.s2, OTHER_S2), (row.gap, other.gap, OTHER_GAP))
        visible = any(a is not None and b is not None and abs(a - b) > most for a, b, most in pairs)
        return visible or abs(row.e_err or 0.0) > OTHER_ENERGY

    def to_json(self) -> str:
        """Return the content of results.json, one row a line."""
        head = {"format": FORMAT, "version": VERSION, "fingerprint": self.protocol.fingerprint}
        head |= {"kind": self.protocol.kind, "protocol": asdict(self.protocol)}
        head |= {"energy_tolerance": self.energy_tolerance, "bad_input": self.bad_input}
        text = json.dumps(head, indent=1)[:-2]
        for name, rows in (("rows", self.rows), ("limits", self.limits)):
            lines = ",\n".join(json.dumps(_plain(row), allow_nan=False) for row in rows)
            text += f',\n "{name}": [\n{lines}\n]'
        return text + "}\n"

    def to_csv(self) -> str:
        """Return the content of results.csv."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(_plain, self.rows))
        return text.getvalue()


def read_results(path: Path) -> Results:
    """Read results.json."""
    try:
        content = json.loads(path.read_text())
        if (content["format"], content["version"]) != (FORMAT, VERSION):
            raise DataError(f"{path}: {content['format']} {content['version']}, expected {FORMAT} {VERSION}.")
        rows, limits = ([row_of(row) for row in content.get(name, [])] for name in ("rows", "limits"))
        protocol = PROTOCOLS[content.get("kind", "bench")](**content["protocol"])
        return Results(protocol, rows, content["bad_input"], content["energy_tolerance"], limits)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as results of a benchmark ({error}).") from error


def row_of(content: dict[str, Any]) -> Row:
    """Return the row of a file; raise TypeError if it lacks a value, or if one is of another type."""
    row = Row(**content)
    for name, kinds in KINDS.items():
        if type(value := getattr(row, name)) not in kinds:
            raise TypeError(f"{name} is {value!r:.40}")
    return row


def _plain(row: Row) -> dict[str, Any]:
    """Return a row for JSON, with None for values that are not finite."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(row)), parse_constant=lambda _: None)
    return plain


class Folder:
    """The folder of a benchmark, open for one process."""

    def __init__(self, path: Path, protocol: AnyProtocol) -> None:
        self.path, self.protocol = path, protocol
        self.rows: dict[str, Row] = {}  # finished runs by key
        self._store = Store(path / JOURNAL, {"kind": protocol.kind} | protocol.identity, "protocol")
        self._is_empty = False
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        found = self._store.read()
        self._is_empty = not found
        if (path := self.path / RESULTS).exists():  # read under the lock, so that no process adds to it
            results = read_results(path)
            if other := self.protocol.differences(results.protocol):
                raise DataError(f"{self.path} holds results of another protocol: {other}. Name another folder.")
            self.rows = {row.key: row for row in [*results.rows, *results.limits]}
        try:
            self.rows |= {key: row_of(content) for key, content in found.items()}
        except TypeError as error:
            raise DataError(f"{self.path / JOURNAL} is of another version ({error}); remove it.") from error

    def add(self, row: Row) -> None:
        """Add a row and flush it to the disk."""
        content = _plain(row)
        self._is_empty = False
        self._store.put(row.key, content)
        self.rows[row.key] = Row(**content)  # as read from the file

    def report_others(self, keys: Sequence[str], console: Console) -> None:
        """Print how many runs are not among those of this command."""
        if others := len(self.rows.keys() - set(keys)):
            text = f"{self.path} holds {others} runs that are not part of this command (other molecules, geometries or "
            print_line(console, f"{text}guesses); they are kept in the tables.")

    def finish(self, order: Sequence[str], names: dict[str, str], bad: Sequence[str], tolerance: float) -> Results:
        """Write results.json in the order of the keys, with these names of molecules, and remove the journal."""
        rows = renamed(list(self.rows.values()), names)
        results = results_from_rows(rows, self.protocol, [*order, *self.rows], bad, tolerance)
        replace_file(self.path / RESULTS, results.to_json().encode())
        self._is_empty = False
        self._store.remove()
        return results

    def close(self) -> None:
        """Release the lock of the folder, and remove a journal without runs."""
        if self._is_empty:
            self._store.remove()
        else:
            self._store.close()


def renamed(rows: Sequence[Row], names: dict[str, str]) -> list[Row]:
    """Return rows with a unique name for each geometry: the given names, and new ones for other geometries."""
    names = dict(names)
    taken = set(names.values())
    for row in rows:
        if (key := molecule_of(row)) not in names:
            names[key] = free_name(row.molecule, taken)
            taken.add(names[key])
    return [dataclasses.replace(row, molecule=names[molecule_of(row)]) for row in rows]


def results_from_rows(
    rows: Iterable[Row], protocol: AnyProtocol, order: Sequence[str], bad_input: Sequence[str], tolerance: float
) -> Results:
    """Put rows, in any order, in that of the given keys, others last, and compare their energies with the reference."""
    places = {key: place for place, key in enumerate(dict.fromkeys(order))}
    everything = sorted(rows, key=lambda row: places.get(row.key, len(places)))
    limits = [row for row in everything if row.guess == LIMIT.label]
    ordered = [row for row in everything if row.guess != LIMIT.label]
    reference = {key: row.e_tot for key, row in references(ordered, protocol.reference).items()}
    if protocol.kind != "bench" and len({(row.guess, row.solver) for row in ordered}) == 1:
        reference = {}  # a single run cannot be compared
    compared = []
    for row in ordered:
        energy = reference.get(case_of(row))
        error = None if row.e_tot is None or energy is None else row.e_tot - energy
        own = [limit for limit in limits if molecule_of(limit) == molecule_of(row) and not limit.error]
        wall, cpu = (median(getattr(r, name) for r in own) if own else None for name in ("total_s", "total_cpu_s"))
        compared.append(dataclasses.replace(row, e_err=error, limit_s=wall, limit_cpu_s=cpu))
    return Results(protocol, compared, list(bad_input), tolerance, limits)


def references(rows: Iterable[Row], reference: tuple[str, str]) -> dict[str, Row]:
    """Return the first converged run of the reference method, by key of the case."""
    found: dict[str, Row] = {}
    for row in rows:
        if (row.guess, row.solver) == reference and row.converged and row.e_tot is not None:
            found.setdefault(case_of(row), row)
    return found


def molecule_of(row: Row) -> str:
    """Return the key of a row's molecule, which geometries of the same name do not share."""
    return row.key.split(" ", 1)[0]


def case_of(row: Row) -> str:
    """Return the key of the case in which a row is compared: its molecule, or one geometry of its path."""
    return molecule_of(row) if row.step is None else f"{molecule_of(row)} {row.step}"


def grouped(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """Return items by a key, in order."""
    found: dict[str, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def method_name(guess: str, solver: str) -> str:
    """Return the name of a method in figures and sentences."""
    return guess if solver == "scf" else f"{guess}/{solver}"


def methods_of(results: Results) -> list[tuple[str, str]]:
    """Return the pairs of guess and solver that occur: plain SCF first, guesses in order of appearance."""
    pairs = dict.fromkeys((row.guess, row.solver) for row in results.rows)
    return sorted(pairs, key=lambda pair: SOLVERS.index(pair[1]))
