"""The domain of a model: the calculations to which it is applicable."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from pyscf import gto
from pyscf.data.elements import ELEMENTS
from pyscf.dft import libxc

from pyscf_mlham.ao.lattice import mesh_from_kpts, shortest_vector
from pyscf_mlham.ao.mole import core_potentials, element_shells, graph_from_cell, graph_from_mol, is_ghost, is_periodic
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.errors import OutOfDomainError
from pyscf_mlham.field import has_hubbard
from pyscf_mlham.h0 import SCC
from pyscf_mlham.scf.applicability import is_known, is_replaced

MESH = 1e-4  # of the distance of two k points
SAME_FUNCTIONS = 1e-8  # deviation of exponents, coefficients and parameters of a pseudopotential


def check_domain(mf: Any, mol: gto.Mole, config: ModelConfig) -> None:
    """Raise OutOfDomainError with the reason if a model is not applicable."""
    if any(is_ghost(mol, i) for i in range(mol.natm)):
        raise OutOfDomainError("ghost atoms are not supported")
    if is_periodic(mol):
        check_cell(mf, mol, config)
    elif config.pseudo:
        raise OutOfDomainError(f"model {config.name} is one of crystals, and this is a molecule")
    else:
        _check_method(mf, mol)
        _check_molecule(mol, config)
    numbers = {gto.charge(mol.atom_symbol(i)) for i in range(mol.natm)}
    if unknown := sorted(numbers - set(config.elements)):
        known = f"model {config.name} ({symbols(config.elements)})"
        raise OutOfDomainError(f"element {symbols(unknown)} is not among those of {known}")
    if mol.charge not in config.charges:
        known = f"model {config.name} ({signed(config.charges)})"
        raise OutOfDomainError(f"total charge {mol.charge:+d} is not among those of {known}")


def symbols(elements: Iterable[int]) -> str:
    """Name elements: H, C."""
    return ", ".join(ELEMENTS[z] for z in sorted(elements))


def signed(charges: Iterable[int]) -> str:
    """List charges: -1, 0, +1."""
    return ", ".join(f"{q:+d}" if q else "0" for q in charges)


def _check_method(mf: Any, mol: gto.Mole) -> None:
    if not any(mf.istype(kind) for kind in ("RHF", "UHF", "GHF")):
        raise OutOfDomainError(f"{type(mf).__name__} is not a one-component mean-field method")
    if mol.natm == 0:
        raise OutOfDomainError("there are no atoms (a custom Hamiltonian?)")
    expected = (2 if mf.istype("GHF") else 1) * mol.nao
    overlap = mf.get_ovlp(mol)
    if overlap.shape != (expected, expected) or np.iscomplexobj(overlap):
        raise OutOfDomainError(f"{type(mf).__name__} works in spinors, not in real atomic orbitals")


def _check_molecule(mol: gto.Mole, config: ModelConfig) -> None:
    if mol._pseudo:
        raise OutOfDomainError("pseudopotentials are not supported")
    if mol.has_ecp():
        if config.baseline != SCC:
            raise OutOfDomainError("effective core potentials are not supported")
        _check_cores(mol, config)
    if mol.nelectron == 0:
        raise OutOfDomainError("there are no electrons")
    if mol.natm == 1:
        raise OutOfDomainError("a single atom has no bonds to predict; PySCF's guess is made of atoms already")
    try:
        graph_from_mol(mol, cutoff=0.0)
    except ValueError as error:
        raise OutOfDomainError(str(error).rstrip(".")) from error


def _check_cores(mol: gto.Mole, config: ModelConfig) -> None:
    """Raise OutOfDomainError if core potentials replace other electrons than those of the model's basis set."""
    symbols = {mol.atom_pure_symbol(i): i for i in range(mol.natm)}
    known = core_potentials(config.basis, symbols)
    for symbol, atom in symbols.items():
        expected = gto.basis.load_ecp(known[symbol], symbol)[0] if symbol in known else 0
        if mol.atom_nelec_core(atom) != expected:
            found, own = mol.atom_nelec_core(atom), f"that of model {config.name} {expected}"
            raise OutOfDomainError(f"the effective core potential of {symbol} replaces {found} electrons, {own}")


def check_cell(mf: Any, cell: Any, config: ModelConfig) -> None:
    """Raise OutOfDomainError with the reason if a model is not applicable to a periodic object."""
    name = f"model {config.name}"
    if not config.pseudo:
        raise OutOfDomainError(f"{name} is one of molecules, and this is a crystal")
    if cell.dimension < 1:
        raise OutOfDomainError("the cell has no periodic direction (dimension = 0)")
    if reason := _unusual(mf):
        raise OutOfDomainError(reason)
    if not same_functional(xc := getattr(mf, "xc", "hf"), config.xc):
        raise OutOfDomainError(f"the functional is {xc}, that of {name} is {config.xc}")
    _check_functions(cell, config)
    try:
        graph_from_cell(cell)
    except ValueError as error:
        raise OutOfDomainError(str(error).rstrip(".")) from error
    check_mesh(kpts_of(mf), cell, config)


def _unusual(mf: Any) -> str:
    """Return what the field of a periodic object has that models lack, "" if nothing."""
    if not is_known(mf):
        return f"{type(mf).__name__} is not restricted or unrestricted Kohn-Sham or Hartree-Fock"
    if has_hubbard(mf):
        return "models lack Hubbard's U"
    if hasattr(mf, "with_x2c") or is_replaced(mf, "get_hcore"):
        return "its core Hamiltonian is not PySCF's own for the cell"
    return ""


def _check_functions(cell: Any, config: ModelConfig) -> None:
    """Raise OutOfDomainError if basis set or pseudopotentials are not those of a model."""
    for label, symbol in {cell.atom_symbol(i): cell.atom_pure_symbol(i) for i in range(cell.natm)}.items():
        try:
            basis = element_shells(config.basis, symbol)
            pseudo = gto.mole.format_pseudo({symbol: config.pseudo}).get(symbol)
        except (KeyError, RuntimeError, ValueError):  # PySCF's parsers
            raise OutOfDomainError(f"{config.pseudo} or {config.basis} lacks {symbol}") from None
        if not _alike(cell._basis.get(label), basis):
            raise OutOfDomainError(f"the basis set of {symbol} is not that of model {config.name}, {config.basis}")
        if not _alike(cell._pseudo.get(label), pseudo):
            raise OutOfDomainError(f"{symbol} has no pseudopotential {config.pseudo}, as model {config.name} does")


def _alike(one: Any, other: Any) -> bool:
    """Whether nested lists of numbers are the same."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if one is None or other is None:
        return one is other
    return abs(float(one) - float(other)) <= SAME_FUNCTIONS * max(1.0, abs(float(other)))


def kpts_of(mf: Any) -> np.ndarray:
    """Return the k points of a periodic object, (N_k, 3) 1/Bohr."""
    return np.reshape(mf.kpts if mf.istype("KSCF") else mf.kpt, (-1, 3))


def check_mesh(kpts: np.ndarray, cell: Any, config: ModelConfig) -> None:
    """Raise OutOfDomainError if H(R) of a mesh of k points does not reach as far as a model, or is not real."""
    lattice = np.asarray(cell.lattice_vectors())
    try:
        mesh = mesh_from_kpts(kpts, lattice)
    except ValueError as error:
        raise OutOfDomainError(str(error).rstrip(".")) from error
    twice = 2 * kpts @ lattice.T / (2 * np.pi)  # k and -k are both on the mesh if 2k is a difference of its points
    if np.abs(twice * mesh - np.rint(twice * mesh)).max() > MESH:
        raise OutOfDomainError("the mesh of k points lacks -k of some k; expected cell.make_kpts(...)")
    shortest = shortest_vector(mesh, lattice, cell.dimension)
    cutoff = float(config.options.get("network", {}).get("cutoff", 0.0))
    if shortest < 2 * cutoff:
        raise OutOfDomainError(
            f"the mesh of k points {mesh.tolist()} distinguishes cells up to {shortest / 2:.1f} Bohr, and model "
            f"{config.name} has pairs of atoms up to {cutoff:.1f} Bohr; use more k points"
        )


def same_functional(one: str, other: str) -> bool:
    """Whether two names are those of one functional, such as pbe and pbe,pbe."""
    try:
        return bool(libxc.parse_xc(one) == libxc.parse_xc(other))
    except (AttributeError, KeyError, TypeError, ValueError):  # not a name
        return False


def same_name(one: str, other: str) -> bool:
    """Whether two names of basis sets are the same for PySCF, such as def2-SVP and def2svp."""
    plain = (str(name).lower().replace("-", "").replace("_", "").replace(" ", "") for name in (one, other))
    return len(set(plain)) == 1
