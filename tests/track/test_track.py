"""The decoration: the object itself is left as it is, and PySCF's scanners and dynamics use the history."""

from __future__ import annotations

import io

import pyscf.md
import pytest

from pyscf_mlham import track
from support.molecules import assert_close, mole
from support.paths import VELOCITY, path


def test_the_original_is_left_alone_and_the_log_is_clean() -> None:
    mf = mole(basis="6-31g").RHF().set(verbose=5, stdout=io.StringIO())
    before = {name: dict(value) if isinstance(value, dict) else value for name, value in vars(mf).items()}
    scanner = track(mf).as_scanner()
    for mol in path(6, basis="6-31g"):
        mol.stdout = mf.stdout
        scanner(mol)
    assert vars(mf) == before
    assert scanner.diis is True
    assert scanner.diis_start_cycle == 1
    printed = mf.stdout.getvalue()
    assert "guess from 5 earlier geometries" in printed
    assert "does not have attributes" not in printed
    assert "overwritten attributes" not in printed.lower()


def test_gradient_scanners_and_pyscf_dynamics() -> None:
    plain, quick = mole(basis="sto-3g").RHF(), track(mole(basis="sto-3g").RHF())
    gradients = quick.nuc_grad_method().as_scanner()
    reference = plain.nuc_grad_method().as_scanner()
    for mol in path(4, basis="sto-3g"):
        (energy, force), (exact, exact_force) = gradients(mol), reference(mol)
        assert energy == pytest.approx(exact, abs=1e-8)
        assert_close(force, exact_force, 1e-5)
    assert len(quick.history.steps) == 4
    energies = []
    for mf in (mole(basis="sto-3g").RHF(), track(mole(basis="sto-3g").RHF())):
        run = pyscf.md.NVE(mf, dt=10, steps=4, veloc=VELOCITY * 1e-3).set(verbose=0, data_output=None)
        run.run()
        energies.append(run.epot + run.ekin)
    assert energies[0] == pytest.approx(energies[1], abs=1e-7)


def test_something_else_than_a_history_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a History or one of fit, "):
        track(mole().RHF(), None)  # type: ignore[arg-type]
