"""What a decorated object may be started from, and that the object it was made from stays as it was."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pyscf import mp, scf
from pyscf.soscf import newton_ah

import pyscf_mlham
from pyscf_mlham import OneShot, OracleModel, accelerate, track
from pyscf_mlham.ase import MLHam
from support.molecules import WATER, mole

pytestmark = pytest.mark.usefixtures("small_grids")

MOVED = WATER.replace("0.1173", "0.1700")


@pytest.fixture(scope="module")
def neutral() -> Any:
    return mole(basis="6-31g").UHF().run()


def in_order(mf: Any) -> bool:
    """Occupied orbitals first, by energy."""
    return bool(np.all(np.diff(mf.mo_energy) >= 0) and np.all(np.diff(mf.mo_occ) <= 0))


@pytest.mark.parametrize(("charge", "spin"), [(1, 1), (2, 0), (2, 2), (-2, 0)])
def test_an_ion_from_the_density_of_the_neutral(neutral: Any, charge: int, spin: int) -> None:
    def ion() -> Any:
        return mole(basis="6-31g", charge=charge, spin=spin).UHF().set(init_guess_breaksym=0)

    density = neutral.make_rdm1()
    quick = accelerate(ion())
    assert quick.kernel(density) == pytest.approx(ion().kernel(density), abs=1e-8)
    assert quick.mo_occ.sum() == 10 - charge


def test_a_scanner_whose_charge_changes() -> None:
    scanner = accelerate(mole(basis="6-31g").UHF()).as_scanner()
    scanner(mole(basis="6-31g"))
    cation = mole(basis="6-31g", charge=1, spin=1)
    assert scanner(cation) == pytest.approx(cation.UHF().kernel(), abs=1e-8)


@pytest.mark.parametrize("xc", ["hf", "b3lyp"])
def test_an_excited_solution_is_left(xc: str) -> None:
    def water(**kwargs: Any) -> Any:
        mol = mole(basis="6-31g", **kwargs)
        return mol.RHF() if xc == "hf" else mol.RKS(xc=xc)

    excited = water(symmetry=True)
    excited.irrep_nelec = {"A1": 8, "B1": 0, "B2": 2}
    excited.run()
    ground, quick = water().run(), accelerate(water())
    assert excited.e_tot > ground.e_tot + 0.5
    assert quick.kernel(excited.make_rdm1()) == pytest.approx(ground.e_tot, abs=1e-8)
    assert in_order(quick)


@pytest.mark.parametrize("make", [lambda m: m.RHF(), lambda m: m.UKS(xc="pbe").set(init_guess_breaksym=0)])
def test_a_second_kernel_leaves_the_orbitals_in_order(make: Callable[[Any], Any]) -> None:
    quick = accelerate(make(mole(basis="6-31g"))).run()
    energy, first = quick.e_tot, quick.mo_energy
    quick.kernel()
    assert quick.full_builds == 1
    assert quick.e_tot == pytest.approx(energy, abs=1e-9)
    np.testing.assert_allclose(quick.mo_energy, first, atol=1e-5)
    for energies, occupations in zip(np.atleast_2d(quick.mo_energy), np.atleast_2d(quick.mo_occ), strict=True):
        assert np.all(np.diff(energies) >= 0)
        assert np.all(np.diff(occupations) <= 0)


def test_mp2_is_right_after_a_second_kernel() -> None:
    quick = accelerate(mole(basis="6-31g").RHF()).run()
    quick.kernel()
    assert mp.MP2(quick).run().e_corr == pytest.approx(mole(basis="6-31g").RHF().run().MP2().run().e_corr, abs=1e-6)


@pytest.mark.parametrize("kind", ["UHF", "UKS", "ROHF"])
def test_open_shell_objects_start_from_a_closed_shell_density(kind: str) -> None:
    restricted = mole(basis="6-31g").RHF().run()
    quick = accelerate(getattr(mole(basis="6-31g"), kind)().set(init_guess_breaksym=0))
    expected = getattr(mole(basis="6-31g"), kind)().kernel(restricted.make_rdm1())
    assert quick.kernel(restricted.make_rdm1()) == pytest.approx(expected, abs=1e-8)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of PySCF's kernels have run."""
    ran: list[str] = []
    for module, name in ((scf.hf, "diis"), (newton_ah, "newton")):

        def kernel(*args: Any, name: str = name, own: Any = module.kernel, **kwargs: Any) -> Any:
            ran.append(name)
            return own(*args, **kwargs)

        monkeypatch.setattr(module, "kernel", kernel)
    return ran


@pytest.mark.parametrize("decorate", [track, accelerate, lambda mf: track(accelerate(mf))])
def test_a_second_order_solver_stays_one(decorate: Callable[[Any], Any], used: list[str]) -> None:
    expected = mole(basis="6-31g").RHF().kernel()
    used.clear()
    plain = mole(basis="6-31g").RHF().set(diis=False)  # what accelerate() leaves to the decorated object
    mf = decorate(plain.newton())
    assert mf.kernel() == pytest.approx(expected, abs=1e-8)
    assert used == ["newton"]
    if hasattr(mf, "full_builds"):
        assert mf.full_builds > 3
    coeff, occ = mf.mo_coeff, mf.mo_occ
    used.clear()
    log = io.StringIO()
    mf.stdout, mf.verbose, mf.mo_coeff = log, 4, None
    assert mf.kernel(coeff, occ) == pytest.approx(expected, abs=1e-8)  # PySCF's signature of that kernel
    assert used == ["newton"]
    assert log.getvalue().count("macro= ") <= 2
    with pytest.raises(TypeError, match="3 positional arguments"):
        mf.kernel(coeff, occ, None, None)


@pytest.mark.parametrize("decorate", [track, accelerate])
def test_kernel_takes_the_starts_of_pyscfs_kernel(decorate: Callable[[Any], Any], tmp_path: Any) -> None:
    converged, file = mole(basis="6-31g").RHF().run(), tmp_path / "water.chk"
    mf = decorate(mole(basis="6-31g").RHF())
    mf.chkfile = str(file)
    mf.kernel(converged.make_rdm1(), dump_chk=False)
    assert not file.exists()
    assert mf.chkfile == str(file)
    mf.kernel(dm0=converged.make_rdm1())
    assert file.exists()
    with pytest.raises(TypeError, match="1 positional"):
        mf.kernel(converged.mo_coeff, converged.mo_occ)


@pytest.mark.parametrize("decorate", [track, accelerate])
def test_fitted_integrals_on_disk_stay_those_of_the_original(decorate: Callable[[Any], Any]) -> None:
    mf = mole(basis="6-31g").RKS(xc="pbe0").density_fit()
    mf.with_df.max_memory = 0.001
    energy = mf.kernel()
    assert not isinstance(mf.with_df._cderi, np.ndarray)
    decorate(mf).as_scanner()(mole(MOVED, basis="6-31g"))
    mf.mo_coeff = None
    assert mf.kernel() == pytest.approx(energy, abs=1e-9)


@pytest.mark.parametrize("decorate", [track, accelerate])
def test_a_second_order_original_keeps_its_geometry(decorate: Callable[[Any], Any]) -> None:
    mf = mole(basis="6-31g").RKS(xc="pbe0").newton()
    energy = mf.kernel()
    decorate(mf).as_scanner()(mole(MOVED, basis="6-31g"))
    mf.mo_coeff = None
    assert mf.kernel() == pytest.approx(energy, abs=1e-9)
    decorated = decorate(mf)
    assert decorated._scf.grids is decorated.grids
    assert decorated._scf.grids is not mf.grids


def test_steps_in_a_nearly_dependent_basis_converge() -> None:
    chain = [mole([("H", (0, 0, (0.5 + 0.001 * k) * i)) for i in range(8)], basis="aug-cc-pvdz") for k in range(3)]
    assert chain[0].RHF().check_linear_dependency(chain[0].intor("int1e_ovlp")).shape[1] < chain[0].nao
    scanner = track(chain[0].RHF()).as_scanner()
    for mol in chain:
        assert scanner(mol) == pytest.approx(mol.RHF().kernel(), abs=1e-8)
        assert scanner.converged
    assert scanner.cycles <= 3


def test_a_registered_model_serves_the_calculator() -> None:
    from ase import Atoms

    positions = [(0, 0, 0.1173), (0, 0.7572, -0.4692), (0, -0.7572, -0.4692)]
    water = Atoms("OH2", positions)
    pyscf_mlham.register(model=OracleModel.of(mole(basis="6-31g").RHF().run()))
    water.calc = MLHam(xc="hf", basis="6-31g", fallback="raise")
    water.get_potential_energy()
    assert water.calc.mf.cycles <= 2


def test_a_one_shot_object_is_refused() -> None:
    one = OneShot(mole().RHF(), OracleModel.of(mole().RHF().run()))
    for decorate in (accelerate, track):
        with pytest.raises(TypeError, match="undo_oneshot"):
            decorate(one)
