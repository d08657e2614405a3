"""Running a benchmark: in random order, on several processes or a cluster, resumable if it is killed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from pyscf_mlham.bench.measure import Row, Task, measure
from pyscf_mlham.bench.molecules import Input
from pyscf_mlham.bench.protocol import LIMIT, REFERENCE, Guess, Protocol, absolute
from pyscf_mlham.bench.results import Folder, Results
from pyscf_mlham.data.label import build
from pyscf_mlham.errors import DataError
from pyscf_mlham.options import check, option
from pyscf_mlham.progress import print_line, tracked
from pyscf_mlham.workers import engine


@dataclass(frozen=True)
class Plan:
    """Pairs of guess and solver, and execution of a benchmark; the help texts describe the options."""

    methods: tuple[tuple[Guess, str], ...]
    energy_tol: float = option(1e-8, "allowed difference of energies, Hartree", least=0)
    repeat: int = option(1, "repetitions of each run, whose medians are shown", least=1)
    jobs: int = option(1, "worker processes", "-j", "--jobs")
    dask: str = option("", "scheduler of a dask cluster to use instead", metavar="ADDRESS")
    seed: int = option(0, "seed of the random order of the runs")
    retry_failed: bool = option(False, "retry runs that failed earlier")
    limit: bool = option(True, "do not time set-up and two full builds of each molecule", "--no-limit")
    quiet: bool = option(False, "no progress display")

    def __post_init__(self) -> None:
        check(self)


def run(
    found: Input, plan: Plan, protocol: Protocol, path: Path, console: Console, more: Sequence[Task] = ()
) -> Results:
    """Run all unfinished runs, and more tasks than those of the plan, and write results.json."""
    _check_molecules(found, protocol)
    with closing(Folder(path, protocol)) as folder:
        there = replace(protocol, model=absolute(protocol.model))  # workers may be in other folders
        tasks = [task._replace(protocol=there) for task in (*_tasks(found, plan, protocol), *more)]
        keys = [task.key for task in tasks]
        done = {key for key, row in folder.rows.items() if not (row.error and plan.retry_failed)}
        waiting = [task for task in tasks if task.key not in done]
        random.Random(plan.seed).shuffle(waiting)
        if len(waiting) < len(tasks):
            broken = sum(bool(folder.rows[key].error) for key in keys if key in done)
            text = f"{len(tasks) - len(waiting)} of {len(tasks)} runs are done already"
            retry = f", {broken} of them failed; --retry-failed tries them again" * bool(broken)
            print_line(console, f"{text}{retry}.")
        folder.report_others(keys, console)
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if protocol.device == "cpu" else {}
        work = engine(replace(measure, threads=protocol.threads, environment=hidden), plan.jobs, plan.dask)
        silent = plan.quiet or not console.is_terminal
        try:
            for count, row in enumerate(tracked(work(waiting), console, "", len(waiting), "runs", silent=silent), 1):
                folder.add(row)
                if row.error or not plan.quiet:
                    print_line(console, f"{count} of {len(waiting)}: {outcome(row)}")
        except KeyboardInterrupt:
            print_line(console, f"Stopped; {len(folder.rows)} runs are stored in {path}. The same command resumes.")
            raise
        names = {molecule.key: molecule.name for molecule in found.molecules}
        return folder.finish(keys, names, found.bad, plan.energy_tol)


def _check_molecules(found: Input, protocol: Protocol) -> None:
    """Raise DataError if no run can succeed, for example for a misspelt basis set, before anything is written."""
    reason = "see the messages about the input"
    for molecule in found.molecules:
        try:
            build(molecule, protocol.basis)
            return
        except DataError as error:  # noqa: PERF203  (the first one is right, mostly)
            reason = str(error)
    raise DataError(f"there is no molecule to run; {reason}.")


def _tasks(found: Input, plan: Plan, protocol: Protocol) -> list[Task]:
    """Return all runs in the order of the input, always including the reference."""
    guess, solver = REFERENCE
    methods = dict.fromkeys([(Guess(guess, guess), solver), *plan.methods, *[(LIMIT, "scf")] * plan.limit])
    return [
        Task(molecule, guess, solver, repeat, protocol)
        for molecule in found.molecules
        for guess, solver in methods
        for repeat in range(plan.repeat)
    ]


def outcome(row: Row) -> str:
    """Return a line on a finished run."""
    name = f"{row.molecule}, {row.guess}, {row.solver}"
    if row.error:
        return f"{name}: failed: {row.error}"
    if row.e_tot is None:
        return f"{name}: {row.total_s:.2f} s"
    builds = (row.full_builds or 0) + (row.guess_builds or 0)
    left = ", not converged" * (not row.converged)
    return f"{name}: {builds} full builds, {row.total_s:.2f} s, {row.e_tot:.8f} Ha{left}"
