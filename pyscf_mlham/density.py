"""F, S -> orbitals -> density matrix, by the own methods of each kind of mean-field object.

Also the preparation of a Fock matrix: the spin shape of the object, the lift into another basis set, and the filter
along small overlap eigenvalues.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from pyscf import gto

from pyscf_mlham.ao.loewdin import metric_from_overlap
from pyscf_mlham.ao.mole import is_linear, is_periodic
from pyscf_mlham.arrays import Array

IDEMPOTENT = 1e-6  # largest deviation of natural occupations from integers in an idempotent density
LINEAR_DEPENDENCE = 1e-8  # overlap eigenvalues below this are dropped
DEGENERATE = 5e-3  # Hartree; orbitals closer than this are treated as degenerate
ALIKE = 1e-4  # Hartree; orbitals closer than this differ by rounding of single precision
BESIDE = 0.25  # radians; neither a half, nor a third, nor a quarter of a right angle
OCCUPIED = 0.5  # electrons; smearing leaves fewer in the virtual orbitals
# An occupied orbital with a share above INTRUDER in H0 orbitals more than HIGH above H0's occupied ones is an intruder;
# for converged Fock matrices of organic molecules the share is below 0.025.
INTRUDER, HIGH = 0.15, 1.0  # HIGH in Hartree


class Orbitals(NamedTuple):
    """Orbitals in the shapes of the mean-field object."""

    energy: Array  # (n_mo,) or (2, n_mo) Hartree
    coeff: Array  # (n_ao, n_mo) or (2, n_ao, n_mo)
    occ: Array  # (n_mo,) or (2, n_mo) electrons


def orbitals_from_fock(
    mf: Any, fock: Array, overlap: Array | None = None, orthogonaliser: Array | None = None
) -> Orbitals:
    """Solve F C = S C e and fill the orbitals, by the object's own `eig` and `get_occ`.

    Near-linear dependence, point-group symmetry and smearing are handled by these; the object is not changed and
    prints nothing.

    Args:
        fock: Fock matrix in the object's shape, see `fock_for`; Hartree.
        overlap: S, computed by default.
        orthogonaliser: X with X^T S X = 1, by default from the object's check_linear_dependency.
    """
    s = mf.get_ovlp(mf.mol) if overlap is None else overlap
    with undisturbed(mf):
        x = mf.check_linear_dependency(s) if orthogonaliser is None else orthogonaliser
        energy, coeff = mf.eig(fock, s, x=x)
        return Orbitals(energy, coeff, np.asarray(mf.get_occ(energy, coeff)))  # lists of k points if smeared


@contextmanager
def undisturbed(mf: Any) -> Iterator[None]:
    """Silence a mean-field object inside the block, and restore its attributes after it.

    Its get_occ, for example, writes results (entropy, electron numbers) into the object.
    """
    state = dict(vars(mf))
    mf.verbose, mf.scf_summary = 0, {}
    try:
        yield
    finally:
        vars(mf).clear()
        vars(mf).update(state)


def density_from_orbitals(mf: Any, orbitals: Orbitals) -> Array:
    """Return the density matrix of orbitals in the object's own shape, tagged with them."""
    return np.asanyarray(mf.make_rdm1(orbitals.coeff, orbitals.occ))


def tagged_orbitals(density: Any) -> Orbitals:
    """Return the orbitals, of zero energy, with which a density matrix is tagged."""
    return Orbitals(np.zeros(density.mo_occ.shape), density.mo_coeff, density.mo_occ)


def spin_breaking(mf: Any, mol: gto.Mole) -> Any:
    """Return how PySCF would break the spin symmetry of a molecule's guess: 1 (its default) or "mix"; 0 if not."""
    method = getattr(mf, "init_guess_breaksym", 0)  # two-component objects lack it
    return method if method and mf.istype("UHF") and mol.spin == 0 and not is_periodic(mol) else 0


def with_mixed_frontier(mol: gto.Mole, orbitals: Orbitals) -> Orbitals:
    """Mix HOMO and LUMO by 45 degrees, with opposite signs for the two spins, to break spin symmetry.

    The orbitals of a degenerate pair are arbitrary: for these, the mixing angle is that of the largest distance between
    the alpha and the beta orbital.
    """
    coeff = np.array(orbitals.coeff)
    for spin, sign in ((0, 1.0), (1, -1.0)):
        energy, occupied = np.asarray(orbitals.energy[spin]), np.asarray(orbitals.occ[spin]) > OCCUPIED
        if occupied.all() or not occupied.any():
            continue
        homo = np.flatnonzero(occupied)[np.argmax(energy[occupied])]
        lumo = np.flatnonzero(~occupied)[np.argmin(energy[~occupied])]
        pair = coeff[spin][:, [homo, lumo]]
        if energy[lumo] - energy[homo] < DEGENERATE:
            angle = _angle_apart(mol, pair) - np.pi / 4  # the mixing below adds 45 degrees
            pair = pair @ [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        coeff[spin][:, homo] = pair @ [1, sign] / np.sqrt(2)
    return Orbitals(orbitals.energy, coeff, orbitals.occ)


def _angle_apart(mol: gto.Mole, pair: Array) -> float:
    """Return the mixing angle at which the charge centres of two orbitals are farthest apart, 0 if all are equal."""
    r = np.einsum("xmn,mi,nj->ijx", mol.intor("int1e_r"), pair, pair)
    half, cross = (r[0, 0] - r[1, 1]) / 2, r[0, 1]  # the distance is 2 |cos 2t half + sin 2t cross|
    return float(np.arctan2(2 * half @ cross, half @ half - cross @ cross) / 4)


def aligned(mol: gto.Mole, orbitals: Orbitals) -> Orbitals:
    """Rotate degenerate orbitals that are occupied in part to the axes; return the same object if there are none.

    The energy of such a state, the hole of OH for example, depends on its orientation on the integration grid, by 1e-8
    to 1e-4 Hartree. Along the axes there is no torque, and rounding does not choose the orientation. That of a molecule
    that is not linear depends on it by itself (ethane cation: 5e-4 Hartree), and the axes may be saddle points: the
    orbitals are rotated beside them.
    """
    if not any(len(_open_edges(energy, occ)) for energy, _, occ in _channels(orbitals)):
        return orbitals
    coeff, beside = np.array(orbitals.coeff), not is_linear(mol)
    second = np.einsum("xmn,x->mn", mol.intor("int1e_rr")[[0, 4, 8]], (1.0, 2.0, 4.0))  # x^2 + 2 y^2 + 4 z^2
    for energy, c, occ in _channels(orbitals._replace(coeff=coeff)):
        for edge in _open_edges(energy, occ):
            alike = np.abs(energy - energy[edge]) < ALIKE
            c[:, alike] = c[:, alike] @ np.linalg.eigh(c[:, alike].T @ second @ c[:, alike])[1]
            if beside:
                upper = np.triu(np.full((alike.sum(),) * 2, BESIDE), 1)
                c[:, alike] = c[:, alike] @ scipy.linalg.expm(upper - upper.T)
    return orbitals._replace(coeff=coeff)


def _open_edges(energy: Array, occ: Array) -> Array:
    """Return the orbitals of a spin channel whose next one is degenerate with them and less occupied."""
    return np.flatnonzero((np.diff(energy) < ALIKE) & (np.diff(occ) < 0))


def gap(orbitals: Orbitals) -> float:
    """Return the HOMO-LUMO gap, the smallest of the spin channels, Hartree; infinite without a HOMO or a LUMO."""
    return min(map(_gap_between, np.atleast_2d(orbitals.energy), np.atleast_2d(orbitals.occ)))


def band_gap(mf: Any, orbitals: Orbitals) -> float:
    """Return the gap of a molecule, or of all k points of a crystal: lowest empty minus highest occupied; Hartree."""
    spins = 2 if mf.istype("UHF") or mf.istype("KUHF") else 1
    return min(map(_gap_between, np.reshape(orbitals.energy, (spins, -1)), np.reshape(orbitals.occ, (spins, -1))))


def _gap_between(energy: Array, occ: Array) -> float:
    filled = occ > OCCUPIED
    return float(energy[~filled].min() - energy[filled].max()) if filled.any() and not filled.all() else np.inf


def has_intruder(orbitals: Orbitals, reference: Orbitals, overlap: Array) -> bool:
    """Whether an occupied orbital, of any spin and k point, is mostly made of high ones of H0; see `INTRUDER`.

    Args:
        reference: orbitals of H0.
        overlap: (n, n), or (N_k, n, n) of a crystal.
    """
    channels = zip(_channels(orbitals), _channels(reference), strict=True)
    at_k = overlap if overlap.ndim == 3 else [overlap]
    for ((_, own, own_occ), (energy, coeff, occ)), s in zip(channels, cycle(at_k)):
        filled = energy[occ > OCCUPIED]
        high = coeff[:, energy > filled.max() + HIGH] if len(filled) else coeff[:, :0]
        weights = np.abs(high.conj().T @ s @ own[:, own_occ > OCCUPIED]) ** 2
        if weights.sum(axis=0).max(initial=0.0) >= INTRUDER:
            return True
    return False


def _channels(orbitals: Orbitals) -> list[tuple[Array, Array, Array]]:
    """Return energies, coefficients and occupations of each spin channel and k point."""
    energy, coeff, occ = (np.asarray(a) for a in orbitals)
    n_ao, n = coeff.shape[-2:]
    return list(zip(energy.reshape(-1, n), coeff.reshape(-1, n_ao, n), occ.reshape(-1, n), strict=True))


def fock_for(mf: Any, matrix: Array, n_ao: int) -> Array:
    """Convert a matrix to the object's shape: (n, n) restricted, (2, n, n) unrestricted, (2n, 2n) generalised."""
    if mf.istype("GHF"):
        if matrix.shape[-1] == 2 * n_ao:
            return matrix
        up, down = matrix if matrix.ndim == 3 else (matrix, matrix)
        return np.asarray(scipy.linalg.block_diag(up, down))
    if mf.istype("UHF"):
        return np.stack([matrix, matrix]) if matrix.ndim == 2 else matrix
    return matrix.mean(axis=0) if matrix.ndim == 3 else matrix


def same_basis(mol: gto.Mole, other: gto.Mole) -> bool:
    """Whether two molecules have the same AOs in the same order."""
    if mol.cart != other.cart or mol.natm != other.natm or mol._bas.shape != other._bas.shape:
        return False
    columns = [gto.ATOM_OF, gto.ANG_OF, gto.NPRIM_OF, gto.NCTR_OF]
    return (
        np.array_equal(mol._bas[:, columns], other._bas[:, columns])
        and np.allclose(mol.atom_coords(), other.atom_coords(), rtol=0, atol=1e-8)
        and all(
            np.allclose(mol.bas_exp(i), other.bas_exp(i), rtol=1e-8, atol=0)
            and np.allclose(mol.bas_ctr_coeff(i), other.bas_ctr_coeff(i), rtol=1e-8, atol=1e-10)
            for i in range(mol.nbas)
        )
    )


def lift(correction: Array, native: gto.Mole, target: gto.Mole) -> Array:
    """Carry dH from its native basis set into another: ``P^T dH P``, ``P = S^-1 S_(native,target)``.

    The correction acts on the part of each target function in the span of the native basis; H0 describes the rest.

    Args:
        correction: (..., n_native, n_native), or with both spins (2 n_native, 2 n_native); Hartree.
    """
    if same_basis(native, target):
        return correction
    inverse = scipy.linalg.pinvh(native.intor_symmetric("int1e_ovlp"), atol=LINEAR_DEPENDENCE, rtol=0.0)
    project = inverse @ gto.intor_cross("int1e_ovlp", native, target)
    if correction.shape[-1] == 2 * native.nao:
        project = scipy.linalg.block_diag(project, project)
    return np.asarray(project.T @ correction @ project)


def damp_small_overlaps(correction: Array, overlap: Array, strength: float) -> Array:
    """Filter a correction along small overlap eigenvalues: ``W dH W``, ``W = U s/(s+strength) U^T``.

    An error in an AO matrix is amplified by 1/s along an overlap eigenvector of eigenvalue s, enough to lower a
    virtual orbital below the occupied ones. Directions with s well above the strength are unchanged.

    Args:
        correction: (..., n, n) Hartree.
        strength: overlap eigenvalue at which half of the correction is left; 0 for no filter.
    """
    s, u = scipy.linalg.eigh(overlap)
    w = (u * (s / (s + strength))) @ u.T
    return np.asarray(w @ correction @ w)


def factors_from_orbitals(mf: Any, orbitals: Orbitals) -> list[Array]:
    """Return L with D = L L^T, one for a closed shell, alpha's and beta's otherwise."""
    if mf.istype("ROHF"):
        return [orbitals.coeff[:, orbitals.occ > 0.5], orbitals.coeff[:, orbitals.occ > 1.5]]
    pairs = zip(orbitals.coeff, orbitals.occ, strict=True) if mf.istype("UHF") else [(orbitals.coeff, orbitals.occ)]
    return [coeff[:, occ > 0] * np.sqrt(occ[occ > 0]) for coeff, occ in pairs]


def factors_from_density(density: Array) -> list[Array]:
    """Return L with D = L L^T, without the negative part that guesses may have; density: (n, n) or (2, n, n)."""
    factors = []
    for matrix in density if density.ndim == 3 else density[None]:
        weights, vectors = np.linalg.eigh(matrix)
        keep = weights > 1e-10
        factors.append(vectors[:, keep] * np.sqrt(weights[keep]))
    return factors


def orbitals_from_density(density: Array, overlap: Array) -> Orbitals | None:
    """Return natural orbitals, of zero energy, of a density (n, n) or (2, n, n); None if it is not idempotent."""
    metric = metric_from_overlap(overlap)
    filled = 1.0 if density.ndim == 3 else 2.0
    n, natural = np.linalg.eigh(metric.half @ density @ metric.half)
    occ = np.where(n > filled / 2, filled, 0.0)
    if np.abs(n - occ).max() > IDEMPOTENT:
        return None
    return Orbitals(np.zeros(occ.shape), metric.inverse @ natural, occ)
