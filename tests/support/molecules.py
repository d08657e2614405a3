"""Geometries and molecules."""

from __future__ import annotations

from typing import Any

import numpy as np
from pyscf import gto

WATER = "O 0 0 0.1173; H 0 0.7572 -0.4692; H 0 -0.7572 -0.4692"
ETHYLENE = "C 0 0 0.66; C 0 0 -0.66; H 0 0.92 1.23; H 0 -0.92 1.23; H 0 0.92 -1.23; H 0 -0.92 -1.23"
TWISTED_ETHYLENE = "C 0 0 0.66; C 0 0 -0.66; H 0 0.92 1.23; H 0 -0.92 1.23; H 0.92 0 -1.23; H -0.92 0 -1.23"
NO2 = "N 0 0 0; O 0 1.1 0.47; O 0 -1.1 0.47"
# Clusters without any symmetry that hold every element of common organic chemistry.
CLUSTER_ONE = "H 0.1 0.2 0.9; C 0.0 0.1 -0.2; N 1.2 0.3 -0.6; F -0.9 -0.8 -0.6; O -0.7 1.2 -0.5"
CLUSTER_TWO = "P 0.0 0.1 -0.1; S 1.9 0.3 0.4; Cl -1.0 -1.6 0.6; H -0.6 1.1 0.8"
BASES = ["sto-3g", "6-31g*", "def2-svp", "def2-tzvp", "cc-pvtz", "aug-cc-pvdz", "cc-pvqz"]  # the last has g functions


def mole(atom: Any = WATER, basis: Any = "6-31g*", **kwargs: Any) -> gto.Mole:
    """Build a silent molecule; water in 6-31G* by default."""
    return gto.M(atom=atom, basis=basis, **{"verbose": 0, **kwargs})


def twisted_ethylene(kind: str = "UKS", **options: Any) -> Any:
    """A diradical in B3LYP on a small grid, not yet converged."""
    mf = getattr(mole(TWISTED_ETHYLENE, **options), kind)(xc="b3lyp")
    mf.grids.level = 0
    return mf


def assert_close(actual: Any, expected: Any, atol: float) -> None:
    """Equal to an absolute tolerance; numpy's own default adds a relative one of 1e-7."""
    np.testing.assert_allclose(actual, expected, atol=atol, rtol=0)
