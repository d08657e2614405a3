"""Parameters of MLHam: defaults, and checks of their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ase.calculators.calculator import InputError

from pyscf_mlham.errors import DataError, ModelError
from pyscf_mlham.h0 import SCC
from pyscf_mlham.model.guess import FALLBACKS, GUESSES, is_ml
from pyscf_mlham.model.store import find
from pyscf_mlham.scf.problem import check_functional
from pyscf_mlham.track.history import STRATEGIES

PARAMETERS: dict[str, tuple[Any, Any]] = {  # default, and what else is possible if that is a list
    "xc": ("b3lyp", None),
    "basis": ("def2-svp", None),
    "ecp": ("auto", None),
    "charge": (0, None),
    "mult": (None, None),
    "multiplicity": (None, None),
    "grid_level": (None, range(10)),
    "dispersion": (None, ("d3bj", "d3zero", "d3bjm", "d3zerom", "d3op", "d4")),
    "density_fit": (False, None),
    "solver": ("scf", ("twolevel",)),
    "guess": (None, None),
    "history": ("fit", (*STRATEGIES, None)),
    "loose_above": (None, None),
    "mode": ("scf", ("predict",)),
    "model": (None, None),
    "fallback": (SCC, FALLBACKS),
    "conv_tol": (1e-9, None),
    "max_cycle": (50, None),
    "verbose": (0, range(10)),
    "mf_hook": (None, None),
}
DEFAULTS = {name: default for name, (default, _) in PARAMETERS.items()}


def check(parameters: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Raise InputError for unknown parameters and impossible values.

    Args:
        parameters: new values.
        current: values of all parameters so far.
    """
    if unknown := sorted(set(parameters) - set(DEFAULTS)):
        raise InputError(f"unknown argument {', '.join(unknown)}; expected {', '.join(DEFAULTS)}.")
    every = {**current, **parameters}
    for name, value in parameters.items():
        default, others = PARAMETERS[name]
        if others is not None and value not in (default, *others):
            allowed = ", ".join(map(str, dict.fromkeys((default, *others))))
            raise InputError(f"{name} = {value!r}; expected one of {allowed}.")
    mult, multiplicity = every["mult"], every["multiplicity"]
    if mult is not None and multiplicity is not None and mult != multiplicity:
        raise InputError(f"mult = {mult} and multiplicity = {multiplicity} contradict each other; give one of them.")
    _check_guess(**{name: every[name] for name in ("guess", "model", "xc")})
    if every["loose_above"] is not None and (not every["loose_above"] > 0 or every["history"] is None):
        raise InputError("loose_above is a force in eV/Angstrom, above zero, and needs a history.")
    if not isinstance(xc := parameters.get("xc", "hf"), str):
        raise InputError(f"xc = {xc!r}; expected the name of a functional, or hf.")
    try:
        check_functional(xc)
    except DataError as error:
        raise InputError(str(error)) from None  # PySCF's own message adds nothing


def _check_guess(guess: Any, model: Any, xc: Any) -> None:
    """Raise InputError if a guess or a model does not exist: PySCF would use minao instead."""
    guess = "ml" if guess is None else guess
    exists = isinstance(guess, str) and (is_ml(guess) or guess.lower() in GUESSES or guess.lower().startswith("chk"))
    if not exists:
        raise InputError(f"guess = {guess!r}; expected ml, ml:<model>, chk or one of {', '.join(GUESSES)}.")
    if guess.lower() == "vsap" and str(xc).lower() == "hf":
        raise InputError("guess = 'vsap' needs a functional, and xc = 'hf' has none; choose sap, or another guess.")
    named = model or (guess.strip()[3:].strip() if is_ml(guess) else "")
    if named:
        try:
            find(named)
        except ModelError as error:
            raise InputError(f"model = {error}") from None
