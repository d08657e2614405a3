"""Labelling of one molecule or crystal by its converged Fock matrix, the work of the generator's workers."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from pyscf import dft, gto, scf

from pyscf_mlham.ao.lattice import cells_from_bloch
from pyscf_mlham.ao.mole import graph_from_mol, is_ghost
from pyscf_mlham.arrays import Array
from pyscf_mlham.data.geometries import Molecule, cell_from_geometry, mol_from_geometry
from pyscf_mlham.data.record import Calculation, Level, Record, check_record, named_by_spin
from pyscf_mlham.density import Orbitals, band_gap, density_from_orbitals, gap
from pyscf_mlham.errors import DataError
from pyscf_mlham.field import CoarseField, ResponseField
from pyscf_mlham.field import Level as CoarseLevel
from pyscf_mlham.h0 import SCC
from pyscf_mlham.h0.crystal import coarse_crystal, self_consistent_crystal
from pyscf_mlham.h0.scc import inapplicable, self_consistent_atoms
from pyscf_mlham.scf.crystal import problem_of
from pyscf_mlham.scf.multilevel import accelerate
from pyscf_mlham.scf.multilevel.levels import CheapLevel
from pyscf_mlham.scf.multilevel.solver import solve
from pyscf_mlham.scf.problem import Problem
from pyscf_mlham.workers import Job

KINDS = ("auto", "rks", "uks", "roks", "gks", "rhf", "uhf", "rohf", "ghf")
SOLVERS = ("twolevel", "scf", "coarse")
ROUGH_TOL = 1e-7  # conv_tol of coarse labels: an orbital gradient of 3e-4, which single precision always reaches
ROUGH_GRID = 1  # PySCF's grid level of coarse labels
LABELS = CoarseLevel("labels", "def2-universal-jkfit", "def2-universal-jkfit", grid=ROUGH_GRID)


class Task(NamedTuple):
    """One molecule for a worker."""

    molecule: Molecule
    level: Level
    split: str  # train, val or test
    solver: str  # "twolevel" or "scf", or "coarse" for approximate labels without an energy
    guess: str  # initial guess, a name of PySCF's or "ml"


class Entry(NamedTuple):
    """The result of one molecule."""

    key: str  # identity of geometry, charge and spin
    name: str
    record: Record | None  # the labelled molecule, None if it failed
    reason: str = ""  # why it failed


class Solution(NamedTuple):
    """A converged SCF; of a crystal the matrices are those between cells, (N_k, n, n)."""

    matrices: dict[str, Array]  # F, and H0 if it was computed, by the names of their datasets, Hartree
    energy: float
    gap: float


def _label(task: Task) -> Entry:
    molecule, level = task.molecule, task.level
    if level.pseudo:
        solution = crystal_solution(crystal_mean_field(molecule, level).set(init_guess=task.guess), task.solver)
    else:
        mf = mean_field(build(molecule, level.basis), level).set(init_guess=task.guess)
        solution = _coarse_solution(mf) if task.solver == "coarse" else _full_solution(mf, task.solver)
    matrices, energy, gap = solution
    record = Record(
        **molecule._asdict(), split=task.split, fock=matrices.pop("fock"), energy=energy, gap=gap, extra=matrices
    )
    check_record(record, molecule.name)
    return Entry(molecule.key, molecule.name, record)


def _failed(task: Task, reason: str) -> Entry:
    return Entry(task.molecule.key, task.molecule.name, None, reason)


label = Job(_label, _failed)


def _full_solution(mf: Any, solver: str) -> Solution:
    if solver == "twolevel":
        mf = accelerate(mf)
    mf.kernel()
    if not mf.converged:
        raise DataError(f"the SCF did not converge in {mf.max_cycle} cycles")
    kept, size = np.shape(mf.mo_coeff)[-1], mf.mol.nao
    if kept < size:
        reason = f"the basis set is nearly linearly dependent, and PySCF keeps {kept} of {size} orbitals"
        raise DataError(f"{reason}; a label needs all of them, choose a smaller basis set")
    half = mf.get_ovlp(mf.mol) @ mf.mo_coeff
    fock = (half * np.asarray(mf.mo_energy)[..., None, :]) @ np.swapaxes(half, -1, -2)  # F = S C e C^T S: no build
    orbitals = Orbitals(mf.mo_energy, mf.mo_coeff, mf.mo_occ)
    return Solution(named_by_spin("fock", fock), float(mf.e_tot), gap(orbitals))


def _coarse_solution(mf: Any) -> Solution:
    """Converge in a fitted field, without an energy; its F is within 4e-6 Ha of the full one on average."""
    if reason := inapplicable(mf, mf.mol):
        raise DataError(reason)
    response = ResponseField(mf)  # before the baseline, which shares its integrals
    problem = Problem.of(mf)
    start, field = self_consistent_atoms(problem), CoarseField(mf, LABELS)
    point = problem.point_of(problem.orbitals(start.fock), field)
    cheaper = CheapLevel(problem, response.with_kernel(point.factors))
    point = solve(CheapLevel(problem, field, trust=float("inf")), point, problem.tolerance, [cheaper]).point
    if point.gradient > problem.tolerance:
        raise DataError(f"the coarse SCF did not converge to an orbital gradient of {problem.tolerance:.1g}")
    matrices = named_by_spin("fock", point.fock) | named_by_spin(f"fock_{SCC}", start.fock)
    return Solution(matrices, 0.0, gap(problem.orbitals(point.fock)))


def crystal_solution(mf: Any, solver: str) -> Solution:
    """Converge a crystal; the solver "coarse" stops at the field around one full build, without an energy."""
    if reason := inapplicable(mf, mf.mol):
        raise DataError(reason)
    problem = problem_of(mf)
    energy = 0.0
    if solver == "coarse":
        fock = np.asarray(self_consistent_crystal(problem).point.fock)
    else:
        start = density_from_orbitals(mf, problem.orbitals(coarse_crystal(problem).point.fock))
        solved = accelerate(mf) if solver == "twolevel" else mf
        energy = float(solved.kernel(dm0=start) if mf.init_guess == "minao" else solved.kernel())
        if not solved.converged:
            raise DataError(f"the SCF did not converge in {solved.max_cycle} cycles")
        fock = np.asarray(mf.get_fock(problem.hcore, problem.overlap, dm=solved.make_rdm1()))
    between_cells = cells_from_bloch(fock, mf.kpts, np.asarray(mf.mol.lattice_vectors()))
    return Solution({"fock": between_cells}, energy, band_gap(mf, problem.orbitals(fock)))


def build(molecule: Molecule, basis: str) -> gto.Mole:
    """Build a PySCF molecule; raise DataError with the reason if that is impossible."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PySCF's advice on other sources of basis sets
            mol = mol_from_geometry(molecule, basis)
    except (KeyError, RuntimeError, AssertionError) as error:  # errors of PySCF's parsers
        raise DataError(f"basis set {basis} does not support its elements ({str(error) or 'no such name'})") from error
    missing = {mol.atom_symbol(i) for i in range(mol.natm) if not len(mol.atom_shell_ids(i)) and not is_ghost(mol, i)}
    if missing:
        raise DataError(f"basis set {basis} lacks {', '.join(sorted(missing))}")
    try:
        graph_from_mol(mol)
    except ValueError as error:
        raise DataError(str(error)) from error
    return mol


def check_kind(kind: str, xc: str) -> None:
    """Raise DataError if a kind of mean field, one of `KINDS`, has no functional, and xc is one."""
    if kind.endswith("hf") and xc.lower() != "hf":
        raise DataError(f"--scf {kind} has no functional, and --xc is {xc}; give --xc hf, or the ks kind.")


def mean_field(mol: gto.Mole, level: Calculation, kind: str = "auto") -> Any:
    """Create the mean-field object of a level of theory; "auto": restricted closed shells, unrestricted open ones."""
    pure = level.xc.lower() == "hf"
    if kind == "auto":
        kind = ("u" if mol.spin else "r") + ("hf" if pure else "ks")
    check_kind(kind, level.xc)
    if pure:
        mf = getattr(scf, kind.upper().replace("KS", "HF"))(mol)
    else:
        mf = getattr(dft, kind.upper())(mol, xc=level.xc)
        mf.grids.level = level.grid_level
    if level.density_fit:
        mf = mf.density_fit()
    mf.conv_tol = level.conv_tol
    return mf


def crystal_mean_field(geometry: Molecule | Record, level: Level) -> Any:
    """Create the density-fitted KRKS object of a crystal."""
    from pyscf.pbc import dft  # importing PySCF's periodic part takes a second

    assert geometry.periodic is not None
    try:
        cell = cell_from_geometry(geometry, level)
    except (KeyError, RuntimeError, AssertionError) as error:  # errors of PySCF's parsers
        raise DataError(f"{level.basis} or {level.pseudo} does not support its elements ({error})") from error
    if cell.spin or cell.nelectron % 2:
        raise DataError(f"{cell.nelectron} electrons per cell; only closed shells are supported")
    if missing := sorted({cell.atom_symbol(i) for i in range(cell.natm)} - set(cell._pseudo)):
        raise DataError(f"{level.pseudo} lacks {', '.join(missing)}")
    mf = dft.KRKS(cell, geometry.periodic.kpts, xc=level.xc).density_fit()
    mf = mf.smearing(level.smearing) if level.smearing else mf
    mf.grids.level = level.grid_level
    return mf.set(conv_tol=level.conv_tol)


def object_of(record: Record, level: Level) -> Any:
    """Create the mean-field object of a labelled molecule or crystal."""
    if record.periodic:
        return crystal_mean_field(record, level)
    return mean_field(mol_from_geometry(record, level.basis), level)
