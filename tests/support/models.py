"""Models without a network."""

from __future__ import annotations

from typing import Any

from pyscf import gto

from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.h0 import potential


class Rough:
    """A model that is wrong, but smoothly: the Fock matrix of PySCF's minao density.

    Attributes:
        calls: number of predictions so far.
    """

    exact = False

    def __init__(self, basis: str = "6-31g*") -> None:
        self.calls = 0
        self.config = ModelConfig(
            name="rough", architecture="none", elements=(1, 8), charges=(0,), basis=basis, xc="hf", baseline="sap"
        )

    def native(self, mol: gto.Mole) -> gto.Mole:
        return mol

    def correction(self, native: gto.Mole, h0: Any) -> Any:
        self.calls += 1
        return potential("minao", native) - potential("sap", native)
