"""One converged Fock matrix: what every worker of the generator does."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import dft, gto, scf

from pyscf_mlham.basis import is_ghost
from pyscf_mlham.data.geometries import Molecule, mol_from_geometry
from pyscf_mlham.data.journal import Entry
from pyscf_mlham.data.schema import Level, Record, check_record
from pyscf_mlham.errors import DataError
from pyscf_mlham.graph import graph_from_mol
from pyscf_mlham.scf.twolevel import accelerate

Array = NDArray[np.float64]


class Task(NamedTuple):
    """One molecule for a worker.

    Attributes:
        molecule: geometry.
        level: of theory.
        split: train, val or test.
        solver: "twolevel" or "scf".
        guess: initial guess, PySCF's name or "ml".
    """

    molecule: Molecule
    level: Level
    split: str
    solver: str
    guess: str


def label(task: Task) -> Entry:
    """Run the SCF of one molecule; a failure is an entry with its reason, never an exception.

    Args:
        task: molecule and level of theory.
    """
    molecule = task.molecule
    try:
        record = _record(task)
    except Exception as error:  # whatever it is, the other molecules go on, and this one is reported
        return Entry(molecule.key, molecule.name, None, f"{type(error).__name__}: {error}".strip())
    return Entry(molecule.key, molecule.name, record)


def _record(task: Task) -> Record:
    molecule, level = task.molecule, task.level
    mf = mean_field(build(molecule, level.basis), level)
    mf.init_guess = task.guess
    if task.solver == "twolevel":
        mf = accelerate(mf)
    mf.kernel()
    if not mf.converged:
        raise DataError(f"the SCF did not converge in {mf.max_cycle} cycles")
    overlap = mf.get_ovlp()
    spins = bool(molecule.spin)
    channels = (
        zip(mf.mo_coeff, mf.mo_energy, mf.mo_occ, strict=True) if spins else [(mf.mo_coeff, mf.mo_energy, mf.mo_occ)]
    )
    focks, gaps = [], []
    for C, e, occupation in channels:
        half = overlap @ C
        focks.append((half * e) @ half.T)  # F = S C e C^T S, without another Fock build
        occupied = occupation > 0
        gaps.append(e[~occupied].min(initial=np.inf) - e[occupied].max(initial=-np.inf))
    record = Record(
        name=molecule.name,
        group=molecule.group,
        source=molecule.source,
        split=task.split,
        numbers=molecule.numbers,
        positions=molecule.positions,
        charge=molecule.charge,
        spin=molecule.spin,
        fock=focks[0],
        energy=float(mf.e_tot),
        gap=float(min(gaps)),
        extra={"fock_beta": focks[1]} if spins else {},
    )
    check_record(record, molecule.name)
    return record


def build(molecule: Molecule, basis: str) -> gto.Mole:
    """Build a PySCF molecule, or say why it cannot be.

    Args:
        molecule: geometry.
        basis: PySCF's name of the basis set.
    """
    try:
        mol = mol_from_geometry(molecule, basis)
    except (KeyError, RuntimeError) as error:
        raise DataError(f"basis set {basis} does not serve its elements ({error})") from error
    missing = {mol.atom_symbol(i) for i in range(mol.natm) if not len(mol.atom_shell_ids(i)) and not is_ghost(mol, i)}
    if missing:
        raise DataError(f"basis set {basis} lacks {', '.join(sorted(missing))}")
    if cored := sorted({mol.atom_symbol(i) for i in range(mol.natm) if _has_core_potential(mol, i, basis)}):
        raise DataError(f"basis set {basis} wants effective core potentials for {', '.join(cored)}; not supported")
    try:
        graph_from_mol(mol)
    except ValueError as error:
        raise DataError(str(error)) from error
    return mol


def _has_core_potential(mol: gto.Mole, atom: int, basis: str) -> bool:
    """Whether a basis set describes only an atom's outer electrons, so that all of them in it make no sense."""
    try:
        return bool(gto.basis.load_ecp(basis, mol.atom_pure_symbol(atom)))
    except (KeyError, RuntimeError, ValueError, OSError):
        return False


KINDS = ("auto", "rks", "uks", "roks", "gks", "rhf", "uhf", "rohf", "ghf")


def mean_field(mol: gto.Mole, level: Level, kind: str = "auto") -> Any:
    """Make the mean-field object of a level of theory.

    Args:
        mol: molecule.
        level: of theory.
        kind: one of `KINDS`; "auto" is restricted for closed shells and unrestricted for open ones.
    """
    pure = level.xc.lower() == "hf"
    if kind == "auto":
        kind = ("u" if mol.spin else "r") + ("hf" if pure else "ks")
    name = kind.upper()
    if name.endswith("HF") and not pure:
        raise DataError(
            f"{kind} has no functional, and {level.xc} was asked for; give --xc hf, or the kind of Kohn-Sham."
        )
    if pure:
        mf = getattr(scf, name.replace("KS", "HF"))(mol)
    else:
        mf = getattr(dft, name)(mol, xc=level.xc)
        mf.grids.level = level.grid_level
    if level.density_fit:
        mf = mf.density_fit()
    mf.conv_tol = level.conv_tol
    return mf
