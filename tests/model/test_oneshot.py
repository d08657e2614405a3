"""The Fock builder as a mean-field object."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyscf.scf.hf import SCF

import pyscf_mlham
from pyscf_mlham import ModelError, OneShot, OracleModel
from pyscf_mlham.scf.counting import counting_fock_builds
from support.molecules import mole

pytestmark = pytest.mark.usefixtures("small_grids")

METHODS: dict[str, Any] = {
    "RKS": lambda: mole().RKS(xc="b3lyp"),
    "UKS": lambda: mole(charge=1, spin=1).UKS(xc="b3lyp"),
    "ROHF": lambda: mole(charge=1, spin=1).ROHF(),
    "GHF": lambda: mole().GHF(),
    "PCM": lambda: mole().RKS(xc="b3lyp").PCM(),
}


@pytest.mark.parametrize("name", METHODS)
def test_orbitals_without_scf(name: str) -> None:
    converged = METHODS[name]().set(conv_tol=1e-11).run()
    one = OneShot(METHODS[name](), OracleModel.of(converged))
    assert one.run() is one
    assert np.isnan(one.kernel(None))
    assert isinstance(one, SCF)
    np.testing.assert_allclose(one.mo_energy, converged.mo_energy, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(one.mo_occ), np.asarray(converged.mo_occ))
    np.testing.assert_allclose(one.make_rdm1(), converged.make_rdm1(), atol=1e-5)
    np.testing.assert_allclose(one.dip_moment(verbose=0), converged.dip_moment(verbose=0), atol=1e-4)
    np.testing.assert_allclose(one.fock, pyscf_mlham.fock(METHODS[name](), OracleModel.of(converged)), atol=1e-12)
    populations = [m.mulliken_pop(verbose=0)[1] for m in (one, converged)]
    np.testing.assert_allclose(*populations, atol=1e-4)
    assert not one.converged
    assert np.isnan(one.e_tot)


def test_no_fock_is_built_until_an_energy_is_asked_for() -> None:
    converged = mole().RKS(xc="b3lyp").run()
    one = OneShot(mole().RKS(xc="b3lyp"), OracleModel.of(converged))
    with counting_fock_builds(one) as counter:
        one.run()
        one.analyze(verbose=0)
        assert one.gap == pytest.approx(converged.mo_energy[5] - converged.mo_energy[4], abs=1e-5)
        assert counter.builds == 0
        assert one.energy_tot() == pytest.approx(converged.e_tot, abs=1e-8)
        assert counter.builds == 1


def test_analyze_prints_at_any_verbosity() -> None:
    converged = mole().RKS(xc="b3lyp").run()
    mf = mole().RKS(xc="b3lyp").set(verbose=9, stdout=io.StringIO())
    OneShot(mf, OracleModel.of(converged)).run().analyze()
    printed = mf.stdout.getvalue()
    assert "one-shot orbitals, no SCF: model oracle" in printed
    assert "Dipole moment" in printed
    assert "does not have attributes" not in printed


def test_cubegen(tmp_path: Path) -> None:
    from pyscf.tools import cubegen

    converged = mole().RHF().run()
    one = OneShot(mole().RHF(), OracleModel.of(converged)).run()
    density = cubegen.density(one.mol, str(tmp_path / "rho.cube"), one.make_rdm1(), nx=10, ny=10, nz=10)
    expected = cubegen.density(one.mol, str(tmp_path / "ref.cube"), converged.make_rdm1(), nx=10, ny=10, nz=10)
    np.testing.assert_allclose(density, expected, atol=1e-5)


def test_undo_gives_a_plain_object_to_iterate() -> None:
    converged = mole().RKS(xc="b3lyp").run()
    oracle = OracleModel.of(converged)
    one = OneShot(mole().RKS(xc="b3lyp"), oracle).run()
    plain = one.undo_oneshot()
    assert type(plain) is type(mole().RKS())
    assert not {"model", "fock"} & set(vars(plain))
    plain.kernel()
    assert plain.cycles == 1
    assert type(OneShot(one, oracle)) is type(one)


def test_reset_forgets() -> None:
    converged = mole().RHF().run()
    one = OneShot(mole().RHF(), OracleModel.of(converged)).run()
    one.reset(mole())
    assert one.mo_energy is None
    for use in (lambda: one.gap, one.dip_moment, one.energy_tot):
        with pytest.raises(ModelError, match="call run"):
            use()


def test_energy_surfaces_are_refused() -> None:
    converged = mole().RHF().run()
    one = OneShot(mole().RHF(), OracleModel.of(converged)).run()
    for refused in (one.nuc_grad_method, one.Gradients, one.Hessian, one.as_scanner):
        with pytest.raises(NotImplementedError, match="run an SCF"):
            refused()


@pytest.mark.parametrize("kind", ["RKS", "density_fit", "PCM"])
def test_resetting_does_not_reach_the_original(kind: str) -> None:
    mf = mole().RKS(xc="b3lyp")
    mf = mf if kind == "RKS" else getattr(mf, kind)()
    energy = mf.kernel()
    one = OneShot(mf, OracleModel.of(mf))
    one.reset(mole("H 0 0 0; F 0 0 0.9"))
    assert mf.kernel() == pytest.approx(energy, abs=1e-8)
