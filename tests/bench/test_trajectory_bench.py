"""md-bench and opt-bench: honest counts, one path for all, and no work done twice."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import re
import sqlite3
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import SCFError
from ase.io import write
from rich.console import Console

from pyscf_mlham import cli
from pyscf_mlham.bench import trajectory
from pyscf_mlham.bench.commands import add_paths
from pyscf_mlham.bench.measure import Row
from pyscf_mlham.bench.protocol import MD, Optimisation
from pyscf_mlham.bench.results import JOURNAL, RESULTS, Folder, Results, read_results, results_from_rows
from pyscf_mlham.bench.summary import heading, sections
from pyscf_mlham.bench.tables import print_summary
from pyscf_mlham.bench.trajectory import run_paths, thermal_momenta
from pyscf_mlham.errors import DataError
from support.benchmarked import QUICKLY
from support.benchmarked import bent_water as water
from support.molecules import assert_close, mole

QUICK = MD(xc="hf", basis="sto-3g", strategy="history,scanner,aspc,history/twolevel", steps=4)


def run_water(settings: MD | Optimisation, folder: Path) -> Results:
    return run_paths({"water": [water()]}, settings, folder, Console(quiet=True))


def steps_of(found: Results, name: str = "water") -> list[dict[str, Row]]:
    """Rows of a molecule by step and by run; the first run of each step has the geometry."""
    rows = [row for row in found.rows if row.molecule == name and not row.error]
    count = len({row.step for row in rows})
    runs = [{f"{r.guess}/{r.solver}".removesuffix("/scf"): r for r in rows if r.step == k} for k in range(count)]
    assert all(next(iter(step.values())).positions for step in runs)
    return runs


def positions(steps: list[dict[str, Row]]) -> np.ndarray:
    return np.array([next(iter(step.values())).positions for step in steps])


def test_counts_are_those_of_pyscf(tmp_path: Path) -> None:
    found = run_water(QUICK, tmp_path)
    steps = steps_of(found)
    assert len(steps) == 5
    scanner = mole([("O", (0, 0, 0))] + [("H", (0, 0, 1 + i)) for i in range(2)], basis="sto-3g").RHF().as_scanner()
    for place, step in zip(positions(steps), steps, strict=True):
        energy = scanner(place)
        for name, row in step.items():
            assert row.e_tot == pytest.approx(energy, abs=1e-7)
            assert row.gap == pytest.approx(scanner.mo_energy[5] - scanner.mo_energy[4], abs=1e-4)
            assert row.full_builds == (row.cycles if name.endswith("twolevel") else row.cycles + 2)
            cheaper = row.coarse_builds + row.response_builds  # a history has them in plain SCF, too
            assert cheaper > 0 if name.endswith("twolevel") else cheaper == 0 or name == "history"
            assert (row.natm, row.nao, row.electrons, row.scf) == (3, 7, 10, "RHF")
        assert abs(step["scanner"].cycles - scanner.cycles) <= 1
        assert step["history/twolevel"].full_builds <= 3
    assert sum(step["history/twolevel"].response_builds for step in steps) > 0
    ((title, methods),) = sections(found)
    by_name = {method.name: method for method in methods}
    assert title == "water, 5 geometries"
    assert by_name["history"].mean("cycles") < by_name["aspc"].mean("cycles") < by_name["scanner"].mean("cycles")
    later = [step["history"].cycles for step in steps[1:]]
    assert by_name["history"].mean("cycles") == pytest.approx(np.mean(later))  # the first geometry is left out
    assert by_name["history"].total_of("builds") == sum(step["history"].full_builds for step in steps)
    assert by_name["scanner"].largest_error == 0
    assert 0 < by_name["history"].largest_error < 1e-7
    assert 1e-3 < np.abs(np.diff(positions(steps), axis=0)).max() < 0.1  # Angstrom in half a femtosecond


def test_a_killed_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = steps_of(run_water(QUICK, tmp_path / "whole"))
    asked: list[int] = []
    calculate = trajectory.Panel.calculate

    def counted(self: trajectory.Panel, *args: object, **kwargs: object) -> None:
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(1)
        calculate(self, *args, **kwargs)

    monkeypatch.setattr(trajectory.Panel, "calculate", counted)
    with pytest.raises(KeyboardInterrupt):
        run_water(QUICK, tmp_path / "cut")
    monkeypatch.undo()
    file = tmp_path / "cut" / JOURNAL
    with contextlib.closing(sqlite3.connect(file)) as journal, journal:
        keys = [key for (key,) in journal.execute("SELECT key FROM entries WHERE key != '' ORDER BY rowid")]
        assert len(keys) == 3 * 4 + 1  # four runs at three geometries, and the limit
        journal.execute("DELETE FROM entries WHERE key = ?", (keys[-1],))  # the last geometry is not whole
    again = steps_of(run_water(QUICK, tmp_path / "cut"))
    assert len(again) == 5
    assert_close(positions(again), positions(whole), 1e-6)
    for step, other in zip(again, whole, strict=True):
        assert {name: row.cycles for name, row in step.items()} == {name: row.cycles for name, row in other.items()}
    for other in (MD(steps=9), Optimisation(xc="hf", basis="sto-3g", strategy=QUICK.strategy)):
        with pytest.raises(DataError, match="another protocol"):
            run_water(other, tmp_path / "cut")
    heavier = water()
    heavier.symbols[0] = "S"
    both = run_paths({"water": [heavier]}, dataclasses.replace(QUICK, steps=0), tmp_path / "cut", Console(quiet=True))
    assert [title for title, _ in sections(both)] == ["water, 1 geometries", "water (2), 5 geometries"]


def test_a_run_may_be_made_longer(tmp_path: Path) -> None:
    short = steps_of(run_water(dataclasses.replace(QUICK, steps=2), tmp_path))
    longer = steps_of(run_water(QUICK, tmp_path))
    assert (len(short), len(longer)) == (3, 5)
    assert longer[:3] == short
    whole = steps_of(run_water(QUICK, tmp_path / "whole"))
    assert_close(positions(longer), positions(whole), 1e-6)
    assert steps_of(run_water(dataclasses.replace(QUICK, steps=1), tmp_path)) == longer  # nothing is thrown away


def test_an_optimisation_that_was_cut_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of its optimiser is not kept; nothing of the first attempt is left among the results."""
    settings = Optimisation(xc="hf", basis="sto-3g", strategy="history,scanner")
    whole = steps_of(run_water(settings, tmp_path / "whole"))
    assert [step["history"].at_minimum for step in whole] == [False] * (len(whole) - 1) + [True]
    calculate = trajectory.Panel.calculate

    def failing(self: trajectory.Panel, *args: object, **kwargs: object) -> None:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(1)
        calculate(self, *args, **kwargs)

    asked: list[int] = []
    monkeypatch.setattr(trajectory.Panel, "calculate", failing)
    with pytest.raises(KeyboardInterrupt):
        run_water(settings, tmp_path / "cut")
    monkeypatch.undo()
    again = run_water(settings, tmp_path / "cut")
    assert_close(positions(steps_of(again)), positions(whole), 1e-6)
    assert len(again.rows) == 2 * len(whole)
    stopped = run_water(dataclasses.replace(settings, steps=2), tmp_path / "short")
    assert heading(stopped.rows) == "water, 2 geometries (stopped before the minimum)"


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    other = Folder(tmp_path, QUICK)
    with pytest.raises(DataError, match="another process is writing"):
        run_water(QUICK, tmp_path)
    other.close()
    assert len(steps_of(run_water(dataclasses.replace(QUICK, steps=0), tmp_path))) == 1


def test_commands_write_their_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    geometry = tmp_path / "two.xyz"
    nearby = water()
    nearby.positions[1, 1] += 1e-6
    write(geometry, [water(), nearby])
    out = tmp_path / "opt"
    assert cli.main(["opt-bench", str(geometry), "--out", str(out), "--frames", "1", *QUICKLY]) == 0
    steps = steps_of(read_results(out / RESULTS), "two:1")
    assert steps[-1]["history"].at_minimum
    total, scanner = (sum(step[name].full_builds for step in steps) for name in ("history", "scanner"))
    heading_line, _, *lines = [line.strip("|").split("|") for line in (out / "table.md").read_text().splitlines()[2:6]]
    table = {
        line[0].strip(): dict(zip(map(str.strip, heading_line), map(str.strip, line), strict=True)) for line in lines
    }
    assert table["history"]["all builds"] == str(total)
    assert table["history"]["builds / scanner's"] == f"{total / scanner:.2f}"
    assert float(table["history"]["time / limit"].split(" ")[0]) > 0
    assert table["history"]["most builds"] == str(max(step["history"].full_builds for step in steps))
    assert (out / "steps-0.png").read_bytes().startswith(b"\x89PNG")
    text = (out / "report.html").read_text()
    assert "<svg" in text
    document = re.sub(r"<!doctype html>|<meta [^>]*>|<script>.*?</script>|<input [^>]*>", "", text, flags=re.DOTALL)
    tree = ElementTree.fromstring(document)  # every tag is closed
    cells = [["".join(td.itertext()) for td in row.iter("td")] for row in tree.iter("tr")]
    assert [row[5] for row in cells if row[:1] == ["history"]] == [str(total)]
    assert "Same energies" in text
    assert not re.search(r"""(?:src|href)=["'](?!#)""", text)  # nothing is fetched
    md = tmp_path / "md"
    follow = ["md-bench", str(geometry), "--out", str(md), "--frames", ":", "--follow", *QUICKLY]
    assert cli.main(follow) == 0
    assert "\ntwo, 2 geometries\n" in capsys.readouterr().out
    followed = steps_of(read_results(md / RESULTS), "two")
    assert [step["history"].cycles for step in followed][1] == 1  # almost the same geometry again
    assert cli.main(["md-bench", str(tmp_path / "none.xyz"), "--out", str(md)]) == 1
    assert cli.main(["md-bench", str(geometry), "--out", str(md), "--frames", "7"]) == 1
    assert cli.main(["md-bench", str(geometry), "--out", str(md), "--frames", "x"]) == 1
    bad = ["md-bench", str(geometry), "--out", str(tmp_path / "bad"), "--strategy", "best"]
    assert cli.main(bad) == 1
    assert "unknown strategy 'best'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--solver", "foo"], "'foo'"),
        (["--strategy", "scanner/foo"], "'foo'"),
        (["--basis", "nono"], "basis 'nono'"),
        (["--mult", "2"], "multiplicity 2"),
        (["--steps", "-1"], "--steps -1"),
        (["--timestep", "0"], "--timestep 0.0"),
        (["--temperature", "-1"], "--temperature -1.0"),
        (["--conv-tol", "0"], "--conv-tol 0.0"),
        (["--xc", "b3lpy"], "b3lpy"),
        (["--model", "nobody"], "nobody"),
        (["--out", "/proc/none"], "/proc/none: it cannot be created"),
    ],
)
def test_wrong_arguments_are_named_before_anything_runs(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "water.xyz", water())
    command = ["md-bench", str(tmp_path / "water.xyz"), "--out", str(tmp_path / "out"), *QUICKLY, *arguments]
    assert cli.main(command) == 1
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="--steps 0"):
        Optimisation(steps=0)


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
        if len(asked) == 3:  # the third geometry of the second molecule, as the first one is left out
            raise SCFError("it did not converge")
        calculate(self, *args, **kwargs)

    monkeypatch.setattr(trajectory.Panel, "calculate", failing)
    out = tmp_path / "out"
    command = ["md-bench", str(tmp_path / "in.xyz"), "--frames", ":", "--steps", "2", "--out", str(out), *QUICKLY]
    assert cli.main(command) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "bad input: " in printed
    assert "in.xyz, frame 0: 10 electrons cannot have multiplicity 2" in printed
    assert re.search(r"problem: unlucky, \w+, scf: .*failed: SCFError: it did not converge", printed)
    found = read_results(out / RESULTS)
    assert [len(steps_of(found, name)) for name in ("impossible", "unlucky", "well")] == [0, 2, 3]
    assert len(found.problems) == 2
    page = (out / "report.html").read_text()
    assert "unlucky, 2 geometries (failed)" in page
    assert "<li>input: " in page
    assert page.index("it did not converge") < page.index("<table")
    monkeypatch.undo()
    assert cli.main(command) == 1  # the impossible one is left, the unlucky one goes on
    found = read_results(out / RESULTS)
    assert [len(steps_of(found, name)) for name in ("impossible", "unlucky", "well")] == [0, 3, 3]
    assert len(found.problems) == 1


@pytest.mark.filterwarnings("ignore:MLHam. the model is not used")
def test_a_model_that_is_not_applicable_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in.xyz", molecule("BeH"))
    out = tmp_path / "out"
    command = ["md-bench", str(tmp_path / "in.xyz"), "--steps", "1", "--out", str(out), "--xc", "hf"]
    assert cli.main([*command, "--basis", "sto-3g", "--strategy", "ml,ml+history,minao,scanner"]) == 0
    text = (out / "table.md").read_text()
    assert "| ml (minao for 2 of 2) |" in text
    assert "| ml+history (no model for 2 of 2) |" in text
    assert "| minao |" in text
    words = "in:0: without the model: ml at 2 of 2 geometries, ml+history at 2 of 2 geometries (element Be"
    for page in (text, (out / "report.html").read_text()):
        assert words in page
    assert words in " ".join(capsys.readouterr().out.split())


def test_headings_have_charge_and_unusual_multiplicity() -> None:
    def title(name: str, **state: int) -> str:
        row = Row("", name, 2, 10, 8, "hf", "sto-3g", "UHF", "history", "scf", step=0, **state)
        return heading([row])

    assert title("O", charge=-1, mult=2) == "O, charge -1, 1 geometries"
    assert title("O2", charge=0, mult=3) == "O2, multiplicity 3, 1 geometries"


def test_energies_that_differ_are_reported_in_red(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "water.xyz", water())
    command = ["md-bench", str(tmp_path / "water.xyz"), "--out", str(tmp_path / "md"), "--steps", "1", *QUICKLY]
    assert cli.main(command) == 0
    file = tmp_path / "md" / RESULTS
    found = read_results(file)
    changed = [
        dataclasses.replace(r, e_tot=r.e_tot + 3e-6 * (r.guess == "history" and r.step == 1)) for r in found.rows
    ]
    file.write_text(dataclasses.replace(found, rows=changed).to_json())
    capsys.readouterr()
    assert cli.main(command) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "water:0, history, scf: 1 of 2 geometries: its energy is 3.0e-06 Ha above the reference" in printed
    assert 'class="verdict bad"' in (tmp_path / "md" / "report.html").read_text()


def test_tables_fit_a_narrow_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    protocol = MD(strategy="ml+history,scanner/twolevel")
    about = {"natm": 3, "nao": 24, "electrons": 10, "xc": "hf", "basis": "sto-3g", "scf": "RHF", "molecule": "water"}
    about |= {"converged": True, "coarse_builds": 12, "total_cpu_s": 123.4, "e_tot": -76.0}
    about |= {"single_builds": 1, "response_builds": 23, "force_cpu_s": 10.0}
    limit = Row(key="water limit", guess="limit", solver="scf", **about | {"total_cpu_s": 20.0})
    rows = [
        Row(
            key=f"water {guess} {solver} {step}", guess=guess, solver=solver, step=step, cycles=12, full_builds=28,
            note="ml not used: of [its] basis" if guess.startswith("ml") and step < 9 else "", **about,
        )
        for guess, solver in protocol.runs
        for step in range(41)
    ]  # fmt: skip
    rows[3] = dataclasses.replace(rows[3], e_tot=-76.0 + 2e-10)
    print_summary(results_from_rows([*rows, limit], protocol, [], [], 1e-7), Console(width=80))
    lines = capsys.readouterr().out.splitlines()
    place = next(k for k, line in enumerate(lines) if line.startswith("water, 41 geometries"))
    table = lines[place + 1 : place + 7]
    assert max(map(len, table)) <= 80
    assert "|" not in "".join(lines)
    shown = [" ".join(line.split()[-10:]) for line in lines if "1148" in line]
    assert shown == [f"12.00 28.00 28 1148 1.0 12.0 23.0 123.40 6.67 {error}" for error in ("2.0e-10", "0")]
    first, second = (" ".join(line.split()) for line in table[:2])
    assert first == "mean mean most all single coarse resp. s per time / dE"
    assert second == "strategy cycles builds builds builds builds builds builds step limit / Ha"
    assert "(no model for 9 of 41)" in " ".join(line[:26].strip() for line in table)
    assert "of [its] basis" in " ".join(lines)


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_without_a_terminal(terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyscf_mlham.progress.SECONDS", -1.0)
    write(tmp_path / "in.xyz", water())
    parser = argparse.ArgumentParser()
    add_paths(parser.add_subparsers())
    command = ["md-bench", str(tmp_path / "in.xyz"), "--steps", "1", "--out", str(tmp_path / "out"), *QUICKLY]
    args = parser.parse_args(command)
    console = Console(file=io.StringIO(), width=160, force_terminal=terminal)
    assert args.run(args, console) == 0
    printed = console.file.getvalue()
    for words in ("in:0: 1 of 2 geometries in ", "in:0: 2 of 2 geometries in ", "in:0, 2 geometries: done in "):
        assert (words in printed) != terminal


def test_momenta_are_thermal() -> None:
    atoms = Atoms("H200", np.arange(600).reshape(200, 3))
    momenta = thermal_momenta(atoms, 300, seed=1)
    assert_close(momenta.sum(axis=0), 0, 1e-12)
    atoms.set_momenta(momenta)
    assert atoms.get_temperature() == pytest.approx(300, rel=0.15)
    assert_close(thermal_momenta(atoms, 300, seed=1), momenta, 0)
