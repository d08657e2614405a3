"""Definition of a benchmark: level of theory, machine settings, model, and the guesses and solvers to compare."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pyscf

import pyscf_mlham
from pyscf_mlham import checkpoint
from pyscf_mlham.bench.comparison import COMPARED
from pyscf_mlham.data.label import KINDS, check_kind
from pyscf_mlham.data.record import Calculation
from pyscf_mlham.errors import DataError
from pyscf_mlham.model.store import find, shipped
from pyscf_mlham.options import check, chosen, names, option
from pyscf_mlham.scf.problem import check_functional
from pyscf_mlham.store import differences

CLASSICAL = ("minao", "atom", "huckel", "vsap", "sap", "scc")  # names for mf.init_guess; scc is this package's
GUESSES = (*CLASSICAL, "coarse", "ml", "oracle")
DEFAULT_GUESSES = tuple(name for name in GUESSES if name != "scc")
SOLVERS = ("scf", "twolevel")
REFERENCE = ("minao", "scf")
COARSE_GRID = 1
COARSE_TOL = 1e-8  # Hartree
DIGITS = 8  # digits of a hash in labels


class Strategy(NamedTuple):
    """Initial guesses of the SCFs along a path."""

    guess: str  # guess of the first geometry, "minao" or "ml"
    history: str | None  # a strategy of `History` or of `COMPARED` for the later ones; None: the first guess always


STRATEGIES = {
    "scanner": Strategy("minao", "last"),
    "loewdin": Strategy("minao", "loewdin"),
    "aspc": Strategy("minao", "aspc"),
    "minao": Strategy("minao", None),
    "ml": Strategy("ml", None),
    "history": Strategy("minao", "fit"),
    "ml+history": Strategy("ml", "fit"),
    "reversible": Strategy("minao", "reversible"),
    "ml+reversible": Strategy("ml", "reversible"),
} | {name: Strategy("minao", name) for name in COMPARED}


@dataclass(frozen=True)
class Theory(Calculation):
    """Settings of every benchmark: level of theory, model and versions."""

    kind: ClassVar[str]

    model: str = option("", "name or folder of a model; by default the best of the shipped ones")
    model_sha256: str = ""  # checksum of the weights of that model, or of all shipped ones
    pyscf: str = pyscf.__version__
    pyscf_mlham: str = pyscf_mlham.__version__

    def __post_init__(self) -> None:
        check(self)
        check_functional(self.xc)

    @property
    def grid(self) -> str:
        """Grid level as text, "" without a grid."""
        return f"grid level {self.grid_level}" * (self.xc.lower() != "hf")

    @property
    def identity(self) -> dict[str, Any]:
        """Settings that all runs of a folder share."""
        return asdict(self)

    @property
    def fingerprint(self) -> str:
        """Hash of these settings."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: Theory) -> str:
        """Return how another protocol differs, as text."""
        return differences({"kind": other.kind} | other.identity, {"kind": self.kind} | self.identity)


@dataclass(frozen=True)
class Protocol(Theory):
    """Settings that all runs of a table of `mlham bench` must share."""

    kind: ClassVar[str] = "bench"
    reference: ClassVar[tuple[str, str]] = REFERENCE

    scf: str = option("auto", "kind of mean field; auto: restricted, open shells unrestricted", choices=KINDS)
    nlc: bool = option(True, "omit the non-local correlation of the functional", "--no-nlc")
    solvent: str = option("", "PySCF's continuum model of water", choices=("C-PCM", "IEF-PCM", "SS(V)PE", "COSMO"))
    max_cycle: int = option(50, "largest number of SCF cycles", least=1)
    threads: int = option(1, "threads of each run", least=1)
    device: str = option("cpu", "device of the model's network; the SCF is on the CPU", choices=("cpu", "cuda"))
    memory: int = option(4000, "max_memory of PySCF", metavar="MB", least=1)

    def __post_init__(self) -> None:
        check_kind(self.scf, self.xc)
        super().__post_init__()

    @property
    def details(self) -> str:
        """Further settings of the SCF, as text."""
        return ", ".join(filter(None, (self.grid, "without non-local correlation" * (not self.nlc), self.solvent)))

    @property
    def coarse_grid(self) -> int | None:
        """Grid level of the guess `coarse`, smaller than the full one; None if no SCF is cheaper."""
        if not self.density_fit:
            return min(COARSE_GRID, self.grid_level)
        gridless = self.xc.lower() == "hf" or self.grid_level == 0
        return None if gridless else min(COARSE_GRID, self.grid_level - 1)

    @property
    def coarse_tol(self) -> float:
        """Energy criterion of that SCF, Hartree: never tighter than the full level's."""
        return max(COARSE_TOL, self.conv_tol)


@dataclass(frozen=True)
class Trajectory(Theory):
    """Settings of benchmarks along a path, which is made by the forces of the first run and followed by the others."""

    strategy: str = option(
        "ml+history,scanner,loewdin,aspc,ml,history",
        "separated by commas, also minao; reversible and ml+reversible are the time-reversible variants; overlap, "
        "hcore, gext, gext-hcore, gext-diis and gext-diis-hcore only extrapolate, by these descriptors, gext on the "
        "Grassmann manifold; the forces of the first one make the path; NAME/twolevel selects the solver of a single "
        "one",
        type=names,
    )
    solver: str = option("scf", "scf, twolevel, or scf,twolevel for both", type=names)
    steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, solver in self.runs:
            chosen(name, STRATEGIES, "strategy")
            chosen(solver, SOLVERS, "solver")

    @property
    def runs(self) -> list[tuple[str, str]]:
        """Pairs of strategy and solver."""
        parts = [
            (solver, *name.split("/", 1)) for solver in self.solver.split(",") for name in self.strategy.split(",")
        ]
        return list(dict.fromkeys((name, own[0] if own else solver) for solver, name, *own in parts))

    @property
    def reference(self) -> tuple[str, str]:
        """Reference of comparison: PySCF's own scanner if it is among the runs, otherwise the first one."""
        scanners = (("scanner", "scf"), ("scanner", "twolevel"))
        return next((run for run in scanners if run in self.runs), self.runs[0])


@dataclass(frozen=True)
class MD(Trajectory):
    """An NVE run, or given frames of a trajectory."""

    kind: ClassVar[str] = "md"

    steps: int = option(40, "number of steps; a longer run continues a shorter one", least=0)
    timestep: float = option(0.5, "time step, fs", above=0)
    temperature: float = option(300.0, "temperature of the initial velocities, Kelvin", least=0)
    seed: int = option(0, "seed of the initial velocities", least=0)
    follow: bool = option(False, "use --frames as the trajectory instead of running one")

    @property
    def identity(self) -> dict[str, Any]:
        """Settings that all runs of a folder share; the length of a run may change."""
        return asdict(self) | {"steps": None}

    @property
    def details(self) -> str:
        """Grid and kind of path."""
        return ", ".join(filter(None, (self.grid, "frames as given" if self.follow else f"NVE, {self.timestep} fs")))


@dataclass(frozen=True)
class Optimisation(Trajectory):
    """A BFGS optimisation."""

    kind: ClassVar[str] = "opt"

    steps: int = option(100, "largest number of geometries, the first included", least=1)
    fmax: float = option(0.05, "largest force at the end, eV/Angstrom", above=0)

    @property
    def details(self) -> str:
        """Grid and kind of path."""
        return ", ".join(filter(None, (self.grid, f"BFGS to {self.fmax} eV/Angstrom")))


AnyProtocol = Protocol | MD | Optimisation
PROTOCOLS: dict[str, type[AnyProtocol]] = {kind.kind: kind for kind in (Protocol, MD, Optimisation)}


class Guess(NamedTuple):
    """Initial guess of an SCF."""

    label: str  # name in tables; for files and named models with a hash of their content
    kind: str  # one of `GUESSES`, or chk
    path: str = ""  # path of the file of chk, or the model of ml:NAME


LIMIT = Guess("limit", "limit")  # not a guess: the time of set-up and two full builds
TRACK = Guess("track", "track")  # a tracked object's own, from two earlier geometries


def guess_from_text(text: str) -> Guess:
    """Read one entry of `--guess`."""
    kind, _, path = text.strip().partition(":")
    if not path and kind in GUESSES:
        return Guess(kind, kind)
    if path and kind == "chk":
        file = Path(path).expanduser()
        if not file.is_file():
            raise DataError(f"guess {text}: no such file; check the path.")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:DIGITS]
        return Guess(f"chk:{file.name}#{digest}", kind, str(file.resolve()))
    if path and kind == "ml":
        return Guess(f"ml:{Path(path).name}#{model_hash(path)[:DIGITS]}", kind, absolute(path))
    raise DataError(f"unknown guess {text!r}; expected {', '.join(GUESSES)}, ml:<name or folder> or chk:<file>.")


def absolute(model: str) -> str:
    """Return the name of a shipped model or "" unchanged, and that of a folder as an absolute path."""
    return model if not model or model in shipped() else str(Path(model).expanduser().resolve())


def model_hash(name: str) -> str:
    """Return the hash of the weights of a shipped model or a folder; of all shipped models of molecules for ""."""
    if not name:
        configs = map(checkpoint.read_config, shipped().values())
        hashes = [config.weights_sha256 for config in configs if not config.pseudo]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()
    return checkpoint.read_config(find(name)).weights_sha256
