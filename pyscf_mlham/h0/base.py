"""H0: cheap physical Hamiltonians. A model learns dH = F - H0."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from pyscf import dft, gto, scf

from pyscf_mlham.h0.minao import minao_potential
from pyscf_mlham.h0.sap import sap_potential
from pyscf_mlham.h0.scc import self_consistent_atoms
from pyscf_mlham.scf.problem import Problem

Array = NDArray[np.float64]

SAME_H0 = 1e-4  # Hartree, between two installations' fingerprints
SCC = "scc"
BASELINES = ("sap", "minao", "hcore", SCC)


def potential(baseline: str, mol: gto.Mole, xc: str = "hf") -> Array:
    """Return the effective potential V0 of a baseline that does not depend on charge and spin.

    The caller adds the core Hamiltonian, so that relativity or point charges in it are part of H0.

    Args:
        baseline: "sap", "minao" or "hcore" (nothing).
        xc: functional of the minao mean field, "hf" for Hartree-Fock; not used by the others.

    Returns:
        (n_ao, n_ao) Hartree, PySCF's AO order.
    """
    if baseline == "sap":
        return sap_potential(mol)
    if baseline == "minao":
        return minao_potential(mol, xc)
    if baseline == "hcore":
        return np.zeros((mol.nao, mol.nao))
    expected = ", ".join(name for name in BASELINES if name != SCC)
    raise ValueError(f"unknown baseline {baseline!r}; expected one of {expected}.")


def hamiltonian(baseline: str, mol: gto.Mole, xc: str = "hf") -> Array:
    """Return H0 of an isolated, non-relativistic molecule.

    Args:
        baseline: one of `BASELINES`.
        xc: functional, "hf" for Hartree-Fock.

    Returns:
        (n_ao, n_ao), or (2, n_ao, n_ao) of alpha and beta electrons for "scc" of an open shell; Hartree.
    """
    if baseline == SCC:
        mf = scf.HF(mol) if xc.lower() == "hf" else dft.KS(mol, xc=xc)
        mf.verbose = 0
        return np.asarray(self_consistent_atoms(Problem.of(mf)).fock)
    return np.asarray(scf.hf.get_hcore(mol)) + potential(baseline, mol, xc)


@cache
def fingerprint(baseline: str, xc: str = "hf") -> float:
    """Return a number by which two installations can compare their H0.

    It is the sum of H0's eigenvalues in the metric of S, for formaldehyde in STO-3G; Hartree.
    """
    probe = gto.M(
        atom="C 0 0 0; O 0 0 1.2; H 0 0.94 -0.59; H 0 -0.94 -0.59", basis="sto-3g", unit="Angstrom", verbose=0
    )
    h0 = hamiltonian(baseline, probe, xc)
    return float(np.trace(np.linalg.solve(probe.intor("int1e_ovlp"), h0)))


def same_h0(one: float | None, other: float | None) -> bool:
    """Whether two installations compute the same H0."""
    return one is not None and other is not None and abs(one - other) <= SAME_H0
