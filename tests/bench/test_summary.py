"""Tables and verdicts of methods that cannot simply be compared."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pyscf_mlham.bench.figures import draw, key_methods
from pyscf_mlham.bench.measure import ONE_LEVEL, Row
from pyscf_mlham.bench.protocol import Protocol
from pyscf_mlham.bench.report import html
from pyscf_mlham.bench.results import Results, results_from_rows
from pyscf_mlham.bench.summary import Method, sections, summarise
from pyscf_mlham.bench.tables import _sheet, print_summary, summary_table


def run(molecule: str, guess: str = "minao", solver: str = "scf", repeat: int = 0, **others: Any) -> Row:
    """A run that nobody made; water's size, ten cycles of a second in all."""
    found: dict[str, Any] = {"natm": 3, "nao": 24, "electrons": 10, "xc": "b3lyp", "basis": "def2-svp", "scf": "RKS"}
    cycles = others.get("cycles", 10 if guess == "minao" else 6)
    if not others.get("error"):
        found |= {"converged": True, "cycles": cycles, "full_builds": cycles + 2, "coarse_builds": 0, "guess_builds": 0}
        found |= {"guess_s": 0.1, "total_s": 0.1 * cycles, "guess_cpu_s": 0.1, "total_cpu_s": 0.1 * cycles}
        found |= {"e_tot": -76.0, "s2": 0.0, "gap": 0.3, "gradients": [1.0, 1e-5]}
    key = f"{molecule} {guess} {solver} {repeat}"
    return Row(key=key, molecule=molecule, guess=guess, solver=solver, repeat=repeat, **(found | others))


def results(*rows: Row) -> Results:
    """What those runs make, with references of three molecules."""
    return results_from_rows([*(run(name) for name in "ABC"), *rows], Protocol(), [], [], 1e-8)


def page_of(found: Results) -> str:
    """Its page, without plots."""
    return html(found, {})


def method(found: Results, guess: str, solver: str = "scf") -> Method:
    """Its statistics of one method."""
    return next(m for m in summarise(found) if (m.guess, m.solver) == (guess, solver))


def summary_cells(of: Method) -> list[str]:
    """Texts of the table of statistics."""
    return _sheet(results(), "", [of]).rows[0]


def test_methods_of_other_molecules_are_named_everywhere() -> None:
    found = results(run("A", "ml"), run("B", "ml"), run("C", "ml"), run("A", "ml", "twolevel"))
    words = "ml, twolevel: 2 of 3 molecules missing"
    console = Console(file=io.StringIO(), width=80)
    print_summary(found, console)
    page = page_of(found)
    for text in (summary_table(found), page, " ".join(console.file.getvalue().split())):
        assert words in text
    assert summary_cells(method(found, "ml", "twolevel"))[0] == "ml (1 of 3 molecules)"
    assert summary_cells(method(found, "ml"))[0] == "ml"
    assert found.problems == []
    assert "Same energies" not in page
    assert page.count("1 of 3 molecules") == 1
    assert 'class="verdict open"' in page
    assert "Same energies" in page_of(results(*(run(name, "ml") for name in "ABC")))


def test_runs_of_several_machines_are_reported() -> None:
    """Even where the tables look well: times of one library stand beside those of another."""
    versions = {"pyscf 2.13, BLAS: pyscf Barcelona": "A", "pyscf 2.13, BLAS: pyscf Haswell": "B"}
    found = results(*(run(name, "ml", versions=words) for words, name in versions.items()), run("C", "ml"))
    alike = results(run("A", "ml"), run("B", "ml"), run("C", "ml", versions="another", error="no memory"))
    assert not [text for text in alike.notices if "versions" in text]
    (notice,) = found.notices
    assert notice.startswith("runs on 3 sets of versions or machines")
    page = page_of(found)
    assert "Same energies" not in page
    for words in versions:
        assert words in notice
        assert words in page


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        (Protocol(), "SCF on grid level 1 to 1e-08 Ha first"),
        (Protocol(grid_level=0, conv_tol=1e-7), "SCF on grid level 0 to 1e-07 Ha first"),
        (Protocol(density_fit=True, grid_level=1), "SCF on grid level 0 to 1e-08 Ha first"),
        (Protocol(xc="hf"), "SCF to 1e-08 Ha first"),
        (Protocol(xc="hf", density_fit=True), "not available at this level"),
    ],
)
def test_the_rival_is_described_as_it_was_run(protocol: Protocol, words: str) -> None:
    rows = [run(name) for name in "AB"]
    assert words in " ".join(page_of(results_from_rows(rows, protocol, [], [], 1e-8)).split())


def test_what_failed_is_missing_from_the_means_and_reported() -> None:
    failed = [run(name, "ml", repeat=k, error="no memory") for name in "AB" for k in range(2)]
    found = results(*failed, run("B", "ml", repeat=2), run("C", "ml"))
    assert found.notices == []
    cells = summary_cells(method(found, "ml"))
    assert (cells[0], cells[8]) == ("ml (2 of 3 molecules)", "0, 4 failed")
    assert found.problems == [
        "A, ml, scf: 2 of 2 runs: failed: no memory",
        "B, ml, scf: 2 of 3 runs: failed: no memory",
    ]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"e_tot": -76.0 + 2e-8}, "2.0e-08 Ha above the reference, which may be incomplete convergence"),
        ({"e_tot": -76.0 - 2e-8}, "2.0e-08 Ha below the reference, which may be incomplete convergence"),
        ({"e_tot": -76.0 - 2e-5}, "2.0e-05 Ha below the reference: another state"),
        ({"e_tot": -76.0 + 5e-7, "s2": 0.02}, "5.0e-07 Ha above the reference: another state"),
        ({"e_tot": -76.0 + 5e-7, "gap": 0.298}, "5.0e-07 Ha above the reference: another state"),
    ],
)
def test_another_state_needs_evidence(other: dict[str, float], words: str) -> None:
    found = results(run("A", "ml", **other), run("B", "ml"), run("C", "ml", repeat=1, **other), run("C", "ml"))
    first, second = found.problems
    assert first.startswith(f"A, ml, scf: its energy is {words}")
    assert second.startswith(f"C, ml, scf: 1 of 2 runs: its energy is {words}")
    there = 2 * words.endswith("another state")
    assert method(found, "ml").elsewhere == there
    assert summary_cells(method(found, "ml"))[-1].endswith(", 2 other states") == bool(there)
    page = page_of(found)
    assert page.count('<td class="alarm"') == 3  # two runs, one method
    assert page.count(f'<td class="note">its energy is {words}') == 2


def test_one_repetition_that_does_not_converge_counts_at_the_limit() -> None:
    stuck = run("A", "ml", repeat=1, converged=False, cycles=50)
    found = results(*(run("A", "ml", repeat=k) for k in (0, 2)), stuck, run("B", "ml"), run("C", "ml"))
    case = method(found, "ml").cases["A"]
    assert (case.converged, case.cycles, case.full_builds) == (False, 50, 52)
    assert case.total_cpu_s == pytest.approx(5.0)
    assert found.problems == ["A, ml, scf: 1 of 3 runs: not converged in 50 cycles"]


def test_stored_answers_are_bounds_and_no_methods() -> None:
    answer = "chk:labels.h5#12345678"
    found = results(*(run(name, answer, cycles=2) for name in "ABC"))
    stored = method(found, answer)
    assert stored.is_bound
    assert np.isnan(stored.mean_ratio("builds").value)
    assert key_methods(summarise(found)) == []


def test_runs_that_were_plain_scf_are_called_so() -> None:
    note = f"{ONE_LEVEL}: there is no coarser level"
    rows = [run(name, "minao", "twolevel", note=note * (name < "C")) for name in "ABC"]
    found = results(*rows)
    assert summary_cells(method(found, "minao", "twolevel"))[0] == "minao (plain SCF for 2 of 3)"
    assert "plain SCF for 2 of 3" in page_of(found)


def test_classical_guesses_alone_have_their_plots() -> None:
    found = results(*(run(name, "sap", cycles=11) for name in "ABC"))
    methods = summarise(found)
    assert [m.guess for m in key_methods(methods)] == ["sap"]
    assert "size" in draw(sections(found), found.protocol)
    assert "size" not in draw(sections(results()), Protocol())


def test_the_red_bar_of_a_bad_verdict_is_red() -> None:
    style = page_of(results()).split(".verdict.bad {")[1].split("}")[0]
    assert style.index("border-color:") < style.index("border-left-color:")
