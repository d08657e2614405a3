"""Training examples from records: samples, targets, and the converged orbitals for the density error."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import gto

from pyscf_mlham.ao.lattice import bloch_from_cells
from pyscf_mlham.ao.layout import OrbitalLayout, ShellTemplate
from pyscf_mlham.ao.loewdin import orthogonal_from_ao
from pyscf_mlham.arrays import Array, IntArray
from pyscf_mlham.data.geometries import cell_from_geometry, mol_from_geometry
from pyscf_mlham.data.record import Level, Record
from pyscf_mlham.data.schema import HamiltonianFile, opened
from pyscf_mlham.errors import DataError, MLHamError
from pyscf_mlham.features import Sample
from pyscf_mlham.h0 import ATOMS, SCC, hamiltonian
from pyscf_mlham.h0.atoms import superposed_atoms
from pyscf_mlham.model.network import Inputs, Recipe
from pyscf_mlham.workers import THREADS, become_worker, environment

AHEAD = 2  # parts of a file per process that are prepared in advance

FloatArray = NDArray[np.float32]
ComplexArray = NDArray[np.inexact]  # float32 of a molecule, complex64 of a crystal


class Example(NamedTuple):
    """A sample and its label; matrices and vectors in irreps order."""

    sample: Sample  # input of the network
    onsite: FloatArray  # (N, B, B) onsite blocks of dH in the form that a network predicts, Hartree
    pair: FloatArray  # (P, B, B) pair blocks of dH, in the pairs' frames, Hartree
    is_of_atoms: bool  # whether this form is that of atoms and a rest, see `ao.mulliken`; in Loewdin orbitals otherwise
    slots: IntArray  # (N, B) index of each block element's orbital in the vector, -1 = empty
    atoms: IntArray  # (n,) atom of each orbital
    phases: ComplexArray  # (N_k, P) exp(i k R) of each pair; (1, P) ones for a molecule, as if it had one k point
    orbitals: ComplexArray  # (N_k, n, n) converged orbitals in Loewdin orbitals
    energies: FloatArray  # (N_k, n) orbital energies, Hartree
    n_occupied: int  # number of occupied orbitals; of a crystal the lowest ones at each k point
    half: ComplexArray  # (N_k, n, n) S^1/2
    # (N_k, n, n) elements of dH in Loewdin orbitals beyond the cutoff, or of shells that are not corrected, Hartree,
    # zero in every prediction; (0, 0, 0) if there are none
    beyond: ComplexArray
    name: str
    digest: str = ""  # hash of the geometry and the Fock matrix as stored in the file
    spin: int = 0  # n_alpha - n_beta of the molecule


def template_of(elements: Iterable[int], basis: str) -> ShellTemplate:
    """Return the shape of a block that holds every element's shells."""
    atoms = [(int(z), (0.0, 0.0, 10.0 * i)) for i, z in enumerate(elements)]
    return OrbitalLayout.from_mol(gto.M(atom=atoms, basis=basis, spin=None, verbose=0)).template()


def examples_from_record(record: Record, level: Level, recipe: Recipe) -> list[Example]:
    """Compute S and H0, and cut the matrices into blocks; an open shell makes two examples, one of each spin."""
    try:
        return _examples(record, level, recipe)
    except DataError as error:
        raise DataError(f"record {record.name}: {error}") from error
    except MLHamError:
        raise
    except (ValueError, ArithmeticError, RuntimeError, np.linalg.LinAlgError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"record {record.name}: it cannot be used ({reason}); correct or remove it.") from error


def _examples(record: Record, level: Level, recipe: Recipe) -> list[Example]:
    if record.spin and recipe.baseline != SCC:
        text = f"it has spin {record.spin}, and the {recipe.baseline} baseline is for closed shells"
        raise DataError(f"{text}; train with baseline: {SCC}.")
    periodic = record.periodic
    mol = cell_from_geometry(record, level) if periodic else mol_from_geometry(record, level.basis)
    if not mol.nelectron:
        raise DataError("it has no electrons; remove it from the file.")
    if mol.nao != record.fock.shape[-1]:
        size = record.fock.shape[-1]
        raise DataError(f"its Fock matrix has {size} rows, {level.basis} has {mol.nao} functions: a wrong basis set.")
    fock, h0 = record.by_spin("fock"), record.by_spin(f"fock_{recipe.baseline}")
    if fock is None:
        raise DataError("the Fock matrix of its beta electrons is missing; remove it from the file.")
    if periodic is None:
        h0 = hamiltonian(recipe.baseline, mol, level.xc) if h0 is None else h0
        inputs = Inputs.from_mol(mol, h0, recipe)
        spins = zip(inputs.samples, *(m if m.ndim == 3 else [m] for m in (fock, h0)), mol.nelec, strict=False)
        return [_example(record, inputs, *spin) for spin in spins if spin[-1]]  # with electrons of this spin
    if recipe.baseline != ATOMS:
        raise DataError(f"the H0 {recipe.baseline} is one of molecules; train with baseline: {ATOMS}.")
    fock = bloch_from_cells(fock, periodic.kpts, periodic.lattice)
    h0 = superposed_atoms(mol, periodic.kpts, level.xc)
    inputs = Inputs.from_mol(mol, h0, recipe, periodic.kpts)
    return [_example(record, inputs, inputs.samples[0], fock, h0, mol.nelectron // 2)]


def _example(record: Record, inputs: Inputs, sample: Sample, fock: Array, h0: Array, n_occupied: int) -> Example:
    """Cut the label of one spin into blocks; fock, h0: (n, n), or (N_k, n, n) of a crystal, Hartree."""
    cut, metric = inputs.cut, inputs.metric
    layout, dh = cut.layout, fock - h0
    target = cut.blocks(inputs.target(dh))
    beyond = np.zeros((0, 0, 0))
    slots = layout.slots(cut.template)
    everything = len(sample.pairs) == len(sample.numbers) * (len(sample.numbers) - 1) // 2
    everything &= np.count_nonzero(slots >= 0) == layout.n_ao
    if sample.periodic or not everything:
        missing = dh - inputs.correction(cut.matrix(target))
        beyond = _at_k(layout.irreps_from_ao(orthogonal_from_ao(missing, metric)))
    e, V = np.linalg.eigh(_at_k(orthogonal_from_ao(fock, metric)))
    phases = np.ones((1, len(sample.pairs)))
    if cut.kpts is not None:
        phases = np.exp(1j * cut.kpts @ (cut.graph.translations @ cut.graph.lattice).T)
    fields = ("positions", "distances", "wigner_d", "onsite", "pair")
    return Example(
        sample=sample._replace(**{name: _single(getattr(sample, name)) for name in fields}),
        onsite=_single(target.onsite),
        pair=_single(target.pair),
        is_of_atoms=inputs.atoms is not None,
        slots=slots,
        atoms=np.repeat(layout.shell_atom, 2 * layout.shell_degree + 1),
        phases=_single(phases),
        orbitals=_single(V[:, layout.order]),
        energies=_single(e),
        n_occupied=n_occupied,
        half=_single(_at_k(layout.irreps_from_ao(metric.half))),
        beyond=_single(beyond),
        name=record.name,
        digest=digest_of(record),
        spin=record.spin,
    )


def _at_k(matrix: Array) -> Array:
    """Return a matrix (n, n) as one at a single k point, (1, n, n); those of a crystal as they are."""
    return matrix.reshape(-1, *matrix.shape[-2:])


def _single(array: Any) -> Any:
    """Round to single precision."""
    return array.astype(np.complex64 if np.iscomplexobj(array) else np.float32)


def trial_sample(recipe: Recipe, element: int, basis: str) -> Sample:
    """Return two atoms of one element, to test that a network works."""
    mol = gto.M(atom=[(element, (0, 0, 0)), (element, (0, 0, 3))], unit="Bohr", basis=basis, verbose=0)
    return Inputs.from_mol(mol, hamiltonian("hcore", mol), recipe).samples[0]


def digest_of(record: Record) -> str:
    """Return a hash of a label as stored in the file, to distinguish labels of the same molecule."""
    arrays = (record.numbers.astype("<i8"), record.positions.astype("<f8"), record.fock.astype("<f4"))
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


def usable_cores() -> int:
    """Return the number of cores for this process: those it may use, divided among the processes of one torchrun."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, allowed // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def count_examples(file: HamiltonianFile, indices: Sequence[int]) -> int:
    """Return the number of examples of records: two of an open shell, one of a closed one."""
    return len(indices) + int(np.count_nonzero(file.spin[list(indices)]))


def examples(path: str | Path, indices: Sequence[int], recipe: Recipe, processes: int = 1) -> Iterator[Example]:
    """Prepare records in parallel, in order, only a few ahead of the caller; two examples per open shell."""
    if processes <= 1:
        with HamiltonianFile(path) as file:
            for i in indices:
                yield from examples_from_record(file[int(i)], file.level, recipe)
        return
    tasks = [
        (Path(path), [int(i) for i in part], recipe) for part in np.array_split(indices, max(1, len(indices) // 8))
    ]
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=become_worker, initargs=(1,))
    with environment(**dict.fromkeys(THREADS, "1")):  # the molecules are small, and each core has a process
        try:
            waiting = iter(tasks)
            ahead = deque(pool.submit(_prepare, task) for task in itertools.islice(waiting, AHEAD * processes))
            while ahead:
                try:
                    part = ahead.popleft().result()
                except BrokenProcessPool as error:
                    raise DataError("a process that prepares molecules died (out of memory?); use fewer.") from error
                ahead.extend(pool.submit(_prepare, task) for task in itertools.islice(waiting, 1))
                yield from part
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare(task: tuple[Path, list[int], Recipe]) -> list[Example]:
    path, indices, recipe = task
    file = opened(path)
    return [example for i in indices for example in examples_from_record(file[i], file.level, recipe)]
