from __future__ import annotations

import numpy as np
import pytest
from pyscf import gto

from pyscf_mlham.ao.layout import OrbitalLayout
from pyscf_mlham.ao.loewdin import ao_from_orthogonal, metric_from_overlap, orthogonal_from_ao
from pyscf_mlham.ao.mole import graph_from_mol
from pyscf_mlham.features import (
    N_INPUTS,
    Cut,
    inputs_from_h0,
    sample_from_matrices,
)
from pyscf_mlham.h0 import hamiltonian
from support.molecules import ETHYLENE, WATER, assert_close, mole


def inputs_of(mol: gto.Mole) -> np.ndarray:
    overlap = mol.intor("int1e_ovlp")
    return inputs_from_h0(hamiltonian("sap", mol)[None], overlap, metric_from_overlap(overlap), "sap")[0]


def test_loewdin_orbitals_keep_orbital_energies_and_come_back() -> None:
    mf = mole(ETHYLENE, "def2-svp").RHF().run()
    fock, metric = mf.get_fock(), metric_from_overlap(mf.get_ovlp())
    orthogonal = orthogonal_from_ao(fock, metric)
    assert_close(np.linalg.eigvalsh(orthogonal), mf.mo_energy, atol=1e-6)
    assert_close(ao_from_orthogonal(orthogonal, metric), fock, atol=1e-10)


def test_an_error_moves_no_orbital_energy_by_more_than_its_norm() -> None:
    mf = mole(ETHYLENE, "aug-cc-pvdz").RHF().run()  # overlaps down to 1e-4
    metric = metric_from_overlap(mf.get_ovlp())
    fock = orthogonal_from_ao(mf.get_fock(), metric)
    noise = np.random.default_rng(0).normal(size=fock.shape) * 1e-4
    noise = noise + noise.T
    moved, _ = mf.eig(ao_from_orthogonal(fock + noise, metric), mf.get_ovlp())
    assert np.abs(moved - np.linalg.eigvalsh(fock)).max() <= np.linalg.norm(noise, 2) + 1e-9


def test_inputs_are_bounded_and_fragments_do_not_mix() -> None:
    alone = inputs_of(mole(WATER, "def2-svp"))
    assert len(alone) == N_INPUTS
    assert np.abs(alone).max() < 1.0 + 1e-9
    pair = inputs_of(gto.M(atom=f"{WATER}; N 0 0 500; H 0 1 500; H 0.9 -0.3 500; H -0.9 -0.3 500", basis="def2-svp"))
    n = alone.shape[1]
    assert_close(pair[:, :n, :n], alone, atol=1e-6)
    assert np.abs(pair[:, :n, n:]).max() < 1e-6


def test_a_singular_overlap_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected all of them positive"):
        metric_from_overlap(np.diag([1.0, -1e-9]))


def test_local_blocks_and_back() -> None:
    mf = mole(ETHYLENE, "def2-svp").RHF().run()
    fock, layout = mf.get_fock(), OrbitalLayout.from_mol(mf.mol)
    cut = Cut.of(graph_from_mol(mf.mol), layout, layout.template())
    sample = sample_from_matrices(cut, 0, fock[None], 4)
    assert np.all(sample.pairs[:, 0] < sample.pairs[:, 1])
    blocks = cut.blocks(fock)
    assert_close(sample.pair[:, 0], blocks.pair, atol=1e-14)
    assert_close(cut.matrix(blocks), fock, atol=1e-12)
