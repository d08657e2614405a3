"""Random inputs, each in a process of its own: `python tests/support/fuzz.py --count 1000 --report fuzz.jsonl`.

An input is drawn by its seed and number: a molecule, a method with decorations and settings, and a use of the package;
or a command with files, some of them broken. The energy must be plain PySCF's to 1e-8 Hartree, or an error must name
its cause; nothing may hang, leave files, threads, processes or open files behind, or change an object after an error.
Finished inputs are in the report; the same command continues.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from multiprocessing import resource_tracker
from operator import methodcaller
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculatorError
from fuzz_commands import command, judged_command
from pyscf import dft, gto, lib, qmmm, scf

import pyscf_mlham
from pyscf_mlham import History, MLHamError, OneShot, accelerate, guess, track
from pyscf_mlham.ase import MLHam

NAMED = (MLHamError, CalculatorError)
SAME = 1e-8  # Hartree
STATE, LOOSE = 1e-7, 1e-4  # Hartree: of the same state again, and for a criterion of the user
COMMAND_SHARE = 0.15  # of the inputs
LIMIT = 120.0  # seconds of one input
GOOD = ("same", "refused", "both fail", "another state", "better", "done", "error named")  # verdicts without a defect
LIGHT, METALS = ("H", "C", "N", "O", "F"), ("Li", "Na", "Mg", "Al", "Si", "S", "Cl", "Ti", "Fe", "Zn", "Br", "I")
BASES = ("sto-3g", "3-21g", "6-31g", "6-31g*", "def2-svp", "minao", "6-31++g", "lanl2dz", "ano@2s1p")
ODD_BASES = ("nothing", {"default": "sto-3g", "H": "6-31g"}, {"H": [[0, [1.0, 1.0]]]}, "")
FUNCTIONALS = ("hf", "lda,vwn", "pbe", "b3lyp", "pbe0", "tpss", "m062x", "camb3lyp", "hse06", "r2scan", "wb97x-v", "")
GUESSES = ("minao", "atom", "hcore", "huckel", "sap", "vsap", "ml", "scc", "mod_huckel")
ODD_GUESSES = ("ml:nothing", "ML", "mlx", "chkfile", "chk", "1e", 3, None)


class Input(NamedTuple):
    """How the package is used, arguments of gto.M, and kind, functional, decorations and attributes of the object."""

    use: str
    mol: dict[str, Any]
    mf: dict[str, Any]


class Outcome(NamedTuple):
    """What a calculation returned: an energy, or an error, one of this package or not, and what it changed."""

    energy: float | None
    converged: bool = False
    density: Any = None
    error: str = ""
    named: bool = False
    changed: str = ""


def draw(rng: np.random.Generator, light: bool = False) -> Input:
    """Draw a molecule, a method and a use; light: two atoms at most, in small basis sets."""

    def one(values: Any, odd: Any = (), share: float = 0.05) -> Any:
        chosen = odd if odd and rng.random() < share else values
        return chosen[int(rng.integers(len(chosen)))]

    heavy = rng.random() < 0.2 and not light
    small = heavy or light
    atoms = [(one(METALS if heavy and not i else LIGHT), place) for i, place in enumerate(_positions(rng, small))]
    if rng.random() < 0.05:
        atoms[-1] = (f"ghost-{atoms[-1][0]}", atoms[-1][1])
    mol: dict[str, Any] = {"atom": atoms, "basis": one(BASES[:3] if small else BASES, ODD_BASES)}
    mol["charge"] = int(rng.choice([0, 0, 0, 1, -1, 2]))
    protons = sum(0 if name.startswith("ghost") else gto.charge(name) for name, _ in atoms)
    lowest = (protons - mol["charge"]) % 2
    mol["spin"] = lowest + 2 * int(rng.choice([0, 0, 0, 0, 1, 2])) + (rng.random() < 0.03)
    mol |= {"cart": bool(rng.random() < 0.1), "symmetry": bool(rng.random() < 0.1)}
    if rng.random() < 0.2:
        mol["ecp"] = one(("lanl2dz", {"I": "def2-svp", "Br": "lanl2dz"}), ("nothing",))
    kind = one(("R", "R", "U", "RO", "G")) if mol["spin"] == 0 else one(("U", "U", "RO", "G", "R"))
    decorations = [name for name in DECORATIONS if rng.random() < 0.07]
    if rng.random() < 0.4:
        decorations.append("density_fit")
    rng.shuffle(decorations)
    attributes = {name: one(values) for name, values in ATTRIBUTES.items() if rng.random() < 0.08}
    functionals = FUNCTIONALS[:4] if light else FUNCTIONALS
    mf = {"kind": kind, "xc": one(functionals, ("nothing", "b3lyp,,", "0.5*HF+")), "decorations": decorations}
    return Input(one(tuple(OURS)), mol, mf | {"init_guess": one(GUESSES, ODD_GUESSES), "attributes": attributes})


def _positions(rng: np.random.Generator, small: bool) -> list[list[float]]:
    """Return a chain of one to four atoms, of two at most if it is small; some stretched, one in fifty collapsed."""
    places = [np.zeros(3)]
    for _ in range(int(rng.choice([0, 1, 1] if small else [0, 1, 1, 1, 2, 2, 3]))):
        step = rng.normal(size=3)
        length = 0.0 if rng.random() < 0.02 else rng.uniform(0.6, 1.8) if rng.random() < 0.9 else rng.uniform(2, 9)
        places.append(places[int(rng.integers(len(places)))] + length * step / np.linalg.norm(step))
    return [place.round(3).tolist() for place in places]


METHODS: dict[str, Callable[[Any], Any]] = {n: methodcaller(n) for n in ("newton", "sfx2c1e", "PCM", "ddCOSMO")}
DECORATIONS = METHODS | {
    "qmmm": lambda mf: qmmm.mm_charge(mf, np.array([[3.0, 1.0, 2.0], [0.5, 0.5, 1.9]]), np.array([0.4, -0.3])),
    "smearing": lambda mf: scf.addons.smearing(mf, sigma=0.005),
    "frac_occ": scf.addons.frac_occ,
    "linear": scf.addons.remove_linear_dep,
    "density_fit": methodcaller("density_fit"),
    "rijcosx": methodcaller("density_fit", only_dfj=True),
}
CRITERIA = {"max_cycle": (0, 1, 3, 100), "conv_tol": (1e-6, 1e-12), "conv_tol_grad": (1e-3, 1e-6)}
MIXING = {"level_shift": (0.1, 0.5), "damp": (0.3,), "diis": (False,), "diis_space": (2, 12), "diis_start_cycle": (4,)}
WAYS = {"max_memory": (1, 50, 200), "direct_scf": (False,), "conv_check": (False,), "init_guess_breaksym": (0, 1, 2)}
OWN = {"check_convergence": (lambda envs: envs["norm_gorb"] < 1e-4,), "callback": (lambda envs: None,)}
ATTRIBUTES: dict[str, tuple[Any, ...]] = CRITERIA | MIXING | WAYS | {"chkfile": (None,)} | OWN | {"verbose": (4,)}


def make(task: Input) -> Any:
    """Build the mean-field object of an input."""
    mol = gto.M(**{"verbose": 0, "output": os.devnull} | task.mol)
    kind, xc = task.mf["kind"], task.mf["xc"]
    if xc == "hf":
        mf = getattr(scf, f"{kind}HF")(mol)
    else:
        mf = getattr(dft, f"{kind}KS")(mol, xc=xc)
        mf.grids.atom_grid = mf.nlcgrids.atom_grid = (20, 50)
    for name in task.mf["decorations"]:
        mf = DECORATIONS[name](mf)
    tolerances = {"conv_tol": 1e-10, "conv_tol_grad": 1e-6, "max_cycle": 50}
    return mf.set(init_guess=task.mf["init_guess"], **tolerances | task.mf["attributes"])


def outcome_of(task: Input, run: Callable[[Any], Any]) -> Outcome:
    """Make the object of an input and run it; return its energy or its error."""
    made: list[tuple[Any, dict[str, Any]]] = []
    try:
        mf = make(task)
        made.append((mf, _state(mf)))
        mf = run(mf)
    except Exception as error:
        changed = "".join(_changes(before, _state(object_)) for object_, before in made)
        return Outcome(None, False, None, f"{type(error).__name__}: {error}"[:300], isinstance(error, NAMED), changed)
    energy = mf.mo_energy if hasattr(type(mf), "undo_oneshot") else mf.e_tot  # OneShot has no total energy
    return Outcome(float(np.sum(energy)), bool(mf.converged), mf.make_rdm1())


def judged(task: Input) -> tuple[str, str]:
    """Return the verdict of an input, and details."""
    plain, ours = outcome_of(task, _ran), outcome_of(task, OURS[task.use])
    if ours.changed and ours.changed != plain.changed:  # otherwise PySCF itself has changed it before its error
        return "changed", f"{ours.error} | {ours.changed}"
    return _compared(plain, ours, task)


def _compared(plain: Outcome, ours: Outcome, task: Input) -> tuple[str, str]:
    """Return the verdict of two outcomes; plain SCF decides whether another energy is that of a state of its own."""
    if ours.named:
        lost = plain.converged and "SCFError" in ours.error
        return "not converged" if lost else "refused", ours.error
    if ours.energy is None:
        return "both fail" if plain.error else "raised", f"{ours.error} | plain: {plain.error}"
    if plain.energy is None:
        return "better", plain.error
    if not np.isfinite(ours.energy) and np.isfinite(plain.energy):
        return "not finite", ""
    if task.use == "oneshot":
        return "done", ""
    # plain SCF from another start; its cycle after convergence may miss a criterion of the user, which it tests again
    other = task.use == "guess" or (task.use == "track" and "check_convergence" in task.mf["attributes"])
    if plain.converged and not ours.converged and not other:
        return "not converged", f"{ours.energy:.10f} {plain.energy:.10f}"
    if not plain.converged:
        return "better" if ours.converged else "both fail", "not converged"
    return _of_energies(plain.energy, ours, task)


def _of_energies(energy: float, ours: Outcome, task: Input) -> tuple[str, str]:
    assert ours.energy is not None
    attributes, difference = task.mf["attributes"], ours.energy - energy
    tolerance = max(SAME, 10 * attributes.get("conv_tol", 0.0), 10 * attributes.get("conv_tol_grad", 0.0) ** 2)
    details = f"{difference:.1e}"
    if abs(difference) <= (LOOSE if "check_convergence" in attributes else tolerance):
        return "same", details
    if task.use == "guess":
        return "another state", details
    again = outcome_of(task, lambda mf: _ran(mf, ours.density))
    if again.converged and again.energy is not None:
        left = again.energy - ours.energy
        # in a flat valley (another orientation on the grid), plain SCF may go on to a still lower energy
        if abs(left) <= max(STATE, tolerance) or (left < 0 and difference < 0):
            return "another state", details
    return "lower" if difference < 0 else "higher", details


def _ran(mf: Any, density: Any = None) -> Any:
    mf.kernel(dm0=density)
    return mf


def _again(mf: Any) -> Any:
    """Converge twice, the second time from the first solution and in a copy."""
    mf = _ran(accelerate(mf))
    return _ran(mf.copy())


def _tracked(mf: Any, decorate: Callable[[Any], Any] = lambda mf: mf) -> Any:
    """Converge a displaced geometry, then the input's own."""
    mol, scanner = mf.mol, track(decorate(mf), History("fit")).as_scanner()
    moved = mol.set_geom_(mol.atom_coords() * 1.01, unit="Bohr", inplace=False) if mol.natm > 1 else mol
    with contextlib.suppress(MLHamError):
        scanner(moved)
    scanner(mol)
    return scanner


def _by_ase(mf: Any) -> Any:
    """Converge the object through the calculator, whose own settings a hook replaces."""
    symbols = [mf.mol.atom_pure_symbol(i).replace("GHOST-", "").title() for i in range(mf.mol.natm)]
    atoms = Atoms(symbols, mf.mol.atom_coords(unit="Angstrom"))
    calculator = MLHam(charge=mf.mol.charge, mult=mf.mol.spin + 1, basis="sto-3g", xc="hf", mf_hook=lambda _: mf)
    calculator.get_potential_energy(atoms)
    return calculator.mf


OURS: dict[str, Callable[[Any], Any]] = {
    "accelerate": lambda mf: _ran(accelerate(mf)),
    "guess": lambda mf: _ran(mf, guess(mf)),
    "track": _tracked,
    "track accelerate": lambda mf: _tracked(mf, accelerate),
    "again": _again,
    "registered": lambda mf: pyscf_mlham.register(accelerate=True) or _ran(mf),
    "oneshot": lambda mf: OneShot(mf).run(),
    "ase": _by_ase,
}


def _state(mf: Any) -> dict[str, Any]:
    """Return what an error must leave as it is: the class, and the settings that are plain values."""
    plain = {k: v for k, v in vars(mf).items() if isinstance(v, int | float | str | bool | type(None)) and k[0] != "_"}
    return {"class": type(mf).__name__, "mo_coeff": mf.mo_coeff is None, "spin": mf.mol.spin, **plain}


def _changes(before: dict[str, Any], after: dict[str, Any]) -> str:
    # results, and what plain PySCF sets
    results = {"converged", "e_tot", "cycles", "scf_summary", "mo_coeff", "init_guess_breaksym"}
    keys = sorted((before.keys() | after.keys()) - results)
    return ", ".join(f"{k}: {before.get(k)} {after.get(k)}" for k in keys if before.get(k) != after.get(k))


# Running


def open_files() -> int:
    """Count open files, except fonts, which matplotlib keeps."""
    count = 0
    for path in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the folder that was just read
            count += path.readlink().suffix != ".ttf"
    return count


def resources() -> dict[str, Any]:
    """Count open files, threads and child processes, and list the temporary files."""
    children = list(Path("/proc/self/task").glob("*/children"))
    return {
        "open files": open_files(),
        "threads": threading.active_count(),
        "processes": sum(len(name.read_text().split()) for name in children),
        "temporary files": sorted(path.name for path in Path(tempfile.gettempdir()).iterdir()),
        "PySCF's threads": lib.num_threads(),
    }


def drawn(seed: int, number: int, light: bool) -> Input | list[str]:
    """Draw one input, or a command line."""
    rng = np.random.default_rng([seed, number])
    return command(rng) if rng.random() < COMMAND_SHARE else draw(rng, light)


def examine(task: Input | list[str], folder: str) -> tuple[str, str]:
    """Run an input in an empty folder, and return its verdict and details."""
    os.chdir(folder)
    Path("temporary").mkdir()
    tempfile.tempdir = lib.param.TMPDIR = str(Path("temporary").resolve())
    warnings.simplefilter("ignore")
    before = resources()
    verdict, details = judged(task) if isinstance(task, Input) else judged_command(task)
    gc.collect()
    left = [f"{name} {before[name]} -> {value}" for name, value in resources().items() if value != before[name]]
    return ("leak", ", ".join(left)) if verdict in GOOD and left else (verdict, details)


def run_one(seed: int, number: int, light: bool, limit: float = LIMIT) -> dict[str, Any]:
    """Run one input in a process of its own, and stop it after a time limit."""
    task, start, context = drawn(seed, number, light), time.perf_counter(), multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder:
        child = context.Process(target=lambda: theirs.send(examine(task, folder)))
        child.start()
        theirs.close()
        try:
            verdict, details = ours.recv() if ours.poll(limit) else ("hangs", f"more than {limit:.0f} s")
        except EOFError:
            verdict, details = "crash", ""
        child.join(5)
        child.kill()
        child.join()
    ours.close()
    details = details or f"exit code {child.exitcode}"
    seconds = round(time.perf_counter() - start, 2)
    return {"number": number, "verdict": verdict, "details": details, "seconds": seconds, "input": repr(task)}


def main() -> int:
    """Run the inputs that the report lacks, and print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=Path("fuzz.jsonl"))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after that time")
    parser.add_argument("--light", action="store_true", help="two atoms at most, in small basis sets")
    args = parser.parse_args()
    start = time.monotonic()
    lines = args.report.read_text().splitlines() if args.report.exists() else []
    verdicts = {record["number"]: record["verdict"] for record in map(json.loads, lines)}
    guess(scf.RHF(gto.M(atom="H 0 0 0; H 0 0 1", basis="sto-3g", verbose=0)))  # loads the model once for all inputs
    resource_tracker.ensure_running()  # otherwise the first worker of an input starts Python's, which stays
    with args.report.open("a", buffering=1) as file:
        for number in range(args.count):
            if number in verdicts or time.monotonic() - start > args.seconds:
                continue
            record = run_one(args.seed, number, args.light)
            verdicts[number] = record["verdict"]
            file.write(line := json.dumps(record) + "\n")
            if record["verdict"] not in GOOD:
                sys.stderr.write(line)
    sys.stdout.write(f"{dict(Counter(verdicts.values()))}\n")
    return 0 if set(verdicts.values()) <= set(GOOD) else 1


if __name__ == "__main__":
    raise SystemExit(main())
