"""An SCF that fails within a run loses no step after it, and is converged from another guess if that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ase.calculators.calculator import SCFError
from ase.optimize import BFGS
from pyscf import gto, lib
from pyscf.scf import hf

from pyscf_mlham import accelerate, track
from pyscf_mlham.scf.counting import counting_fock_builds
from pyscf_mlham.scf.multilevel import mixin
from pyscf_mlham.scf.multilevel.levels import FullLevel, Outcome
from support.calculators import quick, water
from support.molecules import mole

VELOCITY = np.random.default_rng(0).normal(size=(3, 3)) * 0.02  # Bohr per step
FAILING = {"max_cycle": 1, "conv_tol": 1e-20}  # met by no build


def path(steps: int) -> list[gto.Mole]:
    """Water on a straight path."""
    start = mole(basis="6-31g")
    return [start.copy().set_geom_(start.atom_coords() + k * VELOCITY, unit="Bohr") for k in range(steps)]


def fitted(mol: gto.Mole) -> Any:
    mf = mol.RKS(xc="pbe").density_fit()
    mf.grids.level = 0
    return mf


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [
        (lambda mol: mol.RHF(), "fit"),
        (lambda mol: accelerate(mol.RHF()), "reversible"),
        (lambda mol: accelerate(fitted(mol)), "fit"),
    ],
)
def test_steps_after_a_failure_gain_as_before(kind: Callable[[gto.Mole], Any], strategy: str) -> None:
    scanner, builds = track(kind(mole(basis="6-31g")), strategy).as_scanner(), []
    for k, mol in enumerate(path(7)):
        with lib.temporary_env(scanner, **(FAILING if k == 4 else {})), counting_fock_builds(scanner) as counter:
            energy = scanner(mol)
        builds.append(counter.builds)
        assert scanner.converged == (k != 4)
        assert len(scanner.history.steps) == k + (k < 4)
        assert energy == pytest.approx(kind(mol).kernel(), abs=1e-8)
    assert builds[4] <= 2
    assert max(builds[5:]) <= builds[3]


def test_shadow_dynamics_begins_again_after_a_failure() -> None:
    """The step that is missing would be one of twice the length."""
    scanner, builds = track(mole(basis="6-31g").RHF(), "shadow").as_scanner(), []
    for k, mol in enumerate(path(9)):
        far = mol.set_geom_(mol.atom_coords() + np.outer([0, 1, 0], [0, 0.4, 0]), unit="Bohr", inplace=False)
        with lib.temporary_env(scanner, **(FAILING if k == 5 else {})):
            energy = scanner(far if k == 5 else mol)
        builds.append(scanner.full_builds)
        assert scanner.converged == (k != 5)
        assert len(scanner.history.auxiliary.steps) == (0 if k == 5 else min(6, k + 1 if k < 5 else k - 5))
        if k in (6, 7):
            assert energy == pytest.approx(mol.RHF().kernel(), abs=1e-8)
    assert builds[8] == 1


def nitrogen(r: float) -> Any:
    mf = mole(f"N 0 0 0; N 0 0 {r}", "6-31g").RKS(xc="pbe")
    mf.grids.level = 0
    return mf


def test_nothing_is_lost_that_converges_from_the_initial_guess() -> None:
    """The gap of stretched nitrogen is small: extrapolated densities oscillate, as their rounding decides."""
    scanner, converged = track(nitrogen(1.1)).as_scanner(), 0
    for r in (1.1, 1.5, 1.9, 2.3, 2.7, 3.1):
        fresh = nitrogen(r).run()
        energy = scanner(fresh.mol)
        assert scanner.converged or not fresh.converged
        if fresh.converged:
            converged += 1
            assert energy == pytest.approx(fresh.e_tot, abs=1e-7)
    assert converged >= 3


def test_scf_that_fails_from_the_history_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(mf: Any, *args: Any, dm0: Any = None, **kwargs: Any) -> Any:
        _, *results = kernel(mf, *args, dm0=dm0, **kwargs)
        starts.append(dm0)
        return dm0 is None, *results

    kernel, starts = hf.kernel, []
    monkeypatch.setattr(hf, "kernel", failing)
    scanner = track(mole(basis="6-31g").RHF()).as_scanner()
    for mol in path(3):
        assert scanner(mol) == pytest.approx(mol.RHF().kernel(), abs=1e-8)
        assert scanner.converged
    assert [start is None for start in starts] == [True, True] + [False, True, True] * 2
    assert len(scanner.history.steps) == 3
    scanner.set(max_cycle=40)(path(4)[3])
    assert not scanner.converged  # who limits the cycles wants no more of them


@pytest.mark.parametrize("first", ["converged", "failed"])
@pytest.mark.parametrize("kind", [lambda mf: mf, accelerate])
def test_all_tries_together_take_twice_the_limit(kind: Callable[[Any], Any], first: str) -> None:
    scanner = track(kind(mole(basis="6-31g").RHF())).as_scanner()
    for mol, hopeless in zip(path(3), (first == "failed", True, False), strict=True):
        unmet = {"conv_tol": 1e-20, "conv_tol_grad": 1e-20} if hopeless else {}
        with lib.temporary_env(scanner, **unmet), counting_fock_builds(scanner) as counter:
            energy = scanner(mol)
        assert scanner.converged != hopeless
        assert energy == pytest.approx(mol.RHF().kernel(), abs=1e-8)
        # PySCF's kernel builds the field of its start besides
        assert counter.builds <= (2 * scanner.max_cycle + 4 if hopeless else 12)
        assert counter.builds == getattr(scanner, "full_builds", counter.builds)


def test_accelerated_scf_that_fails_from_the_history_converges_from_the_initial_guess(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the levels, in as few builds as without a history."""

    def failing(full: FullLevel, *args: Any) -> Outcome:
        outcome = climb(full, *args)
        return outcome._replace(failure="the guess is poor") if hasattr(full._start, "defect") else outcome

    def unconverged(*args: Any, **kwargs: Any) -> Any:
        return False, *kernel(*args, **kwargs)[1:]

    climb, kernel = mixin.climb, hf.kernel
    monkeypatch.setattr(mixin, "climb", failing)
    monkeypatch.setattr(hf, "kernel", unconverged)
    scanner = track(accelerate(mole(basis="6-31g").RHF())).as_scanner()
    for k, mol in enumerate(path(3)):
        with counting_fock_builds(scanner) as counter:
            scanner(mol)
        assert scanner.converged
        assert not scanner.plain_reason
        assert counter.builds == scanner.full_builds <= (8 if k else 2)


def test_an_optimisation_goes_on_after_an_error() -> None:
    """The calculator raises it, as the forces would be wrong; the same optimiser can be run again."""

    def failing_at_third(mf: Any) -> Any:
        calls.append(mf)
        return mf.set(**FAILING) if len(calls) == 3 else mf

    calls: list[Any] = []
    atoms, undisturbed = water(), water()
    atoms.calc, undisturbed.calc = quick(mf_hook=failing_at_third), quick()
    optimiser = BFGS(atoms, logfile=None)
    with pytest.raises(SCFError, match="SCF did not converge in 1 cycles"):
        optimiser.run(fmax=0.01, steps=30)
    assert optimiser.run(fmax=0.01, steps=30)
    assert BFGS(undisturbed, logfile=None).run(fmax=0.01, steps=30)
    assert atoms.get_potential_energy() == pytest.approx(undisturbed.get_potential_energy(), abs=1e-5)
    builds, others = ([step.builds for step in each.calc.report().steps] for each in (atoms, undisturbed))
    assert len(builds) == len(others)
    assert builds[2:] == others[2:]
