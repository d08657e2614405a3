"""mlham data generate: labels for many molecules, by several processes or a dask cluster, resumable after any crash.

Finished molecules are written to a journal beside the file at once. When all are done, or on the next start after a
crash, the journal is merged into the file, which is replaced as a whole. The same command resumes the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
import pyscf
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pyscf_mlham.data.geometries import Molecule, identity_of_record
from pyscf_mlham.data.journal import Entry, Journal
from pyscf_mlham.data.label import SOLVERS, Task, label
from pyscf_mlham.data.schema import HamiltonianFile, Level, Record, has_spins, named_by_spin
from pyscf_mlham.data.splits import advice_on_empty, check_space, splits_by_group
from pyscf_mlham.data.writer import write_file
from pyscf_mlham.errors import DataError
from pyscf_mlham.options import option
from pyscf_mlham.store import differences
from pyscf_mlham.untrusted import stored_dataset
from pyscf_mlham.workers import Job, dask_engine, process_engine

T = TypeVar("T")

FAILED_EARLIER = "failed earlier"
COUNTED = ("labelled", "failed", "duplicate", "done", FAILED_EARLIER, "bad")


@dataclass(frozen=True)
class GenerateOptions:
    """Options of labelling; `level` and `shares`, of the molecules for val and test, have options of their own.

    The labels of the solvers twolevel (accelerate) and scf (plain PySCF) are the same.
    """

    level: Level
    solver: str = option(
        "twolevel", "coarse: rough labels of fitted integrals for training, far cheaper", choices=SOLVERS
    )
    guess: str = option("minao", "initial guess, ml for a model")
    jobs: int = option(1, "worker processes of one thread", "-j", "--jobs")
    dask: str = option("", "scheduler of a dask cluster to use instead", metavar="ADDRESS")
    retry_failed: bool = option(False, "retry molecules that failed in an earlier run")
    shares: tuple[float, float] = (0.05, 0.05)


def generate(
    molecules: Iterable[Molecule | DataError], path: Path, options: GenerateOptions, console: Console
) -> dict[str, int]:
    """Label molecules, add them to a file, and report.

    Returns:
        numbers of molecules by `COUNTED`: "done" by earlier runs, "bad" for unreadable input.
    """
    splits: list[str] = []
    if path.exists():
        with HamiltonianFile(path) as file:
            splits += file.split.tolist()
            if file.level != options.level:
                others = differences(file.level.described(), options.level.described())
                raise DataError(f"{path} is of another level of theory: {others}; name another output file.")
    journal = Journal(journal_path(path), options.level)
    try:
        stored, counts = _stored(path), dict.fromkeys(COUNTED, 0)
        queue = _to_do(molecules, stored, journal, options, counts, console)
        splits += [task.split for task in queue]
        early = "" if journal.labelled else advice_on_empty(path, splits, options.shares)
        if early:
            console.print(early, markup=False, highlight=False, soft_wrap=True)
        engine = dask_engine(JOB, options.dask) if options.dask else process_engine(JOB, options.jobs)
        try:
            run_through(queue, engine, journal, counts, console)
        except KeyboardInterrupt:
            console.print(
                f"Stopped; {len(journal.labelled)} molecules are in {journal.path}. The same command resumes the run."
            )
            raise
        if journal.labelled or journal.failures or not path.exists():
            _merge(path, journal, options)
        journal.remove()
    finally:
        journal.close()
    with HamiltonianFile(path) as file:
        late = advice_on_empty(path, file.split.tolist(), options.shares)
    if late and late != early:
        console.print(late, markup=False, highlight=False, soft_wrap=True)
    return counts


def journal_path(path: Path) -> Path:
    """Return the path of a file's journal."""
    return path.with_name(path.name + ".journal")


def _stored(path: Path) -> dict[str, bool]:
    """Return keys of the molecules in a file: True for labelled ones, False for failures."""
    if not path.exists():
        return {}
    with HamiltonianFile(path) as file:
        keys = {identity_of_record(file, i): True for i in range(len(file))}
        return keys | {key: False for key, _, _ in failures(path)}


def failures(path: Path) -> list[tuple[str, str, str]]:
    """Return key, name and reason of every molecule that failed."""
    with h5py.File(path) as file:
        if "failed_key" not in file:
            return []
        columns = [stored_dataset(file, f"failed_{k}").asstr()[:] for k in ("key", "name", "reason")]
    return [(str(a), str(b), str(c)) for a, b, c in zip(*columns, strict=True)]


def _to_do(
    molecules: Iterable[Molecule | DataError],
    stored: dict[str, bool],
    journal: Journal,
    options: GenerateOptions,
    counts: dict[str, int],
    console: Console,
) -> list[Task]:
    """Return tasks for all molecules except those that are unreadable, duplicate, done, or failed and not retried."""
    seen: dict[str, str] = {}
    done = {key for key, labelled in stored.items() if labelled} | journal.labelled
    failed = set() if options.retry_failed else (stored.keys() | journal.failures.keys()) - done
    tasks = []
    for molecule in molecules:
        if isinstance(molecule, DataError):
            counts["bad"] += 1
            console.print(f"[red]bad input:[/red] {escape(str(molecule))}", soft_wrap=True, highlight=False)
        elif molecule.key in seen:
            counts["duplicate"] += 1
            note = f"{molecule.name} is the same geometry as {seen[molecule.key]}; left out."
            console.print(note, markup=False, highlight=False)
        else:
            seen[molecule.key] = molecule.name
            if molecule.key in done or molecule.key in failed:
                counts["done" if molecule.key in done else FAILED_EARLIER] += 1
                continue
            (split,) = splits_by_group([molecule.group], options.shares)
            tasks.append(Task(molecule, options.level, split, options.solver, options.guess))
    return tasks


def run_through(
    queue: Sequence[T],
    engine: Callable[[Sequence[T]], Iterator[Entry]],
    journal: Journal,
    counts: dict[str, int],
    console: Console,
) -> None:
    """Process tasks with a progress bar, and write each finished one to the journal at once.

    Args:
        counts: numbers of "labelled" and "failed", incremented here.
    """
    columns = (TextColumn("labelling"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("labelling", total=len(queue), rate="")
        for entry in engine(queue):
            journal.append(entry)
            if entry.record is None:
                counts["failed"] += 1
                console.print(
                    f"[red]failed:[/red] {escape(entry.name)}: {escape(entry.reason)}", soft_wrap=True, highlight=False
                )
            else:
                counts["labelled"] += 1
            progress.advance(bar)
            elapsed = progress.tasks[0].elapsed or 1e-9
            progress.update(bar, rate=f"{3600 * progress.tasks[0].completed / elapsed:.0f} per hour")


def _lost(task: Task, reason: str) -> Entry:
    return Entry(task.molecule.key, task.molecule.name, None, reason)


JOB = Job(label, _lost)


def _merge(path: Path, journal: Journal, options: GenerateOptions) -> None:
    """Write the file again, with the records of the old file and of the journal, each molecule once."""
    check_space(path, (path, journal.path), f"everything computed is safe in {journal.path}")
    failed = {key: (name, reason) for key, name, reason in failures(path)} if path.exists() else {}
    failed |= journal.failures
    for key in journal.labelled:
        failed.pop(key, None)
    records = _all_records(path, journal, options.shares)
    write_file(path, options.level, records, {"pyscf_version": pyscf.__version__}, failed)


def _all_records(path: Path, journal: Journal, shares: tuple[float, float]) -> Iterator[Record]:
    """Return old records, then new ones in the order of their keys; two Fock matrices for all if any has two.

    A new record of a molecule in the file gets that molecule's split.
    """
    old = HamiltonianFile(path) if path.exists() else None
    try:
        old_keys = _stored(path)
        fresh = [key for key in sorted(journal.labelled) if not old_keys.get(key)]
        open_shell = bool(old and has_spins(old.matrices)) or any(journal.record(key).spin for key in fresh)
        for record in old or ():
            yield _with_spins(record) if open_shell else record
        splits = dict(zip(old.group, old.split, strict=True)) if old else {}
        for key in fresh:
            record = journal.record(key)
            split = splits.get(record.group) or splits_by_group([record.group], shares)[0]
            record = record._replace(split=str(split))
            yield _with_spins(record) if open_shell else record
    finally:
        if old:
            old.close()


def _with_spins(record: Record) -> Record:
    """Repeat the matrices of a closed shell for the beta electrons, under their names."""
    if has_spins(record.extra):
        return record
    matrices: dict[str, np.ndarray] = {}
    for name, matrix in record.matrices.items():
        matrices |= named_by_spin(name, np.stack([matrix, matrix]))
    return record._replace(fock=matrices.pop("fock"), extra=matrices)
