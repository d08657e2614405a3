"""Shadow dynamics: one build a step, forces of its own energy, reversible in time, and an SCF if it does not hold."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pyscf.md
import pytest
from ase import units
from ase.md.verlet import VelocityVerlet
from pyscf import gto

import pyscf_mlham
from pyscf_mlham import History, track
from pyscf_mlham.ase import MLHam
from pyscf_mlham.track.auxiliary import DISSIPATIONS, Auxiliary
from support.calculators import water
from support.models import Rough
from support.molecules import assert_close, mole

STEP = 20.0  # atomic units of time, 0.5 fs
VELOCITY = np.random.default_rng(1).normal(size=(3, 3)) * 4e-4  # Bohr


def path(steps: int, **kwargs: Any) -> list[gto.Mole]:
    """Water that vibrates by some hundredths of a Bohr."""
    start = mole(**{"basis": "6-31g", **kwargs})
    amplitude = 100 * VELOCITY
    places = [start.atom_coords() + amplitude * np.sin(0.2 * k) for k in range(steps)]
    return [start.copy().set_geom_(x, unit="Bohr") for x in places]


def rks(mol: gto.Mole) -> Any:
    mf = mol.RKS(xc="pbe").density_fit()
    mf.grids.level = 0
    return mf


@pytest.mark.parametrize(
    ("kind", "ion"), [(lambda mol: mol.RHF(), {}), (lambda mol: mol.UHF(), {"charge": 1, "spin": 1}), (rks, {})]
)
def test_one_build_gives_the_energy_from_the_third_step_on(
    kind: Callable[[gto.Mole], Any], ion: dict[str, int]
) -> None:
    start = mole(basis="6-31g", **ion)
    scanner, plain = track(kind(start), "shadow").as_scanner(), kind(start).as_scanner()
    errors, builds = [], []
    for mol in path(8, **ion):
        errors.append(scanner(mol) - plain(mol))
        builds.append(scanner.full_builds)
        assert scanner.converged
    assert builds[2:] == [1] * 6
    assert np.abs(errors[:2]).max() < 1e-8
    assert 1e-12 < np.abs(errors[2:]).max() < 1e-6  # it is not the converged one
    again = scanner(mol)
    assert again == pytest.approx(
        plain.e_tot + errors[-1], abs=1e-10
    )  # a repeated geometry does not move the auxiliary


def test_callbacks_are_called_once_a_step() -> None:
    scanner, calls = track(rks(mole(basis="6-31g")), "shadow").as_scanner(), []
    scanner.callback = calls.append
    for mol in path(4):
        scanner(mol)
    assert [call["scf_conv"] for call in calls[-2:]] == [True, True]
    assert calls[-1]["e_tot"] == scanner.e_tot != calls[-2]["e_tot"]
    assert calls[-1]["mol"] is scanner.mol
    assert np.linalg.norm(calls[-1]["mf"].get_grad(*(calls[-1][name] for name in ("mo_coeff", "mo_occ", "fock")))) > 0


def run(gradients: Any, x: Any, v: Any, steps: int) -> tuple[Any, Any]:
    """Velocity Verlet, in atomic units."""
    masses = 1822.9 * gradients.mol.atom_mass_list()[:, None]

    def acceleration(x: Any) -> Any:
        return -gradients(gradients.mol.set_geom_(x, unit="Bohr", inplace=False))[1] / masses

    a = acceleration(x)
    for _ in range(steps):
        x = x + STEP * v + STEP**2 * a / 2
        new = acceleration(x)
        v, a = v + STEP * (a + new) / 2, new
    return x, v


@pytest.mark.parametrize(("dissipation", "bound"), [(0, 1e-8), (5, 1e-5)])
def test_reversed_velocities_lead_back(dissipation: int, bound: float) -> None:
    mf = track(mole(basis="sto-3g").RHF(), "shadow")
    mf.history.auxiliary.dissipation = dissipation
    gradients, start = mf.nuc_grad_method().as_scanner(), mf.mol.atom_coords()
    x, v = run(gradients, start, VELOCITY, 2)
    there, velocity = run(gradients, x, v, 8)
    mf = gradients.base
    assert np.abs(there - x).max() > 0.03
    mf.history.auxiliary.reverse()
    back, _ = run(gradients, there, -velocity, 8)
    assert mf.full_builds == 1
    assert_close(back, x, bound)


def test_forces_are_the_gradient_of_the_shadow_energy() -> None:
    mols, x = path(4), None

    def shadow(mol: gto.Mole) -> Any:
        mf = track(mol.RHF(), history)
        history.auxiliary.positions, history.auxiliary.steps = mol.atom_coords(), [x]
        mf.kernel()
        assert mf.full_builds == 1
        return mf

    history = track(mols[0].RHF(), "shadow").history
    for mol in mols[:2]:
        track(mol.RHF(), history).run()
    x = 2 * history.auxiliary.steps[0] - history.auxiliary.steps[1]
    mf = shadow(mols[3])
    forces = mf.nuc_grad_method().kernel()
    assert abs(mf.e_tot - mols[3].RHF().kernel()) > 1e-9
    for atom, axis in ((0, 2), (1, 1)):
        moved = np.zeros((3, 3))
        moved[atom, axis] = 2e-3
        low, high = (
            shadow(mols[3].set_geom_(mols[3].atom_coords() + sign * moved, unit="Bohr", inplace=False)).e_tot
            for sign in (-1, 1)
        )
        assert forces[atom, axis] == pytest.approx((high - low) / 4e-3, abs=3e-6)


def test_energy_is_conserved_as_by_tight_scf() -> None:
    energies = {}
    for name, mf in (("tight", mole(basis="sto-3g").RHF().set(conv_tol=1e-12)), ("shadow", mole(basis="sto-3g").RHF())):
        mf = track(mf, "shadow") if name == "shadow" else mf
        total: list[float] = []
        steps = pyscf.md.NVE(mf, dt=STEP, steps=30, veloc=VELOCITY).set(verbose=0, data_output=None)
        steps.callback = lambda envs, total=total: total.append(envs["current_frame"].etot)
        steps.run()
        energies[name] = np.array(total)
    assert np.ptp(energies["tight"]) > 5e-5
    assert_close(energies["shadow"], energies["tight"], 1e-6)


def test_calculator_has_one_build_a_step() -> None:
    atoms = water()
    atoms.calc = MLHam(xc="hf", basis="sto-3g", guess="minao", history="shadow")
    atoms.set_momenta(np.random.default_rng(0).normal(size=(3, 3)) * 0.1)
    start = atoms.get_total_energy()
    VelocityVerlet(atoms, timestep=0.5 * units.fs).run(10)
    assert atoms.get_total_energy() == pytest.approx(start, abs=2e-3)
    assert [step.builds for step in atoms.calc.report().steps][2:] == [1] * 9


def test_a_model_is_for_the_first_geometry_only() -> None:
    model = Rough(basis="6-31g")
    pyscf_mlham.register(model=model, fallback="raise")
    scanner = track(mole(basis="6-31g").RHF().set(init_guess="ml"), "shadow").as_scanner()
    for mol in path(4):
        scanner(mol)
    assert scanner.full_builds == 1
    assert model.calls == 1


def logged(mf: Any) -> tuple[Any, io.StringIO]:
    mf.verbose, mf.stdout = 3, io.StringIO()
    return mf, mf.stdout


def test_a_sudden_move_is_converged() -> None:
    mols = path(6)
    mols[4] = mols[4].set_geom_(mols[4].atom_coords() + np.outer([0, 1, 0], [0, 0.4, 0]), unit="Bohr", inplace=False)
    scanner, log = logged(track(mols[0].RHF(), "shadow").as_scanner())
    builds = []
    for mol in mols:
        mol.stdout, mol.verbose = log, 3
        energy = scanner(mol)
        builds.append(scanner.full_builds)
        if builds[-1] > 1 or len(builds) < 3:
            assert energy == pytest.approx(mol.copy().set(verbose=0).RHF().kernel(), abs=1e-8)
    assert builds[2:4] == [1, 1]
    assert builds[4] > 1
    assert "too far from the ground state" in log.getvalue()


def test_a_bond_that_breaks_is_converged() -> None:
    history, log, builds = History("shadow"), io.StringIO(), []
    for k in range(8):
        mol = mole(f"H 0 0 0; H 0 0 {2.3 + 0.1 * k}", "6-31g")
        mol.stdout, mol.verbose = log, 3
        mf = track(mol.RKS(xc="lda"), history)
        mf.grids.level = 0
        energy = mf.kernel()
        builds.append(mf.full_builds)
    assert builds[2] == 1
    assert builds[-1] > 1
    assert "gap" in log.getvalue()
    plain = mole(f"H 0 0 0; H 0 0 {2.3 + 0.1 * k}", "6-31g").RKS(xc="lda")
    plain.grids.level = 0
    assert energy == pytest.approx(plain.kernel(), abs=1e-8)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (lambda mol: mol.ROHF(), {"charge": 1, "spin": 1}),
        (lambda mol: mol.RHF().PCM(), {}),
        (lambda mol: mol.RHF(), {"basis": {"O": "sto-3g", "H": [[0, [0.5, 1]], [0, [0.5003, 1]]]}}),
    ],
)
def test_objects_without_it_are_converged(kind: Callable[[gto.Mole], Any], settings: dict[str, Any]) -> None:
    settings = {"basis": "sto-3g", **settings}
    scanner, log = logged(track(kind(mole(**settings)), "shadow").as_scanner())
    for mol in path(3, **settings):
        mol.stdout, mol.verbose = log, 3
        energy = scanner(mol)
    assert energy == pytest.approx(kind(mol.copy().set(verbose=0)).kernel(), abs=1e-8)
    assert "shadow: not for this object" in log.getvalue()


@pytest.mark.parametrize("dissipation", DISSIPATIONS)
def test_auxiliary_follows_a_slow_motion(dissipation: int) -> None:
    auxiliary, errors = Auxiliary(dissipation), []
    for k in range(400):
        density = np.array([np.sin(0.05 * k), np.cos(0.05 * k)])
        x = auxiliary.at(np.array([k]))
        auxiliary.record(np.array([k]), density if x is None else x, density)
        errors.append(0.0 if x is None else np.abs(x - density).max())
    assert max(errors) < 0.05**2 * 2
    if dissipation:
        assert errors[-1] < 0.6 * max(errors[2:6])
    with pytest.raises(ValueError, match="dissipation = 1"):
        Auxiliary(1)
