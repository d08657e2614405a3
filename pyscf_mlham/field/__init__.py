"""A mean field that costs a few percent of the full one."""

from __future__ import annotations

from pyscf_mlham.field.coarse import CoarseField
from pyscf_mlham.field.levels import LEVELS, Level

__all__ = ["LEVELS", "CoarseField", "Level"]
