"""Extrapolation of densities from earlier geometries to the next one.

Converged density matrices are kept in Loewdin orbitals, S^1/2 D S^1/2, in which they are projectors for any overlap.
At a new geometry a cheap descriptor d (the density that a model predicts; without a model the overlap) is fitted by
those of the old geometries, and the true densities are combined in the same way:

    minimise |d - sum_j w_j d_j|^2 + noise^2 |w|^2,  sum_j w_j = 1;    D = d_ml + sum_j w_j (D_j - d_ml,j),

the last with a model; D = sum_j w_j D_j without. The eigenvectors of D with the largest eigenvalues take the old
occupations, so the guess holds the right number of electrons and is idempotent. The method does not use time:
steps of an optimisation are as good as those of a trajectory. Every old step is first aligned with the new geometry.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pyscf import gto, lib
from pyscf.lib import logger

from pyscf_mlham.ao.loewdin import metric_from_overlap
from pyscf_mlham.ao.mole import is_periodic
from pyscf_mlham.arrays import Array
from pyscf_mlham.density import Orbitals, density_from_orbitals
from pyscf_mlham.field import Builds, MovedResponse, ResponseField
from pyscf_mlham.model.guess import is_ml, model_of
from pyscf_mlham.model.predictor import predict
from pyscf_mlham.scf.decorator import is_on_gpu
from pyscf_mlham.scf.problem import tolerance_of
from pyscf_mlham.track.aspc import predicted_orbitals
from pyscf_mlham.track.auxiliary import SAME, Auxiliary
from pyscf_mlham.track.extrapolation import extrapolation_weights, largest_move, natural, reversible_weights
from pyscf_mlham.track.place import Place
from pyscf_mlham.track.restart import Arrays, read, write
from pyscf_mlham.track.step import Step, rotated

SHADOW = "shadow"
LEARNED = ("fit", "reversible", SHADOW)
STRATEGIES = (*LEARNED, "aspc", "loewdin", "last")
DEPTH = 20  # steps kept; more gain little
MEMORY = 0.25  # share of max_memory for them
RESPONSE_MEMORY = 0.1  # share of max_memory for the response level
REUSED = 0.1  # Bohr; largest move of an atom for which it is used again
JUMP = 1.0  # Bohr; largest displacement of an atom after alignment for which old steps are used
DESCRIPTOR_NOISE = 0.15  # of descriptors and densities, as a share of the orbital gradient at convergence
UNLIKE = 1e-6  # misfit of a geometry that is not one of the history's
CLOSE = 1e-2  # expected error of a guess (Frobenius norm) up to which it is better than a coarse SCF
FIELD_CHANGE = 1e-2  # Hartree; largest change of an external potential in Loewdin orbitals for which steps are used


class Kept(NamedTuple):
    """What the cheaper levels leave of a converged SCF for the geometries after it; None if unknown."""

    orbitals: Orbitals | None = None  # nearer to the solution than the object's own
    defect: Array | None = None  # of the coarse field, see `Ladder`; Hartree
    response: ResponseField | MovedResponse | None = None  # response level


class History:
    """Converged densities of past geometries.

    Another molecule or method, another electronic state or another external potential clears it. Geometries may come in
    any order: those within a jump's length of the present one are used.

    Attributes:
        strategy: "fit" (as above), "reversible" (the same, symmetric in time, for NVE runs), "shadow" (as "fit", until
            there is an auxiliary density that replaces the SCF), or for comparison "aspc" (Kolafa's predictor on D S),
            "loewdin" (the last density in the new Loewdin orbitals), "last" (the last density unchanged, as PySCF's
            scanners do).
        steps: steps, the latest first.
        auxiliary: the auxiliary density of shadow dynamics, None for other strategies.
        error: Frobenius norm of the last guess's error in Loewdin orbitals; infinite without a guess.
        scale: the same over the misfit of its descriptor, or a larger one before; predicts errors.
        force: largest force on an atom at the last geometry, Hartree/Bohr; 0 if it is unknown.
        builds: Fock builds of all predictions.
    """

    def __init__(self, strategy: str = "fit", depth: int = DEPTH) -> None:
        """Create an empty history; strategy: one of STRATEGIES, depth: number of steps to keep."""
        if strategy not in STRATEGIES:
            raise ValueError(f"unknown strategy {strategy!r}; expected one of {', '.join(STRATEGIES)}.")
        if depth < 1:
            raise ValueError(f"depth = {depth}: a history keeps one step or more.")
        self.strategy, self.depth = strategy, depth
        self.auxiliary = Auxiliary() if strategy == SHADOW else None
        self.builds = Builds()
        self.clear()

    def clear(self) -> None:
        """Remove all steps."""
        self.steps: list[Step] = []
        self.error = self.scale = np.inf
        self.force = 0.0
        self._subject: str | None = None
        self._guessed: tuple[Place, Array, float] | None = None  # geometry, density, misfit
        self._predicted: tuple[Array, Array] | None = None  # positions, density
        self._response: MovedResponse | None = None
        self.forget_auxiliary()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the response level, which may have its integrals in a file."""
        return vars(self) | {"_response": None}

    def forget_auxiliary(self) -> None:
        """Remove the auxiliary density, whose time steps must be equal: one is missing, or of another state."""
        if self.auxiliary is not None:
            self.auxiliary.clear()

    def guess(self, mf: Any) -> Any:
        """Return a density for the object's present geometry, None if its own guess must be used.

        With ``mf.init_guess = 'ml'`` the model contributes to it. It is tagged with its orbitals and

        - `steps`: number of old steps in it.
        - `error`: expected Frobenius norm of its error in Loewdin orbitals, the misfit of its descriptor times the
          quotient of both for the last guess; infinite if it may be any.
        - `close`: whether it is expected to be better than the density of a coarse SCF.
        - `defect`: expected defect of the coarse field, see `Ladder`; None if it is unknown.
        - `response`: response level of a geometry nearby, moved here; None without one.
        """
        self._guessed = None
        place = self._place(mf)
        if place is None:
            return None
        near, learned = self._near(place), self.strategy in LEARNED
        steps = rotated(near, place.positions, place.layout) if learned else near
        vectors, misfit = self._vectors(mf, place, steps)
        orbitals = place.orbitals(vectors, self.steps[0].occ, mf)
        self._guessed = (place, place.density(orbitals), misfit)
        defect = _defect(place, steps) if learned else None
        error = self.scale * misfit if misfit > UNLIKE else self.error
        density, response = density_from_orbitals(mf, orbitals), self._response_at(place)
        known = {"error": error, "close": error < CLOSE, "defect": defect, "response": response}
        return lib.tag_array(density, steps=len(steps), **known)

    def _takes(self, mf: Any) -> bool:
        """Whether a calculation can be kept; those of another subject are forgotten."""
        subject = _subject(mf)
        if subject is None or np.iscomplexobj(mf.mo_coeff):
            return False
        if self._subject != subject:
            self.clear()
            self._subject = subject
        return True

    def _kept_response(
        self, mf: Any, place: Place, response: ResponseField | MovedResponse | None
    ) -> MovedResponse | None:
        """Return the response level of an SCF as one for geometries nearby; None if it is too large for that."""
        if isinstance(response, ResponseField):
            response = MovedResponse(response, place.positions, place.inverse)
        small = response is not None and response.nbytes <= RESPONSE_MEMORY * 1e6 * mf.max_memory
        return response if small and self.strategy != SHADOW else None

    def _response_at(self, place: Place) -> MovedResponse | None:
        """Return the response level at a geometry if no atom has moved far since it was made, else forget it."""
        if self._response is None:
            return None
        if np.linalg.norm(self._response.positions - place.positions, axis=-1).max() > REUSED:
            self._response = None
            return None
        return self._response.at(place.root)

    def _near(self, place: Place) -> list[Step]:
        """Return the steps near a geometry, the latest first."""
        return [step for step, move in zip(self.steps, self._moves(place), strict=True) if move <= JUMP]

    def _nearest(self, place: Place) -> Step | None:
        """Return the step nearest to a geometry, aligned with it; None if none is near."""
        moves = self._moves(place)
        if moves.min(initial=np.inf) > JUMP:
            return None
        return rotated([self.steps[int(moves.argmin())]], place.positions, place.layout)[0]

    def _moves(self, place: Place) -> Array:
        """Return the largest displacement of an atom from each step to a geometry, Bohr."""
        before = [step.positions for step in self.steps]
        return largest_move(np.reshape(before, (-1, *place.positions.shape)), place.positions)

    def auxiliary_orbitals(self, mf: Any) -> Orbitals | None:
        """Return the orbitals of the auxiliary density at the object's geometry, None before there is one."""
        place = None if self.auxiliary is None else self._place(mf)
        if self.auxiliary is None or place is None:
            return None
        if self.auxiliary.positions is None or largest_move(self.auxiliary.positions, place.positions) > JUMP:
            self.forget_auxiliary()
        x = self.auxiliary.at(place.positions)
        return None if x is None else place.orbitals(natural(x), self.steps[0].occ, mf)

    def save(self, path: str | Path) -> None:
        """Write the history to a file, from which `load` continues; an older one is replaced when this is complete."""
        arrays: Arrays = {"strategy": np.array(self.strategy), "depth": np.array(self.depth)}
        arrays |= {"error": np.array([self.error, self.scale]), "subject": np.array(self._subject or "")}
        for i, step in enumerate(self.steps):
            arrays |= {f"steps/{i}/{name}": a for name, a in step._asdict().items() if a is not None}
        if self.auxiliary is not None:
            arrays |= {f"auxiliary/{name}": a for name, a in self.auxiliary.arrays().items()}
        write(Path(path), arrays)

    @classmethod
    def load(cls, path: str | Path) -> History:
        """Return the history that `save` has written."""
        with read(Path(path)) as arrays:
            history = cls(str(arrays["strategy"]), int(arrays["depth"]))
            history.error, history.scale = map(float, arrays["error"])
            history._subject = str(arrays["subject"]) or None
            for i in range(sum(name.endswith("/occ") for name in arrays)):
                history.steps.append(Step(*(arrays.get(f"steps/{i}/{name}") for name in Step._fields)))  # type: ignore[arg-type]
            if history.auxiliary is not None:
                history.auxiliary = Auxiliary.of({k.removeprefix("auxiliary/"): a for k, a in arrays.items()})
        return history

    def is_applicable(self, mf: Any) -> bool:
        """Return whether there are steps for a guess at the present geometry; remove those that are not applicable."""
        return self._place(mf) is not None

    def _place(self, mf: Any) -> Place | None:
        """Return the present geometry if there are steps for a guess there; remove those that are not applicable."""
        if self._subject != _subject(mf):
            self.clear()
        if not self.steps:
            return None
        place = Place.of(mf)
        nearest = self._nearest(place)
        if nearest is None:
            logger.note(mf, "history: an atom has moved by more than %.1f Bohr; no earlier geometry is used.", JUMP)
        elif _field_changed(nearest.external, place.external(mf)):
            logger.note(mf, "history: the external potential has changed; earlier geometries are not used.")
            self.clear()
            return None
        return None if nearest is None else place

    def record(self, mf: Any, kept: Kept | None = None, shadow: bool = False) -> None:
        """Add a converged calculation, and what its cheaper levels leave; shadow: whether by shadow dynamics."""
        if not self._takes(mf):
            return
        guessed, self._guessed, self.error = self._guessed, None, np.inf
        if guessed and not np.array_equal(guessed[0].positions, mf.mol.atom_coords()):
            guessed = None
        place = guessed[0] if guessed else Place.of(mf)
        orbitals, defect, response = kept or Kept()
        density = place.density(orbitals or Orbitals(mf.mo_energy, mf.mo_coeff, mf.mo_occ))
        if kept:
            self._response = self._kept_response(mf, place, response)
        if guessed:
            self.error = float(np.linalg.norm(density - guessed[1]))
            if guessed[2] > UNLIKE:
                before = self.scale / 2 if np.isfinite(self.scale) else 0.0
                self.scale = max(self.error / guessed[2], before)
        filled = -np.sort(-np.atleast_2d(mf.mo_occ), axis=-1)
        occ = np.pad(filled, ((0, 0), (0, density.shape[-1] - filled.shape[-1])))  # if S is nearly singular
        predicted = self._prediction(mf, place) if self.strategy in LEARNED else None
        lacking = None if defect is None else place.operator(defect)
        step = Step(place.positions, place.overlap, density, predicted, occ, place.external(mf), lacking)
        nearest = self._nearest(place)
        if nearest is not None and nearest.is_of_another_state(step):
            self.steps = []  # a mixture of two states is a bad guess for both
            self.forget_auxiliary()
        if self.auxiliary is not None:
            x = self.auxiliary.at(place.positions) if shadow else None
            self.auxiliary.record(place.positions, density if x is None else x, density)
        known = [each for each in self.steps if np.abs(each.positions - step.positions).max() > SAME]
        self.steps = [step, *known]
        room = int(MEMORY * 1e6 * mf.max_memory / self.steps[0].nbytes)
        del self.steps[max(1, min(self.depth, room)) :]

    def _prediction(self, mf: Any, place: Place) -> Array | None:
        """Return the density predicted by the model of mf.init_guess, computed once per geometry; None without one.

        In shadow dynamics the model is for the first geometry only.
        """
        if self.strategy == SHADOW:
            return None
        if self._predicted is None or not np.array_equal(self._predicted[0], place.positions):
            self._predicted = None
            try:
                model = model_of(mf)
                if model is not None:
                    prediction = predict(mf, model)
                    self.builds = self.builds.plus(prediction.builds)
                    self._predicted = (place.positions, place.density(prediction.orbitals))
            except Exception as error:  # the SCF continues after any error of a model
                self.builds = self.builds.plus(getattr(error, "builds", None) or Builds())
                logger.info(mf, "history: no prediction at this geometry (%s: %s)", type(error).__name__, error)
        return self._predicted[1] if self._predicted else None

    def _vectors(self, mf: Any, place: Place, steps: list[Step]) -> tuple[Array, float]:
        """Return orbitals of the guess, (s, n, n) in Loewdin orbitals, the occupied ones first, and the misfit.

        Args:
            steps: the old ones near the place; for the strategies that fit, rotated onto it.
        """
        if self.strategy == "aspc":
            return predicted_orbitals(place, steps), np.inf
        if self.strategy in LEARNED:
            density, misfit = self._fitted(mf, place, steps)
            return natural(density), misfit
        vectors = natural(steps[0].density)
        if self.strategy == "loewdin":
            return vectors, np.inf
        coeff = place.transform @ metric_from_overlap(steps[0].overlap).inverse @ vectors
        return place.root @ coeff, np.inf

    def _fitted(self, mf: Any, place: Place, steps: list[Step]) -> tuple[Array, float]:
        """Return the extrapolated density in Loewdin orbitals, (s, n, n), and the misfit of its descriptor."""
        predicted = self._prediction(mf, place)
        if predicted is not None:
            steps = [step for step in steps if step.predicted is not None] or steps
        target, d = place.overlap, np.stack([step.overlap for step in steps])
        known, base = np.stack([step.density for step in steps]), np.zeros(())
        if predicted is not None and steps[0].predicted is not None:
            target = base = predicted
            d = np.stack([np.asarray(step.predicted) for step in steps])
            known = known - d
        d = d.reshape(len(d), -1)
        if self.strategy != "reversible":
            weights = extrapolation_weights(d, np.ravel(target), known)
        else:  # the past alone must not choose weights that are symmetric in time
            weights = reversible_weights(d, np.ravel(target), DESCRIPTOR_NOISE * tolerance_of(mf))
        misfit = float(np.linalg.norm(weights @ d - np.ravel(target)))
        return np.asarray(base + np.tensordot(weights, known, axes=1)), misfit


def _subject(mf: Any) -> str | None:
    """Return a hash of what is constant along a history; None for objects that are not supported."""
    kind = next((kind for kind in ("ROHF", "UHF", "RHF") if mf.istype(kind)), None)
    mol = mf.mol
    if kind is None or mol.natm == 0 or is_periodic(mol) or is_on_gpu(mf):
        return None
    atoms = tuple(mol.atom_symbol(i) for i in range(mol.natm))
    basis = (mol.cart, mol._bas.tobytes(), mol._env[gto.PTR_ENV_START + 4 * mol.natm :].tobytes())
    solvent = getattr(mf, "with_solvent", None)
    around = solvent and (type(solvent).__name__, getattr(solvent, "method", None), getattr(solvent, "eps", None))
    model = mf.init_guess if is_ml(mf.init_guess) else ""
    constant = (kind, getattr(mf, "xc", "hf"), around, model, int(mol.charge), int(mol.spin), atoms, *basis)
    return sha256(repr(constant).encode()).hexdigest()


def _field_changed(old: Array | None, new: Array | None) -> bool:
    """Whether an external potential has changed by more than small moves of the atoms explain."""
    if old is None or new is None:
        return old is not new
    return bool(np.abs(old - new).max() > FIELD_CHANGE)


def _defect(place: Place, steps: list[Step]) -> Array | None:
    """Return the extrapolated defect over AOs from steps rotated onto a geometry, the latest first.

    None if the latest has none, as its guess was good without: one from steps before it would make the guess worse.
    """
    if steps[0].defect is None:
        return None
    steps = [step for step in steps if step.defect is not None]
    d = np.stack([step.overlap.ravel() for step in steps])
    known = np.stack([np.asarray(step.defect) for step in steps])
    weights = extrapolation_weights(d, place.overlap.ravel(), known)
    return place.over_aos(np.tensordot(weights, known, axes=1))
