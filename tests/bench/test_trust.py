"""mlham trust: verdicts on states, the stability of the higher one, and resumed runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from ase.build import molecule
from ase.io import write

from pyscf_mlham import cli
from pyscf_mlham.bench import runner, trust
from pyscf_mlham.bench.measure import Row, Task, measure
from pyscf_mlham.bench.molecules import Input
from pyscf_mlham.bench.protocol import TRACK, Protocol
from pyscf_mlham.bench.results import RESULTS, read_results
from support.benchmarked import SMALL, run_one, water
from support.molecules import mole

pytestmark = pytest.mark.usefixtures("quick_commands")

MINAO = {"converged": True, "e_tot": -76.0, "s2": 0.75}


def run(**others: Any) -> Row:
    return Row("k", "A", 3, 7, 9, "hf", "sto-3g", "UHF", "ml", "scf", **(MINAO | others))


@pytest.mark.parametrize(
    ("ours", "plain", "expected"),
    [
        ({"e_tot": -76.0 + 9e-9, "s2": 0.75009}, {}, "same"),
        ({"e_tot": -76.0 + 2e-8}, {}, "higher"),
        ({"e_tot": -76.0 - 2e-8}, {}, "lower"),
        ({"s2": 0.752}, {}, "other S²"),
        ({"converged": False}, {}, "not converged"),
        ({}, {"converged": False}, "plain not converged"),
        ({"converged": False}, {"converged": False}, "both not converged"),
        ({"error": "no memory"}, {}, "failed"),
    ],
)
def test_verdict(ours: dict[str, Any], plain: dict[str, Any], expected: str) -> None:
    assert trust.verdict(run(**ours), run(**plain), 1e-8) == expected


def test_every_way_of_water_ends_in_the_same_state_and_is_not_run_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["trust", "ase:g2/H2O", "--against", "plain", *SMALL[:-1], "--report", str(tmp_path)]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "7 runs: 7 same" in printed
    assert "8 of 8: g2:H2O, " in printed
    rows = {f"{row.guess}/{row.solver}": row for row in read_results(tmp_path / RESULTS).rows}
    assert len(rows) == 8
    assert rows["track/scf"].full_builds < rows["minao/scf"].full_builds
    text, page = (tmp_path / "trust.md").read_text(), (tmp_path / "trust.html").read_text()
    for way in trust.WAYS:
        assert f"| {way} " in text
        assert way in page
    assert 'class="verdict good"' in page
    lines = [json.loads(line) for line in (tmp_path / trust.LINES).read_text().splitlines()]
    assert {(line["way"], line["verdict"], line["plain_builds"]) for line in lines} == {
        (way, "same", rows["minao/scf"].full_builds) for way in trust.WAYS
    }
    assert all(abs(line["difference"]) < 1e-8 for line in lines)
    monkeypatch.setattr(runner, "engine", lambda *_: lambda tasks: map(pytest.fail, tasks))
    assert cli.main(command) == 0


def test_the_higher_of_two_states_is_analysed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stretched H2: PySCF's minao ends in the restricted saddle point, scc in the broken symmetry."""
    atoms = molecule("H2")
    atoms.positions *= 3
    write(tmp_path / "in.xyz", atoms)
    command = ["trust", str(tmp_path / "in.xyz"), "--ways", "scc", *SMALL, "--scf", "uhf", "--report", str(tmp_path)]
    assert cli.main(command) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 runs: 1 lower" in printed
    assert "unstable" in printed
    assert 'class="verdict open"' in (tmp_path / "trust.html").read_text()
    results = read_results(tmp_path / RESULTS)
    by_guess = {row.guess: row for row in results.rows if row.stable is None}
    plain, ours = by_guess["minao"], by_guess["scc"]
    assert [(row.guess, row.stable) for row in results.rows if row.stable is not None] == [("minao", False)]
    assert ours.e_tot < plain.e_tot
    assert ours.s2 > 0.5 > plain.s2
    swapped = [
        dataclasses.replace(row, e_tot=other.e_tot, s2=other.s2, e_err=None)
        for row, other in ((plain, ours), (ours, plain))
    ]
    judged = trust.verdicts(dataclasses.replace(results, rows=swapped))
    assert [one.text for one in judged] == ["higher"]
    assert trust.is_bad(judged)


def test_stability_is_that_of_pyscf() -> None:
    row = measure(Task(water(), TRACK, "twolevel", 0, Protocol(xc="hf", basis="sto-3g"), stability=True))
    assert (row.error, row.stable) == ("", True)
    assert run_one("minao").stable is None
    general = measure(
        Task(water(), trust.MINAO, "scf", 0, Protocol(xc="hf", basis="sto-3g", scf="ghf"), stability=True)
    )
    mf = mole(basis="sto-3g").GHF().run()
    assert general.stable == mf.stability(return_status=True)[1]


def test_radicals_are_ions_of_closed_shells() -> None:
    found = trust.with_radicals(Input([water(), water(1, 1, "cation")], [], []))
    assert trust.with_radicals(found).molecules == found.molecules  # no ion twice, nor "cation"
    states = [(one.name, one.charge, one.spin) for one in found.molecules]
    assert states == [("water", 0, 0), ("cation", 1, 1), ("water-", -1, 1)]
    two_apart = trust.with_radicals(Input([water(), water(2, 0, "dication")], [], []))
    assert [one.charge for one in two_apart.molecules] == [0, 2, 1, -1, 3]


def test_unknown_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trust", "ase:g2/H2O", "--ways", "mnl", "--report", str(tmp_path)]) == 1
    assert "mnl" in capsys.readouterr().err
