"""mlham bench and mlham guess."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from pyscf_mlham.bench.molecules import read_molecules
from pyscf_mlham.bench.options import advise, names
from pyscf_mlham.bench.protocol import DEFAULT_GUESSES, SOLVERS, Guess, Protocol, absolute, guess_from_text, model_hash
from pyscf_mlham.bench.summary import CLOCKS
from pyscf_mlham.data.geometries import MULT, read_geometries
from pyscf_mlham.data.label import GRID_LEVELS, KINDS
from pyscf_mlham.data.schema import Level
from pyscf_mlham.errors import DataError
from pyscf_mlham.scf.problem import check_functional

BENCH = """examples:
  mlham bench molecules/*.xyz --report out
  mlham bench ase:g2/H2O,CH3CONH2 --guess minao,coarse,ml --solver scf,twolevel --repeat 3 --report out
  mlham bench radicals.xyz --mult 2 --scf uks --xc pbe0 --basis 6-31g* -j 8 --report out
  mlham bench set.xyz --guess minao,chk:labels.h5,ml:my/model --report out --quiet

The reference, minao with plain SCF, is always run. Guesses:
  minao, atom, huckel, vsap, sap   PySCF's own
  scc       the self-consistent baseline: a superposition of atoms, relaxed by a cheap response model
  coarse    a density-fitted SCF on a small grid, converged first: the classical rival
  ml        the shipped model, or --model; ml:NAME another one; where a model does not serve, minao takes its place
  oracle    the converged answer: no method, but the bound on what a guess can save
  chk:FILE  a file of labelled molecules (found by geometry), or a checkpoint file of PySCF of the same geometry: a
            stored answer, whose own SCF is not counted; no method either

Charge and multiplicity of a frame are those of its comment line or info (charge=-1 mult=2), of SDF's CHG and RAD lines
and of Gaussian inputs; --charge and --mult are for frames that say nothing.

The folder holds results.json, results.csv, table.md, plots and report.html. A run that was killed goes on with the
same command; more molecules, guesses or repetitions may be added; another protocol in the same folder is refused.
Exit code 1: input that could not be read, runs that failed or did not converge, or energies that do not agree."""

GUESS = """examples:
  mlham guess mol.xyz -o guess.npz
  mlham guess mol.xyz --xc pbe0 --basis def2-tzvp -o guess.chk     # mf.kernel(dm0=mf.from_chk("guess.chk"))

guess.npz holds dm, fock, mo_energy, mo_coeff, mo_occ (PySCF's AO order, Hartree), numbers and positions (Bohr)."""


def _add_level(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--xc", default="b3lyp", help="functional, or hf; default %(default)s")
    parser.add_argument("--basis", default="def2-svp", help="default %(default)s")
    parser.add_argument("--scf", default="auto", choices=KINDS, help="auto: restricted, open shells unrestricted")
    parser.add_argument("--df", action="store_true", help="density-fitted integrals")
    parser.add_argument(
        "--grid", type=int, default=3, choices=GRID_LEVELS, metavar="LEVEL", help="PySCF's, 0 to 9; default %(default)s"
    )
    parser.add_argument("--charge", type=int, default=0, help="where a frame has no charge= of its own")
    parser.add_argument("--mult", type=int, help=MULT)
    parser.add_argument("--model", default="", help="name or folder of a model; default: the best of the shipped ones")


def add_bench(parser: argparse.ArgumentParser) -> None:
    """Describe `mlham bench`.

    Args:
        parser: of the command.
    """
    _add_level(parser)
    parser.description = "Measure what guesses and solvers save, on molecules of your own."
    parser.epilog = BENCH
    parser.add_argument("files", nargs="+", help="files that ASE reads, SDF, ase:g2 and the like, ase:g2/H2O,CH4")
    parser.add_argument("--report", type=Path, required=True, metavar="FOLDER", help="where everything is written")
    parser.add_argument(
        "--guess", type=names, default="", help=f"separated by commas; default {','.join(DEFAULT_GUESSES)}"
    )
    solvers = ",".join(SOLVERS)
    parser.add_argument("--solver", type=names, default=solvers, help="separated by commas; default %(default)s")
    parser.add_argument("--conv-tol", type=float, default=1e-9, help="Hartree; default %(default)s, PySCF's")
    parser.add_argument("--max-cycle", type=int, default=50, help="default %(default)s, PySCF's")
    parser.add_argument(
        "--energy-tol", type=float, default=1e-8, help="by how much energies may differ, Hartree; default %(default)s"
    )
    parser.add_argument("--threads", type=int, default=1, help="of each run; default %(default)s")
    parser.add_argument("--memory", type=int, default=4000, metavar="MB", help="PySCF's max_memory; default 4000")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each, medians are shown; default %(default)s")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where the network works")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="worker processes; default %(default)s")
    parser.add_argument("--dask", default="", metavar="ADDRESS", help="scheduler of a dask cluster to use instead")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        help="seconds in the report; default cpu (processor), and wall with --threads above 1 and --device cuda",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random order of the runs")
    parser.add_argument("--retry-failed", action="store_true", help="try again what failed in an earlier run")
    parser.add_argument(
        "--no-limit",
        action="store_false",
        dest="limit",
        help="do not time set-up and two full builds of each molecule, the limit that times are compared with",
    )
    parser.add_argument("--insert", type=Path, metavar="FILE", help="also put the table into this Markdown file")
    parser.add_argument("--quiet", action="store_true", help="no progress display")
    parser.set_defaults(run=run_bench)


def run_bench(args: argparse.Namespace, console: Console) -> int:
    """Run a benchmark; the exit code is 1 where there is anything that a reader must know first.

    Args:
        args: of the command line.
        console: to draw on.
    """
    from pyscf_mlham.bench.report import check_marks, insert_table, write_report
    from pyscf_mlham.bench.runner import Plan, run
    from pyscf_mlham.bench.table import print_summary

    if args.repeat < 1:
        raise DataError(f"--repeat {args.repeat}: expected 1 or more.")
    if not (args.energy_tol >= 0 and math.isfinite(args.energy_tol)):
        raise DataError(f"--energy-tol {args.energy_tol}: expected a number of Hartree, zero or more.")
    protocol = _protocol(args)
    plan = Plan(
        guesses=_guesses(args.guess, protocol),
        solvers=_solvers(args.solver),
        repeats=args.repeat,
        jobs=args.jobs,
        dask=args.dask,
        seed=args.seed,
        retry_failed=args.retry_failed,
        energy_tolerance=args.energy_tol,
        quiet=args.quiet,
        limit=args.limit,
    )
    if args.insert:
        check_marks(args.insert)
    found = read_molecules(args.files, args.charge, args.mult)
    for text in found.bad:
        console.print(f"[red]bad input:[/red] {escape(text)}", soft_wrap=True, highlight=False)
    for text in found.duplicates:
        console.print(f"{text}; left out.", markup=False, soft_wrap=True, highlight=False)
    if not args.dask:  # whose workers are on other machines
        advise(console)
    results = run(found, plan, protocol, args.report, console)
    # processor seconds add up over threads, those that only wait included, and leave out what a card does
    clock = args.clock or ("wall" if args.threads > 1 or args.device == "cuda" else "cpu")
    write_report(results, args.report, clock)
    if args.insert:
        insert_table(args.insert, results, clock)
    print_summary(results, clock, console)
    console.print(f"{args.report / 'report.html'}", highlight=False, soft_wrap=True)
    return 1 if results.problems else 0


def _protocol(args: argparse.Namespace) -> Protocol:
    return Protocol(
        xc=args.xc,
        basis=args.basis,
        scf=args.scf,
        density_fit=args.df,
        grid_level=args.grid,
        conv_tol=args.conv_tol,
        max_cycle=args.max_cycle,
        threads=args.threads,
        device=args.device,
        memory=args.memory,
        model=args.model,
        model_sha256=model_hash(args.model),
    )


def _guesses(text: str, protocol: Protocol) -> tuple[Guess, ...]:
    without_vsap = protocol.xc.lower() == "hf" or protocol.scf in ("gks", "ghf")
    without_coarse = protocol.coarse_grid is None
    if not text:
        missing = {name for name, gone in (("vsap", without_vsap), ("coarse", without_coarse)) if gone}
        text = ",".join(guess for guess in DEFAULT_GUESSES if guess not in missing)
    plain = Guess("ml", "ml", absolute(protocol.model))
    guesses = dict.fromkeys(plain if part.strip() == "ml" else guess_from_text(part) for part in text.split(","))
    if without_vsap and any(guess.kind == "vsap" for guess in guesses):
        raise DataError(
            "PySCF's vsap guess needs a functional, and has none for GKS objects; leave it out with --xc hf and with "
            "--scf gks."
        )
    if without_coarse and any(guess.kind == "coarse" for guess in guesses):
        raise DataError(
            "the coarse guess is a density-fitted SCF on a smaller grid, and nothing is coarser than --df with "
            "--grid 0 or --xc hf; leave it out there."
        )
    return tuple(guesses)


def _solvers(text: str) -> tuple[str, ...]:
    solvers = tuple(dict.fromkeys(text.split(",")))
    if unknown := [solver for solver in solvers if solver not in SOLVERS]:
        raise DataError(f"unknown solvers {unknown}; expected some of {', '.join(SOLVERS)}.")
    return solvers


def add_guess(parser: argparse.ArgumentParser) -> None:
    """Describe `mlham guess`.

    Args:
        parser: of the command.
    """
    _add_level(parser)
    parser.description = "Write the learned guess of a molecule to a file."
    parser.epilog = GUESS
    parser.add_argument("file", help="a file that ASE reads, SDF, or ase:g2/H2O")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a name that ends in .npz or .chk")
    parser.add_argument("--frame", type=int, default=0, help="which one of the file, from 0; default %(default)s")
    parser.set_defaults(run=run_guess)


def run_guess(args: argparse.Namespace, console: Console) -> int:
    """Write a guess; an error where no model serves.

    Args:
        args: of the command line.
        console: to draw on.
    """
    from pyscf_mlham.bench.export import write_guess

    if args.output.suffix not in (".npz", ".chk"):
        raise DataError(f"{args.output}: expected a name that ends in .npz or .chk.")
    check_functional(args.xc)
    frames = list(read_geometries(args.file, args.charge, args.mult))  # bad ones keep their place
    if not 0 <= args.frame < len(frames):
        raise DataError(f"{args.file}: there is no frame {args.frame}; there are {len(frames)}, counted from 0.")
    molecule = frames[args.frame]
    if isinstance(molecule, DataError):
        raise molecule
    words = write_guess(molecule, Level(args.xc, args.basis, args.grid, args.df), args.scf, args.model, args.output)
    console.print(f"{args.output}: {words}", highlight=False, soft_wrap=True, markup=False)
    if others := len(frames) - 1:
        which = f"It is of {molecule.name}, frame {args.frame} of {args.file}, which holds {others} more"
        console.print(f"{which}; --frame N takes another.", highlight=False, soft_wrap=True, markup=False)
    return 0
