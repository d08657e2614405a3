"""Mean fields that are cheaper than the full one, and their common protocol."""

from __future__ import annotations

from pyscf_mlham.field.atoms import atomic_factor, atomic_factors
from pyscf_mlham.field.coarse import CoarseField
from pyscf_mlham.field.levels import ACCURATE, COARSE, FINE, RESPONSE, SINGLE, Level
from pyscf_mlham.field.moved import MovedResponse
from pyscf_mlham.field.protocol import Builds, Field, Tally
from pyscf_mlham.field.response import ResponseField
from pyscf_mlham.field.single import SingleField, has_hubbard

__all__ = [
    "ACCURATE", "COARSE", "FINE", "RESPONSE", "SINGLE", "Builds", "CoarseField", "Field", "Level",
    "MovedResponse", "ResponseField", "SingleField", "Tally", "atomic_factor", "atomic_factors", "has_hubbard",
]  # fmt: skip
