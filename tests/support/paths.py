"""Geometries along a path, and mean-field objects that are cheap enough to follow it."""

from __future__ import annotations

from typing import Any

import numpy as np
from pyscf import gto
from scipy.spatial.transform import Rotation

from support.molecules import mole

VELOCITY = np.random.default_rng(1).normal(size=(3, 3)) * 0.02  # Bohr per step


def path(steps: int, **kwargs: Any) -> list[gto.Mole]:
    """Water on a smooth, slightly bent path."""
    start = mole(**kwargs)
    places = [start.atom_coords() + k * VELOCITY + 1e-3 * k * k * VELOCITY[::-1] for k in range(steps)]
    return [start.copy().set_geom_(x, unit="Bohr") for x in places]


def rotated(mol: gto.Mole) -> gto.Mole:
    q = Rotation.from_rotvec([0.4, -1.1, 2.0]).as_matrix()
    return mol.copy().set_geom_(mol.atom_coords() @ q.T + [0.3, 0, -2], unit="Bohr")


def with_grid(mf: Any, level: int = 1) -> Any:
    mf.grids.level = level
    return mf


def b3lyp(mol: gto.Mole) -> Any:
    return with_grid(mol.RKS(xc="b3lyp"))


def pbe_of_ion(mol: gto.Mole) -> Any:
    return with_grid(mol.copy().set(charge=1, spin=1).build(False, False).UKS(xc="pbe"))
