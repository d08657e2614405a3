"""The oracle: a model that returns a converged Fock matrix for the geometry of its calculation.

It tests the interface, gives the largest saving that any model can reach, and carries a converged Hamiltonian into
another basis set or method.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pyscf import gto

from pyscf_mlham import checkpoint
from pyscf_mlham.ao.mole import is_periodic, numbers_of
from pyscf_mlham.arrays import Array
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.density import fock_for
from pyscf_mlham.errors import ModelError, OutOfDomainError
from pyscf_mlham.h0 import ATOMS, SCC, fingerprint, potential, scc
from pyscf_mlham.h0.atoms import superposed_atoms_of
from pyscf_mlham.model.domain import kpts_of
from pyscf_mlham.scf.problem import Problem

ARCHITECTURE = "oracle"
SAME_GEOMETRY = 1e-6  # Bohr


class OracleModel:
    """dH = F - H0 of one converged calculation; it is restricted if that had one matrix for both spins."""

    exact = True

    def __init__(self, config: ModelConfig, mol: gto.Mole, correction: Array, at_k: bool = False) -> None:
        self.config, self._at_k = config, at_k
        self._mol = mol
        self._correction = correction
        self.restricted = correction.shape == (mol.nao, mol.nao)

    @classmethod
    def of(cls, mf: Any, h0: str = "sap", name: str = "oracle") -> OracleModel:
        """Keep the Fock matrix of a converged mean-field object.

        Args:
            h0: name of the baseline of molecules; with "scc" the correction is smallest, and loses least in other
                basis sets. That of crystals is "atoms".
        """
        if not mf.converged:
            raise ModelError("an oracle needs a converged calculation; run mf.kernel() first and check mf.converged.")
        mol, xc = mf.mol, getattr(mf, "xc", "hf")
        if mol.has_ecp() and not is_periodic(mol):  # pseudopotentials of cells count, too
            raise OutOfDomainError("effective core potentials are not supported; use an all-electron basis set.")
        h0 = ATOMS if is_periodic(mol) else h0
        if h0 == SCC and (reason := scc.inapplicable(mf, mol)):
            raise OutOfDomainError(reason)
        fock = np.asarray(mf.get_fock(dm=mf.make_rdm1()))
        config = ModelConfig(
            name=name,
            architecture=ARCHITECTURE,
            elements=tuple(sorted(set(numbers_of(mol).tolist()))),
            charges=(int(mol.charge),),
            basis=mol.basis if isinstance(mol.basis, str) else "its own basis",
            xc=xc,
            baseline=h0,
            baseline_fingerprint=fingerprint(h0, xc),
            pseudo=str(mol.pseudo) if is_periodic(mol) else "",
        )
        return cls(config, mol.copy(), fock - _h0_of(mf, h0), mf.istype("KSCF"))

    def native(self, mol: gto.Mole) -> gto.Mole:
        """Return the molecule of the calculation."""
        here, own = _places(mol), _places(self._mol)
        same_atoms = here.shape == own.shape and np.array_equal(numbers_of(mol), numbers_of(self._mol))
        if not same_atoms or not np.abs(here - own).max() <= SAME_GEOMETRY:
            raise OutOfDomainError(f"model {self.config.name} supports one geometry only, and this is another")
        return self._mol

    def correction(self, native: gto.Mole, h0: Array, kpts: Array | None = None) -> Array:  # noqa: ARG002
        """Return dH in the shape of the calculation, Hartree; of a cell, whose spins may share it, in that of H0."""
        if kpts is None:
            return self._correction.copy()
        at_k = self._correction if self._at_k else self._correction[..., None, :, :]
        if at_k.shape[-3:] != h0.shape[-3:]:
            raise OutOfDomainError(f"model {self.config.name} supports one mesh of k points only, and this is another")
        return np.array(np.broadcast_to(at_k, h0.shape))

    def save(self, folder: str | Path) -> None:
        """Write the oracle as a model folder."""
        if is_periodic(self._mol):
            raise ModelError("an oracle of a crystal cannot be saved; keep the object.")
        if not isinstance(self._mol.basis, str) or self._mol.cart:
            raise ModelError("only an oracle in a named spherical basis set can be saved; give mol.basis as one name.")
        weights = {"numbers": numbers_of(self._mol), "positions": _places(self._mol)}
        weights |= {"spin": np.array(self._mol.spin), "correction": self._correction}
        checkpoint.write(folder, self.config, weights)

    @classmethod
    def from_weights(cls, config: ModelConfig, weights: Mapping[str, Array]) -> OracleModel:
        """Rebuild a saved oracle; weights: numbers, positions (Bohr), spin and correction (Hartree)."""
        if set(weights) != set(expected := ("numbers", "positions", "spin", "correction")):
            raise ModelError(f"model {config.name}: weights are {sorted(weights)}, expected {sorted(expected)}.")
        numbers, correction = weights["numbers"], weights["correction"]
        count, size = len(np.ravel(numbers)), correction.shape[-1] if correction.ndim else 0
        shapes = (numbers.shape, weights["positions"].shape, weights["spin"].shape)
        square = correction.shape in ((size, size), (2, size, size)) and size >= count
        if shapes != ((count,), (count, 3), ()) or not square:
            raise ModelError(f"model {config.name}: its weights have the shapes {shapes} and {correction.shape}.")
        atoms = list(zip(map(int, numbers), weights["positions"].tolist(), strict=True))
        options = {"unit": "Bohr", "charge": config.charges[0], "spin": int(weights["spin"]), "verbose": 0}
        try:
            mol = gto.M(atom=atoms, basis=config.basis, **options)
        except (LookupError, RuntimeError, ValueError, ArithmeticError, gto.basis.BasisNotFoundError) as error:
            text = f"PySCF cannot build its molecule in basis {config.basis!r} ({error})"
            raise ModelError(f"model {config.name}: {text}; update PySCF.") from error
        if mol.nao != size:
            raise ModelError(f"model {config.name}: {config.basis!r} has {mol.nao} functions, its matrix {size}.")
        return cls(config, mol, correction)


def _h0_of(mf: Any, h0: str) -> Array:
    """Return H0 of an object in its own shape, Hartree."""
    mol = mf.mol
    if is_periodic(mol):
        at_k = superposed_atoms_of(mf, kpts_of(mf))
        return at_k if mf.istype("KSCF") else at_k[0].real
    v0 = scc.self_consistent_atoms(Problem.of(mf)).v if h0 == SCC else potential(h0, mol, getattr(mf, "xc", "hf"))
    return np.asarray(fock_for(mf, np.asarray(mf.get_hcore(mol)), mol.nao) + fock_for(mf, v0, mol.nao))


def _places(mol: gto.Mole) -> Array:
    """Return the positions of a molecule's atoms, (N, 3) Bohr; of a cell with its lattice vectors, (N + 3, 3)."""
    return np.vstack([mol.atom_coords(), *([mol.lattice_vectors()] if is_periodic(mol) else [])])
