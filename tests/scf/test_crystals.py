"""accelerate() and 'scc' for crystals: PySCF's own solution from fewer builds."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pyscf.pbc import dft, scf
from pyscf.pbc.df import GDF

from pyscf_mlham import OracleModel, accelerate, applicable, guess, register, unregister
from pyscf_mlham.field.crystal import CrystalField
from pyscf_mlham.field.grid import Functional
from pyscf_mlham.scf.counting import counting_fock_builds
from pyscf_mlham.scf.crystal import problem_of
from support.crystals import chain, crystal, krks

Array = np.ndarray[Any, Any]

FCC = (np.ones((3, 3)) - np.eye(3)) / 2


def kpts(cell: Any, n: int = 3) -> Array:
    return np.asarray(cell.make_kpts([n, 1, 1]))


def fitted(kind: Any, xc: str = "", **kwargs: Any) -> Any:
    """Prepare a density-fitted calculation of the chain, with k points or without."""
    cell = chain(**kwargs)
    mf = kind(cell, kpts(cell)) if kind.__name__.startswith("K") else kind(cell)
    if not xc:
        return mf.density_fit()
    mf = mf.set(xc=xc).density_fit()
    mf.grids.level = 1
    return mf


def diamond() -> Any:
    cell = crystal([("C", (0.0, 0.0, 0.0)), ("C", (1.685, 1.685, 1.685))], FCC * 6.74)
    return krks(cell, cell.make_kpts([2, 2, 1]))


def metal(kind: Any) -> Any:
    """Prepare equidistant hydrogen atoms, a metal, with smeared occupations."""
    cell = crystal([("H", (x, 4.5, 4.5)) for x in (0.3, 2.3)], np.diag([4.0, 9.0, 9.0]), basis="gth-dzvp")
    mf = kind(cell, kpts(cell), xc="pbe").density_fit().smearing(0.05)
    mf.grids.level = 1
    return mf


def radical() -> Any:
    """Prepare two atoms with parallel spins between molecules."""
    cell = crystal([("H", (x, 4.5, 4.5)) for x in (0.3, 1.7, 4.7, 7.2)], np.diag([10.0, 9.0, 9.0]), spin=4)
    return dft.KUKS(cell, kpts(cell, 2), xc="lda,vwn").density_fit().smearing(0.01)


KINDS: dict[str, Callable[[], Any]] = {
    "KRKS": lambda: fitted(dft.KRKS, "pbe"),
    "KUKS": lambda: fitted(dft.KUKS, "pbe"),
    "KRHF": lambda: fitted(scf.KRHF),
    "KRKS, smeared": lambda: metal(dft.KRKS),
    "RHF, all electrons": lambda: fitted(scf.RHF, pseudo=None, basis="6-31g"),
}
SLOW: dict[str, Callable[[], Any]] = {
    "KRKS, diamond": diamond,
    "KUHF": lambda: fitted(scf.KUHF),
    "KUKS, spins": radical,
    "KUKS, smeared": lambda: metal(dft.KUKS),
    "KRKS, short-range exchange": lambda: fitted(dft.KRKS, "hse06"),
    "KRKS, meta-GGA": lambda: fitted(dft.KRKS, "tpss"),
    "RKS": lambda: fitted(dft.RKS, "pbe"),
    "UKS": lambda: fitted(dft.UKS, "pbe"),
}


def tight(mf: Any) -> Any:
    return mf.set(conv_tol=1e-10, verbose=3, stdout=io.StringIO())


@pytest.mark.parametrize("name", [*KINDS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_same_solution_from_fewer_builds(name: str) -> None:
    make = (KINDS | SLOW)[name]
    plain, quick, started = tight(make()), tight(accelerate(make())), tight(make()).set(init_guess="scc")
    quick.with_df = started.with_df = plain.with_df  # their integrals are the same
    plain.run()
    quick.run()
    with counting_fock_builds(started) as counter:
        started.kernel()
    assert quick.plain_reason == ""
    for mf in (quick, started):
        assert mf.converged
        assert mf.e_tot == pytest.approx(plain.e_tot, abs=1e-8)
        assert getattr(mf, "e_free", None) == pytest.approx(getattr(plain, "e_free", None), abs=1e-8)
        np.testing.assert_allclose(mf.make_rdm1(), plain.make_rdm1(), atol=1e-4)
        np.testing.assert_allclose(mf.mo_energy, plain.mo_energy, atol=1e-5)
    assert quick.full_builds <= 0.6 * plain.cycles + 2
    assert counter.builds <= plain.cycles + 2
    assert started.cycles < plain.cycles
    assert started.guess_info.full_builds == 1 + bool(Functional(plain).exchange)  # that of the first density, too
    assert 1 < started.guess_info.coarse_builds < 30


ATOMS = [("H", (0.3, 4.5, 4.5)), ("H", (1.7, 4.5, 4.9))]
UNUSUAL: dict[str, tuple[Any, Array, dict[str, Any]]] = {
    "ghost atoms": ([*ATOMS, ("ghost-H", (3.0, 4.5, 4.5))], np.diag([5.0, 9.0, 9.0]), {}),
    "one atom": ([("He", (0.3, 4.5, 4.5))], np.diag([5.0, 9.0, 9.0]), {}),
    "no periodic direction": (ATOMS, 9.0 * np.eye(3), {"dimension": 0}),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_cells(name: str) -> None:
    atoms, a, settings = UNUSUAL[name]
    cell = crystal(atoms, a, basis="gth-dzvp", ke_cutoff=None, mesh=[25] * 3, **settings)
    plain, quick, started = (tight(wrap(scf.RHF(cell).density_fit())) for wrap in (lambda mf: mf, accelerate, tight))
    started.init_guess = "scc"
    for mf in (quick, started):
        assert mf.kernel() == pytest.approx(plain.e_tot or plain.kernel(), abs=1e-8)
    assert quick.plain_reason == ""
    assert started.guess_info.guess == "scc"


@pytest.mark.parametrize("kind", [dft.KRKS, dft.RKS, dft.KUKS])
def test_the_coarse_field_is_near_the_full_one_and_exact_where_anchored(kind: Any) -> None:
    mf = fitted(kind, "pbe")
    problem, field = problem_of(mf), CrystalField(mf)
    orbitals = problem.orbitals(problem.hcore + 0 * mf.get_init_guess())
    guess, factors = mf.get_init_guess(), problem.factors(orbitals)
    here, there = (np.asarray(mf.get_veff(mf.mol, d)) for d in (guess, mf.make_rdm1(orbitals.coeff, orbitals.occ)))
    np.testing.assert_allclose(field.potential(factors), there, atol=1e-2)
    anchored = field.around(problem.factors_of(guess), here)
    np.testing.assert_allclose(anchored.potential(problem.factors_of(guess)), here, atol=1e-12)
    assert np.linalg.norm(anchored.potential(factors) - there) < 0.02 * np.linalg.norm(there - here)


def test_the_gradient_of_smeared_occupations_has_their_error_in_it() -> None:
    """Orbitals of a shifted Fock matrix are the same; of one with other energies, the occupations are wrong."""
    mf = metal(dft.KRKS).run()
    problem = problem_of(mf)
    orbitals = problem.orbitals(mf.get_fock())
    shifted = mf.get_fock() + 0.1 * problem.overlap
    assert problem.gradient(orbitals, shifted) < 1e-8
    assert problem.lowering(orbitals, shifted - problem.hcore) < 1e-12
    wider = orbitals._replace(energy=1.01 * orbitals.energy)
    assert np.linalg.norm(mf.get_grad(wider.coeff, wider.occ, mf.get_fock())) < 1e-8
    assert problem.gradient(wider, mf.get_fock()) > 1e-4


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect the calls that compute a pseudopotential."""
    calls: list[Any] = []
    original = GDF.get_pp

    def get_pp(self: Any, kpts: Any = None) -> Any:
        calls.append(kpts)
        return original(self, kpts)

    monkeypatch.setattr(GDF, "get_pp", get_pp)
    return calls


@pytest.mark.parametrize("kind", [dft.KRKS, dft.RKS])
@pytest.mark.parametrize("key", ["scc", "ml"])
def test_the_core_hamiltonian_of_a_guess_is_that_of_the_scf(kind: Any, key: str, computed: list[Any]) -> None:
    mf = fitted(kind, "pbe").run()
    register(model=OracleModel.of(mf), fallback="raise")
    for make in (lambda mf: mf, accelerate):
        again = make(fitted(kind, "pbe")).set(init_guess=key)
        again.with_df = mf.with_df
        computed.clear()
        assert again.kernel() == pytest.approx(mf.e_tot, abs=1e-7)
        assert len(computed) == 1
        np.testing.assert_allclose(again.get_hcore(), mf.get_hcore(), atol=1e-12)
        assert len(computed) == 3


def test_the_core_hamiltonian_of_another_cell_is_its_own(computed: list[Any]) -> None:
    mf, other = fitted(dft.KRKS, "pbe"), chain(2)
    mf.get_init_guess(key="scc")
    mf.reset(other)
    expected = dft.KRKS(other, mf.kpts, xc="pbe").density_fit().get_hcore()
    np.testing.assert_allclose(mf.get_hcore(), expected, atol=1e-12)
    mf.get_init_guess(key="scc")
    guess(mf, fallback="scc")  # without an SCF after it
    unregister()
    computed.clear()
    np.testing.assert_allclose(mf.get_hcore(), expected, atol=1e-12)
    assert len(computed) == 1


def test_the_core_hamiltonian_of_one_k_point() -> None:
    cell = chain()
    k = cell.make_kpts([3, 1, 1])[1]
    mf = scf.RHF(cell, k).density_fit()
    expected = mf.get_hcore(cell, k)
    guess(mf)
    np.testing.assert_allclose(mf.get_hcore(kpt=k), expected, atol=1e-12)
    np.testing.assert_allclose(scf.hf.get_hcore(cell, k), scf.RHF(cell, k).get_hcore(), atol=1e-12)


def test_linearly_dependent_functions() -> None:
    basis = {"H": [[0, [s, 1.0]] for s in (0.2, 0.201, 0.8, 3.0)]}
    plain, quick = (tight(make(fitted(scf.KRHF, basis=basis))) for make in (lambda mf: mf, accelerate))
    assert quick.kernel() == pytest.approx(plain.kernel(), abs=1e-8)
    assert quick.plain_reason == ""


def test_degenerate_orbitals_are_left_to_pyscf() -> None:
    """Two electrons more of one spin than of the other, in three cells, do not fill the orbitals of k and -k alike."""
    plain, quick = (tight(make(fitted(dft.KUKS, "lda,vwn", spin=2))) for make in (lambda mf: mf, accelerate))
    assert quick.kernel() == pytest.approx(plain.kernel(), abs=1e-8)
    assert "unequal spins" in quick.plain_reason
    assert applicable(fitted(dft.KUKS, "lda,vwn", spin=2).smearing(0.01)) == ""


def test_a_second_calculation_starts_from_the_orbitals_of_the_first() -> None:
    quick = accelerate(fitted(dft.KRKS, "pbe")).run()
    quick.kernel()
    assert quick.full_builds == 1


def test_the_energy_after_one_build() -> None:
    exact, quick = fitted(dft.KRKS, "pbe").run(), accelerate(fitted(dft.KRKS, "pbe"), builds=1).run()
    assert quick.full_builds == 1
    assert quick.e_tot == pytest.approx(exact.e_tot, abs=1e-6)


REASONS: dict[str, tuple[Callable[[], Any], str]] = {
    "plane waves": (
        lambda: dft.KRKS(chain(), kpts(chain())),
        "FFTDF of periodic systems has no coarse level",
    ),
    "mixed fitting": (lambda: scf.KRHF(chain()).mix_density_fit(), "MDF of periodic systems"),
    "range separation": (lambda: scf.KRHF(chain()).jk_method("RS"), "RangeSeparatedJKBuilder"),
    "restricted open shell": (lambda: fitted(scf.KROHF), "KROHF has no coarse level"),
    "generalised": (lambda: fitted(scf.KGHF), "KGHF has no coarse level"),
    "complex orbitals": (lambda: scf.RHF(chain(), kpt=[0.1, 0, 0]).density_fit(), "orbitals are not real"),
    "smeared, one k point": (lambda: fitted(dft.RKS, "pbe").smearing(0.1), "smeared occupations"),
    "symmetry of k points": (lambda: symmetric(), "symmetry of k points"),
    "Hubbard's U": (lambda: dft.KRKSpU(chain(), kpts(chain()), U_idx=["1s"], U_val=[1]).density_fit(), "Hubbard"),
}


def symmetric() -> Any:
    cell = chain(space_group_symmetry=True, symmorphic=False)
    points = cell.make_kpts([3, 1, 1], space_group_symmetry=True, time_reversal_symmetry=True)
    return scf.KRHF(cell, points).density_fit()


@pytest.mark.parametrize("name", REASONS)
def test_reasons_for_pyscfs_own_scf(name: str) -> None:
    make, reason = REASONS[name]
    mf = make()
    assert reason in applicable(mf)
    assert applicable(mf, "scc")


def test_full_builds_of_a_hybrid_guess_are_counted() -> None:
    mf = fitted(scf.KRHF)
    with counting_fock_builds(mf) as counter:
        mf.get_init_guess(key="scc")
    assert mf.guess_info.full_builds == counter.builds == 2
