"""What each way of starting an SCF costs at every step of a trajectory or an optimisation.

One run makes the geometries; at each of them every strategy converges from its own guess, with its own history, so
all see the same path. Every finished step is a line of steps.jsonl: a killed run goes on where it was.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyscf
from ase import Atoms, units
from ase.calculators.calculator import Calculator, CalculatorError, all_changes
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

import pyscf_mlham
from pyscf_mlham.ase import HARTREE, SOLVERS, MLHam
from pyscf_mlham.bench.protocol import model_hash
from pyscf_mlham.bench.results import make_folder
from pyscf_mlham.errors import DataError
from pyscf_mlham.progress import Lines
from pyscf_mlham.scf.history import DEPTH
from pyscf_mlham.scf.problem import check_functional
from pyscf_mlham.state import charge_and_spin

Row = dict[str, Any]
STEPS = "steps.jsonl"
KINDS = ("md", "opt", "follow")


class Strategy(NamedTuple):
    """A guess for the first step, and what is made of the steps before for the later ones.

    Attributes:
        guess: "minao" or "ml".
        history: a strategy of `History`, or None for the first guess at every step.
    """

    guess: str
    history: str | None


STRATEGIES = {
    "scanner": Strategy("minao", "last"),
    "loewdin": Strategy("minao", "loewdin"),
    "aspc": Strategy("minao", "aspc"),
    "minao": Strategy("minao", None),
    "ml": Strategy("ml", None),
    "history": Strategy("minao", "fit"),
    "ml+history": Strategy("ml", "fit"),
    "reversible": Strategy("minao", "reversible"),
    "ml+reversible": Strategy("ml", "reversible"),
}
DEFAULT = ("ml+history", "scanner", "loewdin", "aspc", "ml", "history")


@dataclass(frozen=True)
class Settings:
    """What a benchmark compares, and how it makes its geometries.

    Attributes:
        kind: "md" (NVE), "opt" (BFGS) or "follow" (the frames as they are).
        runs: strategy and solver of each competitor, as "ml+history" or "ml+history/twolevel"; the first one's forces
            make the path.
        xc: functional, or "hf".
        basis: PySCF's name.
        density_fit: whether integrals are fitted.
        conv_tol: Hartree.
        model: name or path, "" for the shipped one that suits.
        steps: of MD, or at most of an optimisation.
        timestep: fs.
        temperature: of the first velocities, Kelvin.
        seed: of the velocities.
        fmax: force at which an optimisation ends, eV/Angstrom.
    """

    kind: str = "md"
    runs: tuple[str, ...] = DEFAULT
    xc: str = "b3lyp"
    basis: str = "def2-svp"
    density_fit: bool = False
    conv_tol: float = 1e-9
    model: str = ""
    steps: int = 40
    timestep: float = 0.5
    temperature: float = 300.0
    seed: int = 0
    fmax: float = 0.05

    def __post_init__(self) -> None:
        """Refuse what makes no sense, before anything is computed."""
        if self.kind not in KINDS:
            raise DataError(f"unknown kind of benchmark {self.kind!r}; expected one of {', '.join(KINDS)}.")
        for run in self.runs:
            name, _, solver = run.partition("/")
            if name not in STRATEGIES:
                raise DataError(f"unknown strategy {name!r}; expected one of {', '.join(STRATEGIES)}.")
            if solver and solver not in SOLVERS:
                raise DataError(f"unknown solver {solver!r}; expected one of {', '.join(SOLVERS)}.")
        check_functional(self.xc)
        if self.steps < (least := 1 if self.kind == "opt" else 0):
            raise DataError(f"--steps {self.steps}: expected {least} or more.")
        for option in ("conv_tol", "timestep", "fmax"):
            if not getattr(self, option) > 0:
                name = option.replace("_", "-")
                raise DataError(f"--{name} {getattr(self, option)}: expected more than zero.")
        if not self.temperature >= 0:
            raise DataError(f"--temperature {self.temperature}: expected zero or more.")

    def calculator(self, run: str) -> MLHam:
        """Return the calculator of one competitor.

        Args:
            run: one of `runs`.
        """
        name, _, solver = run.partition("/")
        strategy = STRATEGIES[name]
        return MLHam(
            xc=self.xc,
            basis=self.basis,
            density_fit=self.density_fit,
            conv_tol=self.conv_tol,
            model=self.model or None,
            solver=solver or "scf",
            guess=strategy.guess,
            history=strategy.history,
        )


class Panel(Calculator):
    """All competitors at once; energy and forces are the first one's.

    Attributes:
        rows: of the present geometry, one for each competitor.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012  (ASE's idiom)

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.calculators = {run: settings.calculator(run) for run in settings.runs}
        self.rows: dict[str, Row] = {}

    def calculate(
        self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = tuple(all_changes)
    ) -> None:
        """Converge with every competitor; ASE calls this.

        Args:
            atoms: geometry.
            properties: as in ASE.
            system_changes: as in ASE.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        self.rows = {}
        for place, (run, calculator) in enumerate(self.calculators.items()):
            energy = calculator.get_potential_energy(self.atoms)
            if place == 0:
                self.results = {"energy": energy, "forces": calculator.get_forces(self.atoms)}
            cost = calculator.report().steps[-1]
            self.rows[run] = {
                "cycles": cost.cycles,
                "builds": cost.builds,
                "coarse": cost.coarse,
                "seconds": cost.scf_seconds,
                "energy": energy / HARTREE,
                "fallback": cost.fallback,
            }


def run_trajectory(name: str, frames: list[Atoms], settings: Settings, out: Path, console: Console) -> list[Row]:
    """Run one benchmark, or what is left of it, and return a row for each step.

    Args:
        name: of the molecule, shown and used as a folder.
        frames: geometries; MD and optimisations start from the first one.
        settings: what to compare.
        out: folder; the molecule's own lies in it.
        console: to draw on.
    """
    if settings.kind == "follow":
        _check_same_molecule(name, frames)
    folder = out / name
    make_folder(out)
    folder.mkdir(exist_ok=True)
    with _alone_in(folder):
        return _run(name, frames, settings, folder / STEPS, console)


def _check_same_molecule(name: str, frames: list[Atoms]) -> None:
    """Refuse frames that are no trajectory of one molecule in one state: all run as the first one."""
    if any(atoms.numbers.tolist() != frames[0].numbers.tolist() for atoms in frames):
        raise DataError(f"{name}: --follow needs frames of the same atoms in the same order.")
    try:
        states = [charge_and_spin(atoms.info, int(atoms.numbers.sum())) for atoms in frames]
    except ValueError as error:
        raise DataError(f"{name}: {error}; --follow needs frames of one charge and multiplicity.") from error
    for place, (charge, spin) in enumerate(states):
        if (charge, spin) != states[0]:
            raise DataError(
                f"{name}: frame {place} of those to follow has charge {charge} and multiplicity {spin + 1}, the first "
                f"one {states[0][0]} and {states[0][1] + 1}; --follow needs frames of one charge and multiplicity."
            )


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes from writing into a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise DataError(f"{folder}: another benchmark is writing there; wait for it, or stop it.") from error
    finally:
        os.close(descriptor)


def _run(name: str, frames: list[Atoms], settings: Settings, path: Path, console: Console) -> list[Row]:
    """Make the steps that are still to be made, and write each down."""
    steps = _read(path, settings, frames if settings.kind == "follow" else frames[:1])
    if settings.kind == "md" and len(steps) > settings.steps:
        return steps[: settings.steps + 1]
    if settings.kind != "md" and steps and steps[-1]["last"]:
        return steps
    panel = Panel(settings)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        total = len(frames) if settings.kind == "follow" else settings.steps + (settings.kind == "md")
        task, lines = progress.add_task(name, total=total, completed=len(steps)), Lines(console)
        for row in _path(frames, settings, panel, steps):
            steps.append(row)
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
            progress.update(task, completed=len(steps))
            lines.say(f"{name}: {len(steps)} of {total} geometries")
    return steps


def _read(path: Path, settings: Settings, frames: list[Atoms]) -> list[Row]:
    """Return the steps done already; an optimisation that is not finished, and a torn last line, count for nothing."""
    given = [(a.numbers.tolist(), np.round(a.positions, 8).tolist(), str(sorted(a.info.items()))) for a in frames]
    digest = hashlib.sha256(json.dumps(given).encode()).hexdigest()
    same_path = settings if settings.kind == "opt" else dataclasses.replace(settings, steps=0)  # MD may be made longer
    about = {"settings": asdict(same_path), "model_sha256": model_hash(settings.model), "geometries": digest}
    about |= {"pyscf": pyscf.__version__, "pyscf_mlham": pyscf_mlham.__version__}
    header = json.dumps(about)
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    if lines and lines[0].strip() != header:
        raise DataError(
            f"{path} holds a benchmark of other settings, another model, another geometry, or other versions of PySCF "
            "or pyscf_mlham; name another --out."
        )
    steps = _steps(lines)
    if settings.kind == "opt" and not (steps and steps[-1]["last"]):
        steps = []
    fresh = path.with_suffix(".tmp")
    fresh.write_text("".join(line + "\n" for line in [header, *map(json.dumps, steps)]))
    fresh.replace(path)
    return steps


def _steps(lines: list[str]) -> list[Row]:
    """Rows of a file of steps, below its header; a torn last line is none."""
    return [json.loads(line) for line in lines[1:] if line.endswith("\n")]


def steps_done(name: str, out: Path) -> list[Row]:
    """Return the steps that a run finished before it failed.

    Args:
        name: of the molecule.
        out: folder of the benchmark.
    """
    path = out / name / STEPS
    return _steps(path.read_text().splitlines(keepends=True)) if path.exists() else []


def why_not(atoms: Atoms, settings: Settings) -> str:
    """Say why no SCF of a molecule can be started; "" where it can.

    Args:
        atoms: geometry.
        settings: level of theory.
    """
    calculator = settings.calculator(settings.runs[0])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PySCF's advice on where else to look for an unknown basis set
            calculator.mean_field(atoms, *calculator.charge_and_spin(atoms))
    except CalculatorError as error:
        return str(error)
    return ""


def _path(frames: list[Atoms], settings: Settings, panel: Panel, done: list[Row]) -> Iterator[Row]:
    """Geometries and what each competitor paid for them, from where the run was left."""
    atoms = frames[0].copy()
    atoms.pbc = False
    atoms.calc = panel

    def row(last: bool) -> Row:
        atoms.get_forces()
        momenta = atoms.get_momenta().tolist()
        return {"last": last, "positions": atoms.positions.tolist(), "momenta": momenta, "runs": dict(panel.rows)}

    count = len(done)
    for old in done[-DEPTH:]:  # the histories live in memory only: they are learnt again
        atoms.positions = old["positions"]
        atoms.get_forces()
    if settings.kind == "follow":
        for place, frame in list(enumerate(frames))[count:]:
            atoms.positions = frame.positions
            yield row(place == len(frames) - 1)
    elif settings.kind == "md":
        if done:
            atoms.set_momenta(done[-1]["momenta"])
        else:
            atoms.set_momenta(thermal_momenta(atoms, settings.temperature, settings.seed))
            yield row(settings.steps == 0)
            count = 1
        dynamics = VelocityVerlet(atoms, timestep=settings.timestep * units.fs)
        for step in range(count, settings.steps + 1):
            dynamics.run(1)
            yield row(step == settings.steps)
    else:
        optimiser = BFGS(atoms, logfile=None)
        for step, converged in enumerate(optimiser.irun(fmax=settings.fmax, steps=settings.steps - 1)):
            found = row(bool(converged) or step == settings.steps - 1)
            yield found | {"at_minimum": bool(converged)}


def thermal_momenta(atoms: Atoms, temperature: float, seed: int) -> NDArray[np.float64]:
    """Draw momenta from Maxwell and Boltzmann's distribution, none in total; ASE's units.

    Args:
        atoms: molecule.
        temperature: Kelvin.
        seed: of the random numbers.
    """
    masses = atoms.get_masses()[:, None]
    momenta = np.random.default_rng(seed).normal(size=(len(atoms), 3)) * np.sqrt(masses * units.kB * temperature)
    return np.asarray(momenta - masses / masses.sum() * momenta.sum(axis=0))
