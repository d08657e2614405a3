"""Full Fock builds of optimisations that run on their own: PySCF's scanner against track() and track(accelerate()).

python examples/optimise.py molecules.xyz --basis 6-31g --df --grid 1 --out out/optimise
python examples/optimise.py molecules.xyz --optimisers geometric --ways scanner track loose

Every way follows its own forces, by ASE's BFGS (MLHam) or geomeTRIC (PySCF), and ends at its own minimum.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.io import read
from ase.optimize import BFGS
from ase.units import Bohr, Hartree
from pyscf import gto
from rich.console import Console

from pyscf_mlham import accelerate, track
from pyscf_mlham.ase import MLHam
from pyscf_mlham.scf.counting import counting_fock_builds
from pyscf_mlham.track.extrapolation import aligned

FMAX = 4.5e-4 * Hartree / Bohr  # eV/Angstrom; geomeTRIC's criterion of the largest force
LOOSE = 1e-3  # Hartree/Bohr
STEPS = 100


class Way(NamedTuple):
    """How the SCFs of an optimisation start and converge."""

    history: str
    solver: str = "scf"
    loose_above: float | None = None  # Hartree/Bohr


WAYS = {
    "scanner": Way("last"),
    "track": Way("fit"),
    "accelerate": Way("fit", "twolevel"),
    "track, loose": Way("fit", "scf", LOOSE),
    "accelerate, loose": Way("fit", "twolevel", LOOSE),
    "scanner, loose": Way("last", "scf", LOOSE),
}


def by_bfgs(atoms: Atoms, way: Way, args: argparse.Namespace) -> dict[str, Any]:
    """Optimise with ASE."""
    atoms = atoms.copy()
    loose = None if way.loose_above is None else way.loose_above * Hartree / Bohr
    atoms.calc = MLHam(
        xc=args.xc, basis=args.basis, density_fit=args.df, grid_level=args.grid, guess="minao",
        history=way.history, solver=way.solver, loose_above=loose,
    )  # fmt: skip
    done = BFGS(atoms, logfile=None).run(fmax=FMAX, steps=STEPS)
    builds = [step.builds for step in atoms.calc.report().steps]
    energy = atoms.get_potential_energy() / Hartree
    return {"done": bool(done), "builds": builds, "energy": energy, "positions": (atoms.positions / Bohr).tolist()}


def by_geometric(atoms: Atoms, way: Way, args: argparse.Namespace) -> dict[str, Any]:
    """Optimise with PySCF's interface to geomeTRIC."""
    from pyscf.geomopt import geometric_solver

    logging.disable(logging.CRITICAL)  # geomeTRIC prints without being asked
    places = list(zip(atoms.symbols, (atoms.positions / Bohr).tolist(), strict=True))
    mol = gto.M(atom=places, unit="Bohr", basis=args.basis, verbose=0)
    mf = mol.RHF() if args.xc == "hf" else mol.RKS(xc=args.xc)
    if args.xc != "hf":
        mf.grids.level = args.grid
    mf = mf.density_fit() if args.df else mf
    mf = accelerate(mf) if way.solver == "twolevel" else mf
    scanner = track(mf, way.history, way.loose_above).nuc_grad_method().as_scanner()
    with counting_fock_builds(scanner.base) as counter:
        sums = [0]
        done, found = geometric_solver.kernel(scanner, callback=lambda _: sums.append(counter.builds), maxsteps=STEPS)
    builds = np.diff(sums).tolist()
    places = found.atom_coords().tolist()
    return {"done": bool(done), "builds": builds, "energy": float(scanner.e_tot), "positions": places}


OPTIMISERS: dict[str, Callable[[Atoms, Way, argparse.Namespace], dict[str, Any]]] = {
    "bfgs": by_bfgs, "geometric": by_geometric,
}  # fmt: skip


def distance(here: list[list[float]], there: list[list[float]]) -> float:
    """Return the root mean square of the distances of atoms after alignment, Bohr."""
    moved = aligned(np.array(here), np.array(there))[1]
    return float(np.sqrt(np.mean(np.sum((moved - there) ** 2, axis=-1))))


def show(console: Console, optimiser: str, runs: dict[str, list[dict[str, Any]]], names: list[str]) -> None:
    """Print each molecule's builds, and ratios and differences to the first way."""
    first, *_ = runs
    for place, name in enumerate(names):
        text = "  ".join(f"{way} {sum(own[place]['builds'])}/{len(own[place]['builds'])}" for way, own in runs.items())
        console.print(f"{optimiser} {name:12s} full builds/geometries  {text}", highlight=False, soft_wrap=True)
    for way, own in runs.items():
        pairs = list(zip(own, runs[first], strict=True))
        total, other = (sum(sum(run["builds"]) for run in column) for column in zip(*pairs, strict=True))
        ratios = [sum(a["builds"]) / sum(b["builds"]) for a, b in pairs]
        apart = max(abs(a["energy"] - b["energy"]) for a, b in pairs)
        console.print(
            f"{optimiser} {way:18s} {total / other:.3f} of the builds of {first} in all, {np.mean(ratios):.3f} +- "
            f"{np.std(ratios):.3f} in a molecule; {sum(len(run['builds']) for run in own)} geometries, "
            f"{sum(not run['done'] for run in own)} not at a minimum; energies within {apart:.0e} Hartree, "
            f"minima within {max(distance(a['positions'], b['positions']) for a, b in pairs):.0e} Bohr",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


def rows(optimiser: str, runs: dict[str, list[dict[str, Any]]], names: list[str]) -> list[dict[str, Any]]:
    """Return what `docs/make_benchmarks.py` tabulates: a row for each molecule and way, compared with the first way."""
    first, *_ = runs.values()
    return [
        {
            "optimiser": optimiser, "molecule": name, "way": way, "done": run["done"], "geometries": len(run["builds"]),
            "builds": sum(run["builds"]), "energy": run["energy"], "from_first": run["energy"] - start["energy"],
            "distance": distance(run["positions"], start["positions"]),
        }
        for way, own in runs.items()
        for name, run, start in zip(names, own, first, strict=True)
    ]  # fmt: skip


def main() -> None:
    """Optimise and print; finished runs are not repeated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("molecules", type=Path)
    parser.add_argument("--optimisers", nargs="+", choices=OPTIMISERS, default=list(OPTIMISERS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS)[:3])
    parser.add_argument("--xc", default="b3lyp")
    parser.add_argument("--basis", default="def2-svp")
    parser.add_argument("--df", action="store_true")
    parser.add_argument("--grid", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/optimise"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    found: Any = read(args.molecules, ":")
    molecules: list[Atoms] = found
    table: list[dict[str, Any]] = []
    names = [f"{place}-{atoms.get_chemical_formula()}" for place, atoms in enumerate(molecules)]
    for optimiser in args.optimisers:
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in args.ways}
        for name, atoms in zip(names, molecules, strict=True):
            for way in args.ways:
                path = args.out / f"{optimiser} {name} {way}.json"
                if not path.exists():
                    path.write_text(json.dumps(OPTIMISERS[optimiser](atoms, WAYS[way], args)))
                runs[way].append(json.loads(path.read_text()))
        show(Console(), optimiser, runs, names)
        table += rows(optimiser, runs, names)
        (args.out / "results.json").write_text("[\n" + ",\n".join(map(json.dumps, table)) + "\n]\n")


if __name__ == "__main__":
    main()
