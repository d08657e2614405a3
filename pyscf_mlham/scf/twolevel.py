"""accelerate(): the same SCF solution from two or three full Fock builds.

Defect correction (the full approximation scheme of multigrid). A coarse field has nearly the same derivative as
the full one, so its error at one density, Delta = V_full[D] - V_coarse[D], is nearly its error at the solution:

    D_0 from a coarse SCF;  Delta_k = V_full[D_k] - V_coarse[D_k];
    D_(k+1) solves the SCF of V_coarse + Delta_k;  stop when D_(k+1) is converged in the full field.

Every convergence test is made with the full field, so the answer is the full one's whatever the coarse field is.
Non-local correlation (VV10) and dispersion live in the full level only: they respond weakly to the density, and each
full build brings them up to date. A solvent answers the density linearly and at once, as the Coulomb field does, so
it is in both: left out of the coarse level, it costs three more full builds (water in PCM: five instead of two).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import lib
from pyscf.lib import logger
from pyscf.scf import chkfile

from pyscf_mlham.density import Orbitals, density_from_orbitals, factors_from_orbitals
from pyscf_mlham.errors import ResourceError
from pyscf_mlham.field import LEVELS, CoarseField
from pyscf_mlham.scf.counting import counting_fock_builds
from pyscf_mlham.scf.decorator import private_parts, start_of
from pyscf_mlham.scf.problem import Problem, coarse_scf, now
from pyscf_mlham.scf.start import breaks_spin_symmetry, first_orbitals, is_close
from pyscf_mlham.scf.worth import not_worth_it
from pyscf_mlham.threads import all_blas_threads, one_blas_thread

Array = NDArray[Any]

START_TOL = 3e-3  # orbital gradient at which the first coarse SCF stops; its own error there is larger
INNER_SHARE = 3e-4  # of the full gradient, to which later coarse SCFs are converged ...
INNER_FLOOR = 0.3  # ... but no further than this share of the user's criterion
FLAT = 1e-2  # Hartree; no rotation is taken to be softer than this
RISE = 10  # times what was to be gained: solutions that are saddle points are reached from a little below them ...
NOISE = 1e-5  # ... and the grid lets degenerate ones differ by less than this; Hartree
SLOW = 0.2  # a full gradient must fall to this share of the last one, or the coarse level is too coarse


def accelerate(mf: Any) -> Any:
    """Return an object of mf's own kind that needs two or three full Fock builds instead of ten or more.

    The solution is that of mf, by mf's own criteria; where two levels do not pay or do not converge, PySCF's plain
    SCF does the work, and the log says so.

    After each full build, callbacks and criteria of convergence get what PySCF's kernel gives them: mf, mol, cycle,
    e_tot, last_hf_e, mo_energy, mo_coeff, mo_occ, dm, dm_last, norm_ddm, vhf, fock, fock_last, norm_gorb, h1e, s1e,
    x_orth, conv_tol, conv_tol_grad, cput0, cput1; mf_diis is None, for no full build is extrapolated. At the first,
    dm_last is the density to start from, for which no full field was built: last_hf_e and fock_last are e_tot and
    fock themselves. Callbacks get scf_conv as well.

    Args:
        mf: RHF, RKS, UHF, UKS, ROHF or ROKS object with any of PySCF's decorations; left as it is.
    """
    if isinstance(mf, _TwoLevelSCF):
        return mf
    if hasattr(mf, "undo_track"):  # that decoration chooses the start, and must stay the outermost
        return mf.retrack(accelerate(mf.undo_track()))
    return lib.set_class(_TwoLevelSCF(mf), (_TwoLevelSCF, mf.__class__))


class _TwoLevelSCF:
    __name_mixin__ = "TwoLevel"

    _keys = {"coarse_cycles", "full_builds", "plain_reason"}  # noqa: RUF012  (PySCF's idiom)

    def __init__(self, mf: Any) -> None:
        self.__dict__.update(private_parts(mf))
        self.coarse_cycles = 0
        self.full_builds = 0
        self.plain_reason = ""  # why plain SCF did the work, or went on with it
        self._builds = 0

    def undo_accelerate(self: Any) -> Any:
        """Return the plain mean-field object, with whatever it has converged to."""
        plain = lib.view(self, lib.drop_class(self.__class__, _TwoLevelSCF))
        del plain.coarse_cycles, plain.full_builds, plain.plain_reason, plain._builds
        return plain

    def get_veff(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Build the full potential, and count it; see PySCF's get_veff."""
        self._builds += 1
        # the surface charges of a solvent, and PySCF's fitted J, are large products of NumPy's
        large = hasattr(self, "with_solvent") or getattr(self, "with_df", None)
        with all_blas_threads() if large else nullcontext():
            return super().get_veff(*args, **kwargs)  # type: ignore[misc]

    def dump_flags(self: Any, verbose: Any = None) -> Any:
        """Print PySCF's settings and the solver's."""
        super().dump_flags(verbose)  # type: ignore[misc]
        first, *finer = LEVELS
        logger.info(self, "two-level SCF: coarse level %s", first)
        for level in finer:
            logger.info(self, "two-level SCF: where that is too coarse, %s", level)
        return self

    def scf(self: Any, dm0: Array | None = None, **kwargs: Any) -> float:
        """Converge.

        Args:
            dm0: density matrix to start from; by default from existing orbitals, or init_guess.
            kwargs: handed to PySCF's SCF where that does the work.

        Returns:
            total energy, Hartree.
        """
        self.coarse_cycles = self.full_builds = self._builds = 0
        self.plain_reason = ""
        reason = not_worth_it(self)
        if dm0 is not None and np.iscomplexobj(dm0):
            reason = "the density to start from is complex"
        if reason:
            return float(self._plain(reason, dm0, **kwargs))
        if hasattr(self, "undo_soscf"):
            logger.note(self, "two-level SCF: it comes first; the second-order solver only where it fails.")
        return float(self._two_levels(dm0, **kwargs))

    def _plain(self: Any, reason: str, dm0: Array | None, **kwargs: Any) -> float:
        """Converge without a coarse field; see `scf`."""
        self.plain_reason = reason
        logger.note(self, "two-level SCF: %s; plain SCF is used.", reason)
        return float(self._decorated(dm0, **kwargs))

    def _decorated(self: Any, dm0: Array | None, **kwargs: Any) -> float:
        """Converge as the decorated object does, and count its builds."""
        if not hasattr(self, "undo_soscf"):
            energy = super().scf(dm0, **kwargs)  # type: ignore[misc]
            self.full_builds = self._builds
            return float(energy)
        # PySCF's second-order solvers are in `kernel`, and build in the object inside. That is silent here, for PySCF
        # warns of methods that are replaced, as the counting does.
        silent, own = {} if kwargs.get("dump_chk", True) else {"chkfile": None}, self._scf
        with lib.temporary_env(own, verbose=0), lib.temporary_env(self, **silent), counting_fock_builds(own) as counter:
            energy = super().kernel(dm0=dm0)  # type: ignore[misc]
        self.full_builds = self._builds + counter.builds
        return float(energy)

    @one_blas_thread()
    def _two_levels(self: Any, dm0: Array | None, **kwargs: Any) -> float:
        """Converge in a coarse and a full field; see `scf`."""
        self.dump_flags()
        self.build(self.mol)
        problem = Problem.of(self)
        if dm0 is None and self.mo_coeff is not None and self.mo_occ is not None:
            dm0 = self.make_rdm1()
        if dm0 is not None and np.ndim(dm0) == 2 and (self.istype("UHF") or self.istype("ROHF")):
            dm0 = np.stack([np.asarray(dm0) / 2] * 2)  # of a closed shell
        # before the guess, which may want the same integrals
        try:
            field = None if is_close(dm0) else CoarseField(self, LEVELS[0])
        except ResourceError as error:
            return float(self._plain(str(error), dm0, **kwargs))
        breaking = dm0 is None and breaks_spin_symmetry(self)
        if dm0 is None:
            with lib.temporary_env(self, init_guess_breaksym=0) if breaking else nullcontext():
                dm0 = self.get_init_guess(self.mol, self.init_guess)
        write = bool(self.chkfile) and kwargs.get("dump_chk", True)
        if write:
            chkfile.save_mol(self.mol, self.chkfile)
        dm0 = np.asanyarray(dm0)
        result = _solve(problem, dm0, field, breaking, write)
        self.coarse_cycles = result.coarse_cycles
        self.full_builds = self.cycles = result.full_builds
        if result.failure and result.full_builds < self.max_cycle:
            return float(self._go_on(problem, result, dm0, **kwargs))
        self.converged, self.e_tot = not result.failure, result.last.energy
        self.mo_energy, self.mo_coeff, self.mo_occ = result.last.orbitals
        counts = (self.full_builds, "full Fock build"), (self.coarse_cycles, "coarse cycle")
        words = (f"{count} {word}{'s' * (count != 1)}" for count, word in counts)
        logger.note(self, "two-level SCF: %s", ", ".join(words))
        logger.timer(self, "SCF", *problem.clock)
        self._finalize()
        return float(self.e_tot)

    def _go_on(self: Any, problem: Problem, result: Outcome, dm0: Array, **kwargs: Any) -> float:
        """Converge where two levels have not: from their best density, or from the start where that is no good one."""
        self.plain_reason = result.failure
        best, where = result.last, "goes on from its best density"
        start = best.density
        if self.istype("ROHF") and problem.would_be_refilled(best.orbitals, best.fock):
            # Plain SCF refills it at once, and where the order of orbitals is ambiguous that is a poor start
            start, where = dm0, "starts anew, for its best density is not filled from below"
        logger.note(self, "two-level SCF: %s; plain SCF %s.", result.failure, where)
        self.mo_coeff, self.cycles = None, 0  # PySCF's second-order solvers count none
        with lib.temporary_env(self, max_cycle=self.max_cycle - result.full_builds):
            energy = self._decorated(start, **kwargs)
        self.cycles += result.full_builds
        return float(energy)

    def newton(self: Any) -> Any:
        """Return PySCF's second-order solver of the plain object: the two ways of converging exclude one another."""
        logger.note(self, "two-level SCF: a second-order solver takes its place.")
        return self.undo_accelerate().newton()

    def kernel(self: Any, *args: Any, **kwargs: Any) -> float:
        """Converge; the arguments are those of the decorated object's kernel, see `scf`."""
        return float(self.scf(**start_of(self, args, kwargs)))


class Iterate(NamedTuple):
    """A density and what the full field says of it.

    Attributes:
        orbitals: canonical in the full field.
        density: in the object's own shape.
        vhf: what its get_veff returned.
        v: that, with the solvent's potential where there is one; Hartree.
        fock: h + v.
        energy: total energy, Hartree.
        gradient: norm of the orbital gradient.
        lowering: second-order estimate of what the energy still lies above the solution, Hartree.
        clock: processor and wall time when it was made, seconds.
    """

    orbitals: Orbitals
    density: Array
    vhf: Any
    v: Array
    fock: Array
    energy: float
    gradient: float
    lowering: float
    clock: tuple[float, float]

    def lies_above(self, last: Iterate) -> bool:
        """Whether the energy has risen by more than a step to the solution near the last one explains.

        Args:
            last: of the full build before.
        """
        return self.energy > last.energy + RISE * last.lowering + NOISE


class Outcome(NamedTuple):
    """What the two-level iteration ended with.

    Attributes:
        last: best iterate.
        full_builds: full Fock builds made.
        coarse_cycles: coarse Fock builds made.
        failure: why it is not converged, empty where it is.
    """

    last: Iterate
    full_builds: int
    coarse_cycles: int
    failure: str


def _solve(problem: Problem, density: Array, field: CoarseField | None, breaking: bool, write: bool) -> Outcome:
    """Alternate full builds and coarse SCFs until the full field is converged or progress stops.

    Args:
        problem: to solve.
        density: to start from.
        field: coarse; where there is none, the density is close to the solution, and a full build judges it as it is.
        breaking: whether the spin symmetry of the density is to be broken.
        write: whether each full build goes to the checkpoint file.
    """
    mf = problem.mf
    levels, spent = list(LEVELS[1:] if field else LEVELS), 0
    if field is None:
        orbitals = Orbitals(np.zeros(density.mo_occ.shape), density.mo_coeff, density.mo_occ)  # type: ignore[attr-defined]
    else:
        orbitals = first_orbitals(problem, field, density, max(START_TOL, problem.aim), breaking)
    best: Iterate | None = None
    for build in range(1, mf.max_cycle + 1):
        if field:
            field.release()
        here = _evaluate(problem, orbitals, best)
        cycles = spent + (field.builds if field else 0)
        envs = _state(problem, here, best, density, build)
        converged = _is_converged(problem, here, best, envs)
        _report(mf, here, envs | {"scf_conv": converged}, cycles, write)
        if converged:
            return Outcome(here, build, cycles, "")
        if best is not None and (here.lies_above(best) or here.gradient > best.gradient):
            what = "energy" if here.lies_above(best) else "orbital gradient"
            return Outcome(best, build, cycles, f"the {what} rises")
        if best is not None and here.gradient > SLOW * best.gradient:
            if not levels:
                return Outcome(here, build, cycles, "the orbital gradient falls too slowly")
            field, spent = None, cycles  # its memory goes before the next one's comes
        best = here
        if build < mf.max_cycle:
            try:
                field = field or CoarseField(mf, levels.pop(0))
            except ResourceError as error:
                return Outcome(best, build, cycles, str(error))
            field.anchor(factors_from_orbitals(mf, here.orbitals), here.v)
            tolerance = max(INNER_SHARE * here.gradient, INNER_FLOOR * problem.aim)
            orbitals = coarse_scf(problem, field, here.v, here.density, tolerance)
    assert best is not None  # max_cycle is at least one
    return Outcome(best, mf.max_cycle, cycles, "max_cycle is reached")


def _evaluate(problem: Problem, orbitals: Orbitals, last: Iterate | None) -> Iterate:
    """One full Fock build; incremental where the object builds incrementally."""
    mf = problem.mf
    density = density_from_orbitals(mf, orbitals)
    vhf = mf.get_veff(mf.mol, density, *((last.density, last.vhf) if last else ()))
    solvent = getattr(vhf, "v_solvent", None)
    v = np.asarray(vhf) if solvent is None else np.asarray(vhf) + solvent
    fock = problem.fock(v, density)
    energy, coeff = mf.canonicalize(orbitals.coeff, orbitals.occ, fock)
    return Iterate(
        orbitals=Orbitals(energy, coeff, orbitals.occ),
        density=density,
        vhf=vhf,
        v=v,
        fock=fock,
        energy=float(mf.energy_tot(density, problem.hcore, vhf)),
        gradient=problem.gradient(orbitals, fock),
        lowering=_lowering(problem, orbitals, v),
        clock=now(),
    )


def _lowering(problem: Problem, orbitals: Orbitals, v: Array) -> float:
    """Sum over orbital rotations of gradient^2 / curvature: what the next step would gain, without making it."""
    mf = problem.mf
    up, down = problem.hcore + v if v.ndim == 3 else (problem.hcore + v,) * 2
    if mf.istype("UHF"):
        rotating = [(c, [(f, o > 0.5)]) for f, c, o in zip((up, down), orbitals.coeff, orbitals.occ, strict=True)]
    else:  # both spins share their orbitals
        rotating = [(orbitals.coeff, [(up, orbitals.occ > 0.5), (down, orbitals.occ > 1.5)])]
    total = 0.0
    for coeff, spins in rotating:
        gradient, curvature = np.zeros((2, coeff.shape[1], coeff.shape[1]))
        for fock, occupied in spins:
            f = coeff.T @ fock @ coeff
            free = ~occupied[:, None] & occupied
            gradient += np.where(free, f, 0.0)
            curvature += np.where(free, np.subtract.outer(f.diagonal(), f.diagonal()), 0.0)
        total += float(np.sum(gradient**2 / np.maximum(curvature, FLAT)))
    return total


def _report(mf: Any, here: Iterate, envs: dict[str, Any], cycles: int, write: bool) -> None:
    """Log, write the checkpoint file, call back as PySCF's kernel does."""
    logger.info(
        mf, "full build %d  E= %.15g  |g|= %4.3g  still to gain= %4.3g  coarse cycles= %d",
        envs["cycle"] + 1, here.energy, here.gradient, here.lowering, cycles,
    )  # fmt: skip
    if write:
        mf.dump_chk(envs)
    if callable(mf.callback):
        mf.callback(envs)


def _state(problem: Problem, here: Iterate, last: Iterate | None, start: Array, build: int) -> dict[str, Any]:
    """Return what PySCF's kernel hands to callbacks, criteria and checkpoint files; see `accelerate`."""
    mf = problem.mf
    mo_energy, mo_coeff, mo_occ = here.orbitals
    before = last or here._replace(density=start, clock=problem.clock)
    return {
        "mf": mf, "mol": mf.mol, "cycle": build - 1, "e_tot": here.energy, "last_hf_e": before.energy,
        "mo_energy": mo_energy, "mo_coeff": mo_coeff, "mo_occ": mo_occ, "dm": here.density, "dm_last": before.density,
        "norm_ddm": float(np.linalg.norm(np.asarray(here.density) - np.asarray(before.density))),
        "vhf": here.vhf, "fock": here.fock, "fock_last": before.fock, "norm_gorb": here.gradient, "mf_diis": None,
        "h1e": problem.hcore, "s1e": problem.overlap, "x_orth": problem.x,
        "conv_tol": mf.conv_tol, "conv_tol_grad": problem.tolerance, "cput0": problem.clock, "cput1": before.clock,
    }  # fmt: skip


def _is_converged(problem: Problem, here: Iterate, last: Iterate | None, envs: dict[str, Any]) -> bool:
    """Judge a full build by the object's own criteria."""
    if last is not None and here.lies_above(last):
        return False  # another state took the place of a lower one
    criterion = problem.mf.check_convergence
    if callable(criterion):
        # it may compare with the build before, and the first has none
        converged = last is not None and bool(criterion(envs))
    else:
        converged = here.gradient < problem.tolerance and here.lowering < problem.mf.conv_tol
    # else a stationary state above the ground state
    return converged and problem.filled_from_below(here.orbitals)
