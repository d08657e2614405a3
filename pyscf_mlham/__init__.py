"""Learned Fock matrices and multilevel SCF for PySCF.

The import adds the initial guesses ``'ml'`` and ``'scc'`` and the methods ``accelerate()`` and ``track()`` to PySCF's
mean-field objects. It does not load torch, which the first prediction does. ``pyscf_mlham.ase`` is loaded on first use.
"""

import importlib
from typing import Any

from pyscf_mlham import configuration
from pyscf_mlham.errors import ExtraError, MLHamError, ModelError, OutOfDomainError, PredictionError
from pyscf_mlham.hooks import register, unregister
from pyscf_mlham.model.guess import applicable, fock, guess
from pyscf_mlham.model.oneshot import OneShot
from pyscf_mlham.model.oracle import OracleModel
from pyscf_mlham.scf.guess_info import GuessInfo
from pyscf_mlham.scf.multilevel import accelerate
from pyscf_mlham.track import track
from pyscf_mlham.track.history import History

__version__ = "0.3.0.dev0"

__all__ = [
    "ExtraError",
    "GuessInfo",
    "History",
    "MLHamError",
    "ModelError",
    "OneShot",
    "OracleModel",
    "OutOfDomainError",
    "PredictionError",
    "accelerate",
    "applicable",
    "fock",
    "guess",
    "register",
    "track",
    "unregister",
]


def __getattr__(name: str) -> Any:
    if name == "ase":
        return importlib.import_module("pyscf_mlham.ase")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register(accelerate=configuration.ACCELERATE)
