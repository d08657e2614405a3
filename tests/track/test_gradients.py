"""SCFs converged loosely while forces are large: the end of an optimisation is as without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase.calculators.calculator import InputError
from ase.optimize import BFGS
from pyscf import gto, lib

from pyscf_mlham import accelerate, track
from pyscf_mlham.ase import BOHR, HARTREE
from pyscf_mlham.track.gradients import FORCE_SHARE, LOOSEST, loosened
from support.calculators import quick, water
from support.molecules import assert_close, mole

LOOSE_ABOVE = 3e-2  # Hartree/Bohr
STRETCHES = (1.15, 1.13, 1.12, 1.0, 0.99)  # the forces of the last two are small


def stretched(by: float) -> gto.Mole:
    mol = mole(basis="6-31g")
    return mol.set_geom_(by * mol.atom_coords(), unit="Bohr")


def test_criterion() -> None:
    own, limit = 1e-5, 1e-3
    assert loosened(own, 1.0, None) == own
    assert loosened(own, 0.0, limit) == own  # unknown
    assert loosened(own, limit, limit) == own
    assert loosened(own, 2 * limit, limit) == pytest.approx(2 * FORCE_SHARE * limit)
    assert loosened(own, 1.0, limit) == LOOSEST
    assert loosened(1e-2, 1.0, limit) == 1e-2  # looser already


@pytest.mark.parametrize("kind", [lambda mol: mol.RHF(), lambda mol: accelerate(mol.RHF())])
def test_small_forces_are_those_of_a_tight_scf(kind: Any) -> None:
    mf = kind(stretched(1.0))
    loose = track(mf, "loewdin", LOOSE_ABOVE).nuc_grad_method().as_scanner()
    plain = mf.nuc_grad_method().as_scanner()
    was_loose, errors = [], []
    for by in STRETCHES:
        (energy, gradient), (exact, expected) = loose(stretched(by)), plain(stretched(by))
        was_loose.append(loose.base.is_loose)
        errors.append(abs(energy - exact))
        assert energy == loose.e_tot
        assert_close(gradient, expected, 2e-3 if loose.base.is_loose else 1e-4)
    assert was_loose == [False, True, True, False, False]
    assert max(errors[3:]) < 1e-9
    assert max(errors) < 1e-6
    assert loose.base.conv_tol == mf.conv_tol
    assert loose.base.conv_tol_grad is None


def test_energies_without_forces_are_tight() -> None:
    scanner = track(mole(basis="6-31g").RHF(), loose_above=1e-4)
    gradients = scanner.nuc_grad_method().as_scanner()
    for by in STRETCHES[:2]:
        gradients(stretched(by))
    assert gradients.base.is_loose
    gradients.base(stretched(1.1))
    assert not gradients.base.is_loose
    assert gradients.base.e_tot == pytest.approx(stretched(1.1).RHF().kernel(), abs=1e-9)


def test_the_option_follows_decorations_and_can_be_undone() -> None:
    mf = accelerate(track(mole(basis="6-31g").RHF(), loose_above=0.01))
    assert mf.loose_above == 0.01
    assert mf.Gradients().base is mf
    assert not hasattr(mf.undo_track(), "loose_above")
    assert "Tracked" in type(mf.Gradients()).__name__
    assert "Tracked" not in type(track(mole().RHF()).Gradients()).__name__
    assert isinstance(mf.nuc_grad_method().as_scanner().as_scanner(), lib.GradScanner)
    forces = track(mole().RHF().PCM(), loose_above=0.01).Gradients()  # made of those without the solvent
    assert [kind.__name__ for kind in type(forces).__mro__].count("_TrackedGradients") == 1
    assert type(forces).__bases__[0].__name__ == "_TrackedGradients"


def test_optimisations_with_ase_end_at_the_same_minimum() -> None:
    found = []
    for loose_above in (None, LOOSE_ABOVE / 5 * HARTREE / BOHR):
        atoms = water()
        atoms.positions *= 1.1
        atoms.calc = quick(history="loewdin", loose_above=loose_above)
        BFGS(atoms, logfile=None).run(fmax=0.02, steps=30)
        builds = [step.builds for step in atoms.calc.report().steps]
        found.append((atoms.get_potential_energy(), atoms.get_forces(), sum(builds), len(builds)))
        again = atoms.copy()
        again.calc = quick()
        assert again.get_potential_energy() == pytest.approx(found[-1][0], abs=1e-7)
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    assert np.abs(found[1][1]).max() < 0.02
    assert found[1][2] / found[1][3] < found[0][2] / found[0][3]


@pytest.mark.parametrize("wrong", [{"loose_above": 0.0}, {"loose_above": 0.1, "history": None}])
def test_impossible_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="loose_above is a force in eV/Angstrom, above zero, and needs a history"):
        quick(**wrong)
