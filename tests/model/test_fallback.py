"""Where a model cannot be used: PySCF's own guess with the reason, or an error that says the way out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyscf import gto, scf

import pyscf_mlham
from pyscf_mlham import MLHamError, ModelError, OracleModel, OutOfDomainError, checkpoint
from pyscf_mlham.model import predictor, store
from support.molecules import ETHYLENE, WATER, mole

pytestmark = pytest.mark.usefixtures("small_grids")


@pytest.fixture(scope="module")
def oracle() -> OracleModel:
    return OracleModel.of(mole(basis="def2-svp").RHF().run())


def cell_rhf() -> Any:
    from pyscf.pbc import gto as pbc_gto

    cell = pbc_gto.M(atom="He 0 0 0; He 0 0 1.5", a=np.eye(3) * 4, basis="sto-3g", verbose=0)
    return cell.RHF()


def custom_hamiltonian() -> Any:
    mol = gto.M(verbose=0)
    mol.nelectron, mol.incore_anyway = 2, True
    mf = mol.RHF()
    mf.get_hcore, mf.get_ovlp = lambda *_: np.diag([-1.0, 1.0]), lambda *_: np.eye(2)
    mf._eri = np.zeros((3, 3))
    return mf


OUTSIDE: dict[str, tuple[Callable[[], Any], str]] = {
    "unknown element": (lambda: mole("Si 0 0 0; O 0 0 1.5").RHF(), "element Si is not among those of model oracle"),
    "ecp": (lambda: mole("O 0 0 0; H 0 0 1", "lanl2dz", ecp={"O": "bfd"}, spin=1).UHF(), "effective core"),
    "ghost atom": (lambda: mole(WATER + "; GHOST-O 0 0 3").RHF(), "ghost atoms"),
    "no electrons": (lambda: mole("H 0 0 0; H 0 0 1", charge=2).RHF(), "no electrons"),
    "one atom": (lambda: mole("O 0 0 0", spin=2).UHF(), "a single atom"),
    "charge": (lambda: mole(charge=1, spin=1).UHF(), r"total charge \+1 is not among those of model oracle \(0\)"),
    "not a number": (lambda: mole([("O", (0, 0, np.nan)), ("H", (0, 0, 1)), ("H", (0, 1, 0))]).RHF(), "not finite"),
    "coincident": (lambda: mole("O 0 0 0; H 0 0 1; H 0 0 1").RHF(), "0 Bohr apart"),
    "spinors": (lambda: mole().DHF(), "one-component"),
    "two-component": (lambda: mole().X2C(), "spinors"),
    "periodic": (cell_rhf, "one of molecules, and this is a crystal"),
    "custom Hamiltonian": (custom_hamiltonian, "no atoms"),
    "other geometry": (lambda: mole(WATER.replace("0.75", "0.76")).RHF(), "one geometry"),
    "collinear model, generalised method": (lambda: mole(basis="def2-svp").GHF(), "trained for one that does not"),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # PySCF's own arithmetic with coincident and NaN atoms
@pytest.mark.parametrize("case", OUTSIDE)
def test_fallback_outside_the_domain(case: str, oracle: OracleModel, capfd: pytest.CaptureFixture[str]) -> None:
    factory, reason = OUTSIDE[case]
    pyscf_mlham.register(model=oracle, fallback="raise")
    mf = factory()
    with pytest.raises(OutOfDomainError, match=reason):
        mf.get_init_guess(mf.mol, "ml")
    pyscf_mlham.register(fallback="minao")
    mf.verbose = 2
    _assert_same_outcome(lambda: mf.get_init_guess(mf.mol, "ml"), lambda: mf.get_init_guess(mf.mol, "minao"))
    printed = "".join(capfd.readouterr())
    assert "ml guess not used" in printed
    assert "The minao guess is used instead" in printed


def test_one_line_names_the_guess_that_is_used(capfd: pytest.CaptureFixture[str]) -> None:
    mf = scf.addons.smearing(mole().RKS(xc="pbe"), sigma=0.01).set(verbose=2)
    mf.get_init_guess(mf.mol, "ml")
    printed = "".join(capfd.readouterr())
    assert printed.count("is used instead") == 1
    assert "The minao guess is used instead" in printed
    assert mf.guess_info.guess == "minao"
    assert mf.guess_info.fallback_reason.count("smeared occupations") == 1


def _assert_same_outcome(ours: Callable[[], Any], theirs: Callable[[], Any]) -> None:
    """The same matrix, or the same refusal where PySCF itself has no answer."""
    try:
        expected = theirs()
    except Exception as error:
        with pytest.raises(type(error)):
            ours()
    else:
        np.testing.assert_array_equal(ours(), expected)


@pytest.mark.parametrize("fallback", ["atom", "sap", "1e"])
def test_fallback_of_the_users_choice(fallback: str, oracle: OracleModel) -> None:
    mf = mole("Si 0 0 0; O 0 0 1.5").RHF()
    expected = mf.get_init_guess(mf.mol, fallback)
    np.testing.assert_allclose(pyscf_mlham.guess(mf, oracle, fallback=fallback), expected)
    pyscf_mlham.register(model=oracle, fallback=fallback)
    np.testing.assert_allclose(mf.get_init_guess(mf.mol, "ml"), expected)


def test_a_bug_in_a_model_does_not_stop_the_scf(oracle: OracleModel, capfd: pytest.CaptureFixture[str]) -> None:
    class Broken:
        config, exact = oracle.config, False
        native = oracle.native

        def correction(self, native: gto.Mole, h0: np.ndarray) -> np.ndarray:
            raise RuntimeError("CUDA out of memory")

    pyscf_mlham.register(model=Broken())
    mf = mole(basis="def2-svp", verbose=2).RHF().set(init_guess="ml").run()
    assert mf.converged
    assert "RuntimeError: CUDA out of memory" in "".join(capfd.readouterr())
    with pytest.raises(RuntimeError, match="out of memory"):
        pyscf_mlham.guess(mf, Broken(), fallback="raise")


def test_pyscfs_own_error_is_not_chained_to_the_models(oracle: OracleModel) -> None:
    pyscf_mlham.register(model=oracle)
    mf = mole("Si 0 0 0; O 0 0 1.5").RHF().set(init_guess="ml")
    mf.init_guess_by_minao = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError) as raised:
        mf.kernel()
    assert raised.value.__context__ is None


def test_an_atom_far_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "COLLAPSE", 1e9)  # no prediction is accepted
    mf = mole("O 0 0 0; H 0 0 1; H 0 1e6 0", "def2-svp").RHF()
    mf.get_init_guess(mf.mol, "ml")
    assert "atom 2 (H) is 1e+06 Angstrom" in mf.guess_info.fallback_reason


def test_fallback_without_any_model(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(store, "shipped", dict)
    mf = mole(verbose=2).RHF().set(init_guess="ml")
    np.testing.assert_array_equal(mf.get_init_guess(mf.mol, "ml"), mf.get_init_guess(mf.mol, "minao"))
    assert "'ml:<path>'" in "".join(capfd.readouterr())
    with pytest.raises(ModelError, match="ships no trained model"):
        pyscf_mlham.guess(mf, fallback="raise")


@pytest.fixture
def folder(oracle: OracleModel, tmp_path: Path) -> Path:
    oracle.save(tmp_path / "Water")
    return tmp_path / "Water"


def test_a_model_from_its_path(folder: Path) -> None:
    reference = mole(basis="def2-svp").RHF().run()
    mf = mole(basis="def2-svp").RHF().set(init_guess=f"ml:{folder}").run()
    assert mf.cycles == 1
    assert mf.e_tot == pytest.approx(reference.e_tot, abs=1e-8)
    assert store.load(folder) is store.load(str(folder))


DAMAGES = ["missing", "truncated", "corrupted", "other H0", "no number", "unknown basis", "unknown H0", "newer"]


@pytest.mark.filterwarnings("ignore:Basis may be available:UserWarning")
@pytest.mark.parametrize("damage", DAMAGES)
def test_fallback_of_damaged_models(folder: Path, damage: str, capfd: pytest.CaptureFixture[str]) -> None:
    config, weights = checkpoint.read(folder)
    path, changed = folder / checkpoint.WEIGHTS, {}
    if damage == "missing":
        folder = folder.with_name("Elsewhere")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "corrupted":
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    elif damage == "other H0":
        changed = {"baseline_fingerprint": config.baseline_fingerprint + 0.01}
    elif damage == "no number":
        changed = {"baseline_fingerprint": float("nan")}
    elif damage == "unknown basis":
        changed = {"basis": "no-such-basis"}
    elif damage == "unknown H0":
        changed = {"baseline": "psi4-sad"}
    elif damage == "newer":
        changed = {"architecture": "qhnet9"}
    if changed:
        checkpoint.write(folder, dataclasses.replace(config, **changed), weights)
    mf = mole(basis="def2-svp", verbose=2).RHF()
    np.testing.assert_array_equal(mf.get_init_guess(mf.mol, f"ml:{folder}"), mf.get_init_guess(mf.mol, "minao"))
    assert "ml guess not used" in "".join(capfd.readouterr())
    with pytest.raises(ModelError, match=f"{folder.name}|model oracle"):
        pyscf_mlham.guess(mf, folder, fallback="raise")


def test_fock_and_oneshot_never_fall_back(oracle: OracleModel) -> None:
    mf = mole("Si 0 0 0; O 0 0 1.5").RHF()
    with pytest.raises(OutOfDomainError, match="element Si"):
        pyscf_mlham.fock(mf, oracle)
    with pytest.raises(OutOfDomainError, match="element Si"):
        pyscf_mlham.OneShot(mf, oracle).run()


def test_the_best_shipped_model_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, xc, basis in (("a", "pbe", "def2-svp"), ("b", "b3lyp", "def2-svp"), ("c", "b3lyp", "6-31g*")):
        OracleModel.of(mole(basis=basis).RKS(xc=xc).run(), name=name).save(tmp_path / name)
    folders = {p.name: p for p in sorted(tmp_path.iterdir())}
    monkeypatch.setattr(store, "shipped", lambda: folders)
    for expected, xc, basis in (("b", "B3LYP", "def2svp"), ("c", "pbe0", "6-31G*"), ("a", "pbe", "cc-pvdz")):
        mf = mole(basis=basis).RKS(xc=xc)
        assert store.best_for(mf, mf.mol).config.name == expected
    with pytest.raises(OutOfDomainError, match="a: element C"):
        pyscf_mlham.guess(mole(ETHYLENE).RHF(), fallback="raise")
    (tmp_path / "c" / checkpoint.CONFIG).write_text("damaged: [")  # the others still serve
    mf = mole(basis="6-31g*").RKS(xc="b3lyp")
    assert store.best_for(mf, mf.mol).config.name == "b"
    with pytest.raises(ModelError, match="a: element C"):
        pyscf_mlham.guess(mole(ETHYLENE).RHF(), fallback="raise")
    del folders["a"], folders["c"]
    with pytest.raises(OutOfDomainError, match=r"^element C .*model b"):
        pyscf_mlham.guess(mole(ETHYLENE).RHF(), fallback="raise")


def test_generalised_models_are_for_generalised_methods() -> None:
    generalised = OracleModel.of(mole().GHF().run())
    with pytest.raises(OutOfDomainError, match="trained for a generalised method"):
        pyscf_mlham.fock(mole().RHF(), generalised)
    unrestricted = OracleModel.of(mole(charge=1, spin=1).UHF().run())
    with pytest.raises(OutOfDomainError, match="trained for one that does not"):
        pyscf_mlham.fock(mole(charge=1, spin=1).GHF(), unrestricted)


def test_an_oracle_that_cannot_be_saved_is_an_error(tmp_path: Path) -> None:
    unnamed = mole(basis={"O": "6-31g*", "H": "sto-3g"}).RHF().run()
    with pytest.raises(ModelError, match="named spherical basis"):
        OracleModel.of(unnamed).save(tmp_path / "x")
    heavy = mole("I 0 0 0; H 0 0 1.6", "def2-svp", ecp={"I": "def2-svp"}).RHF().run()
    with pytest.raises(MLHamError, match="all-electron basis set"):
        OracleModel.of(heavy)
