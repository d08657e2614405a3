"""Predictions for crystals: H(k) = H0(k) + dH(k), on the object's own mesh of k points."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyscf_mlham.density import Orbitals, gap, has_intruder
from pyscf_mlham.errors import OutOfDomainError, PredictionError
from pyscf_mlham.h0 import CRYSTAL_BASELINES
from pyscf_mlham.model.domain import kpts_of
from pyscf_mlham.scf.problem import Problem

Array = NDArray[Any]


class Predicted(NamedTuple):
    """A predicted Fock matrix in the shape of the object, its orbitals, its gap, and the Fock builds of its H0."""

    fock: Array
    orbitals: Orbitals
    gap: float
    coarse_builds: int
    full_builds: int


def predicted(problem: Problem, model: Any) -> Predicted:
    """Predict the converged Fock matrix of a periodic object; model: a `Predictor`, applicable to it."""
    mf, baseline = problem.mf, model.config.baseline
    if baseline not in CRYSTAL_BASELINES:
        raise OutOfDomainError(f"the H0 {baseline} of model {model.config.name} is one of molecules")
    point, coarse_builds, full_builds = CRYSTAL_BASELINES[baseline](problem)
    dh = correction(mf, model, problem.hcore + point.v)
    if not mf.istype("KSCF"):
        dh = dh.real
    fock = np.asarray(problem.fock(point.v + dh, point.density))
    orbitals = problem.orbitals(fock)
    if not model.exact and _intrudes(problem, orbitals, problem.orbitals(point.fock)):
        raise PredictionError("an empty orbital is among the occupied ones of the prediction")
    return Predicted(fock, orbitals, band_gap(mf, orbitals), coarse_builds, full_builds)


def correction(mf: Any, model: Any, h0: Array) -> Array:
    """Return a model's dH in the shape of H0, (n, n) or (N_k, n, n), (2, ...) for two spins; Hartree."""
    at_k = h0 if mf.istype("KSCF") else h0[..., None, :, :]
    dh = model.correction(model.native(mf.mol), at_k, kpts_of(mf))
    if dh.shape != at_k.shape:
        raise PredictionError(f"the model's matrix has shape {dh.shape}, expected {at_k.shape}")
    if not np.all(np.isfinite(dh)):
        raise PredictionError("the model's matrix is not finite")
    return np.asarray((dh + np.swapaxes(dh.conj(), -1, -2)).reshape(h0.shape) / 2)


def band_gap(mf: Any, orbitals: Orbitals) -> float:
    """Return lowest empty minus highest occupied energy of all k points, the smallest of both spins; Hartree."""
    energy, occ = np.asarray(orbitals.energy), np.asarray(orbitals.occ)
    spins = 2 if mf.istype("UHF") or mf.istype("KUHF") else 1
    parts = zip(energy.reshape(spins, -1), occ.reshape(spins, -1), strict=True)
    return min(gap(Orbitals(e, np.empty((0, 0)), n)) for e, n in parts)


def _intrudes(problem: Problem, orbitals: Orbitals, reference: Orbitals) -> bool:
    """Whether an occupied orbital of any spin and k point is mostly made of high orbitals of H0."""

    def flat(arrays: Orbitals) -> list[Array]:
        energy, coeff, occ = (np.asarray(a) for a in arrays)
        n_ao, n = coeff.shape[-2:]
        return [energy.reshape(-1, n), coeff.reshape(-1, n_ao, n), occ.reshape(-1, n)]

    own, others = flat(orbitals), flat(reference)
    overlaps = np.reshape(problem.overlap, (-1, *problem.overlap.shape[-2:]))
    for k, (here, there) in enumerate(zip(zip(*own, strict=True), zip(*others, strict=True), strict=True)):
        overlap = overlaps[k % len(overlaps)]
        if has_intruder(Orbitals(*here), Orbitals(*there), overlap):
            return True
    return False
