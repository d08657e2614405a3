"""The ASE calculator under ASE's own machinery: optimisers, dynamics, bands, vibrations, other processes."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.test import gradient_test
from ase.io import Trajectory, read
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS, LBFGS
from ase.vibrations import Vibrations
from pyscf.data import nist

from pyscf_mlham.ase import MLHam
from support.calculators import energy_of, plain_energy, quick, water
from support.molecules import assert_close, mole


@pytest.mark.parametrize("optimiser", [BFGS, LBFGS])
def test_optimisers_find_the_same_minimum_with_fewer_builds(optimiser: Any) -> None:
    found = {}
    for history in ("last", "fit"):
        atoms = water()
        atoms.calc = quick(history=history)
        with optimiser(atoms, logfile=None) as run:
            assert run.run(fmax=1e-3, steps=40)
        found[history] = atoms
        assert atoms.get_potential_energy() == pytest.approx(plain_energy(atoms) * nist.HARTREE2EV, abs=3e-6)
    assert_close(found["fit"].get_all_distances(), found["last"].get_all_distances(), 1e-3)
    builds = {h: sum(s.builds for s in a.calc.report().steps) for h, a in found.items()}
    assert builds["fit"] < builds["last"]


def test_dynamics_and_trajectory_files(tmp_path: Path) -> None:
    atoms = water()
    atoms.calc = quick(history="reversible")
    start = atoms.get_total_energy()
    with Trajectory(tmp_path / "run.traj", "w", atoms) as file, VelocityVerlet(atoms, timestep=0.5 * units.fs) as run:
        run.attach(file)
        run.run(8)
    assert atoms.get_total_energy() == pytest.approx(start, abs=0.01)
    frames = read(tmp_path / "run.traj", index=":")
    assert len(frames) == 9
    assert frames[-1].get_potential_energy() == pytest.approx(atoms.get_potential_energy())
    assert frames[-1].calc.name == "mlham"
    for frame in frames[::4]:
        assert frame.get_potential_energy() == pytest.approx(plain_energy(frame) * nist.HARTREE2EV, abs=3e-6)
    report = atoms.calc.report()
    assert report.mean_builds < report.steps[0].builds
    assert report.builds_saved > 0
    assert "per step after the first" in str(report)
    assert len(str(report).splitlines()) == 11


def test_nudged_elastic_band() -> None:
    """Ammonia turns inside out; two images between the two ends."""
    ring = [(0.95 * np.cos(a), 0.95 * np.sin(a), 0.0) for a in 2 * np.pi * np.arange(3) / 3]
    ends = [Atoms("NH3", [(0, 0, z), *ring]) for z in (0.3, -0.3)]
    images = [ends[0], ends[0].copy(), ends[0].copy(), ends[1]]
    shared = quick()
    for image in images:
        image.calc = shared
    band = NEB(images, allow_shared_calculator=True, method="improvedtangent")
    band.interpolate()
    with BFGS(band, logfile=None) as run:
        run.run(fmax=0.3, steps=10)
    energies = [image.get_potential_energy() for image in images]
    assert energies[0] == pytest.approx(energies[3], abs=1e-4)
    assert energies[1] == pytest.approx(energies[2], abs=0.02)
    assert energies[1] > energies[0]


def test_vibrations(tmp_path: Path) -> None:
    atoms = water()
    atoms.calc = quick()
    with BFGS(atoms, logfile=None) as run:
        run.run(fmax=1e-3)
    vibrations = Vibrations(atoms, name=str(tmp_path / "vib"))
    vibrations.run()
    found = np.sort(vibrations.get_frequencies().real)[-3:]
    mol = mole(list(zip(atoms.symbols, atoms.positions, strict=True)), basis="sto-3g")
    from pyscf.hessian import thermo

    exact = thermo.harmonic_analysis(mol, mol.RHF().run().Hessian().kernel())["freq_wavenumber"]
    assert_close(found, exact, 10.0)


def test_calculator_in_another_process() -> None:
    atoms = water()
    atoms.calc = quick()
    energy, _ = energy_of(atoms)
    copied = pickle.loads(pickle.dumps(atoms.calc))
    assert copied.results["energy"] == energy
    assert copied.parameters == atoms.calc.parameters
    assert energy_of(pickle.loads(pickle.dumps(atoms))) == (energy, 1)  # nothing is computed again
    moved = water()
    moved.rattle(0.01, seed=2)
    moved.calc = atoms.calc
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there, steps = pool.map(energy_of, [moved])[0]
    assert there == pytest.approx(plain_energy(moved) * nist.HARTREE2EV, abs=1e-6)
    assert steps == 2


def test_ase_checks_its_gradients(capsys: pytest.CaptureFixture[str]) -> None:
    atoms = water()
    atoms.calc = quick(conv_tol=1e-11)
    gradient_test(atoms, indices=[1])  # prints its largest error for each size of step
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert min(float(error) for _, error in rows) < 1e-5


def test_the_default_guess_is_the_solvers() -> None:
    for parameters, guess in (({}, "ml"), ({"solver": "twolevel"}, "minao"), ({"guess": "scc"}, "scc")):
        calculator = MLHam(**parameters)
        assert calculator.mean_field(water(), 0, 0).init_guess == guess
    named = MLHam(solver="twolevel", model="b3lyp-svp").mean_field(water(), 0, 0)
    assert named.init_guess == "ml:b3lyp-svp"
