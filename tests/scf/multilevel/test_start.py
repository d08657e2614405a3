"""What accelerate() starts from: broken spin symmetry, checkpoints, one electron, second-order objects."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyscf import qmmm

import pyscf_mlham
from pyscf_mlham import OracleModel, accelerate, track
from pyscf_mlham.density import Orbitals, with_mixed_frontier
from pyscf_mlham.field import CoarseField, SingleField
from pyscf_mlham.scf.multilevel import mixin
from pyscf_mlham.scf.multilevel.start import refining_field
from support.molecules import TWISTED_ETHYLENE, mole

pytestmark = pytest.mark.usefixtures("small_grids")

SINGLETS = {
    "O2": "O 0 0 0; O 0 0 1.21",
    "twisted ethylene": TWISTED_ETHYLENE,
    "stretched N2": "N 0 0 0; N 0 0 2.2",
    "water": None,
}


def singlet(name: str, xc: str) -> Any:
    mol = mole(SINGLETS[name], "6-31g") if SINGLETS[name] else mole(basis="6-31g")
    return mol.UHF() if xc == "hf" else mol.UKS(xc=xc).set(verbose=0)


@pytest.mark.parametrize("xc", ["hf", "pbe0"])
@pytest.mark.parametrize("name", SINGLETS)
def test_singlets_end_no_higher_than_pyscfs(name: str, xc: str) -> None:
    plain, quick = singlet(name, xc).run(), accelerate(singlet(name, xc)).run()
    assert quick.converged
    assert quick.e_tot <= plain.e_tot + 1e-6  # broken orbitals of O2 may lie otherwise on the grid: 1e-7 Ha
    spin = quick.spin_square()[0]
    assert spin < 0.01 if name == "water" else spin > (0.9 if name == "twisted ethylene" else 0.5)
    closed = accelerate(singlet(name, xc).set(init_guess_breaksym=0)).run()
    assert closed.spin_square()[0] < 1e-3


def test_degenerate_frontier_orbitals_are_parted_however_they_are_mixed() -> None:
    mol = mole(TWISTED_ETHYLENE, "6-31g")
    energy, coeff, occ = (getattr(mol.RHF().run(), f"mo_{k}") for k in ("energy", "coeff", "occ"))
    homo = mol.nelectron // 2 - 1
    energy[homo + 1] = energy[homo]  # as in the density functional's first field
    distances = []
    for angle in np.linspace(0, np.pi, 7):
        mixed = coeff.copy()
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        mixed[:, [homo, homo + 1]] = coeff[:, [homo, homo + 1]] @ turn
        both = Orbitals(np.stack([energy] * 2), np.stack([mixed] * 2), np.stack([occ / 2] * 2))
        turned = with_mixed_frontier(mol, both).coeff[:, :, homo]
        places = np.einsum("xmn,sm,sn->sx", mol.intor("int1e_r"), turned, turned)
        distances.append(np.linalg.norm(places[0] - places[1]))
    assert min(distances) > 1.0
    np.testing.assert_allclose(distances, distances[0], atol=1e-6)


def test_a_learned_guess_serves_singlets_too() -> None:
    oracle = OracleModel.of(mole(basis="6-31g").RKS(xc="pbe0").run())
    log = io.StringIO()
    mf = mole(basis="6-31g").UKS(xc="pbe0").set(init_guess="ml", verbose=3, stdout=log)
    pyscf_mlham.register(model=oracle)
    accelerate(mf).run()
    assert "ml guess: model oracle" in log.getvalue()
    assert "ml guess not used" not in log.getvalue()


DECORATIONS: dict[str, Callable[[Any], Any]] = {
    "df": lambda mf: mf.density_fit(),
    "PCM": lambda mf: mf.PCM(),
    "x2c": lambda mf: mf.x2c(),
    "qmmm": lambda mf: qmmm.mm_charge(mf, [(0, 0, 3.0)], [0.5]),
    "xc": lambda mf: mf.set(xc="pbe"),
}


@pytest.mark.filterwarnings("ignore:.*PCM is an experimental feature")
@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("name", DECORATIONS)
def test_newton_converges_the_field_of_the_object_inside(name: str, after: bool) -> None:
    def made() -> Any:
        mf, decorated = mole(basis="6-31g").RKS(xc="pbe0"), DECORATIONS[name]
        return decorated(mf.newton()) if after else decorated(mf).newton()

    plain, quick = made(), accelerate(made())
    assert quick.kernel() == pytest.approx(plain.kernel(), abs=1e-8)
    assert (quick.coarse_builds == 0) == after


@pytest.mark.parametrize("kind", ["UHF", "ROHF", "UKS"])
@pytest.mark.parametrize("wrap", [accelerate, track, lambda mf: track(accelerate(mf))])
@pytest.mark.parametrize(("atom", "charge"), [("H 0 0 0", 0), ("H 0 0 0; H 0 0 1.06", 1)], ids=["atom", "ion"])
def test_one_electron(
    atom: str, charge: int, kind: str, wrap: Callable[[Any], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    def made() -> Any:
        return getattr(mole(atom, "6-31g", charge=charge, spin=1), kind)()

    plain, quick = made().run(), wrap(made()).run()
    assert "illegal value" not in "".join(capfd.readouterr())  # of LAPACK
    energy, orbitals = (1e-8, 1e-4) if kind == "UKS" else (1e-12, 1e-12)  # with a functional it is iterated
    assert quick.e_tot == pytest.approx(plain.e_tot, abs=energy)
    np.testing.assert_allclose(quick.mo_energy, plain.mo_energy, atol=orbitals)


def test_a_checkpoint_is_read_if_none_is_written(tmp_path: Path) -> None:
    mf = accelerate(mole(basis="6-31g").RKS(xc="pbe0")).set(chkfile=str(tmp_path / "mf.chk"))
    energy, written = mf.kernel(), (tmp_path / "mf.chk").read_bytes()
    again = accelerate(mole(basis="6-31g").RKS(xc="pbe0")).set(chkfile=mf.chkfile, init_guess="chk")
    assert again.kernel(dump_chk=False) == pytest.approx(energy, abs=1e-8)
    assert again.full_builds == 1
    assert (tmp_path / "mf.chk").read_bytes() == written


def test_cycles_include_those_of_the_second_order_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    climb = mixin.climb
    monkeypatch.setattr(mixin, "climb", lambda *args: climb(*args)._replace(failure="a test"))
    mf = accelerate(mole(basis="6-31g").RHF().newton()).run()
    assert mf.cycles == 2


def test_an_accelerated_object_is_known_by_its_class() -> None:
    mf = mole(basis="sto-3g").RHF().density_fit()
    mf.single_precision = False  # an attribute of a user
    assert isinstance(refining_field(mf), SingleField)
    assert isinstance(refining_field(mf, own=False), CoarseField)
    assert refining_field(accelerate(mf)) is None
    assert isinstance(refining_field(accelerate(mf).undo_accelerate()), SingleField)
