"""Decorated objects on the way to gpu4pyscf and back; a stand-in takes the place of that package."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pyscf import lib, scf

import pyscf_mlham
from pyscf_mlham import ExtraError, OneShot, OracleModel, accelerate, track
from pyscf_mlham.field import FINE
from support.molecules import mole


class RHF(scf.hf.RHF):  # type: ignore[misc]
    """Restricted object of the stand-in; it computes with PySCF, and accepts nothing but a plain object."""

    __module__ = "gpu4pyscf.scf.hf"
    _in_scf = False

    @classmethod
    def from_cpu(cls, method: Any) -> RHF:
        assert type(method) is scf.hf.RHF, f"{type(method).__name__} was converted instead of RHF"
        made = cls(method.mol)
        known = set(vars(scf.hf.RHF(method.mol).run())).union(*(getattr(kind, "_keys", ()) for kind in cls.__mro__))
        assert not (added := set(vars(method)) - known), f"attributes of a decoration were converted: {added}"
        vars(made).update(vars(method))
        del made._opt  # gpu4pyscf has none
        return made

    def to_gpu(self) -> Any:
        raise AssertionError("an object of the GPU was converted again")

    def to_cpu(self) -> Any:
        return scf.hf.RHF(self.mol).set(conv_tol=self.conv_tol)

    def scf(self, dm0: Any = None, **kwargs: Any) -> float:
        with lib.temporary_env(self, _in_scf=True, _opt={None: None}):
            return float(super().scf(dm0, **kwargs))

    def get_hcore(self, mol: Any = None) -> Any:
        assert self._in_scf, "a matrix of the GPU was asked for outside its own SCF"
        return super().get_hcore(mol)

    def check_linear_dependency(self, *args: Any, **kwargs: Any) -> Any:
        assert self._in_scf, "a method was called that gpu4pyscf lacks"
        return super().check_linear_dependency(*args, **kwargs)


@pytest.fixture
def gpu4pyscf(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cupy", "gpu4pyscf", "gpu4pyscf.scf", "gpu4pyscf.scf.hf"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["gpu4pyscf.scf.hf"].RHF = RHF  # type: ignore[attr-defined]


DECORATIONS: dict[str, Callable[[Any], Any]] = {
    "accelerate": accelerate,
    "track": track,
    "both": lambda mf: track(accelerate(mf)),
    "OneShot": OneShot,
}


@pytest.mark.parametrize("missing", ["gpu4pyscf", "cupy"])
@pytest.mark.parametrize("decorate", DECORATIONS.values(), ids=DECORATIONS)
@pytest.mark.usefixtures("gpu4pyscf")
def test_missing_package_is_named(decorate: Any, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # any import of it fails
    with pytest.raises(ExtraError, match=f"needs gpu4pyscf, and {missing} is not installed; .* pip install gpu4pyscf"):
        decorate(mole().RHF()).to_gpu()


@pytest.mark.parametrize("decorate", DECORATIONS.values(), ids=DECORATIONS)
def test_object_of_pyscf_is_on_the_cpu(decorate: Any) -> None:
    mf = decorate(mole().RHF())
    assert mf.to_cpu() is mf


@pytest.mark.usefixtures("gpu4pyscf")
@pytest.mark.parametrize("name", ["accelerate", "track", "both"])
def test_decoration_goes_to_the_gpu_and_back(name: str) -> None:
    mf = DECORATIONS[name](mole().RHF().set(conv_tol=1e-10))
    there = mf.to_gpu()
    assert isinstance(there, RHF)
    assert type(there).__name__ == type(mf).__name__
    assert there.conv_tol == 1e-10
    energy = there.kernel()
    if name != "track":
        assert "GPU" in there.plain_reason
    if name != "accelerate":
        assert there.history is mf.history
        assert not there.history.steps
    assert energy == pytest.approx(mf.kernel(), abs=1e-9)
    back = there.to_cpu()
    assert type(back) is type(mf)
    assert back.kernel() == pytest.approx(mf.e_tot, abs=1e-9)


@pytest.mark.usefixtures("gpu4pyscf")
def test_settings_go_to_the_gpu_and_back() -> None:
    mf = accelerate(mole().RHF(), builds=2).set(coarse_level=FINE, single_precision=False)
    for moved in (mf.to_gpu(), mf.to_gpu().to_cpu()):
        assert (moved.builds, moved.coarse_level, moved.single_precision) == (2, FINE, False)


@pytest.mark.usefixtures("gpu4pyscf")
def test_predicted_orbitals_go_to_the_gpu() -> None:
    converged = mole().RHF().run()
    mf = OneShot(converged, OracleModel.of(converged)).run()
    there = mf.to_gpu()
    assert type(there) is RHF
    assert there.mo_coeff is mf.mo_coeff
    assert there.kernel(there.make_rdm1()) == pytest.approx(converged.e_tot, abs=1e-9)


class Matrix(np.ndarray[Any, Any]):
    """Array of the stand-in for CuPy."""


def return_cupy_array(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def converted(*args: Any, **kwargs: Any) -> Any:
        return np.asarray(function(*args, **kwargs)).view(Matrix)

    return converted


def import_stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make gpu4pyscf's base class, which binds PySCF's `get_init_guess` as gpu4pyscf does at its import."""

    class SCF(lib.StreamObject):  # type: ignore[misc]
        __module__ = "gpu4pyscf.scf.hf"
        get_init_guess = return_cupy_array(scf.hf.SCF.get_init_guess)
        init_guess_by_minao = scf.hf.SCF.init_guess_by_minao
        get_fock = get_hcore = get_ovlp = get_veff = None  # CuPy's arrays

        def __init__(self, mol: Any) -> None:
            self.mol, self.verbose, self.stdout = mol, mol.verbose, mol.stdout

        def to_cpu(self) -> Any:
            return scf.hf.RHF(self.mol)

    for name in ("gpu4pyscf", "gpu4pyscf.scf", "gpu4pyscf.scf.hf", "gpu4pyscf.lib", "gpu4pyscf.lib.cupy_helper"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["gpu4pyscf.scf.hf"].SCF = SCF  # type: ignore[attr-defined]
    sys.modules["gpu4pyscf.lib.cupy_helper"].return_cupy_array = return_cupy_array  # type: ignore[attr-defined]
    return SCF


@pytest.mark.parametrize("first", ["gpu4pyscf", "pyscf_mlham"])
def test_guesses_for_gpu4pyscf_whichever_is_imported_first(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mol = mole()
    wanted = scf.hf.RHF(mol).get_init_guess(key="scc")
    pyscf_mlham.unregister()
    if first == "pyscf_mlham":
        pyscf_mlham.register()
    kind = import_stand_in(monkeypatch)
    pyscf_mlham.register()
    mf = kind(mol)
    density = mf.get_init_guess(mol, "scc")
    assert type(density) is Matrix
    np.testing.assert_allclose(density, wanted, atol=1e-10)
    assert mf.guess_info.guess == "scc"
    assert pyscf_mlham.applicable(mf, "scc") == ""
    np.testing.assert_allclose(pyscf_mlham.guess(mf), pyscf_mlham.guess(scf.hf.RHF(mol)), atol=1e-10)
    minao = scf.hf.RHF(mol).get_init_guess(key="minao")
    np.testing.assert_allclose(mf.get_init_guess(mol, "minao"), minao)
    pyscf_mlham.unregister()
    np.testing.assert_allclose(mf.get_init_guess(mol, "scc"), minao)
    assert not hasattr(mf, "guess_info")


def test_failure_on_the_way_to_the_cpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = import_stand_in(monkeypatch)
    pyscf_mlham.unregister()
    pyscf_mlham.register()
    monkeypatch.setattr(kind, "to_cpu", None)
    mf = kind(mole())
    np.testing.assert_allclose(mf.get_init_guess(mf.mol, "ml"), scf.hf.RHF(mf.mol).get_init_guess(key="minao"))
    assert "TypeError" in mf.guess_info.fallback_reason
