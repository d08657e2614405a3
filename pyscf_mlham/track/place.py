"""A geometry and its AOs: the frame in which matrices of different geometries are compared."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from pyscf.scf import hf

from pyscf_mlham.ao.layout import OrbitalLayout
from pyscf_mlham.ao.loewdin import metric_from_overlap
from pyscf_mlham.arrays import Array
from pyscf_mlham.density import Orbitals


class Place(NamedTuple):
    """A geometry and its AOs: functions_irreps = T^T functions_pyscf, with S the overlap of the former."""

    positions: Array  # (N, 3) Bohr
    layout: OrbitalLayout
    transform: Array  # T
    overlap: Array  # S
    root: Array  # S^1/2 T^-1, from coefficients of PySCF's AOs to those of Loewdin orbitals
    inverse: Array  # T S^-1/2, back

    @classmethod
    def of(cls, mf: Any) -> Place:
        """Return that of a mean-field object."""
        layout = OrbitalLayout.from_mol(mf.mol)
        transform = np.eye(layout.n_ao)[:, layout.order] if layout.transform is None else layout.transform
        overlap = layout.irreps_from_ao(mf.get_ovlp(mf.mol))
        half, inverse = metric_from_overlap(overlap)
        root = np.asarray(np.linalg.solve(transform.T, half).T)
        return cls(np.asarray(mf.mol.atom_coords()), layout, transform, overlap, root, transform @ inverse)

    def density(self, orbitals: Orbitals) -> Array:
        """Return densities of sets of orbitals, (s, n, n), in Loewdin orbitals."""
        coeff, occ = np.asarray(orbitals.coeff), np.atleast_2d(orbitals.occ)
        densities = []
        for c, n in zip(coeff if coeff.ndim == 3 else coeff[None], occ, strict=True):
            half = self.root @ (c[:, n > 0] * np.sqrt(n[n > 0]))
            densities.append(half @ half.T)
        return np.stack(densities)

    def external(self, mf: Any) -> Array | None:
        """Return the core Hamiltonian minus that of the bare molecule, (1, n, n) in Loewdin orbitals, Hartree."""
        if getattr(mf.get_hcore, "__func__", None) is hf.SCF.get_hcore:
            return None
        return self.operator(mf.get_hcore(mf.mol) - hf.get_hcore(mf.mol))[None]

    def operator(self, matrix: Array) -> Array:
        """Return a matrix (..., n, n) over PySCF's AOs in Loewdin orbitals."""
        return np.asarray(self.inverse.T @ matrix @ self.inverse)

    def over_aos(self, matrix: Array) -> Array:
        """Return a matrix (..., n, n) in Loewdin orbitals over PySCF's AOs."""
        return np.asarray(self.root.T @ matrix @ self.root)

    def orbitals(self, vectors: Array, occ: Array, mf: Any) -> Orbitals:
        """Return orbitals in the object's shapes from their vectors (s, n, m) in Loewdin orbitals, and occupations."""
        parts = (np.zeros_like(occ), self.inverse @ vectors, occ)
        return Orbitals(*(parts if mf.istype("UHF") else (part[0] for part in parts)))
