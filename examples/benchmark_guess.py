"""SCF cycles from several guesses, and what the learned one costs, molecule by molecule on one thread.

python examples/benchmark_guess.py molecules.xyz --frames 0:6 --guess minao,sap,ml [--df] [--model organic-b3lyp-svp]
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import pyscf
from ase.io import read
from pyscf import lib

from pyscf_mlham.density import density_from_orbitals
from pyscf_mlham.errors import MLHamError
from pyscf_mlham.scf.models import load
from pyscf_mlham.scf.predictor import Predictor, predict


def run(atoms: Any, args: argparse.Namespace, model: Predictor) -> dict[str, Any]:
    """Converge one molecule from every guess.

    Args:
        atoms: from ASE.
        args: of the command line.
        model: stands for ml.
    """
    geometry = list(zip(atoms.get_chemical_symbols(), atoms.positions.tolist(), strict=True))
    charge, spin = int(atoms.info.get("charge", 0)), int(atoms.info.get("mult", 1)) - 1
    mol = pyscf.M(atom=geometry, basis=args.basis, charge=charge, spin=spin, verbose=0)
    row: dict[str, Any] = {"atoms": mol.natm, "note": ""}
    for guess in args.guess.split(","):
        mf = (mol.UKS if spin else mol.RKS)(xc=args.xc)
        mf.grids.level = args.grid
        mf = mf.density_fit() if args.df else mf
        density = None
        if guess == "ml":
            start = time.process_time()
            try:
                prediction = predict(mf, model)
                density = density_from_orbitals(mf, prediction.orbitals)
                row["note"] = f"filter {prediction.damping:g}" if prediction.damping else ""
            except MLHamError as error:
                row["note"] = f"not used: {error}"
            row["cost"] = time.process_time() - start
        else:
            mf.init_guess = guess
        start = time.process_time()
        mf.kernel(dm0=density)
        row["build"] = (time.process_time() - start) / (mf.cycles + 2)
        row[guess] = mf.cycles if mf.converged else mf.max_cycle
        row.setdefault("energy", mf.e_tot)
        row["error"] = max(row.get("error", 0.0), abs(mf.e_tot - row["energy"]))
    return row


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="geometries, anything that ASE reads")
    parser.add_argument("--frames", default=":", help="as a Python slice, default all")
    parser.add_argument("--guess", default="minao,ml", help="the first is the reference; default %(default)s")
    parser.add_argument("--xc", default="b3lyp", help="default %(default)s")
    parser.add_argument("--basis", default="def2-svp", help="default %(default)s")
    parser.add_argument("--grid", type=int, default=3, help="PySCF's grid level; default %(default)s")
    parser.add_argument("--df", action="store_true", help="density-fitted SCF: the same cycles, sooner")
    parser.add_argument("--model", default="organic-b3lyp-svp", help="default %(default)s")
    args = parser.parse_args()
    lib.num_threads(1)
    guesses = args.guess.split(",")
    model = load(args.model)
    print("| atoms | " + " | ".join(guesses) + " | guess / Fock build | largest energy difference / Ha | |")
    print("|--:|" + "--:|" * len(guesses) + "--:|--:|---|")
    rows = []
    for atoms in read(args.file, index=args.frames):
        row = run(atoms, args, model)
        rows.append(row)
        share = f"{row['cost'] / row['build']:.2f}" if "cost" in row else "-"
        cells = [str(row["atoms"]), *(str(row[g]) for g in guesses), share, f"{row['error']:.0e}", row["note"]]
        print("| " + " | ".join(cells) + " |", flush=True)
    for guess in guesses[1:]:
        ratios = [row[guess] / row[guesses[0]] for row in rows]
        more = sum(ratio > 1 for ratio in ratios)
        print(
            f"\n{guess}: cycles {statistics.mean(ratios):.3f} of {guesses[0]}'s, worst {max(ratios):.2f}, more {more}"
        )


if __name__ == "__main__":
    main()
