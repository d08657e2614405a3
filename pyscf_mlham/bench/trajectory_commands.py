"""mlham md-bench and opt-bench: run, and report as JSON, Markdown, PNG and one HTML page."""

from __future__ import annotations

import argparse
import json
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from pyscf_mlham.bench.options import advise, names
from pyscf_mlham.bench.protocol import model_hash
from pyscf_mlham.bench.trajectory_summary import summarise
from pyscf_mlham.bench.trajectory_table import REPORT, heading, markdown, print_tables, problems, subtitle
from pyscf_mlham.checkpoint import replace_file
from pyscf_mlham.data.frames import frames, why_unreadable
from pyscf_mlham.data.geometries import mult_by_moments
from pyscf_mlham.errors import DataError
from pyscf_mlham.state import SPIN_KEYS, charge_and_spin

if TYPE_CHECKING:  # ASE is loaded by the commands that need it
    from pyscf_mlham.bench.trajectory import Settings


def add_parsers(commands: Any) -> None:
    """Add the two commands.

    Args:
        commands: of mlham's parser.
    """
    raw = argparse.RawDescriptionHelpFormatter
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("geometries", help="file that ASE reads, SDF, or ase:g2/H2O and the like")
    shared.add_argument("--frames", default="0", help="which frames, an index or a Python slice; default %(default)s")
    shared.add_argument("--xc", default="b3lyp", help="functional, or hf; default %(default)s")
    shared.add_argument("--basis", default="def2-svp", help="default %(default)s")
    shared.add_argument("--charge", type=int, default=0, help="where a frame has no charge= of its own")
    shared.add_argument("--mult", type=int, help="where a frame has no mult= of its own; default the lowest")
    shared.add_argument("--df", action="store_true", help="density-fitted integrals")
    shared.add_argument("--conv-tol", type=float, default=1e-9, help="Hartree; default %(default)s")
    shared.add_argument("--model", default="", help="name or path; by default the shipped one that suits")
    shared.add_argument(
        "--strategy",
        type=names,
        default="ml+history,scanner,loewdin,aspc,ml,history",
        help="separated by commas, minao too; reversible and ml+reversible are the time-reversible variants; "
        "the first one's forces make the path; NAME/twolevel chooses the solver for one alone; default %(default)s",
    )
    shared.add_argument(
        "--solver", type=names, default="scf", help="scf, twolevel, or scf,twolevel for both; default %(default)s"
    )
    shared.add_argument("--out", type=Path, required=True, help="folder of the report; the same command goes on there")

    md = commands.add_parser(
        "md-bench",
        parents=[shared],
        formatter_class=raw,
        help="cost of each MD step by strategy",
        description="Cycles and Fock builds of each step of an NVE run, for each way of guessing the next density.\n\n"
        "example: mlham md-bench ethanol.xyz --steps 40 --solver scf,twolevel --out out/ethanol",
    )
    md.add_argument("--steps", type=int, default=40, help="more may be asked for later; default %(default)s")
    md.add_argument("--timestep", type=float, default=0.5, help="fs; default %(default)s")
    md.add_argument("--temperature", type=float, default=300.0, help="of the velocities, Kelvin; default %(default)s")
    md.add_argument("--seed", type=int, default=0, help="of the velocities; default %(default)s")
    md.add_argument("--follow", action="store_true", help="take --frames as the trajectory, instead of running one")
    md.set_defaults(run=run, kind="md", fmax=0.05)

    opt = commands.add_parser(
        "opt-bench",
        parents=[shared],
        formatter_class=raw,
        help="cost of an optimisation by strategy",
        description="Cycles and Fock builds of each step of a BFGS optimisation, for each way of guessing.\n\n"
        "example: mlham opt-bench molecules.xyz --frames 0:3 --out out/opt",
    )
    opt.add_argument("--steps", type=int, default=100, help="at most; default %(default)s")
    opt.add_argument(
        "--fmax", type=float, default=0.05, help="largest force at the end, eV/Angstrom; default %(default)s"
    )
    opt.set_defaults(run=run, kind="opt", timestep=0.5, temperature=300.0, seed=0, follow=False)


def run(args: argparse.Namespace, console: Console) -> int:
    """Run a benchmark and write its report; the exit code is 1 where there is anything that a reader must know first.

    Args:
        args: of the command line.
        console: to draw on.
    """
    settings = _settings(args)
    model_hash(settings.model)  # an unknown model is told before anything runs
    molecules = _molecules(args)
    _check(molecules, settings)
    advise(console)
    found = {name: _measured(name, path, settings, args.out, console) for name, path in molecules.items()}
    wrong = problems(found)
    _write(found, settings, wrong, args.out)
    print_tables(found, settings, console)
    for problem in wrong:
        console.print(f"[red]problem:[/red] {escape(problem)}", soft_wrap=True, highlight=False)
    console.print(f"{args.out / 'report.html'}", markup=False, soft_wrap=True, highlight=False)
    return 1 if wrong else 0


def _settings(args: argparse.Namespace) -> Settings:
    from pyscf_mlham.bench.trajectory import Settings

    solvers, strategies = args.solver.split(","), args.strategy.split(",")
    return Settings(
        kind="follow" if args.follow else args.kind,
        runs=tuple(s if solver == "scf" else f"{s}/{solver}" for solver in solvers for s in strategies),
        xc=args.xc,
        basis=args.basis,
        density_fit=args.df,
        conv_tol=args.conv_tol,
        model=args.model,
        steps=args.steps,
        timestep=args.timestep,
        temperature=args.temperature,
        seed=args.seed,
        fmax=args.fmax,
    )


def _check(molecules: dict[str, list[Any]], settings: Settings) -> None:
    """Refuse what no run can succeed with, such as a misspelt basis set, before anything is written."""
    from pyscf_mlham.bench.trajectory import why_not

    reasons = [why_not(path[0], settings) for path in molecules.values()]
    if all(reasons):
        raise DataError(f"there is no molecule to run; {reasons[0]}")


def _measured(name: str, path: list[Any], settings: Settings, out: Path, console: Console) -> dict[str, Any]:
    """Run one molecule; where it fails, what it did before is kept, and the others go on."""
    from pyscf_mlham.bench.trajectory import run_trajectory, steps_done

    error, start = "", time.monotonic()
    try:
        steps = run_trajectory(name, path, settings, out, console)
    except (DataError, OSError):  # of the folder, not of the molecule
        raise
    except Exception as reason:  # whatever it is, it is reported
        error = f"{type(reason).__name__}: {reason}"
        steps = steps_done(name, out)
    summary = summarise(steps, settings.kind) if steps else {}
    found = {"steps": steps, "summary": summary, "error": error, **_state(path[0])}
    if not console.is_terminal:  # where there is no progress bar
        words = f"{heading(name, found)}: done in {time.monotonic() - start:.0f} s"
        console.print(words, markup=False, highlight=False, soft_wrap=True)
    return found


def _state(atoms: Any) -> dict[str, int]:
    """Charge and multiplicity of a molecule; nothing where they cannot be, which its run says."""
    try:
        charge, spin = charge_and_spin(atoms.info, int(atoms.numbers.sum()))
    except ValueError:
        return {}
    return {"charge": charge, "mult": spin + 1}


def _write(found: dict[str, Any], settings: Settings, wrong: list[str], out: Path) -> None:
    """Write every file of the report."""
    from pyscf_mlham.bench.figures import png
    from pyscf_mlham.bench.trajectory_page import page, steps_figure

    content = {"settings": asdict(settings), "problems": wrong, "molecules": found}
    replace_file(out / REPORT, json.dumps(content).encode())
    replace_file(out / "report.md", markdown(found, settings).encode())
    if drawn := {name: molecule for name, molecule in found.items() if molecule["steps"]}:
        replace_file(out / "report.png", png(steps_figure(drawn)))
    replace_file(out / "report.html", page(found, settings, subtitle(settings), wrong).encode())


def _molecules(args: argparse.Namespace) -> dict[str, list[Any]]:
    """Frames to start from, by name; one list of them where they are the trajectory."""
    if not re.fullmatch(r"-?\d+|-?\d*(:-?\d*){1,2}", args.frames):
        raise DataError(f"--frames {args.frames!r} is no index or slice; give 0, or 0:3.")
    chosen, stem = _chosen(args), Path(args.geometries).stem
    for _, atoms in chosen:
        _set_state(atoms, args)
    if args.follow:
        return {stem: [atoms for _, atoms in chosen]}
    found: dict[str, list[Any]] = {}
    for index, (label, atoms) in enumerate(chosen):
        name = re.sub(r"[^\w.+-]+", "_", label.strip()).lstrip(".")  # it names a folder
        name = name or f"{stem}-{index}"
        found[f"{name}-{index}" if name in found else name] = [atoms]
    return found


def _chosen(args: argparse.Namespace) -> list[tuple[str, Any]]:
    """Names and atoms of the frames that are asked for; of the others it does not matter whether they can be read."""
    everything = list(enumerate(frames(args.geometries)))
    if len(everything) == 1 and isinstance(error := everything[0][1][1], Exception):  # of the file, most likely
        raise DataError(f"{args.geometries}: cannot be read ({why_unreadable(error)}).")
    parts = [int(part) if part else None for part in args.frames.split(":")]
    chosen = everything[slice(*parts)] if len(parts) > 1 else everything[parts[0] :][:1]
    if not chosen:
        raise DataError(f"{args.geometries} has {len(everything)} frames, none of them in --frames {args.frames}.")
    for index, (_, atoms) in chosen:
        if isinstance(atoms, Exception):
            raise DataError(
                f"{args.geometries}, frame {index}: cannot be read ({why_unreadable(atoms)}); mend it, or choose "
                "others with --frames."
            )
    return [frame for _, frame in chosen]


def _set_state(atoms: Any, args: argparse.Namespace) -> None:
    """Give a frame the charge and multiplicity of the command line where it has none of its own."""
    info = atoms.info
    if args.charge:
        info.setdefault("charge", args.charge)
    mult = mult_by_moments(args.geometries, atoms, args.charge) if args.mult is None else args.mult
    if mult is not None and not info.keys() & set(SPIN_KEYS):
        info["mult"] = mult
    atoms.set_initial_magnetic_moments(None)  # those of files, which are as often another program's results
