"""What defines a benchmark: level of theory, machine settings, model, and the guesses and solvers to compare."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import pyscf

import pyscf_mlham
from pyscf_mlham import checkpoint
from pyscf_mlham.data.journal import differences
from pyscf_mlham.data.label import GRID_LEVELS, KINDS
from pyscf_mlham.data.schema import Level
from pyscf_mlham.errors import DataError, ModelError
from pyscf_mlham.scf.models import shipped
from pyscf_mlham.scf.problem import check_functional

CLASSICAL = ("minao", "atom", "huckel", "vsap", "sap", "scc")  # words for mf.init_guess; the last one is this package's
GUESSES = (*CLASSICAL, "coarse", "ml", "oracle")
DEFAULT_GUESSES = tuple(name for name in GUESSES if name != "scc")
SOLVERS = ("scf", "twolevel")
REFERENCE = ("minao", "scf")
COARSE_GRID = 1
COARSE_TOL = 1e-8  # Hartree
DIGITS = 8  # of a hash, enough to tell two files apart


@dataclass(frozen=True)
class Protocol:
    """Everything that two runs must share to stand in one table.

    Attributes:
        xc: functional, or hf.
        basis: PySCF's name of the basis set.
        scf: kind of mean field, see `KINDS`.
        density_fit: whether the full level itself is density-fitted.
        grid_level: PySCF's grid level.
        conv_tol: energy criterion, Hartree; that of the gradient is PySCF's, its root.
        max_cycle: cycles at which a run is given up.
        threads: of each run.
        device: cpu or cuda, where the model's network works; the SCF is on the CPU.
        memory: PySCF's max_memory, MB.
        model: what plain `ml` stands for; "" chooses among the shipped ones.
        model_sha256: of the weights of that model, or of all shipped ones.
        pyscf: version.
        pyscf_mlham: version.
    """

    xc: str = "b3lyp"
    basis: str = "def2-svp"
    scf: str = "auto"
    density_fit: bool = False
    grid_level: int = 3
    conv_tol: float = 1e-9
    max_cycle: int = 50
    threads: int = 1
    device: str = "cpu"
    memory: int = 4000
    model: str = ""
    model_sha256: str = ""
    pyscf: str = pyscf.__version__
    pyscf_mlham: str = pyscf_mlham.__version__

    def __post_init__(self) -> None:
        """Refuse what makes no sense, before anything is computed."""
        if self.scf not in KINDS:
            raise DataError(f"--scf {self.scf}: expected one of {', '.join(KINDS)}.")
        if self.scf.endswith("hf") and self.xc.lower() != "hf":
            raise DataError(f"--scf {self.scf} has no functional, and --xc is {self.xc}; give --xc hf, or the ks kind.")
        check_functional(self.xc)
        smallest = {"threads": 1, "max_cycle": 1, "memory": 1, "grid_level": 0}
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise DataError(f"{name} is {getattr(self, name)}; expected {least} or more.")
        if self.grid_level > (most := max(GRID_LEVELS)):
            raise DataError(f"grid_level is {self.grid_level}; expected {most} or less, which is PySCF's finest.")
        if not self.conv_tol > 0:
            raise DataError(f"conv_tol is {self.conv_tol}; expected more than zero.")

    @property
    def level(self) -> Level:
        """Level of theory."""
        return Level(self.xc, self.basis, self.grid_level, self.density_fit, self.conv_tol)

    @property
    def coarse_grid(self) -> int | None:
        """Grid level of the SCF that `coarse` is: a cheaper one than the full level's, and None where there is none."""
        if not self.density_fit:
            return min(COARSE_GRID, self.grid_level)
        gridless = self.xc.lower() == "hf" or self.grid_level == 0
        return None if gridless else min(COARSE_GRID, self.grid_level - 1)

    @property
    def coarse_tol(self) -> float:
        """Energy criterion of that SCF, Hartree: never a tighter one than the full level's."""
        return max(COARSE_TOL, self.conv_tol)

    @property
    def fingerprint(self) -> str:
        """Hash of all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: Protocol) -> str:
        """Say in words how another protocol differs.

        Args:
            other: protocol.
        """
        return differences(asdict(other), asdict(self))


class Guess(NamedTuple):
    """Where an SCF starts.

    Attributes:
        label: what tables call it; for files and named models with a hash of their content.
        kind: one of `GUESSES`, or chk.
        path: of the file of chk, or the model of ml:NAME.
    """

    label: str
    kind: str
    path: str = ""


LIMIT = Guess("limit", "limit")  # no guess: the time of what no SCF of the object does without


def guess_from_text(text: str) -> Guess:
    """Read one entry of `--guess`.

    Args:
        text: one of `GUESSES`, ml:NAME, ml:FOLDER or chk:FILE.
    """
    kind, _, path = text.strip().partition(":")
    if not path and kind in GUESSES:
        return Guess(kind, kind)
    if path and kind == "chk":
        file = Path(path).expanduser()
        if not file.is_file():
            raise DataError(f"guess {text}: there is no such file.")
        return Guess(f"chk:{file.name}#{_hash_of_file(file)}", kind, str(file.resolve()))
    if path and kind == "ml":
        return Guess(f"ml:{Path(path).name}#{model_hash(path)[:DIGITS]}", kind, absolute(path))
    raise DataError(f"unknown guess {text!r}; expected {', '.join(GUESSES)}, ml:<name or folder> or chk:<file>.")


def absolute(model: str) -> str:
    """Return the name of a shipped model as it is, and the path of a folder for workers that are in another one.

    Args:
        model: name or folder; "" stays so.
    """
    return model if not model or model in shipped() else str(Path(model).expanduser().resolve())


def model_hash(name: str) -> str:
    """Return the hash of a model's weights, or of those of all shipped models.

    Args:
        name: of a shipped model or a folder; "" for all shipped ones.
    """
    folders = shipped()
    if not name:
        hashes = [checkpoint.read_config(folder).weights_sha256 for folder in folders.values()]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()
    folder = folders.get(name, Path(name).expanduser())
    if not folder.is_dir():
        raise ModelError(f"{name!r}: neither a shipped model ({', '.join(folders) or 'none'}) nor a folder.")
    return checkpoint.read_config(folder).weights_sha256


def _hash_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:DIGITS]
