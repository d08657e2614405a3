"""Guesses from earlier geometries: which of them are kept and used, and how good the guesses are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pyscf import gto
from scipy.spatial.transform import Rotation

import pyscf_mlham
from pyscf_mlham import History, track
from pyscf_mlham.track.history import JUMP, STRATEGIES
from support.models import Rough
from support.molecules import WATER, assert_close, mole
from support.paths import path, rotated, with_grid


@pytest.mark.parametrize("name", ["RHF", "RKS", "UHF", "ROHF", "density_fit"])
@pytest.mark.parametrize("cart", [False, True])
@pytest.mark.usefixtures("cheaper_levels")
def test_a_geometry_seen_before_takes_one_cycle_in_any_position(name: str, cart: bool) -> None:
    ion = {"charge": 1, "spin": 1} if name in ("UHF", "ROHF") else {}
    mol = mole(cart=cart, basis="6-31g*", **ion)
    mf = track(mol.RHF().density_fit() if name == "density_fit" else getattr(mol, name)()).as_scanner()
    energy = mf(mol)
    assert mf.cycles > 3
    for again in (mol, rotated(mol)):
        assert mf(again) == pytest.approx(energy, abs=1e-7 if name != "RKS" else 1e-5)  # the grid does not rotate
        assert mf.cycles == 1 or name == "RKS"
        assert mf.cycles <= 2
    occupied = mf.history.guess(mf)
    assert_close(occupied, mf.make_rdm1(), 2e-4 if name == "RKS" else 2e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.usefixtures("cheaper_levels")
def test_same_energies_and_fewer_cycles_along_a_path(strategy: str) -> None:
    scanner = track(mole().RHF(), strategy).as_scanner()
    plain, plain_cycles = mole().RHF().as_scanner(), []
    cycles, errors = [], []
    for mol in path(9):
        assert scanner(mol) == pytest.approx(plain(mol), abs=1e-8)
        plain_cycles.append(plain.cycles)
        cycles.append(scanner.cycles)
        errors.append(scanner.history.error)
    if strategy == "last":
        assert cycles == plain_cycles
    if strategy == "aspc":
        assert sum(cycles) < sum(plain_cycles)
    if strategy in ("fit", "reversible"):
        assert sum(cycles[4:]) <= 0.6 * sum(plain_cycles[4:])
        assert max(errors[5:]) < 1e-2 * errors[1]


@pytest.mark.parametrize("kind", [lambda mol: with_grid(mol.UKS(xc="pbe"), 0), lambda mol: mol.ROHF()])
def test_open_shells_need_fewer_cycles(kind: Callable[[gto.Mole], Any]) -> None:
    ion = {"charge": 1, "spin": 1, "basis": "6-31g"}
    scanner, plain = track(kind(mole(**ion))).as_scanner(), kind(mole(**ion)).as_scanner()
    for mol in path(6, **ion):
        assert scanner(mol) == pytest.approx(plain(mol), abs=1e-7)
    assert scanner.cycles < plain.cycles


def test_extrapolation_follows_a_rotating_molecule() -> None:
    """Rotation of a vibrating molecule costs nothing: every step is first rotated onto the new geometry."""
    errors = {}
    for name, angle in (("still", 0.0), ("tumbling", 0.7)):
        scanner = track(mole().RHF()).as_scanner()
        for k, mol in enumerate(path(6)):
            q = Rotation.from_rotvec([0, k * angle, 0.3 * k * angle]).as_matrix()
            scanner(mol.copy().set_geom_(mol.atom_coords() @ q.T, unit="Bohr"))
        errors[name] = scanner.history.error
    assert errors["tumbling"] < 5e-4
    assert errors["tumbling"] < 5 * errors["still"]


def test_a_model_helps_from_the_second_step_on() -> None:
    pyscf_mlham.register(model=Rough(), fallback="raise")
    scanners = {guess: track(mole().RHF().set(init_guess=guess)).as_scanner() for guess in ("minao", "ml")}
    errors = {guess: [(scan(mol), scan.history.error)[1] for mol in path(5)] for guess, scan in scanners.items()}
    assert errors["ml"][1] < 0.5 * errors["minao"][1]
    assert errors["ml"][2] < errors["minao"][2]


def test_a_model_that_fails_does_no_harm() -> None:
    class Failing(Rough):
        def correction(self, native: gto.Mole, h0: Any) -> Any:
            raise MemoryError("the GPU is full")

    pyscf_mlham.register(model=Failing())
    scanner = track(mole().RHF().set(init_guess="ml")).as_scanner()
    for mol in path(4):
        scanner(mol)
    assert scanner.converged
    assert scanner.history.error < 1e-2


def test_history_starts_again_after_a_jump_or_with_another_method() -> None:
    history = History()

    def run(mf: Any) -> int:
        track(mf, history).run()
        return len(history.steps)

    mol = mole()
    assert [run(mol.RHF()), run(path(2)[1].RHF())] == [1, 2]
    far = mol.copy().set_geom_(mol.atom_coords() + np.outer([0, 1, 0], [0, 2.2 * JUMP, 0]), unit="Bohr")
    assert run(far.RHF()) == 3
    assert np.isinf(history.error)  # without a guess, but the others are kept
    assert run(path(3)[2].RHF()) == 4
    assert np.isfinite(history.error)
    assert run(mol.RKS(xc="lda")) == 1
    assert run(mol.RKS(xc="lda")) == 1  # the same geometry
    assert run(path(2)[1].RKS(xc="lda")) == 2
    assert run(mole(basis="6-31g").RHF()) == 1
    assert run(mole(charge=1, spin=1).UHF()) == 1
    assert run(mole(WATER.replace("O", "S")).RHF()) == 1
    track(mol.GHF(), history).run()  # not supported
    assert len(history.steps) == 0 or np.isinf(history.error)


def test_memory_of_the_history_is_bounded() -> None:
    for mf, steps in ((track(mole().RHF(), History(depth=2)), 2), (track(mole().RHF().set(max_memory=0)), 1)):
        scanner = mf.as_scanner()
        for mol in path(4):
            scanner(mol)
        assert len(scanner.history.steps) == steps
    with pytest.raises(ValueError, match="unknown strategy 'best'"):
        track(mole().RHF(), "best")
    with pytest.raises(ValueError, match="a history keeps one step or more"):
        History(depth=0)


def test_history_uses_given_densities_and_keeps_no_failures() -> None:
    mf = track(mole().RHF()).run()
    mf.kernel(dm0=mf.get_init_guess(key="1e"))
    assert mf.cycles > 5
    assert np.isinf(mf.history.error)
    short = track(mole().RHF().set(max_cycle=1)).run()
    assert not short.history.steps
    assert mf.undo_track().__class__ is mole().RHF().__class__


def test_an_external_potential_is_part_of_the_method() -> None:
    """In a field of 0.1 a.u. the densities of free molecules are of no use, nor are those before the rotation."""

    def in_field(mol: gto.Mole, strength: float) -> Any:
        mf = mol.RHF()
        h = mf.get_hcore() + strength * mol.intor("int1e_r")[2]
        return mf.set(get_hcore=lambda *_: h) if strength else mf

    history, mols = History(), path(3)
    places = [(mols[0], 0.0, 1), (mols[1], 0.1, 1), (mols[2], 0.1, 2), (rotated(mols[2]), 0.1, 1), (mols[2], 0.0, 1)]
    for mol, strength, steps in places:
        exact = in_field(mol, strength).kernel()
        assert track(in_field(mol, strength), history).kernel() == pytest.approx(exact, abs=1e-8)
        assert len(history.steps) == steps
    track(mols[2].RHF().PCM(), history).run()
    assert len(history.steps) == 1


def test_steps_of_another_state_are_forgotten() -> None:
    mf = track(mole(basis="6-31g").RHF()).run()
    excited = np.array(mf.mo_occ)
    excited[[4, 5]] = 0, 2
    ground, mo = mf.history.steps[0], mf.mo_coeff
    mf.mo_occ = excited
    mf.history.record(mf)
    assert len(mf.history.steps) == 1
    assert np.abs(mf.history.steps[0].density - ground.density).max() > 0.1
    assert_close(mf.history.guess(mf), mf.make_rdm1(mo, excited), 1e-8)


def test_two_conformers_in_turn_do_not_forget_each_other() -> None:
    """One is far from the other; each is close to what it was before."""
    mols = path(6)
    far = np.outer([0, 1, 0], [0, 2.2 * JUMP, 0])
    mols = [mol.copy().set_geom_(mol.atom_coords() + k % 2 * far, unit="Bohr") for k, mol in enumerate(mols)]
    scanner, plain, cycles = track(mole().RHF()).as_scanner(), mole().RHF().as_scanner(), []
    for mol in mols:
        assert scanner(mol) == pytest.approx(plain(mol), abs=1e-8)
        cycles.append((scanner.cycles, plain.cycles))
    assert len(scanner.history.steps) == 6
    assert all(own <= other - 3 for own, other in cycles[4:])


def test_expected_errors_follow_the_distance() -> None:
    """From steps of one size to one that is ten times larger: the last error is no measure of the next."""
    history, mols = History(), path(4)
    for mol in mols:
        track(mol.RHF(), history).run()
    moves = 10 * (mols[3].atom_coords() - mols[2].atom_coords())
    mf = track(mols[3].set_geom_(mols[3].atom_coords() + moves, unit="Bohr", inplace=False).RHF(), history)
    expected = history.guess(mf).error
    last = history.error
    mf.run()
    assert history.error > 10 * last
    assert history.error / 5 < expected < 5 * history.error
