"""'ml' in every SCF class, with the oracle: one cycle, the same energy, nothing left behind."""

from __future__ import annotations

import functools
import importlib
import io
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pyscf import dft, gto, scf
from pyscf.scf import hf

import pyscf_mlham
from pyscf_mlham import ModelError, OracleModel, hooks
from pyscf_mlham.model import store
from pyscf_mlham.model.guess import is_ml
from pyscf_mlham.scf.counting import counting_fock_builds
from support.molecules import ETHYLENE, WATER, mole, twisted_ethylene

pytestmark = pytest.mark.usefixtures("small_grids")

Factory = Callable[[], Any]


def smeared(mf: Any) -> Any:
    return scf.addons.smearing_(mf, sigma=0.05)


def cation(**kwargs: Any) -> gto.Mole:
    return mole(charge=1, spin=1, **kwargs)


CLASSES: dict[str, Factory] = {
    "RHF": lambda: mole().RHF(),
    "RKS": lambda: mole().RKS(xc="b3lyp"),
    "RKS range-separated": lambda: mole().RKS(xc="wb97x"),
    "RKS meta-GGA": lambda: mole().RKS(xc="r2scan"),
    "UHF": lambda: cation().UHF(),
    "UHF closed shell": lambda: mole().UHF().set(init_guess_breaksym=0),
    "UKS": lambda: cation().UKS(xc="b3lyp"),
    "ROHF": lambda: cation().ROHF(),
    "ROKS": lambda: cation().ROKS(xc="b3lyp"),
    "triplet UKS": lambda: mole("O 0 0 0; O 0 0 1.21", spin=2).UKS(xc="pbe"),
    "GHF": lambda: mole().GHF(),
    "GHF open shell": lambda: cation().GHF(),
    "GKS": lambda: mole().GKS(xc="b3lyp"),
    "density_fit": lambda: mole().RKS(xc="b3lyp").density_fit(),
    "PCM": lambda: mole().RKS(xc="b3lyp").PCM(),
    "sfx2c1e": lambda: mole().RHF().sfx2c1e(),
    "symmetry": lambda: mole(symmetry=True).RHF(),
    "symmetry UKS": lambda: cation(symmetry=True).UKS(xc="b3lyp"),
    "symmetry ROHF": lambda: cation(symmetry=True).ROHF(),
    "smearing": lambda: smeared(mole().RKS(xc="pbe")),
    "smearing UKS": lambda: smeared(mole("O 0 0 0; O 0 0 1.21", spin=2).UKS(xc="pbe")),
    "cartesian": lambda: mole(cart=True).RHF(),
    "level shift": lambda: mole().RHF().set(level_shift=0.2),
    "direct": lambda: mole(max_memory=0.1).RHF(),
}


@pytest.mark.parametrize("name", CLASSES)
def test_converged_guess_needs_one_cycle_in_every_class(name: str) -> None:
    factory = CLASSES[name]
    reference = factory().set(conv_tol=1e-11).run()
    assert reference.converged
    pyscf_mlham.register(model=OracleModel.of(reference), fallback="raise")
    mf = factory()
    mf.init_guess = "ml"
    mf.run()
    assert mf.converged
    assert mf.cycles == 1 < reference.cycles
    assert mf.e_tot == pytest.approx(reference.e_tot, abs=1e-8)
    if hasattr(mf, "spin_square"):
        assert mf.spin_square()[0] == pytest.approx(reference.spin_square()[0], abs=1e-5)


SECOND_ORDER: dict[str, Factory] = {
    "RKS": lambda: mole().RKS(xc="b3lyp").newton(),
    "UHF": lambda: cation().UHF().newton(),
    "density_fit": lambda: mole().RHF().density_fit().newton(),
    "symmetry": lambda: mole(symmetry=True).RHF().newton(),
    "ROHF": lambda: cation().ROHF().newton(),
    "GHF": lambda: mole().GHF().newton(),
}


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_newton_has_nothing_left_to_do(name: str) -> None:
    factory = SECOND_ORDER[name]
    reference = factory()
    with counting_fock_builds(reference) as plain:
        reference.run()
    pyscf_mlham.register(model=OracleModel.of(reference), fallback="raise")
    mf = factory()
    mf.init_guess = "ml"
    with counting_fock_builds(mf) as ours:
        mf.run()
    assert mf.e_tot == pytest.approx(reference.e_tot, abs=1e-8)
    assert ours.builds <= 4 < plain.builds  # it builds two for any guess, and one per macro-iteration


@pytest.mark.parametrize("name", ["RKS", "UKS", "ROHF"])
def test_explicit_functions_do_the_same_without_a_patch(name: str) -> None:
    factory = CLASSES[name]
    reference = factory().run()
    oracle = OracleModel.of(reference)
    pyscf_mlham.unregister()
    mf = factory()
    state = dict(mf.__dict__)
    density, fock = pyscf_mlham.guess(mf, oracle, fallback="raise"), pyscf_mlham.fock(mf, oracle)
    assert mf.__dict__ == state
    np.testing.assert_allclose(density, reference.make_rdm1(), atol=1e-4)
    np.testing.assert_allclose(fock, reference.get_fock(dm=reference.make_rdm1()), atol=1e-10)
    mf.kernel(dm0=density)
    assert mf.cycles == 1
    assert pyscf_mlham.guess(mf, oracle) is not pyscf_mlham.guess(mf, oracle)


def water_cation_or_not(kind: str, basis: str, cart: bool = False) -> Any:
    mf = getattr((cation if kind == "UKS" else mole)(basis=basis, cart=cart), kind)(xc="b3lyp")
    mf.grids.level = 0
    return mf


@functools.cache
def oracle_of(kind: str) -> OracleModel:
    return OracleModel.of(water_cation_or_not(kind, "def2-svp").run())


@pytest.mark.parametrize(
    ("basis", "cart", "saved"),
    [("sto-3g", False, 1), ("6-31g*", False, 2), ("6-31g*", True, 2), ("def2-tzvp", False, 1)],
)
@pytest.mark.parametrize("kind", ["RKS", "UKS", "GKS"])
def test_lift_to_another_basis_saves_cycles(kind: str, basis: str, cart: bool, saved: int) -> None:
    plain, lifted = water_cation_or_not(kind, basis, cart).run(), water_cation_or_not(kind, basis, cart)
    lifted.kernel(dm0=pyscf_mlham.guess(lifted, oracle_of(kind), fallback="raise"))
    assert lifted.e_tot == pytest.approx(plain.e_tot, abs=1e-8)
    assert lifted.cycles <= plain.cycles - saved


@pytest.mark.parametrize(
    ("name", "basis", "saved"),
    [("CH3OH", "6-31g*", 4), ("CH3COCl", "sto-3g", 4)]
    + [
        pytest.param(name, basis, 3, marks=pytest.mark.slow)
        for name in ("CH3CH2OH", "CH3CONH2", "CH3COCl", "C4H4S")
        for basis in ("sto-3g", "6-31g*", "def2-tzvp", "cc-pvtz", "aug-cc-pvdz")
    ],
)
def test_lift_of_real_molecules_saves_cycles(name: str, basis: str, saved: int) -> None:
    from ase.collections import g2

    atoms = [(s, r) for s, r in zip(g2[name].get_chemical_symbols(), g2[name].positions, strict=True)]

    def method(basis: str) -> Any:
        mf = mole(atoms, basis).RKS(xc="b3lyp")
        mf.grids.level = 1
        return mf

    oracle = OracleModel.of(method("def2-svp").run(), h0="scc")
    plain, lifted = method(basis).run(), method(basis)
    lifted.kernel(dm0=pyscf_mlham.guess(lifted, oracle, fallback="raise"))
    assert lifted.e_tot == pytest.approx(plain.e_tot, abs=1e-8)
    assert lifted.cycles <= plain.cycles - saved


@pytest.fixture(scope="module")
def closed() -> Any:
    return twisted_ethylene("RKS").run()


@pytest.fixture(scope="module")
def broken() -> Any:
    mf = twisted_ethylene().set(init_guess_breaksym="mix").run()
    cycles, stable = mf.cycles, mf.stability()[0]  # PySCF 2.13 stops at a higher state
    return mf.run(mf.make_rdm1(stable, mf.mo_occ)).set(cycles=cycles)


def test_breaksym_zero_keeps_the_spins_equal(closed: Any) -> None:
    oracle, mf = OracleModel.of(closed), twisted_ethylene().set(init_guess_breaksym=0)
    up, down = pyscf_mlham.guess(mf, oracle, fallback="raise")
    np.testing.assert_array_equal(up, down)


def test_breaksym_one_is_pyscfs_own_guess_with_the_reason(closed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    oracle, mf = OracleModel.of(closed), twisted_ethylene(verbose=3)
    asked: list[str] = []

    class Model:
        """One that counts its calls, without the attribute `restricted`."""

        config, exact, native = oracle.config, True, oracle.native

        def correction(self, native: Any, h0: Any) -> Any:
            asked.append("correction")
            return oracle.correction(native, h0)

    minao = mf.get_init_guess(mf.mol, "minao")
    for model, times in ((Model(), 1), (type("Closed", (Model,), {"restricted": True})(), 1)):
        np.testing.assert_array_equal(pyscf_mlham.guess(mf, model), minao)
        assert "init_guess_breaksym to 'mix'" in "".join(capsys.readouterr())
        assert len(asked) == times  # of closed shells it is known beforehand


def test_breaksym_mix_finds_the_broken_state(closed: Any, broken: Any) -> None:
    oracle, mf = OracleModel.of(closed), twisted_ethylene().set(init_guess_breaksym="mix")
    density = pyscf_mlham.guess(mf, oracle, fallback="raise")
    assert np.abs(density[0] - density[1]).max() > 0.1
    np.testing.assert_allclose([np.sum(d * mf.get_ovlp()) for d in density], [8, 8], atol=1e-10)
    mf.kernel(dm0=density)
    assert mf.e_tot == pytest.approx(broken.e_tot, abs=1e-8)
    assert mf.e_tot < closed.e_tot - 0.04
    assert mf.spin_square()[0] > 0.9
    assert mf.cycles <= broken.cycles - 2


def test_a_broken_oracle_is_left_as_it_is(broken: Any) -> None:
    pyscf_mlham.register(model=OracleModel.of(broken), fallback="raise")
    mf = twisted_ethylene().set(init_guess="ml").run()
    assert mf.cycles == 1
    assert mf.e_tot == pytest.approx(broken.e_tot, abs=1e-8)


def test_scanner_starts_from_the_learned_guess() -> None:
    near = WATER.replace("0.1173", "0.1200")
    first = mole().RKS(xc="b3lyp").run()
    pyscf_mlham.register(model=OracleModel.of(first), fallback="raise")
    scanner = mole().RKS(xc="b3lyp").set(init_guess="ml").as_scanner()
    assert scanner(mole()) == pytest.approx(first.e_tot, abs=1e-8)
    assert scanner.cycles == 1
    # from its second call on, PySCF's scanner starts from its own last density and asks nobody
    assert scanner(mole(near)) == pytest.approx(mole(near).RKS(xc="b3lyp").kernel(), abs=1e-8)


def test_object_is_a_plain_one_after_the_learned_guess() -> None:
    reference = mole().RKS(xc="b3lyp").run()
    pyscf_mlham.register(model=OracleModel.of(reference), fallback="raise")
    mf = mole().RKS(xc="b3lyp").set(init_guess="ml")
    mf.run()
    mf.kernel()  # a second one starts from its own orbitals
    assert mf.cycles == 1
    assert mf.copy().run().e_tot == pytest.approx(reference.e_tot, abs=1e-8)
    assert mf.to_uks().set(init_guess_breaksym=0).run().e_tot == pytest.approx(reference.e_tot, abs=1e-8)
    assert mf.to_rhf().get_init_guess(mf.mol, "ml").shape == (18, 18)
    mf.reset(mole())
    mf.mo_coeff = None
    assert mf.run().e_tot == pytest.approx(reference.e_tot, abs=1e-8)
    assert mf.nuc_grad_method().kernel().shape == (3, 3)
    for name, value in vars(mf).items():  # what to_gpu walks over: nothing public of ours is there
        assert name == "_guess_info" or "pyscf_mlham" not in type(value).__module__


def test_log_at_the_highest_verbosity() -> None:
    reference = mole().UKS(xc="b3lyp").set(init_guess_breaksym=0).run()
    pyscf_mlham.register(model=OracleModel.of(reference), fallback="raise")
    mf = mole().UKS(xc="b3lyp").set(init_guess="ml", init_guess_breaksym=0, verbose=9, stdout=io.StringIO())
    mf.run()
    printed = mf.stdout.getvalue()
    assert printed.count("ml guess: model oracle, ") == 1
    assert "does not have attributes" not in printed
    assert "overwritten attributes" not in printed.lower()
    assert "initial guess = ml" in printed
    assert "Nelec from initial guess" in printed


def test_one_line_at_the_default_verbosity() -> None:
    reference = mole().RHF().run()
    pyscf_mlham.register(model=OracleModel.of(reference))
    mf = mole().RHF().set(init_guess="ml", verbose=3, stdout=io.StringIO()).run()
    first, second = mf.stdout.getvalue().splitlines()
    assert re.fullmatch(r"ml guess: model oracle, \d+\.\d\d s, gap \d\.\d{4} Ha", first)
    assert second.startswith("converged SCF energy")


def test_register_and_unregister() -> None:
    pyscf_mlham.unregister()
    original = hf.SCF.get_init_guess
    assert original.__module__ == "pyscf.scf.hf"
    pyscf_mlham.unregister()
    pyscf_mlham.register()
    hooked = hf.SCF.get_init_guess
    assert hooked is not original
    pyscf_mlham.register()
    assert hf.SCF.get_init_guess is hooked
    pyscf_mlham.unregister()
    assert hf.SCF.get_init_guess is original


def test_registering_again_keeps_what_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "shipped", dict)
    oracle = OracleModel.of(mole().RHF().run())
    pyscf_mlham.register(model=oracle)
    pyscf_mlham.register(fallback="raise")
    pyscf_mlham.register()
    with pytest.raises(ModelError, match="'foo': neither a shipped model"):
        pyscf_mlham.register(model="foo", fallback="sap")
    mf = mole().RHF().set(init_guess="ml").run()
    assert mf.cycles == 1
    pyscf_mlham.register(model=None)
    with pytest.raises(ModelError):
        mf.get_init_guess(mf.mol, "ml")


def test_a_reloaded_module_does_not_hook_twice() -> None:
    pyscf_mlham.unregister()
    before = dict(vars(hf.SCF))
    pyscf_mlham.register()
    importlib.reload(hooks)
    hooks.register()
    hooks.unregister()
    assert dict(vars(hf.SCF)) == before


def test_a_density_with_the_wrong_number_of_electrons_is_refused() -> None:
    reference = mole().RHF().run()
    mf = mole().RHF()
    mf.get_occ = lambda energy, coeff: np.where(np.arange(len(energy)) < 4, 2.0, 0.0)
    with pytest.raises(pyscf_mlham.PredictionError, match=r"8\.000000 electrons instead of 10"):
        pyscf_mlham.guess(mf, OracleModel.of(reference), fallback="raise")


def test_guess_restores_the_occupations_of_the_object() -> None:
    triplet = mole("O 0 0 0; O 0 0 1.21", spin=2).UHF().run()
    mf = scf.addons.float_occ(mole("O 0 0 0; O 0 0 1.21", spin=0).UHF())
    pyscf_mlham.guess(mf, OracleModel.of(triplet), fallback="raise")
    assert mf.nelec == (8, 8)


def test_model_of_a_wrong_type_is_refused() -> None:
    with pytest.raises(ModelError, match="3 is not a model"):
        pyscf_mlham.guess(mole().RHF(), 3, fallback="raise")


def test_without_registration_ml_is_silently_minao() -> None:
    """Why the hook is needed at all: PySCF takes any unknown word for minao."""
    pyscf_mlham.unregister()
    mf = mole().RHF()
    np.testing.assert_array_equal(mf.get_init_guess(mf.mol, "ml"), mf.get_init_guess(mf.mol, "minao"))


@pytest.mark.parametrize("key", ["minao", "atom", "1e", "huckel", "vsap"])
def test_other_guesses_are_untouched(key: str) -> None:
    mf = mole().RKS(xc="b3lyp")
    with_hook = mf.get_init_guess(mf.mol, key)
    pyscf_mlham.unregister()
    np.testing.assert_array_equal(with_hook, mf.get_init_guess(mf.mol, key))
    given = np.eye(18)
    assert hf.SCF.get_init_guess(mf, mf.mol, given) is given


def test_names_of_the_learned_guess() -> None:
    assert all(is_ml(key) for key in ("ml", "ML", "ml:b3lyp-svp", "ml:/a/Path"))
    assert not any(is_ml(key) for key in ("minao", "mlx", "", None, np.eye(2)))


def test_unknown_fallbacks_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown fallback 'nothing'"):
        pyscf_mlham.register(fallback="nothing")
    with pytest.raises(ValueError, match="unknown fallback 'ml'"):
        pyscf_mlham.guess(mole().RHF(), fallback="ml")


def test_import_is_light() -> None:
    code = "import pyscf_mlham, sys; sys.exit(any(m in sys.modules for m in ('torch', 'e3nn', 'ase', 'rich')))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_oracle_guess_needs_neither_torch_nor_e3nn() -> None:
    code = (
        "import sys, pyscf, pyscf_mlham\n"
        "mf = pyscf.M(atom='H 0 0 0; F 0 0 0.92', verbose=0).RHF().run()\n"
        "pyscf_mlham.guess(mf, pyscf_mlham.OracleModel.of(mf), fallback='raise')\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fock_builds_are_cycles_plus_two() -> None:
    mf = mole().RKS(xc="b3lyp")
    with counting_fock_builds(mf) as counter:
        mf.run()
    assert counter.builds == mf.cycles + 2
    assert "get_veff" not in vars(mf)
    second_order = mole(ETHYLENE).RHF().newton()
    with counting_fock_builds(second_order) as counter:
        second_order.run()
    assert counter.builds > second_order.cycles
    overridden = mole().RHF()
    overridden.get_veff = own = lambda *args, **kwargs: scf.hf.RHF.get_veff(overridden, *args, **kwargs)
    with counting_fock_builds(overridden) as counter:
        overridden.run()
    assert counter.builds == overridden.cycles + 2
    assert overridden.get_veff is own
    assert isinstance(second_order._scf, scf.hf.RHF)
    assert not isinstance(second_order._scf, dft.rks.RKS)
