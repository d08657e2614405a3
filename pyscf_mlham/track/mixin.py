"""track(): a mean-field object whose guesses are extrapolated from earlier geometries."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from pyscf import lib
from pyscf.lib import logger
from pyscf.scf import chkfile, hf

from pyscf_mlham.ao.mole import is_periodic
from pyscf_mlham.arrays import Array
from pyscf_mlham.density import density_from_orbitals
from pyscf_mlham.errors import reason_of
from pyscf_mlham.scf.applicability import inapplicable
from pyscf_mlham.scf.decorator import Decoration, private_parts, start_of
from pyscf_mlham.scf.guess_info import GuessInfo, record
from pyscf_mlham.scf.multilevel.ladder import COUNTS, Ladder
from pyscf_mlham.scf.multilevel.levels import Outcome
from pyscf_mlham.scf.multilevel.mixin import accelerate
from pyscf_mlham.scf.problem import tolerance_of
from pyscf_mlham.track.gradients import loosened, watched
from pyscf_mlham.track.history import LEARNED, SHADOW, STRATEGIES, History, Kept
from pyscf_mlham.track.improver import Improver, kept
from pyscf_mlham.track.shadow import Shadow, shadow_of, unsupported

# of the decoration, removed with it
OWN = ("history", "loose_above", "_loosened", "_criteria", "_own_coeff", "_failed", "_kept", "_improver")
COMPLETED = 1e-2  # orbital gradient, Hartree, up to which the response level completes an SCF of builds=1
SMALL = 20  # AOs, below which full builds of plain SCF cost less than the cheaper levels that save them


def track(mf: Any, history: History | str = "fit", loose_above: float | None = None) -> Any:
    """Return an object of mf's own kind whose guesses are extrapolated from the geometries converged before.

    For scanners, optimisations and molecular dynamics: ``track(mf).as_scanner()``,
    ``track(mf).nuc_grad_method().as_scanner()``, ``pyscf.md.NVE(track(mf))``. With ``mf.init_guess = 'ml'`` the model
    and the history work together, and the model alone at the first geometry. Decorate with `density_fit`, `PCM`,
    `accelerate` first and with this last. A density that you pass is used unchanged.

    With ``track(mf, "shadow")``, for molecular dynamics of equal time steps, an auxiliary density replaces the SCF from
    the third step on: one full build a step, see `pyscf_mlham.track.shadow`. `e_tot` is then the shadow energy, and the
    forces are its gradient. Steps at which that does not hold are converged, with a line in the log.

    Args:
        mf: PySCF mean-field object or scanner; not changed.
        history: history to continue (several objects may share it), or the strategy of a new one: "fit", "reversible"
            (for NVE), "shadow" (the object is accelerated as well), or for comparison "aspc", "loewdin", "last".
        loose_above: for optimisations with ``nuc_grad_method()``: while the largest force on an atom is above it,
            Hartree/Bohr, the SCF is converged to 0.02 of that force only (see `pyscf_mlham.track.gradients`). Twice
            the optimiser's own criterion is a good value; None never loosens.
    """
    if isinstance(mf, _TrackedSCF):
        mf = mf.undo_track()
    history = History(history) if isinstance(history, str) else history
    if not isinstance(history, History):
        raise TypeError(f"history = {history!r}: expected a History or one of {', '.join(STRATEGIES)}.")
    mf = accelerate(mf) if history.strategy == SHADOW else mf
    return lib.set_class(_TrackedSCF(mf, history, loose_above), (_TrackedSCF, mf.__class__))


class _TrackedSCF(Decoration):
    __name_mixin__ = "Tracked"

    _keys = {"history", "loose_above", *COUNTS}  # noqa: RUF012  (PySCF's idiom)

    def __init__(self, mf: Any, history: History, loose_above: float | None) -> None:
        self.__dict__.update(private_parts(mf))
        self.history, self.loose_above = history, loose_above
        self._loosened = False  # whether forces follow, which tighten an SCF that is loose while they are large
        self._criteria: dict[str, float] = {}  # those of the last SCF if it was loose
        self._own_coeff: Any = None
        self._failed = False  # whether the last SCF did not converge: its density is no guess
        self._kept: Kept | None = None  # of the last SCF, for the history
        self._improver: Improver | None = None  # during plain SCF

    def undo_track(self: Any) -> Any:
        """Return the plain object, with its results."""
        plain = lib.view(self, lib.drop_class(self.__class__, _TrackedSCF))
        for name in OWN:
            delattr(plain, name)
        if not hasattr(plain, "full_builds"):
            for name in COUNTS:
                vars(plain).pop(name, None)
        return plain

    _undecorated = undo_track

    def _redecorated(self: Any, mf: Any) -> Any:
        return track(mf, self.history, self.loose_above)

    def scf(self: Any, dm0: Array | None = None, **kwargs: Any) -> float:
        """Converge; see PySCF's scf.

        Args:
            dm0: density matrix to start from; by default from the history, else as PySCF does.
        """
        self.build(self.mol)
        self._criteria = self._loose_criteria()
        with lib.temporary_env(self, **self._criteria):
            return float(self._tracked(dm0, **kwargs))

    def _tracked(self: Any, dm0: Array | None, **kwargs: Any) -> float:
        """Converge to the present criteria; see `scf`."""
        own = dm0 is None or self._is_last(dm0)
        shadow = self._shadow() if own else None
        if shadow is not None and not shadow.failure:
            return float(self._accept(shadow, kwargs.get("dump_chk", True)))
        start = dm0
        if shadow is not None:
            start = density_from_orbitals(self, shadow.orbitals)
        elif own:
            start = self._from_history(None if self._failed else dm0)
        again = own and start is not None and self._is_patient()
        energy: float = self._inherited(start, int(shadow is not None), final=not again, **kwargs)
        if again and not self.converged:
            logger.note(self, "track: not converged; the SCF starts again from the initial guess.")
            self.mo_coeff = None
            energy = self._inherited(None, getattr(self, "full_builds", 0), **kwargs)
        self._own_coeff = self.mo_coeff
        self._failed = not self.converged and self._kept is None  # the latter with builds=1
        if self._failed:
            self.history.forget_auxiliary()
        else:
            self._to_history()
        self._kept = self._improver = None
        return energy

    def _inherited(self: Any, dm0: Array | None, earlier: int, final: bool = True, **kwargs: Any) -> float:
        """Converge by the decorated object's own method.

        Args:
            dm0: density matrix to start from, None for the object's initial guess.
            earlier: full builds before.
            final: whether no other try follows if this one fails.
        """
        self._kept = None
        self._improver = self._new_improver(dm0)
        dm0 = self._improved(dm0)
        inherited: Any = super()
        # PySCF's second-order solvers are in `kernel`, all others, and accelerate(), in `scf`
        accelerated = hasattr(self, "full_builds")
        second_order = hasattr(self, "undo_soscf") and not accelerated
        with lib.temporary_env(self, _spent=earlier, _final=final) if accelerated else nullcontext():
            energy = inherited.kernel(dm0=dm0, **kwargs) if second_order else inherited.scf(dm0, **kwargs)
        if accelerated:
            self.full_builds += earlier
        if self.converged and self._improver is not None:
            self._refine(self._improver.kept)
        return float(energy)

    def _is_patient(self: Any) -> bool:
        """Whether an SCF that has not converged starts once more; not if the user has set a low number of builds."""
        limited = self.max_cycle < hf.SCF.max_cycle or getattr(self, "builds", None)
        return not limited and not hasattr(self, "undo_soscf")

    def get_veff(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Build a full potential, see PySCF's get_veff, and keep the one of the converged density for the history."""
        vhf = super().get_veff(*args, **kwargs)  # type: ignore[misc]
        if self._improver is not None and len(args) > 1:  # as PySCF's kernel calls it
            self._improver.veff = args[1], vhf
        return vhf

    def _loose_criteria(self: Any) -> dict[str, float]:
        """Return criteria of the SCF that are looser than the object's own; empty if those apply."""
        own = tolerance_of(self)
        force = self.history.force if self._loosened else 0.0
        criterion = loosened(own, force, self.loose_above)
        if criterion == own:
            return {}
        logger.note(self, "track: SCF to a gradient of %.1e Hartree, as the last force was %.1e.", criterion, force)
        return {"conv_tol": max(self.conv_tol, criterion**2), "conv_tol_grad": criterion}

    @property
    def is_loose(self) -> bool:
        """Whether the last SCF was converged loosely; see `loose_above` of `track`."""
        return bool(self._criteria)

    def nuc_grad_method(self: Any) -> Any:
        """Return the object of forces; see PySCF's."""
        gradients = super().nuc_grad_method()  # type: ignore[misc]
        return gradients if self.loose_above is None else watched(gradients)

    def Gradients(self: Any) -> Any:  # noqa: N802  (PySCF's name)
        """Return the object of forces; see PySCF's."""
        gradients = super().Gradients()  # type: ignore[misc]
        return gradients if self.loose_above is None else watched(gradients)

    def _is_last(self: Any, dm0: Any) -> bool:
        """Whether a density is the last one, which a scanner passes as its own guess."""
        ours = self._own_coeff is not None and getattr(dm0, "mo_coeff", None) is self._own_coeff
        return isinstance(self, hf.SCF_Scanner) and ours and dm0.mo_occ is self.mo_occ

    def kernel(self: Any, *args: Any, **kwargs: Any) -> float:
        """Converge; the arguments are those of the decorated object's kernel, see `scf`."""
        return float(self.scf(**start_of(self, args, kwargs)))

    def from_chk(self: Any, *args: Any, **kwargs: Any) -> Array | None:
        """Read a density from a checkpoint file; see PySCF's.

        A scanner reads one for another molecule, for which the object's own guess is better: None.
        """
        if isinstance(self, hf.SCF_Scanner):
            return None
        density: Array = super().from_chk(*args, **kwargs)  # type: ignore[misc]
        return density

    def _shadow(self: Any) -> Shadow | None:
        """Return what replaces the ground state in shadow dynamics; None without an auxiliary density."""
        with self._surviving("no shadow dynamics, the SCF is converged", logger.warn):
            orbitals = self.history.auxiliary_orbitals(self)
            if orbitals is None:
                return None
            if reason := unsupported(self):
                logger.note(self, "shadow: not for this object, as %s.", reason)
                return None
            shadow = shadow_of(self, orbitals)
            if shadow.failure:
                logger.note(self, "shadow: %s; the SCF is converged.", shadow.failure)
            return shadow
        return None

    def _accept(self: Any, shadow: Shadow, dump: bool) -> float:
        """Take the results of shadow dynamics as those of a converged SCF."""
        self.mo_energy, self.mo_coeff, self.mo_occ = shadow.orbitals
        self.e_tot, self.converged, self.cycles, self.plain_reason = shadow.energy, True, 1, ""
        self.full_builds, self.response_builds, self.coarse_builds, self.single_builds = 1, shadow.responses, 0, 0
        self._own_coeff = self.mo_coeff
        if dump and self.chkfile:
            results = {name: getattr(self, name) for name in ("e_tot", "mo_energy", "mo_coeff", "mo_occ")}
            chkfile.save_mol(self.mol, self.chkfile)
            self.dump_chk(results)
        if callable(self.callback):
            self.callback(shadow.variables)
        logger.note(self, "shadow: energy = %.15g after one full Fock build", self.e_tot)
        self._to_history(shadow=True)
        return float(self.e_tot)

    def _from_history(self: Any, otherwise: Array | None) -> Any:
        start, guess = time.perf_counter(), None
        with self._surviving("history not used", logger.warn, clear=True):
            guess = self.history.guess(self)
        if guess is None:
            return otherwise
        logger.note(self, "guess from %d earlier %s", guess.steps, "geometry" if guess.steps == 1 else "geometries")
        record(self, GuessInfo("history", seconds=time.perf_counter() - start))
        return guess

    def _new_improver(self: Any, guess: Array | None) -> Improver | None:
        """Return the cheaper levels for a guess, None if plain SCF does without them."""
        if hasattr(self, "full_builds"):  # accelerate() has its own
            return None
        vars(self).update(dict.fromkeys(COUNTS, 0))
        if self.history.strategy not in LEARNED or is_periodic(self.mol) or self.mol.nao < SMALL or inapplicable(self):
            return None
        with self._surviving("the guess is not improved"):
            return Improver(self, guess if hasattr(guess, "defect") else None)
        return None

    def _improved(self: Any, guess: Array | None) -> Array | None:
        """Return a guess of the history improved by the cheaper levels, if there are any; all others as they are."""
        if self._improver is None or not hasattr(guess, "defect"):
            return guess
        with self._surviving("the guess is not improved"):
            guess = self._improver.improved()
            vars(self).update(self._improver.ladder.counts)
        return guess

    def _keep(self: Any, ladder: Ladder, outcome: Outcome) -> None:
        """Refine a converged SCF for the history; called by accelerate()."""
        estimated = bool(outcome.failure and self.builds and outcome.best.gradient < COMPLETED)
        if (estimated or not outcome.failure) and self.history.strategy in LEARNED:
            self._refine(lambda: kept(ladder, outcome.best, self.full_builds == 1 and not estimated))

    def _refine(self: Any, kept: Callable[[], Kept]) -> None:
        with self._surviving("converged orbitals are not refined"):
            self._kept = kept()

    def _to_history(self: Any, shadow: bool = False) -> None:
        with self._surviving("history not kept", logger.warn, clear=True):
            self.history.record(self, self._kept, shadow)

    @contextmanager
    def _surviving(
        self: Any, failure: str, log: Callable[..., None] = logger.info, clear: bool = False
    ) -> Iterator[None]:
        """Let the SCF continue after any error inside the block, with a line in the log.

        Args:
            failure: what is lacking then.
            log: PySCF's function for the line.
            clear: whether to clear the history, which may be damaged.
        """
        try:
            yield
        except Exception as error:
            if clear:
                self.history.clear()
            log(self, "%s: %s", failure, reason_of(error))
