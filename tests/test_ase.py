"""The ASE calculator: right forces, one SCF for each geometry, and errors that name the cause."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import (
    CalculatorSetupError,
    InputError,
    PropertyNotImplementedError,
    SCFError,
)
from ase.calculators.fd import calculate_numerical_forces
from ase.calculators.singlepoint import SinglePointCalculator
from ase.mep import NEB
from pyscf.data import nist

import pyscf_mlham
from pyscf_mlham.ase import MLHam
from support.calculators import plain_energy, quick, water
from support.molecules import assert_close, mole

LEVELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "RHF": ({}, {}),
    "RKS": ({"xc": "b3lyp"}, {}),
    "UKS": ({"xc": "pbe"}, {"charge": 1, "mult": 2}),
    "RKS twolevel": ({"xc": "b3lyp", "solver": "twolevel", "basis": "6-31g"}, {}),
    "RHF fitted": ({"density_fit": True}, {}),
}


@pytest.mark.parametrize("name", LEVELS)
def test_forces_are_the_derivative_of_the_energy(name: str) -> None:
    parameters, info = LEVELS[name]
    atoms = water(**info)
    atoms.calc = quick(**parameters)
    forces = atoms.get_forces()
    count = len(atoms.calc.report().steps)
    assert count == 1
    for atom, axis in ((0, 2), (2, 0)):
        # two differences, extrapolated: their own error must be far below the bound
        rough, fine = (
            calculate_numerical_forces(atoms, eps=eps, iatoms=[atom], icarts=[axis]).item() for eps in (0.02, 0.01)
        )
        assert forces[atom, axis] == pytest.approx((4 * fine - rough) / 3, abs=1e-4)
    assert_close(forces.sum(axis=0), 0, 1e-4)


def test_energy_dipole_and_orbitals_are_pyscfs() -> None:
    atoms = water()
    atoms.calc = quick()
    before = atoms.copy()
    mf = mole(list(zip(atoms.symbols, atoms.positions, strict=True)), basis="sto-3g").RHF().run()
    assert atoms.get_potential_energy() == pytest.approx(mf.e_tot * nist.HARTREE2EV, abs=1e-6)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    assert_close(atoms.get_dipole_moment() / units.Debye, mf.dip_moment(verbose=0), 1e-4)
    assert_close(atoms.calc.orbital_energies, mf.mo_energy * nist.HARTREE2EV, 1e-3)
    assert atoms.calc.gap == pytest.approx((mf.mo_energy[5] - mf.mo_energy[4]) * nist.HARTREE2EV, abs=1e-3)
    assert_close(atoms.calc.get_eigenvalues(), atoms.calc.orbital_energies, 0)
    assert_close(atoms.calc.get_occupation_numbers(), mf.mo_occ, 0)
    assert not atoms.calc.get_spin_polarized()
    atoms.get_forces()
    assert len(atoms.calc.report().steps) == 1  # all of it from one SCF
    assert atoms == before
    assert atoms.info == before.info
    frozen = atoms.copy()
    frozen.calc = SinglePointCalculator(frozen, **atoms.calc.results)
    assert_close(frozen.get_forces(), atoms.get_forces(), 0)


def test_only_changes_of_the_energy_recompute_it() -> None:
    atoms = water()
    atoms.calc = quick()

    def runs() -> int:
        atoms.get_forces()
        return len(atoms.calc.report().steps)

    assert [runs(), runs()] == [1, 1]
    atoms.info["note"] = "not the calculator's business"
    assert runs() == 1
    neutral = atoms.get_potential_energy()
    atoms.info["charge"] = 1
    assert runs() == 2
    assert atoms.get_potential_energy() > neutral + 5
    assert atoms.calc.get_number_of_spins() == 2
    atoms.info["mult"] = 4
    assert runs() == 3
    del atoms.info["charge"], atoms.info["mult"]
    assert runs() == 4
    atoms.rattle(0.01, seed=1)
    assert runs() == 5
    assert not atoms.calc.set(xc="hf")
    assert runs() == 5
    atoms.calc.set(basis="6-31g")
    assert runs() == 6
    assert atoms.get_potential_energy() < neutral - 10


def test_charge_and_multiplicity_from_the_arguments() -> None:
    atoms = water()
    atoms.calc = quick(charge=1)
    ion = atoms.get_potential_energy()
    atoms.calc = quick(charge=1, mult=2)
    assert atoms.get_potential_energy() == pytest.approx(ion, abs=1e-6)
    atoms.info["charge"] = 0  # the atoms know best
    atoms.calc = quick(charge=1)
    assert atoms.get_potential_energy() == pytest.approx(plain_energy(atoms) * nist.HARTREE2EV, abs=1e-6)


def test_core_potentials_come_with_their_basis_set() -> None:
    iodide = Atoms("HI", [(0, 0, 0), (0, 0, 1.61)])

    def energy(**parameters: Any) -> float:
        iodide.calc = MLHam(xc="hf", guess="minao", **parameters)
        return float(iodide.get_potential_energy() / nist.HARTREE2EV)

    for basis in ("def2-svp", "lanl2dz", {"H": "6-31g", "I": "lanl2dz"}, {"default": "def2-svp"}):
        ecp = "def2-svp" if "def2-svp" in str(basis) else "lanl2dz"
        mol = mole("H 0 0 0; I 0 0 1.61", basis, ecp={"I": ecp})
        assert energy(basis=basis) == pytest.approx(mol.RHF().kernel(), abs=1e-7)
    assert energy(basis="sto-3g") < -6000  # all electrons
    assert energy(basis="def2-svp", ecp={"I": "def2-svp"}) == pytest.approx(energy(basis="def2-svp"), abs=1e-7)


def test_initial_magnetic_moments_are_the_spin_where_nothing_else_is() -> None:
    oxygen = molecule("O2")
    oxygen.calc = quick()
    triplet = mole("O 0 0 0.6230; O 0 0 -0.6230", "sto-3g", spin=2)
    found = oxygen.get_potential_energy() / nist.HARTREE2EV
    assert oxygen.calc.get_number_of_spins() == 2
    triplet.set_geom_(oxygen.positions)
    assert found == pytest.approx(triplet.UHF().kernel(), abs=1e-8)
    oxygen.info["mult"] = 1
    assert oxygen.get_potential_energy() / nist.HARTREE2EV > found + 0.01
    assert oxygen.calc.get_number_of_spins() == 1
    del oxygen.info["mult"]
    oxygen.calc = quick(mult=1)
    oxygen.get_potential_energy()
    assert oxygen.calc.get_number_of_spins() == 1
    oxygen.set_initial_magnetic_moments([1.03, 0.9])  # of another program
    oxygen.calc = quick()
    assert oxygen.get_potential_energy() / nist.HARTREE2EV == pytest.approx(found, abs=1e-8)
    for charge, moments, mult in ((1, [1, 1], 2), (0, [0.5, 0], 1), (0, [0.5, 0.5], 1)):
        oxygen.set_initial_magnetic_moments(moments)
        oxygen.calc = quick(charge=charge)
        with pytest.warns(UserWarning, match=rf"moments, [12.05]+ .*multiplicity {mult}"):
            oxygen.get_potential_energy()
    oxygen.set_initial_magnetic_moments([1, -1])
    oxygen.calc = quick()
    oxygen.get_potential_energy()
    assert oxygen.calc.get_number_of_spins() == 1


@pytest.mark.parametrize("solver", ["scf", "twolevel"])
def test_smeared_forces_are_those_of_the_free_energy(solver: str) -> None:
    atoms = water()
    hot = {"mf_hook": lambda mf: mf.smearing(sigma=0.1), "conv_tol": 1e-11, "solver": solver}
    atoms.calc = quick(xc="pbe", **hot)
    force = atoms.get_forces()[0, 2]
    energy, free = atoms.get_potential_energy(), atoms.get_potential_energy(force_consistent=True)
    assert free < energy - 0.1
    assert_close([energy, free], np.array([atoms.calc.mf.e_zero, atoms.calc.mf.e_free]) * nist.HARTREE2EV, 1e-9)
    moved = []
    for step in (1e-3, -1e-3):
        atoms.positions[0, 2] += step
        moved.append(atoms.get_potential_energy(force_consistent=True))
        atoms.positions[0, 2] -= step
    assert force == pytest.approx((moved[1] - moved[0]) / 2e-3, abs=2e-3)


def test_generalised_objects_and_copies_have_everything() -> None:
    atoms = water()
    atoms.calc = quick(conv_tol=1e-12)
    dipole, energies = atoms.get_dipole_moment(), atoms.calc.orbital_energies
    copied = pickle.loads(pickle.dumps(atoms))
    assert_close(copied.calc.orbital_energies, energies, 1e-6)
    assert copied.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
    atoms.calc = quick(mf_hook=lambda mf: mf.mol.GHF())
    assert_close(atoms.get_dipole_moment(), dipole, 1e-4)
    with pytest.raises(CalculatorSetupError, match="no orbitals yet"):
        _ = quick().gap


def test_calculator_errors_are_specific() -> None:
    def energy(calculator: MLHam, **info: Any) -> float:
        atoms = water(**info)
        atoms.calc = calculator
        return float(atoms.get_potential_energy())

    periodic = water()
    periodic.pbc = True
    periodic.calc = quick()
    with pytest.raises(CalculatorSetupError, match="periodic"):
        periodic.get_potential_energy()
    failing = quick(max_cycle=1)
    with pytest.raises(SCFError, match="did not converge in 1 cycles"):
        energy(failing)
    assert not failing.results
    with pytest.raises(InputError, match="10 electrons cannot have multiplicity 2"):
        energy(quick(), mult=2)
    with pytest.raises(InputError, match="the charge must be an integer"):
        energy(quick(), charge="one")
    with pytest.raises(InputError, match=r"0\.5 is not a whole number"):
        energy(quick(), charge=0.5)
    with pytest.raises(InputError, match="basis 'no-such'"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PySCF's advice on where else to look
        energy(quick(basis="no-such"))
    assert quick(guess="scc").parameters["guess"] == "scc"
    with pytest.raises(InputError, match="guess = 'mll'; expected ml"):
        quick(guess="mll")
    with pytest.raises(InputError, match="'vsap' needs a functional"):
        quick(guess="vsap")
    with pytest.raises(InputError, match="'vsap' needs a functional"):
        MLHam(xc="pbe", guess="vsap").set(xc="HF")
    for wrong in ({"model": "foo"}, {"guess": "ml:foo"}):
        with pytest.raises(InputError, match="'foo': neither a shipped model"):
            quick(**wrong)
    with pytest.raises(InputError, match="'b3lpy': not a functional of PySCF") as caught:
        quick(xc="b3lpy")
    assert caught.value.__cause__ is None  # one traceback, not three
    assert caught.value.__suppress_context__
    with pytest.raises(InputError, match="unknown argument functional"):
        quick(functional="pbe")
    with pytest.raises(InputError, match="expected one of scf, twolevel"):
        quick(solver="fast")
    with pytest.raises(PropertyNotImplementedError):
        quick().get_property("stress", water())
    with pytest.raises(CalculatorSetupError, match="no orbitals yet"):
        quick().gap  # noqa: B018


def test_hook_and_parameters() -> None:
    seen = []

    def hook(mf: Any) -> Any:
        seen.append(mf)
        return mf.PCM()

    atoms = water()
    atoms.calc = quick(mf_hook=hook)
    solvated = atoms.get_potential_energy()
    assert len(seen) == 1
    assert solvated < plain_energy(atoms) * nist.HARTREE2EV - 0.05
    assert atoms.calc.todict() == {"xc": "hf", "basis": "sto-3g", "guess": "minao"}


def test_multiplicity_grid_and_output() -> None:
    triplet = Atoms("O2", [(0, 0, 0), (0, 0, 1.21)])
    energies = []
    for names in ({"mult": 3}, {"multiplicity": 3}, {"mult": 3, "multiplicity": 3}):
        triplet.calc = quick(**names)
        energies.append(triplet.get_potential_energy())
        assert triplet.calc.mf.mol.spin == 2
    assert max(energies) - min(energies) < 1e-7
    with pytest.raises(InputError, match="contradict"):
        quick(mult=1, multiplicity=3)
    coarse, usual = quick(xc="pbe", grid_level=0, verbose=4), quick(xc="pbe")
    for each in (coarse, usual):
        each.get_potential_energy(water())
    assert (coarse.mf.grids.level, usual.mf.grids.level) == (0, 3)
    assert coarse.mf.grids.size < usual.mf.grids.size
    assert (coarse.mf.verbose, usual.mf.verbose) == (4, 0)
    for wrong in ({"grid_level": 11}, {"verbose": -1}, {"dispersion": "d5"}):
        with pytest.raises(InputError, match="expected one of"):
            quick(**wrong)


def test_dispersion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyscf_mlham.ase.calculator.find_spec", lambda name: None)
    with pytest.raises(CalculatorSetupError, match="pip install pyscf-dispersion"):
        quick(dispersion="d3bj").get_potential_energy(water())
    monkeypatch.setattr("pyscf_mlham.ase.calculator.find_spec", lambda name: name)
    mf = quick(dispersion="d4").mean_field(water(), 0, 0)
    assert mf.disp == "d4"
    plain = plain_energy(water())
    monkeypatch.setattr(type(mf), "get_dispersion", lambda self, *_: -0.01)
    monkeypatch.setattr(type(mf), "do_disp", lambda self, *_: True)
    corrected = quick(dispersion="d4").get_potential_energy(water())
    assert corrected == pytest.approx((plain - 0.01) * nist.HARTREE2EV, abs=1e-6)


def test_prediction_without_scf() -> None:
    atoms = water()
    atoms.calc = MLHam(mode="predict")
    dipole = atoms.get_dipole_moment()
    mol = mole(list(zip(atoms.symbols, atoms.positions, strict=True)), basis="def2-svp")
    one = pyscf_mlham.OneShot(mol.RKS(xc="b3lyp")).run()
    assert atoms.calc.gap == pytest.approx(one.gap * nist.HARTREE2EV)
    assert_close(dipole / units.Debye, one.dip_moment(verbose=0), 1e-6)
    assert not atoms.calc.report().steps
    for ask in (atoms.get_potential_energy, atoms.get_forces):
        with pytest.raises(PropertyNotImplementedError, match="use mode='scf'"):
            ask()


def test_information_on_the_guess_of_an_accelerated_calculation() -> None:
    atoms = water()
    atoms.calc = MLHam(xc="b3lyp", basis="def2-svp", guess="ml", solver="twolevel")
    atoms.get_potential_energy()
    assert atoms.calc.mf.guess_info.guess == "ml"


def test_builds_of_predictions_are_counted() -> None:
    atoms = water()
    atoms.calc = MLHam(xc="b3lyp", basis="def2-svp", density_fit=True, grid_level=1)
    for seed in range(2):
        atoms.rattle(0.01, seed=seed)
        atoms.get_potential_energy()
    assert all(step.coarse > 0 and step.single > 0 for step in atoms.calc.report().steps)


def test_model_fallback_and_learned_steps() -> None:
    atoms = water()
    atoms.calc = MLHam(xc="pbe", basis="def2-svp")
    cold = [atoms.get_potential_energy() and atoms.calc.report().steps[-1].cycles]
    assert atoms.calc.mf.guess_info.guess == "ml"
    for seed in range(4):
        atoms.rattle(0.003, seed=seed)
        atoms.get_potential_energy()
        cold.append(atoms.calc.report().steps[-1].cycles)
    assert np.mean(cold[1:]) <= 0.5 * cold[0]
    titane = Atoms("TiH4", [(0, 0, 0), *(0.95 * np.array([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]))])
    titane.calc = MLHam(xc="hf", basis="sto-3g")
    with pytest.warns(UserWarning, match="Ti.*scc guess"):
        assert titane.get_potential_energy() < -20000
    assert "Ti" in titane.calc.mf.guess_info.fallback_reason
    titane.rattle(0.01, seed=0)
    titane.get_potential_energy()  # from the history, and still without the model
    assert titane.calc.mf.guess_info.guess == "history"
    assert ["Si" in step.fallback for step in titane.calc.report().steps] == [True, True]
    assert "without the model at 2 of 2 geometries: " in str(titane.calc.report())
    assert not any(step.fallback for step in atoms.calc.report().steps)
    titane.calc = MLHam(xc="hf", basis="sto-3g", fallback="raise")
    with pytest.raises(pyscf_mlham.MLHamError, match="Si"):
        titane.get_potential_energy()


def test_calculator_is_imported_on_demand() -> None:
    code = "import sys, pyscf_mlham; assert not {'ase', 'torch'} & set(sys.modules); print(pyscf_mlham.ase.MLHam)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pyscf_mlham.nothing  # noqa: B018


def test_history_is_on_unless_switched_off() -> None:
    default = MLHam()._history
    assert default is not None
    assert default.strategy == "fit"
    assert MLHam(history=None)._history is None
    calculator = MLHam(history="fit")  # no change of the default
    assert calculator._history is not None
    calculator.set(history="aspc")
    assert calculator._history.strategy == "aspc"


def test_interrupted_calculation_leaves_no_old_results() -> None:
    interrupted = []

    def hook(mf: Any) -> None:
        if interrupted:
            interrupted.pop()
            raise KeyboardInterrupt

    atoms = water()
    atoms.calc = quick(mf_hook=hook)
    old = atoms.get_forces()
    atoms.rattle(0.05, seed=3)
    interrupted.append(True)
    with pytest.raises(KeyboardInterrupt):
        atoms.get_potential_energy()
    fresh = atoms.copy()
    fresh.calc = quick()
    assert_close(atoms.get_forces(), fresh.get_forces(), 1e-3)
    assert np.abs(atoms.get_forces() - old).max() > 0.1


def test_images_of_a_band_share_a_calculator() -> None:
    images, calculator = [water() for _ in range(4)], quick(guess="minao")
    for k, image in enumerate(images):
        image.set_angle(1, 0, 2, 100 + 10 * k)
        image.calc = calculator
    NEB(images, allow_shared_calculator=True, method="improvedtangent").get_forces()
    assert len(calculator.report().steps) == 4
    energies = [image.get_potential_energy() / nist.HARTREE2EV for image in images]
    assert_close(energies, [plain_energy(image) for image in images], 1e-8)
    assert [step.cycles for step in calculator.report().steps[4:]] == [1] * 4  # each finds itself
