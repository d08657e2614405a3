"""md-bench and opt-bench: honest counts, one path for all, and no work done twice."""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import io
import json
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import SCFError
from ase.io import write
from conftest import assert_close, mole
from rich.console import Console

from pyscf_mlham import cli
from pyscf_mlham.ase import MLHam
from pyscf_mlham.bench import trajectory
from pyscf_mlham.bench.trajectory import Settings, run_trajectory, thermal_momenta
from pyscf_mlham.bench.trajectory_commands import _molecules, add_parsers
from pyscf_mlham.bench.trajectory_summary import summarise
from pyscf_mlham.bench.trajectory_table import heading, print_tables
from pyscf_mlham.errors import DataError

QUICK = Settings(xc="hf", basis="sto-3g", runs=("history", "scanner", "aspc", "history/twolevel"), steps=4)


def water() -> Atoms:
    return Atoms("OH2", [(0, 0, 0.13), (0, 0.76, -0.47), (0.1, -0.8, -0.5)])


def test_counts_are_those_of_pyscf(tmp_path: Path) -> None:
    steps = run_trajectory("water", [water()], QUICK, tmp_path, Console(quiet=True))
    assert len(steps) == 5
    scanner = mole([("O", (0, 0, 0))] + [("H", (0, 0, 1 + i)) for i in range(2)], basis="sto-3g").RHF().as_scanner()
    for step in steps:
        energy = scanner(np.array(step["positions"]))
        for name, row in step["runs"].items():
            assert row["energy"] == pytest.approx(energy, abs=1e-7)
            assert row["builds"] == (row["cycles"] if name.endswith("twolevel") else row["cycles"] + 2)
        assert abs(step["runs"]["scanner"]["cycles"] - scanner.cycles) <= 1
        assert step["runs"]["history/twolevel"]["builds"] <= 2
    summary = summarise(steps, "md")
    assert summary["history"]["cycles"] < summary["aspc"]["cycles"] < summary["scanner"]["cycles"]
    assert summary["scanner"]["energy_error"] == 0
    assert summary["history"]["energy_error"] < 1e-7
    path = np.array([step["positions"] for step in steps])
    assert 1e-3 < np.abs(np.diff(path, axis=0)).max() < 0.1  # Angstrom in half a femtosecond


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = Console(quiet=True)
    whole = run_trajectory("water", [water()], QUICK, tmp_path / "whole", quiet)
    asked: list[int] = []
    calculate = trajectory.Panel.calculate

    def counted(self: trajectory.Panel, *args: object, **kwargs: object) -> None:
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(1)
        calculate(self, *args, **kwargs)

    monkeypatch.setattr(trajectory.Panel, "calculate", counted)
    with pytest.raises(KeyboardInterrupt):
        run_trajectory("water", [water()], QUICK, tmp_path / "cut", quiet)
    monkeypatch.undo()
    file = tmp_path / "cut" / "water" / "steps.jsonl"
    assert len(file.read_text().splitlines()) == 4
    with file.open("a") as torn:
        torn.write('{"last": fal')
    again = run_trajectory("water", [water()], QUICK, tmp_path / "cut", quiet)
    assert len(again) == 5
    assert_close(again[-1]["positions"], whole[-1]["positions"], 1e-6)
    with pytest.raises(DataError, match="other settings"):
        run_trajectory("water", [water()], Settings(steps=9), tmp_path / "cut", quiet)
    heavier = water()
    heavier.symbols[0] = "S"
    with pytest.raises(DataError, match="another geometry"):
        run_trajectory("water", [heavier], QUICK, tmp_path / "cut", quiet)


def test_a_run_may_be_made_longer(tmp_path: Path) -> None:
    quiet = Console(quiet=True)
    short = run_trajectory("water", [water()], dataclasses.replace(QUICK, steps=2), tmp_path, quiet)
    longer = run_trajectory("water", [water()], QUICK, tmp_path, quiet)
    assert (len(short), len(longer)) == (3, 5)
    assert longer[:3] == short
    whole = run_trajectory("water", [water()], QUICK, tmp_path / "whole", quiet)
    assert_close(longer[-1]["positions"], whole[-1]["positions"], 1e-6)
    assert run_trajectory("water", [water()], dataclasses.replace(QUICK, steps=1), tmp_path, quiet) == short[:2]


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "water").mkdir()
    other = os.open(tmp_path / "water", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(DataError, match="another benchmark"):
        run_trajectory("water", [water()], QUICK, tmp_path, Console(quiet=True))
    os.close(other)
    assert (
        len(run_trajectory("water", [water()], dataclasses.replace(QUICK, steps=0), tmp_path, Console(quiet=True))) == 1
    )


def test_commands_write_their_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    geometry = tmp_path / "two.xyz"
    nearby = water()
    nearby.positions[1, 1] += 1e-6
    write(geometry, [water(), nearby])
    common = ["--xc", "hf", "--basis", "sto-3g", "--strategy", "history,scanner"]
    out = tmp_path / "opt"
    assert cli.main(["opt-bench", str(geometry), "--out", str(out), "--frames", "1", *common]) == 0
    report = json.loads((out / "report.json").read_text())
    steps = report["molecules"]["two-0"]["steps"]
    assert steps[-1]["last"]
    assert report["molecules"]["two-0"]["summary"]["history"]["total_builds"] == sum(
        step["runs"]["history"]["builds"] for step in steps
    )
    assert "| history |" in (out / "report.md").read_text()
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    text = (out / "report.html").read_text()
    tree = ElementTree.fromstring(re.sub(r"<!doctype html>|<meta [^>]*>", "", text))  # every tag is closed
    cells = [[td.text for td in row.iter("td")] for row in tree.iter("tr")]
    total = report["molecules"]["two-0"]["summary"]["history"]["total_builds"]
    assert [row[5] for row in cells if row[:1] == ["history"]] == [str(total)]
    assert "Same answers" in text
    assert not re.search(r"""(?:src|href)=["'](?!#)""", text)  # nothing is fetched
    md = tmp_path / "md"
    follow = ["md-bench", str(geometry), "--out", str(md), "--frames", ":", "--follow", *common]
    assert cli.main(follow) == 0
    assert "\ntwo, 2 geometries\n" in capsys.readouterr().out
    followed = json.loads((md / "report.json").read_text())["molecules"]["two"]["steps"]
    assert [step["runs"]["history"]["cycles"] for step in followed][1] == 1  # almost the same geometry again
    assert cli.main(["md-bench", str(tmp_path / "none.xyz"), "--out", str(md)]) == 1
    assert cli.main(["md-bench", str(geometry), "--out", str(md), "--frames", "7"]) == 1
    assert cli.main(["md-bench", str(geometry), "--out", str(md), "--frames", "x"]) == 1
    bad = ["md-bench", str(geometry), "--out", str(tmp_path / "bad"), "--strategy", "best"]
    assert cli.main(bad) == 1
    assert "unknown strategy 'best'" in capsys.readouterr().err


QUICKLY = ["--xc", "hf", "--basis", "sto-3g", "--strategy", "history,scanner"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--solver", "foo"], "unknown solver 'foo'; expected one of scf, twolevel"),
        (["--strategy", "scanner/foo"], "unknown solver 'foo'"),
        (["--basis", "nono"], "there is no molecule to run; PySCF cannot make the molecule in basis 'nono'"),
        (["--mult", "2"], "there is no molecule to run; 10 electrons cannot have multiplicity 2"),
        (["--steps", "-1"], "--steps -1: expected 0 or more"),
        (["--timestep", "0"], "--timestep 0.0: expected more than zero"),
        (["--temperature", "-1"], "--temperature -1.0: expected zero or more"),
        (["--conv-tol", "0"], "--conv-tol 0.0: expected more than zero"),
        (["--xc", "b3lpy"], "PySCF knows no such functional"),
        (["--model", "nobody"], "neither a shipped model"),
        (["--out", "/proc/none"], "/proc/none: it cannot be made: No such file or directory"),
    ],
)
def test_wrong_arguments_are_said_at_once(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "water.xyz", water())
    command = ["md-bench", str(tmp_path / "water.xyz"), "--out", str(tmp_path / "out"), *QUICKLY, *arguments]
    assert cli.main(command) == 1
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="--steps 0: expected 1 or more"):
        Settings(kind="opt", steps=0)


def test_a_molecule_that_fails_costs_no_other_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [water(), water(), water()]
    frames[0].info = {"name": "impossible", "mult": 2}
    frames[1].info = {"name": "unlucky"}
    frames[2].info = {"name": "well"}
    write(tmp_path / "in.xyz", frames, format="extxyz")
    calculate = trajectory.Panel.calculate
    asked: list[int] = []

    def failing(self: trajectory.Panel, *args: Any, **kwargs: Any) -> None:
        asked.append(1)
        if len(asked) == 4:  # the first molecule needs one, and the second one its third
            raise SCFError("it did not converge")
        calculate(self, *args, **kwargs)

    monkeypatch.setattr(trajectory.Panel, "calculate", failing)
    out = tmp_path / "out"
    command = ["md-bench", str(tmp_path / "in.xyz"), "--frames", ":", "--steps", "2", "--out", str(out), *QUICKLY]
    assert cli.main(command) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "problem: impossible: failed: InputError: 10 electrons cannot have multiplicity 2" in printed
    assert "problem: unlucky: failed: SCFError: it did not converge" in printed
    report = json.loads((out / "report.json").read_text())
    assert [len(report["molecules"][name]["steps"]) for name in ("impossible", "unlucky", "well")] == [0, 2, 3]
    assert len(report["problems"]) == 2
    page = (out / "report.html").read_text()
    assert "unlucky, 2 geometries (failed)" in page
    assert "<h2>impossible, 0 geometries (failed)</h2>" in page
    assert page.index("it did not converge") < page.index("<table>")
    monkeypatch.undo()
    assert cli.main(command) == 1  # the impossible one is left, the unlucky one goes on
    report = json.loads((out / "report.json").read_text())
    assert [len(report["molecules"][name]["steps"]) for name in ("impossible", "unlucky", "well")] == [0, 3, 3]


@pytest.mark.filterwarnings("ignore:MLHam. the model is not used")
def test_a_model_that_does_not_serve_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in.xyz", molecule("SiH4"))
    out = tmp_path / "out"
    command = ["md-bench", str(tmp_path / "in.xyz"), "--steps", "1", "--out", str(out), "--xc", "hf"]
    assert cli.main([*command, "--basis", "sto-3g", "--strategy", "ml,ml+history,minao,scanner"]) == 0
    text = (out / "report.md").read_text()
    assert "| ml (minao for 2 of 2) |" in text
    assert "| ml+history (no model for 2 of 2) |" in text
    assert "| minao |" in text
    words = "in-0: without the model: ml at 2 of 2 geometries, ml+history at 2 of 2 geometries (element Si"
    for page in (text, (out / "report.html").read_text()):
        assert words in page
    assert words in " ".join(capsys.readouterr().out.split())


def chosen(source: object, *arguments: str) -> dict[str, list[Atoms]]:
    parser = argparse.ArgumentParser()
    add_parsers(parser.add_subparsers())
    return _molecules(parser.parse_args(["md-bench", str(source), "--out", "out", *arguments]))


AMMONIUM = (
    "ammonium\n  made by hand\n\n  5  4  0  0  0  0  0  0  0  0999 V2000\n"
    "    0.0000    0.0000    0.0000 N   0  0\n    0.5900    0.5900    0.5900 H   0  0\n"
    "   -0.5900   -0.5900    0.5900 H   0  0\n   -0.5900    0.5900   -0.5900 H   0  0\n"
    "    0.5900   -0.5900   -0.5900 H   0  0\n"
    "  1  2  1  0\n  1  3  1  0\n  1  4  1  0\n  1  5  1  0\nM  CHG  1   1   1\nM  END\n$$$$\n"
)


def test_charges_of_sdf_files_are_run_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "two.sdf"
    path.write_text(AMMONIUM.replace("ammonium", "other") + AMMONIUM)
    assert list(chosen(path, "--frames", ":")) == ["other", "ammonium"]
    ((name, (atoms,)),) = chosen(path, "--frames", "1").items()
    assert (name, MLHam().charge_and_spin(atoms)) == ("ammonium", (1, 0))
    out = tmp_path / "out"
    assert cli.main(["md-bench", str(path), "--frames", "1", "--steps", "0", "--out", str(out), *QUICKLY]) == 0
    words = "ammonium, charge +1, 1 geometries"
    assert words in capsys.readouterr().out
    assert words in (out / "report.md").read_text()
    assert words in (out / "report.html").read_text()
    report = json.loads((out / "report.json").read_text())["molecules"]["ammonium"]
    assert (report["charge"], report["mult"]) == (1, 1)


def test_headings_say_what_is_not_the_lowest_multiplicity() -> None:
    steps: dict[str, Any] = {"steps": [], "error": ""}
    assert heading("O", steps | {"charge": -1, "mult": 2}) == "O, charge -1, 0 geometries"
    assert heading("O2", steps | {"charge": 0, "mult": 3}) == "O2, multiplicity 3, 0 geometries"


def test_members_of_collections_have_their_own_spin() -> None:
    found = chosen("ase:g2/O2,H2O", "--frames", ":")
    assert {name: MLHam().charge_and_spin(atoms) for name, (atoms,) in found.items()} == {
        "g2_O2": (0, 2),
        "g2_H2O": (0, 0),
    }


def test_bad_frames_matter_only_where_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "in.xyz"
    write(path, [water(), water()], format="xyz")
    path.write_text(path.read_text() + "2\n\nH 0 0 zero\nH 0 0 1\n")
    assert list(chosen(path, "--frames", ":2")) == ["in-0", "in-1"]
    with pytest.raises(DataError, match=r"in.xyz, frame 2: cannot be read \(line 13: expected an element"):
        chosen(path, "--frames", "1:")
    with pytest.raises(DataError, match=r"none.xyz: cannot be read \(there is no such file\)"):
        chosen(tmp_path / "none.xyz")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"charge": 1, "mult": 2}, "frame 1 of those to follow has charge 1 and multiplicity 2, the first one 0 and 1"),
        ({"mult": 3}, "frame 1 of those to follow has charge 0 and multiplicity 3"),
        ({"mult": 2}, "10 electrons cannot have multiplicity 2"),
    ],
)
def test_frames_to_follow_are_of_one_state(
    other: dict[str, int], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [water(), water()]
    frames[1].info.update(other)
    write(tmp_path / "in.xyz", frames, format="extxyz")
    out = tmp_path / "out"
    assert cli.main(["md-bench", str(tmp_path / "in.xyz"), "--frames", ":", "--follow", "--out", str(out)]) == 1
    assert words in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_frames_to_follow_are_of_one_molecule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in.xyz", [water(), molecule("NH3")])
    command = ["md-bench", str(tmp_path / "in.xyz"), "--frames", ":", "--follow", "--out", str(tmp_path / "out")]
    assert cli.main(command) == 1
    assert "--follow needs frames of the same atoms" in " ".join(capsys.readouterr().err.split())


def test_charge_and_multiplicity_are_those_of_the_frame_or_the_command(tmp_path: Path) -> None:
    geometry = tmp_path / "two.xyz"
    own = water()
    own.info["spin"] = 0
    write(geometry, [water(), own], format="extxyz")
    parser = argparse.ArgumentParser()
    add_parsers(parser.add_subparsers())
    command = ["opt-bench", str(geometry), "--frames", ":", "--charge", "2", "--mult", "3", "--out", str(tmp_path)]
    (first,), (second,) = _molecules(parser.parse_args(command)).values()
    assert MLHam().charge_and_spin(first) == (2, 2)
    assert MLHam().charge_and_spin(second) == (2, 0)


def test_energies_that_differ_are_said_in_red(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    geometry = tmp_path / "water.xyz"
    write(geometry, water())
    command = [
        "md-bench",
        str(geometry),
        "--out",
        str(tmp_path / "md"),
        "--xc",
        "hf",
        "--basis",
        "sto-3g",
        "--steps",
        "1",
    ]
    command += ["--strategy", "history,scanner"]
    assert cli.main(command) == 0
    file = tmp_path / "md" / "water-0" / "steps.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[-1]["runs"]["history"]["energy"] += 3e-6
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    capsys.readouterr()
    assert cli.main(command) == 1
    assert "water-0, history: an energy differs from that of scanner by 3.0e-06 Ha" in capsys.readouterr().out
    assert 'class="verdict bad"' in (tmp_path / "md" / "report.html").read_text()


def test_tables_fit_a_narrow_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    summary = {"cycles": 12.34, "builds": 14.34, "most_builds": 16, "total_builds": 1140, "coarse": 12.3}
    summary |= {"first_cycles": 12, "seconds": 123.4, "energy_error": 2e-10, "why_without_model": "of [its] basis"}
    runs = {name: summary | {"without_model": count} for name, count in (("ml+history", 9), ("scanner/twolevel", 0))}
    found = {"water": {"steps": [{}] * 41, "summary": runs, "error": ""}}
    print_tables(found, Settings(), Console(width=80))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "|" not in "".join(lines)
    shown = [" ".join(line.split()[-8:]) for line in lines if "1140" in line]
    assert shown == ["12.34 14.34 16 1140 12.3 12 123.4 2.0e-10"] * 2
    first, second = (" ".join(line.split()) for line in lines[3:5])
    assert first == "mean mean most all coarse first s per dE"
    assert second == "strategy cycles builds builds builds cycles cycles step / Ha"
    assert "(no model for 9 of 41)" in " ".join(line[:26].strip() for line in lines)
    assert "of [its] basis" in " ".join(lines)


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_told_where_no_bar_can_be(terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyscf_mlham.progress.SECONDS", -1.0)
    write(tmp_path / "in.xyz", water())
    parser = argparse.ArgumentParser()
    add_parsers(parser.add_subparsers())
    command = ["md-bench", str(tmp_path / "in.xyz"), "--steps", "1", "--out", str(tmp_path / "out"), *QUICKLY]
    args = parser.parse_args(command)
    console = Console(file=io.StringIO(), width=160, force_terminal=terminal)
    assert args.run(args, console) == 0
    printed = console.file.getvalue()
    for words in ("in-0: 1 of 2 geometries\n", "in-0: 2 of 2 geometries\n", "in-0, 2 geometries: done in "):
        assert (words in printed) != terminal


def test_momenta_are_thermal() -> None:
    atoms = Atoms("H200", np.arange(600).reshape(200, 3))
    momenta = thermal_momenta(atoms, 300, seed=1)
    assert_close(momenta.sum(axis=0), 0, 1e-12)
    atoms.set_momenta(momenta)
    assert atoms.get_temperature() == pytest.approx(300, rel=0.15)
    assert_close(thermal_momenta(atoms, 300, seed=1), momenta, 0)
