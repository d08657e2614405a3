"""Three-centre integrals of pairs of overlapping orbitals, against those of all pairs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from pyscf import df, gto, lib

from pyscf_mlham.field import three_centre as module
from pyscf_mlham.field.pairs import Pairs
from pyscf_mlham.field.three_centre import three_centre

APART = "O 0 0 0; H 0 0.7 0.6; H 0 -0.7 0.6; O 12 3 1; Cl 5 0 0; H 6.2 0 0; H 12.9 3 1"


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Number of PySCF's threads."""
    before = lib.num_threads()
    lib.num_threads(request.param)
    yield request.param
    lib.num_threads(before)


def blocks_of(mol: gto.Mole, auxmol: gto.Mole, omega: float, pairs: Pairs) -> list[np.ndarray]:
    """All blocks of integrals in the order of their pairs."""
    found = {}
    three_centre(mol, auxmol, omega, pairs, lambda block, part: found.update({part.start: block}))
    return [found[start] for start in sorted(found)]


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("cart", [False, True])
@pytest.mark.parametrize("omega", [0.0, 0.3])
def test_integrals_of_overlapping_pairs(
    cart: bool, omega: float, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mol = gto.M(atom=APART, basis="def2-tzvp", cart=cart, spin=1)
    auxmol, pairs = df.make_auxmol(mol, "weigend"), Pairs(mol, 1e-4)
    monkeypatch.setattr(module, "BLOCK_BYTES", 1e6)
    monkeypatch.setattr(module, "PIECE", 1.0)
    blocks = blocks_of(mol, auxmol, omega, pairs)
    both = mol + auxmol
    with both.with_range_coulomb(omega or None):
        expected = both.intor("int3c2e", shls_slice=(0, mol.nbas, 0, mol.nbas, mol.nbas, both.nbas))[pairs.both].T
    assert len(pairs) < mol.nao * (mol.nao + 1) // 4  # most pairs are far apart
    assert len(blocks) > 3 * threads
    assert np.abs(np.concatenate(blocks, axis=1) - expected).max() < 1e-13


@pytest.mark.parametrize(("most", "blocks"), [(1, "nbas"), (1e9, None)])
def test_blocks_of_one_shell_or_of_all(most: float, blocks: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    mol = gto.M(atom="O 0 0 0; H 0 0.7 0.6; H 0 -0.7 0.6", basis="def2-svp")
    auxmol, pairs = df.make_auxmol(mol, "weigend"), Pairs(mol, 1e-8)
    monkeypatch.setattr(module, "BLOCK_BYTES", most)
    monkeypatch.setattr(module, "SHARE", 0.5)  # no limit but the memory
    monkeypatch.setattr(module, "PIECE", 1.0)
    found = blocks_of(mol, auxmol, 0.0, pairs)
    assert len(found) == (getattr(mol, blocks) if blocks else 1)
    assert sum(block.shape[1] for block in found) == len(pairs)
