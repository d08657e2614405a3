"""One row: one SCF from one guess, in a new mean-field object, with its complete cost."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
import pyscf
from pyscf import gto

import pyscf_mlham
from pyscf_mlham.arrays import Array
from pyscf_mlham.bench.protocol import CLASSICAL, LIMIT, REFERENCE, TRACK, Guess, Protocol
from pyscf_mlham.bench.starts import NO_MODEL, Start, Work, mean_field_of, start_from
from pyscf_mlham.blas import processor_name, processors
from pyscf_mlham.data.geometries import Molecule
from pyscf_mlham.data.label import build
from pyscf_mlham.density import Orbitals
from pyscf_mlham.errors import DataError
from pyscf_mlham.scf.multilevel import accelerate
from pyscf_mlham.track import track
from pyscf_mlham.workers import Job

KNOWN = (*CLASSICAL, "ml")  # values of mf.init_guess; other starts are densities passed to the kernel
APPROACH = (0.98, 0.99)  # scale of the geometries that a tracked object converges first
ONE_LEVEL = "plain SCF, not two levels"  # in the note of such a run

_ALONE = threading.Lock()  # a worker of a cluster may have several threads, whose seconds would add up


class Task(NamedTuple):
    """One run for a worker."""

    molecule: Molecule
    guess: Guess
    solver: str
    repeat: int
    protocol: Protocol
    stability: bool = False  # whether PySCF's internal stability analysis follows

    @property
    def key(self) -> str:
        """Identity of the run under its protocol."""
        return f"{self.molecule.key} {self.guess.label} {self.solver} {self.repeat}" + " stability" * self.stability


@dataclass(frozen=True)
class Row:
    """The result of one run; None for a value that is missing or not applicable."""

    key: str  # identity of the run under its protocol
    molecule: str
    natm: int
    nao: int | None
    electrons: int | None  # number of electrons, without those in core potentials
    xc: str
    basis: str
    scf: str
    guess: str  # identity of the run; along a path the guess is a strategy
    solver: str
    repeat: int = 0
    step: int | None = None  # number of the geometry along a path, from 0
    at_minimum: bool | None = None  # whether an optimisation ends there
    charge: int | None = None
    mult: int | None = None
    converged: bool = False  # by PySCF's criteria
    cycles: int | None = None  # SCF cycles, full ones for twolevel; max_cycle if it did not converge
    full_builds: int | None = None  # full Fock builds of the solver
    single_builds: int | None = None  # builds of the object's own field in single precision
    coarse_builds: int | None = None  # coarse Fock builds, those of the guess and of the solver
    response_builds: int | None = None  # evaluations of the response model, those of the guess and of the solver
    guess_builds: int | None = None  # full Fock builds hidden in the guess
    guess_s: float | None = None  # wall seconds of the guess, and of guess and SCF
    total_s: float | None = None
    guess_cpu_s: float | None = None  # the same in processor seconds of the process
    total_cpu_s: float | None = None
    force_cpu_s: float | None = None  # processor seconds of the forces along a path
    # seconds of set-up and two full builds, the minimum of any SCF of the object; along a path, of set-up, one full
    # build and the forces
    limit_s: float | None = None
    limit_cpu_s: float | None = None
    e_tot: float | None = None
    e_err: float | None = None  # e_tot minus that of the reference, Hartree
    s2: float | None = None
    stable: bool | None = None  # whether the solution is a minimum by PySCF's internal stability analysis
    homo: float | None = None  # the highest of both spins; lumo is the lowest, gap their difference
    lumo: float | None = None
    gap: float | None = None
    # orbital energies of the predicted Fock matrix minus the converged ones, Hartree
    guess_homo_err: float | None = None
    guess_lumo_err: float | None = None
    occupied_mae: float | None = None  # mean absolute error of the predicted occupied orbital energies, Hartree
    # norm of the orbital gradient at the density of the first full Fock build, Hartree
    initial_gradient: float | None = None
    model: str = ""
    model_sha256: str = ""
    versions: str = ""  # versions of packages, processor and linear algebra
    note: str = ""
    error: str = ""  # why there is no result; "" if there is one
    gradients: list[float] = field(default_factory=list)  # norm of the orbital gradient at every full Fock build
    # occupied orbital energies and the lowest empty one, before and after the SCF; Hartree
    predicted: list[float] = field(default_factory=list)
    reached: list[float] = field(default_factory=list)
    # positions and momenta, Angstrom and ASE's unit; in rows of the run that makes the path
    positions: list[list[float]] = field(default_factory=list)
    momenta: list[list[float]] = field(default_factory=list)


def _measure(task: Task) -> Row:
    with _ALONE:
        _warm_up(task.protocol, task.guess)
        return _limit(task) if task.guess == LIMIT else _measured(task)


def _failed(task: Task, reason: str) -> Row:
    return Row(**_about(task), scf=task.protocol.scf, error=reason)


measure = Job(_measure, _failed)


def _about(task: Task) -> dict[str, Any]:
    molecule, protocol = task.molecule, task.protocol
    found = {"key": task.key, "guess": task.guess.label, "solver": task.solver, "repeat": task.repeat}
    found |= {"molecule": molecule.name, "natm": len(molecule.numbers), "nao": None, "electrons": None}
    found |= {"charge": molecule.charge, "mult": molecule.spin + 1}
    return found | {"xc": protocol.xc, "basis": protocol.basis, "versions": versions()}


def versions() -> str:
    """Return versions, the processor, and the processor detected by linear algebra libraries."""
    parts = {"pyscf_mlham": pyscf_mlham.__version__, "pyscf": pyscf.__version__, "numpy": np.__version__}
    parts |= {"torch": metadata.version("torch"), "python": platform.python_version(), "on": processor_name()}
    taken_for = ", ".join(f"{name} {detected}" for name, detected in processors().items())
    return ", ".join(f"{name} {version}" for name, version in parts.items()) + f", BLAS: {taken_for}" * bool(taken_for)


@cache
def _warm_up(protocol: Protocol, guess: Guess) -> None:
    """Run H2 first, so that imports and loading are not part of the first run of a process."""
    if guess.kind == "ml":
        import torch

        if protocol.device == "cuda" and not torch.cuda.is_available():
            raise DataError("--device cuda, but torch finds no CUDA device here")
        if protocol.device == "cpu" and torch.cuda.is_available():  # hidden from new processes only
            raise DataError("--device cpu, but torch sees a CUDA device; start the worker with CUDA_VISIBLE_DEVICES=''")
    if guess.kind in ("chk", LIMIT.kind, TRACK.kind):  # a file does not contain H2
        guess = Guess(REFERENCE[0], REFERENCE[0])
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.4]])
    hydrogen = Molecule("warm-up", "", "", np.array([1, 1]), positions, 0, 0)
    try:
        mf = _fresh(hydrogen, protocol)
    except DataError:  # the basis set is for other elements
        protocol = replace(protocol, basis="sto-3g")
        mf = _fresh(hydrogen, protocol)
    mf.kernel(dm0=start_from(guess, mf, hydrogen, protocol).density)
    accelerate(_fresh(hydrogen, protocol)).kernel()


def _fresh(molecule: Molecule, protocol: Protocol) -> Any:
    return mean_field_of(_mole(molecule, protocol), protocol).set(max_cycle=protocol.max_cycle)


def _mole(molecule: Molecule, protocol: Protocol) -> gto.Mole:
    return build(molecule, protocol.basis).set(max_memory=protocol.memory)


def _measured(task: Task) -> Row:
    protocol = task.protocol
    molecule, mf = task.molecule, _fresh(task.molecule, protocol)
    scf_class = type(mf).__name__
    if task.solver == "twolevel":
        mf = accelerate(mf)
    if task.guess == TRACK:  # from two smaller geometries
        mf = track(mf)
        for scale in APPROACH:
            mf.reset(_mole(molecule._replace(positions=scale * molecule.positions), protocol)).kernel()
        mf.reset(_mole(molecule, protocol))
    with recording(mf) as visited:
        begin = _clock()
        start, guess_seconds = _converge(mf, task)
        seconds = _seconds(guess_seconds, _clock() - begin)
    gradients, converged = _gradients(mf, visited), bool(mf.converged)
    note, stable = start.note, None
    if reason := getattr(mf, "plain_reason", ""):
        plain = f"two levels, then plain SCF: {reason}" if any(Work.of(mf)) else f"{ONE_LEVEL}: {reason}"
        note = "; ".join(filter(None, (note, plain)))
    if task.stability and converged:
        found = mf.stability(return_status=True)
        stable = bool(found[1] if len(found) == 2 else found[2])  # of rotations of its own orbitals; GHF has no others
    return Row(
        **_about(task) | _size(mf) | seconds | levels(mf, start.orbitals) | start.work.plus(Work.of(mf))._asdict(),
        scf=scf_class,
        converged=converged,
        cycles=int(mf.cycles) if converged else protocol.max_cycle,
        full_builds=len(visited),
        guess_builds=start.builds,
        e_tot=float(mf.e_tot),
        s2=float(mf.spin_square()[0]),
        stable=stable,
        gradients=gradients,
        initial_gradient=gradients[0] if gradients else None,  # none for one electron
        model=start.model,
        model_sha256=start.model_sha256,
        note=note,
    )


def _size(mf: Any) -> dict[str, Any]:
    return {"nao": int(mf.mol.nao), "electrons": int(mf.mol.nelectron)}


def _limit(task: Task) -> Row:
    """Time set-up and two full builds, the minimum of any SCF of the object.

    The seconds of the guess include everything up to the first build, with the minao density; the total adds one later
    build, at the density of the first Fock matrix.
    """
    mf = _fresh(task.molecule, task.protocol)
    begin = _clock()
    mf.build()
    density, hcore = mf.get_init_guess(mf.mol, "minao"), mf.get_hcore()
    v = mf.get_veff(mf.mol, density)
    first = _clock() - begin
    energy, coeff = mf.eig(mf.get_fock(hcore, mf.get_ovlp(), v, density), mf.get_ovlp())
    later = mf.make_rdm1(coeff, mf.get_occ(energy, coeff))
    begin = _clock()
    mf.get_veff(mf.mol, later, density, v)
    seconds = _seconds(first, first + _clock() - begin)
    return Row(**_about(task) | _size(mf) | seconds, scf=type(mf).__name__, full_builds=2)


def _seconds(guess: Array, total: Array) -> dict[str, float]:
    names = ("guess_s", "guess_cpu_s", "total_s", "total_cpu_s")
    return dict(zip(names, map(float, (*guess, *total)), strict=True))


def _converge(mf: Any, task: Task) -> tuple[Start, Array]:
    """Run the SCF as a user does, and return the start with its wall and processor seconds.

    A guess that mf.init_guess can name is made when the kernel requests it: its treatment by `accelerate`, such as
    mixing the frontier orbitals of unrestricted singlets, is part of the method.
    """
    made: list[tuple[Start, Array]] = []

    def make(guess: Guess) -> Any:
        begin = _clock()
        start = start_from(guess, mf, task.molecule, task.protocol)
        made.append((start, _clock() - begin))
        return start.density

    def get_init_guess(_mol: Any = None, key: str = "minao", **_: Any) -> Any:
        del mf.get_init_guess  # `start_from` calls PySCF's own
        return make(task.guess if key == task.guess.kind else Guess(key, key))  # accelerate() starts scc from minao

    if task.guess.kind in KNOWN:
        mf.init_guess, mf.get_init_guess = task.guess.kind, get_init_guess
        mf.kernel()
    else:
        mf.kernel(dm0=make(task.guess))
    unasked = f"{NO_MODEL}: one electron needs no guess" if task.guess.kind == "ml" else ""
    return made[0] if made else (Start(None, note=unasked), np.zeros(2))


def _clock() -> Array:
    return np.array([time.perf_counter(), time.process_time()])


@contextmanager
def recording(mf: Any) -> Iterator[list[tuple[Array, Array]]]:
    """Record every density for which an object builds the full potential, and that potential, inside the block."""
    visited: list[tuple[Array, Array]] = []
    original = mf.get_veff

    def get_veff(mol: Any = None, dm: Any = None, *args: Any, **kwargs: Any) -> Any:
        v = original(mol, dm, *args, **kwargs)
        whole = v if getattr(v, "v_solvent", None) is None else v + v.v_solvent
        visited.append((np.array(mf.make_rdm1() if dm is None else dm), np.array(whole)))
        return v

    mf.get_veff = get_veff
    try:
        yield visited
    finally:
        del mf.get_veff


def _gradients(mf: Any, visited: list[tuple[Array, Array]]) -> list[float]:
    """Return the norm of the orbital gradient of each density in its own field, Hartree.

    It is the norm of F D S - S D F in orthonormal orbitals over the root of two: for an idempotent density that of
    PySCF's orbital gradient, and defined for other guesses as well. For spins that share their orbitals it is that of
    the sum.
    """
    s, h = mf.get_ovlp(mf.mol), mf.get_hcore(mf.mol)
    x = mf.check_linear_dependency(s)
    norms = []
    for density, v in visited:
        fock = h + v
        spins = zip(fock, density, strict=True) if fock.ndim == 3 else [(fock, density)]
        half = [x.conj().T @ f @ d @ s @ x for f, d in spins]
        commutators = [m - m.conj().T for m in half]
        if mf.istype("ROHF"):
            commutators = [sum(commutators)]
        norms.append(float(np.sqrt(sum(np.linalg.norm(c) ** 2 for c in commutators) / 2)))
    return norms


def levels(mf: Any, orbitals: Orbitals | None = None) -> dict[str, Any]:
    """Return orbital energies of a converged object, and errors of those of the predicted Fock matrix."""
    reached, lumo = _occupied_and_lumo(mf.mo_energy, mf.mo_occ)
    homo = max(reached)
    found: dict[str, Any] = {"homo": homo, "lumo": lumo, "gap": None if lumo is None else lumo - homo}
    if orbitals is not None:
        predicted, empty = _occupied_and_lumo(orbitals.energy, orbitals.occ)
        if len(predicted) == len(reached):
            found["occupied_mae"] = float(np.mean(np.abs(np.subtract(predicted, reached))))
        found["guess_homo_err"] = max(predicted) - homo
        if lumo is not None and empty is not None:
            found["guess_lumo_err"] = empty - lumo
            found |= {"predicted": [*predicted, empty], "reached": [*reached, lumo]}
    return found


def _occupied_and_lumo(energy: Array, occupation: Array) -> tuple[list[float], float | None]:
    """Return occupied orbital energies in order, one spin after the other, and the LUMO energy, Hartree."""
    pairs = [*zip(np.atleast_2d(energy), np.atleast_2d(occupation), strict=True)]
    occupied = [float(e) for energies, n in pairs for e in np.sort(energies[n > 1e-8])]
    return occupied, min((float(e) for energies, n in pairs for e in energies[n <= 1e-8]), default=None)
