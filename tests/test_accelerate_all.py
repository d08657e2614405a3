"""register(accelerate=True): scripts that know nothing of the package."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyscf import scf
from pyscf.pbc import gto as pbc_gto
from pyscf.scf import hf
from pyscf.scf.atom_hf import AtomSphAverageRHF, get_atm_nrhf

import pyscf_mlham
from pyscf_mlham import OneShot, OracleModel, accelerate, track
from pyscf_mlham.cli import main
from pyscf_mlham.scf.counting import counting_fock_builds
from support.molecules import WATER, mole


def radical() -> Any:
    return mole(charge=1, spin=1)


METHODS: dict[str, Callable[[], Any]] = {
    "RHF": lambda: mole().RHF(),
    "RKS": lambda: mole().RKS(xc="b3lyp"),
    "UKS": lambda: radical().UKS(xc="pbe"),
    "ROHF": lambda: radical().ROHF(),
    "density_fit": lambda: mole().RKS(xc="b3lyp").density_fit(),
    "PCM": lambda: mole().RKS(xc="b3lyp").PCM(),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_results_are_the_objects_own(name: str) -> None:
    plain = METHODS[name]().run()
    pyscf_mlham.register(accelerate=True)
    mf = METHODS[name]().set(verbose=5, stdout=io.StringIO())
    kind, names = type(mf), set(vars(mf))
    with counting_fock_builds(mf) as counter:
        energy = mf.kernel()
    assert type(mf) is kind
    assert mf.converged
    assert counter.builds == mf.cycles <= 3
    assert energy == mf.e_tot == pytest.approx(plain.e_tot, abs=1e-8)
    np.testing.assert_allclose(mf.mo_energy, plain.mo_energy, atol=1e-4)
    np.testing.assert_array_equal(mf.mo_occ, plain.mo_occ)
    np.testing.assert_allclose(mf.make_rdm1(), plain.make_rdm1(), atol=1e-3)
    assert not {n for n in set(vars(mf)) - names if not n.startswith("_")} - set(vars(plain))
    assert "does not have attributes" not in mf.stdout.getvalue()
    mf.kernel()
    assert mf.cycles <= 2


def test_gradients_and_scanners() -> None:
    near = mole(WATER.replace("0.1173", "0.13"))
    expected = [near.RKS(xc="pbe").kernel(), near.RKS(xc="pbe").run().nuc_grad_method().kernel()]
    pyscf_mlham.register(accelerate=True)
    scanner = mole().RKS(xc="pbe").nuc_grad_method().as_scanner()
    scanner(mole())
    energy, gradient = scanner(near)
    assert scanner.base.cycles <= 2
    assert energy == pytest.approx(expected[0], abs=1e-8)
    np.testing.assert_allclose(gradient, expected[1], atol=1e-4)


def test_checkpoint_and_callback_are_those_of_the_object(tmp_path: Path) -> None:
    pyscf_mlham.register(accelerate=True)
    seen: list[Any] = []
    path = str(tmp_path / "scf.chk")
    mf = mole().RHF().set(chkfile=path, callback=lambda envs: seen.append(envs["mf"])).run()
    assert len(seen) == mf.cycles
    assert all(each is mf for each in seen)
    assert scf.chkfile.load(path, "scf/e_tot") == pytest.approx(mf.e_tot, abs=1e-8)


def test_an_error_leaves_the_plain_object() -> None:
    pyscf_mlham.register(accelerate=True)
    mf = mole().RHF()
    kind = type(mf)
    mf.callback = lambda envs: 1 / 0
    with pytest.raises(ZeroDivisionError):
        mf.kernel()
    assert type(mf) is kind
    assert "builds" not in vars(mf)


PLAIN: dict[str, Callable[[], Any]] = {
    "generalised": lambda: mole().GHF(),
    "smearing": lambda: scf.addons.smearing(mole().RKS(xc="pbe"), sigma=0.02),
    "periodic": lambda: pbc_gto.M(
        atom="He 0 0 0; He 0 0 1.5", a=np.eye(3) * 4, basis="sto-3g", mesh=[15] * 3, verbose=0
    ).RHF(),
    "second order": lambda: mole().RHF().newton(),
    "one electron": lambda: mole("H 0 0 0", spin=1).RHF(),
    "history": lambda: track(mole().RHF()),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_scf_if_not_applicable(name: str) -> None:
    plain = PLAIN[name]().run()
    pyscf_mlham.register(accelerate=True)
    mf = PLAIN[name]().run()
    assert mf.e_tot == pytest.approx(plain.e_tot, abs=1e-9)
    assert mf.cycles == plain.cycles


def test_objects_of_own_decorations_are_left_alone() -> None:
    pyscf_mlham.register(accelerate=True)
    quick = accelerate(mole().RHF()).run()
    assert quick.full_builds <= 2
    pyscf_mlham.register(model=OracleModel.of(quick))
    assert OneShot(mole().RHF()).run().cycles == 0


def test_the_command_line_measures_plain_scf(capsys: pytest.CaptureFixture[str]) -> None:
    original = vars(hf.SCF)["scf"]
    pyscf_mlham.register(accelerate=True)
    assert main(["models"]) == 0
    assert vars(hf.SCF)["scf"] is original
    assert "MLHAM_PLAIN" not in os.environ


@pytest.mark.parametrize("basis", ["6-31g", "gth-szv"])
def test_atoms_of_a_guess_are_left_alone(basis: str) -> None:
    mol = mole("C 0 0 0; O 0 0 1.2", basis=basis, pseudo="gth-pade" if basis.startswith("gth") else None)
    before = get_atm_nrhf(mol)
    pyscf_mlham.register(accelerate=True)
    for element, (energy, *_) in get_atm_nrhf(mol).items():
        assert energy == before[element][0]
    assert "AtomSphAverageRHF" in pyscf_mlham.applicable(AtomSphAverageRHF(mole("C 0 0 0")))


def test_the_reason_is_in_the_log() -> None:
    pyscf_mlham.register(accelerate=True)
    mf = mole().RHF().set(diis=False, verbose=3, stdout=io.StringIO()).run()
    assert "DIIS is switched off" in mf.stdout.getvalue()


def test_register_without_accelerate_restores_plain_scf() -> None:
    original = vars(hf.SCF)["scf"]
    for undo in (lambda: pyscf_mlham.register(accelerate=False), pyscf_mlham.unregister):
        pyscf_mlham.register(accelerate=True)
        pyscf_mlham.register(accelerate=True)
        pyscf_mlham.register(fallback="minao")
        assert vars(hf.SCF)["scf"] is not original
        undo()
        assert vars(hf.SCF)["scf"] is original


@pytest.mark.parametrize("first", ["pyscf", "pyscf_mlham"])
def test_pyscfs_configuration_file(first: str, tmp_path: Path) -> None:
    conf = tmp_path / "conf.py"
    conf.write_text(
        "scf_hf_SCF_init_guess = 'scc'\nscf_hf_SCF_conv_tol = 1e-8\nmlham_accelerate = True\nimport pyscf_mlham\n"
    )
    code = (
        f"import {first}, pyscf\n"
        "mf = pyscf.M(atom='H 0 0 0; F 0 0 0.92', verbose=0).RHF()\n"
        "mf.kernel(dm0=mf.get_init_guess(key='1e'))\n"
        "assert mf.conv_tol == 1e-8 and mf.init_guess == 'scc' and mf.cycles <= 2, mf.cycles\n"
        "assert mf.get_init_guess(key='scc') is not None and mf.guess_info.guess == 'scc'\n"
    )
    environment = os.environ | {"PYSCF_CONFIG_FILE": str(conf)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    off = "from pyscf_mlham.configuration import ACCELERATE; import sys; sys.exit(ACCELERATE)"
    subprocess.run([sys.executable, "-c", off], check=True, env=environment | {"MLHAM_PLAIN": "1"})
