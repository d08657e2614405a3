"""Learned Fock matrices for PySCF.

Importing this package makes ``mf.init_guess = 'ml'`` work for every PySCF mean-field object. It loads neither
torch nor e3nn; they come with the first prediction.
"""

from pyscf_mlham.errors import MLHamError, ModelError, OutOfDomainError, PredictionError
from pyscf_mlham.scf.guess import fock, guess, register, unregister
from pyscf_mlham.scf.oneshot import OneShot
from pyscf_mlham.scf.oracle import OracleModel
from pyscf_mlham.scf.twolevel import accelerate

__version__ = "0.1.0"

__all__ = [
    "MLHamError",
    "ModelError",
    "OneShot",
    "OracleModel",
    "OutOfDomainError",
    "PredictionError",
    "accelerate",
    "fock",
    "guess",
    "register",
    "unregister",
]

register()
