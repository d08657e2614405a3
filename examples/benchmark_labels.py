"""Labels per hour: the generator's solver against a plain PySCF loop, molecule by molecule in turns, on one thread.

python examples/benchmark_labels.py molecules.xyz --frames 12
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from pyscf import lib

from pyscf_mlham.data.geometries import Molecule, read_geometries
from pyscf_mlham.data.label import Task, label
from pyscf_mlham.data.schema import Level


def main() -> None:
    """Label, time and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="geometries, anything that ASE reads")
    parser.add_argument("--frames", type=int, default=12, help="how many to label; default %(default)s")
    parser.add_argument("--guess", default="minao", help="initial guess of the two-level solver; default %(default)s")
    args = parser.parse_args()
    lib.num_threads(1)
    found = [m for m in read_geometries(args.file) if isinstance(m, Molecule)]
    seconds: dict[str, list[float]] = {"scf": [], "twolevel": []}
    for molecule in found[: args.frames]:
        focks = {}
        for solver, times in seconds.items():
            start = time.process_time()
            guess = args.guess if solver == "twolevel" else "minao"
            entry = label(Task(molecule, Level("b3lyp", "def2-svp"), "train", solver, guess))
            times.append(time.process_time() - start)
            if entry.record is None:
                raise SystemExit(f"{molecule.name}: {entry.reason}")
            focks[solver] = entry.record.fock
        difference = np.abs(focks["scf"] - focks["twolevel"]).max()
        plain, quick = (times[-1] for times in seconds.values())
        print(f"{molecule.name:12s} {len(molecule.numbers):3d} atoms  plain / two-level {plain / quick:.2f}  "
              f"largest |dF| {difference:.1e} Ha", flush=True)  # fmt: skip
    plain, quick = (sum(times) for times in seconds.values())
    print(f"labels per hour, two-level / plain: {plain / quick:.2f}")


if __name__ == "__main__":
    main()
