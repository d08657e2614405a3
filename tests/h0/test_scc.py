"""init_guess = 'scc': superposed atoms, relaxed by the response model."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pyscf import scf
from scipy.spatial.transform import Rotation

from pyscf_mlham import accelerate
from pyscf_mlham.ao.loewdin import metric_from_overlap, orthogonal_from_ao
from pyscf_mlham.h0.scc import self_consistent_atoms
from pyscf_mlham.scf.problem import Problem
from support.molecules import ETHYLENE, WATER, mole, twisted_ethylene

KINDS: dict[str, tuple[Callable[[], Any], int]] = {  # and the cycles that it saves at least
    "RKS": (lambda: mole(ETHYLENE, "def2-svp").RKS(xc="b3lyp"), 2),
    "RHF": (lambda: mole(ETHYLENE, "def2-svp").RHF(), 3),
    "UKS radical": (lambda: mole(WATER, "def2-svp", charge=1, spin=1).UKS(xc="pbe"), 2),
    "ROHF cation": (lambda: mole(WATER, "def2-svp", charge=1, spin=1).ROHF(), 1),
    "anion": (lambda: mole("O 0 0 0; H 0 0 0.97", "def2-svpd", charge=-1).RKS(xc="b3lyp"), 2),
    "iodine": (lambda: mole("I 0 0 0; H 0 0 1.6", "def2-svp", ecp={"I": "def2-svp"}).RKS(xc="b3lyp"), 2),
    "fitted": (lambda: mole(ETHYLENE, "def2-svp").RKS(xc="b3lyp").density_fit(), 2),
}


@pytest.mark.parametrize("name", KINDS)
def test_scc_saves_cycles_and_changes_no_energy(name: str) -> None:
    make, saved = KINDS[name]
    plain, quick = make().run(), make().set(init_guess="scc", verbose=3, stdout=io.StringIO()).run()
    assert quick.converged
    assert quick.e_tot == pytest.approx(plain.e_tot, abs=1e-8)
    assert quick.cycles <= plain.cycles - saved
    assert "scc guess: " in quick.stdout.getvalue()


@pytest.mark.parametrize("guess", ["scc", "ml"])
@pytest.mark.parametrize(("options", "kind"), [({}, "RKS"), ({"charge": 1, "spin": 1}, "UKS")])
def test_fitted_objects_are_refined_by_their_own_field(guess: str, options: dict[str, int], kind: str) -> None:
    pytest.importorskip("torch") if guess == "ml" else None
    made = [getattr(mole(ETHYLENE, "def2-svp", **options), kind)(xc="b3lyp").density_fit() for _ in range(2)]
    plain, quick = made[0].run(), made[1].set(init_guess=guess).run()
    assert quick.cycles <= 2 < plain.cycles - 3
    assert quick.e_tot == pytest.approx(plain.e_tot, abs=1e-8)
    assert quick.guess_info.single_builds == 1


@pytest.mark.parametrize("atoms", ["S 0 0 0; O 0 1.24 0.72; O 0 -1.24 0.72", "N 0 0 -1.2; N 0 0 -0.07; O 0 0 1.12"])
def test_the_response_is_solved_to_less_than_a_diagonalisation_multiplies_to_the_criterion(atoms: str) -> None:
    make = mole(atoms, "def2-svp").RKS(xc="b3lyp").density_fit
    plain, quick = make().run(), make().set(init_guess="scc").run()
    assert quick.e_tot == pytest.approx(plain.e_tot, abs=1e-9)
    assert (quick.cycles, quick.guess_info.single_builds) == (1, 1)  # 4 cycles with a gradient of 1e-5


@pytest.mark.parametrize(
    "change",
    [
        lambda mf: mf,  # exact integrals
        lambda mf: mf.density_fit(only_dfj=True),
        lambda mf: mf.density_fit().PCM(),
        lambda mf: mf.density_fit().set(xc="wb97x_v"),
        lambda mf: accelerate(mf.density_fit()),  # its solver builds the field
    ],
)
def test_objects_without_such_a_field_are_not(change: Callable[[Any], Any]) -> None:
    mf = change(mole(WATER, "def2-svp").RKS(xc="b3lyp"))
    mf.get_init_guess(mf.mol, "scc")
    assert mf.guess_info.guess == "scc"
    assert mf.guess_info.single_builds == 0


def test_baseline_is_near_the_converged_matrix_and_rotates_with_the_molecule() -> None:
    mf = mole(ETHYLENE, "def2-svp").RKS(xc="b3lyp").run()
    exact = mf.get_fock()
    fock = self_consistent_atoms(Problem.of(mf)).fock
    assert np.abs(fock - exact).mean() < 1.2e-4
    Q = Rotation.from_euler("xyz", [0.4, -1.1, 2.2]).as_matrix()
    rotated = mole([(s, Q @ r) for s, r in mole(ETHYLENE)._atom], "def2-svp", unit="Bohr").RKS(xc="b3lyp")
    energies = []
    for each in (mf, rotated):
        metric = metric_from_overlap(each.get_ovlp())
        energies.append(np.linalg.eigvalsh(orthogonal_from_ao(self_consistent_atoms(Problem.of(each)).fock, metric)))
    np.testing.assert_allclose(*energies, atol=1e-3)  # grids are not rotated


def test_unrestricted_singlets_start_with_broken_symmetry() -> None:
    plain, quick = twisted_ethylene().run(), twisted_ethylene().set(init_guess="scc").run()
    assert quick.e_tot <= plain.e_tot + 1e-8
    assert quick.spin_square()[0] > 0.9


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: mole().GHF(), "GHF has no scc guess"),
        (lambda: mole("He 0 0 0").RHF(), "one atom"),
        (lambda: scf.addons.smearing(mole().RKS(xc="pbe"), sigma=0.02), "smeared"),
    ],
)
def test_reasons_for_pyscfs_own_guess(make: Callable[[], Any], reason: str) -> None:
    mf = make().set(init_guess="scc", verbose=3, stdout=io.StringIO()).run()
    assert reason in mf.stdout.getvalue()
    assert mf.e_tot == pytest.approx(make().run().e_tot, abs=1e-8)
