"""A mean field that costs a few percent of the full one."""

from __future__ import annotations

from pyscf_mlham.coarse.field import CoarseField
from pyscf_mlham.coarse.level import LEVELS, Level

__all__ = ["LEVELS", "CoarseField", "Level"]
