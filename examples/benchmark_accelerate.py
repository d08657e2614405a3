"""Time accelerate() against plain PySCF and against the classical rival, each run in a process of its own.

Methods: plain (minao, mf.kernel()), rival (converge a density-fitted SCF on a small grid, then plain SCF from it, with
the settings of `coarse` in `mlham bench`, which are its best) and twolevel (pyscf_mlham.accelerate(mf)). They take
turns, on one thread. Every finished run is a line of OUT/runs.jsonl; what is there already is not run again, so a
killed benchmark goes on where it was.

python examples/benchmark_accelerate.py --g2 CH3CONH2,C5H5N --xc b3lyp,pbe --basis def2-svp --out out/accelerate
python examples/benchmark_accelerate.py molecules.xyz --frames 0:4 --repeat 3 --out out/accelerate
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyscf
from rich.console import Console
from rich.progress import Progress

import pyscf_mlham
from pyscf_mlham.bench.molecules import free_name
from pyscf_mlham.bench.protocol import COARSE_GRID, COARSE_TOL
from pyscf_mlham.data.frames import why_unreadable
from pyscf_mlham.scf.counting import counting_fock_builds

METHODS = ("plain", "rival", "twolevel")
Record = dict[str, Any]


def molecules(args: argparse.Namespace) -> dict[str, list[tuple[str, list[float]]]]:
    """Read the geometries, Angstrom, by name.

    Args:
        args: files, frames and names from ASE's g2 collection.
    """
    from ase.collections import g2
    from ase.io import read

    names = [name for name in args.g2.split(",") if name]
    if unknown := [name for name in names if name not in g2.names]:
        raise SystemExit(f"error: ASE's collection g2 has no {', '.join(unknown)}.")
    found = {name: g2[name] for name in names}
    for file in args.files:
        try:
            frames = list(read(file, index=args.frames))
        except Exception as error:  # ASE's readers raise whatever they meet
            raise SystemExit(f"error: {file}: cannot be read ({why_unreadable(error)}).") from error
        for atoms in frames:
            found[free_name(atoms.info.get("name", f"{file}:{len(found)}"), found)] = atoms
    return {
        name: [(s, list(map(float, r))) for s, r in zip(a.get_chemical_symbols(), a.positions, strict=True)]
        for name, a in found.items()
    }


def fingerprint(atoms: list[tuple[str, list[float]]]) -> str:
    """Return a short hash of a geometry.

    Args:
        atoms: symbols and positions, Angstrom.
    """
    return hashlib.sha256(json.dumps(atoms).encode()).hexdigest()[:12]


def run_one(task: Record) -> Record:
    """Run one method on one molecule; what the child processes do.

    Args:
        task: molecule, xc, basis and method.
    """

    def mean_field() -> Any:
        mol = pyscf.M(atom=task["atoms"], basis=task["basis"], charge=task["charge"], spin=task["spin"], verbose=0)
        mol.max_memory = task["memory"]
        restricted, unrestricted = (mol.RHF, mol.UHF) if task["xc"] == "hf" else (mol.RKS, mol.UKS)
        mf = (unrestricted if task["spin"] else restricted)()
        if task["xc"] != "hf":
            mf.xc = task["xc"]
            mf.nlc = mf.nlc if task["nlc"] else 0
        if task.get("solvent"):
            mf = mf.PCM()
            mf.with_solvent.method = task["solvent"]
        return mf

    mf = mean_field()
    if task["method"] == "twolevel":
        mf = pyscf_mlham.accelerate(mf)
    start, cpu = time.perf_counter(), time.process_time()
    with counting_fock_builds(mf) as counter:
        if task["method"] == "rival":
            rough = mean_field().density_fit()
            if task["xc"] != "hf":
                rough.grids.level = COARSE_GRID
            rough.conv_tol = COARSE_TOL
            rough.kernel()
            mf.kernel(dm0=rough.make_rdm1())
        else:
            mf.kernel()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {
        "natm": mf.mol.natm,
        "nao": int(mf.mol.nao),
        "converged": bool(mf.converged),
        "energy": float(mf.e_tot),
        "s2": float(mf.spin_square()[0]),
        "builds": counter.builds,
        "coarse": getattr(mf, "coarse_cycles", 0),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def key(record: Record) -> tuple[Any, ...]:
    """Identify a run.

    Args:
        record: task or result.
    """
    names = ("molecule", "geometry", "charge", "spin", "memory", "xc", "nlc", "basis", "method", "repeat")
    return (*(record[k] for k in names), record.get("solvent"))


def run_all(tasks: list[Record], out: Path, console: Console) -> tuple[list[Record], int]:
    """Run what is not done yet; return every record, and how many runs failed.

    Args:
        tasks: in the order in which to run them.
        out: folder of runs.jsonl.
        console: to draw on.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "runs.jsonl"
    failed = 0
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {key(record) for record in records}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with Progress(console=console, transient=True) as progress:
        for task in progress.track([t for t in tasks if key(t) not in done], description="SCF"):
            child = [sys.executable, __file__, "--child"]
            finished = subprocess.run(
                child, input=json.dumps(task), capture_output=True, text=True, env=environment, check=False
            )
            if finished.returncode:
                why = finished.stderr.strip().splitlines() or [f"exit status {finished.returncode}"]
                failed += 1
                console.print(f"[red]{key(task)} failed:[/red] {why[-1]}")
                continue
            record = {k: v for k, v in task.items() if k != "atoms"} | json.loads(finished.stdout.splitlines()[-1])
            records.append(record)
            with path.open("a") as file:
                file.write(json.dumps(record) + "\n")
    return records, failed


def table(records: list[Record]) -> str:
    """Compare the methods, molecule by molecule, as a Markdown table: medians over the repeats.

    Args:
        records: of finished runs.
    """

    def group(r: Record) -> tuple[Any, ...]:
        state = "".join(f" {what} {r[what]}" for what in ("charge", "spin") if r[what])
        field = r["xc"] + ("" if r["nlc"] else " no nlc") + (f", {r['solvent']}" if r.get("solvent") else "")
        shown = (r["basis"], field, r["molecule"] + state)
        return (*shown, r["geometry"], r["memory"])

    lines = [
        "| basis | xc | molecule | atoms | AOs | builds plain/rival/two | coarse | dE / Ha | plain/two | rival/two |",
        "|---|---|---|--:|--:|:-:|--:|--:|--:|--:|",
    ]
    for names, runs in itertools.groupby(sorted(records, key=group), key=group):
        by_method: dict[str, list[Record]] = {}
        for record in runs:
            by_method.setdefault(record["method"], []).append(record)
        if "twolevel" not in by_method:
            continue
        first = {method: found[0] for method, found in by_method.items()}
        seconds = {m: statistics.median(r["cpu_seconds"] for r in found) for m, found in by_method.items()}
        two = first["twolevel"]
        error = f"{two['energy'] - first['plain']['energy']:.0e}" if "plain" in first else "-"
        ratios = [f"{seconds[m] / seconds['twolevel']:.2f}" if m in seconds else "-" for m in ("plain", "rival")]
        builds = "/".join(
            (str(first[m]["builds"]) + ("" if first[m]["converged"] else "!")) if m in first else "-" for m in METHODS
        )
        cells = [*names[:3], str(two["natm"]), str(two["nao"]), builds, str(two["coarse"]), error, *ratios]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="geometries, anything that ASE reads")
    parser.add_argument("--frames", default=":", help="which frames of each file, as Python slices, default all")
    parser.add_argument("--g2", default="", help="names from ase.collections.g2, separated by commas")
    parser.add_argument("--xc", default="b3lyp", help="functionals or hf, separated by commas; default %(default)s")
    parser.add_argument("--no-nlc", action="store_true", help="leave non-local correlation out")
    parser.add_argument("--solvent", help="water as C-PCM, IEF-PCM, SS(V)PE or COSMO; default none")
    parser.add_argument("--basis", default="def2-svp", help="basis sets, separated by commas; default %(default)s")
    parser.add_argument("--methods", default=",".join(METHODS), help="default %(default)s")
    parser.add_argument("--charge", type=int, default=0)
    parser.add_argument("--spin", type=int, default=0, help="alpha minus beta electrons; not zero means unrestricted")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each, medians are shown; default %(default)s")
    parser.add_argument("--memory", type=int, default=4000, help="PySCF's max_memory, MB; default %(default)s")
    parser.add_argument("--out", type=Path, default=Path("out/accelerate"), help="default %(default)s")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Run and print; 1 where a run failed."""
    args = parse()
    if args.child:
        sys.stdout.write("\n" + json.dumps(run_one(json.load(sys.stdin))) + "\n")
        return 0
    console = Console()
    grid = itertools.product(
        range(args.repeat), molecules(args).items(), args.basis.split(","), args.xc.split(","), args.methods.split(",")
    )
    common = {"charge": args.charge, "spin": args.spin, "nlc": not args.no_nlc, "memory": args.memory}
    if args.solvent:
        common["solvent"] = args.solvent
    tasks = [
        {"molecule": name, "atoms": atoms, "geometry": fingerprint(atoms), "basis": basis, "xc": xc}
        | {"method": method, "repeat": repeat, **common}
        for repeat, (name, atoms), basis, xc, method in grid
    ]
    records, failed = run_all(tasks, args.out, console)
    text = table(records)
    (args.out / "table.md").write_text(text + "\n")
    console.print(text, soft_wrap=True, markup=False, highlight=False)
    console.print(
        "Times are ratios of processor seconds on one thread; builds with ! did not converge.", soft_wrap=True
    )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
