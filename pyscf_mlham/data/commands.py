"""mlham data generate, import, baseline, compress, split and info."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyscf
from pyscf.data.elements import ELEMENTS
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pyscf_mlham.data.baseline import add_baseline, compress
from pyscf_mlham.data.displaced import Displacements, thermal_copies, with_copies
from pyscf_mlham.data.generate import FAILED_EARLIER, GenerateOptions, generate, journal_path
from pyscf_mlham.data.geometries import MULT, mol_from_geometry, read_geometries
from pyscf_mlham.data.importers import import_records
from pyscf_mlham.data.label import ROUGH_GRID, ROUGH_TOL
from pyscf_mlham.data.record import SPLITS, Level, Record
from pyscf_mlham.data.schema import HamiltonianFile, check_new, write_file
from pyscf_mlham.data.splits import advice_on_empty, split_again, splits_by_group
from pyscf_mlham.errors import DataError
from pyscf_mlham.h0 import hamiltonian
from pyscf_mlham.model import store
from pyscf_mlham.model.guess import GUESSES, is_ml, named_model
from pyscf_mlham.options import add_command, add_options, add_state, check, from_options
from pyscf_mlham.progress import print_line
from pyscf_mlham.scf.problem import check_functional
from pyscf_mlham.workers import engine

EXAMPLE = """examples:
  mlham data generate molecules.xyz -o set.h5 --xc b3lyp --basis def2-svp -j 2
  mlham data generate ase:g2 -o small.h5 --rattle 3 --thermal 3 --temperature 500
  mlham data import QH9Stable.db -o qh9.h5 --xc b3lyp5 --basis def2-svp
  mlham data baseline qh9.h5 -o qh9-scc.h5 -j 8
  mlham data compress qh9-scc.h5 -o small.h5
  mlham data split set.h5 --val 0.2 --test 0.1
  mlham data info set.h5"""
THEORY = ("xc", "basis", "conv_tol", "density_fit")  # options of all levels of theory
MOST_FAILURES = 20  # listed by info


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Add the commands and their options."""
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLE
    commands = parser.add_subparsers(required=True, metavar="command")

    made = add_command(commands, "generate", "label molecules; resumable", run_generate, EXAMPLE)
    made.add_argument("geometries", nargs="+", help="files that ASE reads, or ase:g2, ase:s22 and the like")
    _add_labels(made, *THEORY, "pseudo", "smearing")
    add_state(made, MULT)
    made.add_argument("--kpts", type=int, nargs=3, default=(), metavar="N", help="k points if a frame has no kpts=")
    add_options(made, GenerateOptions)
    add_options(made, Displacements)

    brought = add_command(commands, "import", "import QH9 or MD17 Hamiltonians", run_import, EXAMPLE)
    brought.add_argument("source", type=Path, help="QH9 .db or .lmdb, MD17 (SchNOrb) .db or .npz")
    _add_labels(brought, *THEORY)
    brought.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N records")

    text = "store the scc baseline beside the labels, or restore those of a compressed file; resumable"
    based = add_command(commands, "baseline", text, run_baseline, EXAMPLE)
    based.add_argument("file", type=Path, help="file of labelled molecules")
    based.add_argument("-o", "--output", type=Path, required=True, help="copy of the file with the baseline in it")
    add_options(based, GenerateOptions, {"jobs"})

    text = "store F - F_scc in half precision, for archives"
    small = add_command(commands, "compress", text, run_compress, EXAMPLE)
    small.add_argument("file", type=Path, help="file of labelled molecules with the scc baseline")
    small.add_argument("-o", "--output", type=Path, required=True, help="compressed file, which `baseline` restores")

    text = "split the molecules of a file again, without new labels"
    split = add_command(commands, "split", text, run_split, EXAMPLE)
    split.add_argument("file", type=Path, help="file of labelled molecules, replaced")
    _add_shares(split)
    split.add_argument("--seed", type=int, default=0, help="seed of the choice; default %(default)s")

    about = add_command(commands, "info", "counts, elements, sizes, splits, |F - H0|", run_info, EXAMPLE)
    about.add_argument("file", type=Path)
    about.add_argument("--sample", type=int, default=50, metavar="N", help="records to compute H0 for; default 50")


def _add_labels(parser: argparse.ArgumentParser, *theory: str) -> None:
    """Add the file of labels, its level of theory and its splits."""
    parser.add_argument("-o", "--output", type=Path, required=True, help="file of labelled molecules")
    add_options(parser, Level, theory)
    grid = {field.name: field for field in dataclasses.fields(Level)}["grid_level"]
    text = f"{grid.metadata['help']}; default {grid.default}, coarse labels {ROUGH_GRID}"
    parser.add_argument("--grid", type=int, help=text, **grid.metadata["how"])
    _add_shares(parser)


def _add_shares(parser: argparse.ArgumentParser) -> None:
    for name, share in zip(SPLITS[1:], GenerateOptions.shares, strict=True):
        parser.add_argument(f"--{name}", type=float, default=share, help="share of the molecules; default %(default)s")


def level_of(args: argparse.Namespace) -> Level:
    """Return the level of theory of the command line.

    Rough labels have a level of their own, so that they are never added to a file of full ones.
    """
    check_functional(args.xc)
    level = from_options(Level, args, approximate=getattr(args, "solver", "") == "coarse")
    check(level)
    if level.pseudo:
        level = dataclasses.replace(level, density_fit=True)
    elif level.approximate:
        level = dataclasses.replace(level, grid_level=ROUGH_GRID, density_fit=True, conv_tol=ROUGH_TOL)
    return level if args.grid is None else dataclasses.replace(level, grid_level=args.grid)


def run_generate(args: argparse.Namespace, console: Console) -> int:
    """Label molecules; return 1 if any failed."""
    _check_options(args)
    options = from_options(GenerateOptions, args, level=level_of(args), shares=(args.val, args.test))
    memory = args.output.with_name(args.output.name + ".thermal")
    molecules = (
        found
        for source in args.geometries
        for found in read_geometries(source, args.charge, args.mult, bool(args.pseudo), args.kpts)
    )
    work = engine(thermal_copies, args.jobs, args.dask)
    sampled = with_copies(molecules, from_options(Displacements, args), work, console, memory)
    counts = generate(sampled, args.output, options, console)
    memory.unlink(missing_ok=True)
    print_line(console, f"{args.output}: " + ", ".join(f"{n} {word}" for word, n in counts.items()))
    _print_splits(args.output, options.shares, console)
    if counts[FAILED_EARLIER]:
        print_line(console, f"{counts[FAILED_EARLIER]} failed in an earlier run; --retry-failed tries them again.")
    return 1 if counts["failed"] or counts[FAILED_EARLIER] or counts["bad"] else 0


def _check_options(args: argparse.Namespace) -> None:
    """Raise DataError for invalid options, before anything is computed."""
    if args.pseudo and (args.thermal or args.mult not in (None, 1)):
        raise DataError("--thermal and --mult are for molecules; crystals are closed shells, and --rattle works.")
    if not args.pseudo and (args.smearing or args.kpts):
        raise DataError("--kpts and --smearing are for crystals, which need --pseudo as well.")
    for option, default in {"guess": GenerateOptions.guess, "conv_tol": Level.conv_tol}.items():
        if args.solver == "coarse" and getattr(args, option) != default:
            flag, start = option.replace("_", "-"), f"start from scc and converge to {ROUGH_TOL:.0e} Ha"
            raise DataError(f"--{flag} has no effect on coarse labels, which {start}; leave it out.")
    if is_ml(args.guess):
        model = named_model(args.guess)
        if isinstance(model, str | Path):
            store.find(model)
    elif args.guess not in GUESSES:
        raise DataError(f"unknown guess {args.guess!r}; expected one of {', '.join(GUESSES)}, ml or ml:<name>.")


def _print_splits(path: Path, shares: tuple[float, float], console: Console) -> None:
    """Print the number of records of each split, and of those whose split the requested shares did not change."""
    with HamiltonianFile(path) as file:
        split, requested = file.split.tolist(), splits_by_group(list(file.group), shares)
    print_line(console, _numbers(split))
    if others := sum(a != b for a, b in zip(split, requested, strict=True)):
        print_line(
            console, f"{others} records keep the split of an earlier run; --val and --test apply to new molecules."
        )


def _numbers(split: list[str]) -> str:
    counts = Counter(split)
    return ", ".join(f"{counts[s]} {s}" for s in SPLITS)


def run_import(args: argparse.Namespace, console: Console) -> int:
    """Import a public set; return 1 if a record was rejected."""
    check_new(args.output)
    level, shares, refused = level_of(args), (args.val, args.test), 0

    def usable() -> Iterator[Record]:
        nonlocal refused
        records = itertools.islice(import_records(args.source, level, shares), args.limit if args.limit > 0 else None)
        for record in track(records, description="importing", console=console, transient=True):
            if isinstance(record, DataError):
                refused += 1
                print_line(console, str(record), "refused")
            else:
                yield record

    write_file(args.output, level, usable(), {"imported_from": args.source.name, "pyscf_version": pyscf.__version__})
    with HamiltonianFile(args.output) as file:
        print_line(console, f"{args.output}: {len(file)} imported, {refused} refused")
        if advice := advice_on_empty(args.output, file.split.tolist(), shares):
            print_line(console, advice)
    return 1 if refused else 0


def run_baseline(args: argparse.Namespace, console: Console) -> int:
    """Add the scc baseline to the records of a file; return 1 if one failed."""
    counts = add_baseline(args.file, args.output, args.jobs, console)
    done = counts["labelled"] + counts["done"]
    print_line(console, f"{args.output}: {done} records with their baseline, {counts['failed']} failed")
    return 1 if counts["failed"] else 0


def run_compress(args: argparse.Namespace, console: Console) -> int:
    """Compress the labels of a file."""
    count = compress(args.file, args.output)
    size, before = (path.stat().st_size / 2**20 for path in (args.output, args.file))
    print_line(console, f"{args.output}: {count} records, {size:.1f} MiB; {args.file} has {before:.1f} MiB")
    return 0


def run_split(args: argparse.Namespace, console: Console) -> int:
    """Split the molecules of a file again."""
    _check_finished(args.file)
    split_again(args.file, (args.val, args.test), args.seed)
    with HamiltonianFile(args.file) as file:
        print_line(console, f"{args.file}: {_numbers(file.split.tolist())}")
    return 0


def _check_finished(path: Path) -> None:
    if journal_path(path).exists():
        raise DataError(f"{path} is not finished, but its journal exists; run the same `mlham data generate` again.")


def run_info(args: argparse.Namespace, console: Console) -> int:
    """Print a summary of a file."""
    if not args.file.exists():
        _check_finished(args.file)
    table = Table(show_header=False, title=str(args.file))
    with HamiltonianFile(args.file) as file:
        for name, text in _summary(file).items():
            table.add_row(name, text)
        if args.sample and len(file) and not file.level.pseudo:
            table.add_row("mean |F - H0|, H0 = sap", _distance(file, args.sample, console))
        console.print(table)
        for name, reason in [*file.failed.values()][:MOST_FAILURES]:
            print_line(console, f"failed: {name}: {reason}")
    return 0


def _summary(file: HamiltonianFile) -> dict[str, str]:
    """Describe a file without reading its matrices."""
    level = file.level
    detail = f"grid {level.grid_level}" + f", {level.pseudo}, smearing {level.smearing:g} Ha" * bool(level.pseudo)
    places = Counter(group for group, _ in set(zip(file.group, file.split, strict=True)))
    held = Counter(z for index in range(len(file)) for z in set(file.numbers(index).tolist()))
    charges = sorted(Counter(file.charge.tolist()).items())
    sizes = {
        word: f"{values.min()} to {values.max()}, median {int(np.median(values))}"
        for word, values in (("atoms", file.n_atoms), ("orbitals", file.n_ao))
        if len(values)
    }
    return {
        "level": f"{level.xc}/{level.basis}, {detail}",
        "molecules": f"{len(file)} ({_numbers(file.split.tolist())})",
        "different molecules": str(len(set(file.group))),
        "molecules in two splits": str(sum(n > 1 for n in places.values())),
        **sizes,
        "elements": ", ".join(f"{ELEMENTS[z]} in {n}" for z, n in sorted(held.items())),
        "charges": ", ".join(f"{q:+d}: {n}" if q else f"0: {n}" for q, n in charges),
        "open shells": str(int(np.sum(file.spin != 0))),
        "sources": ", ".join(f"{s}: {n}" for s, n in Counter(file.source.tolist()).most_common()),
        "failed": str(len(file.failed)),
    }


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
