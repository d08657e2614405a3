"""Auxiliary basis sets of the density fitting."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
from pyscf import df, gto
from pyscf.data.elements import ELEMENTS

from pyscf_mlham.ao.mole import element_shells
from pyscf_mlham.field.levels import Level

LAST_LIGHT = 10  # neon


def auxiliary_basis(mol: gto.Mole, level: Level, exchange: bool) -> dict[str, Any]:
    """Return an auxiliary basis for each element, of exchange too; PySCF's own if the level's lacks an element."""
    heavy = {s for s in mol.elements if exchange and gto.charge(s) > LAST_LIGHT}
    chosen = {s: level.heavy if s in heavy else level.light for s in set(mol.elements)}
    if _size(mol, chosen) < level.functions * mol.nao:
        chosen = dict.fromkeys(chosen, level.heavy)
    return chosen if _size(mol, chosen) else dict(df.make_auxbasis(mol))


def _size(mol: gto.Mole, basis: dict[str, Any]) -> int:
    """Return the number of auxiliary functions, 0 if the basis set lacks an element."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PySCF's advice on other sources of basis sets
            per_element = {symbol: _functions(name, symbol, bool(mol.cart)) for symbol, name in basis.items()}
    except (KeyError, RuntimeError):
        return 0
    return sum(per_element[mol.atom_pure_symbol(atom)] for atom in range(mol.natm))


@cache
def _functions(name: str, symbol: str, cart: bool) -> int:
    """Return the number of functions of a basis set on an atom."""
    shells = element_shells(name, symbol)
    width = [(l + 1) * (l + 2) // 2 if cart else 2 * l + 1 for l, *_ in shells]
    contractions = [len(rows[-1]) - 1 for _, *rows in shells]
    return int(np.dot(width, contractions))


def loaded(basis: dict[str, Any]) -> dict[str, Any]:
    """Read the basis sets that are given by name, except those of ghost atoms."""
    named = {symbol for symbol, name in basis.items() if isinstance(name, str) and symbol in ELEMENTS}
    return {symbol: element_shells(name, symbol) if symbol in named else name for symbol, name in basis.items()}


def auxiliary_molecule(integrals: Any) -> gto.Mole:
    """Return the molecule with the auxiliary functions of `mf.with_df`; PySCF's default basis set is read once."""
    mol, basis = integrals.mol, integrals.auxbasis
    return df.make_auxmol(mol, loaded(df.make_auxbasis(mol)) if basis is None else basis)
