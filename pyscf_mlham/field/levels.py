"""Levels of approximation of cheap fields, and the data that their parts share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import numpy as np
from pyscf import gto


@dataclass(frozen=True)
class Level:
    """Level of approximation of a cheap field.

    Attributes:
        name: name in logs and models.
        light: auxiliary basis set of the density fitting for H to Ne, and for all elements without exact exchange.
        heavy: auxiliary basis set for heavier elements with exact exchange, and for all in large orbital basis sets.
        grid: PySCF grid level.
        dtype: floating-point type of the stored integrals and orbital values.
        functions: auxiliary functions per AO; if `light` has fewer, `heavy` is used for all elements, because the
            first full build would leave too much to correct.
        far: Schwarz bound below which a pair of orbitals is left out, Hartree^1/2; a pair below 1e-8 adds 1e-6 Hartree
            to J at most, with 100 atoms.
    """

    name: str = field(compare=False)  # levels of equal integrals share them
    light: str
    heavy: str
    grid: int
    dtype: type = np.float32
    functions: float = 2.0
    far: float = 1e-8

    def __str__(self) -> str:
        """Return a description for the log."""
        bases = self.light if self.light == self.heavy else f"{self.light} ({self.heavy} for elements with cores)"
        return f"fitted in {bases}, grid level {self.grid}, {np.dtype(self.dtype).name}"


COARSE = Level("coarse", "def2-universal-jfit", "def2-universal-jkfit", 1)
# Refines guesses for exact integrals: its solution is five to ten times nearer to the full one than that of COARSE.
ACCURATE = Level("accurate", "def2-universal-jkfit", "def2-universal-jkfit", 1)
# The solver uses it if the gradient falls too slowly.
FINE = Level("fine", "def2-universal-jkfit", "def2-universal-jkfit", 2, np.float64)
SINGLE = Level("single", "", "", 0)  # the object's own integrals and grid; see `pyscf_mlham.field.single`
# The change of density alone, exchange in a minimal basis; see `pyscf_mlham.field.response`.
RESPONSE = Level("response", "", "", 0, far=3e-4)


T = TypeVar("T")
_in_use: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()


def shared(what: tuple[Any, ...], mol: gto.Mole, make: Callable[[], T]) -> T:
    """Create data of a molecule, or share those of another field of the same molecule."""
    key = (*what, mol.cart, mol._atm.tobytes(), mol._bas.tobytes(), mol._env.tobytes())
    data: T | None = _in_use.get(key)
    if data is None:
        data = _in_use[key] = make()
    return data
