"""mlham bench, trust, md-bench, opt-bench and guess."""

from __future__ import annotations

import argparse
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from pyscf_mlham.bench.molecules import Input, read_molecules, read_paths
from pyscf_mlham.bench.protocol import (
    DEFAULT_GUESSES,
    MD,
    SOLVERS,
    Guess,
    Optimisation,
    Protocol,
    guess_from_text,
    model_hash,
)
from pyscf_mlham.bench.results import CLOCKS, Results
from pyscf_mlham.bench.runner import Plan, run
from pyscf_mlham.data.geometries import MULT, read_geometries
from pyscf_mlham.errors import DataError
from pyscf_mlham.options import add_command, add_options, add_state, chosen, from_options, names
from pyscf_mlham.progress import print_line

SOURCE = "files that ASE reads, SDF, ase:g2 and the like, ase:g2/H2O,CH4"
BENCH = """examples:
  mlham bench molecules/*.xyz --report out
  mlham bench ase:g2/H2O,CH3CONH2 --guess minao,coarse,ml --solver scf,twolevel --repeat 3 --report out
  mlham bench radicals.xyz --mult 2 --scf uks --xc pbe0 --basis 6-31g* -j 8 --report out
  mlham bench set.xyz --guess minao,chk:labels.h5,ml:my/model --report out --quiet

The reference, minao with plain SCF, is always run. Guesses:
  minao, atom, huckel, vsap, sap   PySCF's own
  scc       the self-consistent baseline: a superposition of atoms, relaxed by a cheap response model
  coarse    a density-fitted SCF on a small grid, converged first: the classical alternative
  ml        the shipped model, or --model; ml:NAME another one; scc if no model is applicable
  oracle    the converged density: not a method, but the bound on what a guess can save
  chk:FILE  a file of labelled molecules (found by geometry), or a checkpoint file of PySCF of the same geometry: a
            stored solution, whose own SCF is not counted; not a method either

Charge and multiplicity of a frame are those of its comment line or info (charge=-1 mult=2), of SDF's CHG and RAD lines
and of Gaussian inputs; --charge and --mult are for frames without them.

The folder holds results.json, results.csv, table.md, plots and report.html. The same command resumes a run that was
killed; more molecules, guesses or repetitions may be added; a folder cannot hold results of two protocols.
Exit code 1: input that could not be read, runs that failed or did not converge, or energies that do not agree."""

TRUST = """example:
  mlham trust molecules.xyz --against plain --df -j 8 --report out/trust

Ways: ml, scc (guesses for plain SCF); minao/twolevel, scc/twolevel, ml/twolevel (accelerate() from them); track and
track/twolevel (a tracked object that has converged at two smaller geometries before). Verdicts: same (energies agree to
--energy-tol and S^2 to 1e-3), lower, higher, other S^2, not converged, plain not converged, both not converged, failed.
If states differ, PySCF's internal stability analysis of the higher one follows. The folder holds results.json,
trust.md, trust.html, and verdicts.jsonl with a line for each molecule and way; the same command resumes. Exit code 1: a
way ends higher than plain PySCF, or does not converge although plain PySCF does; a run fails; an input is not read."""

GUESS = """examples:
  mlham guess mol.xyz -o guess.npz
  mlham guess mol.xyz --xc pbe0 --basis def2-tzvp -o guess.chk     # mf.kernel(dm0=mf.from_chk("guess.chk"))

guess.npz holds dm, fock, mo_energy, mo_coeff, mo_occ (PySCF's AO order, Hartree), numbers and positions (Bohr)."""


PATH = """Cycles and Fock builds of each geometry along {path}, for each method of guessing the next density.

example: {example}"""


def add_commands(commands: Any) -> None:
    """Add all commands and their options."""
    bench = add_command(commands, "bench", "measure what guesses and solvers save", run_bench, BENCH)
    _add_molecules(bench)
    guesses, solvers = ",".join(DEFAULT_GUESSES), ",".join(SOLVERS)
    bench.add_argument("--guess", type=names, default="", help=f"separated by commas; default {guesses}")
    bench.add_argument("--solver", type=names, default=solvers, help="separated by commas; default %(default)s")
    add_options(bench, Protocol)
    add_options(bench, Plan)
    clock = "seconds in the report; default cpu (processor), or wall with --threads above 1 or --device cuda"
    bench.add_argument("--clock", choices=CLOCKS, help=clock)
    bench.add_argument("--insert", type=Path, metavar="FILE", help="also insert the table into this Markdown file")

    text = "compare the SCF solutions of guesses and solvers with plain PySCF's"
    trust = add_command(commands, "trust", text, run_trust, TRUST)
    _add_molecules(trust)
    trust.add_argument("--against", choices=("plain",), default="plain", help="minao with plain SCF, the default")
    trust.add_argument("--ways", type=names, default="", help="some of the ways, separated by commas; default all")
    ions = "also the cation and the anion of each closed-shell molecule"
    trust.add_argument("--radicals", action="store_true", help=ions)
    add_options(trust, Protocol)
    add_options(trust, Plan, only=("energy_tol", "jobs", "dask", "seed", "retry_failed", "quiet"))

    guess = add_command(commands, "guess", "write the learned guess of a molecule to a file", run_guess, GUESS)
    add_options(guess, Protocol, only=("xc", "basis", "density_fit", "model", "scf", "grid_level"))
    add_state(guess, MULT)
    guess.add_argument("file", help="a file that ASE reads, SDF, or ase:g2/H2O")
    guess.add_argument("-o", "--output", type=Path, required=True, help="file name that ends in .npz or .chk")
    guess.add_argument("--frame", type=int, default=0, help="index of the frame, from 0; default %(default)s")
    add_paths(commands)


def add_paths(commands: Any) -> None:
    """Add `mlham md-bench` and `mlham opt-bench`."""
    md = "mlham md-bench ethanol.xyz --steps 40 --solver scf,twolevel --out out/ethanol"
    opt = "mlham opt-bench molecules.xyz --frames 0:3 --out out/opt"
    for name, kind, text, path, example in (
        ("md-bench", MD, "cost of each MD step by strategy", "an NVE run", md),
        ("opt-bench", Optimisation, "cost of an optimisation by strategy", "a BFGS optimisation", opt),
    ):
        about = PATH.format(path=path, example=example)
        parser = add_command(commands, name, text, functools.partial(run_paths, kind), about)
        parser.add_argument("geometries", help="file that ASE reads, SDF, or ase:g2/H2O and the like")
        parser.add_argument("--frames", default="0", help="an index or a slice; default %(default)s")
        out = "folder of the results; the same command resumes a run"
        parser.add_argument("--out", type=Path, required=True, help=out)
        add_options(parser, kind)
        add_state(parser, "multiplicity if a frame has no mult=; default the lowest")


def _add_molecules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", help=SOURCE)
    parser.add_argument("--frames", default=":", help="frames of each file, an index or a slice; default all")
    parser.add_argument("--report", type=Path, required=True, metavar="FOLDER", help="folder of the results")
    add_state(parser, MULT)


def run_bench(args: argparse.Namespace, console: Console) -> int:
    """Run a benchmark; return 1 if there are problems."""
    from pyscf_mlham.bench.report import check_marks, insert_table

    protocol = from_options(Protocol, args, model_sha256=model_hash(args.model))
    guesses, solvers = _guesses(args.guess, protocol), chosen(args.solver, SOLVERS, "solver")
    plan = from_options(Plan, args, methods=tuple((guess, solver) for solver in solvers for guess in guesses))
    if args.insert:
        check_marks(args.insert)
    found = _molecules(args, console)
    if not args.dask:  # whose workers are on other machines
        advise(console)
    # processor seconds are summed over threads, including waiting ones, and do not include the work of a GPU
    clock = args.clock or ("wall" if args.threads > 1 or args.device == "cuda" else "cpu")
    results = replace(run(found, plan, protocol, args.report, console), clock=clock)
    if args.insert:
        insert_table(args.insert, results)
    return _report(results, args.report, console)


def _molecules(args: argparse.Namespace, console: Console) -> Input:
    found = read_molecules(args.files, args.charge, args.mult, args.frames)
    for text in found.bad:
        print_line(console, text, "bad input")
    for text in found.duplicates:
        print_line(console, f"{text}; left out.")
    return found


def run_trust(args: argparse.Namespace, console: Console) -> int:
    """Compare the states of all ways with plain PySCF's; return 1 if one is worse or input could not be read."""
    from pyscf_mlham.bench import trust

    protocol = from_options(Protocol, args, model_sha256=model_hash(args.model))
    ways = chosen(args.ways, trust.WAYS, "way") if args.ways else trust.WAYS
    plan = from_options(Plan, args, methods=tuple(trust.WAYS[way] for way in ways), limit=False)
    found = _molecules(args, console)
    found = trust.with_radicals(found) if args.radicals else found
    judged = trust.run_trust(found, plan, protocol, args.report, console)
    print_line(console, f"{args.report / 'trust.html'}")
    return 1 if trust.is_bad(judged) or found.bad else 0


def run_paths(kind: type[MD | Optimisation], args: argparse.Namespace, console: Console) -> int:
    """Run a benchmark along a path; return 1 if there are problems."""
    settings = from_options(kind, args, model_sha256=model_hash(args.model))
    follow = isinstance(settings, MD) and settings.follow
    paths, bad = read_paths(args.geometries, args.frames, args.charge, args.mult, follow)
    for text in bad:
        print_line(console, text, "bad input")

    from pyscf_mlham.bench import trajectory  # loads ASE

    reasons = [trajectory.why_not(frames[0], settings) for frames in paths.values()]
    if all(reasons):
        raise DataError(f"there is no molecule to run; {reasons[0]}")
    advise(console)
    return _report(trajectory.run_paths(paths, settings, args.out, console, bad), args.out, console)


def _report(results: Results, folder: Path, console: Console) -> int:
    from pyscf_mlham.bench.report import write_report
    from pyscf_mlham.bench.tables import print_summary

    write_report(results, folder)
    print_summary(results, console)
    print_line(console, f"{folder / 'report.html'}")
    return 1 if results.problems else 0


def advise(console: Console) -> None:
    """Print settings that make PySCF faster on this machine, as a benchmark should use its best speed."""
    from pyscf_mlham.blas import advice, processors

    if text := advice(processors()):
        print_line(console, text, "advice", "yellow")


def _guesses(text: str, protocol: Protocol) -> tuple[Guess, ...]:
    missing = {}
    if protocol.xc.lower() == "hf" or protocol.scf in ("gks", "ghf"):
        missing["vsap"] = "PySCF's vsap guess needs a functional, and GKS objects lack it; omit it with --xc hf or GKS."
    if protocol.coarse_grid is None:
        missing["coarse"] = "no level is coarser than --df with --grid 0 or --xc hf; omit the coarse guess."
    text = text or ",".join(guess for guess in DEFAULT_GUESSES if guess not in missing)
    guesses = tuple(dict.fromkeys(map(guess_from_text, text.split(","))))
    for guess in guesses:
        if guess.kind in missing:
            raise DataError(missing[guess.kind])
    return guesses


def run_guess(args: argparse.Namespace, console: Console) -> int:
    """Write a guess; raise an error if no model is applicable."""
    from pyscf_mlham.bench.starts import write_guess

    if args.output.suffix not in (".npz", ".chk"):
        raise DataError(f"{args.output}: expected a file name that ends in .npz or .chk.")
    protocol = from_options(Protocol, args)
    frames = list(read_geometries(args.file, args.charge, args.mult))  # unreadable ones keep their index
    if not 0 <= args.frame < len(frames):
        raise DataError(f"{args.file}: no frame {args.frame}; the file has {len(frames)} frames, counted from 0.")
    molecule = frames[args.frame]
    if isinstance(molecule, DataError):
        raise molecule
    print_line(console, f"{args.output}: {write_guess(molecule, protocol, args.output)}")
    if others := len(frames) - 1:
        which = f"It is for {molecule.name}, frame {args.frame} of {args.file}, which holds {others} more"
        print_line(console, f"{which}; --frame N selects another.")
    return 0
