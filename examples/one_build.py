"""Errors of energies after one Fock build, `accelerate(mf, builds=1)`, and the estimates of these errors.

    python examples/one_build.py molecules.xyz --xc b3lyp --grid 1 --out one.jsonl

Density-fitted, closed shells (comment lines may have charge=), def2-SVP. Results are appended to the file, and the same
command continues.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pyscf_mlham import accelerate
from pyscf_mlham.bench.molecules import read_molecules
from pyscf_mlham.data.geometries import Molecule, mol_from_geometry


def errors(molecule: Molecule, guesses: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Return the true and the estimated error from each guess, Hartree."""
    mol = mol_from_geometry(molecule, "def2-svp")

    def run(guess: str, **settings: Any) -> Any:
        mf = mol.RKS(xc=options.xc).density_fit().set(init_guess=guess)
        mf.grids.level = options.grid
        return accelerate(mf, **settings)

    exact = run("minao").set(conv_tol=1e-11).run().e_tot
    row: dict[str, Any] = {"molecule": molecule.name}
    for guess in guesses:
        once = run(guess, builds=1).run()
        row[guess] = (float(once.e_tot - exact), float(once.energy_error))
    return row


def main() -> None:
    """Measure the molecules that are missing in the file of results, and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("molecules", type=Path)
    parser.add_argument("--xc", default="b3lyp")
    parser.add_argument("--grid", type=int, default=3)
    parser.add_argument("--guess", default="minao,ml")
    parser.add_argument("--number", type=int, help="the smallest ones; default: all")
    parser.add_argument("--out", type=Path, default=Path("one.jsonl"))
    options = parser.parse_args()
    guesses = options.guess.split(",")
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    molecules = sorted(read_molecules([str(options.molecules)]).molecules, key=lambda molecule: len(molecule.numbers))
    for molecule in molecules[len(rows) : options.number]:
        rows.append(errors(molecule, guesses, options))
        print(rows[-1], file=sys.stderr, flush=True)
        with options.out.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    print(
        "| guess | number | median error / Ha | 95th percentile | largest | median estimate | least estimate / error |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|")
    for guess in guesses:
        error, estimate = np.abs([row[guess] for row in rows]).T
        cells = [*np.percentile(error, (50, 95, 100)), np.median(estimate)]
        ratio = np.min(estimate / error)
        print(f"| {guess} | {len(rows)} | {' | '.join(f'{cell:.1e}' for cell in cells)} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
