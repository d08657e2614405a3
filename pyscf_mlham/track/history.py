"""What the last steps of a trajectory say of the next: densities extrapolated over geometries.

Converged density matrices are kept in Loewdin orbitals, S^1/2 D S^1/2, where they stay projectors whatever the
overlap. At a new geometry a cheap descriptor d (the density that a model predicts; without a model the overlap) is
fitted by those of the old geometries, and the true densities are combined in the same way:

    minimise |d - sum_j w_j d_j|^2 + noise^2 |w|^2,  sum_j w_j = 1;    D = d_ml + sum_j w_j (D_j - d_ml,j),

the last with a model; D = sum_j w_j D_j without. The eigenvectors of D with the largest eigenvalues take the old
occupations, so the guess holds the right number of electrons and is idempotent. Time enters nowhere: steps of an
optimisation are as good as those of a trajectory. Every old step is first moved and turned onto the new geometry.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.lib import logger
from pyscf.scf import hf

from pyscf_mlham.ao.layout import OrbitalLayout
from pyscf_mlham.ao.loewdin import Metric, metric_from_overlap
from pyscf_mlham.density import Orbitals, density_from_orbitals
from pyscf_mlham.model.guess import is_ml, model_of
from pyscf_mlham.model.predictor import predict
from pyscf_mlham.track.extrapolation import aligned, aspc_weights, fitted_weights, largest_move, reversible_weights
from pyscf_mlham.track.recycle import KEPT, RecyclingDIIS, Response

Array = NDArray[np.float64]

LEARNED = ("fit", "reversible")
STRATEGIES = (*LEARNED, "aspc", "loewdin", "last")
DEPTH = 15  # steps remembered; more gain little
MEMORY = 0.25  # share of max_memory that they may take
JUMP = 1.0  # Bohr, of one atom after alignment; beyond it old steps say nothing
NOISE = 0.15  # of descriptors and densities, as a share of the orbital gradient at convergence
ASPC_POINTS = 4  # Kolafa's ASPC(2), the usual choice
OTHER_STATE = 0.5  # squared sine of the largest angle between old and new occupied orbitals; beyond it, another state
PULLED = 1e-2  # Hartree, change of an external potential in Loewdin orbitals, beyond which old steps say nothing
CLOSE = 1e-2  # error of the last guess (Frobenius norm) up to which the next is better than a coarse SCF


class Step(NamedTuple):
    """One converged geometry, in irreps order.

    Attributes:
        positions: (N, 3) Bohr.
        overlap: (n, n).
        density: (s, n, n) of each set of orbitals, in Loewdin orbitals.
        predicted: (s, n, n), that of a model, or None.
        occ: (s, n) occupations, falling.
        external: (1, n, n) what the core Hamiltonian has beside that of the bare molecule, in Loewdin orbitals,
            Hartree; None where nothing.
    """

    positions: Array
    overlap: Array
    density: Array
    predicted: Array | None
    occ: Array
    external: Array | None

    @property
    def nbytes(self) -> int:
        """Memory taken."""
        return sum(0 if a is None else a.nbytes for a in self)

    def turned(self, onto: Array, layout: OrbitalLayout) -> Step:
        """Return the step with the molecule moved and turned as near as may be to other positions.

        Args:
            onto: (N, 3) Bohr.
            layout: of the molecule.
        """
        rotation, moved = aligned(self.positions, onto)
        d = layout.rotation(rotation)

        def turned(a: Array | None) -> Any:
            return None if a is None else d @ a @ d.T

        return Step(
            moved, turned(self.overlap), turned(self.density), turned(self.predicted), self.occ, turned(self.external)
        )


class _Place(NamedTuple):
    """A geometry and its orbitals: functions_irreps = T^T functions_pyscf, the overlap of the former and its roots."""

    positions: Array
    layout: OrbitalLayout
    transform: Array
    overlap: Array
    metric: Metric

    @classmethod
    def of(cls, mf: Any) -> _Place:
        layout = OrbitalLayout.from_mol(mf.mol)
        transform = np.eye(layout.n_ao)[:, layout.order] if layout.transform is None else layout.transform
        overlap = transform.T @ mf.get_ovlp() @ transform
        return cls(np.asarray(mf.mol.atom_coords()), layout, transform, overlap, metric_from_overlap(overlap))

    def density(self, orbitals: Orbitals) -> Array:
        """Densities of sets of orbitals, (s, n, n), in Loewdin orbitals."""
        coeff, occ = np.asarray(orbitals.coeff), np.atleast_2d(orbitals.occ)
        found = []
        for c, n in zip(coeff if coeff.ndim == 3 else coeff[None], occ, strict=True):
            half = self.metric.half @ np.linalg.solve(self.transform, c[:, n > 0] * np.sqrt(n[n > 0]))
            found.append(half @ half.T)
        return np.stack(found)

    def external(self, mf: Any) -> Array | None:
        """Return what the core Hamiltonian has beside a bare molecule's, (1, n, n) in Loewdin orbitals."""
        if getattr(mf.get_hcore, "__func__", None) is hf.SCF.get_hcore:
            return None
        added = self.transform.T @ (mf.get_hcore() - hf.get_hcore(mf.mol)) @ self.transform
        return np.asarray(self.metric.inverse @ added @ self.metric.inverse)[None]

    def orbitals(self, coeff: Array, occ: Array, flat: bool) -> Orbitals:
        """Orbitals in PySCF's order from coefficients (s, n, m) of AOs in irreps order; flat for one set."""
        parts = (np.zeros_like(occ), self.transform @ coeff, occ)
        return Orbitals(*(p[0] if flat else p for p in parts))


class Guess(NamedTuple):
    """A density to start from.

    Attributes:
        density: in the object's own shape.
        steps: number of old steps that it is made of.
        close: whether it is expected nearer to the solution than a coarse SCF would come.
    """

    density: Array
    steps: int
    close: bool


class History:
    """Converged densities of past geometries.

    Another kind of molecule or method, a jump, another electronic state or another external potential empties it.

    Attributes:
        strategy: "fit" (as above), "reversible" (the same, symmetric in time, for NVE runs), or a rival: "aspc"
            (Kolafa's predictor on D S), "loewdin" (the last density in the new Loewdin orbitals), "last" (the last
            density as it is, PySCF's scanners' way).
        steps: the latest first.
        error: Frobenius norm of the last guess's error in Loewdin orbitals; infinite where there was no guess.
    """

    def __init__(self, strategy: str = "fit", depth: int = DEPTH) -> None:
        """Start with nothing.

        Args:
            strategy: one of STRATEGIES.
            depth: steps to remember.
        """
        if strategy not in STRATEGIES:
            raise ValueError(f"unknown strategy {strategy!r}; expected one of {', '.join(STRATEGIES)}.")
        if depth < 1:
            raise ValueError(f"a history of depth {depth} remembers nothing; expected one or more.")
        self.strategy, self.depth = strategy, depth
        self.clear()

    def clear(self) -> None:
        """Forget every step."""
        self.steps: list[Step] = []
        self.responses: list[tuple[Array, Response]] = []  # positions, and what was seen there
        self.error = np.inf
        self._subject: Any = None
        self._guessed: tuple[Array, Array] | None = None  # positions, density
        self._predicted: tuple[Array, Array] | None = None  # positions, density

    def guess(self, mf: Any) -> Guess | None:
        """Return a density for the object's present geometry, None where its own guess must serve.

        With ``mf.init_guess = 'ml'`` the model has its part in it.

        Args:
            mf: PySCF mean-field object; left as it is.
        """
        self._guessed = None
        if not self.serves(mf):
            return None
        place = _Place.of(mf)
        orbitals = place.orbitals(self._coefficients(mf, place), self.steps[0].occ, flat=not mf.istype("UHF"))
        self._guessed = (place.positions, place.density(orbitals))
        close = self.strategy in LEARNED and self.error < CLOSE
        return Guess(density_from_orbitals(mf, orbitals), len(self.steps), close)

    def serves(self, mf: Any) -> bool:
        """Return whether there are steps to guess from; where they say nothing of the present geometry they go.

        Args:
            mf: PySCF mean-field object; left as it is.
        """
        if self._subject != _subject(mf):
            self.clear()
        if not self.steps:
            return False
        place = _Place.of(mf)
        jump = min(largest_move(step.positions, place.positions) for step in self.steps)
        if jump > JUMP:
            logger.note(mf, "history: an atom has moved by %.1f Bohr; it starts afresh.", jump)
            self.clear()
        elif _pulled(self.steps[0].turned(place.positions, place.layout).external, place.external(mf)):
            logger.note(mf, "history: the external potential has changed; it starts afresh.")
            self.clear()
        return bool(self.steps)

    def diis(self, mf: Any) -> RecyclingDIIS:
        """Return a DIIS for the object's present geometry that knows the responses seen at earlier ones.

        Args:
            mf: PySCF mean-field object; left as it is.
        """
        place = _Place.of(mf)
        known = []
        for positions, response in self.responses:
            d = place.layout.rotation(aligned(positions, place.positions)[0])
            known.append(Response(*(d @ a @ d.T for a in response)))
        return RecyclingDIIS(mf, place.transform, place.metric, known)

    def learn(self, mf: Any, diis: RecyclingDIIS) -> None:
        """Keep the responses that a converged SCF has shown.

        Args:
            mf: the object that `diis` was made for.
            diis: after use.
        """
        place = np.asarray(mf.mol.atom_coords())
        self.responses = [(place, response) for response in diis.responses()] + self.responses
        room = int(MEMORY * 1e6 * mf.max_memory / sum(a.nbytes for a in self.responses[0][1])) if self.responses else 0
        del self.responses[min(KEPT, room) :]

    def record(self, mf: Any) -> None:
        """Remember a converged calculation.

        Args:
            mf: converged PySCF mean-field object; left as it is.
        """
        subject = _subject(mf)
        if subject is None or np.iscomplexobj(mf.mo_coeff):
            return
        if self._subject != subject:
            self.clear()
            self._subject = subject
        place = _Place.of(mf)
        density = place.density(Orbitals(mf.mo_energy, mf.mo_coeff, mf.mo_occ))
        here = self._guessed is not None and np.array_equal(self._guessed[0], place.positions)
        self.error = float(np.linalg.norm(density - self._guessed[1])) if here and self._guessed else np.inf
        self._guessed = None
        filled = -np.sort(-np.atleast_2d(mf.mo_occ), axis=-1)
        occ = np.pad(filled, ((0, 0), (0, density.shape[-1] - filled.shape[-1])))  # where S is nearly singular
        predicted = self._prediction(mf, place) if self.strategy in LEARNED else None
        step = Step(place.positions, place.overlap, density, predicted, occ, place.external(mf))
        if self.steps and _other_state(self.steps[0].turned(place.positions, place.layout), step):
            self.steps, self.responses = [], []  # a mixture of two states is no guess for either
        self.steps.insert(0, step)
        room = int(MEMORY * 1e6 * mf.max_memory / self.steps[0].nbytes)
        del self.steps[max(1, min(self.depth, room)) :]

    def _prediction(self, mf: Any, place: _Place) -> Array | None:
        """Density that the model of mf.init_guess predicts, asked for once at each geometry; None without one."""
        if self._predicted is None or not np.array_equal(self._predicted[0], place.positions):
            self._predicted = None
            try:
                model = model_of(mf)
                if model is not None:
                    self._predicted = (place.positions, place.density(predict(mf, model).orbitals))
            except Exception as error:  # as with the guess: whatever goes wrong inside a model, SCF goes on
                logger.info(mf, "history: no prediction at this geometry (%s: %s)", type(error).__name__, error)
        return self._predicted[1] if self._predicted else None

    def _coefficients(self, mf: Any, place: _Place) -> Array:
        """Orbitals of the guess, (s, n, n) over AOs in irreps order; those with occupation come first."""
        if self.strategy == "aspc":
            return self._aspc(place)
        if self.strategy in LEARNED:
            return place.metric.inverse @ _natural(self._fitted(mf, place))
        last = self.steps[0]
        metric = place.metric if self.strategy == "loewdin" else metric_from_overlap(last.overlap)
        return metric.inverse @ _natural(last.density)

    def _fitted(self, mf: Any, place: _Place) -> Array:
        """Extrapolated density in Loewdin orbitals."""
        predicted, steps = self._prediction(mf, place), self.steps
        if predicted is not None:
            steps = [step for step in steps if step.predicted is not None] or steps
        steps = [step.turned(place.positions, place.layout) for step in steps]
        target, d = place.overlap, np.stack([step.overlap for step in steps])
        learned = predicted is not None and steps[0].predicted is not None
        if learned:
            target, d = np.asarray(predicted), np.stack([np.asarray(step.predicted) for step in steps])
        noise = NOISE * float(mf.conv_tol_grad or np.sqrt(mf.conv_tol))
        weights_of = fitted_weights if self.strategy == "fit" else reversible_weights
        weights = weights_of(d.reshape(len(d), -1), np.ravel(target), noise)
        density = np.tensordot(weights, np.stack([step.density for step in steps]), axes=1)
        return np.asarray(density + (target - np.tensordot(weights, d, axes=1)) if learned else density)

    def _aspc(self, place: _Place) -> Array:
        """Kolafa's predictor: sum_j B_j (D_j S_j) C_last, orthogonalised anew."""
        steps = self.steps[:ASPC_POINTS]
        metrics = [metric_from_overlap(step.overlap) for step in steps]
        coeff = metrics[0].inverse @ _natural(steps[0].density)
        projector = np.zeros_like(steps[0].density)
        for b, step, metric in zip(aspc_weights(len(steps)), steps, metrics, strict=True):
            projector += b * (metric.inverse @ step.density @ metric.half)
        moved, found = projector @ coeff, []
        for c, occ in zip(moved, steps[0].occ, strict=True):
            kept = c[:, occ > 0] / occ[occ > 0]  # each was multiplied by its own occupation
            s, u = np.linalg.eigh(kept.T @ place.overlap @ kept)
            half = place.metric.half @ kept @ (u / np.sqrt(s)) @ u.T
            found.append(place.metric.inverse @ np.hstack([half, _complement(half)]))
        return np.stack(found)


def _subject(mf: Any) -> tuple[Any, ...] | None:
    """Return what must not change along a history; None for objects that it does not serve."""
    kind = next((kind for kind in ("ROHF", "UHF", "RHF") if mf.istype(kind)), None)
    mol = mf.mol
    if kind is None or mol.natm == 0 or any(c.__name__ == "Cell" for c in type(mol).__mro__):
        return None
    atoms = tuple(mol.atom_symbol(i) for i in range(mol.natm))
    basis = (mol.cart, mol._bas.tobytes(), mol._env[gto.PTR_ENV_START + 4 * mol.natm :].tobytes())
    solvent = getattr(mf, "with_solvent", None)
    around = solvent and (type(solvent).__name__, getattr(solvent, "method", None), getattr(solvent, "eps", None))
    model = mf.init_guess if is_ml(mf.init_guess) else ""
    return (kind, getattr(mf, "xc", "hf"), around, model, mol.charge, mol.spin, atoms, *basis)


def _pulled(old: Array | None, new: Array | None) -> bool:
    """Whether an external potential has changed by more than small moves of the atoms explain."""
    if old is None or new is None:
        return old is not new
    return bool(np.abs(old - new).max() > PULLED)


def _other_state(old: Step, new: Step) -> bool:
    """Whether an orbital has lost its electrons to another between two geometries, turned onto each other."""
    if not np.array_equal(old.occ > 0, new.occ > 0):
        return True
    moved = np.linalg.norm(new.density - old.density, ord=2, axis=(-2, -1))
    whole = np.where(new.occ > 0.5, new.occ, np.inf).min(axis=-1)  # one electron, where some are unpaired
    return bool(np.any((moved / whole) ** 2 > OTHER_STATE))


def _natural(density: Array) -> Array:
    """Eigenvectors (s, n, n) of densities, the fullest first."""
    return np.asarray(np.linalg.eigh((density + np.swapaxes(density, -1, -2)) / 2)[1][..., ::-1])


def _complement(vectors: Array) -> Array:
    """Orthonormal vectors (n, n - k) orthogonal to k orthonormal ones."""
    return np.asarray(np.linalg.svd(vectors, full_matrices=True)[0][:, vectors.shape[1] :])
