"""mlham data generate, import, baseline, split and info."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyscf
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from pyscf_mlham.data.baselines import add_baseline
from pyscf_mlham.data.displaced import JOB, Displacements, with_copies
from pyscf_mlham.data.generate import FAILED_EARLIER, GenerateOptions, failures, generate, journal_path
from pyscf_mlham.data.geometries import MULT, Molecule, mol_from_geometry, read_geometries
from pyscf_mlham.data.importers import import_records
from pyscf_mlham.data.label import COARSE_GRID, COARSE_TOL, GRID_LEVELS
from pyscf_mlham.data.schema import SPLITS, HamiltonianFile, Level, Record
from pyscf_mlham.data.splits import advice_on_empty, split_again, splits_by_group
from pyscf_mlham.data.writer import write_file
from pyscf_mlham.errors import DataError
from pyscf_mlham.h0 import hamiltonian
from pyscf_mlham.model import store
from pyscf_mlham.model.guess import GUESSES, is_ml, named_model
from pyscf_mlham.options import add_options, from_options
from pyscf_mlham.scf.problem import check_functional
from pyscf_mlham.workers import dask_engine, process_engine

EXAMPLE = """examples:
  mlham data generate molecules.xyz -o set.h5 --xc b3lyp --basis def2-svp -j 2
  mlham data generate ase:g2 -o small.h5 --rattle 3 --thermal 3 --temperature 500
  mlham data import QH9Stable.db -o qh9.h5 --xc b3lyp5 --basis def2-svp
  mlham data baseline qh9.h5 -o qh9-scc.h5 -j 8
  mlham data split set.h5 --val 0.2 --test 0.1
  mlham data info set.h5"""


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Add the commands and their options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLE
    commands = parser.add_subparsers(required=True, metavar="command")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("-o", "--output", type=Path, required=True, help="file of labelled molecules")
    shared.add_argument("--xc", default="b3lyp", help="functional, or hf; default %(default)s")
    shared.add_argument("--basis", default="def2-svp", help="default %(default)s")
    shared.add_argument(
        "--grid",
        type=int,
        choices=GRID_LEVELS,
        metavar="LEVEL",
        help=f"PySCF's level, 0 to 9; default {Level.grid_level}, coarse labels {COARSE_GRID}",
    )
    shared.add_argument("--conv-tol", type=float, default=Level.conv_tol, help="Hartree; default %(default)s")
    shared.add_argument("--df", action="store_true", help="density-fitted integrals")
    shares = argparse.ArgumentParser(add_help=False)
    for name, share in zip(SPLITS[1:], GenerateOptions.shares, strict=True):
        shares.add_argument(f"--{name}", type=float, default=share, help="share of the molecules; default %(default)s")

    made = commands.add_parser("generate", parents=[shared, shares], help="label molecules; resumable", epilog=EXAMPLE)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("geometries", nargs="+", help="files that ASE reads, or ase:g2, ase:s22 and the like")
    made.add_argument("--charge", type=int, default=0, help="charge if a frame has no charge=; default %(default)s")
    made.add_argument("--mult", type=int, help=MULT)
    made.add_argument("--pseudo", default="", help="pseudopotential: the geometries are crystals; gth-pbe, for example")
    made.add_argument("--kpts", type=int, nargs=3, default=(), metavar="N", help="k points if a frame has no kpts=")
    made.add_argument("--smearing", type=float, default=0.0, help="of crystals, Hartree; default %(default)s")
    add_options(made, GenerateOptions)
    add_options(made, Displacements)
    made.set_defaults(run=run_generate)

    brought = commands.add_parser(
        "import", parents=[shared, shares], help="import QH9 or MD17 Hamiltonians", epilog=EXAMPLE
    )
    brought.formatter_class = argparse.RawDescriptionHelpFormatter
    brought.add_argument("source", type=Path, help="QH9 .db or .lmdb, MD17 (SchNOrb) .db or .npz")
    brought.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N records")
    brought.set_defaults(run=run_import)

    based = commands.add_parser("baseline", help="store the scc baseline beside the labels, for training; resumable")
    based.add_argument("file", type=Path, help="file of labelled molecules")
    based.add_argument("-o", "--output", type=Path, required=True, help="copy of the file with the baseline in it")
    add_options(based, GenerateOptions, {"jobs"})
    based.set_defaults(run=run_baseline)

    split = commands.add_parser(
        "split",
        parents=[shares],
        help="split the molecules of a file again, without new labels",
    )
    split.add_argument("file", type=Path, help="file of labelled molecules, replaced")
    split.add_argument("--seed", type=int, default=0, help="seed of the choice; default %(default)s")
    split.set_defaults(run=run_split)

    about = commands.add_parser("info", help="counts, elements, sizes, splits, |F - H0|")
    about.add_argument("file", type=Path)
    about.add_argument("--sample", type=int, default=50, metavar="N", help="records to compute H0 for; default 50")
    about.set_defaults(run=run_info)


def level_of(args: argparse.Namespace) -> Level:
    """Return the level of theory of the command line.

    Rough labels have a level of their own, so that they are never added to a file of full ones.
    """
    check_functional(args.xc)
    if pseudo := getattr(args, "pseudo", ""):
        return Level(args.xc, args.basis, 0, True, args.conv_tol, pseudo, args.smearing)
    coarse = getattr(args, "solver", "") == "coarse"
    grid = (COARSE_GRID if coarse else Level.grid_level) if args.grid is None else args.grid
    if coarse:
        return Level(args.xc, args.basis, grid, density_fit=True, conv_tol=COARSE_TOL)
    return Level(args.xc, args.basis, grid, args.df, args.conv_tol)


def run_generate(args: argparse.Namespace, console: Console) -> int:
    """Label molecules; return 1 if any failed."""
    _check_options(args)
    options = from_options(GenerateOptions, args, level=level_of(args), shares=(args.val, args.test))
    memory = args.output.with_name(args.output.name + ".thermal")
    counts = generate(_sampled(args, console, memory), args.output, options, console)
    memory.unlink(missing_ok=True)
    console.print(f"{args.output}: " + ", ".join(f"{n} {word}" for word, n in counts.items()), highlight=False)
    _print_splits(args.output, options.shares, console)
    if counts[FAILED_EARLIER]:
        note = f"{counts[FAILED_EARLIER]} failed in an earlier run; --retry-failed tries them again."
        console.print(note, highlight=False, soft_wrap=True)
    return 1 if counts["failed"] or counts[FAILED_EARLIER] or counts["bad"] else 0


def _check_options(args: argparse.Namespace) -> None:
    """Raise DataError for invalid options, before anything is computed."""
    if args.pseudo and (args.thermal or args.mult not in (None, 1)):
        raise DataError("--thermal and --mult are for molecules; crystals are closed shells, and --rattle works.")
    if not args.pseudo and (args.smearing or args.kpts):
        raise DataError("--kpts and --smearing are for crystals, which need --pseudo as well.")
    for option in ("rattle", "sigma", "thermal", "temperature", "smearing"):
        value = getattr(args, option)
        if not (value >= 0 and math.isfinite(value)):
            raise DataError(f"--{option} {value}: expected zero or more.")
    for option, default in {"guess": GenerateOptions.guess, "conv_tol": Level.conv_tol}.items():
        if args.solver == "coarse" and getattr(args, option) != default:
            raise DataError(
                f"--{option.replace('_', '-')} has no effect on coarse labels, which start from scc and "
                f"converge to {COARSE_TOL:.0e} Ha; leave it out, or choose another --solver."
            )
    if is_ml(args.guess):
        model = named_model(args.guess)
        if isinstance(model, str | Path):
            store.find(model)
    elif args.guess not in GUESSES:
        raise DataError(
            f"unknown guess {args.guess!r}; expected one of {', '.join(GUESSES)}, ml or ml:<name or folder>."
        )


def _print_splits(path: Path, shares: tuple[float, float], console: Console) -> None:
    """Print the number of records of each split, and of those whose split the requested shares did not change."""
    with HamiltonianFile(path) as file:
        split, group = file.split.tolist(), list(file.group)
    console.print(_numbers(split), highlight=False)
    others = sum(a != b for a, b in zip(split, splits_by_group(group, shares), strict=True))
    if others:
        note = f"{others} records keep the split of an earlier run; --val and --test apply to new molecules."
        console.print(note, highlight=False, soft_wrap=True)


def _numbers(split: list[str]) -> str:
    counts = Counter(split)
    return ", ".join(f"{counts[s]} {s}" for s in SPLITS)


def _sampled(args: argparse.Namespace, console: Console, memory: Path) -> Iterator[Molecule | DataError]:
    """Return the requested molecules and their displaced copies."""
    molecules = (
        found
        for source in args.geometries
        for found in read_geometries(source, args.charge, args.mult, bool(args.pseudo), args.kpts)
    )
    engine = dask_engine(JOB, args.dask) if args.dask else process_engine(JOB, args.jobs)
    return with_copies(molecules, from_options(Displacements, args), engine, console, memory)


def run_import(args: argparse.Namespace, console: Console) -> int:
    """Import a public set; return 1 if a record was rejected."""
    if args.output.exists():
        raise DataError(f"{args.output} exists already; name another output file.")
    level = level_of(args)
    refused = 0

    def usable() -> Iterator[Record]:
        nonlocal refused
        records = import_records(args.source, level, (args.val, args.test))
        for count, record in enumerate(track(records, description="importing", console=console, transient=True)):
            if args.limit and count >= args.limit:
                return
            if isinstance(record, DataError):
                refused += 1
                console.print(f"[red]refused:[/red] {escape(str(record))}", soft_wrap=True, highlight=False)
            else:
                yield record

    write_file(args.output, level, usable(), {"imported_from": args.source.name, "pyscf_version": pyscf.__version__})
    with HamiltonianFile(args.output) as file:
        console.print(f"{args.output}: {len(file)} imported, {refused} refused", highlight=False)
        advice = advice_on_empty(args.output, file.split.tolist(), (args.val, args.test))
    if advice:
        console.print(advice, markup=False, highlight=False, soft_wrap=True)
    return 1 if refused else 0


def run_baseline(args: argparse.Namespace, console: Console) -> int:
    """Add the scc baseline to the records of a file; return 1 if one failed."""
    counts = add_baseline(args.file, args.output, args.jobs, console)
    result = f"{counts['labelled'] + counts['done']} records with their baseline, {counts['failed']} failed"
    console.print(f"{args.output}: {result}", highlight=False)
    return 1 if counts["failed"] else 0


def run_split(args: argparse.Namespace, console: Console) -> int:
    """Split the molecules of a file again."""
    _check_finished(args.file)
    split_again(args.file, (args.val, args.test), args.seed)
    with HamiltonianFile(args.file) as file:
        console.print(f"{args.file}: {_numbers(file.split.tolist())}", highlight=False)
    return 0


def _check_finished(path: Path) -> None:
    if journal_path(path).exists():
        raise DataError(f"{path} is not finished, but its journal exists; run the same `mlham data generate` again.")


def run_info(args: argparse.Namespace, console: Console) -> int:
    """Print a summary of a file."""
    path = args.file
    if not path.exists():
        _check_finished(path)
    with HamiltonianFile(path) as file:
        table = Table(show_header=False, title=str(path))
        level = file.level
        detail = f"{level.pseudo}, smearing {level.smearing:g} Ha" if level.pseudo else f"grid {level.grid_level}"
        table.add_row("level", f"{level.xc}/{level.basis}, {detail}")
        table.add_row("molecules", f"{len(file)} ({_numbers(file.split.tolist())})")
        table.add_row("different molecules", str(len(set(file.group))))
        places = Counter(group for group, _ in set(zip(file.group, file.split, strict=True)))
        leaks = sum(n > 1 for n in places.values())
        table.add_row("molecules in two splits", str(leaks))
        for word, values in (("atoms", file.n_atoms), ("orbitals", file.n_ao)):
            if len(values):
                table.add_row(word, f"{values.min()} to {values.max()}, median {int(np.median(values))}")
        table.add_row("elements", _counted(file))
        table.add_row(
            "charges",
            ", ".join(f"{q:+d}: {n}" if q else f"0: {n}" for q, n in sorted(Counter(file.charge.tolist()).items())),
        )
        table.add_row("open shells", str(int(np.sum(file.spin != 0))))
        table.add_row("sources", ", ".join(f"{s}: {n}" for s, n in Counter(file.source.tolist()).most_common()))
        table.add_row("failed", str(len(failures(path))))
        if args.sample and len(file) and not level.pseudo:
            table.add_row("mean |F - H0|, H0 = sap", _distance(file, args.sample, console))
        console.print(table)
        for _, name, reason in failures(path)[:20]:
            console.print(f"failed: {name}: {reason}", soft_wrap=True, markup=False, highlight=False)
    return 0


def _counted(file: HamiltonianFile) -> str:
    from pyscf import gto

    held: Counter[int] = Counter()
    for index in range(len(file)):
        held.update(set(file.numbers(index).tolist()))
    return ", ".join(f"{gto.mole._symbol(z)} in {n}" for z, n in sorted(held.items()))


def _distance(file: HamiltonianFile, sample: int, console: Console) -> str:
    """Describe the mean absolute F - H0 of some records."""
    chosen = np.random.default_rng(0).permutation(len(file))[:sample]
    found = []
    for index in track(chosen, description="H0", console=console, transient=True):
        record = file[int(index)]
        mol = mol_from_geometry(record, file.level.basis)
        found.append(np.abs(record.fock - hamiltonian("sap", mol)).mean())
    low, middle, high = np.percentile(found, [5, 50, 95])
    return f"median {middle:.2e} Ha, 5 to 95 percent {low:.2e} to {high:.2e}, of {len(found)} records"
