"""Superposed neutral atoms."""

from __future__ import annotations

from typing import Any

import numpy as np
from pyscf import gto, scf
from pyscf.scf.atom_hf import get_atm_nrhf
from scipy.linalg import block_diag

from pyscf_mlham.ao.mole import is_ghost
from pyscf_mlham.arrays import Array


def atomic_factors(mf: Any) -> list[Array]:
    """Return the factors of superposed neutral atoms, of each spin if the object has two."""
    factor = atomic_factor(mf.mol)
    two = mf.istype("UHF") or mf.istype("ROHF")
    return [factor / np.sqrt(2)] * 2 if two else [factor]


def atomic_factor(mol: gto.Mole) -> Array:
    """Return L of superposed spherical neutral atoms, projected on their own AOs: D = L L^T is block-diagonal."""
    atoms = {symbol: _factor(alone) for symbol, alone in single_atoms(mol).items()}
    blocks = [
        atoms.get(mol.atom_symbol(i), np.zeros((end - begin, 0)))
        for i, (_, _, begin, end) in enumerate(mol.aoslice_by_atom())
    ]
    return np.asarray(block_diag(*blocks))


def single_atoms(mol: gto.Mole) -> dict[str, gto.Mole]:
    """Return each kind of real atom alone, in its own basis set; equal symbols have equal ones."""
    filled = [i for i, (_, _, begin, end) in enumerate(mol.aoslice_by_atom()) if end > begin and not is_ghost(mol, i)]
    atoms = {symbol: gto.Mole() for symbol in map(mol.atom_symbol, filled)}
    for symbol, alone in atoms.items():
        alone.atom, alone.unit, alone.cart, alone.verbose = [(symbol, (0.0, 0.0, 0.0))], "Bohr", mol.cart, 0
        alone.basis = {symbol: mol._basis[symbol]}
        alone.ecp = {symbol: mol._ecp[symbol]} if symbol in mol._ecp else {}
        alone.spin = None
        alone.build(dump_input=False, parse_arg=False)
    return atoms


def atomic_densities(mol: gto.Mole) -> dict[str, tuple[gto.Mole, Array]]:
    """Return each kind of real atom alone, and its spherical density matrix.

    It is that of PySCF's minao occupations; with a pseudopotential, which these lack, that of an atomic SCF.
    """
    quiet = mol.copy()
    quiet.verbose = 0
    solved = get_atm_nrhf(quiet) if mol._pseudo else {}
    densities = {}
    for symbol, alone in single_atoms(mol).items():
        factor = _factor(alone) if symbol not in mol._pseudo else solved[symbol][2] * np.sqrt(solved[symbol][3])
        densities[symbol] = alone, factor @ factor.T
    return densities


def _factor(alone: gto.Mole) -> Array:
    """Return L of one neutral atom in its own AOs, from PySCF's minao occupations."""
    density = scf.hf.init_guess_by_minao(alone)
    filled = density.mo_occ > 0
    orbitals = density.mo_coeff[:, filled]
    norms = np.einsum("mi,mn,ni->i", orbitals, alone.intor("int1e_ovlp"), orbitals)
    return np.asarray(orbitals * np.sqrt(density.mo_occ[filled] / norms))
