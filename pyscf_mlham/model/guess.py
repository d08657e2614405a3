"""'ml' and 'scc' as initial guesses of PySCF mean-field objects; `hooks` adds them to PySCF."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf import gto, lib
from pyscf.lib import logger

from pyscf_mlham.arrays import Array
from pyscf_mlham.density import density_from_orbitals, spin_breaking, with_mixed_frontier
from pyscf_mlham.errors import ModelError, OutOfDomainError, PredictionError, reason_of
from pyscf_mlham.field import Builds
from pyscf_mlham.h0 import SCC, scc
from pyscf_mlham.model import store
from pyscf_mlham.model.predictor import Prediction, Predictor, counted, native_if_applicable, predict
from pyscf_mlham.scf.applicability import inapplicable
from pyscf_mlham.scf.core import forget_core
from pyscf_mlham.scf.decorator import expect_mean_field, is_on_gpu, on_cpu
from pyscf_mlham.scf.guess_info import GuessInfo, record, recorded

ModelLike = Predictor | str | Path | None

FALLBACKS = ("minao", SCC, "atom", "huckel", "mod_huckel", "1e", "hcore", "sap", "raise")
GUESSES = (*(name for name in FALLBACKS if name != "raise"), "vsap")  # names for mf.init_guess beside 'ml'
EXPECTED = "'ml', or 'ml:' and the name or the path of a model"
WHAT = ("accelerate", "ml", "scc")  # arguments of `applicable`
LOADING = 0.1  # seconds; a longer loading time is logged
SPIN_BROKEN = 1e-2  # density matrices of the two spins that differ by more are not symmetric


@dataclass
class Settings:
    """What `register` sets, for every object whose init_guess is 'ml'."""

    model: ModelLike = None  # model of a plain 'ml'; None chooses among the shipped ones
    # guess used if the model is not applicable: "scc" (PySCF's minao if that is not applicable either), one of PySCF's
    # own, or "raise"
    fallback: str = SCC


settings = Settings()


def init_guess(mf: Any, mol: gto.Mole, key: Any, pyscf_guess: Callable[[Any], Any]) -> Any:
    """Return what `mf.get_init_guess(mol, key)` returns with this package registered, and set mf.guess_info."""
    record(mf, None)
    if not (is_scc(key) or is_ml(key)):
        if isinstance(key, str) and key.strip().lower().startswith("ml"):
            logger.warn(mf, "init_guess = %r is not supported; PySCF uses minao instead. Expected %s.", key, EXPECTED)
        return pyscf_guess(key)
    if is_on_gpu(mf):
        density, info = _or_minao(mf, key, lambda: _on_cpu(mf, mol, key), pyscf_guess)
    elif is_scc(key):
        density, info = _or_minao(mf, SCC, lambda: scc.guess(mf, mol), pyscf_guess)
    else:
        density, info = _guess(mf, mol, named_model(key), settings.fallback, pyscf_guess)
    record(mf, info)
    return density


def _on_cpu(mf: Any, mol: gto.Mole, key: str) -> tuple[Array, GuessInfo | None]:
    """Return the guess for an object of gpu4pyscf, made on the CPU for the corresponding object of PySCF."""
    there = on_cpu(mf)
    return there.get_init_guess(mol, key), recorded(there)


def _or_minao(
    mf: Any, key: str, make: Callable[[], tuple[Array, Any]], pyscf_guess: Callable[[str], Any]
) -> tuple[Array, Any]:
    """Make a guess, or PySCF's default one with a warning; return it and how it was made."""
    start = time.perf_counter()
    try:
        return make()
    except Exception as error:  # a guess must never stop the user's SCF
        reason = reason_of(error)
    logger.warn(mf, "%s guess not used: %s. The minao guess is used instead.", key, reason)
    return pyscf_guess("minao"), GuessInfo("minao", reason, seconds=time.perf_counter() - start)


def is_scc(key: Any) -> bool:
    """Whether a value of init_guess selects the self-consistent baseline."""
    return isinstance(key, str) and key.strip().lower() == SCC


def is_ml(key: Any) -> bool:
    """Whether a value of init_guess selects a learned guess: 'ml' or 'ml:<name or path>'."""
    return isinstance(key, str) and (key.strip().lower() == "ml" or key.strip().lower().startswith("ml:"))


def model_of(mf: Any) -> Predictor | None:
    """Return the model named by an object's init_guess, None if that is one of PySCF's own guesses."""
    key = mf.init_guess
    return resolve(named_model(key), mf, mf.mol) if is_ml(key) else None


def named_model(key: str) -> ModelLike:
    """Return the model of 'ml' (the registered one) or 'ml:<name or path>'; None for the shipped ones."""
    return key.strip()[3:].strip() or settings.model


def guess(mf: Any, model: ModelLike = None, fallback: str | None = None) -> Array:
    """Return the density matrix of the guess 'ml', without registering anything.

    Args:
        mf: PySCF mean-field object; not changed, but its fitted integrals may be computed, which its SCF then uses.
        model: a model, its name or its path; None uses the setting of `register`, as 'ml' does.
        fallback: guess to use if the model is not applicable, or "raise"; None uses the setting of `register`.

    Returns:
        density matrix in the object's own shape.
    """
    return guess_with_info(mf, model, fallback)[0]


def guess_with_info(mf: Any, model: ModelLike = None, fallback: str | None = None) -> tuple[Array, GuessInfo]:
    """Return the density matrix of the guess 'ml', and how it was made; see `guess`."""
    expect_mean_field(mf)
    fallback = settings.fallback if fallback is None else checked_fallback(fallback)
    model = settings.model if model is None else model
    mf = on_cpu(mf)
    before = recorded(mf)
    try:
        return _guess(mf, mf.mol, model, fallback, lambda key: mf.get_init_guess(mf.mol, key))
    finally:
        record(mf, before)
        forget_core(mf)


def fock(mf: Any, model: ModelLike = None) -> NDArray[np.float64]:
    """Return the predicted Fock matrix in PySCF's AO order; raise an MLHamError if the model is not applicable.

    Args:
        mf: PySCF mean-field object; not changed.
        model: a model, its name or its path; None uses the setting of `register`.

    Returns:
        (n, n), (2, n, n) for unrestricted or (2n, 2n) for generalised objects, of k points (N_k, n, n) or
        (2, N_k, n, n); Hartree.
    """
    expect_mean_field(mf)
    mf = on_cpu(mf)
    return predict(mf, registered_model(model, mf), refine=False).fock


def registered_model(model: ModelLike, mf: Any) -> Predictor:
    """Return a model, given as itself, by its name or by its path; None for the registered or best shipped one."""
    return resolve(settings.model if model is None else model, mf, mf.mol)


def resolve(model: ModelLike, mf: Any, mol: gto.Mole) -> Predictor:
    """Return a model, given as itself, by its name or by its path; None for the best shipped one."""
    if model is None:
        return store.best_for(mf, mol)
    if isinstance(model, str | Path):
        return store.load(model)
    if not hasattr(model, "correction"):
        raise ModelError(f"{model!r} is not a model: expected an object with config, native and correction, or a name.")
    return model


def _guess(
    mf: Any, mol: gto.Mole, model: ModelLike, fallback: str, pyscf_guess: Callable[[str], Any]
) -> tuple[Array, GuessInfo]:
    """Return the guess 'ml', or the fallback with a warning, and how it was made."""
    start = time.perf_counter()
    try:
        predictor = resolve(model, mf, mol)
        loading = time.perf_counter() - start
        density, prediction = learned_guess(mf, mol, predictor)
        seconds = time.perf_counter() - start
        loaded = f", and {loading:.1f} s to load the model" if loading > LOADING else ""
        logger.note(mf, "ml guess: %s%s", prediction.describe(), loaded)
        return density, GuessInfo("ml", model=prediction.model, seconds=seconds, **prediction.builds._asdict())
    except Exception as error:  # an error inside a model must never stop the user's SCF
        if fallback == "raise":
            raise
        reason, spent = reason_of(error), getattr(error, "builds", None) or Builds()
    # not inside the `except`, so that an error of PySCF's own is not chained to the model's
    if is_scc(fallback) and (lacking := _why_not_scc(mf, mol)):
        fallback = "minao"
        reason += f"; scc: {lacking}" * (lacking != reason)
    logger.warn(mf, "ml guess not used: %s. The %s guess is used instead.", reason, fallback)
    if is_scc(fallback):
        density, info = _or_minao(mf, SCC, lambda: scc.guess(mf, mol), pyscf_guess)
        reason += f"; scc: {info.fallback_reason}" * bool(info.fallback_reason)
    else:
        density, info = pyscf_guess(fallback), GuessInfo(fallback)
    builds = spent.plus(Builds(*(getattr(info, name) for name in Builds._fields)))
    seconds = time.perf_counter() - start
    return density, replace(info, fallback_reason=reason, seconds=seconds, **builds._asdict())


def _why_not_scc(mf: Any, mol: gto.Mole) -> str:
    """Return why the scc guess is not applicable, "" if it is."""
    try:
        return scc.inapplicable(mf, mol)
    except Exception as error:  # an object of the user's own kind may lack anything
        return reason_of(error)


def learned_guess(mf: Any, mol: gto.Mole, model: Predictor, own: bool = True) -> tuple[Array, Prediction]:
    """Return the density matrix of a model's prediction, see `predict`; raise an MLHamError if it is not applicable."""
    check_spin_symmetry(mf, mol, model)
    prediction = predict(mf, model, mol, own=own)
    with counted(prediction.builds):
        return density_from_prediction(mf, mol, model, prediction), prediction


def density_from_prediction(mf: Any, mol: gto.Mole, model: Predictor, prediction: Prediction) -> Array:
    """Return the checked density matrix of a model's prediction, of broken spin symmetry if the object is set so.

    It is tagged `close` if no coarse SCF would improve it; see `pyscf_mlham.scf.multilevel.start`.
    """
    orbitals, close = prediction.orbitals, not (prediction.lifted_from or prediction.made_for)
    density = density_from_orbitals(mf, orbitals)
    overlap = np.asarray(mf.get_ovlp(mol))
    n_k = len(overlap) if overlap.ndim == 3 else 1
    electrons = float(np.sum(density * np.swapaxes(overlap, -1, -2)).real) / n_k
    if not abs(electrons - mol.nelectron) < 1e-6 * max(1, mol.nelectron):
        raise PredictionError(f"the predicted density holds {electrons:.6f} electrons instead of {mol.nelectron}")
    breaking = spin_breaking(mf, mol)  # as PySCF's own guesses do, to converge to the same state or a lower one
    if breaking and np.abs(density[0] - density[1]).max() <= SPIN_BROKEN:
        if breaking != "mix":
            raise _unsuitable_breaking(mf)
        density = density_from_orbitals(mf, with_mixed_frontier(mol, orbitals))
    return lib.tag_array(density, close=True) if close and model.config.baseline == SCC else density


def check_spin_symmetry(mf: Any, mol: gto.Mole, model: Predictor) -> None:
    """Raise OutOfDomainError, before the prediction, if PySCF's spin-symmetry breaking would ruin it.

    PySCF's default deletes half of the beta density; a good guess then converges to higher states (twisted ethylene,
    singlet O2), and nothing is saved.
    """
    equal = getattr(model, "restricted", False) or not model.exact
    if equal and spin_breaking(mf, mol) not in (0, "mix"):
        raise _unsuitable_breaking(mf)


def _unsuitable_breaking(mf: Any) -> OutOfDomainError:
    return OutOfDomainError(
        f"PySCF breaks the spin symmetry of unrestricted singlets (init_guess_breaksym = {mf.init_guess_breaksym}), "
        "which ruins a learned density; set mf.init_guess_breaksym to 'mix', or to 0 for a closed shell"
    )


def checked_fallback(fallback: str) -> str:
    """Return the name of a fallback; raise ValueError if it is not supported."""
    if fallback not in FALLBACKS:
        raise ValueError(f"unknown fallback {fallback!r}; expected one of {', '.join(FALLBACKS)}.")
    return fallback


def applicable(mf: Any, what: str = "accelerate") -> str:
    """Return why plain SCF or PySCF's own guess would be used instead, "" if applicable.

    A learned guess can still be rejected after the prediction; `mf.guess_info` has the reason.

    Args:
        mf: PySCF mean-field object; not changed.
        what: "accelerate"; "ml", which loads the model named by mf.init_guess or `register`; or "scc".
    """
    expect_mean_field(mf)
    if what not in WHAT:
        raise ValueError(f"what = {what!r}; expected one of {', '.join(WHAT)}.")
    if what == "accelerate":
        return inapplicable(mf)
    try:
        mf = on_cpu(mf)
        if what == SCC:
            return scc.inapplicable(mf, mf.mol)
        model = registered_model(named_model(mf.init_guess) if is_ml(mf.init_guess) else None, mf)
        check_spin_symmetry(mf, mf.mol, model)
        native_if_applicable(mf, mf.mol, model)
    except Exception as error:  # any error inside a model
        return reason_of(error)
    return ""
