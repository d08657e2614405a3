"""Total charge and spin of a molecule, from what is written beside its geometry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyscf_mlham.errors import whole_number

SPIN_KEYS = ("mult", "multiplicity", "spin")
NEARLY = 0.25  # electrons; other programs' moments are no whole numbers


def charge_and_spin(info: Mapping[str, Any], protons: int, charge: Any = 0, mult: Any = None) -> tuple[int, int]:
    """Return total charge and n_alpha - n_beta of a molecule; ValueError, in words, where they cannot be.

    Args:
        info: "charge", and "mult" or "multiplicity" (2 S + 1) or "spin" (n_alpha - n_beta), as far as they are known,
            in capitals or not.
        protons: sum of the atomic numbers.
        charge: where info has none.
        mult: where info has none; None is the lowest.
    """
    said = stated(info)
    try:
        charge = _number(said.get("charge", charge))
        given = {key: _number(said[key]) - (key != "spin") for key in SPIN_KEYS if key in said}
        if not given and mult is not None:
            given = {"mult": _number(mult) - 1}
    except (TypeError, ValueError) as error:
        raise ValueError(f"charge, mult and spin must be integers ({error})") from error
    if len(set(given.values())) > 1:
        raise ValueError(" and ".join(f"{key}={said[key]}" for key in given) + " contradict each other")
    electrons = protons - charge
    spin = next(iter(given.values()), electrons % 2)
    if electrons < 1 or not 0 <= spin <= electrons or (electrons - spin) % 2:
        raise ValueError(f"{electrons} electrons cannot have multiplicity {spin + 1}")
    return charge, spin


def stated(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of charge and spin, under keys in small letters; ValueError where one is said twice.

    Args:
        info: of a geometry, with keys of any kind.
    """
    found: dict[str, Any] = {}
    for key, value in info.items():
        name = str(key).lower()
        if name not in ("charge", *SPIN_KEYS):
            continue
        if name in found and found[name] != value:
            raise ValueError(f"{name} is said twice, as {found[name]} and {value}")
        found[name] = value
    return found


def mult_of_moments(moments: NDArray[np.float64], protons: int) -> int | None:
    """Return the multiplicity that magnetic moments give a neutral molecule; None where they give none.

    Args:
        moments: of the atoms, Bohr magnetons.
        protons: sum of the atomic numbers.
    """
    total = abs(float(moments.sum()))
    spin = round(total)
    possible = abs(total - spin) <= NEARLY and (protons - spin) % 2 == 0
    return spin + 1 if spin and possible else None


def _number(value: Any) -> int:
    if isinstance(value, bool | np.bool_):  # ASE's word for a key without a value
        raise ValueError("a key without a value")
    return whole_number(value)
