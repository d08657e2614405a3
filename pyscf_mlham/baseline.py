"""H0: physical Hamiltonians that cost next to nothing. A model learns dH = F - H0.

H0 is a core Hamiltonian plus an effective potential. The potential is what this file makes; the core
Hamiltonian comes from whoever asks, so that relativity or point charges already in it stay in H0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf import dft, gto, lib, scf
from pyscf.gto.mole import fakemol_for_cgtf_charge

from pyscf_mlham.ao.mole import is_ghost
from pyscf_mlham.errors import ResourceError
from pyscf_mlham.field import CoarseField, Level

Array = NDArray[np.float64]

SAP_BASIS = "sapgrasplarge"
BATCH_BYTES = 2.0e8  # of three-centre integrals held at a time
SAME_H0 = 1e-4  # Hartree, between two installations' fingerprints
# The field of the minao baseline of shipped models. Models depend on it: never change it, add another.
H0_LEVEL = Level(
    "minao-1", "def2-universal-jfit", "def2-universal-jkfit", grid=1, dtype=np.float32, functions=2.0, far=1e-8
)
BASELINES = ("sap", "minao", "hcore")


def potential(baseline: str, mol: gto.Mole, xc: str = "hf") -> Array:
    """Effective potential V0 of a named baseline.

    Args:
        baseline: "sap" (superposition of atomic potentials), "minao" (mean field of PySCF's minao
            density) or "hcore" (nothing).
        mol: molecule.
        xc: functional of the minao mean field, "hf" for Hartree-Fock; the others ignore it.

    Returns:
        (n_ao, n_ao) Hartree, PySCF's AO order.
    """
    if baseline == "sap":
        return _remembered(("sap",), mol, lambda: sap_potential(mol))
    if baseline == "minao":
        return _remembered(("minao", xc.lower()), mol, lambda: minao_potential(mol, xc))
    if baseline == "hcore":
        return np.zeros((mol.nao, mol.nao))
    raise ValueError(f"unknown baseline {baseline!r}; expected one of {', '.join(BASELINES)}.")


_last: dict[tuple[Any, ...], Array] = {}


def _remembered(what: tuple[Any, ...], mol: gto.Mole, compute: Callable[[], Array]) -> Array:
    """Compute, or return the last answer where the molecule is still the same: model and guess both ask for it."""
    key = (*what, mol.cart, mol._atm.tobytes(), mol._bas.tobytes(), mol._env.tobytes())
    result = _last.get(key)  # another thread may drop it at any time
    if result is None:
        result = compute()
        _last.clear()
        _last[key] = result
    return result.copy()


def forget() -> None:
    """Drop the remembered potential, so that the next one is computed and its cost shows."""
    _last.clear()


def hamiltonian(baseline: str, mol: gto.Mole, xc: str = "hf") -> Array:
    """H0 = T + V_nuclei + V0 of an isolated, non-relativistic molecule; see `potential`."""
    return np.asarray(scf.hf.get_hcore(mol)) + potential(baseline, mol, xc)


def sap_potential(mol: gto.Mole) -> Array:
    """Superposition of the electrons' potentials in the neutral atoms, as fits of Gaussian charges.

    Analytic, without grid noise; exactly equivariant. Lehtola, J. Chem. Theory Comput. 15, 1593 (2019);
    Lehtola, Visscher, Engel, J. Chem. Phys. 152, 144105 (2020). Atoms are summed in batches, so that
    memory stays at `BATCH_BYTES` whatever the size of the molecule.

    Args:
        mol: molecule without effective core potentials; ghost atoms add nothing.

    Returns:
        (n_ao, n_ao) Hartree, PySCF's AO order.
    """
    if mol.has_ecp():
        raise ValueError(
            "the SAP baseline describes all electrons, but the molecule has effective core potentials; "
            "use the minao baseline or an all-electron basis set."
        )
    n_pairs = mol.nao * (mol.nao + 1) // 2
    potential = np.zeros(n_pairs)
    atoms = [i for i in range(mol.natm) if not is_ghost(mol, i)]
    step = max(1, int(BATCH_BYTES / (8 * max(n_pairs, 1))))
    for start in range(0, len(atoms), step):
        charged = mol.copy()
        for atom in atoms[start : start + step]:
            exponents, charges = _sap_charges(mol.atom_pure_symbol(atom))
            charged += fakemol_for_cgtf_charge(mol.atom_coord(atom)[None, :], exponents, charges)
        shells = (0, mol.nbas, 0, mol.nbas, mol.nbas, charged.nbas)
        repulsion = charged.intor(mol._add_suffix("int3c2e"), shls_slice=shells, aosym="s2ij")
        potential -= repulsion.reshape(n_pairs, -1).sum(axis=1)  # the fits carry the electrons' negative charge
    return np.asarray(lib.unpack_tril(potential))


@cache
def _sap_charges(symbol: str) -> tuple[Array, Array]:
    """Exponents (1/Bohr^2) and charges (e) of an atom's fitted electron cloud."""
    loaded = gto.basis.load(SAP_BASIS, symbol)
    shells = loaded[symbol] if isinstance(loaded, dict) else loaded
    table = np.asarray(shells[0][1:], dtype=np.float64)
    return table[:, 0], table[:, 1]


def minao_potential(mol: gto.Mole, xc: str) -> Array:
    """Mean field of PySCF's minao density, to the accuracy of a coarse field: a sixth of a Fock build.

    It is within 2e-5 Ha of the exact one on average in Loewdin orbitals (drug-like molecules, B3LYP/def2-SVP). Where
    there is no room for fitted integrals, Coulomb and exchange are PySCF's own, which takes as long as a Fock build.

    Args:
        mol: molecule; its charge and spin do not matter, as the density is that of neutral atoms.
        xc: functional, "hf" for Hartree-Fock.

    Returns:
        (n_ao, n_ao) Hartree, PySCF's AO order.
    """
    mf: Any = scf.hf.RHF(mol) if xc.lower() == "hf" else dft.rks.RKS(mol, xc=xc)
    mf.verbose = 0
    density = scf.hf.init_guess_by_minao(mol)
    occupied = density.mo_occ > 0
    factor = density.mo_coeff[:, occupied] * np.sqrt(density.mo_occ[occupied])
    try:
        return CoarseField(mf, H0_LEVEL).potential([factor])
    except ResourceError:
        if hasattr(mf, "grids"):
            mf.grids.level = H0_LEVEL.grid
        return np.asarray(mf.get_veff(mol, density))


@cache
def fingerprint(baseline: str, xc: str = "hf") -> float:
    """One number that tells whether this installation's H0 is the one that a model was trained on.

    The sum of H0's eigenvalues in the metric of S, for formaldehyde in STO-3G; Hartree.
    """
    probe = gto.M(
        atom="C 0 0 0; O 0 0 1.2; H 0 0.94 -0.59; H 0 -0.94 -0.59", basis="sto-3g", unit="Angstrom", verbose=0
    )
    h0 = hamiltonian(baseline, probe, xc)
    return float(np.trace(np.linalg.solve(probe.intor("int1e_ovlp"), h0)))


def same_h0(there: float | None, here: float | None) -> bool:
    """Whether two installations compute the same H0.

    Args:
        there: `fingerprint`, Hartree.
        here: the same of the other.
    """
    return there is not None and here is not None and abs(there - here) <= SAME_H0
