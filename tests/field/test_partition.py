"""Grids that the atoms of a crystal share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pyscf.dft.gen_grid import gen_atomic_grids
from pyscf.pbc.dft.gen_grid import BeckeGrids

from pyscf_mlham.field.partition import radial_densities, shared_grid
from support.crystals import BORON_NITRIDE, chain, crystal
from support.molecules import assert_close

Array = Any


def error(cell: Any, coords: Array, weights: Array) -> float:
    """Return the largest error of the overlap matrix on a grid."""
    ao = cell.pbc_eval_gto("GTOval_sph", coords)
    return float(np.abs(ao.T @ (weights[:, None] * ao) - cell.pbc_intor("int1e_ovlp", hermi=1)).max())


@pytest.mark.parametrize(("cell", "bound", "share"), [(crystal(), 1e-4, 0.05), (chain(), 3e-4, 1.0)])
def test_integrals_are_more_accurate_than_on_pyscfs_grid(cell: Any, bound: float, share: float) -> None:
    theirs = BeckeGrids(cell)
    theirs.level, theirs.verbose = 1, 0
    theirs.build()
    coords, weights = shared_grid(cell, gen_atomic_grids(cell, level=1))
    assert len(weights) < len(theirs.weights)
    assert error(cell, coords, weights) < min(bound, share * error(cell, theirs.coords, theirs.weights))


def test_the_grid_of_a_supercell_is_that_of_its_cells() -> None:
    (one, of_one), (three, of_three) = (shared_grid(c, gen_atomic_grids(c, level=0)) for c in (chain(), chain(3)))
    folded = np.concatenate([one + np.array([4.0 * n, 0, 0]) for n in range(3)])
    assert_close(three, folded, 1e-12)
    assert_close(of_three, np.tile(of_one, 3), 1e-12)


def test_ghost_atoms_have_no_grid() -> None:
    plain, ghost = crystal(), crystal([*BORON_NITRIDE, ("ghost-N", (2.0, 2.0, 6.0))])
    assert list(radial_densities(ghost)) == ["B", "N"]
    (coords, weights), (others, same) = (shared_grid(c, gen_atomic_grids(c, level=0)) for c in (plain, ghost))
    assert_close(others, coords, 1e-12)
    assert_close(same, weights, 1e-12)


def test_atoms_with_labels_and_without_pseudopotentials() -> None:
    cell = crystal([("B1", BORON_NITRIDE[0][1]), ("N", BORON_NITRIDE[1][1])], basis="6-31g", pseudo={"N": "gth-pbe"})
    assert {symbol: radial.reach > 5 for symbol, radial in radial_densities(cell).items()} == {"B1": True, "N": True}
