"""Histories on disk: a restarted run goes on as if it had not been stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import InputError
from ase.io import read, write
from ase.io.trajectory import Trajectory
from ase.md.verlet import VelocityVerlet
from pyscf import gto

from pyscf_mlham import History, accelerate, track
from pyscf_mlham.ase import MLHam
from pyscf_mlham.errors import DataError
from support.calculators import water
from support.molecules import assert_close, mole


def in_field(mol: gto.Mole) -> Any:
    """An ion with every part that a step may have."""
    mol = mol.copy().set(charge=1, spin=1).build(False, False)
    h = mol.RHF().get_hcore() + 0.05 * mol.intor("int1e_r")[2]
    mf = mol.UKS(xc="pbe").set(get_hcore=lambda *_: h)
    mf.grids.level = 0
    return accelerate(mf)


@pytest.mark.parametrize("kind", [in_field, lambda mol: mol.RHF()])
def test_the_guess_is_the_same(kind: Any, tmp_path: Path) -> None:
    history = History()
    for stretch in (1.0, 1.01, 1.02, 1.025):
        mol = mole(basis="6-31g")
        mf = track(kind(mol.set_geom_(stretch * mol.atom_coords(), unit="Bohr")), history)
        mf.kernel()
    mf.history.save(tmp_path / "new" / "history.npz")
    again = History.load(tmp_path / "new" / "history.npz")
    assert len(again.steps) == len(history.steps) == 4
    assert again.error == mf.history.error
    expected, found = mf.history.guess(mf), again.guess(mf)
    assert_close(found, expected, 0)
    assert (found.defect is None) == (expected.defect is None)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["history.npz"]  # no temporary file


def test_another_molecule_starts_without_history(tmp_path: Path) -> None:
    path = tmp_path / "history.npz"
    track(mole(basis="sto-3g").RHF()).run().history.save(path)
    assert History.load(path).is_applicable(mole(basis="sto-3g").RHF())
    assert not History.load(path).is_applicable(mole(basis="6-31g").RHF())
    History("aspc").save(path)
    assert History.load(path).strategy == "aspc"


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.npz"
    track(mole(basis="sto-3g").RHF()).run().history.save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="not a history"):
        History.load(path)
    np.savez(path, depth=3)
    with pytest.raises(DataError, match="not a history"):
        History.load(path)
    with path.open("wb") as file:
        np.savez(file, strategy=np.array(History(), dtype=object), format=1)  # a pickle
    with pytest.raises(DataError, match="not a history"):
        History.load(path)
    with pytest.raises(FileNotFoundError):
        History.load(tmp_path / "missing.npz")


def calculator(**parameters: Any) -> MLHam:
    return MLHam(xc="hf", basis="sto-3g", guess="minao", **parameters)


@pytest.mark.parametrize(("strategy", "name"), [("fit", "md.traj"), ("shadow", "md.traj"), ("shadow", "md.xyz")])
def test_dynamics_from_a_trajectory(strategy: str, name: str, tmp_path: Path) -> None:
    path, beside = tmp_path / name, tmp_path / "md.npz"
    atoms = water()
    atoms.calc = calculator(history=strategy)
    atoms.set_momenta(np.random.default_rng(0).normal(size=(3, 3)) * 0.1)
    VelocityVerlet(atoms, timestep=0.5 * units.fs).run(8)
    if path.suffix == ".traj":
        with Trajectory(path, "w", atoms) as trajectory:
            trajectory.write()
    else:
        write(path, atoms, format="extxyz")
    atoms.calc.save_history(beside)
    again = read(path)
    again.calc = calculator(history=strategy)
    again.calc.load_history(beside)
    for each in (atoms, again):
        VelocityVerlet(each, timestep=0.5 * units.fs).run(4)
    assert_close(again.positions, atoms.positions, 1e-6)
    costs = [[step.builds for step in each.calc.report().steps[-4:]] for each in (atoms, again)]
    assert sum(costs[1]) <= sum(costs[0]) + 1  # the SCF of the restart is one more
    assert max(costs[1]) < 7  # 8 without a history
    if strategy == "shadow":
        assert costs[1] == [1] * 4


def test_history_of_another_strategy_is_refused(tmp_path: Path) -> None:
    History("aspc").save(tmp_path / "md.npz")
    with pytest.raises(InputError, match="aspc"):
        calculator().load_history(tmp_path / "md.npz")
    with pytest.raises(InputError, match="history=None"):
        calculator(history=None).save_history(tmp_path / "md.npz")
