"""Cost of each strategy of initial guesses at every geometry of a trajectory or an optimisation.

One run makes the geometries; at each of them every strategy converges from its own guess, with its own history, so
that all follow the same path. Every finished geometry is stored as rows of the journal, from which a killed run
resumes.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, CalculatorError, all_changes
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from pyscf_mlham.ase import HARTREE, MLHam
from pyscf_mlham.bench.measure import Row, levels, versions
from pyscf_mlham.bench.protocol import LIMIT, MD, STRATEGIES, Optimisation
from pyscf_mlham.bench.results import Folder, Results
from pyscf_mlham.bench.rivals import RIVALS, Rival
from pyscf_mlham.bench.runner import finished, report_others
from pyscf_mlham.bench.starts import NO_MODEL, Work
from pyscf_mlham.bench.summary import heading
from pyscf_mlham.errors import DataError
from pyscf_mlham.model.guess import settings as registered
from pyscf_mlham.progress import Lines
from pyscf_mlham.state import charge_and_spin
from pyscf_mlham.track.history import DEPTH

Run = tuple[str, str]
Settings = MD | Optimisation
ENERGY_TOLERANCE = 1e-7  # Hartree; the error of an energy due to conv_tol is far smaller


def calculator(settings: Settings, run: Run) -> MLHam:
    """Return the calculator of one pair of strategy and solver."""
    strategy = STRATEGIES[run[0]]
    rival = strategy.history in RIVALS
    made = MLHam(
        xc=settings.xc,
        basis=settings.basis,
        density_fit=settings.density_fit,
        grid_level=settings.grid_level,
        conv_tol=settings.conv_tol,
        model=settings.model or None,
        solver=run[1],
        guess=strategy.guess,
        history="loewdin" if rival else strategy.history,
    )
    if rival:
        made.use_history(Rival(run[0]))
    return made


class Panel(Calculator):
    """All runs as one calculator, with energy and forces of the first one.

    Attributes:
        costs: costs of the present geometry, columns of a row for each run.
        current: the active run.
        force_seconds: processor seconds of the forces at the present geometry.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012  (ASE's idiom)

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.calculators = {run: calculator(settings, run) for run in settings.runs}
        self.costs: dict[Run, dict[str, Any]] = {}
        self.current = settings.runs[0]
        self.force_seconds = 0.0

    def calculate(
        self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = tuple(all_changes)
    ) -> None:
        """Converge all runs; called by ASE."""
        super().calculate(atoms, list(properties), list(system_changes))
        self.costs, self.results = {}, {}
        for run, own in self.calculators.items():
            self.current = run
            energy = own.get_potential_energy(self.atoms)
            forces = own.get_forces(self.atoms) if not self.costs else None
            cost, work = own.report().steps[-1], Work.of(own.mf)
            if forces is not None:
                self.results, self.force_seconds = {"energy": energy, "forces": forces}, cost.force_seconds
            found: dict[str, Any] = {"converged": True, "cycles": cost.cycles, "full_builds": cost.builds}
            found |= {"guess_builds": 0, "coarse_builds": work.coarse, "single_builds": work.single}
            found |= {"response_solves": work.response, "force_cpu_s": self.force_seconds}
            found |= {"total_cpu_s": cost.scf_seconds, "e_tot": energy / HARTREE, "s2": float(own.mf.spin_square()[0])}
            instead = "" if STRATEGIES[run[0]].history else f", {registered.fallback} instead"
            note = f"{NO_MODEL}{instead}: {cost.fallback}" * bool(cost.fallback)
            self.costs[run] = found | {"note": note} | levels(own.mf)


def run_paths(paths: dict[str, list[Atoms]], settings: Settings, out: Path, console: Console) -> Results:
    """Run all unfinished geometries, and write results.json; MD and optimisations start from the first of each path."""
    for name, frames in paths.items():
        if _follows(settings):
            _check_same_molecule(name, frames)
    names = {_key(name, frames): name for name, frames in paths.items()}
    folder = Folder(out, settings)
    try:
        for (key, name), frames in zip(names.items(), paths.values(), strict=True):
            _run(key, name, frames, settings, folder, console)
        report_others(folder, [row.key for row in folder.rows.values() if row.key.split(" ")[0] in names], console)
        places = {key: place for place, key in enumerate(names)}
        order = sorted(folder.rows.values(), key=lambda r: (places.get(r.key.split(" ")[0], len(places)), r.step or 0))
        return finished(folder, [row.key for row in order], names, [], ENERGY_TOLERANCE)
    finally:
        folder.close()


def _follows(settings: Settings) -> bool:
    return isinstance(settings, MD) and settings.follow


def _key(name: str, frames: list[Atoms]) -> str:
    """Return the identity of a path; the same geometry under two names is run twice."""
    given = [(a.numbers.tolist(), np.round(a.positions, 8).tolist(), str(sorted(a.info.items()))) for a in frames]
    return hashlib.sha256(json.dumps([name, *given]).encode()).hexdigest()[:32]


def _check_same_molecule(name: str, frames: list[Atoms]) -> None:
    """Raise DataError if the frames of --follow are not of one molecule in one state."""
    if any(atoms.numbers.tolist() != frames[0].numbers.tolist() for atoms in frames):
        raise DataError(f"{name}: --follow needs frames of the same atoms in the same order.")
    try:
        states = [charge_and_spin(atoms.info, int(atoms.numbers.sum())) for atoms in frames]
    except ValueError as error:
        raise DataError(f"{name}: {error}; --follow needs frames of one charge and multiplicity.") from error
    for place, (charge, spin) in enumerate(states):
        if (charge, spin) != states[0]:
            raise DataError(
                f"{name}: frame {place} has charge {charge} and multiplicity {spin + 1}, the first "
                f"one {states[0][0]} and {states[0][1] + 1}; --follow needs frames of one charge and multiplicity."
            )


def _run(key: str, name: str, frames: list[Atoms], settings: Settings, folder: Folder, console: Console) -> None:
    """Run one molecule; if it fails, its finished geometries are kept, and the others continue."""
    done = _done(key, settings, folder)
    total = len(frames) if _follows(settings) else settings.steps + isinstance(settings, MD)
    if len(done) >= total or (done and done[-1].at_minimum):
        return
    begin, panel, about, step = time.monotonic(), Panel(settings), _about(name, frames[0], settings), len(done)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task, lines = progress.add_task(name, total=total, completed=step), Lines(console)
        try:
            for columns in _path(frames, settings, panel, done):
                for place, ((guess, solver), costs) in enumerate(panel.costs.items()):
                    own = columns if place == 0 else {}
                    row = Row(key=f"{key} {guess} {solver} {step}", guess=guess, solver=solver, step=step, **about)
                    folder.add(replace(row, **costs, **own))
                if step == 0:
                    folder.add(_limit(key, frames[0], panel.force_seconds, settings, about))
                step += 1
                progress.update(task, completed=step)
                lines.report(f"{name}: {step} of {total} geometries")
        except (DataError, OSError):  # of the folder, not of the molecule
            raise
        except Exception as error:  # any error is reported
            guess, solver = panel.current
            reason = f"{type(error).__name__}: {error}"
            identity = f"{key} {guess} {solver} {step}"
            folder.add(Row(key=identity, guess=guess, solver=solver, step=step, error=reason, **about))
    if not console.is_terminal:  # no progress bar
        title = heading([r for r in folder.rows.values() if r.key.startswith(key) and r.guess != LIMIT.label])
        text = f"{title}: done in {time.monotonic() - begin:.0f} s"
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _done(key: str, settings: Settings, folder: Folder) -> list[Row]:
    """Return the rows of the first run at finished geometries, and drop all rows of unfinished ones.

    An unfinished optimisation starts again, as the state of its optimiser is not stored.
    """
    rows = {(r.step, r.guess, r.solver): r for r in folder.rows.values() if r.key.split(" ")[0] == key}
    count = 0
    while all((row := rows.get((count, *run))) and not row.error for run in settings.runs):
        count += 1
    done = [rows[(step, *settings.runs[0])] for step in range(count)]
    if isinstance(settings, Optimisation) and not (done and (done[-1].at_minimum or count >= settings.steps)):
        done = []
    for (step, guess, _), row in rows.items():
        if guess != LIMIT.label and (step is None or step >= len(done)):
            del folder.rows[row.key]
    return done


def _about(name: str, atoms: Atoms, settings: Settings) -> dict[str, Any]:
    """Columns that all rows of a molecule share."""
    found = {"molecule": name, "natm": len(atoms), "nao": None, "electrons": None, "xc": settings.xc}
    found |= {"basis": settings.basis, "scf": "auto", "repeat": 0, "versions": versions()}
    own = calculator(settings, settings.runs[0])
    try:
        charge, spin = own.charge_and_spin(atoms)
        found |= {"charge": charge, "mult": spin + 1}
        mf = own.mean_field(atoms, charge, spin)
    except CalculatorError:  # its run has the reason
        return found
    return found | {"nao": int(mf.mol.nao), "electrons": int(mf.mol.nelectron), "scf": type(mf).__name__}


def _limit(key: str, atoms: Atoms, forces: float, settings: Settings, about: dict[str, Any]) -> Row:
    """Time set-up and one full build of the plain object, and add the forces: the minimum of any step."""
    own = calculator(settings, ("minao", "scf"))
    mf = own.mean_field(atoms, *own.charge_and_spin(atoms))
    begin = time.process_time()
    mf.build()
    mf.get_hcore()
    mf.get_veff(mf.mol, mf.get_init_guess(mf.mol, "minao"))
    seconds = time.process_time() - begin
    found = {"full_builds": 1, "total_cpu_s": seconds + forces, "force_cpu_s": forces}
    return Row(key=f"{key} {LIMIT.label}", guess=LIMIT.label, solver="scf", **about | found)


def why_not(atoms: Atoms, settings: Settings) -> str:
    """Return why no SCF of a molecule can be started; "" if it can."""
    own = calculator(settings, settings.runs[0])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PySCF's advice on other sources of basis sets
            own.mean_field(atoms, *own.charge_and_spin(atoms))
    except CalculatorError as error:
        return str(error)
    return ""


def _path(frames: list[Atoms], settings: Settings, panel: Panel, done: list[Row]) -> Iterator[dict[str, Any]]:
    """Yield the remaining geometries, as columns of the first run's row; the costs are in the panel."""
    atoms = frames[0].copy()
    atoms.pbc = False
    atoms.calc = panel

    def geometry() -> dict[str, Any]:
        atoms.get_forces()
        return {"positions": atoms.positions.tolist(), "momenta": atoms.get_momenta().tolist()}

    for old in done[-DEPTH:]:  # histories are in memory only
        atoms.positions = old.positions
        atoms.get_forces()
    if isinstance(settings, Optimisation):
        optimiser = BFGS(atoms, logfile=None)
        for converged in optimiser.irun(fmax=settings.fmax, steps=settings.steps - 1):
            yield geometry() | {"at_minimum": bool(converged)}
    elif settings.follow:
        for frame in frames[len(done) :]:
            atoms.positions = frame.positions
            yield geometry()
    else:
        if done:
            atoms.set_momenta(done[-1].momenta)
        else:
            atoms.set_momenta(thermal_momenta(atoms, settings.temperature, settings.seed))
            yield geometry()
        dynamics = VelocityVerlet(atoms, timestep=settings.timestep * units.fs)
        for _ in range(max(1, len(done)), settings.steps + 1):
            dynamics.run(1)
            yield geometry()


def thermal_momenta(atoms: Atoms, temperature: float, seed: int) -> NDArray[np.float64]:
    """Draw momenta, with zero sum, from the Maxwell-Boltzmann distribution at a temperature in Kelvin; ASE's units."""
    masses = atoms.get_masses()[:, None]
    momenta = np.random.default_rng(seed).normal(size=(len(atoms), 3)) * np.sqrt(masses * units.kB * temperature)
    return np.asarray(momenta - masses / masses.sum() * momenta.sum(axis=0))
