"""The change of a Hamiltonian as one of its atoms and a rest between them."""

from __future__ import annotations

import numpy as np
import pytest
from pyscf import gto
from pyscf.pbc import gto as pbcgto

from pyscf_mlham.ao.mole import atom_of_each_ao
from pyscf_mlham.ao.mulliken import ao_from_parts, of_atoms, parts_from_ao
from support.molecules import assert_close


@pytest.fixture(scope="module")
def chain() -> pbcgto.Cell:
    return pbcgto.M(
        atom="Li 0 0 0; H 0.3 0.1 1.6", a=np.diag([8.0, 8.0, 3.2]), basis="gth-dzvp", pseudo="gth-pbe", verbose=0
    )


def test_both_are_inverse_and_the_rest_has_no_block_of_an_atom(chain: pbcgto.Cell) -> None:
    rng = np.random.default_rng(0)
    atoms, kpts = atom_of_each_ao(chain), chain.make_kpts([1, 1, 3])
    overlap = np.asarray(chain.pbc_intor("int1e_ovlp", hermi=1, kpts=kpts))
    matrix = rng.normal(size=overlap.shape) + 1j * rng.normal(size=overlap.shape)
    matrix = matrix + matrix.conj().swapaxes(1, 2)
    matrix[2] = matrix[1].conj()  # -k
    matrix[0] = matrix[0].real
    parts = parts_from_ao(matrix, overlap, atoms)
    assert_close(ao_from_parts(parts, overlap, of_atoms(parts, atoms)), matrix, 1e-12)
    same, D = atoms[:, None] == atoms, of_atoms(parts, atoms)
    rest = (matrix - (D @ overlap + overlap @ D) / 2).mean(axis=0)
    assert np.abs(rest[same]).max() < 1e-12
    assert np.abs(rest[~same]).max() > 0.1


def test_a_shift_of_the_potential_of_atoms_has_no_rest() -> None:
    mol = gto.M(atom="O 0 0 0; H 0 0.8 0.6; H 0 -0.8 0.6", basis="6-31g", verbose=0)
    overlap, atoms = mol.intor("int1e_ovlp"), atom_of_each_ao(mol)
    shift = np.diag(np.array([-0.3, 0.1, 0.2])[atoms])
    parts = parts_from_ao((shift @ overlap + overlap @ shift) / 2, overlap, atoms)
    assert_close(parts, shift, 1e-12)
