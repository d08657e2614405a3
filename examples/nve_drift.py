"""Energy drift of NVE runs: tight SCF from the last density, guesses from the history, and shadow dynamics.

python examples/nve_drift.py --steps 1000 --out out/drift
python examples/nve_drift.py --molecule ethanol --basis 3-21g --runs tight shadow --steps 2000 --out out/ethanol

A run that was killed goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from ase import units
from ase.build import molecule
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from numpy.typing import NDArray
from rich.console import Console
from water_cluster import cluster

from pyscf_mlham.ase import MLHam
from pyscf_mlham.bench.trajectory import thermal_momenta

RUNS: dict[str, dict[str, Any]] = {
    "tight": {"history": "last", "conv_tol": 1e-12},
    "scanner": {"history": "last", "conv_tol": 1e-9},
    "aspc": {"history": "aspc", "conv_tol": 1e-9},
    "history": {"history": "fit", "conv_tol": 1e-9},
    "reversible": {"history": "reversible", "conv_tol": 1e-9},
    "shadow": {"history": "shadow", "conv_tol": 1e-9},
}
RELAXED = 0.3  # eV/Angstrom; clusters begin as randomly oriented molecules
TIMESTEP = 0.5  # fs
SAVED = 25  # steps
BLOCK = 100  # steps; longer than the total energy remembers
Array = NDArray[np.float64]


def start(args: argparse.Namespace) -> Any:
    """Return water, ethanol, or for waterN a relaxed cluster of N molecules, with momenta of 300 K."""
    path, number = args.out / "start.xyz", args.molecule.removeprefix("water")
    if number.isdigit() and not path.exists():
        atoms: Any = read(io.StringIO(cluster(int(number))), format="xyz")
        atoms.calc = calculator(args, "history")
        BFGS(atoms, logfile=None).run(fmax=RELAXED, steps=100)
        write(path, atoms, format="xyz")
    atoms = read(path) if number.isdigit() else molecule("CH3CH2OH" if number else "H2O")
    atoms.set_momenta(thermal_momenta(atoms, 300, seed=0))
    return atoms


def calculator(args: argparse.Namespace, run: str) -> MLHam:
    """Return the calculator of a run."""
    hook = (lambda mf: setattr(mf.with_df, "auxbasis", args.auxbasis)) if args.auxbasis else None
    theory = {"xc": args.xc, "basis": args.basis, "density_fit": args.density_fit, "grid_level": args.grid}
    return MLHam(guess="minao", mf_hook=hook, **theory, **RUNS[run])


def go_on(args: argparse.Namespace, run: str, steps: int) -> dict[str, Any]:
    """Continue a run to a number of steps; return energies in eV and full builds of all steps so far."""
    path, history = args.out / f"{run}.json", args.out / f"{run}.npz"
    atoms, done = start(args), json.loads(path.read_text()) if path.exists() else {"energies": [], "builds": []}
    if len(done["energies"]) > steps:
        return done
    atoms.calc = calculator(args, run)
    if done["energies"]:
        atoms.set_positions(done["positions"])
        atoms.set_momenta(done["momenta"])
        atoms.calc.load_history(history)
    else:
        done["energies"].append(atoms.get_total_energy())
    dynamics = VelocityVerlet(atoms, timestep=TIMESTEP * units.fs)
    while len(done["energies"]) <= steps:
        dynamics.run(1)
        done["energies"].append(atoms.get_total_energy())
    done["builds"] += [
        step.builds for step in atoms.calc.report().steps[-len(done["energies"]) + len(done["builds"]) :]
    ]
    done |= {"positions": atoms.positions.tolist(), "momenta": atoms.get_momenta().tolist()}
    atoms.calc.save_history(history)  # first: a history that is newer than the geometry does no harm
    path.with_suffix(".tmp").write_text(json.dumps(done))
    path.with_suffix(".tmp").replace(path)
    return done


def drift(time: Array, energies: Array) -> tuple[float, float, float]:
    """Return slope of a straight line, its standard error from the means of blocks, and the scatter about the line."""
    slope, first = np.polyfit(time, energies, 1)
    rest = energies - (first + slope * time)
    count = max(3, len(rest) // BLOCK)
    means = np.array([block.mean() for block in np.array_split(rest, count)])
    places = np.array([block.mean() for block in np.array_split(time, count)])
    error = np.sqrt(np.sum(means**2) / (count - 2) / np.sum((places - places.mean()) ** 2))
    return float(slope), float(error), float(np.std(rest))


def main() -> None:
    """Run and print drift and scatter of the total energies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecule", default="water", help="water, ethanol, or waterN for a cluster of N")
    parser.add_argument("--xc", default="hf")
    parser.add_argument("--basis", default="sto-3g")
    parser.add_argument("--grid", type=int)
    parser.add_argument("--density-fit", action="store_true")
    parser.add_argument("--auxbasis")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("out/drift"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    console, done = Console(), {}
    for steps in [*range(SAVED, args.steps, SAVED), args.steps]:
        for run in args.runs:
            done[run] = go_on(args, run, steps)
    for run, found in done.items():
        energies = np.array(found["energies"][: args.steps + 1]) / len(start(args))
        time = np.arange(len(energies)) * TIMESTEP * 1e-3  # ps
        slope, error, scatter = drift(np.asarray(time, float), np.asarray(energies * 1e6, float))
        first = np.array(done[args.runs[0]]["energies"][: args.steps + 1])
        apart = np.abs(energies * len(start(args)) - first).max() * 1e6
        console.print(
            f"{run:10s} {np.mean(found['builds'][1:]):5.2f} full builds/step, drift {slope:+9.3f} +- {error:.3f} "
            f"ueV/atom/ps, scatter {scatter:8.3f} ueV/atom, at most {apart:.0f} ueV from {args.runs[0]}",
            highlight=False,
            soft_wrap=True,
        )


if __name__ == "__main__":
    main()
