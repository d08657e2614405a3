"""Superposed atoms of crystals: PySCF's own field of the same density, and what must not change the matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
from pyscf.pbc.df import FFTDF
from pyscf.pbc.dft.gen_grid import BeckeGrids
from pyscf.scf.atom_hf import get_atm_nrhf
from scipy.integrate import quad
from scipy.spatial.transform import Rotation

from pyscf_mlham.errors import OutOfDomainError
from pyscf_mlham.h0 import fingerprint
from pyscf_mlham.h0.atoms import Atom, functional_of, local_potential, superposed_atoms, superposed_atoms_of
from support.crystals import HEXAGONAL, chain, changed, crystal, krks
from support.molecules import assert_close

Array = Any

FCC = (np.ones((3, 3)) - np.eye(3)) / 2
SILICON = [("Si", (0.0, 0.0, 0.0)), ("Si", (2.566, 2.566, 2.566))]


def layer(height: float) -> Any:
    """Build hydrogen molecules in a layer."""
    atoms = [("H", (0.3, 0.0, 0.5 * height)), ("H", (1.7, 0.2, 0.5 * height + 0.3))]
    return crystal(atoms, np.diag([4.0, 4.0, height]), dimension=2, ke_cutoff=None)


CRYSTALS = {
    "silicon": (crystal(SILICON, FCC * 10.263, basis="gth-szv-molopt-sr"), [2, 2, 2]),
    "chain": (chain(), [3, 1, 1]),
    "low layer": (layer(16.0), [4, 4, 1]),
    "high layer": (layer(24.0), [4, 4, 1]),
}


def energies(cell: Any, kpts: Array, h0: Array | None = None) -> Array:
    """Return the eigenvalues at all k points."""
    h0 = superposed_atoms(cell, kpts, "pbe") if h0 is None else h0
    overlap = cell.pbc_intor("int1e_ovlp", hermi=1, kpts=kpts)
    return np.array([scipy.linalg.eigh(h, s, eigvals_only=True) for h, s in zip(h0, overlap, strict=True)])


def density_of_atoms(cell: Any, n_k: int) -> Array:
    found = get_atm_nrhf(cell)
    blocks = [(c * n) @ c.T for _, _, c, n in (found[cell.atom_symbol(i)] for i in range(cell.natm))]
    return np.stack([scipy.linalg.block_diag(*blocks)] * n_k)


@pytest.mark.parametrize(
    ("name", "xc"),
    [
        pytest.param("silicon", "pbe", marks=pytest.mark.slow),
        ("chain", "pbe"),
        ("chain", "lda,vwn"),
        ("low layer", "pbe"),
        ("high layer", "pbe"),
    ],
)
def test_the_matrix_is_pyscfs_own_of_the_same_density(name: str, xc: str) -> None:
    check_matrix(name, xc)


def test_without_fitted_integrals_the_matrix_is_pyscfs_own_of_the_same_density() -> None:
    check_matrix("low layer", "pbe", FFTDF)


def check_matrix(name: str, xc: str, integrals: Any = None) -> None:
    """PySCF sums charges, with fitted integrals and the mean potential of a bulk crystal set to zero."""
    cell, mesh = CRYSTALS[name]
    mf = krks(cell, cell.make_kpts(mesh)).set(xc=xc)
    if integrals is not None:
        mf.with_df = integrals(cell, mf.kpts)
    mf.grids = BeckeGrids(cell)
    mf.grids.level = 3
    expected = mf.get_fock(dm=density_of_atoms(cell, len(mf.kpts)))
    found = superposed_atoms_of(mf, mf.kpts)
    shift = np.trace(np.linalg.solve(mf.get_ovlp()[0], (found - expected)[0])).real / cell.nao
    assert abs(shift) < 3e-4
    assert_close(found - shift * np.array(mf.get_ovlp()), expected, 3e-4)
    assert np.abs(expected).max() > 0.1


def test_the_grid_holds_the_electrons_of_neutral_atoms() -> None:
    for atom, electrons in zip(Atom.each_of(crystal()).values(), (3, 5), strict=True):
        density, reach = atom.radial
        total = quad(lambda r, density=density: 4 * np.pi * r**2 * float(density(r)), 0, reach, limit=200)[0]
        assert total == pytest.approx(electrons, abs=1e-4)
        assert abs(float(atom.potential(reach))) < 1e-8


def test_a_supercell_is_the_folded_primitive_cell() -> None:
    one, three = chain(), chain(3)
    primitive, folded = (energies(c, c.make_kpts([k, 1, 1])) for c, k in ((one, 6), (three, 2)))
    assert_close(np.sort(folded, axis=None), np.sort(primitive, axis=None), 1e-9)


def test_atoms_moved_across_the_border() -> None:
    cell = crystal()
    kpts = np.asarray(cell.make_kpts([2, 2, 1]))
    there = changed(cell, cell.atom_coords() + np.array([[1, -1, 0], [-2, 0, 0]]) @ HEXAGONAL, HEXAGONAL)
    assert_close(energies(there, kpts), energies(cell, kpts), 1e-7)  # PySCF's lattice sums


def test_a_rotated_cell() -> None:
    cell = crystal()
    turn = Rotation.from_euler("xyz", [0.4, -0.9, 1.3]).as_matrix()
    there = changed(cell, cell.atom_coords() @ turn.T, HEXAGONAL @ turn.T)
    found, expected = (energies(c, np.asarray(c.make_kpts([2, 2, 1]))) for c in (there, cell))
    assert_close(found, expected, 2e-4)  # atomic grids do not turn with the crystal
    assert np.abs(found - expected)[:, :4].mean() < 2e-5


def test_the_local_pseudopotential_is_smooth_at_the_nucleus_and_coulombic_beyond() -> None:
    pseudo = [[2, 2], 0.44, 1, [-7.3], 2, [0.42, 1, [[5.9]]], [0.48, 0, []]]
    r = np.array([0.0, 1e-4, 8.0])
    here, near, far = local_potential(pseudo, r)
    assert near == pytest.approx(here, abs=1e-5)
    assert far == pytest.approx(-4 / 8, abs=1e-10)
    assert local_potential([[1], 0.2, 0, [], 0], r)[2] == pytest.approx(-1 / 8, abs=1e-10)


def test_functionals_that_need_more_than_the_density_are_replaced() -> None:
    assert [functional_of(xc) for xc in ("pbe", "lda,vwn", "hf", "b3lyp", "scan")] == ["pbe", "lda,vwn", *["pbe"] * 3]


def test_a_pseudopotential_is_needed() -> None:
    with pytest.raises(OutOfDomainError, match="N has no pseudopotential"):
        superposed_atoms(crystal(pseudo={"B": "gth-pbe"}), np.zeros((1, 3)), "pbe")


def test_the_fingerprint_is_that_of_this_version() -> None:
    assert fingerprint("atoms", "pbe") == pytest.approx(-0.224585, abs=1e-5)
