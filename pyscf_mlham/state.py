"""Total charge and spin of a molecule, from the annotations of its geometry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyscf_mlham.errors import whole_number

SPIN_KEYS = ("mult", "multiplicity", "spin")
NEARLY = 0.25  # electrons; moments of other programs are not integers


def charge_and_spin(info: Mapping[str, Any], protons: int, charge: Any = 0, mult: Any = None) -> tuple[int, int]:
    """Return total charge and n_alpha - n_beta of a molecule; raise ValueError with the reason if they are impossible.

    Args:
        info: "charge", and "mult" or "multiplicity" (2 S + 1) or "spin" (n_alpha - n_beta), all optional, in upper or
            lower case.
        charge: total charge if info has no charge.
        mult: multiplicity if info has neither multiplicity nor spin; None for the lowest.
    """
    values, charge = stated(info), total_charge(info, charge)
    given = _spins(values) or ({} if mult is None else _spins({"mult": mult}))
    if len(set(given.values())) > 1:
        raise ValueError(" and ".join(f"{key}={values[key]}" for key in given) + " contradict each other")
    electrons = protons - charge
    spin = next(iter(given.values()), electrons % 2)
    if electrons < 1 or not 0 <= spin <= electrons or (electrons - spin) % 2:
        raise ValueError(f"{electrons} electrons cannot have multiplicity {spin + 1}")
    return charge, spin


def total_charge(info: Mapping[str, Any], charge: Any = 0) -> int:
    """Return the total charge, by default the one given; raise ValueError if it is not an integer."""
    try:
        return _number(stated(info).get("charge", charge))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the charge must be an integer ({error})") from error


def is_closed_shell(info: Mapping[str, Any]) -> bool:
    """Return whether annotations have no spin, or that of a closed shell."""
    return not any(_spins(stated(info)).values())


def stated(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of charge and spin, by keys in lower case; raise ValueError if one has two different values."""
    result: dict[str, Any] = {}
    for key, value in info.items():
        name = str(key).lower()
        if name not in ("charge", *SPIN_KEYS):
            continue
        if name in result and result[name] != value:
            raise ValueError(f"{name} is given twice, as {result[name]} and {value}")
        result[name] = value
    return result


def mult_of_moments(moments: NDArray[np.float64], protons: int) -> int | None:
    """Return the multiplicity of a neutral molecule from magnetic moments; None if they do not determine it."""
    total = abs(float(moments.sum()))
    spin = round(total)
    possible = abs(total - spin) <= NEARLY and (protons - spin) % 2 == 0
    return spin + 1 if spin and possible else None


def _spins(values: Mapping[str, Any]) -> dict[str, int]:
    """Return n_alpha - n_beta of each key of the spin; raise ValueError if one is not an integer."""
    try:
        return {key: _number(values[key]) - (key != "spin") for key in SPIN_KEYS if key in values}
    except (TypeError, ValueError) as error:
        raise ValueError(f"multiplicity and spin must be integers ({error})") from error


def _number(value: Any) -> int:
    if isinstance(value, bool | np.bool_):  # ASE's value of a key without one
        raise ValueError("a key without a value: write NAME=NUMBER, or leave the word out")
    return whole_number(value)
