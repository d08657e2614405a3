"""accelerate(): the same SCF solution from one to three full Fock builds; the algorithm is in `solver`.

Every convergence test uses the full field, so the solution is that of the full field for any cheaper fields.
Non-local correlation (VV10) and dispersion are in the full level only: they respond weakly to the density, and each
full build updates them. A solvent responds linearly to the density, as the Coulomb field does, and is in all levels:
without it in the cheaper ones, three more full builds are needed (water in PCM: five instead of two).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
from pyscf import lib
from pyscf.lib import logger
from pyscf.scf import chkfile, hf

from pyscf_mlham.ao.mole import is_periodic
from pyscf_mlham.arrays import Array
from pyscf_mlham.density import Orbitals, tagged_orbitals
from pyscf_mlham.errors import reason_of
from pyscf_mlham.field import COARSE, FINE, RESPONSE, atomic_factors
from pyscf_mlham.field.grid import Functional
from pyscf_mlham.scf.applicability import inapplicable, is_replaced
from pyscf_mlham.scf.core import forget_core, keep_core
from pyscf_mlham.scf.counting import counting_fock_builds
from pyscf_mlham.scf.crystal import problem_of
from pyscf_mlham.scf.decorator import Decoration, private_parts, start_of
from pyscf_mlham.scf.guess_info import GuessInfo, record
from pyscf_mlham.scf.multilevel.climb import climb
from pyscf_mlham.scf.multilevel.ladder import COUNTS, START, Ladder
from pyscf_mlham.scf.multilevel.levels import RESPONSE_SHARE, CheapLevel, FullLevel, Iterate, Outcome
from pyscf_mlham.scf.multilevel.start import breaks_spin_symmetry, first_orbitals, improved, is_atomic, is_close
from pyscf_mlham.scf.problem import Problem, now
from pyscf_mlham.threads import all_blas_threads, one_blas_thread

GUESS_METHODS = ("get_init_guess", "init_guess_by_minao")  # a user's own replacement of one is the guess as it is
# Attributes of an accelerated object with their first values: settings, results, and those of one calculation.
SETTINGS: dict[str, Any] = {"coarse_level": COARSE, "fine_level": FINE, "single_precision": True}
RESULTS: dict[str, Any] = {
    **dict.fromkeys((*COUNTS, "full_builds"), 0),
    "energy_error": float("nan"),  # Hartree, with `builds`
    "plain_reason": "",  # why plain SCF was used, from the start or to continue
}
PRIVATE: dict[str, Any] = {
    "_builds": 0,
    "_earlier": None,  # full builds before plain SCF continues, None if it does not
    "_spent": 0,  # full builds of an earlier try from another density
    "_final": True,  # whether no other try follows if this one fails
}
# Largest error of a response step's energy, as a share of the expected lowering; the kernel of meta-GGAs is poorer.
RESPONSE_ERROR, RESPONSE_ERROR_META = 0.05, 0.2


def accelerate(mf: Any, builds: int | None = None) -> Any:
    """Return an object of mf's own kind that needs one to three full Fock builds instead of ten or more.

    The solution is that of mf, by mf's own criteria. If the multilevel SCF is not applicable or does not converge,
    PySCF's plain SCF is used, and the log gives the reason.

    After each full build, callbacks and convergence criteria get the variables of PySCF's kernel: mf, mol, cycle,
    e_tot, last_hf_e, mo_energy, mo_coeff, mo_occ, dm, dm_last, norm_ddm, vhf, fock, fock_last, norm_gorb, h1e, s1e,
    x_orth, conv_tol, conv_tol_grad, cput0, cput1; mf_diis is None, as no full build is extrapolated. At the first,
    dm_last is the initial guess, for which no full field was built: last_hf_e and fock_last are e_tot and fock
    themselves. Callbacks also get scf_conv.

    The settings of the cheaper levels are attributes of the object: `coarse_level` and `fine_level`, a
    `pyscf_mlham.field.Level` each, and `single_precision`, False to leave out the field in single precision of a
    density-fitted object.

    Results beside PySCF's: `full_builds`, `single_builds`, `coarse_builds` and `response_builds` are the numbers of
    builds of each level, and `plain_reason` is the reason if plain SCF was used, "" otherwise.

    Args:
        mf: RHF, RKS, UHF, UKS, ROHF or ROKS object with any of PySCF's decorations, or a periodic one (such as KRKS)
            with Gaussian density fitting, whose cheaper level has no settings; not changed.
        builds: full Fock builds after which the energy is estimated instead of converged, for screening: `e_tot` is
            then that of the response to the last one, `energy_error` an estimate of its error, and `converged` stays
            False unless the criteria are met. None converges.
    """
    if builds is not None and builds < 1:
        raise ValueError(f"builds must be 1 or more, or None to converge; got {builds}.")
    if isinstance(mf, _MultilevelSCF):
        if builds == mf.builds:
            return mf
        mf = mf.undo_accelerate()
    if hasattr(mf, "undo_track"):  # that decoration chooses the initial guess and must stay the outermost
        return mf._redecorated(accelerate(mf.undo_track(), builds))
    return lib.set_class(_MultilevelSCF(mf, builds), (_MultilevelSCF, mf.__class__))


def converge_accelerated(mf: Any, dm0: Array | None = None, **kwargs: Any) -> float:
    """Converge a plain object by the multilevel SCF; it stays the plain object, with the results in it.

    Args:
        dm0: density matrix to start from; by default from existing orbitals, or init_guess.
        kwargs: arguments of PySCF's scf.
    """
    plain = type(mf)
    lib.set_class(mf, (_MultilevelSCF, plain))
    mf._set_up(None)
    try:
        return float(mf.scf(dm0, **kwargs))
    finally:
        mf._clear()
        mf.__class__ = plain


class _MultilevelSCF(Decoration):
    __name_mixin__ = "Multilevel"

    _keys = {"builds", *SETTINGS, *RESULTS}  # noqa: RUF012  (PySCF's idiom)
    builds: int | None  # after which the energy is estimated

    def __init__(self, mf: Any, builds: int | None) -> None:
        vars(self).update(private_parts(mf))
        self._set_up(builds)

    def _set_up(self, builds: int | None) -> None:
        vars(self).update(SETTINGS | RESULTS | PRIVATE, builds=builds)

    def _clear(self) -> None:
        for name in ("builds", *SETTINGS, *RESULTS, *PRIVATE):
            vars(self).pop(name, None)

    @property
    def coarse_cycles(self: Any) -> int:
        """Former name of `coarse_builds`."""
        return int(self.coarse_builds)

    def undo_accelerate(self: Any) -> Any:
        """Return the plain mean-field object, with its results."""
        plain = lib.view(self, lib.drop_class(self.__class__, _MultilevelSCF))
        _MultilevelSCF._clear(plain)
        return plain

    _undecorated = undo_accelerate

    def _redecorated(self: Any, mf: Any) -> Any:
        return accelerate(mf, self.builds).set(**{name: getattr(self, name) for name in SETTINGS})

    def get_veff(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Build and count a full potential; see PySCF's get_veff."""
        self._builds += 1
        # the surface charges of a solvent, and PySCF's fitted J, are large products of NumPy's
        large = hasattr(self, "with_solvent") or getattr(self, "with_df", None)
        with all_blas_threads() if large else nullcontext():
            return super().get_veff(*args, **kwargs)  # type: ignore[misc]

    def dump_flags(self: Any, verbose: Any = None) -> Any:
        """Print the settings of PySCF and of the solver, once per calculation."""
        if self._earlier is not None:
            return self
        super().dump_flags(verbose)  # type: ignore[misc]
        if is_periodic(self.mol) and not self.plain_reason:
            text = "multilevel SCF: coarse level of the object's own fitted Coulomb, grid level %d"
            logger.info(self, text, COARSE.grid)
        elif not self.plain_reason:
            logger.info(self, "multilevel SCF: coarse level %s", self.coarse_level)
            logger.info(self, "multilevel SCF: if that is too coarse, %s", self.fine_level)
        return self

    def _finalize(self: Any) -> Any:
        """Print the result with the number of all cycles, for which PySCF prints max_cycle."""
        self.cycles += self._earlier or 0
        with nullcontext() if self.converged else lib.temporary_env(self, max_cycle=self.cycles):
            return super()._finalize()  # type: ignore[misc]

    def scf(self: Any, dm0: Array | None = None, **kwargs: Any) -> float:
        """Converge, and return the total energy, Hartree.

        Args:
            dm0: density matrix to start from; by default from existing orbitals, or init_guess.
            kwargs: passed to PySCF's SCF if that is used.
        """
        vars(self).update(RESULTS, _builds=0)
        record(self, None)
        reason = inapplicable(self)
        if dm0 is not None and np.iscomplexobj(dm0) and not self.istype("KSCF"):
            reason = "the density to start from is complex"
        if reason:
            return float(self._plain(reason, dm0, **kwargs))
        if hasattr(self, "undo_soscf"):
            logger.note(self, "multilevel SCF: tried first; the second-order solver is used only if it fails.")
        return float(self._multilevel(dm0, **kwargs))

    def _plain(self: Any, reason: str, dm0: Array | None, earlier: int | None = None, **kwargs: Any) -> float:
        """Converge by plain SCF; see `scf`."""
        self.plain_reason = reason
        logger.note(self, "multilevel SCF: %s; plain SCF is used.", reason)
        with lib.temporary_env(self, _earlier=earlier):
            return float(self._decorated(dm0, **kwargs))

    def _decorated(self: Any, dm0: Array | None, **kwargs: Any) -> float:
        """Converge by the decorated object's own method, and count its builds."""
        if not hasattr(self, "undo_soscf"):
            energy = super().scf(dm0, **kwargs)  # type: ignore[misc]
            self.full_builds = self._builds
            return float(energy)
        # PySCF's second-order solvers are in `kernel`, and build with the inner object. It prints nothing here, as
        # PySCF warns of replaced methods, and the counting replaces one.
        silent, own = {} if kwargs.get("dump_chk", True) else {"chkfile": None}, self._scf
        with lib.temporary_env(own, verbose=0), lib.temporary_env(self, **silent), counting_fock_builds(own) as counter:
            energy = super().kernel(dm0=dm0)  # type: ignore[misc]
        self.full_builds = self._builds + counter.builds
        return float(energy)

    @one_blas_thread()
    def _multilevel(self: Any, dm0: Array | None, **kwargs: Any) -> float:
        """Converge on several levels; see `scf`."""
        self.dump_flags()
        self.build(self.mol)
        problem = problem_of(self)
        if dm0 is None and self.mo_coeff is not None and self.mo_occ is not None:
            dm0 = self.make_rdm1()
        own = any(is_replaced(self, name) for name in GUESS_METHODS)
        breaking = dm0 is None and not own and breaks_spin_symmetry(self)
        atoms = dm0 is None and not own and is_atomic(self.init_guess)
        response = None if self.builds else getattr(dm0, "response", None)  # estimates are no better than theirs
        given = dm0
        try:
            ladder = Ladder(problem, getattr(dm0, "defect", None), response)
            levels = [] if is_close(dm0) else ladder.levels(START)
        except Exception as error:  # the SCF itself is PySCF's
            return float(self._plain(reason_of(error), given, earlier=0, **kwargs))
        if dm0 is None:
            keep_core(problem)
            with lib.temporary_env(self, init_guess_breaksym=0) if breaking else nullcontext():
                dm0 = self.get_init_guess(self.mol, "minao" if atoms else self.init_guess)
            forget_core(self)
        dm0 = np.asanyarray(dm0)
        if dm0.ndim == 2 and (self.istype("UHF") or self.istype("ROHF")):
            dm0 = np.stack([np.asarray(dm0) / 2] * 2)  # of a closed shell
        try:
            orbitals = self._first(problem, ladder, levels, dm0, atoms, breaking)
        except Exception as error:
            return float(self._plain(reason_of(error), given, earlier=0, **kwargs))
        write = bool(self.chkfile) and kwargs.get("dump_chk", True)
        if write:
            chkfile.save_mol(self.mol, self.chkfile)
        full = FullLevel(problem, dm0, write, self.builds)
        outcome = climb(full, ladder, orbitals, problem.aim, is_close(dm0))
        self.full_builds = max(self._builds, full.builds)  # a get_veff of the user's own is not counted
        self.cycles = full.builds
        self._keep(ladder, outcome)
        vars(self).update(ladder.counts)
        if outcome.failure and self.builds:
            return float(self._estimate(problem, ladder, outcome.best))
        if outcome.failure and full.builds < self.max_cycle:
            return float(self._go_on(problem, outcome, dm0, given, **kwargs))
        best = outcome.best
        self.converged, self.e_tot = not outcome.failure, best.energy
        self.energy_error = best.lowering if self.builds else float("nan")
        self._end_with(problem.final(best))
        logger.note(
            self, "multilevel SCF: %d full Fock build%s%s, %d coarse, %d response",
            full.builds, "s" * (full.builds != 1), f", {self.single_builds} in single precision" * ladder.has_single,
            self.coarse_builds, self.response_builds,
        )  # fmt: skip
        logger.timer(self, "SCF", *problem.clock)
        self._finalize()
        self._suggest()
        return float(self.e_tot)

    def _first(
        self: Any, problem: Problem, ladder: Ladder, levels: list[CheapLevel], dm0: Array, atoms: bool, breaking: bool
    ) -> Orbitals:
        """Return the orbitals of the first full build.

        Args:
            levels: those that improve a density that is not close.
            dm0: initial density matrix in the object's own shape.
            atoms: whether it consists of superposed atoms.
            breaking: whether to break its spin symmetry.
        """
        if levels and (breaking or not is_close(dm0)):
            superposed = atoms and not is_periodic(self.mol)
            factors = atomic_factors(self) if superposed else problem.factors_of(dm0)
            orbitals = first_orbitals(problem, levels, dm0, factors, breaking)
            if atoms and self.init_guess.lower() != "minao":  # 'scc': the cheap levels have relaxed the atoms
                seconds, builds = now()[1] - problem.clock[1], ladder.builds(COARSE.name)
                record(self, GuessInfo("scc", seconds=seconds, coarse_builds=builds))
        else:
            orbitals = tagged_orbitals(dm0)
        return improved(problem, ladder, orbitals, dm0)

    def _end_with(self: Any, orbitals: Orbitals) -> None:
        """Take the orbitals of the result, and PySCF's gap in `scf_summary` and in the log."""
        self.mo_energy, self.mo_coeff, self.mo_occ = orbitals
        self.get_occ(self.mo_energy, self.mo_coeff)

    def _keep(self, ladder: Ladder, outcome: Outcome) -> None:
        """Do nothing with the result; track() keeps it."""

    def _estimate(self: Any, problem: Problem, ladder: Ladder, last: Iterate) -> float:
        """Estimate the energy to second order from the response to the last full build."""
        point = ladder.relaxed(last, RESPONSE_SHARE * last.gradient)
        self.e_tot = last.energy + problem.energy_change(last, point)
        meta = Functional(self).kind == "MGGA"
        self.energy_error = (RESPONSE_ERROR_META if meta else RESPONSE_ERROR) * last.lowering
        self.converged, self.response_builds = False, ladder.builds(RESPONSE.name)
        self._end_with(problem.orbitals(point.fock))
        logger.note(self, "multilevel SCF: energy estimated after %d full Fock build%s, error about %.1g Hartree",
                    self.full_builds, "s" * (self.full_builds != 1), self.energy_error)  # fmt: skip
        self._finalize()
        return float(self.e_tot)

    def _go_on(self: Any, problem: Problem, outcome: Outcome, dm0: Array, given: Array | None, **kwargs: Any) -> float:
        """Converge by plain SCF from the best density so far, or from the initial guess dm0 if that is a better start.

        If the former does not converge either, plain SCF starts from the user's density matrix or the initial guess, so
        that no calculation that PySCF converges is lost; not if the user has lowered max_cycle, or if track() does so
        itself. All together, earlier tries included, there are up to twice max_cycle full builds.
        """
        self.plain_reason, builds = outcome.failure, self.full_builds
        best, continuation = outcome.best, "continues from the best density"
        start, cycles = best.density, self.max_cycle - builds - self._spent
        if self.istype("ROHF") and problem.would_be_refilled(best.known_orbitals, best.fock):
            # Plain SCF would fill other orbitals at once; for an ambiguous order of orbitals that is a poor start
            start, continuation = dm0, "starts again, as the best density is not filled from below"
            cycles = self.max_cycle - builds
        patient = self.max_cycle >= hf.SCF.max_cycle and not hasattr(self, "undo_soscf")
        tries: list[tuple[Array | None, int, str]] = [(start, cycles, f"{outcome.failure}; plain SCF {continuation}")]
        if start is not dm0 and patient and self._final:
            left = min(self.max_cycle, max(1, 2 * self.max_cycle - builds - self._spent))
            tries.append((given, left, "not converged; plain SCF starts again from the initial guess"))
        self.converged, self.cycles, energy = False, builds, best.energy
        keep_core(problem)
        for density, cycles, line in tries:
            if cycles > 0 and not self.converged:
                logger.note(self, "multilevel SCF: %s.", line)
                earlier, self.mo_coeff, self.cycles = self.cycles, None, 0  # second-order solvers count no cycles
                with lib.temporary_env(self, max_cycle=cycles, _earlier=earlier):
                    energy = self._decorated(density, **kwargs)
        self._suggest()
        return float(energy)

    def _suggest(self: Any) -> None:
        """Warn of an SCF that is not converged, and suggest remedies."""
        if self.converged:
            return
        newton = "" if hasattr(self, "undo_soscf") else "try mf.newton(), or "
        advice = f"{newton}set mf.level_shift (0.2 Hartree, for example) or a larger mf.max_cycle"
        logger.warn(self, "multilevel SCF: not converged after %d full Fock builds; %s.", self.full_builds, advice)

    def newton(self: Any) -> Any:
        """Return PySCF's second-order solver of the plain object: the two solvers exclude each other."""
        logger.note(self, "multilevel SCF: replaced by the second-order solver.")
        return self.undo_accelerate().newton()

    def kernel(self: Any, *args: Any, **kwargs: Any) -> float:
        """Converge; the arguments are those of the decorated object's kernel, see `scf`."""
        return float(self.scf(**start_of(self, args, kwargs)))
