"""mlham data baseline and compress: H0 = F_scc beside the labels, and labels as F - H0 in half precision."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pyscf
from rich.console import Console

from pyscf_mlham.arrays import Array
from pyscf_mlham.data.generate import COUNTED, Journal, journal_path, run_through
from pyscf_mlham.data.geometries import identity_of_record, keys_of, mol_from_geometry
from pyscf_mlham.data.label import Entry
from pyscf_mlham.data.record import Record, has_spins, named_by_spin, with_spins
from pyscf_mlham.data.schema import CHANGES, FORMAT, HamiltonianFile, check_new, opened, write_file
from pyscf_mlham.errors import DataError
from pyscf_mlham.h0 import SCC, hamiltonian
from pyscf_mlham.workers import Job, engine

STORED = f"fock_{SCC}"


def add_baseline(source: Path, output: Path, jobs: int, console: Console) -> dict[str, int]:
    """Write a copy of a file, or a compressed one, whose records hold their scc baseline; resumable.

    Returns numbers of records: labelled, failed, done (by an earlier run).
    """
    check_new(output)
    counts = dict.fromkeys(COUNTED, 0)
    with (
        HamiltonianFile(source, (FORMAT, CHANGES)) as file,
        closing(Journal(journal_path(output), file.level)) as journal,
    ):
        if file.level.pseudo:
            raise DataError(f"{source}: crystals, whose H0 is computed in a second; only molecules need this.")
        keys, done = [_place(i, key) for i, key in enumerate(keys_of(file))], journal.labelled
        tasks = [(source.resolve(), i) for i, key in enumerate(keys) if key not in done]
        counts["done"] = len(keys) - len(tasks)
        run_through(tasks, engine(with_baseline, jobs), journal, counts, console)
        done = journal.labelled
        # the splits of the source may have changed since an interrupted run
        records = (journal.record(key)._replace(split=str(file.split[i])) for i, key in enumerate(keys) if key in done)
        failed = file.failed | {key.split()[1]: failure for key, failure in journal.failures.items()}
        write_file(output, file.level, records, {"pyscf_version": pyscf.__version__}, failed)
        journal.remove()
    return counts


def compress(source: Path, output: Path) -> int:
    """Write the labels of a file that has the scc baseline as F - F_scc in half precision; return their number."""
    check_new(output)
    with HamiltonianFile(source) as file:
        if STORED not in file.matrices:
            raise DataError(f"{source} has no {SCC} baseline; add it with `mlham data baseline`.")
        records = (_changes(record) for record in file)
        write_file(output, file.level, records, {"pyscf_version": pyscf.__version__}, file.failed, CHANGES)
        return len(file)


def _changes(record: Record) -> Record:
    """Replace F by F - F_scc, and remove the baseline."""
    h0 = record.by_spin(STORED)
    if h0 is None:
        raise DataError(f"record {record.name}: the {SCC} baseline of its beta electrons is missing.")
    moved = _moved(record, -h0)
    if record.spin:
        return moved
    return moved._replace(extra={name: np.zeros_like(moved.fock) for name in moved.extra})  # the same of beta electrons


def _moved(record: Record, h0: Array) -> Record:
    """Return a record with F + h0 as its only matrices; of a closed shell both spins', if it had both."""
    fock = record.by_spin("fock")
    if fock is None:
        raise DataError(f"record {record.name}: the matrix of its beta electrons is missing.")
    matrices = named_by_spin("fock", fock + h0)
    moved = record._replace(fock=matrices.pop("fock"), extra=matrices)
    return with_spins(moved) if has_spins(record.extra) else moved


def _place(number: int, key: str) -> str:
    """Return the key of a record in the journal; a file may have several labels of one geometry."""
    return f"{number} {key}"


def _with_baseline(task: tuple[Path, int]) -> Entry:
    """Compute the baseline of one record."""
    path, number = task
    file = opened(path)
    key, record, level = _place(number, identity_of_record(file, number)), file[number], file.level
    h0 = hamiltonian(SCC, mol_from_geometry(record, level.basis), level.xc)
    if file.format == CHANGES:
        record = _moved(record, h0)
    if has_spins(record.extra) and h0.ndim == 2:  # a closed shell in a file of open ones
        h0 = np.stack([h0, h0])
    return Entry(key, record.name, record._replace(extra={**record.extra, **named_by_spin(STORED, h0)}))


def _without_baseline(task: tuple[Path, int], reason: str) -> Entry:
    path, number = task
    file = opened(path)
    return Entry(_place(number, identity_of_record(file, number)), str(file.name[number]), None, reason)


with_baseline = Job(_with_baseline, _without_baseline)
