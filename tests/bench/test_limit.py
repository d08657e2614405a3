"""The limit of a benchmark: set-up and two full builds of each molecule, timed in the same run."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyscf import df, dft, scf

from pyscf_mlham import cli
from pyscf_mlham.bench.measure import Task, measure
from pyscf_mlham.bench.protocol import LIMIT, Protocol
from pyscf_mlham.bench.results import RESULTS, Results, read_results, results_from_rows
from pyscf_mlham.bench.summary import summarise
from pyscf_mlham.data.geometries import Molecule
from support.benchmarked import HF, SMALL, water

pytestmark = pytest.mark.usefixtures("quick_commands")


def test_the_limit_is_set_up_and_two_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = Protocol(xc="pbe0", basis="sto-3g", density_fit=True, grid_level=0)
    task = Task(water(), LIMIT, "scf", 0, protocol)
    measure(task)  # the warm-up is not to be counted
    slept: list[str] = []

    def slow(kind: Any, name: str, seconds: float) -> None:
        true = getattr(kind, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            slept.append(name)
            time.sleep(seconds)
            return true(*args, **kwargs)

        monkeypatch.setattr(kind, name, wrapped)

    slow(dft.rks.RKS, "get_veff", 0.2)
    slow(df.DF, "build", 0.1)
    slow(scf.hf.SCF, "eig", 2.0)  # the solution of the first Fock matrix is not in the limit
    row = measure(task)
    assert row.error == ""
    assert Counter(slept) == {"get_veff": 2, "build": 1, "eig": 1}
    assert (row.full_builds, row.cycles, row.nao) == (2, None, 7)
    assert 0.3 < row.guess_s < 0.3 + 1
    assert 0.2 < row.total_s - row.guess_s < 0.2 + 1


def test_every_molecule_has_its_limit(folder: Path, results: Results) -> None:
    """Two repetitions of each; rows have their median, and tables the geometric mean of the ratios."""
    assert Counter(row.molecule for row in results.limits) == {"g2:H2O": 2, "g2:HCN": 2}
    assert {row.full_builds for row in results.limits} == {2}
    assert min(row.full_builds for row in results.rows if (row.guess, row.solver) == ("minao", "scf")) > 2
    for row in results.rows:
        own = [limit.total_cpu_s for limit in results.limits if limit.molecule == row.molecule]
        assert row.limit_cpu_s == pytest.approx(np.median(own))
    for method in summarise(results):
        ratios = [case.total_cpu_s / case.limit_cpu_s for case in method.cases.values()]
        expected = np.nan if method.is_bound else np.exp(np.mean(np.log(ratios)))
        assert method.limit_ratio.value == pytest.approx(expected, nan_ok=True)
        assert method.limit_ratio.value > 0.5 or method.is_bound  # more than 1, but for noise of so short times
        if not method.is_bound and np.isfinite(method.mean_ratio("seconds").value):
            reference = next(m for m in summarise(results) if (m.guess, m.solver) == ("minao", "scf"))
            assert method.limit_ratio.value == pytest.approx(
                method.mean_ratio("seconds").value * reference.limit_ratio.value, rel=1e-6
            )
    text = (folder / "table.md").read_text()
    assert "| time / limit |" in text
    assert "<th>time / limit</th>" in (folder / "report.html").read_text()


def test_limits_may_be_left_out_and_measured_later(tmp_path: Path) -> None:
    command = ["bench", "ase:g2/H2", "--guess", "huckel", "--solver", "scf", *SMALL, "--report", str(tmp_path)]
    assert cli.main([*command, "--no-limit"]) == 0
    found = read_results(tmp_path / RESULTS)
    assert (found.limits, {row.limit_s for row in found.rows}) == ([], {None})
    assert "limit" not in (tmp_path / "table.md").read_text()
    assert cli.main(command) == 0
    found = read_results(tmp_path / RESULTS)
    assert len(found.limits) == 1
    assert all(row.limit_s > 0 for row in found.rows)


def test_a_limit_that_fails_is_a_problem() -> None:
    bad = water()._replace(positions=np.zeros((3, 3)))
    found = results_from_rows([measure(Task(bad, LIMIT, "scf", 0, HF))], HF, [], [], 1e-8)
    assert found.rows == []
    assert "limit" in found.problems[0]
    assert "apart" in found.problems[0]


@pytest.mark.parametrize(
    ("kind", "charge", "spin"),
    [
        ("rhf", 0, 0),
        ("uhf", 1, 1),
        ("rohf", 1, 1),
        ("ghf", 0, 0),
        ("rks", 0, 0),
        ("uks", 1, 1),
        ("roks", 1, 1),
        ("gks", 0, 0),
    ],
)
def test_every_kind_of_object_has_a_limit(kind: str, charge: int, spin: int) -> None:
    protocol = Protocol(xc="hf" if kind.endswith("hf") else "pbe", basis="sto-3g", scf=kind, grid_level=0)
    row = measure(Task(water(charge, spin), LIMIT, "scf", 0, protocol))
    assert (row.error, row.full_builds) == ("", 2)
    assert 0 < row.guess_s < row.total_s


@pytest.mark.parametrize("xc", ["hf", "pbe"])
def test_one_electron_has_a_limit(xc: str) -> None:
    atom = Molecule("H", "H", "", np.array([1]), np.zeros((1, 3)), 0, 1)
    row = measure(Task(atom, LIMIT, "scf", 0, Protocol(xc=xc, basis="sto-3g")))
    assert (row.error, row.full_builds) == ("", 2)
