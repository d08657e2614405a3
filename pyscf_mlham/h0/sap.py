"""'sap': superposition of atomic potentials, analytic and exactly equivariant."""

from __future__ import annotations

from functools import cache

import numpy as np
from pyscf import gto, lib
from pyscf.gto.mole import fakemol_for_cgtf_charge

from pyscf_mlham.ao.mole import is_ghost
from pyscf_mlham.arrays import Array

SAP_BASIS = "sapgrasplarge"
BATCH_BYTES = 2.0e8  # of three-centre integrals held at a time


def sap_potential(mol: gto.Mole) -> Array:
    """Return the superposition of the electrons' potentials in the neutral atoms, fitted by Gaussian charges.

    Analytic, without grid noise; exactly equivariant. Lehtola, J. Chem. Theory Comput. 15, 1593 (2019);
    Lehtola, Visscher, Engel, J. Chem. Phys. 152, 144105 (2020). Atoms are summed in batches, so that
    memory stays at `BATCH_BYTES` for any size of the molecule. Ghost atoms contribute nothing.
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
    """Return exponents (1/Bohr^2) and charges (e) of an atom's fitted electron density."""
    table = np.asarray(gto.basis.load(SAP_BASIS, symbol)[0][1:], dtype=np.float64)
    return table[:, 0], table[:, 1]
