"""Properties of PySCF molecules and cells: graph, ghost atoms, basis sets and core potentials."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf import gto

from pyscf_mlham.ao.cell import graph_from_lattice
from pyscf_mlham.ao.structure import Graph

OPEN_D = (21, 29), (39, 47), (57, 79), (89, 111)  # first and last atomic number of elements with open d or f shells
STRAIGHT = 1e-2  # Bohr; distance from a line up to which atoms are on it


def graph_from_mol(mol: gto.Mole, cutoff: float = np.inf) -> Graph:
    """Return the graph of a PySCF molecule; see `graph_from_lattice`; cutoff: Bohr, infinite for all pairs."""
    positions = np.asarray(mol.atom_coords(unit="Bohr"))
    return graph_from_lattice(numbers_of(mol), positions, np.eye(3), cutoff, dimension=0)


def graph_from_cell(cell: Any, cutoff: float = 0.0) -> Graph:
    """Return the graph of a PySCF cell; see `graph_from_lattice`; cutoff: Bohr."""
    positions, lattice = np.asarray(cell.atom_coords(unit="Bohr")), np.asarray(cell.lattice_vectors())
    return graph_from_lattice(numbers_of(cell), positions, lattice, cutoff, int(cell.dimension))


def numbers_of(mol: gto.Mole) -> NDArray[np.int64]:
    """Return the atomic numbers of a molecule or cell, (N,), 0 for a ghost; with a pseudopotential too."""
    return np.array([gto.charge(mol.atom_symbol(i)) for i in range(mol.natm)], dtype=np.int64)


def atom_of_each_ao(mol: gto.Mole) -> NDArray[np.int64]:
    """Return the atom of each AO, (n,)."""
    return np.repeat(np.arange(mol.natm), np.diff(mol.aoslice_by_atom()[:, 2:]).ravel())


def is_ghost(mol: gto.Mole, atom: int) -> bool:
    """Whether an atom carries basis functions but no nucleus."""
    return bool(gto.is_ghost_atom(mol.atom_symbol(atom)))


def has_open_d_shell(mol: gto.Mole) -> bool:
    """Whether there is an atom with a partly filled d or f shell: of groups 3 to 11, a lanthanide or an actinide."""
    return any(first <= z <= last for z in numbers_of(mol) for first, last in OPEN_D)


def is_periodic(mol: gto.Mole) -> bool:
    """Whether a molecule is the cell of a crystal; tested by name, as the import of PySCF's cells takes a second."""
    return any(kind.__name__ == "Cell" for kind in type(mol).__mro__)


def is_linear(mol: gto.Mole) -> bool:
    """Whether all atoms are on a line, or there is only one."""
    coords = mol.atom_coords()
    sizes = np.linalg.svd(coords - coords.mean(axis=0), compute_uv=False)
    return bool(sizes[1:].max(initial=0.0) < STRAIGHT)


def farthest_atom(mol: gto.Mole) -> tuple[int, float]:
    """Return the atom that is farthest from its nearest neighbour, and their distance in Bohr."""
    distances = gto.inter_distance(mol)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.min(axis=1)
    return int(np.argmax(nearest)), float(nearest.max())


@cache
def has_core_potential(name: str, symbol: str) -> bool:
    """Whether a basis set was made with an effective core potential for an element."""
    try:
        return bool(gto.basis.load_ecp(name, symbol))
    except (KeyError, RuntimeError, ValueError, OSError, TypeError):  # the last: PySCF has it in several files
        return False


def core_potentials(basis: Any, symbols: Iterable[str]) -> dict[str, str]:
    """Return the core potentials that belong to named basis sets, in PySCF's format, for elements that have one."""
    elements = set(symbols)
    names = basis if isinstance(basis, dict) else dict.fromkeys(elements, basis)
    named = {symbol: names.get(symbol, names.get("default")) for symbol in elements}
    return {s: name for s, name in named.items() if isinstance(name, str) and has_core_potential(name, s)}


@cache
def element_shells(name: str, symbol: str) -> Any:
    """Read a basis set, once: parsing its text file takes as long as the integrals of a small molecule."""
    [shells] = gto.format_basis({symbol: name}).values()  # whose key is another one for a ghost
    return shells
