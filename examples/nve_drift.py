"""Energy drift of NVE runs: tight SCF from the last density against guesses from the history at PySCF's own criterion.

python examples/nve_drift.py --steps 1000 --out out/drift
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from rich.console import Console
from rich.progress import track

from pyscf_mlham.ase import MLHam
from pyscf_mlham.bench.trajectory import thermal_momenta

RUNS = {
    "scanner, tight": {"history": "last", "conv_tol": 1e-12},
    "scanner": {"history": "last", "conv_tol": 1e-9},
    "aspc": {"history": "aspc", "conv_tol": 1e-9},
    "history": {"history": "fit", "conv_tol": 1e-9},
    "reversible": {"history": "reversible", "conv_tol": 1e-9},
}


def total_energies(steps: int, console: Console, name: str) -> tuple[list[float], float]:
    """Run water, HF/STO-3G, 0.5 fs; return the total energy of each step in eV, and the mean of the cycles.

    Args:
        steps: how many.
        console: to draw on.
        name: one of RUNS.
    """
    atoms = Atoms("OH2", [(0, 0, 0.117), (0, 0.757, -0.469), (0, -0.757, -0.469)])
    atoms.set_momenta(thermal_momenta(atoms, 300, seed=0))
    atoms.calc = MLHam(xc="hf", basis="sto-3g", guess="minao", **RUNS[name])  # type: ignore[arg-type]
    dynamics = VelocityVerlet(atoms, timestep=0.5 * units.fs)
    energies = [atoms.get_total_energy()]
    for _ in track(range(steps), description=name, console=console, transient=True):
        dynamics.run(1)
        energies.append(atoms.get_total_energy())
    return energies, atoms.calc.report().mean_cycles


def main() -> None:
    """Run and print the drift, a straight line through the total energies, and their scatter about it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("out/drift"))
    args = parser.parse_args()
    console = Console()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in RUNS:
        path = args.out / f"{name.replace(', ', '-')}-{args.steps}.json"
        if not path.exists():
            energies, cycles = total_energies(args.steps, console, name)
            path.with_suffix(".tmp").write_text(json.dumps({"cycles": cycles, "energies": energies}))
            path.with_suffix(".tmp").replace(path)
        done = json.loads(path.read_text())
        time = np.arange(len(done["energies"])) * 0.5e-3  # ps
        slope, start = np.polyfit(time, done["energies"], 1)
        scatter = np.std(done["energies"] - (start + slope * time))
        console.print(
            f"{name:15s} {done['cycles']:5.2f} cycles/step, drift {slope * 1e6:+9.3f} ueV/ps, "
            f"scatter {scatter * 1e6:8.3f} ueV",
            highlight=False,
        )


if __name__ == "__main__":
    main()
