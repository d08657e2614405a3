"""Small files of labelled molecules, made with PySCF, and short training runs on them."""

from __future__ import annotations

import io
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase.build import molecule
from pyscf import gto, scf
from rich.console import Console

from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.data.dataset import Example
from pyscf_mlham.data.record import Level, Record
from pyscf_mlham.data.schema import write_file
from pyscf_mlham.train.config import TrainConfig
from pyscf_mlham.train.trainer import Trainer

LEVEL = Level(xc="hf", basis="sto-3g", conv_tol=1e-9)
NETWORK = {"channels": 8, "pair_channels": 12, "hidden": 16, "product": 8, "layers": 1, "radial": 8}
Prepared = tuple[list[Example], list[Example], ModelConfig]
NAMES = ("H2O", "NH3", "CH4", "HCN", "CO", "H2CO")


def records(copies: int = 2) -> list[Record]:
    """Rattled copies of a few molecules; the last copy of each is for validation, HCN for testing."""
    rng = np.random.default_rng(0)
    made = []
    for name in NAMES:
        atoms = molecule(name)
        for copy in range(copies):
            rattled = atoms.positions + 0.05 * rng.normal(size=atoms.positions.shape)
            atom_list = list(zip(atoms.get_chemical_symbols(), rattled.tolist(), strict=True))
            mol = gto.M(atom=atom_list, basis=LEVEL.basis, verbose=0)
            mf = scf.RHF(mol).run(conv_tol=LEVEL.conv_tol)
            n_occ = mol.nelectron // 2
            made.append(
                Record(
                    name=f"{name}_{copy}",
                    group=name,
                    source="test",
                    split="test" if name == "HCN" else "val" if copy == copies - 1 else "train",
                    numbers=atoms.numbers.astype(np.int64),
                    positions=mol.atom_coords(unit="Bohr"),
                    charge=0,
                    spin=0,
                    fock=mf.get_fock(),
                    energy=float(mf.e_tot),
                    gap=float(mf.mo_energy[n_occ] - mf.mo_energy[n_occ - 1]),
                )
            )
    return made


def labelled_file(folder: Path, copies: int = 2) -> Path:
    """Write `records` into a folder and return the file's path."""
    path = folder / "labelled.h5"
    write_file(path, LEVEL, records(copies), {"pyscf_version": "test"})
    return path


def silent() -> Console:
    """A console that draws on nothing."""
    return Console(file=io.StringIO())


def settings(data: Path, output: Path, **changes: object) -> TrainConfig:
    """A training run of a dozen steps on a file of labelled molecules."""
    values = {"steps": 12, "pairs": 12, "validate_every": 6, "warmup": 2, "network": NETWORK} | changes
    return TrainConfig(name="small", data=(str(data),), output=str(output), **values)


def stopped_after(trainer: Trainer, step: int) -> Trainer:
    """Send SIGTERM in the step after that number of steps; it is the last one."""
    update = trainer.update

    def with_signal(batch: Sequence[Example]) -> np.ndarray:
        if trainer.step == step:
            signal.raise_signal(signal.SIGTERM)
        return update(batch)

    trainer.update = with_signal
    return trainer


def trained(config: TrainConfig, prepared: Prepared, stopped: bool = False) -> Trainer:
    """Run it; a stopped one ends after its first step."""
    trainer = Trainer(config, *prepared, silent())
    if stopped:
        stopped_after(trainer, 0)
    trainer.run()
    return trainer
