"""Superposed neutral atoms."""

from __future__ import annotations

from typing import Any

import numpy as np
from pyscf import gto, scf

from pyscf_mlham.ao.mole import is_ghost
from pyscf_mlham.arrays import Array


def atomic_factors(mf: Any) -> list[Array]:
    """Return the factors of superposed neutral atoms, of each spin if the object has two."""
    factor = atomic_factor(mf.mol)
    two = mf.istype("UHF") or mf.istype("ROHF")
    return [factor / np.sqrt(2)] * 2 if two else [factor]


def atomic_factor(mol: gto.Mole) -> Array:
    """Return L of superposed spherical neutral atoms, projected on their own AOs: D = L L^T is block-diagonal."""
    filled = [i for i, (_, _, begin, end) in enumerate(mol.aoslice_by_atom()) if end > begin]
    real = {mol.atom_symbol(i): i for i in filled if not is_ghost(mol, i)}
    atoms = {symbol: _atom(mol, i) for symbol, i in real.items()}  # equal symbols have equal basis sets
    blocks = [
        atoms.get(mol.atom_symbol(i), np.zeros((end - begin, 0)))
        for i, (_, _, begin, end) in enumerate(mol.aoslice_by_atom())
    ]
    factor = np.zeros((mol.nao, sum(block.shape[1] for block in blocks)))
    row = column = 0
    for block in blocks:
        factor[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return factor


def _atom(mol: gto.Mole, atom: int) -> Array:
    """Return L of one neutral atom in its own AOs, from PySCF's minao occupations."""
    symbol = mol.atom_symbol(atom)
    alone = gto.Mole()
    alone.atom, alone.unit, alone.cart, alone.verbose = [(symbol, (0.0, 0.0, 0.0))], "Bohr", mol.cart, 0
    alone.basis = {symbol: mol._basis[symbol]}
    alone.ecp = {symbol: mol._ecp[symbol]} if symbol in mol._ecp else {}
    alone.spin = None
    alone.build(dump_input=False, parse_arg=False)
    density = scf.hf.init_guess_by_minao(alone)
    filled = density.mo_occ > 0
    orbitals = density.mo_coeff[:, filled]
    norms = np.einsum("mi,mn,ni->i", orbitals, alone.intor("int1e_ovlp"), orbitals)
    return np.asarray(orbitals * np.sqrt(density.mo_occ[filled] / norms))
