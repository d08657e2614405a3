"""Displaced copies of molecules, at random or from thermal equilibrium."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pyscf import scf
from pyscf.data import nist
from pyscf.hessian import thermo
from rich.console import Console

from pyscf_mlham.arrays import Array
from pyscf_mlham.data.geometries import Molecule, mol_from_geometry
from pyscf_mlham.errors import DataError
from pyscf_mlham.options import check, option
from pyscf_mlham.progress import tracked
from pyscf_mlham.store import Store
from pyscf_mlham.workers import Job

SOFTEST = 200.0  # 1/cm; softer modes are displaced with this wavenumber, as they are not harmonic


@dataclass(frozen=True)
class Displacements:
    """Numbers and kinds of copies."""

    rattle: int = option(0, "also N randomly displaced copies of each", least=0, metavar="N")
    sigma: float = option(0.04, "standard deviation of each coordinate in --rattle, Angstrom", least=0)
    thermal: int = option(0, "also N copies along normal modes", least=0, metavar="N")
    temperature: float = option(300.0, "of --thermal, Kelvin", least=0)
    seed: int = option(0, "seed of the displacements", least=0)

    def __post_init__(self) -> None:
        check(self)


class Task(NamedTuple):
    """A molecule to be displaced by a worker."""

    molecule: Molecule
    settings: Displacements

    @property
    def key(self) -> str:
        """Identity of its thermal copies."""
        return f"{self.molecule.key} {self.settings.thermal} {self.settings.temperature} {self.settings.seed}"


Copies = tuple[str, list[Molecule | DataError]]  # key of the task; copies, or the error


def with_copies(
    molecules: Iterable[Molecule | DataError],
    settings: Displacements,
    work: Callable[[Sequence[Task]], Iterator[Copies]],
    console: Console,
    memory: Path,
) -> Iterator[Molecule | DataError]:
    """Return molecules and their displaced copies, last the thermal ones, which need Hessians; a file keeps these."""
    tasks: dict[str, Task] = {}
    for molecule in molecules:
        yield molecule
        if isinstance(molecule, DataError):
            continue
        yield from rattled(molecule, settings.rattle, settings.sigma, settings.seed)
        if settings.thermal:
            task = Task(molecule, settings)
            tasks.setdefault(task.key, task)
    if not tasks:
        return
    with contextlib.closing(Store(memory, {}, "kind")) as store:
        found: dict[str, list[Molecule | DataError]] = {
            key: [_copy(tasks[key].molecule, i, np.array(x)) for i, x in enumerate(values["positions"])]
            for key, values in store.read().items()
            if key in tasks
        }
        queue = [task for key, task in tasks.items() if key not in found]
        for key, copies in tracked(work(queue), console, "normal modes", len(queue), "molecules"):
            found[key] = copies
            positions = [copy.positions.tolist() for copy in copies if not isinstance(copy, DataError)]
            if len(positions) == len(copies):
                store.put(key, {"positions": positions})
    for key in tasks:  # in the order of the input
        yield from found[key]


def _copy(molecule: Molecule, number: int, positions: Array) -> Molecule:
    return molecule._replace(name=f"{molecule.name}~t{number}", positions=positions)


def _thermal_copies(task: Task) -> Copies:
    molecule, settings = task
    return task.key, [*thermal(molecule, settings.thermal, settings.temperature, settings.seed)]


def _no_copies(task: Task, reason: str) -> Copies:
    return task.key, [DataError(f"{task.molecule.name}: no thermal copies ({reason}).")]


thermal_copies = Job(_thermal_copies, _no_copies)


def rattled(molecule: Molecule, copies: int, sigma: float, seed: int) -> Iterator[Molecule]:
    """Displace every atom at random; sigma: standard deviation of each coordinate, Angstrom."""
    rng = np.random.default_rng([seed, int(molecule.key, 16) % 2**63])
    for copy in range(copies):
        shift = sigma / nist.BOHR * rng.normal(size=molecule.positions.shape)
        yield molecule._replace(name=f"{molecule.name}~r{copy}", positions=molecule.positions + shift)


def thermal(molecule: Molecule, copies: int, temperature: float, seed: int) -> Iterator[Molecule]:
    """Displace along normal modes, by the distribution of nuclei in thermal equilibrium with zero-point motion.

    The modes are those of HF/STO-3G at the given geometry; temperature: Kelvin.
    """
    if len(molecule.numbers) < 2:
        return
    mol = mol_from_geometry(molecule, "sto-3g")
    mf = (scf.UHF if molecule.spin else scf.RHF)(mol).run()
    if not mf.converged:
        raise DataError(f"{molecule.name}: its HF/STO-3G calculation, for the normal modes, does not converge.")
    modes = thermo.harmonic_analysis(mol, mf.Hessian().kernel(), imaginary_freq=False)
    wavenumbers = np.maximum(np.abs(modes["freq_wavenumber"]), SOFTEST)
    frequencies = wavenumbers * 100 * nist.LIGHT_SPEED_SI * nist.PLANCK / nist.HARTREE2J  # Hartree
    occupation = np.tanh(frequencies * nist.HARTREE2J / (2 * nist.BOLTZMANN * max(temperature, 1e-3)))
    roots = np.sqrt(mol.atom_mass_list(isotope_avg=True) * nist.ATOMIC_MASS / nist.E_MASS)[:, None]
    vectors = modes["norm_mode"] * roots  # mass-weighted, orthogonal
    vectors /= np.linalg.norm(vectors, axis=(1, 2), keepdims=True)
    widths = np.sqrt(1 / (2 * frequencies * occupation))
    rng = np.random.default_rng([seed, int(molecule.key, 16) % 2**63, 1])  # not the numbers of `rattled`
    for copy in range(copies):
        # a function of the Hessian, not of its eigenvectors: their signs and degenerate mixtures are arbitrary
        along = np.einsum("mnx,nx->m", vectors, rng.normal(size=molecule.positions.shape))
        shift = np.einsum("m,mnx->nx", widths * along, vectors) / roots
        yield _copy(molecule, copy, molecule.positions + shift)
