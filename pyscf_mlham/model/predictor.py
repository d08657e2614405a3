"""mol -> H -> orbitals: the interface of a model, its domain, and the checks of its predictions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
from pyscf import gto, scf
from pyscf.data import nist
from pyscf.lib import logger

from pyscf_mlham.ao.mole import core_potentials, element_shells, farthest_atom, is_ghost, is_periodic
from pyscf_mlham.arrays import Array
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.density import (
    Orbitals,
    band_gap,
    damp_small_overlaps,
    fock_for,
    gap,
    has_intruder,
    lift,
    orbitals_from_fock,
    same_basis,
    undisturbed,
)
from pyscf_mlham.errors import MLHamError, OutOfDomainError, PredictionError
from pyscf_mlham.field import COARSE, Builds, CoarseField, ResponseField, has_hubbard
from pyscf_mlham.field.single import is_fitted
from pyscf_mlham.h0 import ATOMS, SCC, hamiltonian, potential, scc
from pyscf_mlham.h0.atoms import superposed_atoms_of
from pyscf_mlham.h0.crystal import self_consistent_crystal
from pyscf_mlham.model.domain import check_domain, kpts_of, same_functional
from pyscf_mlham.scf.applicability import unknown_field
from pyscf_mlham.scf.core import keep_core
from pyscf_mlham.scf.crystal import problem_of
from pyscf_mlham.scf.multilevel.start import refining_field, stepped
from pyscf_mlham.scf.problem import Problem
from pyscf_mlham.threads import one_blas_thread

_Fields = tuple[CoarseField, ResponseField]

STRENGTHS = (0.0, 0.004, 0.012, 0.03, 0.1)  # strengths of the overlap filter, tried in this order
# Measured on twisted ethylene and O2: collinear guesses converge to higher generalised states than minao.
COLLINEAR = "a generalised method mixes spins, and the model was trained for one that does not"
DETACHED = 10.0  # Bohr; an atom without nearer neighbours has no bonds
COLLAPSE = 0.25  # smallest gap accepted, as a share of H0's; that of a converged matrix is 0.5 or more


class Predictor(Protocol):
    """Interface of a model."""

    @property
    def config(self) -> ModelConfig:
        """Elements, charges, native basis, functional and H0."""

    @property
    def exact(self) -> bool:
        """Whether the prediction needs no check for intruder orbitals (an oracle's)."""

    @property
    def restricted(self) -> bool:
        """Whether the prediction is one matrix for both spins for all molecules."""

    def native(self, mol: gto.Mole) -> gto.Mole:
        """Return the same nuclei in the model's own basis set."""

    def correction(self, native: gto.Mole, h0: Array, kpts: Array | None = None) -> Array:
        """Return dH = F - H0, (n, n) or (2, n, n) in PySCF's AO order, Hartree; of a cell with k points like H0."""


class Prediction(NamedTuple):
    """A predicted Fock matrix and what follows from it."""

    fock: Array  # Fock matrix in the shape of the mean-field object, PySCF's AO order, Hartree
    orbitals: Orbitals  # its orbitals, filled as the object fills them
    gap: float  # between occupied and empty orbitals, Hartree
    model: str
    seconds: float
    damping: float = 0.0  # strength of the overlap filter that was needed
    lifted_from: str = ""  # native basis set, if it is not the molecule's
    made_for: str = ""  # functional of the model, if it is not the object's
    builds: Builds = Builds()  # those of H0 included

    def describe(self) -> str:
        """Return one line for a log."""
        texts = [
            f"model {self.model}, {self.seconds:.2f} s, gap {self.gap:.4f} Ha",
            f"lifted from {self.lifted_from}" * bool(self.lifted_from),
            f"made for {self.made_for}" * bool(self.made_for),
            f"Fock builds: {self.builds}" * any(self.builds),
            f"overlap filter {self.damping:g}" * bool(self.damping),
        ]
        return ", ".join(filter(None, texts))


@one_blas_thread()
def predict(
    mf: Any, model: Predictor, mol: gto.Mole | None = None, refine: bool = True, own: bool = False
) -> Prediction:
    """Predict the converged Fock matrix of a mean-field object and its orbitals.

    ``F = H0 + dH``, where H0 contains the object's own core Hamiltonian, and with it scalar relativity, external
    charges and fields.

    Args:
        mf: PySCF mean-field object; not changed.
        refine: whether to build a cheap field of the predicted density and solve its response, if the object has
            one: the error of the density falls tenfold and more. Without it the matrix is the model's own.
        own: whether that field is the object's own if it is density-fitted. Its integrals are then made, which an SCF
            needs anyway.
    """
    start = time.perf_counter()
    mol = mf.mol if mol is None else mol
    config = model.config
    native = native_if_applicable(mf, mol, model)  # before anything is computed
    if is_periodic(mol):
        return _predict_crystal(mf, model, start, refine and own)
    lifted = not same_basis(native, mol)
    with undisturbed(mf):
        problem = Problem.of(mf, mol)
    fields = _fields(problem, mol, model) if refine else None  # before H0, which shares them or their integrals
    base = _baseline(problem, mol, native if lifted else None, fields, config)
    with counted(base.builds):
        correction = _checked(model.correction(native, base.native), native, mf.istype("GHF"))
        fock, orbitals, damping = _decode(problem, mol, base, lift(correction, native, mol), model.exact)
    refinement = Builds()
    if fields is not None:
        fock, orbitals, refinement = _refined(problem, fock, orbitals, *fields, own)
    return Prediction(
        fock,
        orbitals,
        gap(orbitals),
        config.name,
        time.perf_counter() - start,
        damping,
        lifted_from=config.basis if lifted else "",
        made_for="" if same_functional(config.xc, getattr(mf, "xc", "hf")) else config.xc,
        builds=base.builds.plus(refinement),
    )


def _predict_crystal(mf: Any, model: Predictor, start: float, refine: bool) -> Prediction:
    """Predict F(k) = H0(k) + dH(k) on the object's own mesh of k points, without its integrals.

    Args:
        refine: whether to build the field of the predicted density once, and solve its response.
    """
    name, baseline = model.config.name, model.config.baseline
    if baseline != ATOMS:
        raise OutOfDomainError(f"the H0 {baseline} of model {name} is one of molecules")
    h0 = superposed_atoms_of(mf, kpts_of(mf), model.config.xc)
    h0 = np.stack([h0, h0]) if mf.istype("UHF") or mf.istype("KUHF") else h0
    dh = model.correction(model.native(mf.mol), h0, kpts_of(mf))
    if dh.shape != h0.shape:
        raise PredictionError(f"the model's matrix has shape {dh.shape}, expected {h0.shape}")
    h0, fock = (m if mf.istype("KSCF") else m[..., 0, :, :].real for m in (h0, h0 + _hermitian(dh)))
    overlap = np.asarray(mf.get_ovlp())
    orbitals = orbitals_from_fock(mf, fock, overlap)
    if not model.exact and has_intruder(orbitals, orbitals_from_fock(mf, h0, overlap), overlap):
        raise PredictionError("an empty orbital is among the occupied ones of the prediction")
    builds = Builds()
    if refine and not model.exact and not hasattr(mf, "undo_accelerate") and not unknown_field(mf):
        with undisturbed(mf):
            problem = problem_of(mf)
            point, builds = self_consistent_crystal(problem, orbitals)
            fock, orbitals = np.asarray(point.fock), problem.orbitals(point.fock)
        keep_core(problem)
    seconds = time.perf_counter() - start
    return Prediction(fock, orbitals, band_gap(mf, orbitals), name, seconds, builds=builds)


@contextmanager
def counted(builds: Builds) -> Iterator[None]:
    """Report the builds of a prediction if it fails in this block."""
    try:
        yield
    except MLHamError as error:
        error.builds = builds
        raise


def native_if_applicable(mf: Any, mol: gto.Mole, model: Predictor) -> gto.Mole:
    """Return the molecule in the model's basis set; raise OutOfDomainError with the reason if it is not applicable."""
    check_domain(mf, mol, model.config)
    if mf.istype("GHF") and getattr(model, "restricted", False):
        raise OutOfDomainError(COLLINEAR)
    if model.config.baseline == SCC and (reason := scc.inapplicable(mf, mol)):
        raise OutOfDomainError(reason)
    return model.native(mol)


class _Baseline(NamedTuple):
    """H0 of an object and of its model."""

    fock: Array  # H0 in the shape of the object, Hartree
    native: Array  # H0 in the model's own basis set, its input, Hartree
    corrected: Callable[[Array], Array]  # returns the object's Fock matrix with a correction in the object's basis set
    builds: Builds


def _baseline(
    problem: Problem, mol: gto.Mole, native: gto.Mole | None, fields: _Fields | None, config: ModelConfig
) -> _Baseline:
    """Compute H0; `native` is the molecule in the model's basis set if that is not the molecule's own."""
    count = 1 if native is None else 2
    other = None if native is None else hamiltonian(config.baseline, native, config.xc)
    if config.baseline == SCC:
        point = scc.self_consistent_atoms(problem, fields)
        own = problem.hcore + point.v if other is None else other
        if own.ndim < point.v.ndim:  # an unrestricted object of a closed shell
            own = np.stack([own, own])
        return _Baseline(point.fock, own, lambda dh: problem.fock(point.v + dh, point.density), Builds(count))
    mf, v0 = problem.mf, potential(config.baseline, mol, config.xc)
    h0 = fock_for(mf, np.asarray(problem.hcore), mol.nao) + fock_for(mf, v0, mol.nao)
    own = np.asarray(scf.hf.get_hcore(mol)) + v0 if other is None else other  # without relativity, external fields
    return _Baseline(h0, own, lambda dh: h0 + fock_for(mf, dh, mol.nao), Builds(count * (config.baseline == "minao")))


def _fields(problem: Problem, mol: gto.Mole, model: Predictor) -> _Fields | None:
    """Return the coarse field of the object and its response, None if not needed, not applicable or not cheap."""
    mf = problem.mf
    two_spins = mf.istype("ROHF") or mf.istype("GHF")  # in one matrix
    unsuitable = two_spins or has_hubbard(mf) or np.iscomplexobj(problem.hcore)
    if model.exact or mol is not mf.mol or unsuitable or unknown_field(mf):
        return None
    try:
        return CoarseField(mf, COARSE), ResponseField(mf)
    except Exception as error:  # a prediction is useful without it
        logger.info(mf, "no coarse field for this prediction (%s: %s)", type(error).__name__, error)
        return None


def _refined(
    problem: Problem, fock: Array, raw: Orbitals, coarse: CoarseField, response: ResponseField, own: bool
) -> tuple[Array, Orbitals, Builds]:
    """Build a field at the predicted density once, and solve its response."""
    mf, builds = problem.mf, Builds()
    try:
        # exact integrals of accelerated objects: their first full build corrects the prediction as well
        field = refining_field(mf, own) or (coarse if is_fitted(mf) else None)
        if field is None:
            return fock, raw, builds
        builds = field.cost
        result = stepped(problem, raw, field, response)
        refined = problem.orbitals(result.fock)
        if _is_plausible(refined, raw, problem.overlap):
            return np.asarray(result.fock), refined, builds
        reason = "its gap collapses"
    except Exception as error:  # a prediction is useful without it
        reason = f"{type(error).__name__}: {error}"
    logger.info(mf, "the prediction is used without a response step (%s)", reason)
    return fock, raw, builds


def _is_plausible(orbitals: Orbitals, reference: Orbitals, overlap: Array) -> bool:
    """Whether no intruder is occupied and the gap has not collapsed, compared with orbitals without gross errors."""
    return not has_intruder(orbitals, reference, overlap) and gap(orbitals) >= COLLAPSE * gap(reference)


def native_mol(mol: gto.Mole, basis: str) -> gto.Mole:
    """Return the real atoms of a molecule in a named spherical basis set."""
    real = [i for i in range(mol.natm) if not is_ghost(mol, i)]
    symbols = [mol.atom_pure_symbol(i) for i in real]
    return gto.M(
        atom=[(symbol, mol.atom_coord(i)) for symbol, i in zip(symbols, real, strict=True)],
        unit="Bohr",
        basis={symbol: element_shells(basis, symbol) for symbol in set(symbols)},
        ecp=core_potentials(basis, symbols),
        charge=mol.charge,
        spin=mol.spin,
        verbose=0,
    )


def _checked(correction: Array, native: gto.Mole, generalised: bool) -> Array:
    """Return the hermitian part of a model's matrix; raise an error if it has a wrong shape or is not finite."""
    n = native.nao
    if correction.shape == (2 * n, 2 * n) and not generalised:
        raise OutOfDomainError("the model was trained for a generalised method, and this is not one")
    if generalised and correction.shape != (2 * n, 2 * n):
        raise OutOfDomainError(COLLINEAR)
    if correction.shape not in ((n, n), (2, n, n), (2 * n, 2 * n)):
        raise PredictionError(f"the model's matrix has shape {correction.shape}, expected ({n}, {n}) or (2, {n}, {n})")
    return _hermitian(correction)


def _hermitian(correction: Array) -> Array:
    if not np.all(np.isfinite(correction)):
        raise PredictionError("the model's matrix is not finite; train it again, or use another model")
    return (correction + np.swapaxes(correction, -1, -2).conj()) / 2


def _decode(problem: Problem, mol: gto.Mole, base: _Baseline, dh: Array, exact: bool) -> tuple[Array, Orbitals, float]:
    """Return F = H0 + dH with the weakest overlap filter that keeps intruders out of the occupied orbitals."""
    s = problem.overlap
    if exact:
        fock = base.corrected(dh)
        return fock, problem.orbitals(fock), 0.0
    reference = problem.orbitals(base.fock)
    for strength in STRENGTHS:
        fock = base.corrected(damp_small_overlaps(dh, s, strength) if strength else dh)
        orbitals = problem.orbitals(fock)
        if _is_plausible(orbitals, reference, s):
            return fock, orbitals, strength
    raise PredictionError(
        f"the predicted gap has collapsed ({gap(orbitals):.4f} Ha; that of H0 is {gap(reference):.4f} Ha), or a "
        f"virtual orbital is among the occupied ones{_detached(mol)}"
    )


def _detached(mol: gto.Mole) -> str:
    """Name the atom without neighbours that may have caused a failure, "" if all have neighbours."""
    atom, distance = farthest_atom(mol)
    if distance < DETACHED:
        return ""
    return (
        f"; atom {atom} ({mol.atom_symbol(atom)}) is {distance * nist.BOHR:.3g} Angstrom from its nearest neighbour, "
        "check the input geometry"
    )
