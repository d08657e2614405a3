"""What importing the package adds to PySCF's mean-field objects."""

from __future__ import annotations

import numpy as np
import pytest
from pyscf.pbc import gto as pbc_gto
from pyscf.pbc import scf as pbc_scf
from pyscf.scf import hf

import pyscf_mlham
from pyscf_mlham import ModelError, OneShot, OracleModel
from support.molecules import WATER, mole


def test_methods_are_the_functions() -> None:
    mf = mole().RKS(xc="pbe")
    energy = mole().RKS(xc="pbe").kernel()
    quick = mf.accelerate()
    assert quick.kernel() == pytest.approx(energy, abs=1e-8)
    assert quick.full_builds <= 2
    assert mf.accelerate(builds=1).builds == 1
    both = mf.accelerate().track()
    assert both.kernel() == pytest.approx(energy, abs=1e-8)
    assert len(both.history.steps) == 1
    with pytest.raises(TypeError, match="OneShot"):
        OneShot(mf).accelerate()


def test_undoing_has_one_name_for_each_decoration() -> None:
    mf = mole().RHF()
    assert type(mf.accelerate().undo_accelerate()) is type(mf)
    assert type(mf.track().undo_track()) is type(mf)
    assert type(OneShot(mf).undo_oneshot()) is type(mf)


def test_methods_of_periodic_objects_leave_the_work_to_pyscf() -> None:
    cell = pbc_gto.M(atom="H 0 0 0; H 0 0 0.9", a=4 * np.eye(3), basis="6-31g", mesh=[15] * 3, verbose=0)
    quick = pbc_scf.RHF(cell).accelerate()
    assert quick.kernel() == pytest.approx(pbc_scf.RHF(cell).kernel(), abs=1e-8)
    assert "periodic" in quick.plain_reason


def test_unregister_removes_everything() -> None:
    names = {"accelerate", "track", "guess_info"}
    assert names <= set(dir(hf.SCF))
    pyscf_mlham.unregister()
    assert not names & set(dir(hf.SCF))


def test_functions_use_what_is_registered() -> None:
    reference = mole().RHF().run()
    pyscf_mlham.register(model=OracleModel.of(reference), fallback="raise")
    mf = mole().RHF()
    np.testing.assert_allclose(pyscf_mlham.guess(mf), reference.make_rdm1(), atol=1e-5)
    np.testing.assert_allclose(pyscf_mlham.fock(mf), reference.get_fock(), atol=1e-8)
    np.testing.assert_allclose(OneShot(mf).run().mo_energy, reference.mo_energy, atol=1e-4)
    other = mole(WATER.replace("0.1173", "0.12")).RHF()
    with pytest.raises(pyscf_mlham.OutOfDomainError):
        pyscf_mlham.guess(other)
    pyscf_mlham.register(fallback="1e")
    np.testing.assert_allclose(pyscf_mlham.guess(other), other.get_init_guess(key="1e"))
    with pytest.raises(ModelError):
        pyscf_mlham.guess(mf, "/nowhere", fallback="raise")
