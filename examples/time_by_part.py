"""Where the time of plain SCF and of accelerate() goes, by size of the molecule.

    python examples/time_by_part.py molecules.xyz --xc b3lyp --grid 1 --out parts.jsonl

Density-fitted, closed shells (comment lines may have charge=), def2-SVP, processor seconds of one thread. Each
calculation is a process of its own, whose peak memory is measured; results are appended to the file, and the same
command continues. The limit is the object's own set-up and two Fock builds; `--ways limit minao` measures only these of
plain SCF. With `--threads 2` seconds are wall time. `--plot large.png b3lyp.jsonl pbe.jsonl` draws the ratios to the
limit in these files.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from pyscf import df

from pyscf_mlham import accelerate
from pyscf_mlham.bench.figures import STYLE, saved
from pyscf_mlham.bench.molecules import read_molecules
from pyscf_mlham.data.geometries import Molecule, mol_from_geometry
from pyscf_mlham.field import CoarseField, ResponseField, SingleField
from pyscf_mlham.field.fitting import FittedIntegrals
from pyscf_mlham.scf.counting import counting_fock_builds
from pyscf_mlham.scf.multilevel import ladder

REFERENCES = ("plain", "limit")
PARTS = ("set-up", "full", "single", "coarse", "fitted integrals", "response", "kernel", "rest")
TIMED = (
    (df.DF, "build", "set-up"),
    (ladder, "fit_overlapping", "set-up"),
    (FittedIntegrals, "__init__", "fitted integrals"),
    (SingleField, "potential", "single"),
    (CoarseField, "potential", "coarse"),
    (ResponseField, "potential", "response"),
    (ResponseField, "__init__", "kernel"),  # its grid
    (ResponseField, "with_kernel", "kernel"),
)


Results = dict[tuple[int, str], dict[str, Any]]  # by the number of the molecule, and plain, limit or initial guess


class Clock:
    """Time of functions, without that of timed functions called by them."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []

    def time(self, owner: Any, name: str, part: str) -> None:
        """Replace a function by a timed one."""
        setattr(owner, name, self._timed(getattr(owner, name), part))

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self.now()
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                spent = self.now() - start
                self.seconds[part] += spent - self._inner.pop()
                if self._inner:
                    self._inner[-1] += spent

        return timed


def measured(molecule: Molecule, way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run an SCF and return its times by part, counts, energy and peak memory."""
    mol = mol_from_geometry(molecule, "def2-svp")
    mol.max_memory = options.max_memory
    mf = mol.RKS(xc=options.xc).density_fit()
    mf.grids.level = options.grid
    clock = Clock(time.perf_counter if options.threads > 1 else time.process_time)
    for owner, name, part in TIMED:
        clock.time(owner, name, part)
    if way == "limit":
        mf.max_cycle = 1
    elif way != "plain":
        mf = accelerate(mf).set(init_guess=way)
    clock.time(mf, "get_veff", "full")
    start = clock.now()
    with counting_fock_builds(mf) as counter:
        mf.kernel()
    total = clock.now() - start
    parts = {part: clock.seconds[part] for part in PARTS[:-1]}
    cheaper = {"single": "single_builds", "coarse": "coarse_builds", "response": "response_builds"}
    counts = {name: getattr(mf, key) for name, key in cheaper.items()} if way not in REFERENCES else {}
    return {
        "atoms": mol.natm, "orbitals": mol.nao, "converged": bool(mf.converged), "energy": float(mf.e_tot),
        "seconds": total, "parts": parts | {"rest": total - sum(parts.values())},
        "builds": {"full": counter.builds} | counts,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }  # fmt: skip


def limit_of(results: Results, number: int) -> tuple[dict[str, Any], float] | None:
    """Return the result of plain SCF of a molecule, and the seconds of its set-up and two full builds."""
    for way in REFERENCES:
        if row := results.get((number, way)):
            return row, row["parts"]["set-up"] + 2 * row["parts"]["full"] / row["builds"]["full"]
    return None


def table(results: Results) -> str:
    """Return a Markdown table of the molecules that are complete, without columns that need a whole plain SCF."""
    heads = ["atoms", "AOs", "builds", "time / plain's", "time / limit", "plain / limit", "memory / plain's", *PARTS]
    rows = []
    for (number, way), row in sorted(results.items(), key=lambda item: item[1]["atoms"]):
        if way in REFERENCES or not (found := limit_of(results, number)):
            continue
        plain, limit = found
        builds = " + ".join(f"{count} {name}" for name, count in row["builds"].items())
        full = plain["seconds"] if (number, "plain") in results else float("nan")
        ratios = [row["seconds"] / full, row["seconds"] / limit, full / limit, row["peak_mb"] / plain["peak_mb"]]
        shares = [f"{row['parts'][part] / row['seconds']:.0%}" for part in PARTS]
        cells = ["" if np.isnan(ratio) else f"{ratio:.2f}" for ratio in ratios]
        rows.append([str(row["atoms"]), str(row["orbitals"]), builds, *cells, *shares])
    shown = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    rule = ["---" if head == "builds" else "--:" for head in heads]
    return "\n".join(f"| {' | '.join(row[i] for i in shown)} |" for row in (heads, rule, *rows))


def plot(files: list[Path]) -> bytes:
    """Draw the time over the limit against the number of atoms, one line for each file; return a PNG."""
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.0), layout="constrained")
        axes = figure.add_subplot(xlabel="atoms", ylabel="time / (set-up + two full builds)")
        for file in files:
            results = stored(file)
            limits = {number: found[1] for number, _ in results if (found := limit_of(results, number))}
            rows = [(row["atoms"], row["seconds"] / limits[n]) for (n, way), row in results.items() if way == "minao"]
            axes.plot(*zip(*rows, strict=True), "o", label=file.stem.replace("_", " "))
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set(xlim=(0, 200), ylim=(0, 2))
        axes.legend()
    return saved(figure, "png")


def main() -> None:
    """Measure what is missing in the file of results, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("molecules", type=Path, nargs="?")
    parser.add_argument("--xc", default="b3lyp")
    parser.add_argument("--grid", type=int, default=3)
    parser.add_argument("--ways", nargs="*", default=["plain", "minao"], help="plain, limit, initial guesses")
    parser.add_argument("--frames", type=int, nargs="*", help="numbers of frames, by size; default: all")
    parser.add_argument("--max-memory", type=int, default=8000, help="MB")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("parts.jsonl"))
    parser.add_argument("--plot", type=Path, nargs="+", metavar="FILE", help="picture, and files of results")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plot:
        options.plot[0].write_bytes(plot(options.plot[1:]))
        return
    frames = sorted(read_molecules([str(options.molecules)]).molecules, key=lambda molecule: len(molecule.numbers))
    if options.one:
        warnings.simplefilter("ignore")
        number, way = int(options.one[0]), options.one[1]
        with options.out.open("a") as file:
            file.write(json.dumps({"number": number, "way": way} | measured(frames[number], way, options)) + "\n")
        return
    for number in range(len(frames)) if options.frames is None else options.frames:
        for way in options.ways:
            if (number, way) not in stored(options.out):
                print(f"{frames[number].name}, {way}", file=sys.stderr, flush=True)
                threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(options.threads))
                command = [sys.executable, *sys.argv, "--one", str(number), way]
                subprocess.run(command, check=True, env=os.environ | threads)
    print(table(stored(options.out)))


def stored(file: Path) -> Results:
    """Return the results in a file, by number of the frame and way."""
    lines = file.read_text().splitlines() if file.exists() else []
    return {(row["number"], row["way"]): row for row in map(json.loads, lines)}


if __name__ == "__main__":
    main()
