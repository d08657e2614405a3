"""Inputs that PySCF accepts: settings, densities and methods of users, kept by accelerated and tracked objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pyscf import gto, scf

import pyscf_mlham
from pyscf_mlham import OneShot, accelerate, track
from support.molecules import WATER, mole


def molecule(atom: str, basis: Any = "sto-3g", **options: Any) -> gto.Mole:
    return gto.M(atom=atom, basis=basis, verbose=0, **options)


H2 = "H 0 0 0; H 0 0 2.5"
BROKEN = -0.93387  # Hartree; UHF/STO-3G of stretched H2


@pytest.mark.parametrize("guess", ["minao", "scc", "ml"])
def test_spin_symmetry_is_broken_from_every_guess(guess: str) -> None:
    mf = molecule("O 0 0 0; O 0 0 1.21", "def2-svp").UKS(xc="b3lyp")
    mf.grids.level, mf.init_guess = 0, guess
    quick = accelerate(mf).run()
    assert quick.e_tot == pytest.approx(-150.15266, abs=1e-4)
    assert quick.spin_square()[0] > 0.9


def test_mixed_frontier_orbitals_stay_mixed() -> None:
    quick = accelerate(molecule(H2).UHF().set(init_guess_breaksym="mix")).run()
    assert quick.e_tot == pytest.approx(BROKEN, abs=1e-4)


def test_a_guess_of_the_user_is_used() -> None:
    class Localised(scf.uhf.UHF):  # type: ignore[misc]
        def get_init_guess(self, *_: Any, **__: Any) -> Any:
            return np.array([np.diag([1.0, 0.0]), np.diag([0.0, 1.0])])

    quick = accelerate(Localised(molecule(H2)).set(init_guess_breaksym=0)).run()
    assert quick.e_tot == pytest.approx(BROKEN, abs=1e-4)


def test_a_density_in_place_of_the_name_of_a_guess() -> None:
    closed = mole().RHF()
    quick = accelerate(mole().UHF().set(init_guess=np.asarray(closed.get_init_guess())))
    assert quick.kernel() == pytest.approx(closed.kernel(), abs=1e-8)


@pytest.mark.parametrize("decorate", [accelerate, track])
def test_a_density_of_other_occupations_is_used_as_it_is(decorate: Any) -> None:
    def excited(mf: Any) -> float:
        mf.kernel()
        occ = mf.mo_occ.copy()
        occ[[4, 6]] = 0, 2
        return float(mf.kernel(mf.make_rdm1(mf.mo_coeff, occ)))

    mol = molecule("C 0 0 0; C 0 0 1.25", "6-31g")
    assert excited(decorate(mol.RHF())) == pytest.approx(excited(mol.RHF()), abs=1e-7)


def test_no_saddle_point_if_plain_scf_finds_a_minimum() -> None:
    mol = molecule("Mn 0 0 0; H 0 0 1.73", spin=6)
    quick = accelerate(mol.UHF()).run()
    assert quick.e_tot == pytest.approx(mol.UHF().kernel(), abs=1e-7)
    assert quick.stability(return_status=True)[2]


def test_fitted_integrals_of_a_dependent_basis_are_those_of_pyscf() -> None:
    def energy(guess: str) -> float:
        mf = molecule(WATER).RKS(xc="wb97x").density_fit().set(conv_tol=1e-12, init_guess=guess)
        mf.grids.level = 0
        return float(mf.kernel())

    assert energy("scc") == pytest.approx(energy("minao"), abs=1e-11)


@pytest.mark.filterwarnings("ignore:.*basis")
def test_atoms_without_basis_functions() -> None:
    mol = molecule("O 0 0 0; H 0 0 1; H 0 1 0", {"O": "def2-svp"})
    assert accelerate(mol.RHF()).kernel() == pytest.approx(mol.RHF().kernel(), abs=1e-8)


def test_errors_of_cheap_levels_leave_plain_scf(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyscf_mlham.scf.multilevel import ladder

    def failing(*_: Any) -> None:
        raise ZeroDivisionError("unlucky")

    monkeypatch.setattr(ladder.CoarseField, "potential", failing)
    quick = accelerate(mole().RHF())
    assert quick.kernel() == pytest.approx(mole().RHF().kernel(), abs=1e-9)
    assert "ZeroDivisionError: unlucky" in quick.plain_reason


@pytest.mark.parametrize("name", ["get_ovlp", "get_hcore"])
def test_matrices_of_the_user(name: str) -> None:
    mf = mole().RHF()
    original = getattr(scf.hf, name)
    setattr(mf, name, lambda mol: original(mol))
    tracked = track(accelerate(mf))
    assert tracked.kernel() == pytest.approx(mole().RHF().kernel(), abs=1e-8)
    assert len(tracked.history.steps) == 1


def test_other_diis_of_the_object() -> None:
    mf = mole().UKS(xc="b3lyp").set(DIIS=scf.EDIIS)
    assert accelerate(mf).run().full_builds <= 3


def test_energy_error_of_meta_ggas() -> None:
    mol = molecule("N 0 0 0.33; O 1.10 0 -0.14; O -1.10 0 -0.14", spin=1)

    def run(builds: int | None) -> Any:
        mf = mol.UKS(xc="scan")
        mf.grids.level = 0
        return accelerate(mf, builds=builds).run()

    one, whole = run(1), run(None)
    assert abs(one.e_tot - whole.e_tot) < one.energy_error


def test_guess_info_is_that_of_the_last_run() -> None:
    mf = accelerate(mole().RHF().set(init_guess="scc")).run()
    assert mf.guess_info.guess == "scc"
    mf.kernel(dm0=scf.hf.init_guess_by_1e(mf.mol))
    assert mf.guess_info is None


def test_range_separation_of_a_decorated_object_is_its_own() -> None:
    mf = mole().RKS(xc="lc_blyp")
    omega = mf.omega
    accelerate(mf).omega = 0.2
    assert mf.omega == omega


def test_one_shot_takes_the_arguments_of_the_decorated_kernel() -> None:
    mf = OneShot(mole().RHF().newton(), pyscf_mlham.OracleModel.of(mole().RHF().run()))
    mf.kernel(None, None)
    assert mf.mo_coeff is not None
