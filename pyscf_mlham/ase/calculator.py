"""MLHam: energies and forces for ASE, with guesses from the earlier steps."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    CalculatorSetupError,
    InputError,
    PropertyNotImplementedError,
    SCFError,
    all_changes,
)
from pyscf import gto, lib
from pyscf.data import nist

from pyscf_mlham.ao.mole import core_potentials
from pyscf_mlham.arrays import Array
from pyscf_mlham.ase.parameters import DEFAULTS, check
from pyscf_mlham.density import Orbitals, gap
from pyscf_mlham.field import Builds
from pyscf_mlham.model.guess import guess_with_info, is_ml, model_of, named_model
from pyscf_mlham.model.oneshot import OneShot
from pyscf_mlham.scf.counting import counting_fock_builds
from pyscf_mlham.scf.guess_info import GuessInfo, record
from pyscf_mlham.scf.multilevel import accelerate
from pyscf_mlham.scf.multilevel.ladder import COUNTS
from pyscf_mlham.state import NEARLY, SPIN_KEYS, charge_and_spin, mult_of_moments, stated
from pyscf_mlham.stepcost import Report, StepCost
from pyscf_mlham.track import track
from pyscf_mlham.track.history import LEARNED, SHADOW, History

BOHR: float = nist.BOHR
HARTREE: float = nist.HARTREE2EV


class MLHam(Calculator):
    """PySCF for ASE, with learned guesses, guesses from earlier steps, and the multilevel solver.

    Charge and multiplicity come from ``atoms.info`` ("charge"; "mult" or "multiplicity", or "spin" = n_alpha -
    n_beta), otherwise from the arguments; the default multiplicity is that of the initial magnetic moments.
    Besides ASE's properties there are `orbital_energies`, `gap` and ASE's `get_eigenvalues` and
    `get_occupation_numbers`, and the last converged PySCF object as `mf`. The integration grid moves with the atoms in
    the forces (PySCF's `grid_response`).
    """

    implemented_properties = ["energy", "free_energy", "forces", "dipole"]  # noqa: RUF012  (ASE's idiom)
    discard_results_on_any_change = True
    default_parameters = DEFAULTS

    def __init__(self, *, atoms: Atoms | None = None, **parameters: Any) -> None:
        """Set up the calculator, without computing anything.

        Args:
            parameters: any of these, with their defaults

                - `xc = "b3lyp"`: functional, or "hf"; `basis = "def2-svp"`: PySCF's name of the basis set.
                - `ecp = "auto"`: effective core potentials in PySCF's format; "auto": those of the basis set.
                - `charge = 0`; `multiplicity = None`, or `mult`: 2 S + 1; None: that of the moments, else the lowest.
                - `grid_level = None`: level of the functional's integration grid, 0 to 9; None: PySCF's default.
                - `dispersion = None`: "d3bj", "d3zero", "d3bjm", "d3zerom", "d3op" or "d4"; needs pyscf-dispersion.
                - `density_fit = False`: whether integrals are density-fitted.
                - `solver = "scf"`: "scf", or "twolevel" for `accelerate`.
                - `guess = None`: guess of the first step, "ml", "scc" or one of PySCF's; "ml" also helps later steps.
                  None: "ml" for the solver "scf" or with a model, else "minao", from which `accelerate` is faster.
                - `model = None`: name or path of a model; None: the best applicable shipped one.
                - `fallback = "scc"`: guess if the model is not applicable, "scc", one of PySCF's, or "raise".
                - `history = "fit"`: strategy for the later steps, "fit", "reversible" (NVE runs), "shadow" (NVE runs
                  without SCF, see `track`), or for comparison "aspc", "loewdin", "last"; None: the first guess always.
                - `loose_above = None`: for optimisations: largest force on an atom, eV/Angstrom, above which the SCF is
                  converged loosely, see `track`; twice the optimiser's criterion is a good value. None: never.
                - `mode = "scf"`: "scf", or "predict" for orbitals and dipole without SCF.
                - `conv_tol = 1e-9`: energy criterion, Hartree; `max_cycle = 50`: largest number of cycles.
                - `verbose = 0`: PySCF's output level, from 0 (silent) to 9.
                - `mf_hook = None`: function of the PySCF object, called before the SCF; may return another object.
        """
        self.mf: Any = None
        self._history: History | None = None
        self._steps: list[StepCost] = []
        self._state: tuple[int, int] | None = None
        super().__init__(atoms=atoms, **parameters)
        self._start_history()  # ASE calls `set` only for parameters that differ from the defaults

    def set(self, **parameters: Any) -> dict[str, Any]:
        """Change parameters, see the constructor; a change clears results and history."""
        check(parameters, self.parameters or DEFAULTS)
        changed: dict[str, Any] = super().set(**parameters)
        if changed:
            self._start_history()
        every = type(self).implemented_properties
        self.implemented_properties = ["dipole"] if self.parameters["mode"] == "predict" else every
        return changed

    def _start_history(self) -> None:
        self._history = History(self.parameters["history"]) if self.parameters["history"] else None

    def save_history(self, path: str | Path) -> None:
        """Write the history of geometries to a file beside a trajectory; see `load_history`."""
        if self._history is None:
            raise InputError("history=None keeps no geometries; choose one of its strategies.")
        self._history.save(path)

    def load_history(self, path: str | Path) -> None:
        """Continue with the history that `save_history` has written, of the same molecule and parameters."""
        history = History.load(path)
        if history.strategy != self.parameters["history"]:
            raise InputError(f"{path} has history={history.strategy!r}, not {self.parameters['history']!r}.")
        self.use_history(history)

    def use_history(self, history: History) -> None:
        """Take the guesses of later steps from a history, which may extrapolate in another way than its parameter."""
        self._history = history

    def reset(self) -> None:
        """Clear the results. The history is kept, as some versions of ASE reset at every move."""
        super().reset()
        self.mf = self._state = None

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last calculation, including charge and multiplicity."""
        changes: list[str] = super().check_state(atoms, tol=tol)
        if self._state is not None and self._state != self.charge_and_spin(atoms):
            changes.append("info")
        return changes

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return a property, or None if it is missing and must not be calculated."""
        if self.parameters["mode"] == "predict" and name in MLHam.implemented_properties[:3]:
            raise PropertyNotImplementedError(
                f"{name}: not available in mode='predict', which runs no SCF; use mode='scf'."
            )
        return super().get_property(name, atoms, allow_calculation)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Run one SCF, or one prediction, for all requested properties; called by ASE.

        Forces are computed only if requested.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        if missing := [name for name in properties if name not in self.implemented_properties]:
            raise PropertyNotImplementedError(f"{', '.join(missing)} in mode {self.parameters['mode']!r}")
        assert self.atoms is not None
        if system_changes or self.mf is None:
            self.results, self.mf = {}, None  # no results of another geometry are left if this run is interrupted
            if self.atoms.pbc.any():
                raise CalculatorSetupError(
                    "MLHam is for molecules, and these atoms are periodic; set atoms.pbc = False, or use PySCF's pbc."
                )
            self._state = self.charge_and_spin(self.atoms)
            self._warn_of_unused_moments(self.atoms, self._state[1])
            self._run(self.mean_field(self.atoms, *self._state), "forces" in properties)
        if "forces" in properties and "forces" not in self.results:
            start = time.process_time()
            with counting_fock_builds(self.mf) as counter:
                self.results["forces"] = -self._gradient() * (HARTREE / BOHR)
            cost, seconds = self._steps[-1], time.process_time() - start
            self._steps[-1] = cost._replace(force_seconds=seconds, builds=cost.builds + counter.builds)
            if counter.builds:  # a loose SCF has been tightened
                self._take_results()

    def charge_and_spin(self, atoms: Atoms) -> tuple[int, int]:
        """Return total charge and n_alpha - n_beta, from atoms.info or the arguments."""
        p: dict[str, Any] = self.parameters or {}
        mult = self._multiplicity()
        try:
            neutral = p["charge"] == 0 and stated(atoms.info).get("charge", 0) == 0
            if mult is None and neutral:  # moments are of neutral molecules
                mult = mult_of_moments(atoms.get_initial_magnetic_moments(), int(atoms.numbers.sum()))
            return charge_and_spin(atoms.info, int(atoms.numbers.sum()), p["charge"], mult)
        except ValueError as error:
            raise InputError(
                f"{error}; give the correct values as arguments (charge=, multiplicity=) or in atoms.info."
            ) from error

    def _multiplicity(self) -> Any:
        p: dict[str, Any] = self.parameters
        return p["mult"] if p["multiplicity"] is None else p["multiplicity"]

    def _warn_of_unused_moments(self, atoms: Atoms, spin: int) -> None:
        total = abs(float(atoms.get_initial_magnetic_moments().sum()))
        given = self._multiplicity() is not None or stated(atoms.info).keys() & set(SPIN_KEYS)
        if not given and total > NEARLY and abs(total - spin) > NEARLY:
            why = "their sum is not whole, or not that of this charge"
            unused = f"initial magnetic moments, {total:.3g} in all, are not used ({why})"
            used = f"multiplicity {spin + 1} is computed; set multiplicity= for another"
            warnings.warn(f"MLHam: {unused}; {used}.", stacklevel=2)

    def mean_field(self, atoms: Atoms, charge: int, spin: int) -> Any:
        """Return the PySCF object of a geometry, before any SCF; `spin` is n_alpha - n_beta."""
        p: dict[str, Any] = self.parameters
        places = list(zip(atoms.get_chemical_symbols(), (atoms.positions / BOHR).tolist(), strict=True))
        try:
            ecp = core_potentials(p["basis"], atoms.get_chemical_symbols()) if p["ecp"] == "auto" else p["ecp"]
            state = {"charge": charge, "spin": spin, "verbose": p["verbose"]}
            mol = gto.M(atom=places, unit="Bohr", basis=p["basis"], ecp=ecp, **state)
        except (KeyError, RuntimeError) as error:
            raise InputError(f"PySCF cannot build the molecule in basis {p['basis']!r}: {error}") from error
        if p["xc"].lower() == "hf":
            mf = mol.UHF() if spin else mol.RHF()
        else:
            mf = mol.UKS(xc=p["xc"]) if spin else mol.RKS(xc=p["xc"])
            mf.grids.level = mf.grids.level if p["grid_level"] is None else p["grid_level"]
        if p["dispersion"]:
            if find_spec("pyscf.dispersion") is None:
                raise CalculatorSetupError(f"dispersion = {p['dispersion']!r} needs: pip install pyscf-dispersion")
            mf.disp = p["dispersion"]
        mf = mf.density_fit() if p["density_fit"] else mf
        mf.conv_tol, mf.max_cycle = p["conv_tol"], p["max_cycle"]
        guess = p["guess"] or ("ml" if p["solver"] == "scf" or p["model"] else "minao")
        mf.init_guess = f"ml:{p['model']}" if p["model"] and is_ml(guess) else guess
        if p["mf_hook"] is not None:
            changed = p["mf_hook"](mf)
            mf = mf if changed is None else changed
        return mf

    def _run(self, mf: Any, forces: bool) -> None:
        """Compute energy and orbitals, or orbitals only; `forces`: whether forces follow."""
        if self.parameters["mode"] == "predict":
            self.mf = OneShot(mf, model_of(mf) or self.parameters["model"]).run()
        else:
            self.mf = self._converged(mf, forces)
        self._take_results()

    def _take_results(self) -> None:
        mf = self.mf
        if self.parameters["mode"] == "scf":
            e_tot, e_free, e_zero = mf.e_tot, getattr(mf, "e_free", None), getattr(mf, "e_zero", None)
            # with smeared occupations the forces are those of the free energy, and ASE's energy is that at 0 K
            self.results["energy"] = float(e_tot if e_zero is None else e_zero) * HARTREE
            self.results["free_energy"] = float(e_tot if e_free is None else e_free) * HARTREE
        # the name of the keyword for the unit differs in generalised objects
        self.results["dipole"] = np.asarray(mf.dip_moment(None, None, "AU", verbose=0)) * BOHR

    def _converged(self, mf: Any, forces: bool) -> Any:
        """Run the SCF and record its cost."""
        p, history = self.parameters, self._history
        mf = accelerate(mf) if p["solver"] == "twolevel" else mf
        loose = p["loose_above"] and p["loose_above"] * BOHR / HARTREE
        mf = mf if history is None else track(mf, history, loose)
        start, info, before = time.process_time(), None, history.builds if history else Builds()
        with counting_fock_builds(mf) as counter:
            density = None
            if is_ml(mf.init_guess) and (history is None or not history.is_applicable(mf)):
                density, info = self._learned_guess(mf)
            with lib.temporary_env(mf, _loosened=True) if loose and forces else nullcontext():
                mf.kernel(dm0=density)
        if not mf.converged:
            self.mf = self._state = None
            raise SCFError(
                f"SCF did not converge in {mf.max_cycle} cycles; increase max_cycle, check the geometry and its state, "
                "or change its settings by mf_hook."
            )
        seconds = time.process_time() - start
        coarse, single, response = (getattr(mf, name, 0) for name in COUNTS)
        if history is not None:  # of its predictions
            coarse += history.builds.coarse_builds - before.coarse_builds
            single += history.builds.single_builds - before.single_builds
        if info is not None:
            coarse, single = coarse + info.coarse_builds, single + info.single_builds
            record(mf, info)  # not before, as an SCF from a density clears it
        reason = (info.fallback_reason if info else "") or self._why_no_prediction(mf)
        cycles = int(mf.cycles) or counter.builds  # PySCF's second-order solvers do not count cycles
        self._steps.append(StepCost(cycles, counter.builds, coarse, seconds, 0.0, reason, single, response))
        return mf

    def _learned_guess(self, mf: Any) -> tuple[Array, GuessInfo]:
        """Return the density of the model, or that of the fallback with a warning."""
        fallback = self.parameters["fallback"]
        density, info = guess_with_info(mf, named_model(mf.init_guess), fallback)
        if reason := info.fallback_reason:
            message = f"MLHam: the model is not used ({reason}); the {fallback} guess is used instead."
            warnings.warn(message, stacklevel=2)
        return density, info

    def _why_no_prediction(self, mf: Any) -> str:
        """Return why a guess from the history contains no prediction; "" if it does, or if no model was requested."""
        history = self._history
        if not is_ml(mf.init_guess) or history is None or not history.steps:
            return ""
        if history.strategy not in LEARNED or history.strategy == SHADOW or history.steps[0].predicted is not None:
            return ""
        return next((step.fallback for step in self._steps[::-1] if step.fallback), "no prediction")

    def _gradient(self) -> Array:
        """Return dE/dR, Hartree per Bohr, including the response of the integration grid."""
        gradient = self.mf.nuc_grad_method()
        gradient.verbose = self.parameters["verbose"]
        if hasattr(gradient, "grid_response"):
            gradient.grid_response = True
        return np.asarray(gradient.kernel())

    def report(self) -> Report:
        """Return the cost of each geometry so far."""
        return Report(tuple(self._steps))

    @property
    def orbital_energies(self) -> Array:
        """Orbital energies, (n,), or (2, n) for open shells; eV."""
        return np.asarray(self._computed().mo_energy) * HARTREE

    @property
    def gap(self) -> float:
        """Lowest empty minus highest occupied orbital energy, eV."""
        mf = self._computed()
        return gap(Orbitals(mf.mo_energy, mf.mo_coeff, mf.mo_occ)) * HARTREE

    def get_number_of_spins(self) -> int:
        """Return 2 for open shells, otherwise 1."""
        return int(np.ndim(self._computed().mo_energy))

    def get_spin_polarized(self) -> bool:
        """Whether the two spins have orbitals of their own."""
        return self.get_number_of_spins() == 2

    def get_eigenvalues(self, kpt: int = 0, spin: int = 0) -> Array:
        """Return the orbital energies of one spin, 0 or 1, eV."""
        del kpt  # there is one only
        return np.asarray(np.atleast_2d(self.orbital_energies)[spin])

    def get_occupation_numbers(self, kpt: int = 0, spin: int = 0) -> Array:
        """Return the occupations of one spin's orbitals."""
        del kpt
        return np.array(np.atleast_2d(self._computed().mo_occ)[spin], dtype=float)

    def _computed(self) -> Any:
        if self.mf is None and self.atoms is not None and self.results:  # a copy lacks PySCF's object
            self.calculate(self.atoms, self.implemented_properties[:1])
        if self.mf is None:
            raise CalculatorSetupError("no orbitals yet; compute an energy or a dipole moment first.")
        return self.mf

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """Return the parameters that can be written to a file."""
        parameters: dict[str, Any] = super().todict(skip_default=skip_default)
        return {name: value for name, value in parameters.items() if name != "mf_hook"}

    def __getstate__(self) -> dict[str, Any]:
        # PySCF's objects hold open files; everything else can be sent to another process
        return self.__dict__ | {"mf": None}
