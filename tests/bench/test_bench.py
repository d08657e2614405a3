"""mlham bench and mlham guess: records survive, protocols do not mix, and wrong input is named."""

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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write

import pyscf_mlham
from pyscf_mlham import cli
from pyscf_mlham.bench.molecules import free_name, read_molecules
from pyscf_mlham.bench.protocol import Protocol
from pyscf_mlham.bench.report import write_report
from pyscf_mlham.bench.results import COLUMNS, JOURNAL, RESULTS, Folder, Results, read_results, results_from_rows
from pyscf_mlham.bench.summary import summarise
from pyscf_mlham.errors import DataError
from support.benchmarked import HF, SMALL, run_one
from support.molecules import assert_close, mole

pytestmark = pytest.mark.usefixtures("quick_commands")

# what a row must hold, as users were promised it
PROMISED = [
    "molecule",
    "natm",
    "nao",
    "electrons",
    "xc",
    "basis",
    "scf",
    "charge",
    "mult",
    "guess",
    "solver",
    "converged",
    "cycles",
    "full_builds",
    "single_builds",
    "coarse_builds",
    "response_builds",
    "guess_builds",
    "guess_s",
    "total_s",
    "limit_s",
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
    command = [sys.executable, "-m", "pyscf_mlham", "bench", "ase:g2/H2O,HCN", "--guess", "minao,huckel,oracle"]
    command += ["--repeat", "2", "-j", "2", *SMALL, "--report", str(tmp_path)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    journal = tmp_path / JOURNAL
    process = subprocess.Popen(command, **quiet)
    while process.poll() is None and (not journal.exists() or journal.stat().st_size < 20000):  # a few runs
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / RESULTS).exists()
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


def test_energies_that_disagree_are_red_and_change_the_exit_code(
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
    assert "g2:HCN, huckel, scf: 2 of 2 runs: its energy is 3.0e-08 Ha below" in out
    page = (tmp_path / "report.html").read_text()
    assert '<section class="verdict bad">' in page
    assert page.count('<td class="alarm"') == 6  # four runs, two methods
    assert cli.main([*command, "--energy-tol", "1e-7"]) == 0
    assert '<section class="verdict good">' in (tmp_path / "report.html").read_text()


def test_bad_frames_are_named_and_the_rest_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in.xyz", [molecule("H2O"), molecule("CH3"), molecule("H2O")])
    (tmp_path / "broken.xyz").write_text("2\n\nH 0 0 zero\nH 0 0 1\n2\n\nH 0 0 0\nH 0 0 0.75\n")
    inputs = [str(tmp_path / name) for name in ("in.xyz", "broken.xyz", "missing.xyz")]
    command = ["bench", *inputs, "--guess", "minao", "--solver", "scf", *SMALL, "--report", str(tmp_path / "out")]
    assert cli.main(command) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "in.xyz, frame 1: 9 electrons" in printed
    assert "in:2 is the same geometry as in:0; left out" in printed
    assert printed.count("missing.xyz: cannot be read (no such file)") == 1
    results = read_results(tmp_path / "out" / RESULTS)
    assert [row.molecule for row in results.rows] == ["in:0", "broken:1"]
    assert len(results.bad_input) == 3
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.index("frame 1: 9 electrons") < page.index("Every guess and solver")


def test_what_does_not_converge_counts_at_the_limit(tmp_path: Path) -> None:
    protocol = Protocol(xc="hf", basis="sto-3g", max_cycle=3)
    rows = [run_one(guess, "scf", protocol) for guess in ("minao", "huckel")]
    results = results_from_rows(rows, protocol, [], [], 1e-8)
    assert [sum(not case.converged for case in m.cases.values()) for m in summarise(results)] == [1, 1]
    assert [m.mean("cycles") for m in summarise(results)] == [3, 3]
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


@pytest.mark.parametrize("quiet", [False, True])
def test_every_run_is_printed(quiet: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "ase:g2/H2", "--guess", "minao,huckel", "--solver", "scf", "--xc", "hf", "--basis", "sto-3g"]
    assert cli.main([*command, "--report", str(tmp_path), *["--quiet"] * quiet]) == 0
    printed = capsys.readouterr().out
    runs = re.findall(r"^\d of 3: g2:H2, (\w+), scf: .*\d s", printed, flags=re.MULTILINE)
    assert sorted(runs) == ([] if quiet else ["huckel", "limit", "minao"])


def test_no_molecule_and_locked_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "nothing.xyz", *SMALL, "--report", str(tmp_path)]) == 1
    assert "there is no molecule to run" in capsys.readouterr().err
    first = Folder(tmp_path, HF)
    with pytest.raises(DataError, match="another process is writing to it"):
        Folder(tmp_path, HF)
    first.close()
    other = dataclasses.replace(HF, basis="6-31g")
    second = Folder(tmp_path, other)  # nothing was run, so nothing is mixed up
    second.add(run_one("minao", protocol=other))
    second.close()
    with pytest.raises(DataError, match="basis '6-31g' instead of 'sto-3g'"):
        Folder(tmp_path, HF)
    assert list(Folder(tmp_path, other).rows) == list(second.rows)


def test_geometries_keep_apart_whatever_the_command(tmp_path: Path) -> None:
    stretched = molecule("H2O")
    stretched.positions *= 1.05
    for name, atoms in (("a", molecule("H2O")), ("b", stretched), ("c", molecule("HCN"))):
        atoms.info["name"] = "water"
        write(tmp_path / f"{name}.extxyz", atoms)

    def names(*files: str) -> list[str]:
        command = ["bench", *(str(tmp_path / f"{file}.extxyz") for file in files), "--guess", "minao", *SMALL]
        assert cli.main([*command, "--solver", "scf", "--report", str(tmp_path / "out")]) == 0
        return [row.molecule for row in read_results(tmp_path / "out" / RESULTS).rows]

    assert names("a") == ["water"]
    assert names("b") == ["water", "water (2)"]  # the old one gives way
    assert names("a", "b", "c") == ["water", "water (2)", "water (3)"]
    table = (tmp_path / "out" / "table.md").read_text()
    assert table.count("| water |") == table.count("| water (2) |") == 1


def test_default_guesses_are_those_that_the_objects_have(tmp_path: Path) -> None:
    command = ["bench", "ase:g2/H2", "--solver", "scf", "--basis", "sto-3g", "--xc", "pbe", "--scf", "gks", "--quiet"]
    cli.main([*command, "--report", str(tmp_path)])
    found = read_results(tmp_path / RESULTS)
    assert {row.guess for row in found.rows} == {"minao", "atom", "huckel", "sap", "coarse", "ml", "oracle"}
    assert not [row.error for row in found.rows if row.error]


def test_the_command_has_its_version_and_defaults_in_help(capsys: pytest.CaptureFixture[str]) -> None:
    def printed_by(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert ended.value.code == 0
        return " ".join(capsys.readouterr().out.split())

    assert printed_by("--version") == f"mlham {pyscf_mlham.__version__}"
    assert "eV/Angstrom; default 0.05" in printed_by("opt-bench", "--help")


def test_taken_names_get_a_number() -> None:
    assert free_name("a", set()) == "a"
    assert free_name("a", {"a", "a (2)"}) == "a (3)"
    assert free_name("a (2)", {"a (2)"}) == "a (3)"


def test_molecules_are_read_from_every_kind_of_input(tmp_path: Path) -> None:
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
    for which, names in (("-1", ["in:2"]), ("0", ["water"]), ("1:", ["water", "in:2"])):
        assert [m.name for m in read_molecules([str(tmp_path / "in.extxyz")], which=which).molecules] == names


# statistics and reports


def test_written_guesses_start_an_scf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in ("npz", "chk"):
        assert cli.main(["guess", "ase:g2/H2O", "-o", str(tmp_path / f"guess.{suffix}")]) == 0
    assert "model b3lyp-svp" in capsys.readouterr().out
    content = np.load(tmp_path / "guess.npz")
    atoms = list(zip(content["numbers"].tolist(), content["positions"].tolist(), strict=True))
    mol = mole(atoms, "def2-svp", unit="Bohr")
    plain, learned = mol.RKS(xc="b3lyp").run(), mol.RKS(xc="b3lyp").set(init_guess="ml").run()
    assert learned.cycles < plain.cycles
    assert_close(content["fock"], pyscf_mlham.OneShot(learned).run().fock, 1e-6)
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
    assert "It is for in:3, frame 3 of " in (said := " ".join(capsys.readouterr().out.split()))
    assert "--frame N" in said
    assert cli.main([*command, "0"]) == 1
    assert "9 electrons cannot have multiplicity 1" in " ".join(capsys.readouterr().err.split())


def test_a_closed_shell_has_unrestricted_guesses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["guess", "ase:g2/H2O", "--scf", "uks", "-o"]
    for suffix in ("npz", "chk"):
        assert cli.main([*command, str(tmp_path / f"guess.{suffix}")]) == 0
    printed = capsys.readouterr().out
    assert "of equal spins (init_guess_breaksym = 0)" in printed
    assert "--frame" not in printed  # the file holds nothing else
    alpha, beta = np.load(tmp_path / "guess.npz")["dm"]
    assert_close(alpha, beta, 1e-8)
    atoms = molecule("H2O")
    mol = mole(list(zip(atoms.get_chemical_symbols(), atoms.positions.tolist(), strict=True)), "def2-svp")
    plain = mol.UKS(xc="b3lyp").run()
    started = mol.UKS(xc="b3lyp")
    started.kernel(dm0=started.from_chk(str(tmp_path / "guess.chk")))
    assert started.cycles < plain.cycles
    assert started.e_tot == pytest.approx(plain.e_tot, abs=1e-8)


def test_runs_of_earlier_commands_are_named(
    tmp_path: Path, results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / RESULTS).write_text(results.to_json())
    command = ["bench", "ase:g2/H2O", "--guess", "minao,huckel,oracle", "--repeat", "2", *SMALL]
    assert cli.main([*command, "--report", str(tmp_path)]) == 0
    assert "holds 14 runs" in " ".join(capsys.readouterr().out.split())


def test_a_guess_that_cannot_be_made_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["guess", "ase:g2/BeH", "-o", str(tmp_path / "g.npz")]) == 1
    assert "element Be is not among those" in " ".join(capsys.readouterr().err.split())
    assert cli.main(["guess", "ase:g2/H2O", "-o", str(tmp_path / "g.txt")]) == 1
    assert "ends in .npz or .chk" in " ".join(capsys.readouterr().err.split())
    assert cli.main(["guess", "ase:g2/H2O", "-o", str(tmp_path / "g.npz"), "--xc", "foo"]) == 1
    assert "not a functional of PySCF" in " ".join(capsys.readouterr().err.split())
    assert cli.main(["guess", "ase:g2/H2O", "-o", str(tmp_path / "g.npz"), "--frame", "1"]) == 1
    assert "no frame 1; the file has 1" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []
