"""mlham bench: its counts are those of others, its records survive, and its reports say what was measured."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write
from conftest import WATER, assert_close, mole
from labelled import labelled_file
from pyscf import dft, scf

import pyscf_mlham
from pyscf_mlham import cli
from pyscf_mlham.bench.figures import draw, svg
from pyscf_mlham.bench.measure import Row, Task, _gradients, measure, recording
from pyscf_mlham.bench.molecules import read_molecules
from pyscf_mlham.bench.protocol import Protocol, guess_from_text, model_hash
from pyscf_mlham.bench.report import (
    BEGIN,
    END,
    SUMMARY,
    html,
    insert_table,
    molecule_table,
    summary_cells,
    summary_table,
    write_report,
)
from pyscf_mlham.bench.results import COLUMNS, JOURNAL, RESULTS, Folder, Results, read_results, results_from_rows
from pyscf_mlham.bench.summary import geometric_mean, summarise
from pyscf_mlham.coarse import CoarseField
from pyscf_mlham.data.geometries import Molecule
from pyscf_mlham.data.schema import HamiltonianFile
from pyscf_mlham.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--xc", "hf", "--basis", "sto-3g", "--quiet"]
HF = Protocol(xc="hf", basis="sto-3g")
# what a row must hold, as users were promised it
PROMISED = [
    "molecule",
    "natm",
    "nao",
    "electrons",
    "xc",
    "basis",
    "scf",
    "guess",
    "solver",
    "converged",
    "cycles",
    "full_builds",
    "coarse_builds",
    "guess_builds",
    "guess_s",
    "total_s",
    "e_tot",
    "e_err",
    "s2",
    "homo",
    "lumo",
    "gap",
    "guess_homo_err",
    "guess_lumo_err",
    "occupied_mae",
    "initial_gradient",
    "versions",
    "model_sha256",
]


def water(charge: int = 0, spin: int = 0, name: str = "water") -> Molecule:
    atoms = molecule("H2O")
    return Molecule(name, name, "", atoms.numbers.astype(np.int64), atoms.positions / 0.529177210903, charge, spin)


def run_one(guess: str, solver: str = "scf", protocol: Protocol = HF, geometry: Molecule | None = None) -> Row:
    return measure(Task(geometry or water(), guess_from_text(guess), solver, 0, protocol))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small benchmark through the command line, two processes, two repetitions."""
    path = tmp_path_factory.mktemp("bench")
    command = ["bench", "ase:g2/H2O,HCN", "--guess", "minao,huckel,oracle", "--repeat", "2", "-j", "2", *SMALL]
    assert cli.main([*command, "--report", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    return read_results(folder / RESULTS)


# measuring


@pytest.mark.parametrize("solver", ["scf", "twolevel"])
@pytest.mark.parametrize("guess", ["minao", "vsap", "coarse", "ml", "oracle"])
def test_counts_are_those_of_an_independent_count(guess: str, solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = Protocol(xc="b3lyp", basis="def2-svp", grid_level=1)
    run_one(guess, solver, protocol)  # warm-up runs are not to be counted
    built: Counter[str] = Counter()
    true_veff, true_potential, true_anchor = dft.rks.RKS.get_veff, CoarseField.potential, CoarseField.anchor

    def get_veff(self: Any, *args: Any, **kwargs: Any) -> Any:
        built["coarse" if getattr(self, "with_df", None) else "full"] += 1
        return true_veff(self, *args, **kwargs)

    def potential(self: Any, *args: Any) -> Any:
        built["coarse"] += 1
        return true_potential(self, *args)

    def anchor(self: Any, *args: Any) -> Any:
        built["coarse"] += 1
        return true_anchor(self, *args)

    monkeypatch.setattr(dft.rks.RKS, "get_veff", get_veff)
    monkeypatch.setattr(CoarseField, "potential", potential)
    monkeypatch.setattr(CoarseField, "anchor", anchor)
    row = run_one(guess, solver, protocol)
    assert row.error == ""
    assert row.full_builds + row.guess_builds == built["full"] > 0
    assert row.coarse_builds == built["coarse"]
    assert row.cycles == row.full_builds - 2 if solver == "scf" else row.cycles == row.full_builds
    assert len(row.gradients) == row.full_builds
    assert row.model_sha256 == (model_hash("") if guess == "ml" else "")
    assert (row.guess_builds > 0) == (guess == "oracle")


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
    note = run_one("ml", geometry=cation).note
    assert note.startswith("ml not used, minao instead: ")
    assert "charge" in note


def test_a_run_that_cannot_be_is_a_row_with_its_reason() -> None:
    assert "vsap guess is for Kohn-Sham" in run_one("vsap").error
    bad = water()._replace(positions=np.zeros((3, 3)))
    assert "apart" in run_one("minao", geometry=bad).error
    stopped = run_one("minao", protocol=Protocol(xc="hf", basis="sto-3g", max_cycle=2))
    assert (stopped.error, stopped.converged, stopped.cycles) == ("", False, 2)


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
    ammonia = read_molecules(["ase:g2/NH3"]).molecules[0]
    assert "other atoms" in run_one(f"chk:{tmp_path / 'mf.chk'}", geometry=ammonia).error
    (tmp_path / "text.chk").write_text("no")
    assert "neither a file of labelled molecules" in run_one(f"chk:{tmp_path / 'text.chk'}").error


# the protocol


def test_every_part_of_the_protocol_changes_its_fingerprint() -> None:
    other = {"xc": "pbe", "basis": "6-31g", "scf": "uks", "density_fit": True, "grid_level": 4, "conv_tol": 1e-8}
    other |= {"max_cycle": 51, "threads": 2, "device": "cuda", "memory": 1, "model": "m", "model_sha256": "x"}
    other |= {"pyscf": "0", "pyscf_mlham": "0"}
    assert set(other) == {f.name for f in dataclasses.fields(Protocol)}
    prints = {dataclasses.replace(Protocol(), **{key: value}).fingerprint for key, value in other.items()}
    assert len(prints | {Protocol().fingerprint}) == len(other) + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--guess", "mniao"], "unknown guess 'mniao'"),
        (["--guess", "vsap"], "vsap guess needs a functional"),
        (["--guess", "chk:nowhere.chk"], "there is no such file"),
        (["--solver", "diis"], "unknown solvers"),
        (["--xc", "pbe", "--scf", "rhf"], "rhf has no functional"),
        (["--xc", "b3lpy"], "PySCF knows no such functional"),
        (["--basis", "cc-pvdq"], "basis set cc-pvdq does not serve"),
        (["--insert", "nowhere.md"], "nowhere.md"),
        (["--threads", "0"], "threads is 0"),
        (["--repeat", "0"], "expected 1 or more"),
        (["--model", "nobody"], "neither a shipped model"),
        (["-j", "0"], "expected 1 or more"),
    ],
)
def test_wrong_arguments_are_said_at_once(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "ase:g2/H2O", *SMALL, "--report", str(tmp_path), *arguments]) == 1
    assert message in " ".join(capsys.readouterr().err.split())


# running


def test_results_hold_every_column_and_run(folder: Path, results: Results) -> None:
    runs = Counter((row.molecule, row.guess, row.solver, row.repeat) for row in results.rows)
    assert set(runs.values()) == {1}
    assert len(runs) == 2 * 3 * 2 * 2
    assert set(PROMISED) <= set(COLUMNS)
    plain = json.loads((folder / RESULTS).read_text())["rows"]
    for row in plain:
        assert set(PROMISED) <= set(row)
        for name in set(PROMISED) - {"guess_homo_err", "guess_lumo_err", "occupied_mae"}:
            assert row[name] is not None
    with (folder / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(line["e_tot"]) for line in table] == [row["e_tot"] for row in plain]
    assert list(table[0]) == list(COLUMNS)
    assert not (folder / JOURNAL).exists()
    assert {path.name for path in folder.glob("*.png")} >= {"builds.png", "cycles.png", "convergence.png"}


def untimed(path: Path) -> list[dict[str, Any]]:
    rows = json.loads((path / RESULTS).read_text())["rows"]
    loose = ("e_err", "gradients", "initial_gradient")  # differences of numbers that agree to rounding
    return [
        {
            k: round(v, 7) if isinstance(v, float) else v
            for k, v in row.items()
            if not k.endswith("_s") and k not in loose
        }
        | {"predicted": np.round(row["predicted"], 6).tolist(), "reached": np.round(row["reached"], 6).tolist()}
        for row in rows
    ]


def test_killed_and_resumed_is_the_same_table(tmp_path: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "pyscf_mlham.cli", "bench", "ase:g2/H2O,HCN", "--guess", "minao,huckel,oracle"]
    command += ["--repeat", "2", "-j", "2", *SMALL, "--report", str(tmp_path)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    journal = tmp_path / JOURNAL
    process = subprocess.Popen(command, **quiet)
    while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 6):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / RESULTS).exists()
    with journal.open("ab") as file:
        file.write(b'{"key": "half a li')  # what a killed process may leave
    subprocess.run(command, check=True, **quiet)
    assert untimed(tmp_path) == untimed(folder)
    assert not journal.exists()


def test_another_protocol_in_the_same_folder_is_refused(
    tmp_path: Path, results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / RESULTS).write_text(results.to_json())
    command = ["bench", "ase:g2/H2O,HCN", "--guess", "minao", *SMALL, "--report", str(tmp_path), "--grid", "4"]
    assert cli.main(command) == 1
    words = " ".join(capsys.readouterr().err.split())
    assert "another protocol: grid_level 3 instead of 4" in words
    assert (tmp_path / RESULTS).read_text() == results.to_json()


def test_energies_that_disagree_are_red_and_the_exit_code_says_so(
    tmp_path: Path, results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        dataclasses.replace(row, e_tot=row.e_tot - 3e-8) if row.guess == "huckel" and row.molecule == "g2:HCN" else row
        for row in results.rows
    ]
    (tmp_path / RESULTS).write_text(dataclasses.replace(results, rows=rows).to_json())
    command = ["bench", "ase:g2/H2O,HCN", "--guess", "minao,huckel,oracle", "--repeat", "2", *SMALL]
    command += ["--report", str(tmp_path)]  # nothing is left to run
    assert cli.main(command) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "g2:HCN, huckel, scf: its energy is 3.0e-08 Ha below: a lower state than the reference" in out
    page = (tmp_path / "report.html").read_text()
    assert '<section class="verdict bad">' in page
    assert page.count('<td class="alarm"') == 4
    assert cli.main([*command, "--energy-tol", "1e-7"]) == 0
    assert '<section class="verdict good">' in (tmp_path / "report.html").read_text()


def test_bad_frames_are_named_and_the_rest_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in.xyz", [molecule("H2O"), molecule("CH3"), molecule("H2O")])
    (tmp_path / "broken.xyz").write_text("2\n\nH 0 0 zero\nH 0 0 1\n2\n\nH 0 0 0\nH 0 0 0.75\n")
    inputs = [str(tmp_path / name) for name in ("in.xyz", "broken.xyz", "missing.xyz")]
    command = ["bench", *inputs, "--guess", "minao", "--solver", "scf", *SMALL, "--report", str(tmp_path / "out")]
    assert cli.main(command) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "in.xyz, frame 1: 9 electrons cannot have multiplicity 1" in printed
    assert "in:2 is the same geometry as in:0; left out" in printed
    assert "missing.xyz: cannot be read" in printed
    results = read_results(tmp_path / "out" / RESULTS)
    assert [row.molecule for row in results.rows] == ["in:0", "broken:1"]
    assert len(results.bad_input) == 3
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.index("frame 1: 9 electrons") < page.index("At a glance")


def test_what_does_not_converge_counts_at_the_limit(tmp_path: Path) -> None:
    protocol = Protocol(xc="hf", basis="sto-3g", max_cycle=3)
    rows = [run_one(guess, "scf", protocol) for guess in ("minao", "huckel")]
    results = results_from_rows(rows, protocol, [], [], 1e-8)
    assert [m.unconverged for m in summarise(results)] == [1, 1]
    assert [m.cycles for m in summarise(results)] == [3, 3]
    assert len(results.problems) == 2
    assert "not converged in 3 cycles" in results.problems[0]
    write_report(results, tmp_path)
    assert "| 4! | 4! |" in (tmp_path / "table.md").read_text()


def test_a_dask_cluster_gives_the_same_table(tmp_path: Path, folder: Path) -> None:
    from distributed import LocalCluster

    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with LocalCluster(**options) as cluster:
        command = ["bench", "ase:g2/H2O,HCN", "--guess", "minao,huckel,oracle", "--repeat", "2", *SMALL]
        assert cli.main([*command, "--report", str(tmp_path), "--dask", cluster.scheduler_address]) == 0
    assert untimed(tmp_path) == untimed(folder)


def test_no_molecule_and_locked_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "nothing.xyz", *SMALL, "--report", str(tmp_path)]) == 1
    assert "there is no molecule to run" in capsys.readouterr().err
    first = Folder(tmp_path, HF)
    with pytest.raises(DataError, match="another benchmark is writing there"):
        Folder(tmp_path, HF)
    first.close()
    other = dataclasses.replace(HF, basis="6-31g")
    second = Folder(tmp_path, other)  # nothing was run, so nothing is mixed up
    second.add(run_one("minao", protocol=other))
    second.close()
    with pytest.raises(DataError, match="another protocol: basis '6-31g' instead of 'sto-3g'"):
        Folder(tmp_path, HF)
    assert list(Folder(tmp_path, other).rows) == list(second.rows)


def test_inputs(tmp_path: Path) -> None:
    def block(name: str, last: str, code: int = 0) -> str:
        return (
            f"{name}\n  made by hand\n\n  4  3  0  0  0  0  0  0  0  0999 V2000\n"
            f"    0.0000    0.0000    0.0000 O   0  {code}\n    0.9600    0.0000    0.2000 H   0  0\n"
            "   -0.4800    0.8300    0.2000 H   0  0\n   -0.4800   -0.8300    0.2000 H   0  0\n"
            f"  1  2  1  0\n  1  3  1  0\n  1  4  1  0\n{last}M  END\n$$$$\n"
        )

    (tmp_path / "in.sdf").write_text(block("hydronium", "M  CHG  1   1   1\n") + block("radical", ""))
    (tmp_path / "coded.sdf").write_text(block("coded", "", code=3) + block("newer", "").replace("V2000", "V3000"))
    coded = read_molecules([str(tmp_path / "coded.sdf")])
    assert [(m.name, m.charge) for m in coded.molecules] == [("coded", 1)]
    assert "version V3000" in coded.bad[0]
    found = read_molecules([str(tmp_path / "in.sdf"), "ase:g2/H2O,Nobody", "ase:g3"])
    assert [(m.name, m.charge, m.spin) for m in found.molecules] == [("hydronium", 1, 0), ("g2:H2O", 0, 0)]
    assert len(found.bad) == 3
    assert "11 electrons" in found.bad[0]
    stretched = molecule("H2O")
    stretched.positions *= 1.05
    frames = [molecule("H2O"), stretched, Atoms("OH", [(0, 0, 0), (0, 0, 0.97)], info={"mult": 2})]
    for atoms in frames[:2]:
        atoms.info["name"] = "water"
    write(tmp_path / "in.extxyz", frames)
    found = read_molecules([str(tmp_path / "in.extxyz")])
    assert [(m.name, m.spin) for m in found.molecules] == [("water", 0), ("water (2)", 0), ("in:2", 1)]


# statistics and reports


def test_statistics_are_what_they_say(results: Results) -> None:
    rows = [dataclasses.replace(row, total_cpu_s=1.0 + row.repeat) for row in results.rows if row.guess == "minao"]
    doubled = [
        dataclasses.replace(row, guess="ml", key=row.key.replace("minao", "ml"), total_cpu_s=2 * row.total_cpu_s)
        for row in rows
    ]
    doubled = [dataclasses.replace(row, guess_builds=1) for row in doubled]
    methods = {(m.guess, m.solver): m for m in summarise(dataclasses.replace(results, rows=[*rows, *doubled]))}
    reference, other = methods["minao", "scf"], methods["ml", "scf"]
    assert [case.seconds for case in reference.cases.values()] == [1.5, 1.5]  # medians over the repetitions
    assert other.time_ratio == pytest.approx((2, 2, 2))
    assert other.builds == reference.builds + 1  # a hidden build is a build
    mean = np.exp(np.mean([np.log(c.builds / (c.builds - 1)) for c in other.cases.values()]))
    assert other.build_ratio.value == pytest.approx(mean)
    spread = geometric_mean(np.array([0.5, 1.0, 2.0, 1.0]))
    assert spread == geometric_mean(np.array([0.5, 1.0, 2.0, 1.0]))
    assert spread.value == pytest.approx(1)
    assert 0.5 < spread.low < 0.9 < 1.1 < spread.high < 2
    # the standard error of the mean of logs is log(2) / sqrt(8); a bootstrap of four knows it roughly
    assert np.log(spread.high) == pytest.approx(1.96 * np.log(2) / np.sqrt(8), rel=0.25)


def test_the_oracle_is_a_bound_and_no_method(results: Results) -> None:
    methods = {(m.guess, m.solver): m for m in summarise(results)}
    oracle = methods["oracle", "scf"]
    assert oracle.is_bound
    assert oracle.cycles <= 2
    assert np.isnan(oracle.time_ratio.value)
    assert all(case.row.guess_builds >= 2 for case in oracle.cases.values())
    assert all(case.row.occupied_mae < 1e-4 for case in oracle.cases.values())


def cells(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_markdown_reads_back_as_the_statistics(folder: Path, results: Results) -> None:
    first = (folder / "table.md").read_text().split("\n\n")[0]
    heading, _, *rows = cells(first)
    assert tuple(heading) == SUMMARY
    assert rows == [summary_cells(method) for method in summarise(results)]
    for row, method in zip(rows, summarise(results), strict=True):
        assert float(row[2]) == pytest.approx(method.cycles, abs=0.051)
        if not method.is_bound:
            assert float(row[3]) == pytest.approx(method.builds, abs=0.051)
            assert float(row[5].split()[0]) == pytest.approx(method.build_ratio.value, abs=0.0051)


def test_tables_say_where_minao_took_the_place_of_a_model(results: Results) -> None:
    name = results.rows[0].molecule
    note = "ml not used, minao instead: element Si"
    rows = [
        dataclasses.replace(row, guess="ml", note=note if row.molecule == name else "")
        for row in results.rows
        if (row.guess, row.solver) == ("minao", "scf")
    ]
    count = len({row.molecule for row in rows})
    assert f"| ml (minao for 1 of {count}) | scf |" in summary_table(dataclasses.replace(results, rows=rows))


class Page(HTMLParser):
    """Collects what a browser would fetch, identifiers, and tags that are not closed."""

    VOID = ("meta", "input", "br", "link", "img")

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.stack: list[str] = []
        self.tags: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action", "srcset", "poster"):
                self.fetched.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            self.fetched += re.findall(r"url\(([^)]*)\)", value or "") if name in ("style", "clip-path", "fill") else []
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def test_the_page_needs_nothing_else(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    page = Page()
    page.feed(text)
    page.close()
    assert page.stack == []
    assert all(value.startswith("#") for value in page.fetched)
    assert {value[1:] for value in page.fetched} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert page.tags["svg"] == page.tags["figure"] >= 5
    assert not {"link", "img", "iframe"} & set(page.tags)
    assert not re.search(r"https?:|@import|fetch\(|XMLHttp|\{\{", text)


def test_names_cannot_break_the_page(results: Results) -> None:
    rows = [dataclasses.replace(row, molecule="<script>|{{rows}}", note="a & b") for row in results.rows]
    hostile = dataclasses.replace(results, rows=rows)
    page = html(hostile, summarise(hostile), {}, "cpu")
    assert page.count("<script>") == 1
    assert "&lt;script&gt;|{{rows}}" in page
    assert r"| <script>\|{{rows}} |" in molecule_table(hostile)


def test_reports_are_the_same_every_time(folder: Path, results: Results) -> None:
    methods = summarise(results)
    plots = {name: svg(figure, name) for name, figure in draw(methods, results.protocol).items()}
    assert html(results, methods, plots, "cpu") == (folder / "report.html").read_text()


def test_damaged_results_are_a_clear_error(tmp_path: Path, results: Results) -> None:
    path = tmp_path / RESULTS
    path.write_text(results.to_json()[:-10])
    with pytest.raises(DataError, match="cannot be read as results"):
        read_results(path)
    path.write_text(results.to_json().replace('"version": 1', '"version": 2'))
    with pytest.raises(DataError, match="expected pyscf_mlham-benchmark 1"):
        read_results(path)


def test_the_table_of_the_readme_is_the_committed_one() -> None:
    table = summary_table(read_results(ROOT / "examples" / "table" / RESULTS))
    readme = (ROOT / "README.md").read_text()
    assert readme.count(BEGIN) == readme.count(END) == 1
    assert readme.split(BEGIN)[1].split(END)[0] == f"\n\n{table}\n"


def test_the_committed_table_is_of_ten_molecules_and_has_no_problem() -> None:
    results = read_results(ROOT / "examples" / "table" / RESULTS)
    assert len({row.molecule for row in results.rows}) == 10
    assert results.problems == []


def test_inserting_a_table_wants_its_marks(tmp_path: Path, results: Results) -> None:
    paper = tmp_path / "paper.md"
    paper.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        insert_table(paper, results)
        assert paper.read_text() == f"before\n{BEGIN}\n\n{summary_table(results)}\n{END}\nafter\n"
    paper.write_text("nothing\n")
    with pytest.raises(DataError, match="expected one line"):
        insert_table(paper, results)


# mlham guess


def test_written_guesses_start_an_scf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in ("npz", "chk"):
        assert cli.main(["guess", "ase:g2/H2O", "-o", str(tmp_path / f"guess.{suffix}")]) == 0
    assert "model organic-b3lyp-svp" in capsys.readouterr().out
    content = np.load(tmp_path / "guess.npz")
    atoms = list(zip(content["numbers"].tolist(), content["positions"].tolist(), strict=True))
    mol = mole(atoms, "def2-svp", unit="Bohr")
    plain, learned = mol.RKS(xc="b3lyp").run(), mol.RKS(xc="b3lyp").set(init_guess="ml").run()
    assert learned.cycles < plain.cycles
    assert_close(content["fock"], pyscf_mlham.fock(learned), 1e-10)
    e, C = content["mo_energy"], content["mo_coeff"]
    assert_close(content["fock"] @ C, mol.intor("int1e_ovlp") @ C * e, 1e-8)
    started = mol.RKS(xc="b3lyp")
    started.kernel(dm0=content["dm"])
    read = mol.RKS(xc="b3lyp").set(chkfile=str(tmp_path / "guess.chk"), init_guess="chk").run()
    assert started.cycles == read.cycles == learned.cycles
    assert read.e_tot == pytest.approx(plain.e_tot, abs=1e-8)


def test_bad_frames_keep_their_places_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in.xyz", [molecule("CH3"), molecule("H2O"), molecule("H2O"), molecule("NH3")])
    command = ["guess", str(tmp_path / "in.xyz"), "-o", str(tmp_path / "g.npz"), "--frame"]
    assert cli.main([*command, "3"]) == 0
    assert np.load(tmp_path / "g.npz")["numbers"].tolist() == [7, 1, 1, 1]
    assert cli.main([*command, "0"]) == 1
    assert "9 electrons cannot have multiplicity 1" in " ".join(capsys.readouterr().err.split())


def test_runs_of_earlier_commands_are_named(
    tmp_path: Path, results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / RESULTS).write_text(results.to_json())
    command = ["bench", "ase:g2/H2O", "--guess", "minao,huckel,oracle", "--repeat", "2", *SMALL]
    assert cli.main([*command, "--report", str(tmp_path)]) == 0
    assert "holds 12 runs that this command does not name" in " ".join(capsys.readouterr().out.split())


def test_a_guess_that_cannot_be_made_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["guess", "ase:g2/SiH4", "-o", str(tmp_path / "g.npz")]) == 1
    assert "element Si is not among those" in " ".join(capsys.readouterr().err.split())
    assert cli.main(["guess", "ase:g2/H2O", "-o", str(tmp_path / "g.txt")]) == 1
    assert "ends in .npz or .chk" in " ".join(capsys.readouterr().err.split())
    assert cli.main(["guess", "ase:g2/H2O", "-o", str(tmp_path / "g.npz"), "--xc", "foo"]) == 1
    assert "PySCF knows no such functional" in " ".join(capsys.readouterr().err.split())
    assert cli.main(["guess", "ase:g2/H2O", "-o", str(tmp_path / "g.npz"), "--frame", "1"]) == 1
    assert "there is no frame 1; there are 1" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []
