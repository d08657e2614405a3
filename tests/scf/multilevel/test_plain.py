"""accelerate() where the cheaper levels do not serve: plain SCF converges, and the log has the reason."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pyscf
import pytest
from pyscf import ao2mo, lib, scf

from pyscf_mlham import accelerate
from pyscf_mlham.errors import ResourceError
from pyscf_mlham.field import Level, ResponseField
from pyscf_mlham.scf.counting import counting_fock_builds
from pyscf_mlham.scf.multilevel import climb, ladder, levels, mixin
from support.molecules import ETHYLENE, NO2, WATER, mole


def tilted(mf: Any) -> Any:
    """A user's own get_fock, which changes the solution."""
    get_fock, extra = mf.get_fock, 0.3 * np.outer(mf.get_ovlp()[0], mf.get_ovlp()[0])

    def own(h1e: Any = None, *args: Any, **kwargs: Any) -> Any:
        return get_fock((mf.get_hcore() if h1e is None else h1e) + extra, *args, **kwargs)

    mf.get_fock = own
    return mf


class Chain(scf.hf.RHF):
    """Hubbard's model of six sites, a Hamiltonian without atoms."""

    def get_hcore(self, *args: Any) -> Any:
        return -np.eye(6, k=1) - np.eye(6, k=-1)

    def get_ovlp(self, *args: Any) -> Any:
        return np.eye(6)


def chain() -> Any:
    mol = pyscf.M(verbose=0)
    mol.nelectron, mol.incore_anyway = 6, True
    repulsion = np.einsum("ip,iq,ir,is->pqrs", *[np.eye(6)] * 4)
    return Chain(mol).set(init_guess="1e", _eri=ao2mo.restore(8, repulsion, 6))


PLAIN: dict[str, tuple[Callable[[], Any], str]] = {
    "generalised": (lambda: mole().GHF(), "has no coarse level"),
    "smearing": (lambda: scf.addons.smearing(mole().RKS(xc="pbe"), sigma=0.02), "smeared"),
    "fractional occupations": (lambda: scf.addons.frac_occ(mole("B 0 0 0", spin=1).UHF()), "get_occ"),
    "without atoms": (chain, "without atoms"),
    "own Fock matrix": (lambda: tilted(mole().RHF()), "get_fock"),
    "own kernel hook": (lambda: mole().RKS(xc="pbe").COSX(), "pre_kernel"),
    "without DIIS": (lambda: mole().RHF().set(diis=None, max_cycle=60), "DIIS is switched off"),
    "nothing to do": (lambda: mole().RHF().set(max_cycle=0), "nothing to iterate"),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_scf_runs_if_multilevel_is_not_applicable(name: str) -> None:
    factory, reason = PLAIN[name]
    plain = factory().run()
    quick = accelerate(factory().set(verbose=3, stdout=io.StringIO())).run()
    assert reason in quick.stdout.getvalue()
    assert "verwritten attributes" not in quick.stdout.getvalue() or vars(plain).keys() & {"get_occ", "get_fock"}
    assert quick.full_builds == (plain.cycles + 1 + plain.converged if plain.max_cycle else 1)
    assert quick.e_tot == pytest.approx(plain.e_tot, abs=1e-8)
    assert quick.converged == plain.converged


@pytest.mark.parametrize("second_order", [True, False])
def test_a_hopeless_coarse_level_costs_one_build_at_most(second_order: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    useless = Level("useless", "def2-universal-jfit", "def2-universal-jfit", 0)
    monkeypatch.setattr(ladder, "EXACT", (("coarse",),))
    monkeypatch.setattr(levels, "FULL_SLOW", 0.0)  # no progress is ever enough
    monkeypatch.setattr(climb, "FULL_STEPS", climb.FULL_STEPS if second_order else 0)
    quick = accelerate(mole().RKS(xc="b3lyp")).set(verbose=3, stdout=io.StringIO(), coarse_level=useless)
    quick.conv_tol = 1e-13  # so that two builds cannot do it
    plain = mole().RKS(xc="b3lyp").set(conv_tol=1e-13)
    with counting_fock_builds(plain) as expected:
        plain.run()
    with counting_fock_builds(quick) as counter:
        quick.run()
    assert ("plain SCF continues from the best density" in quick.stdout.getvalue()) == (not second_order)
    assert quick.converged
    assert quick.e_tot == pytest.approx(plain.e_tot, abs=1e-8)
    assert counter.builds == quick.full_builds <= expected.builds + 1


def test_the_second_order_solver_is_for_where_two_levels_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    energy, log = mole().RHF().kernel(), io.StringIO()
    mf = accelerate(mole().RHF().newton()).set(stdout=log, verbose=4)
    assert mf.kernel() == pytest.approx(energy, abs=1e-8)
    assert mf.full_builds <= 3
    assert "ah_start_tol" in log.getvalue()  # among the settings
    assert "the second-order solver" in log.getvalue()
    assert "def2-universal-jfit (def2-universal-jkfit for elements with cores)" in log.getvalue()
    monkeypatch.setattr(mixin, "climb", hopeless)
    mf = accelerate(mole().RHF().newton()).set(stdout=log, verbose=4)
    assert mf.kernel() == pytest.approx(energy, abs=1e-8)
    assert "macro= " in log.getvalue()  # words of the second-order solver


@pytest.mark.usefixtures("no_room")
def test_without_room_for_fitted_integrals_plain_scf_serves() -> None:
    plain, log = mole().RKS(xc="b3lyp").run(), io.StringIO()
    mf = accelerate(mole().RKS(xc="b3lyp")).set(stdout=log, verbose=3)
    assert mf.kernel() == pytest.approx(plain.e_tot, abs=1e-10)
    assert (mf.cycles, mf.full_builds) == (plain.cycles, plain.cycles + 2)
    assert "PYSCF_TMPDIR" in log.getvalue()


def test_without_a_response_level_the_log_has_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("no derivatives")

    monkeypatch.setattr(ladder.ResponseField, "__init__", broken)
    plain, log = mole().RHF().run(), io.StringIO()
    quick = accelerate(mole().RHF()).set(stdout=log, verbose=3).run()
    assert quick.e_tot == pytest.approx(plain.e_tot, abs=1e-8)
    assert quick.full_builds <= 3
    assert "no response level" in log.getvalue()
    assert "KeyError: 'no derivatives'" in log.getvalue()


def test_no_room_after_the_first_full_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that is close needs no field at first."""
    mf = mole().RKS(xc="b3lyp").run()
    moved = mole(WATER.replace("0.1173", "0.1183")).RKS(xc="b3lyp")
    start = lib.tag_array(mf.make_rdm1(), mo_coeff=mf.mo_coeff, mo_occ=mf.mo_occ, close=True)

    def no_room(*_: Any) -> None:
        raise ResourceError("no room")

    monkeypatch.setattr(ladder.ResponseField, "__init__", no_room)
    monkeypatch.setattr(ladder.CoarseField, "__init__", no_room)
    quick = accelerate(moved.copy())
    assert quick.kernel(start) == pytest.approx(moved.kernel(), abs=1e-8)
    assert quick.converged


def hopeless(full: Any, ladder: Any, orbitals: Any, *_: Any) -> levels.Outcome:
    """Give up after the first full build."""
    return levels.Outcome(full.build(orbitals), "the cheaper levels are useless")


@pytest.mark.parametrize("name", ["not applicable", "fails", "converges"])
def test_flags_are_printed_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mf = mole().GHF() if name == "not applicable" else mole().RKS(xc="pbe")
    quick = accelerate(mf).set(verbose=4, stdout=io.StringIO())
    if name == "fails":
        monkeypatch.setattr(mixin, "climb", hopeless)
    quick.run()
    assert quick.converged
    assert bool(quick.plain_reason) == (name != "converges")
    assert quick.stdout.getvalue().count("initial guess = minao") == 1
    quick.dump_flags()
    assert quick.stdout.getvalue().count("initial guess = minao") == 2


@pytest.mark.parametrize("kind", ["RKS", "UKS"])
def test_an_scf_that_does_not_converge(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixin, "climb", hopeless)
    mol = mole(ETHYLENE) if kind == "RKS" else mole(NO2, spin=1)
    for limit in (1, 4):
        quick = accelerate(getattr(mol, kind)(xc="pbe")).set(conv_tol=1e-13, max_cycle=limit)
        quick.set(verbose=3, stdout=io.StringIO()).run()
        printed = quick.stdout.getvalue()
        assert not quick.converged
        assert quick.cycles == quick.max_cycle == limit
        assert kind == "RKS" or f"after {limit} cycles" in printed
        assert "mf.newton()" in printed
        assert "mf.level_shift" in printed


def test_plain_scf_starts_again_if_the_best_density_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, starts = mixin._MultilevelSCF._decorated, []

    def lost_once(self: Any, dm0: Any, **kwargs: Any) -> float:
        starts.append(dm0)
        if len(starts) > 1:
            return plain(self, dm0, **kwargs)
        self.converged, self.cycles = False, 49
        return 0.0

    monkeypatch.setattr(mixin, "climb", hopeless)
    monkeypatch.setattr(mixin._MultilevelSCF, "_decorated", lost_once)
    quick = accelerate(mole().RHF()).run()
    assert quick.converged
    assert quick.e_tot == pytest.approx(mole().RHF().run().e_tot, abs=1e-8)
    assert len(starts) == 2
    assert starts[1] is None


def test_a_response_level_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that cannot be made, for want of second derivatives or memory, costs builds and nothing else."""
    tried, with_kernel = [], ResponseField.with_kernel

    def failing(self: ResponseField, factors: Any, rough: bool = False) -> ResponseField:
        if rough:
            return with_kernel(self, factors, rough)
        tried.append(1)
        raise NotImplementedError("no derivatives")

    monkeypatch.setattr(ResponseField, "with_kernel", failing)
    plain, log = mole(ETHYLENE).RKS(xc="b3lyp").run(), io.StringIO()
    mf = accelerate(mole(ETHYLENE).RKS(xc="b3lyp"))
    mf.stdout, mf.verbose = log, 3
    assert mf.kernel() == pytest.approx(plain.e_tot, abs=1e-8)
    assert log.getvalue().count("no response level") == len(tried) == 1
