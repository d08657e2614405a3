"""How coarse a field is, and what its parts share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from pyscf import gto


@dataclass(frozen=True)
class Level:
    """How coarse.

    Attributes:
        light: auxiliary basis set of the density fitting for H to Ne, and for all elements without exact exchange.
        heavy: for elements whose cores make it matter, and for all in large orbital basis sets.
        grid: PySCF grid level.
        dtype: of the stored integrals and orbital values.
    """

    light: str
    heavy: str
    grid: int
    dtype: type = np.float32

    def __str__(self) -> str:
        """Return what a log says of it."""
        bases = self.light if self.light == self.heavy else f"{self.light} ({self.heavy} where cores matter)"
        return f"fitted in {bases}, grid level {self.grid}, {np.dtype(self.dtype).name}"


# from cheap to careful; the solver climbs when the gradient falls too slowly
LEVELS = (
    Level("def2-universal-jfit", "def2-universal-jkfit", 1),
    Level("def2-universal-jkfit", "def2-universal-jkfit", 2, np.float64),
)


_in_use: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()


def shared(what: tuple[Any, ...], mol: gto.Mole, make: Callable[[], Any]) -> Any:
    """Make something of a molecule, or share what another field of the same molecule holds."""
    key = (*what, mol.cart, mol._atm.tobytes(), mol._bas.tobytes(), mol._env.tobytes())
    found = _in_use.get(key)
    if found is None:
        found = _in_use[key] = make()
    return found
