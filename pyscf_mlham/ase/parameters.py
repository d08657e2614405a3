"""Parameters of MLHam: defaults, checks of their values, and the PySCF object that they describe."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from pyscf import gto
from pyscf.data import nist

from pyscf_mlham.ao.mole import core_potentials
from pyscf_mlham.errors import DataError, ModelError, missing
from pyscf_mlham.h0 import SCC
from pyscf_mlham.model.guess import FALLBACKS, GUESSES, is_ml
from pyscf_mlham.model.store import find
from pyscf_mlham.scf.problem import check_functional
from pyscf_mlham.track.history import STRATEGIES

try:
    from ase import Atoms
    from ase.calculators.calculator import CalculatorSetupError, InputError
except ModuleNotFoundError as error:
    raise missing(error, "ase") from error

BOHR: float = nist.BOHR
CHOICES: dict[str, Any] = {
    "solver": ("scf", "twolevel"),
    "mode": ("scf", "predict"),
    "history": (*STRATEGIES, None),
    "fallback": FALLBACKS,
    "grid_level": (None, *range(10)),
    "dispersion": (None, "d3bj", "d3zero", "d3bjm", "d3zerom", "d3op", "d4"),
    "verbose": range(10),
}

DEFAULTS: dict[str, Any] = {
    "xc": "b3lyp",
    "basis": "def2-svp",
    "ecp": "auto",
    "charge": 0,
    "mult": None,
    "multiplicity": None,
    "grid_level": None,
    "dispersion": None,
    "density_fit": False,
    "solver": "scf",
    "guess": "ml",
    "history": "fit",
    "loose_above": None,
    "mode": "scf",
    "model": None,
    "fallback": SCC,
    "conv_tol": 1e-9,
    "max_cycle": 50,
    "verbose": 0,
    "mf_hook": None,
}


def check(parameters: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Raise InputError for unknown parameters and impossible values.

    Args:
        parameters: new values.
        current: values of all parameters so far.
    """
    if unknown := sorted(set(parameters) - set(DEFAULTS)):
        raise InputError(f"unknown argument {', '.join(unknown)}; expected {', '.join(DEFAULTS)}.")
    every = {**current, **parameters}
    for name, allowed in CHOICES.items():
        if name in parameters and parameters[name] not in allowed:
            raise InputError(f"{name} = {parameters[name]!r}; expected one of {', '.join(map(str, allowed))}.")
    _check_multiplicity(*(every[name] for name in ("mult", "multiplicity")))
    _check_guess(**{name: every[name] for name in ("guess", "model", "xc")})
    if every["loose_above"] is not None and (not every["loose_above"] > 0 or every["history"] is None):
        raise InputError("loose_above is a force in eV/Angstrom, above zero, and needs a history.")
    try:
        check_functional(parameters.get("xc", "hf"))
    except DataError as error:
        raise InputError(str(error)) from None  # PySCF's own message adds nothing


def _check_multiplicity(mult: Any, multiplicity: Any) -> None:
    """Raise InputError if mult and multiplicity differ."""
    if mult is not None and multiplicity is not None and mult != multiplicity:
        raise InputError(f"mult = {mult} and multiplicity = {multiplicity} contradict each other; give one of them.")


def _check_guess(guess: Any, model: Any, xc: Any) -> None:
    """Raise InputError if a guess or a model does not exist: PySCF would use minao instead."""
    exists = isinstance(guess, str) and (is_ml(guess) or guess.lower() in GUESSES or guess.lower().startswith("chk"))
    if not exists:
        raise InputError(f"guess = {guess!r}; expected ml, ml:<model>, chk or one of {', '.join(GUESSES)}.")
    if guess.lower() == "vsap" and str(xc).lower() == "hf":
        raise InputError("guess = 'vsap' needs a functional, and xc = 'hf' has none; choose sap, or another guess.")
    wanted = model or (guess.strip()[3:].strip() if is_ml(guess) else "")
    if wanted:
        try:
            find(wanted)
        except ModelError as error:
            raise InputError(f"model = {error}") from None


def mean_field(p: Mapping[str, Any], atoms: Atoms, charge: int, spin: int) -> Any:
    """Return the PySCF object of a geometry, before any SCF; p: parameters of MLHam; spin: n_alpha - n_beta."""
    places = list(zip(atoms.get_chemical_symbols(), (atoms.positions / BOHR).tolist(), strict=True))
    try:
        ecp = core_potentials(p["basis"], atoms.get_chemical_symbols()) if p["ecp"] == "auto" else p["ecp"]
        state = {"charge": charge, "spin": spin, "verbose": p["verbose"]}
        mol = gto.M(atom=places, unit="Bohr", basis=p["basis"], ecp=ecp, **state)
    except (KeyError, RuntimeError) as error:
        raise InputError(f"PySCF cannot build the molecule in basis {p['basis']!r}: {error}") from error
    if p["xc"].lower() == "hf":
        mf = mol.UHF() if spin else mol.RHF()
    else:
        mf = mol.UKS(xc=p["xc"]) if spin else mol.RKS(xc=p["xc"])
        mf.grids.level = mf.grids.level if p["grid_level"] is None else p["grid_level"]
    if p["dispersion"]:
        if find_spec("pyscf.dispersion") is None:
            raise CalculatorSetupError(f"dispersion = {p['dispersion']!r} needs: pip install pyscf-dispersion")
        mf.disp = p["dispersion"]
    mf = mf.density_fit() if p["density_fit"] else mf
    mf.conv_tol, mf.max_cycle = p["conv_tol"], p["max_cycle"]
    mf.init_guess = f"ml:{p['model']}" if p["model"] and is_ml(p["guess"]) else p["guess"]
    if p["mf_hook"] is not None:
        changed = p["mf_hook"](mf)
        mf = mf if changed is None else changed
    return mf
