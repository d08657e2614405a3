"""The cheaper levels along a path: the smallest number of full builds, and the same energies."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pyscf import gto

from pyscf_mlham import History, accelerate, track
from pyscf_mlham.ao.loewdin import Metric, metric_from_overlap
from pyscf_mlham.field import COARSE, CoarseField, ResponseField
from pyscf_mlham.scf.counting import counting_fock_builds
from pyscf_mlham.track.history import REUSED
from support.molecules import assert_close, mole
from support.paths import b3lyp, path, pbe_of_ion


def rohf_of_ion(mol: gto.Mole) -> Any:
    return mol.copy().set(charge=1, spin=1).build(False, False).ROHF()


def b3lyp_in_water(mol: gto.Mole) -> Any:
    return mol.RKS(xc="b3lyp").density_fit().PCM()


@pytest.mark.parametrize("order", ["track last", "track first"])
def test_two_levels_need_at_most_two_builds(order: str) -> None:
    mf = b3lyp(mole(basis="6-31g"))
    scanner = (track(accelerate(mf)) if order == "track last" else accelerate(track(mf))).as_scanner()
    plain = mf.as_scanner()
    coarse = []
    for mol in path(5, basis="6-31g"):
        assert scanner(mol) == pytest.approx(plain(mol), abs=1e-8)
        assert scanner.full_builds <= 2
        coarse.append(scanner.coarse_builds)
    assert len(scanner.history.steps) == 5
    assert coarse[-1] < coarse[0]


@pytest.mark.parametrize("kind", [b3lyp, lambda mol: b3lyp(mol).density_fit(), pbe_of_ion])
def test_later_geometries_need_one_build_and_no_cheaper_one_before_it(kind: Callable[[gto.Mole], Any]) -> None:
    scanner, plain, counts = track(accelerate(kind(mole()))).as_scanner(), kind(mole()).as_scanner(), []
    for mol in path(12):
        again = kind(mol).mol
        assert scanner(again) == pytest.approx(plain(again), abs=1e-8)
        counts.append((scanner.full_builds, scanner.single_builds, scanner.coarse_builds))
    assert counts[-4:] == [(1, 0, 0)] * 4


@pytest.mark.parametrize("kind", [b3lyp, b3lyp_in_water, pbe_of_ion])
def test_defect_saves_a_build_from_the_third_geometry_on(kind: Callable[[gto.Mole], Any]) -> None:
    scanner, plain, counts = track(accelerate(kind(mole()))).as_scanner(), kind(mole()).as_scanner(), []
    coarse = []
    for mol in path(4):
        again = kind(mol).mol
        assert scanner(again) == pytest.approx(plain(again), abs=1e-8)
        counts.append((scanner.full_builds, scanner.single_builds))
        coarse.append(scanner.coarse_builds)
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
    assert scanner.single_builds + scanner.coarse_builds in (1, 2, 3)


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


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[ResponseField]:
    """Returns the list of the response levels that a test makes."""

    def counted(field: ResponseField, *args: Any) -> None:
        fields.append(field)
        init(field, *args)

    fields: list[ResponseField] = []
    init = ResponseField.__init__
    monkeypatch.setattr(ResponseField, "__init__", counted)
    return fields


@pytest.mark.usefixtures("cheaper_levels")
@pytest.mark.parametrize(
    ("kind", "most"),
    [
        (lambda mol: accelerate(mol.RHF()), 3),
        (lambda mol: accelerate(b3lyp(mol).density_fit()), 3),
        (lambda mol: mol.RHF().density_fit(), 3),
        (lambda mol: accelerate(mol.RHF().PCM()), 7),
    ],
)
def test_response_level_is_used_again_at_geometries_nearby(
    kind: Callable[[gto.Mole], Any], most: int, made: list[ResponseField]
) -> None:
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


def test_a_large_response_level_is_not_kept(made: list[ResponseField], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(sys.modules["pyscf_mlham.track.history"]), "RESPONSE_MEMORY", 0)
    scanner = track(accelerate(mole(basis="6-31g").RHF())).as_scanner()
    for mol in path(4, basis="6-31g"):
        before = len(made)
        scanner(mol)
        assert len(made) == before + 1
    assert len(scanner.history.steps) == 4


@pytest.mark.usefixtures("cheaper_levels")
@pytest.mark.parametrize("kind", [lambda mol: mol.RHF(), lambda mol: accelerate(mol.RHF())])
def test_roots_of_the_overlap_are_computed_once_at_a_geometry(
    kind: Callable[[gto.Mole], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted(overlap: np.ndarray) -> Metric:
        overlaps.append(overlap)
        return metric_from_overlap(overlap)

    overlaps: list[np.ndarray] = []
    for name in ("track.place", "track.history", "ao.loewdin"):
        monkeypatch.setattr(sys.modules[f"pyscf_mlham.{name}"], "metric_from_overlap", counted)
    scanner = track(kind(mole(basis="6-31g"))).as_scanner()
    for mol in path(4, basis="6-31g"):
        scanner(mol)
    assert len(overlaps) == 4


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


@pytest.mark.usefixtures("cheaper_levels")
def test_a_failing_refinement_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> None:
        raise MemoryError("no room for the kernel")

    for name in ("relaxed", "improved"):
        monkeypatch.setitem(vars(sys.modules["pyscf_mlham.track.improver"]), name, failing)
    for mf in (b3lyp(mole()), accelerate(b3lyp(mole()))):
        scanner = track(mf).as_scanner()
        for mol in path(2):
            scanner(mol)
        assert scanner.converged
        assert len(scanner.history.steps) == 2
