"""mlham data generate and baseline: labels for many molecules, by several processes or a cluster, resumable.

Finished molecules are written to a journal beside the file at once. When all are done, or on the next start after a
crash, the journal is merged into the file, which is replaced as a whole. The same command resumes the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyscf
from rich.console import Console
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pyscf_mlham.data.geometries import Molecule, keys_of
from pyscf_mlham.data.label import SOLVERS, Entry, Task, label
from pyscf_mlham.data.record import Level, Periodic, Record, has_spins, with_spins
from pyscf_mlham.data.schema import SCALARS, TEXTS, HamiltonianFile, write_file
from pyscf_mlham.data.splits import advice_on_empty, check_space, splits_by_group
from pyscf_mlham.errors import DataError
from pyscf_mlham.h0 import SCC
from pyscf_mlham.options import option
from pyscf_mlham.progress import print_line, tracked
from pyscf_mlham.store import Store, differences
from pyscf_mlham.workers import engine

T = TypeVar("T")

FAILED_EARLIER = "failed earlier"
COUNTED = ("labelled", "failed", "duplicate", "done", FAILED_EARLIER, "bad")


@dataclass(frozen=True)
class GenerateOptions:
    """Options of labelling; `level` and `shares`, of the molecules for val and test, have options of their own.

    The labels of the solvers twolevel (accelerate) and scf (plain PySCF) are the same.
    """

    level: Level
    solver: str = option("twolevel", "coarse: rough labels of fitted integrals, far cheaper", choices=SOLVERS)
    guess: str = option("minao", "initial guess, ml for a model")
    jobs: int = option(1, "worker processes of one thread", "-j", "--jobs")
    dask: str = option("", "scheduler of a dask cluster to use instead", metavar="ADDRESS")
    retry_failed: bool = option(False, "retry molecules that failed in an earlier run")
    shares: tuple[float, float] = (0.05, 0.05)


class Journal(Store):
    """The journal of one file of labelled molecules, created if missing; its level of theory must be the same."""

    def __init__(self, path: Path, level: Level) -> None:
        super().__init__(path, level.described(), "level of theory")
        self.entries = self.read()  # texts and numbers of each molecule by its key

    @property
    def labelled(self) -> set[str]:
        """Keys of the labelled molecules."""
        return {key for key, values in self.entries.items() if "reason" not in values}

    @property
    def failures(self) -> dict[str, tuple[str, str]]:
        """Name of each molecule that failed, and why."""
        return {key: (v["name"], v["reason"]) for key, v in self.entries.items() if "reason" in v}

    def append(self, entry: Entry) -> None:
        """Add an entry and flush it to the disk."""
        values: dict[str, Any] = {"name": entry.name, "reason": entry.reason}
        data = b""
        if (record := entry.record) is not None:
            values = {key: getattr(record, key) for key in (*TEXTS, *SCALARS, "charge", "spin")}
            arrays = {key: np.ascontiguousarray(getattr(record, key)) for key in ("numbers", "positions")}
            if record.periodic:
                arrays |= {key: np.array(value) for key, value in record.periodic._asdict().items()}
            data = save(arrays | record.stored)
        self.put(entry.key, values, data)
        self.entries[entry.key] = values

    def record(self, key: str) -> Record:
        """Read a labelled molecule; key: one of `labelled`."""
        try:
            arrays = load(self.data(key))
            values = self.entries[key] | {name: arrays.pop(name) for name in ("numbers", "positions")}
            periodic, size = None, int(np.sqrt(2 * len(arrays["fock"])))  # n of n (n+1) / 2 elements
            if "lattice" in arrays:
                lattice, dimension, mesh = (arrays.pop(name) for name in Periodic._fields)
                periodic = Periodic(lattice, int(dimension), mesh)
                size = int(np.sqrt(len(arrays["fock"]) / mesh.prod()))
            return Record.from_stored(values, arrays, size, periodic)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{self.path}: an entry is damaged ({error}); remove the file, and run again.") from error


def generate(
    molecules: Iterable[Molecule | DataError], path: Path, options: GenerateOptions, console: Console
) -> dict[str, int]:
    """Label molecules, add them to a file, and report.

    Returns numbers of molecules by `COUNTED`: "done" by earlier runs, "bad" for unreadable input.
    """
    counts = dict.fromkeys(COUNTED, 0)
    with ExitStack() as stack:
        old = stack.enter_context(HamiltonianFile(path)) if path.exists() else None
        if old is not None and old.level != options.level:
            others = differences(old.level.described(), options.level.described())
            raise DataError(f"{path} is of another level of theory: {others}; name another output file.")
        if old is not None and f"fock_{SCC}" in old.matrices and not options.level.approximate:
            advice = "add to the file without it, and run `mlham data baseline` again"
            raise DataError(f"{path} has the {SCC} baseline, which new labels lack; {advice}.")
        journal = stack.enter_context(closing(Journal(journal_path(path), options.level)))
        queue = _to_do(molecules, old, journal, options, counts, console)
        splits = [*(old.split.tolist() if old is not None else []), *(task.split for task in queue)]
        early = "" if journal.labelled else advice_on_empty(path, splits, options.shares)
        if early:
            print_line(console, early)
        try:
            run_through(queue, engine(label, options.jobs, options.dask), journal, counts, console)
        except KeyboardInterrupt:
            text = f"Stopped; {len(journal.labelled)} molecules are in {journal.path}. The same command resumes."
            print_line(console, text)
            raise
        if journal.entries or old is None:
            _merge(path, old, journal, options)
        journal.remove()
    with HamiltonianFile(path) as file:
        late = advice_on_empty(path, file.split.tolist(), options.shares)
    if late and late != early:
        print_line(console, late)
    return counts


def journal_path(path: Path) -> Path:
    """Return the path of a file's journal."""
    return path.with_name(path.name + ".journal")


def _to_do(
    molecules: Iterable[Molecule | DataError],
    old: HamiltonianFile | None,
    journal: Journal,
    options: GenerateOptions,
    counts: dict[str, int],
    console: Console,
) -> list[Task]:
    """Return tasks for all molecules except those that are unreadable, duplicate, done, or failed and not retried."""
    seen: dict[str, str] = {}
    done = journal.labelled.union(keys_of(old) if old is not None else [])
    failed = (journal.failures.keys() | (old.failed.keys() if old is not None else set())) - done
    tasks = []
    for molecule in molecules:
        if isinstance(molecule, DataError):
            counts["bad"] += 1
            print_line(console, str(molecule), "bad input")
        elif molecule.key in seen:
            counts["duplicate"] += 1
            print_line(console, f"{molecule.name} is the same geometry as {seen[molecule.key]}; left out.")
        else:
            seen[molecule.key] = molecule.name
            if molecule.key in done:
                counts["done"] += 1
            elif molecule.key in failed and not options.retry_failed:
                counts[FAILED_EARLIER] += 1
            else:
                (split,) = splits_by_group([molecule.group], options.shares)
                tasks.append(Task(molecule, options.level, split, options.solver, options.guess))
    return tasks


def run_through(
    queue: Sequence[T],
    work: Callable[[Sequence[T]], Iterator[Entry]],
    journal: Journal,
    counts: dict[str, int],
    console: Console,
) -> None:
    """Process tasks, write each finished one to the journal at once, and count those labelled and those failed."""
    for entry in tracked(work(queue), console, "labelling", len(queue), "molecules"):
        journal.append(entry)
        counts["labelled" if entry.record else "failed"] += 1
        if entry.record is None:
            print_line(console, f"{entry.name}: {entry.reason}", "failed")


def _merge(path: Path, old: HamiltonianFile | None, journal: Journal, options: GenerateOptions) -> None:
    """Write the file again, with its old records, then those of the journal in the order of their keys.

    All have two Fock matrices if any has two. A new record of a molecule in the file gets that molecule's split.
    """
    check_space(path, (path, journal.path), f"everything computed is safe in {journal.path}")
    splits = dict(zip(old.group, old.split, strict=True)) if old is not None else {}
    fresh = sorted(journal.labelled.difference(keys_of(old) if old is not None else []))
    two = (old is not None and has_spins(old.matrices)) or any(journal.entries[key]["spin"] for key in fresh)

    def records() -> Iterator[Record]:
        yield from old or []
        for record in map(journal.record, fresh):
            split = splits.get(record.group) or splits_by_group([record.group], options.shares)[0]
            yield record._replace(split=split)

    failures = (old.failed if old is not None else {}) | journal.failures
    failed = {key: failure for key, failure in failures.items() if key not in journal.labelled}
    written = map(with_spins, records()) if two else records()
    write_file(path, options.level, written, {"pyscf_version": pyscf.__version__}, failed)
