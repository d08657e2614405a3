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
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, CalculatorError, all_changes
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from numpy.typing import NDArray
from rich.console import Console

from pyscf_mlham.ase import HARTREE, MLHam
from pyscf_mlham.bench.comparison import COMPARED, ComparedHistory
from pyscf_mlham.bench.measure import Row, levels, versions
from pyscf_mlham.bench.protocol import LIMIT, MD, STRATEGIES, Optimisation
from pyscf_mlham.bench.results import Folder, Results, molecule_of
from pyscf_mlham.bench.starts import NO_MODEL, Work
from pyscf_mlham.bench.summary import heading
from pyscf_mlham.data.record import Calculation
from pyscf_mlham.errors import DataError
from pyscf_mlham.model.guess import settings as registered
from pyscf_mlham.progress import print_line, tracked
from pyscf_mlham.track.history import DEPTH

Run = tuple[str, str]
Settings = MD | Optimisation
ENERGY_TOLERANCE = 1e-7  # Hartree; the error of an energy due to conv_tol is far smaller


def calculator(settings: Settings, run: Run) -> MLHam:
    """Return the calculator of one pair of strategy and solver."""
    strategy = STRATEGIES[run[0]]
    made = MLHam(
        **{each.name: getattr(settings, each.name) for each in fields(Calculation)},
        model=settings.model or None,
        solver=run[1],
        guess=strategy.guess,
        history="loewdin" if strategy.history in COMPARED else strategy.history,
    )
    if strategy.history in COMPARED:
        made.use_history(ComparedHistory(run[0]))
    return made


class Panel(Calculator):
    """All runs as one calculator, with energy and forces of the first one."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012  (ASE's idiom)

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.calculators = {run: calculator(settings, run) for run in settings.runs}
        self.costs: dict[Run, dict[str, Any]] = {}  # of the present geometry, columns of a row for each run
        self.current = settings.runs[0]  # the active run
        self.force_seconds = 0.0  # processor seconds of the forces at the present geometry

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
            cost = own.report().steps[-1]
            if forces is not None:
                self.results, self.force_seconds = {"energy": energy, "forces": forces}, cost.force_seconds
            found: dict[str, Any] = {"converged": True, "cycles": cost.cycles, "full_builds": cost.builds}
            found |= {"guess_builds": 0, "force_cpu_s": self.force_seconds, "total_cpu_s": cost.scf_seconds}
            found |= {"e_tot": energy / HARTREE, "s2": float(own.mf.spin_square()[0])}
            instead = "" if STRATEGIES[run[0]].history else f", {registered.fallback} instead"
            note = f"{NO_MODEL}{instead}: {cost.fallback}" * bool(cost.fallback)
            self.costs[run] = found | {"note": note} | Work.of(own.mf)._asdict() | levels(own.mf)


def run_paths(
    paths: dict[str, list[Atoms]], settings: Settings, out: Path, console: Console, bad: Sequence[str] = ()
) -> Results:
    """Run all unfinished geometries, and write results.json; MD and optimisations start from the first of each path."""
    names = {}  # by key; the same geometry under two names is run twice
    for name, frames in paths.items():
        given = [(a.numbers.tolist(), np.round(a.positions, 8).tolist(), str(sorted(a.info.items()))) for a in frames]
        names[hashlib.sha256(json.dumps([name, *given]).encode()).hexdigest()[:32]] = name
    with closing(Folder(out, settings)) as folder:
        for (key, name), frames in zip(names.items(), paths.values(), strict=True):
            _run(key, name, frames, settings, folder, console)
        folder.report_others([row.key for row in folder.rows.values() if molecule_of(row) in names], console)
        places = {key: place for place, key in enumerate(names)}
        order = sorted(folder.rows.values(), key=lambda r: (places.get(molecule_of(r), len(places)), r.step or 0))
        return folder.finish([row.key for row in order], names, bad, ENERGY_TOLERANCE)


def _run(key: str, name: str, frames: list[Atoms], settings: Settings, folder: Folder, console: Console) -> None:
    """Run one molecule; if it fails, its finished geometries are kept, and the others continue."""
    done = _done(key, settings, folder)
    follows = isinstance(settings, MD) and settings.follow
    total = len(frames) if follows else settings.steps + isinstance(settings, MD)
    if len(done) >= total or (done and done[-1].at_minimum):
        return
    begin, panel, about, step = time.monotonic(), Panel(settings), _about(name, frames[0], settings), len(done)

    def row(run: Run, **columns: Any) -> Row:
        own = Row(f"{key} {' '.join(run)} {step}", guess=run[0], solver=run[1], step=step, **about)
        return replace(own, **columns)

    path = _path(frames, settings, panel, done)
    try:
        for columns in tracked(path, console, name, total, "geometries", done=step):
            for place, (run, costs) in enumerate(panel.costs.items()):
                folder.add(row(run, **costs, **({} if place else columns)))
            if step == 0:
                folder.add(_limit(key, frames[0], panel.force_seconds, settings, about))
            step += 1
    except (DataError, OSError):  # of the folder, not of the molecule
        raise
    except Exception as error:  # any error is reported
        folder.add(row(panel.current, error=f"{type(error).__name__}: {error}"))
    if not console.is_terminal:  # no progress bar
        title = heading([r for r in folder.rows.values() if molecule_of(r) == key and r.guess != LIMIT.label])
        print_line(console, f"{title}: done in {time.monotonic() - begin:.0f} s")


def _done(key: str, settings: Settings, folder: Folder) -> list[Row]:
    """Return the rows of the first run at finished geometries, and drop all rows of unfinished ones.

    An unfinished optimisation starts again, as the state of its optimiser is not stored.
    """
    rows = {(r.step, r.guess, r.solver): r for r in folder.rows.values() if molecule_of(r) == key}
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
    found |= {"basis": settings.basis, "scf": "auto", "versions": versions()}
    try:
        mf = _plain(atoms, settings)
    except CalculatorError:  # its run has the reason
        return found
    mol = mf.mol
    found |= {"nao": int(mol.nao), "electrons": int(mol.nelectron), "charge": int(mol.charge), "mult": mol.spin + 1}
    return found | {"scf": type(mf).__name__}


def _plain(atoms: Atoms, settings: Settings) -> Any:
    """Return PySCF's object of a geometry."""
    own = calculator(settings, ("minao", "scf"))
    return own.mean_field(atoms, *own.charge_and_spin(atoms))


def _limit(key: str, atoms: Atoms, forces: float, settings: Settings, about: dict[str, Any]) -> Row:
    """Time set-up and one full build of the plain object, and add the forces: the minimum of any step."""
    mf = _plain(atoms, settings)
    begin = time.process_time()
    mf.build()
    mf.get_hcore()
    mf.get_veff(mf.mol, mf.get_init_guess(mf.mol, "minao"))
    seconds = time.process_time() - begin
    found = {"full_builds": 1, "total_cpu_s": seconds + forces, "force_cpu_s": forces}
    return Row(key=f"{key} {LIMIT.label}", guess=LIMIT.label, solver="scf", **about | found)


def why_not(atoms: Atoms, settings: Settings) -> str:
    """Return why no SCF of a molecule can be started; "" if it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PySCF's advice on other sources of basis sets
            _plain(atoms, settings)
    except CalculatorError as error:
        return str(error)
    return ""


def _path(frames: list[Atoms], settings: Settings, panel: Panel, done: list[Row]) -> Iterator[dict[str, Any]]:
    """Yield the remaining geometries, as columns of the first run's row; the costs are in the panel."""
    atoms = frames[0].copy()
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
