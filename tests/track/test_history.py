"""Guesses from earlier geometries: exact where they can be, better than the rivals, never in the way."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyscf.md
import pytest
from pyscf import gto
from scipy.spatial.transform import Rotation

import pyscf_mlham
from pyscf_mlham import History, accelerate, track
from pyscf_mlham.field import COARSE, CoarseField, ResponseField
from pyscf_mlham.scf.counting import counting_fock_builds
from pyscf_mlham.track import extrapolation
from pyscf_mlham.track.history import JUMP, REUSED, STRATEGIES
from support.models import Rough
from support.molecules import WATER, assert_close, mole

VELOCITY = np.random.default_rng(1).normal(size=(3, 3)) * 0.02  # Bohr per step


def path(steps: int, **kwargs: Any) -> list[gto.Mole]:
    """Water on a smooth, slightly bent path."""
    start = mole(**kwargs)
    places = [start.atom_coords() + k * VELOCITY + 1e-3 * k * k * VELOCITY[::-1] for k in range(steps)]
    return [start.copy().set_geom_(x, unit="Bohr") for x in places]


def turned(mol: gto.Mole) -> gto.Mole:
    q = Rotation.from_rotvec([0.4, -1.1, 2.0]).as_matrix()
    return mol.copy().set_geom_(mol.atom_coords() @ q.T + [0.3, 0, -2], unit="Bohr")


def test_aligned_geometries_and_densities() -> None:
    mol = mole()
    x, there = mol.atom_coords(), turned(mol).atom_coords()
    rotation, moved = extrapolation.aligned(x, there)
    assert_close(moved, there, 1e-7)
    assert np.linalg.det(rotation) == pytest.approx(1)
    assert extrapolation.largest_move(x, there) < 1e-7
    assert extrapolation.largest_move(x, x + np.outer([1, 0, 0], [0, 0, 0.5])) == pytest.approx(1 / 3, abs=0.01)
    rod = np.outer([0.0, 1.0, 2.0], [0, 0, 1])
    assert_close(extrapolation.aligned(rod, rod + 1)[0], np.eye(3), 1e-6)  # no turn about the axis
    tilted, _ = extrapolation.aligned(rod, rod @ Rotation.from_rotvec([0.3, 0, 0]).as_matrix().T)
    assert_close(tilted, Rotation.from_rotvec([0.3, 0, 0]).as_matrix(), 1e-6)


@pytest.fixture
def cheaper_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes molecules of few AOs use the cheaper levels, as larger ones do."""
    monkeypatch.setitem(vars(sys.modules["pyscf_mlham.track.mixin"]), "SMALL", 0)


@pytest.mark.parametrize("name", ["RHF", "RKS", "UHF", "ROHF", "density_fit"])
@pytest.mark.parametrize("cart", [False, True])
@pytest.mark.usefixtures("cheaper_levels")
def test_a_geometry_seen_before_takes_one_cycle_wherever_it_lies(name: str, cart: bool) -> None:
    ion = {"charge": 1, "spin": 1} if name in ("UHF", "ROHF") else {}
    mol = mole(cart=cart, basis="6-31g*", **ion)
    mf = track(mol.RHF().density_fit() if name == "density_fit" else getattr(mol, name)()).as_scanner()
    energy = mf(mol)
    assert mf.cycles > 3
    for again in (mol, turned(mol)):
        assert mf(again) == pytest.approx(energy, abs=1e-7 if name != "RKS" else 1e-5)  # the grid does not turn
        assert mf.cycles == 1 or name == "RKS"
        assert mf.cycles <= 2
    occupied = mf.history.guess(mf).density
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
def test_open_shells_gain_too(kind: Callable[[gto.Mole], Any]) -> None:
    ion = {"charge": 1, "spin": 1, "basis": "6-31g"}
    scanner, plain = track(kind(mole(**ion))).as_scanner(), kind(mole(**ion)).as_scanner()
    for mol in path(6, **ion):
        assert scanner(mol) == pytest.approx(plain(mol), abs=1e-7)
    assert scanner.cycles < plain.cycles


def test_extrapolation_follows_a_rotating_molecule() -> None:
    """Turning while it vibrates costs nothing: every step is turned back first."""
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


def test_a_model_that_fails_is_done_without() -> None:
    class Failing(Rough):
        def correction(self, native: gto.Mole, h0: Any) -> Any:
            raise MemoryError("the GPU is full")

    pyscf_mlham.register(model=Failing())
    scanner = track(mole().RHF().set(init_guess="ml")).as_scanner()
    for mol in path(4):
        scanner(mol)
    assert scanner.converged
    assert scanner.history.error < 1e-2


def test_history_starts_afresh_after_a_jump_or_with_another_method() -> None:
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
    track(mol.GHF(), history).run()  # not served, and not spoilt
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


def test_the_original_is_left_alone_and_the_log_is_clean() -> None:
    mf = mole(basis="6-31g").RHF().set(verbose=5, stdout=io.StringIO())
    before = {name: dict(value) if isinstance(value, dict) else value for name, value in vars(mf).items()}
    scanner = track(mf).as_scanner()
    for mol in path(6, basis="6-31g"):
        mol.stdout = mf.stdout
        scanner(mol)
    assert vars(mf) == before
    assert scanner.diis is True
    assert scanner.diis_start_cycle == 1
    printed = mf.stdout.getvalue()
    assert "guess from 5 earlier geometries" in printed
    assert "does not have attributes" not in printed
    assert "overwritten attributes" not in printed.lower()


def test_gradient_scanners_and_pyscf_dynamics() -> None:
    plain, quick = mole(basis="sto-3g").RHF(), track(mole(basis="sto-3g").RHF())
    gradients = quick.nuc_grad_method().as_scanner()
    reference = plain.nuc_grad_method().as_scanner()
    for mol in path(4, basis="sto-3g"):
        (energy, force), (exact, exact_force) = gradients(mol), reference(mol)
        assert energy == pytest.approx(exact, abs=1e-8)
        assert_close(force, exact_force, 1e-5)
    assert len(quick.history.steps) == 4
    energies = []
    for mf in (mole(basis="sto-3g").RHF(), track(mole(basis="sto-3g").RHF())):
        run = pyscf.md.NVE(mf, dt=10, steps=4, veloc=VELOCITY * 1e-3).set(verbose=0, data_output=None)
        run.run()
        energies.append(run.epot + run.ekin)
    assert energies[0] == pytest.approx(energies[1], abs=1e-7)


@pytest.mark.parametrize("order", ["track last", "track first"])
def test_two_levels_need_at_most_two_builds(order: str) -> None:
    mf = b3lyp(mole(basis="6-31g"))
    scanner = (track(accelerate(mf)) if order == "track last" else accelerate(track(mf))).as_scanner()
    plain = mf.as_scanner()
    coarse = []
    for mol in path(5, basis="6-31g"):
        assert scanner(mol) == pytest.approx(plain(mol), abs=1e-8)
        assert scanner.full_builds <= 2
        coarse.append(scanner.coarse_cycles)
    assert len(scanner.history.steps) == 5
    assert coarse[-1] < coarse[0]


def with_grid(mf: Any, level: int = 1) -> Any:
    mf.grids.level = level
    return mf


def b3lyp(mol: gto.Mole) -> Any:
    return with_grid(mol.RKS(xc="b3lyp"))


def pbe_of_ion(mol: gto.Mole) -> Any:
    return with_grid(mol.copy().set(charge=1, spin=1).build(False, False).UKS(xc="pbe"))


def rohf_of_ion(mol: gto.Mole) -> Any:
    return mol.copy().set(charge=1, spin=1).build(False, False).ROHF()


@pytest.mark.parametrize("kind", [b3lyp, lambda mol: b3lyp(mol).density_fit(), pbe_of_ion])
def test_later_geometries_need_one_build_and_no_cheaper_one_before_it(kind: Callable[[gto.Mole], Any]) -> None:
    scanner, plain, counts = track(accelerate(kind(mole()))).as_scanner(), kind(mole()).as_scanner(), []
    for mol in path(12):
        again = kind(mol).mol
        assert scanner(again) == pytest.approx(plain(again), abs=1e-8)
        counts.append((scanner.full_builds, scanner.single_builds, scanner.coarse_cycles))
    assert counts[-4:] == [(1, 0, 0)] * 4


def b3lyp_in_water(mol: gto.Mole) -> Any:
    return mol.RKS(xc="b3lyp").density_fit().PCM()


@pytest.mark.parametrize("kind", [b3lyp, b3lyp_in_water, pbe_of_ion])
def test_defect_saves_a_build_from_the_third_geometry_on(kind: Callable[[gto.Mole], Any]) -> None:
    scanner, plain, counts = track(accelerate(kind(mole()))).as_scanner(), kind(mole()).as_scanner(), []
    coarse = []
    for mol in path(4):
        again = kind(mol).mol
        assert scanner(again) == pytest.approx(plain(again), abs=1e-8)
        counts.append((scanner.full_builds, scanner.single_builds))
        coarse.append(scanner.coarse_cycles)
    assert counts[2:] == [(1, 0)] * 2
    assert coarse[2]


@pytest.mark.parametrize(
    "kind", [lambda mol: b3lyp(mol).density_fit(), lambda mol: mol.RHF().PCM(), pbe_of_ion, rohf_of_ion]
)
@pytest.mark.usefixtures("cheaper_levels")
def test_plain_scf_takes_its_smallest_number_of_builds_after_irregular_steps(kind: Callable[[gto.Mole], Any]) -> None:
    """One for the guess, one in the only cycle, one at the end."""
    scanner, plain, builds = track(kind(mole())).as_scanner(), kind(mole()).as_scanner(), []
    steps = np.random.default_rng(4).normal(size=(4, 3, 3)) * 0.05
    for step in np.cumsum(steps, axis=0):
        mol = kind(mole().set_geom_(mole().atom_coords() + step, unit="Bohr")).mol
        with counting_fock_builds(scanner) as counter:
            assert scanner(mol) == pytest.approx(plain(mol), abs=1e-8)
        builds.append(counter.builds)
    assert builds[0] > 7
    assert max(builds[2:]) <= 4
    assert builds[-1] == 3
    assert scanner.single_builds + scanner.coarse_cycles in (1, 2, 3)


def test_small_molecules_do_without_cheaper_levels() -> None:
    """They would take more time than the builds that they save."""
    counts = []
    for basis in ("6-31g", "def2-tzvp"):
        scanner, mols = track(mole(basis=basis).RHF()).as_scanner(), path(3, basis=basis)
        for mol in mols:
            scanner(mol)
        counts.append(scanner.response_builds)
        assert scanner.e_tot == pytest.approx(mol.RHF().kernel(), abs=1e-8)
    assert counts[0] == 0
    assert counts[1] > 0


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        (lambda mol: accelerate(mol.RHF()), 3),
        (lambda mol: accelerate(b3lyp(mol).density_fit()), 3),
        (lambda mol: mol.RHF().density_fit(), 3),
        (lambda mol: accelerate(mol.RHF().PCM()), 7),
    ],
)
def test_response_level_serves_the_geometries_nearby(
    kind: Callable[[gto.Mole], Any], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted(field: Any, *args: Any) -> None:
        made.append(field)
        init(field, *args)

    made: list[Any] = []
    init = ResponseField.__init__
    monkeypatch.setitem(vars(sys.modules["pyscf_mlham.track.mixin"]), "SMALL", 0)
    monkeypatch.setattr(ResponseField, "__init__", counted)
    scanner, mols = track(kind(mole(basis="6-31g"))).as_scanner(), path(6, basis="6-31g")
    far = mols[-1].atom_coords() + 2 * REUSED * np.eye(3)
    for mol in [*mols, mols[-1].set_geom_(far, unit="Bohr", inplace=False)]:
        before = len(made)
        energy = scanner(mol)
        assert scanner.converged
        assert len(scanner.history.steps) > 0
    assert len(made) == before + 1
    assert len(pickle.loads(pickle.dumps(scanner.history)).steps) == 7
    assert 2 <= len(made) <= most
    assert energy == pytest.approx(kind(mol).kernel(), abs=1e-8)


@pytest.mark.parametrize("kind", [b3lyp, lambda mol: b3lyp(mol).density_fit()])
def test_energies_of_one_build_use_the_history(kind: Callable[[gto.Mole], Any]) -> None:
    scanner, plain, errors = track(accelerate(kind(mole()), builds=1)).as_scanner(), kind(mole()).as_scanner(), []
    for mol in path(4):
        errors.append(scanner(mol) - plain(mol))
        assert scanner.full_builds == 1
    assert len(scanner.history.steps) == 4
    assert np.abs(errors).max() < 1e-6
    assert np.abs(errors[2:]).max() < 1e-8
    assert scanner.converged  # the criteria are met, from the densities of estimated energies


def test_defect_is_the_full_potential_minus_the_coarse_one() -> None:
    mf, tight = track(accelerate(b3lyp(mole()))).run(), b3lyp(mole()).run(conv_tol=1e-12)
    coarse = CoarseField(tight, replace(COARSE, dtype=np.float64))
    occupied = tight.mo_coeff[:, tight.mo_occ > 0] * np.sqrt(2)
    assert_close(mf.history.guess(mf).defect, tight.get_veff() - coarse.potential([occupied]), 1e-6)


def test_refined_orbitals_are_nearer_to_the_solution() -> None:
    mf = track(accelerate(b3lyp(mole()))).run()
    tight = track(b3lyp(mole()).set(conv_tol=1e-13, conv_tol_grad=1e-8)).run().history.steps[0].density
    own = History()
    own.record(mf)
    error, refined = (np.linalg.norm(step.density - tight) for step in (own.steps[0], mf.history.steps[0]))
    assert refined < 0.2 * error


def test_a_failing_refinement_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> None:
        raise MemoryError("no room for the kernel")

    monkeypatch.setitem(vars(sys.modules["pyscf_mlham.track.mixin"]), "SMALL", 0)
    for name in ("relaxed", "improved"):
        monkeypatch.setitem(vars(sys.modules["pyscf_mlham.track.improver"]), name, failing)
    for mf in (b3lyp(mole()), accelerate(b3lyp(mole()))):
        scanner = track(mf).as_scanner()
        for mol in path(2):
            scanner(mol)
        assert scanner.converged
        assert len(scanner.history.steps) == 2


def test_an_external_potential_is_part_of_the_method() -> None:
    """In a field of 0.1 a.u. the densities of free molecules are of no use, nor are those before the rotation."""

    def in_field(mol: gto.Mole, strength: float) -> Any:
        mf = mol.RHF()
        h = mf.get_hcore() + strength * mol.intor("int1e_r")[2]
        return mf.set(get_hcore=lambda *_: h) if strength else mf

    history, mols = History(), path(3)
    places = [(mols[0], 0.0, 1), (mols[1], 0.1, 1), (mols[2], 0.1, 2), (turned(mols[2]), 0.1, 1), (mols[2], 0.0, 1)]
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
    assert_close(mf.history.guess(mf).density, mf.make_rdm1(mo, excited), 1e-8)


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
    """From steps of one size to one that is ten times larger: the last error says nothing about the next."""
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
