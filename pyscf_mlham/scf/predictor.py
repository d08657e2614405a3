"""mol -> H -> orbitals: the contract of a model, its domain, and the checks before anything is believed."""

from __future__ import annotations

import time
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.lib import logger

from pyscf_mlham import baseline
from pyscf_mlham.ao.mole import element_shells, graph_from_mol, is_ghost
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.density import (
    Orbitals,
    damp_small_overlaps,
    fock_for,
    foreign_share,
    gap,
    lift,
    orbitals_from_fock,
    same_basis,
)
from pyscf_mlham.errors import OutOfDomainError, PredictionError
from pyscf_mlham.field import COARSE, CoarseField, ResponseField
from pyscf_mlham.scf.applicability import is_periodic, unknown_field
from pyscf_mlham.scf.multilevel.levels import CheapLevel
from pyscf_mlham.scf.multilevel.solver import solve
from pyscf_mlham.scf.problem import Problem
from pyscf_mlham.threads import one_blas_thread

Array = NDArray[np.float64]

STRENGTHS = (0.0, 0.004, 0.012, 0.03, 0.1)  # of the overlap filter, tried in this order
# An occupied orbital that lies by more than INTRUDER in H0 orbitals higher than HIGH above H0's occupied ones does
# not belong there; for converged Fock matrices of organic molecules the share is below 0.025.
INTRUDER = 0.15
HIGH = 1.0  # Hartree
# Measured on twisted ethylene and O2: collinear guesses end in higher generalised states than minao.
COLLINEAR = "a generalised method mixes spins, and the model was made for one that does not"
REFINED = 1e-5  # orbital gradient to which the response to a prediction is solved, Hartree
COLLAPSE = 0.25  # smallest gap believed, as a share of H0's; that of a converged matrix is 0.5 or more


class Predictor(Protocol):
    """What a model must offer."""

    @property
    def config(self) -> ModelConfig:
        """Elements, charges, native basis, functional and H0."""
        ...

    @property
    def exact(self) -> bool:
        """True when the answer needs no check for intruder orbitals (an oracle's)."""
        ...

    @property
    def restricted(self) -> bool:
        """True when the answer is one matrix for both spins, whatever the molecule."""
        ...

    def native(self, mol: gto.Mole) -> gto.Mole:
        """Return the same nuclei in the model's own basis set."""
        ...

    def correction(self, native: gto.Mole) -> Array:
        """Return dH = F - H0, (n, n) or (2, n, n) in PySCF's AO order, Hartree."""
        ...


class Prediction(NamedTuple):
    """A predicted Fock matrix and what follows from it.

    Attributes:
        fock: in the shape of the mean-field object, PySCF's AO order, Hartree.
        orbitals: of that matrix, occupied as the object would.
        gap: between occupied and empty orbitals, Hartree.
        model: name of the model.
        damping: strength of the overlap filter that was needed, 0 when none.
        lifted_from: native basis set, "" when the molecule is in it.
        made_for: functional of the model, "" when it is the object's.
        coarse_builds: coarse Fock builds of a network's prediction, H0's included though it may be remembered.
        seconds: wall time.
    """

    fock: Array
    orbitals: Orbitals
    gap: float
    model: str
    damping: float
    lifted_from: str
    made_for: str
    coarse_builds: int
    seconds: float

    def describe(self) -> str:
        """Return one line for a log."""
        words = [f"model {self.model}", f"{self.seconds:.2f} s", f"gap {self.gap:.4f} Ha"]
        if self.lifted_from:
            words.append(f"lifted from {self.lifted_from}")
        if self.made_for:
            words.append(f"made for {self.made_for}")
        if self.coarse_builds:
            words.append(f"{self.coarse_builds} coarse Fock build{'s' if self.coarse_builds > 1 else ''}")
        if self.damping:
            words.append(f"overlap filter {self.damping:g}")
        return ", ".join(words)


@one_blas_thread()
def predict(mf: Any, model: Predictor, mol: gto.Mole | None = None, refine: bool = True) -> Prediction:
    """Predict the Fock matrix that a mean-field object would converge to, and its orbitals.

    ``F = hcore + V0 + dH`` with the object's own core Hamiltonian, so that scalar relativity, external charges
    and fields are in it.

    Args:
        mf: PySCF mean-field object; left as it is.
        model: of the correction dH.
        mol: molecule, the object's own by default.
        refine: build the coarse field of the predicted density and solve its response, if the object has one: the
            error of the density falls tenfold and more. Without it the matrix is the model's own.
    """
    start = time.perf_counter()
    mol = mf.mol if mol is None else mol
    config = model.config
    check_domain(mf, mol, config)
    _check_kind(mf, model)  # before anything is computed
    native = model.native(mol)
    h = np.asarray(mf.get_hcore(mol))
    # before H0, whose integrals are the same and are shared while both are in use
    field = _coarse_field(mf, mol, model) if refine and not np.iscomplexobj(h) else None
    correction = lift(_checked(model.correction(native), native, mf.istype("GHF")), native, mol)
    v0 = baseline.potential(config.baseline, mol, config.xc)
    h0 = fock_for(mf, h, mol.nao) + fock_for(mf, v0, mol.nao)
    dh = fock_for(mf, correction, mol.nao)
    fock, orbitals, damping = _decode(mf, mol, h0, dh, model.exact)
    lifted = not same_basis(native, mol)
    coarse_builds = (2 if lifted else 1) * (config.baseline == "minao")
    if field is not None:
        fock, orbitals = _refined(mf, fock, orbitals, field)
        coarse_builds += field.tally.builds
    return Prediction(
        fock=fock,
        orbitals=orbitals,
        gap=gap(orbitals),
        model=config.name,
        damping=damping,
        lifted_from=config.basis if lifted else "",
        made_for="" if same_name(config.xc, getattr(mf, "xc", "hf")) else config.xc,
        coarse_builds=coarse_builds,
        seconds=time.perf_counter() - start,
    )


def _coarse_field(mf: Any, mol: gto.Mole, model: Predictor) -> CoarseField | None:
    """Return a coarse field of the object, None if it is not needed, not known or not cheap."""
    two_spins = mf.istype("ROHF") or mf.istype("GHF")  # in one matrix
    if model.exact or mol is not mf.mol or two_spins or unknown_field(mf):
        return None
    if hasattr(mf, "U_idx"):
        return None  # DFT+U: the field lacks what the user added
    try:
        return CoarseField(mf, COARSE)
    except Exception as error:  # a prediction is of use without it
        logger.info(mf, "no coarse field for this prediction (%s: %s)", type(error).__name__, error)
        return None


def _refined(mf: Any, fock: Array, orbitals: Orbitals, field: CoarseField) -> tuple[Array, Orbitals]:
    """One coarse build at the predicted density, and the solution of its response."""
    try:
        problem = Problem.of(mf)
        point = problem.point_of(orbitals, field)
        level = CheapLevel(problem, ResponseField(mf).with_kernel(point.factors)).shifted(point)
        result = level.build(solve([level], point, max(level.share * point.gradient, REFINED)).orbitals)
        refined = problem.orbitals(result.fock)
        if _believable(refined, orbitals, problem.overlap):
            return np.asarray(result.fock), refined
        reason = "its gap collapses"
    except Exception as error:  # a prediction is of use without it
        reason = f"{type(error).__name__}: {error}"
    logger.info(mf, "the prediction is used as it is, without a response step (%s)", reason)
    return fock, orbitals


def _believable(orbitals: Orbitals, reference: Orbitals, overlap: Array) -> bool:
    """Whether no intruder is occupied and the gap has not collapsed, against orbitals without gross errors."""
    return foreign_share(orbitals, reference, overlap, HIGH) < INTRUDER and gap(orbitals) >= COLLAPSE * gap(reference)


def same_name(one: str, other: str) -> bool:
    """Whether two names of basis sets or functionals are the same to PySCF: def2-SVP, def2svp.

    Args:
        one: name.
        other: name.
    """
    plain = (str(name).lower().replace("-", "").replace("_", "").replace(" ", "") for name in (one, other))
    return len(set(plain)) == 1


def native_mol(mol: gto.Mole, basis: str) -> gto.Mole:
    """Return the real atoms of a molecule in a named spherical basis set.

    Args:
        mol: molecule.
        basis: name that PySCF knows.
    """
    real = [i for i in range(mol.natm) if not is_ghost(mol, i)]
    symbols = [mol.atom_pure_symbol(i) for i in real]
    return gto.M(
        atom=[(symbol, mol.atom_coord(i)) for symbol, i in zip(symbols, real, strict=True)],
        unit="Bohr",
        basis={symbol: element_shells(basis, symbol) for symbol in set(symbols)},
        charge=mol.charge,
        spin=mol.spin,
        verbose=0,
    )


def check_domain(mf: Any, mol: gto.Mole, config: ModelConfig) -> None:
    """Raise OutOfDomainError, with the reason, where the model must not be used.

    Args:
        mf: PySCF mean-field object.
        mol: molecule.
        config: what the model knows.
    """
    _check_method(mf, mol)
    _check_molecule(mol)
    numbers = {gto.charge(mol.atom_symbol(i)) for i in range(mol.natm)}
    if unknown := sorted(numbers - set(config.elements)):
        symbols = ", ".join(gto.mole._symbol(z) for z in unknown)
        known = ", ".join(gto.mole._symbol(z) for z in config.elements)
        raise OutOfDomainError(f"element {symbols} is not among those of model {config.name} ({known})")
    if mol.charge not in config.charges:
        known = ", ".join(f"{q:+d}" if q else "0" for q in config.charges)
        raise OutOfDomainError(f"total charge {mol.charge:+d} is not among those of model {config.name} ({known})")


def _check_method(mf: Any, mol: gto.Mole) -> None:
    if is_periodic(mol):
        raise OutOfDomainError("periodic systems are not supported")
    if not any(mf.istype(kind) for kind in ("RHF", "UHF", "GHF")):
        raise OutOfDomainError(f"{type(mf).__name__} is not a one-component mean-field method")
    if mol.natm == 0:
        raise OutOfDomainError("there are no atoms (a custom Hamiltonian?)")
    expected = (2 if mf.istype("GHF") else 1) * mol.nao
    overlap = mf.get_ovlp(mol)
    if overlap.shape != (expected, expected) or np.iscomplexobj(overlap):
        raise OutOfDomainError(f"{type(mf).__name__} works in spinors, not in real atomic orbitals")


def _check_kind(mf: Any, model: Predictor) -> None:
    if mf.istype("GHF") and getattr(model, "restricted", False):
        raise OutOfDomainError(COLLINEAR)


def _check_molecule(mol: gto.Mole) -> None:
    if any(is_ghost(mol, i) for i in range(mol.natm)):
        raise OutOfDomainError("ghost atoms are not supported")
    if mol.has_ecp() or mol._pseudo:
        raise OutOfDomainError("effective core potentials are not supported")
    if mol.nelectron == 0:
        raise OutOfDomainError("there are no electrons")
    if mol.natm == 1:
        raise OutOfDomainError("a single atom has no bonds to predict; PySCF's guess is made of atoms already")
    try:
        graph_from_mol(mol)
    except ValueError as error:
        raise OutOfDomainError(str(error).rstrip(".")) from error


def _checked(correction: Array, native: gto.Mole, generalised: bool) -> Array:
    """Return the hermitian part of a model's answer, or refuse it."""
    n = native.nao
    if correction.shape == (2 * n, 2 * n) and not generalised:
        raise OutOfDomainError("the model was made for a generalised method, and this is none")
    if generalised and correction.shape != (2 * n, 2 * n):
        raise OutOfDomainError(COLLINEAR)
    if correction.shape not in ((n, n), (2, n, n), (2 * n, 2 * n)):
        raise PredictionError(f"the model's matrix has shape {correction.shape}, expected ({n}, {n}) or (2, {n}, {n})")
    if not np.all(np.isfinite(correction)):
        raise PredictionError("the model's matrix is not finite")
    return (correction + np.swapaxes(correction, -1, -2).conj()) / 2


def _decode(mf: Any, mol: gto.Mole, h0: Array, dh: Array, exact: bool) -> tuple[Array, Orbitals, float]:
    """H = H0 + dH, filtered no more than it takes to keep intruder orbitals out of the occupied ones."""
    s = mf.get_ovlp(mol)
    if exact:
        return h0 + dh, orbitals_from_fock(mf, h0 + dh, s), 0.0
    reference = orbitals_from_fock(mf, h0, s)
    for strength in STRENGTHS:
        fock = h0 + (damp_small_overlaps(dh, s, strength) if strength else dh)
        orbitals = orbitals_from_fock(mf, fock, s)
        if _believable(orbitals, reference, s):
            return fock, orbitals, strength
    raise PredictionError(
        f"the predicted gap has collapsed ({gap(orbitals):.4f} Ha, H0 alone gives {gap(reference):.4f}), or an empty "
        "orbital stays among the occupied ones"
    )
