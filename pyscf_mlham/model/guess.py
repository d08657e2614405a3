"""'ml' as an initial guess of every PySCF mean-field class."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.lib import logger
from pyscf.scf import hf

from pyscf_mlham.density import Orbitals, density_from_orbitals, spin_breaking, with_turned_frontier
from pyscf_mlham.errors import MLHamError, ModelError, OutOfDomainError, PredictionError
from pyscf_mlham.h0 import scc
from pyscf_mlham.model import store
from pyscf_mlham.model.predictor import Prediction, Predictor, predict
from pyscf_mlham.scf.decorator import expect_mean_field

Array = NDArray[Any]
ModelLike = Predictor | str | Path | None

SCC = "scc"
FALLBACKS = ("minao", SCC, "atom", "huckel", "mod_huckel", "1e", "hcore", "sap", "raise")
GUESSES = (
    *(name for name in FALLBACKS if name not in ("raise", SCC)),
    "vsap",
)  # of PySCF
LOADING = 0.1  # seconds; what takes longer is worth a word
SPIN_BROKEN = 1e-2  # density matrices of the two spins that differ by more are not symmetric


@dataclass
class Settings:
    """What `register` sets, for every object whose init_guess is 'ml'.

    Attributes:
        model: used when 'ml' names none; None chooses among the shipped ones.
        fallback: PySCF guess used when the model cannot be, or "raise".
    """

    model: ModelLike = None
    fallback: str = "minao"


_settings = Settings()
_KEEP: Any = ...  # survives a reload of this module, which an object of its own would not


def register(model: ModelLike = _KEEP, fallback: str = _KEEP) -> None:
    """Make ``mf.init_guess = 'ml'`` known to PySCF; importing pyscf_mlham has done it once already.

    What is not given stays as it was.

    Args:
        model: what 'ml' stands for: a model, the name of a shipped one or the path of a model folder;
            None, as after the import, chooses the shipped model that suits each calculation best.
        fallback: what to do where the model cannot be used: the name of a PySCF guess ("minao" after the import),
            or "raise".
    """
    if model is not _KEEP and isinstance(model, (str, Path)):
        store.find(model)  # a misspelt name is told here, not in the first calculation
    if fallback is not _KEEP:
        _settings.fallback = _checked_fallback(fallback)
    if model is not _KEEP:
        _settings.model = model
    if _hooked() is None:
        hf.SCF.get_init_guess = _with_ml(hf.SCF.get_init_guess)


def unregister() -> None:
    """Take 'ml' out of PySCF again: its own method is back, and 'ml' is any unknown word to it."""
    original = _hooked()
    if original is not None:
        hf.SCF.get_init_guess = original


def _hooked() -> Callable[..., Any] | None:
    """PySCF's own method, where its place is taken by ours; also by that of an earlier load of this module."""
    return getattr(hf.SCF.get_init_guess, "_mlham_original", None)


def _with_ml(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def get_init_guess(self: Any, mol: gto.Mole | None = None, key: Any = "minao", **kwargs: Any) -> Any:
        if isinstance(key, str) and key.strip().lower() == SCC:
            return _scc(self, self.mol if mol is None else mol, lambda other: original(self, mol, other, **kwargs))
        if not is_ml(key):
            return original(self, mol, key, **kwargs)
        return _guess(
            self,
            self.mol if mol is None else mol,
            named_model(key),
            _settings.fallback,
            lambda fallback: get_init_guess(self, mol, fallback, **kwargs),
        )

    get_init_guess._mlham_original = original  # type: ignore[attr-defined]
    return get_init_guess


def _scc(mf: Any, mol: gto.Mole, pyscf_guess: Callable[[str], Any]) -> Array:
    """Return the density of the self-consistent baseline, or PySCF's default guess and a line in the log."""
    try:
        return scc.guess(mf, mol)
    except Exception as error:  # a guess must never crash the user's SCF
        reason = str(error) if isinstance(error, MLHamError) else f"{type(error).__name__}: {error}"
    logger.warn(mf, "scc guess not used: %s. PySCF's own minao guess is used instead.", reason.rstrip("."))
    return np.asanyarray(pyscf_guess("minao"))


def is_ml(key: Any) -> bool:
    """Whether a value of init_guess asks for a learned guess: 'ml' or 'ml:<name or path>'.

    Args:
        key: value of mf.init_guess.
    """
    return isinstance(key, str) and (key.strip().lower() == "ml" or key.strip().lower().startswith("ml:"))


def model_of(mf: Any) -> Predictor | None:
    """Return the model that an object's init_guess names; None where it is one of PySCF's own guesses.

    Args:
        mf: PySCF mean-field object.
    """
    key = mf.init_guess
    return resolve(named_model(key), mf, mf.mol) if is_ml(key) else None


def named_model(key: str) -> ModelLike:
    """Return what 'ml' or 'ml:<name or path>' stands for, registered models included; None for the shipped ones.

    Args:
        key: value of mf.init_guess.
    """
    return key.strip()[3:].strip() or _settings.model


def guess(mf: Any, model: ModelLike = None, fallback: str = "minao") -> Array:
    """Return the density matrix that 'ml' would start from; patches nothing.

    Args:
        mf: PySCF mean-field object; left as it is.
        model: a model, its name or its path; None chooses a shipped one.
        fallback: PySCF guess to use where the model cannot be, or "raise".

    Returns:
        density matrix in the object's own shape.
    """
    expect_mean_field(mf)
    return _guess(mf, mf.mol, model, _checked_fallback(fallback), lambda key: mf.get_init_guess(mf.mol, key))


def guess_or_reason(mf: Any, model: ModelLike = None, fallback: str = "minao") -> tuple[Array, str]:
    """Return what 'ml' would start from and "", or PySCF's guess and why the model was not used.

    Args:
        mf: PySCF mean-field object; left as it is.
        model: a model, its name or its path; None chooses a shipped one.
        fallback: PySCF guess to use where the model cannot be, or "raise".

    Returns:
        density matrix in the object's own shape, and the reason.
    """
    try:
        return guess(mf, model, fallback="raise"), ""
    except Exception as error:  # whatever goes wrong inside a model
        if fallback == "raise":
            raise
        return np.asanyarray(mf.get_init_guess(mf.mol, fallback)), str(error) or type(error).__name__


def fock(mf: Any, model: ModelLike = None) -> NDArray[np.float64]:
    """Return the predicted Fock matrix in PySCF's AO order; an error where the model cannot be used.

    Args:
        mf: PySCF mean-field object; left as it is.
        model: a model, its name or its path; None chooses a shipped one.

    Returns:
        (n, n), (2, n, n) for unrestricted or (2n, 2n) for generalised objects; Hartree.
    """
    expect_mean_field(mf)
    return predict(mf, resolve(model, mf, mf.mol), refine=False).fock


def resolve(model: ModelLike, mf: Any, mol: gto.Mole) -> Predictor:
    """Return the model that a name, a path, a model or None stands for.

    Args:
        model: a model, its name, its path, or None for the best shipped one.
        mf: PySCF mean-field object.
        mol: molecule.
    """
    if model is None:
        return store.best_for(mf, mol)
    if isinstance(model, str | Path):
        return store.load(model)
    if not hasattr(model, "correction"):
        raise ModelError(f"{model!r} is no model: expected an object with config, native and correction, or a name.")
    return model


def _guess(mf: Any, mol: gto.Mole, model: ModelLike, fallback: str, pyscf_guess: Callable[[str], Any]) -> Array:
    start = time.perf_counter()
    try:
        predictor = resolve(model, mf, mol)
        loading = time.perf_counter() - start
        check_spin_symmetry(mf, mol, predictor)
        prediction = predict(mf, predictor, mol)
        density = density_from_prediction(mf, mol, prediction)
    except Exception as error:
        # a guess must never crash the user's SCF, whatever goes wrong inside a model
        if fallback == "raise":
            raise
        reason = str(error) if isinstance(error, MLHamError) else f"{type(error).__name__}: {error}"
        logger.warn(mf, "ml guess not used: %s. PySCF's own %s guess is used instead.", reason.rstrip("."), fallback)
        return np.asanyarray(pyscf_guess(fallback))
    loaded = f", and {loading:.1f} s to load the model" if loading > LOADING else ""
    logger.note(mf, "ml guess: %s%s", prediction.describe(), loaded)
    return density


def density_from_prediction(mf: Any, mol: gto.Mole, prediction: Prediction) -> Array:
    """Return the density matrix of a prediction, checked, its spin symmetry broken where the object asks for that.

    Args:
        mf: PySCF mean-field object.
        mol: molecule.
        prediction: for both.
    """
    density = density_from_orbitals(mf, prediction.orbitals)
    electrons = float(np.sum(density * mf.get_ovlp(mol).T).real)
    if not abs(electrons - mol.nelectron) < 1e-6 * max(1, mol.nelectron):
        raise PredictionError(f"the predicted density holds {electrons:.6f} electrons instead of {mol.nelectron}")
    return _break_spin_symmetry(mf, mol, density, prediction.orbitals)


def check_spin_symmetry(mf: Any, mol: gto.Mole, model: Predictor) -> None:
    """Refuse a prediction of equal spins whose symmetry PySCF would break its own way, before it costs anything.

    Deleting half of a good density, as PySCF does with its rough ones, ends in higher states (twisted ethylene,
    singlet O2) and saves nothing.

    Args:
        mf: PySCF mean-field object.
        mol: molecule.
        model: that would predict.
    """
    equal = getattr(model, "restricted", False) or not model.exact
    if equal and spin_breaking(mf, mol) not in (0, "mix"):
        raise _spoilt(mf)


def _spoilt(mf: Any) -> OutOfDomainError:
    return OutOfDomainError(
        f"PySCF breaks the spin symmetry of unrestricted singlets (init_guess_breaksym = {mf.init_guess_breaksym}), "
        "which spoils a learned density; set mf.init_guess_breaksym to 'mix', or to 0 for a closed shell"
    )


def _break_spin_symmetry(mf: Any, mol: gto.Mole, density: Array, orbitals: Orbitals) -> Array:
    """Break it where PySCF's own guesses do, so that the same state or a lower one is found."""
    wanted = spin_breaking(mf, mol)
    if not wanted or np.abs(density[0] - density[1]).max() > SPIN_BROKEN:
        return density
    if wanted == "mix":
        return density_from_orbitals(mf, with_turned_frontier(mol, orbitals))
    raise _spoilt(mf)


def _checked_fallback(fallback: str) -> str:
    if fallback not in FALLBACKS:
        raise ValueError(f"unknown fallback {fallback!r}; expected one of {', '.join(FALLBACKS)}.")
    return fallback
