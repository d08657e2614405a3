"""accelerate(): the same answer from two or three full Fock builds, whatever the method."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import pyscf_mlham
from pyscf_mlham import OracleModel, accelerate
from pyscf_mlham.field import COARSE
from pyscf_mlham.scf.counting import counting_fock_builds
from support.molecules import ETHYLENE, NO2, WATER, mole

OXYGEN = "O 0 0 0; O 0 0 1.21"


def small_nonlocal_grid(mf: Any) -> Any:
    mf.nlcgrids.level = 0
    return mf


METHODS: dict[str, tuple[Callable[[], Any], int]] = {
    "RHF": (lambda: mole(ETHYLENE).RHF(), 2),
    "RKS PBE": (lambda: mole(ETHYLENE).RKS(xc="pbe"), 2),
    "RKS B3LYP": (lambda: mole(ETHYLENE).RKS(xc="b3lyp"), 2),
    "RKS M06-2X": (lambda: mole(ETHYLENE).RKS(xc="m062x"), 2),
    "RKS wB97X-V": (lambda: small_nonlocal_grid(mole().RKS(xc="wb97x-v")), 2),
    "RKS HSE06": (lambda: mole().RKS(xc="hse06"), 2),
    "RKS tight": (lambda: mole().RKS(xc="b3lyp").set(conv_tol=1e-12), 3),
    "RKS loose gradient": (lambda: mole(ETHYLENE).RKS(xc="b3lyp").set(conv_tol_grad=0.1), 2),
    "RKS in def2-TZVP": (lambda: mole(basis="def2-tzvp").RKS(xc="b3lyp"), 2),
    "RKS cartesian": (lambda: mole(cart=True).RKS(xc="b3lyp"), 2),
    "RKS direct": (lambda: mole(max_memory=1).RKS(xc="b3lyp"), 2),
    "RKS level shift": (lambda: mole().RKS(xc="b3lyp").set(level_shift=0.3), 2),
    "RKS stretched": (lambda: mole("N 0 0 0; N 0 0 2.0").RKS(xc="b3lyp"), 2),
    "RKS ionic": (lambda: mole("Li 0 0 0; F 0 0 4").RKS(xc="b3lyp"), 2),
    "RKS ECP": (lambda: mole("I 0 0 0; H 0 0 1.6", "def2-svp", ecp={"I": "def2-svp"}).RKS(xc="b3lyp"), 3),
    "RKS phosphorus": (lambda: mole("P 0 0 0; H 0 1.2 0.77; H 1.03 -0.6 0.77; H -1.03 -0.6 0.77").RKS(xc="b3lyp"), 2),
    "UHF": (lambda: mole(NO2, spin=1).UHF(), 2),
    "UKS": (lambda: mole(NO2, spin=1).UKS(xc="b3lyp"), 2),
    "UKS triplet": (lambda: mole(OXYGEN, spin=2).UKS(xc="b3lyp"), 2),
    "UKS closed shell": (lambda: mole().UKS(xc="b3lyp"), 2),
    "ROHF": (lambda: mole(NO2, spin=1).ROHF(), 2),
    "ROKS": (lambda: mole(NO2, spin=1).ROKS(xc="b3lyp"), 2),
    "density_fit": (lambda: mole().RKS(xc="b3lyp").density_fit(), 2),
    "density_fit RHF": (lambda: mole(ETHYLENE).RHF().density_fit(), 3),
    "density_fit UKS": (lambda: mole(NO2, spin=1).UKS(xc="b3lyp").density_fit(), 3),
    "PCM": (lambda: mole().RKS(xc="b3lyp").PCM(), 2),
    "sfx2c1e": (lambda: mole().RKS(xc="b3lyp").sfx2c1e(), 2),
    "symmetry": (lambda: mole(symmetry=True).RKS(xc="b3lyp"), 2),
    "symmetry ROKS": (lambda: mole(symmetry=True, charge=1, spin=1).ROKS(xc="b3lyp"), 2),
    "symmetry UKS": (lambda: mole(symmetry=True, charge=1, spin=1).UKS(xc="b3lyp"), 2),
}


@functools.cache
def exact(name: str) -> Any:
    return METHODS[name][0]().run()


@pytest.mark.parametrize("name", METHODS)
def test_same_solution_from_few_builds(name: str) -> None:
    (factory, builds), plain = METHODS[name], exact(name)
    quick = accelerate(factory())
    with counting_fock_builds(quick) as counter:
        quick.run()
    assert quick.converged
    assert counter.builds == quick.full_builds == quick.cycles <= builds
    assert quick.e_tot == pytest.approx(plain.e_tot, abs=1e-8)
    assert quick.spin_square()[0] == pytest.approx(plain.spin_square()[0], abs=1e-4)
    np.testing.assert_allclose(quick.mo_energy, plain.mo_energy, atol=1e-4)
    np.testing.assert_array_equal(quick.mo_occ, plain.mo_occ)
    fock = quick.get_fock(dm=quick.make_rdm1())  # get_grad by itself forgets the solvent
    assert np.linalg.norm(quick.get_grad(quick.mo_coeff, quick.mo_occ, fock)) < np.sqrt(quick.conv_tol)


@pytest.mark.parametrize("spin", [0, 2])
def test_a_start_better_than_the_coarse_field_is_left_as_it_is(spin: int) -> None:
    def make() -> Any:
        return getattr(mole(ETHYLENE, "6-31g", spin=spin), "UKS" if spin else "RKS")(xc="b3lyp")

    plain = make().set(conv_tol=1e-11).run()
    quick = accelerate(make())
    quick.kernel(dm0=np.array(plain.make_rdm1()))
    assert (quick.full_builds, quick.coarse_builds) == (1, 1)  # the full field finds nothing to correct
    assert quick.e_tot == pytest.approx(plain.e_tot, abs=1e-9)
    rough = accelerate(make())
    rough.kernel(dm0=rough.get_init_guess(key="minao"))
    assert rough.coarse_builds == rough.coarse_cycles > 1  # the former name


def test_max_cycle_is_a_limit_on_full_builds() -> None:
    quick = accelerate(mole(ETHYLENE).RKS(xc="b3lyp").set(max_cycle=1)).run()
    assert quick.full_builds == 1
    assert not quick.converged
    assert np.isfinite(quick.e_tot)


@pytest.mark.parametrize("name", ["RKS B3LYP", "RHF", "UKS", "ROKS", "density_fit", "PCM"])
def test_energy_is_nearly_exact_after_one_build(name: str) -> None:
    plain, quick = exact(name), accelerate(METHODS[name][0](), builds=1).run()
    assert quick.full_builds == 1
    # a density-fitted object meets the criteria after one
    assert quick.converged == (name == "density_fit")
    assert abs(quick.e_tot - plain.e_tot) < max(quick.energy_error, 1e-9)
    assert quick.energy_error < 1e-5
    np.testing.assert_allclose(quick.mo_energy, plain.mo_energy, atol=2e-3)
    converged = accelerate(quick).run()
    assert converged.converged
    assert converged.e_tot == pytest.approx(plain.e_tot, abs=1e-8)


@pytest.mark.parametrize(
    "atom",
    [
        "H 0 0 -1.06; C 0 0 0; N 0 0 1.15",
        "C 0.16 0.39 0; O 1.2 0.25 0; N -0.56 -0.7 0; H -0.4 1.4 0; H -0.1 -1.6 0; H -1.56 -0.7 0",
    ],
)
def test_fitted_hartree_fock_needs_one_full_build(atom: str) -> None:
    """Its response, with all of the exchange in a minimal basis, leaves more than those of functionals."""
    mf = accelerate(mole(atom, basis="6-31g").RHF().density_fit()).run()
    assert (mf.converged, mf.full_builds) == (True, 1)
    assert mf.single_builds <= 2


def test_levels_are_attributes_of_the_object() -> None:
    mf = accelerate(mole(ETHYLENE).RKS(xc="b3lyp").density_fit()).set(verbose=4, stdout=io.StringIO())
    mf.set(coarse_level=replace(COARSE, grid=3), single_precision=False).run()
    assert "multilevel SCF: coarse level fitted in def2-universal-jfit (def2-universal-jkfit" in mf.stdout.getvalue()
    assert "grid level 3" in mf.stdout.getvalue()
    assert (mf.converged, mf.single_builds, mf.full_builds) == (True, 0, 2)
    energy = mf.e_tot
    mf.run(coarse_level=COARSE, single_precision=True, mo_coeff=None)
    assert (mf.converged, mf.single_builds, mf.full_builds) == (True, 1, 1)
    assert mf.e_tot == pytest.approx(energy, abs=1e-8)


def test_the_original_is_left_alone() -> None:
    mf = mole().RKS(xc="b3lyp")
    before = {name: dict(value) if isinstance(value, dict) else value for name, value in vars(mf).items()}
    quick = accelerate(mf).run()
    assert vars(mf) == before
    assert accelerate(quick) is quick
    plain = quick.undo_accelerate()
    assert type(plain) is type(mf)
    assert plain.kernel() == pytest.approx(quick.e_tot, abs=1e-8)
    assert plain.cycles == 1


def test_gradients_and_correlation_after_multilevel_scf() -> None:
    plain, quick = mole().RKS(xc="b3lyp").run(), accelerate(mole().RKS(xc="b3lyp")).run()
    gradients = [mf.nuc_grad_method().kernel() for mf in (plain, quick)]
    np.testing.assert_allclose(*gradients, atol=1e-6)
    roots = [mf.TDA().run(nstates=6).e[:3] for mf in (plain, quick)]
    np.testing.assert_allclose(*roots, atol=1e-5)
    assert quick.stability(verbose=0)[0] is not None
    np.testing.assert_allclose(quick.dip_moment(verbose=0), plain.dip_moment(verbose=0), atol=1e-4)
    hf, quick_hf = mole().RHF().run(), accelerate(mole().RHF()).run()
    assert quick_hf.MP2().run().e_tot == pytest.approx(hf.MP2().run().e_tot, abs=1e-6)  # first order in the orbitals
    second_order = accelerate(mole().RHF()).newton()
    assert not hasattr(second_order, "full_builds")  # it is PySCF's, and does not pretend to be more
    assert second_order.run().e_tot == pytest.approx(hf.e_tot, abs=1e-8)


def test_scanner_and_geometry_steps() -> None:
    moved = mole(WATER.replace("0.1173", "0.1300"))
    scanner = accelerate(mole().RKS(xc="b3lyp")).as_scanner()
    for mol in (mole(), moved):
        assert scanner(mol) == pytest.approx(mol.RKS(xc="b3lyp").kernel(), abs=1e-8)
        assert scanner.full_builds <= 2
    gradient = accelerate(mole().RKS(xc="b3lyp")).nuc_grad_method().as_scanner()
    energy, force = gradient(moved)
    plain = moved.RKS(xc="b3lyp").run()
    assert energy == pytest.approx(plain.e_tot, abs=1e-8)
    np.testing.assert_allclose(force, plain.nuc_grad_method().kernel(), atol=1e-6)


def test_callback_checkpoint_and_own_criteria(tmp_path: Any) -> None:
    seen: list[float] = []
    mf = mole().RKS(xc="b3lyp")
    mf.chkfile = str(tmp_path / "water.chk")
    mf.callback = lambda envs: seen.append(envs["norm_gorb"])
    quick = accelerate(mf).run()
    assert len(seen) == quick.full_builds
    assert seen[-1] < 3.2e-5
    again = mole().RKS(xc="b3lyp")
    again.kernel(dm0=again.from_chk(mf.chkfile))
    assert again.cycles == 1
    mf.check_convergence = lambda envs: envs["norm_ddm"] < 1e-10 and envs["norm_gorb"] < envs["conv_tol_grad"]
    assert accelerate(mf).run().full_builds > quick.full_builds


# of PySCF's kernel, where it calls back
NAMES = [
    "mf", "mol", "cycle", "e_tot", "last_hf_e", "mo_energy", "mo_coeff", "mo_occ", "dm", "dm_last", "norm_ddm",
    "vhf", "fock", "fock_last", "norm_gorb", "h1e", "s1e", "x_orth", "conv_tol", "conv_tol_grad", "cput0",
    "cput1", "mf_diis", "scf_conv",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["RKS", "UKS", "ROKS"])
def test_callbacks_get_what_pyscfs_kernel_gives_them(kind: str) -> None:
    def made() -> Any:
        mf = getattr(mole(charge=int(kind != "RKS"), spin=int(kind != "RKS")), kind)(xc="pbe")
        mf.callback = lambda envs: seen.append({name: envs[name] for name in NAMES})
        return mf

    seen: list[dict[str, Any]] = []
    made().run()
    theirs, start = seen[0], made().get_init_guess()
    seen.clear()
    quick = accelerate(made()).run()
    for ours in seen:
        assert {name: np.shape(ours[name]) for name in NAMES} == {name: np.shape(theirs[name]) for name in NAMES}
        assert ours["norm_ddm"] == pytest.approx(np.linalg.norm(ours["dm"] - ours["dm_last"]))
        assert ours["cput0"] <= ours["cput1"]
    np.testing.assert_array_equal(seen[0]["dm_last"], start)
    np.testing.assert_array_equal(seen[1]["dm_last"], seen[0]["dm"])
    assert [ours["e_tot"] - ours["last_hf_e"] for ours in seen] == [0, seen[1]["e_tot"] - seen[0]["e_tot"]]
    assert [ours["scf_conv"] for ours in seen] == [False, True]
    assert quick.converged


@pytest.mark.parametrize("kind", ["RKS", "UKS", "ROKS"])
def test_the_summary_is_that_of_pyscf(kind: str) -> None:
    mf = getattr(mole(charge=int(kind != "RKS"), spin=int(kind != "RKS")), kind)(xc="pbe")
    quick = accelerate(mf).run().scf_summary
    plain = mf.run().scf_summary
    assert quick == pytest.approx(plain, abs=1e-4)
    assert accelerate(mf, builds=1).run().scf_summary.keys() == plain.keys()


def test_a_potential_of_the_users_own() -> None:
    def embedded(mf: Any) -> Any:
        own, shift = mf.get_veff, 0.02 * mf.get_ovlp() ** 2
        mf.get_hcore = lambda *args: type(mf).get_hcore(mf) + shift
        mf.get_veff = lambda mol=None, dm=None, *args, **kwargs: own(mol, dm, *args, **kwargs)
        return mf

    quick = accelerate(embedded(mole().RHF())).run()
    assert quick.e_tot == pytest.approx(embedded(mole().RHF()).run().e_tot, abs=1e-8)
    assert quick.full_builds == quick.cycles == 2


def test_a_criterion_of_change_is_not_met_by_the_first_build() -> None:
    mf = mole().RHF().set(check_convergence=lambda envs: abs(envs["e_tot"] - envs["last_hf_e"]) < 1e-3)
    assert accelerate(mf).run().full_builds == 2


def test_multilevel_scf_converges_from_every_start() -> None:
    reference = mole().RKS(xc="b3lyp").run()
    pyscf_mlham.register(model=OracleModel.of(reference), fallback="raise")
    for start in ("minao", "1e", "ml"):
        quick = accelerate(mole().RKS(xc="b3lyp").set(init_guess=start)).run()
        assert quick.e_tot == pytest.approx(reference.e_tot, abs=1e-8)
        assert quick.full_builds == (1 if start == "ml" else 2)  # the oracle leaves nothing to do
    from_density = accelerate(mole().RKS(xc="b3lyp"))
    from_density.kernel(dm0=reference.make_rdm1())
    assert from_density.e_tot == pytest.approx(reference.e_tot, abs=1e-8)
    from_density.kernel()  # a second one starts from its own orbitals
    assert from_density.converged
    complex_start = accelerate(mole().RHF().set(verbose=3, stdout=io.StringIO()))
    complex_start.kernel(dm0=mole().RHF().run().make_rdm1() + 0j)
    assert "is complex" in complex_start.stdout.getvalue()


def test_log_is_clean_at_any_verbosity() -> None:
    quick = accelerate(mole().RKS(xc="b3lyp").set(verbose=9, stdout=io.StringIO())).run()
    printed = quick.stdout.getvalue()
    assert printed.count("full build ") == quick.full_builds
    assert "does not have attributes" not in printed
    assert "overwritten attributes" not in printed.lower()
    assert "converged SCF energy" in printed
    assert f"multilevel SCF: {quick.full_builds} full Fock builds, {quick.coarse_builds} coarse, " in printed


RING = [(np.cos(a), np.sin(a), z) for a in 2 * np.pi * np.arange(5) / 5 for z in (1.65, -1.65)]
RINGS = [(s, (r * x, r * y, z)) for s, r in (("C", 1.21), ("H", 2.29)) for x, y, z in RING]
CARBONYLS = [(s, r * axis) for s, r in (("C", 1.91), ("O", 3.06)) for axis in (*np.eye(3), *-np.eye(3))]


@pytest.mark.slow
@pytest.mark.parametrize(("metal", "ligands"), [("Fe", RINGS), ("Cr", CARBONYLS)])
def test_transition_metals(metal: str, ligands: list[Any]) -> None:
    atoms = [(metal, (0, 0, 0)), *ligands]
    plain, quick = mole(atoms, "def2-svp").RKS(xc="b3lyp").run(), accelerate(mole(atoms, "def2-svp").RKS(xc="b3lyp"))
    with counting_fock_builds(quick) as counter:
        quick.run()
    assert quick.converged
    assert quick.e_tot <= plain.e_tot + 1e-8
    assert counter.builds <= plain.cycles


def test_wrong_arguments_are_errors() -> None:
    with pytest.raises(ValueError, match="builds"):
        accelerate(mole().RHF(), builds=0)
    for decorate in (accelerate, pyscf_mlham.track):
        with pytest.raises(TypeError, match=r"expected a mean-field object.*got Mole"):
            decorate(mole())
