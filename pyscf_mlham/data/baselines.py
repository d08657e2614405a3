"""mlham data baseline: the scc baseline of every record, stored beside its label to save time in training."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyscf
from rich.console import Console

from pyscf_mlham.data.generate import COUNTED, journal_path, run_through
from pyscf_mlham.data.geometries import identity_of_record, keys_of, mol_from_geometry
from pyscf_mlham.data.journal import Entry, Journal
from pyscf_mlham.data.schema import HamiltonianFile, has_spins, named_by_spin
from pyscf_mlham.data.writer import write_file
from pyscf_mlham.errors import DataError
from pyscf_mlham.h0 import SCC, hamiltonian
from pyscf_mlham.workers import Job, engine


class Task(NamedTuple):
    """One record for a worker."""

    path: Path
    number: int


def add_baseline(source: Path, output: Path, jobs: int, console: Console) -> dict[str, int]:
    """Write a copy of a file whose records hold their scc baseline; resumable.

    Returns:
        numbers of records: labelled, failed, done (by an earlier run).
    """
    if output.exists():
        raise DataError(f"{output} exists already; name another output file.")
    counts = dict.fromkeys(COUNTED, 0)
    with HamiltonianFile(source) as file, closing(Journal(journal_path(output), file.level)) as journal:
        keys, done = keys_of(file), journal.labelled
        tasks = [Task(source.resolve(), i) for i, key in enumerate(keys) if key not in done]
        counts["done"] = len(keys) - len(tasks)
        run_through(tasks, engine(JOB, jobs), journal, counts, console)
        done = journal.labelled
        records = (journal.record(key) for key in keys if key in done)
        write_file(output, file.level, records, {"pyscf_version": pyscf.__version__}, journal.failures)
        journal.remove()
    return counts


def with_baseline(task: Task) -> Entry:
    """Compute the baseline of one record; return a failure as an entry with its reason, never raise."""
    with HamiltonianFile(task.path) as file:
        key, record, level = identity_of_record(file, task.number), file[task.number], file.level
    try:
        h0 = hamiltonian(SCC, mol_from_geometry(record, level.basis), level.xc)
    except Exception as error:  # any error: report this record, continue with the others
        return Entry(key, record.name, None, f"{type(error).__name__}: {error}".strip())
    if has_spins(record.extra) and h0.ndim == 2:  # a closed shell in a file of open ones
        h0 = np.stack([h0, h0])
    return Entry(key, record.name, record._replace(extra={**record.extra, **named_by_spin(f"fock_{SCC}", h0)}))


def _lost(task: Task, reason: str) -> Entry:
    with HamiltonianFile(task.path) as file:
        return Entry(identity_of_record(file, task.number), str(file.name[task.number]), None, reason)


JOB: Job[Task, Entry] = Job(with_baseline, _lost)
