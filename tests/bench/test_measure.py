"""One run of a benchmark: its counts are those of others, and failures have their reason."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyscf import dft, scf
from pyscf.scf import chkfile

import pyscf_mlham
from pyscf_mlham.bench import measure as measuring
from pyscf_mlham.bench.measure import _gradients, recording
from pyscf_mlham.bench.molecules import read_molecules
from pyscf_mlham.bench.protocol import Protocol, model_hash
from pyscf_mlham.data.geometries import Molecule
from pyscf_mlham.data.schema import HamiltonianFile
from pyscf_mlham.field import CoarseField
from pyscf_mlham.model import predictor
from pyscf_mlham.scf.counting import counting_fock_builds
from support.benchmarked import run_one, water
from support.labelled import labelled_file
from support.molecules import WATER, assert_close, mole


def counting_everything(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count full and coarse builds where the classes make them, whoever asks."""
    built: Counter[str] = Counter()
    true_potential, true_around = CoarseField.potential, CoarseField.around

    def counted(true_veff: Any) -> Any:
        def get_veff(self: Any, *args: Any, **kwargs: Any) -> Any:
            built["coarse" if getattr(self, "with_df", None) else "full"] += 1
            return true_veff(self, *args, **kwargs)

        return get_veff

    def potential(self: Any, *args: Any) -> Any:
        built["coarse"] += 1
        return true_potential(self, *args)

    def around(self: Any, *args: Any) -> Any:
        built["coarse"] += 1
        return true_around(self, *args)

    for kind in (dft.rks.RKS, dft.uks.UKS, dft.roks.ROKS, dft.gks.GKS):
        monkeypatch.setattr(kind, "get_veff", counted(kind.get_veff))
    monkeypatch.setattr(CoarseField, "potential", potential)
    monkeypatch.setattr(CoarseField, "around", around)
    return built


@pytest.mark.parametrize("solver", ["scf", "twolevel"])
@pytest.mark.parametrize("guess", ["minao", "vsap", "coarse", "ml", "oracle"])
def test_counts_are_those_of_an_independent_count(guess: str, solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = Protocol(xc="b3lyp", basis="def2-svp", grid_level=1)
    run_one(guess, solver, protocol)  # warm-up runs are not to be counted
    built = counting_everything(monkeypatch)
    row = run_one(guess, solver, protocol)
    assert row.error == ""
    assert row.full_builds + row.guess_builds == built["full"] > 0
    assert row.coarse_builds == built["coarse"]
    assert row.cycles == row.full_builds - 2 if solver == "scf" else row.cycles == row.full_builds
    assert len(row.gradients) == row.full_builds
    assert row.model_sha256 == (model_hash("") if guess == "ml" else "")
    assert (row.guess_builds > 0) == (guess == "oracle")


@pytest.mark.parametrize("guess", ["ml", "coarse"])
@pytest.mark.parametrize("kind", ["uks", "roks", "gks"])
def test_counts_of_other_methods_and_basis_sets(guess: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a model that is lifted, that has no field of its own, and that is not asked at all."""
    protocol = Protocol(xc="pbe", basis="6-31g", grid_level=0, scf=kind)
    run_one(guess, "scf", protocol)  # warm-up runs are not to be counted
    built = counting_everything(monkeypatch)
    row = run_one(guess, "scf", protocol)
    assert row.error == ""
    assert (row.full_builds, row.coarse_builds) == (built["full"], built["coarse"])
    assert ("GKS has no scc guess" in row.note) == (kind == "gks" and guess == "ml")


@pytest.mark.parametrize(("fitted", "level", "rough"), [(False, 3, 1), (False, 0, 0), (True, 2, 1), (True, 1, 0)])
def test_the_coarse_guess_is_cheaper_than_the_full_level(
    fitted: bool, level: int, rough: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = Protocol(xc="pbe", basis="sto-3g", density_fit=fitted, grid_level=level)
    run_one("coarse", "scf", protocol)  # warm-up runs are not to be counted
    built: Counter[tuple[bool, int]] = Counter()
    true_veff = dft.rks.RKS.get_veff

    def get_veff(self: Any, *args: Any, **kwargs: Any) -> Any:
        built[bool(getattr(self, "with_df", None)), self.grids.level] += 1
        return true_veff(self, *args, **kwargs)

    monkeypatch.setattr(dft.rks.RKS, "get_veff", get_veff)
    row = run_one("coarse", "scf", protocol)
    assert row.error == ""
    assert built == {(True, rough): row.coarse_builds, (fitted, level): row.full_builds}


def test_a_row_of_ml_with_one_electron_is_marked() -> None:
    ion = Molecule("H2+", "", "", np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]), 1, 1)
    for solver in ("scf", "twolevel"):
        row = run_one("ml", solver, geometry=ion)
        assert row.error == ""
        assert row.note.startswith("ml not used")


def test_nothing_is_coarser_than_fitted_integrals_without_a_grid() -> None:
    assert "nothing is coarser" in run_one("coarse", protocol=Protocol(xc="hf", density_fit=True)).error


@pytest.mark.parametrize(("method", "spin"), [("RHF", 0), ("RKS", 0), ("UKS", 1), ("ROHF", 1), ("ROKS", 1)])
def test_gradients_are_those_of_pyscf(method: str, spin: int) -> None:
    mol = mole(WATER, "6-31g", charge=spin, spin=spin)
    mf = getattr(dft, method)(mol, xc="pbe") if method.endswith("KS") else getattr(scf, method)(mol)
    norms: list[float] = []
    mf.callback = lambda envs: norms.append(float(envs["norm_gorb"]))
    with recording(mf) as visited:
        mf.kernel()
    found = _gradients(mf, visited)
    assert len(found) == mf.cycles + 2
    assert_close(found[1:-1], norms, 1e-8)
    assert "get_veff" not in vars(mf)


def test_gradients_contain_the_solvent() -> None:
    protocol = Protocol(xc="pbe", basis="sto-3g", grid_level=0, solvent="IEF-PCM")
    mf = mole(list(zip(water().numbers.tolist(), water().positions.tolist(), strict=True)), "sto-3g", unit="Bohr")
    mf = mf.RKS(xc="pbe").PCM()
    mf.grids.level, mf.with_solvent.method = 0, "IEF-PCM"
    for guess, solver in (("minao", "scf"), ("coarse", "scf"), ("minao", "twolevel")):
        row = run_one(guess, solver, protocol)
        assert row.error == ""
        assert row.e_tot == pytest.approx(mf.e_tot if mf.converged else mf.kernel(), abs=1e-8)
        assert row.gradients[-1] < 3.2e-5


def test_non_local_correlation_can_be_omitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dft.gen_grid.Grids, "level", 1)
    hydrogen = read_molecules(["ase:g2/H2"]).molecules[0]
    protocols = (Protocol("b97m_v", "sto-3g", grid_level=0, nlc=nlc) for nlc in (False, True))
    local, whole = (run_one("minao", protocol=protocol, geometry=hydrogen) for protocol in protocols)
    assert (local.error, whole.error) == ("", "")
    assert abs(local.e_tot - whole.e_tot) > 1e-3


def test_predicted_orbital_energies_are_those_of_the_predicted_matrix() -> None:
    protocol = Protocol(xc="b3lyp", basis="def2-svp", grid_level=3)
    row = run_one("ml", "scf", protocol)
    mf = mole(list(zip(water().numbers.tolist(), water().positions.tolist(), strict=True)), "def2-svp", unit="Bohr")
    one = pyscf_mlham.OneShot(mf.RKS(xc="b3lyp")).run()
    done = mf.RKS(xc="b3lyp").run()
    assert row.guess_homo_err == pytest.approx(one.mo_energy[4] - done.mo_energy[4], abs=1e-5)
    assert row.guess_lumo_err == pytest.approx(one.mo_energy[5] - done.mo_energy[5], abs=1e-5)
    assert row.occupied_mae == pytest.approx(np.abs(one.mo_energy - done.mo_energy)[:5].mean(), abs=1e-5)
    assert row.gap == pytest.approx(done.mo_energy[5] - done.mo_energy[4], abs=1e-5)
    assert row.initial_gradient == row.gradients[0]
    assert run_one("sap").occupied_mae is None  # a density predicts no orbital energies


def test_open_shells_and_kinds_of_mean_field() -> None:
    cation = water(1, 1)
    for kind, name in (("auto", "UHF"), ("rohf", "ROHF"), ("uks", "UHF"), ("ghf", "GHF")):
        row = run_one("minao", "twolevel", Protocol(xc="hf", basis="sto-3g", scf=kind), cation)
        assert (row.error, row.scf, row.electrons) == ("", name, 9)
        assert row.s2 == pytest.approx(0.75, abs=0.01)
    note = run_one("ml", geometry=water(4, 0)).note
    assert note.startswith("ml not used, minao instead: ")
    assert "charge" in note


@pytest.mark.parametrize("guess", ["minao", "sap", "ml"])
def test_two_levels_of_unrestricted_singlets_are_those_of_a_user(guess: str) -> None:
    fluorine = read_molecules(["ase:g2/F2"]).molecules[0]
    row = run_one(guess, "twolevel", Protocol(xc="hf", basis="6-31g", scf="uhf"), fluorine)
    atoms = list(zip(fluorine.numbers.tolist(), fluorine.positions.tolist(), strict=True))
    mf = pyscf_mlham.accelerate(mole(atoms, "6-31g", unit="Bohr").UHF())
    mf.init_guess = guess
    mf.kernel()
    assert (row.error, row.note, row.converged) == ("", "", True)
    assert row.full_builds == mf.full_builds
    assert row.coarse_builds == mf.coarse_builds + 2 * (guess == "ml")  # H0 in two basis sets
    assert row.e_tot == pytest.approx(mf.e_tot, abs=1e-9)
    assert row.s2 == pytest.approx(mf.spin_square()[0], abs=1e-4)
    assert 0 < row.guess_s < row.total_s
    assert (row.model != "") == (guess == "ml")


@pytest.mark.parametrize("guess", ["ml", "scc", "minao"])
@pytest.mark.parametrize("solver", ["scf", "twolevel"])
def test_builds_are_those_of_a_user(guess: str, solver: str) -> None:
    row = run_one(guess, solver, Protocol(grid_level=0))
    atoms = list(zip(water().numbers.tolist(), water().positions.tolist(), strict=True))
    mf = mole(atoms, "def2-svp", unit="Bohr").RKS(xc="b3lyp")
    mf.grids.level = 0
    if solver == "twolevel":
        mf = pyscf_mlham.accelerate(mf)
    mf.init_guess = guess
    with counting_fock_builds(mf) as counter:
        mf.kernel()
    coarse = mf.coarse_builds if solver == "twolevel" else 0
    if guess == "ml" or (guess, solver) == ("scc", "scf"):
        coarse += mf.guess_info.coarse_builds
    assert (row.full_builds, row.coarse_builds) == (counter.builds, coarse)


def test_what_users_get_without_a_model_is_measured() -> None:
    pyscf_mlham.register(fallback="scc")
    beryllium = read_molecules(["ase:g2/BeH"], mult=2).molecules[0]
    learned, scc = (run_one(guess, geometry=beryllium) for guess in ("ml", "scc"))
    assert learned.note.startswith("ml not used, scc instead: ")
    assert (learned.full_builds, learned.coarse_builds) == (scc.full_builds, scc.coarse_builds)


def test_predictions_that_are_refused_have_their_price(monkeypatch: pytest.MonkeyPatch) -> None:
    row = run_one("ml", "scf", Protocol(xc="b3lyp", basis="def2-svp", scf="uks", grid_level=0))
    assert row.note.startswith("ml not used, minao instead: ") and "spin symmetry" in row.note
    assert row.coarse_builds == 0  # known before the network is asked
    monkeypatch.setattr(predictor, "COLLAPSE", 1e9)
    row = run_one("ml", "scf", Protocol(xc="hf", basis="sto-3g"))
    assert row.note.startswith("ml not used, minao instead: ") and "collapsed" in row.note
    assert row.coarse_builds == 2  # H0 in two basis sets


def test_two_levels_that_were_plain_scf_are_marked() -> None:
    general = run_one("minao", "twolevel", Protocol(xc="hf", basis="sto-3g", scf="ghf"))
    assert general.note.startswith("plain SCF, not two levels: ")
    assert (general.coarse_builds, general.response_builds) == (0, 0)
    fitted = run_one("minao", "twolevel", Protocol(xc="hf", basis="sto-3g", density_fit=True))
    assert fitted.note == ""
    assert fitted.response_builds > 0  # the response level alone is no plain SCF
    assert run_one("minao", "twolevel").note == ""


def test_a_run_that_cannot_be_is_a_row_with_its_reason() -> None:
    failed = run_one("vsap")
    assert "no vsap guess for RHF objects" in failed.error
    assert (failed.nao, failed.electrons, failed.e_tot) == (None, None, None)
    bad = water()._replace(positions=np.zeros((3, 3)))
    assert "apart" in run_one("minao", geometry=bad).error
    stopped = run_one("minao", protocol=Protocol(xc="hf", basis="sto-3g", max_cycle=2))
    assert (stopped.error, stopped.converged, stopped.cycles) == ("", False, 2)


def test_one_electron_builds_no_field_and_has_no_gradient() -> None:
    atom = Molecule("H", "H", "", np.array([1]), np.zeros((1, 3)), 0, 1)
    for solver in ("scf", "twolevel"):
        row = run_one("minao", solver, geometry=atom)
        assert (row.error, row.converged, row.full_builds, row.initial_gradient) == ("", True, 0, None)
        assert row.e_tot == pytest.approx(-0.46658185)


def test_basis_sets_without_hydrogen_and_of_several_files() -> None:
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.1]])
    nitrogen = Molecule("N2", "N2", "", np.array([7, 7]), positions, 0, 0)
    row = run_one("minao", protocol=Protocol(xc="hf", basis="cc-pcvdz"), geometry=nitrogen)
    assert (row.error, row.converged, row.nao) == ("", True, 36)


def test_files_as_guesses(tmp_path: Path) -> None:
    labels = labelled_file(tmp_path, copies=1)
    with HamiltonianFile(labels) as file:
        record = file[0]
    there = Molecule("there", "", "", record.numbers, record.positions, 0, 0)
    row = run_one(f"chk:{labels}", geometry=there)
    assert re.fullmatch(r"chk:labelled\.h5#[0-9a-f]{8}", row.guess)
    assert row.occupied_mae < 1e-5
    assert row.cycles <= 2
    assert "does not hold this geometry" in run_one(f"chk:{labels}").error
    mf = mole(list(zip(water().numbers.tolist(), water().positions.tolist(), strict=True)), "sto-3g", unit="Bohr").RHF()
    mf.set(chkfile=str(tmp_path / "mf.chk")).run()
    assert run_one(f"chk:{tmp_path / 'mf.chk'}").cycles <= 2
    molecule = water()
    others = {
        "other atoms": read_molecules(["ase:g2/NH3"]).molecules[0],
        "atoms in another order": molecule._replace(numbers=molecule.numbers[::-1]),
        "another geometry, by up to 0.1 Bohr": molecule._replace(positions=molecule.positions + 0.1),
        "charge 0 and multiplicity 1": water(1, 1),
    }
    for words, geometry in others.items():
        assert words in run_one(f"chk:{tmp_path / 'mf.chk'}", geometry=geometry).error
    assert (
        run_one(f"chk:{tmp_path / 'mf.chk'}", geometry=molecule._replace(positions=molecule.positions + 1e-6)).cycles
        <= 2
    )
    chkfile.save(str(tmp_path / "mf.chk"), "scf/e_tot", float("nan"))  # as mlham guess leaves it
    assert "holds a guess" in run_one(f"chk:{tmp_path / 'mf.chk'}").error
    (tmp_path / "text.chk").write_text("no")
    assert "neither a file of labelled molecules" in run_one(f"chk:{tmp_path / 'text.chk'}").error


# the protocol


def test_every_part_of_the_protocol_changes_its_fingerprint() -> None:
    other = {"xc": "pbe", "basis": "6-31g", "scf": "uks", "density_fit": True, "grid_level": 4, "conv_tol": 1e-8}
    other |= {"max_cycle": 51, "threads": 2, "device": "cuda", "memory": 1, "model": "m", "model_sha256": "x"}
    other |= {"pyscf": "0", "pyscf_mlham": "0", "nlc": False, "solvent": "COSMO"}
    assert set(other) == {f.name for f in dataclasses.fields(Protocol)}
    prints = {dataclasses.replace(Protocol(), **{key: value}).fingerprint for key, value in other.items()}
    assert len(prints | {Protocol().fingerprint}) == len(other) + 1


@pytest.mark.parametrize("guess", ["minao", "atom", "huckel", "sap", "coarse", "ml", "oracle"])
def test_core_potentials_come_with_their_basis_set(guess: str) -> None:
    iodide = Molecule("HI", "HI", "", np.array([1, 53]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 3.04]]), 0, 0)
    mf = mole("H 0 0 0; I 0 0 3.04", "def2-svp", ecp={"I": "def2-svp"}, unit="Bohr").RHF().run()
    for solver in ("scf", "twolevel"):
        row = run_one(guess, solver, Protocol(xc="hf"), iodide)
        assert (row.error, row.converged, row.electrons) == ("", True, 26)
        assert row.e_tot == pytest.approx(mf.e_tot, abs=1e-8)
        assert row.note == ""


def test_response_builds_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = Protocol(xc="b3lyp", basis="sto-3g", density_fit=True, grid_level=0)
    made: list[Any] = []
    true = measuring.accelerate

    def accelerated(mf: Any) -> Any:
        made.append(true(mf))
        return made[-1]

    monkeypatch.setattr(measuring, "accelerate", accelerated)
    row = run_one("minao", "twolevel", protocol)
    assert row.error == ""
    assert row.response_builds == made[-1].response_builds > 0
    assert run_one("minao", "scf", protocol).response_builds == 0


def test_the_self_consistent_baseline_is_a_guess_by_name() -> None:
    row = run_one("scc")
    mf = mole(WATER, "sto-3g").RHF()
    assert not np.array_equal(mf.get_init_guess(key="scc"), mf.get_init_guess(key="minao"))
    assert (row.error, row.converged) == ("", True)
    assert row.cycles < run_one("minao").cycles
