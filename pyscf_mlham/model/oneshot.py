"""OneShot(): a mean-field object with the orbitals, gap and density of the predicted Fock matrix, without SCF."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from pyscf import lib
from pyscf.lib import logger

from pyscf_mlham.density import Orbitals, band_gap
from pyscf_mlham.errors import ModelError
from pyscf_mlham.model.bands import fock_between
from pyscf_mlham.model.guess import ModelLike, registered_model
from pyscf_mlham.model.predictor import predict
from pyscf_mlham.scf.decorator import Decoration, is_on_gpu, private_parts


def OneShot(mf: Any, model: ModelLike = None) -> Any:  # noqa: N802  (named like PySCF's mean-field factories)
    """Return an object of mf's own kind whose `run()` predicts the orbitals instead of iterating.

    Everything that PySCF does with converged orbitals works on it: `analyze()`, `dip_moment()`,
    `mulliken_pop()`, `make_rdm1()`, cubegen. `energy_tot()` costs one Fock build and is not run automatically. Bands of
    crystals, `get_bands()`, cost neither SCF nor integrals of electron pairs.

    Args:
        mf: PySCF mean-field object; not changed.
        model: a model, its name or its path; None takes what `register` has set, as 'ml' does.
    """
    if isinstance(mf, _OneShotSCF):
        mf = mf.undo_oneshot()
    return lib.set_class(_OneShotSCF(mf, model), (_OneShotSCF, mf.__class__))


class _OneShotSCF(Decoration):
    __name_mixin__ = "OneShot"

    _keys = {"model", "fock", "gap"}  # noqa: RUF012  (PySCF's idiom)

    def __init__(self, mf: Any, model: ModelLike) -> None:
        self.__dict__.update(private_parts(mf))
        self.model = model
        self._forget()

    def _forget(self) -> None:
        self.fock: NDArray[np.float64] | None = None
        self.mo_energy: Any = None
        self.mo_coeff: Any = None
        self.mo_occ: Any = None
        self.e_tot = float("nan")  # `energy_tot` computes it
        self.converged = False
        self.cycles = 0
        self.scf_summary: dict[str, float] = {}

    def undo_oneshot(self: Any) -> Any:
        """Return the plain mean-field object, with the predicted orbitals in it."""
        plain = lib.view(self, lib.drop_class(self.__class__, _OneShotSCF))
        del plain.model, plain.fock
        return plain

    _undecorated = undo_oneshot

    def _redecorated(self, mf: Any) -> Any:
        """Decorate an object of PySCF; one of gpu4pyscf stays plain, with the predicted orbitals."""
        return mf if is_on_gpu(mf) else OneShot(mf, self.model)

    def kernel(self: Any, *_: Any, **__: Any) -> float:
        """Predict the Fock matrix and diagonalise it; e_tot is not a number, `energy_tot` returns the energy."""
        self.build()
        prediction = predict(self, registered_model(self.model, self))
        self.fock = prediction.fock
        self.mo_energy, self.mo_coeff, self.mo_occ = prediction.orbitals
        logger.note(self, "one-shot orbitals, no SCF: %s", prediction.describe())
        return float(self.e_tot)

    scf = kernel

    def make_rdm1(self: Any, mo_coeff: Any = None, mo_occ: Any = None, **kwargs: Any) -> Any:
        """Return the density matrix of the predicted orbitals; see PySCF's make_rdm1."""
        if mo_coeff is None and self.mo_coeff is None:
            raise ModelError("no orbitals yet; call run() first.")
        return super().make_rdm1(mo_coeff, mo_occ, **kwargs)  # type: ignore[misc]

    def get_bands(self: Any, kpts_band: Any, *args: Any, **kwargs: Any) -> Any:
        """Return energies and orbitals of the predicted Fock matrix at other k points; see PySCF's get_bands.

        With a density matrix among the arguments they are those of its field, as PySCF computes it.
        """
        from pyscf.pbc.scf.hf import eigh_with_canonical_orth  # importing PySCF's periodic part takes a second

        if args or kwargs:
            return super().get_bands(kpts_band, *args, **kwargs)  # type: ignore[misc]
        if self.fock is None:
            raise ModelError("no orbitals yet; call run() first.")
        points = np.reshape(kpts_band, (-1, 3))
        at_k = self.fock if self.istype("KSCF") else self.fock[..., None, :, :]
        fock = fock_between(self, at_k, points)
        overlap = self.mol.pbc_intor("int1e_ovlp", hermi=1, kpts=points)
        first = slice(None) if np.ndim(kpts_band) > 1 else 0
        spins = [eigh_with_canonical_orth(f, overlap) for f in (fock if fock.ndim == 4 else [fock])]
        energies, coefficients = zip(*((e[first], c[first]) for e, c in spins), strict=True)
        return (energies, coefficients) if len(spins) == 2 else (energies[0], coefficients[0])

    @property
    def gap(self: Any) -> float:
        """HOMO-LUMO gap, the smallest of the spins', of a crystal of all k points together, Hartree."""
        if self.mo_energy is None:
            raise ModelError("no orbitals yet; call run() first.")
        return band_gap(self, Orbitals(self.mo_energy, self.mo_coeff, self.mo_occ))

    def reset(self: Any, mol: Any = None) -> Any:
        """Forget the prediction and, if given, take another molecule."""
        super().reset(mol)  # type: ignore[misc]
        self._forget()
        return self

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Raise: a predicted density is not variational, as derivatives of the energy assume."""
        raise NotImplementedError("a one-shot density has no energy surface; run an SCF (init_guess = 'ml') first.")

    nuc_grad_method = Gradients = Hessian = as_scanner = _refuse
