"""H0: cheap physical Hamiltonians. A model learns dH = F - H0."""

from __future__ import annotations

from functools import cache

import numpy as np
from pyscf import dft, gto, scf

from pyscf_mlham.arrays import Array
from pyscf_mlham.h0.atoms import ATOMS, superposed_atoms
from pyscf_mlham.h0.minao import minao_potential
from pyscf_mlham.h0.sap import sap_potential
from pyscf_mlham.h0.scc import SCC, self_consistent_atoms
from pyscf_mlham.scf.problem import Problem

SAME_H0 = 1e-4  # Hartree, between two installations' fingerprints
OF_MOLECULES = ("sap", "minao", "hcore", SCC)
BASELINES = (*OF_MOLECULES, ATOMS)  # the last one of crystals


def potential(baseline: str, mol: gto.Mole, xc: str = "hf") -> Array:
    """Return the effective potential V0 of a baseline that does not depend on charge and spin.

    The caller adds the core Hamiltonian, so that relativity or point charges in it are part of H0.

    Args:
        baseline: "sap", "minao" or "hcore" (nothing).
        xc: functional of the minao mean field, "hf" for Hartree-Fock; not used by the others.
    """
    if baseline == "sap":
        return sap_potential(mol)
    if baseline == "minao":
        return minao_potential(mol, xc)
    if baseline == "hcore":
        return np.zeros((mol.nao, mol.nao))
    raise ValueError(f"unknown baseline {baseline!r}; expected one of {', '.join(OF_MOLECULES[:-1])}.")


def hamiltonian(baseline: str, mol: gto.Mole, xc: str = "hf") -> Array:
    """Return H0 of an isolated, non-relativistic molecule; baseline: one of `OF_MOLECULES`.

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

    It is the sum of H0's eigenvalues in the metric of S, for formaldehyde in STO-3G, or, of the baseline of crystals,
    for two hydrogen atoms in GTH-SZV in a cell of a bulk crystal and in one of a layer; Hartree.
    """
    if baseline == ATOMS:
        return _fingerprint_of_crystals(xc)
    probe = gto.M(
        atom="C 0 0 0; O 0 0 1.2; H 0 0.94 -0.59; H 0 -0.94 -0.59", basis="sto-3g", unit="Angstrom", verbose=0
    )
    h0 = hamiltonian(baseline, probe, xc)
    return float(np.trace(np.linalg.solve(probe.intor("int1e_ovlp"), h0)))


def _fingerprint_of_crystals(xc: str) -> float:
    from pyscf.pbc import gto as pbc_gto  # importing PySCF's periodic part takes a second

    total, atoms = 0.0, "H 0.3 0.2 0.1; H 0.5 0.4 1.5"
    for dimension, height in ((3, 4.0), (2, 40.0)):
        settings = {"unit": "Bohr", "basis": "gth-szv", "pseudo": "gth-pbe", "dimension": dimension, "verbose": 0}
        probe = pbc_gto.M(atom=atoms, a=np.diag([4.0, 4.0, height]), **settings)
        h0 = superposed_atoms(probe, np.zeros((1, 3)), xc)[0]
        total += float(np.trace(np.linalg.solve(probe.pbc_intor("int1e_ovlp", hermi=1), h0)).real)
    return total


def same_h0(one: float | None, other: float | None) -> bool:
    """Whether two installations compute the same H0."""
    return one is not None and other is not None and abs(one - other) <= SAME_H0
