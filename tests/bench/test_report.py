"""What mlham bench writes: statistics, Markdown, plots and the page show what was measured."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections import Counter, defaultdict
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from statistics import geometric_mean as geometric_mean_of
from statistics import mean, median

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from pyscf_mlham.bench.figures import draw, svg
from pyscf_mlham.bench.molecules import read_molecules
from pyscf_mlham.bench.protocol import SOLVERS, Protocol, model_hash
from pyscf_mlham.bench.report import BEGIN, END, html, insert_table
from pyscf_mlham.bench.results import RESULTS, Results, methods_of, molecule_of, read_results
from pyscf_mlham.bench.summary import geometric_mean, sections, summarise
from pyscf_mlham.bench.tables import molecule_table, print_summary, summary_table
from pyscf_mlham.errors import DataError
from support import ROOT
from support.molecules import assert_close


def test_statistics_are_those_of_their_names(results: Results) -> None:
    rows = [dataclasses.replace(row, total_cpu_s=1.0 + row.repeat) for row in results.rows if row.guess == "minao"]
    doubled = [
        dataclasses.replace(row, guess="ml", key=row.key.replace("minao", "ml"), total_cpu_s=2 * row.total_cpu_s)
        for row in rows
    ]
    doubled = [dataclasses.replace(row, guess_builds=1) for row in doubled]
    methods = {(m.guess, m.solver): m for m in summarise(dataclasses.replace(results, rows=[*rows, *doubled]))}
    reference, other = methods["minao", "scf"], methods["ml", "scf"]
    assert [case.total_cpu_s for case in reference.cases.values()] == [1.5, 1.5]  # medians over the repetitions
    assert other.mean_ratio("seconds") == pytest.approx((2, 2, 2))
    assert other.mean("builds") == reference.mean("builds") + 1  # a hidden build is a build
    mean = np.exp(np.mean([np.log(b / (b - 1)) for b in other.counted("builds")]))
    assert other.mean_ratio("builds").value == pytest.approx(mean)


@pytest.mark.parametrize("number", [2, 6, 10])
def test_intervals_are_students(number: int) -> None:
    ratios = np.exp(np.random.default_rng(number).normal(-0.4, 0.2, number))
    spread = geometric_mean(ratios)
    half = stats.t.ppf(0.975, number - 1) * stats.sem(np.log(ratios))
    found = np.log([spread.value, spread.low, spread.high])
    assert_close(found, np.log(ratios).mean() + np.array([0, -half, half]), 1e-12)
    assert not geometric_mean(ratios[:1]).has_interval
    assert geometric_mean(np.full(number, 2 / 11)).text() == "0.18"  # equal ones have no interval
    assert geometric_mean(np.array([0.01, 100.0])).text() == "1.00 [0.00, >99]"


def test_intervals_cover_what_they_promise() -> None:
    random, hits = np.random.default_rng(1), 0
    for _ in range(1000):
        spread = geometric_mean(np.exp(random.normal(-0.4, 0.15, 6)))
        hits += spread.low <= np.exp(-0.4) <= spread.high
    assert 930 <= hits <= 970


def test_a_single_molecule_has_no_intervals_and_the_page_has_a_note(results: Results) -> None:
    name = results.rows[0].molecule
    one = dataclasses.replace(results, rows=[row for row in results.rows if row.molecule == name])
    plots = dict.fromkeys(("builds", "time"), "")
    for text in (summary_table(one), html(one, plots)):
        assert "a single molecule" in text
        assert not re.search(r"\d \[\d|with 95 percent|Bars:", text)
    assert "Student's t on their logarithms" in summary_table(results)


def test_the_oracle_is_a_bound_and_no_method(results: Results) -> None:
    methods = {(m.guess, m.solver): m for m in summarise(results)}
    oracle = methods["oracle", "scf"]
    assert oracle.is_bound
    assert oracle.mean("cycles") <= 2
    assert np.isnan(oracle.mean_ratio("seconds").value)
    assert all(case.guess_builds >= 2 for case in oracle.cases.values())
    assert all(case.occupied_mae < 1e-4 for case in oracle.cases.values())


def table_of(path: Path) -> list[dict[str, str]]:
    """Rows of the first table of a Markdown file, by heading."""
    lines = path.read_text().split("\n\n")[0].splitlines()
    heading, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[0] == "|")
    return [dict(zip(heading, row, strict=True)) for row in rows]


def test_markdown_table_holds_the_statistics_of_the_json(folder: Path) -> None:
    """Means and ratios made here, from the text of results.json alone."""
    medians: dict[tuple[str, str], dict[str, dict[str, float]]] = defaultdict(dict)
    rows = json.loads((folder / RESULTS).read_text())["rows"]
    for method, molecule in {((row["guess"], row["solver"]), row["molecule"]) for row in rows}:
        runs = [r for r in rows if ((r["guess"], r["solver"]), r["molecule"]) == (method, molecule)]
        assert len(runs) == 2
        medians[method][molecule] = {
            "cycles": median(r["cycles"] for r in runs),
            "builds": median(r["full_builds"] + r["guess_builds"] for r in runs),
            "coarse": median(r["coarse_builds"] for r in runs),
            "seconds": median(r["total_cpu_s"] for r in runs),
            "limit": runs[0]["limit_cpu_s"],
        }
    plain = medians["minao", "scf"]
    table = {(row["guess"], row["solver"]): row for row in table_of(folder / "table.md")}
    assert table.keys() == medians.keys() == set(product(("minao", "huckel", "oracle"), SOLVERS))
    for method, found in medians.items():
        expected = {"cycles": f"{mean(m['cycles'] for m in found.values()):.1f}"}
        if method[0] != "oracle":
            expected["full builds"] = f"{mean(m['builds'] for m in found.values()):.1f}"
            expected["coarse builds"] = f"{mean(m['coarse'] for m in found.values()):.1f}"
            expected["worst"] = f"{max(m['builds'] / plain[name]['builds'] for name, m in found.items()):.2f}"
            for heading, key in (("builds / minao's", "builds"), ("time / minao's", "seconds")):
                ratios = [m[key] / plain[name][key] for name, m in found.items()]
                expected[heading] = f"{geometric_mean_of(ratios):.2f}"
            expected["time / limit"] = f"{geometric_mean_of([m['seconds'] / m['limit'] for m in found.values()]):.2f}"
        assert {heading: table[method][heading].split(" [")[0] for heading in expected} == expected


def test_tables_mark_minao_in_place_of_a_model(results: Results) -> None:
    name = results.rows[0].molecule
    note = "ml not used, minao instead: element Si"
    rows = [
        dataclasses.replace(row, guess="ml", note=note if row.molecule == name else "")
        for row in results.rows
        if (row.guess, row.solver) == ("minao", "scf")
    ]
    count = len({row.molecule for row in rows})
    assert f"| ml (minao for 1 of {count}) | scf |" in summary_table(dataclasses.replace(results, rows=rows))


def test_the_printed_table_fits_a_narrow_terminal(results: Results) -> None:
    names = {"oracle": "ml:my-model#12345678"}
    rows = [dataclasses.replace(row, guess=names.get(row.guess, row.guess)) for row in results.rows]
    rows = [dataclasses.replace(row, response_builds=12) for row in rows]
    rows[-1] = dataclasses.replace(rows[-1], error="no memory")
    console = Console(file=io.StringIO(), width=80)
    print_summary(dataclasses.replace(results, rows=rows, bad_input=["lost.xyz: unreadable"]), console)
    printed = console.file.getvalue()
    begin = next(k for k, line in enumerate(printed.splitlines()) if line.startswith("guess"))
    first, second = printed.splitlines()[begin - 1 : begin + 1]
    assert " ".join(second.split()) == "guess solver cycles builds builds builds ratio ratio limit conv. / Ha"
    assert " ".join(first.split()) == "full coarse resp. build time time / not dE"
    assert max(map(len, printed.splitlines()[begin:-1])) <= 80
    assert "1 failed" in printed
    assert "…" not in printed
    assert printed.count("problem: ") == 1  # bad input was reported when it was read
    assert "lost.xyz" not in printed


def test_failed_runs_come_first_among_the_problems(results: Results) -> None:
    rows = [dataclasses.replace(results.rows[0], e_err=1.0), dataclasses.replace(results.rows[-1], error="no memory")]
    unread = [f"{k}.xyz" for k in range(40)]
    wrong = dataclasses.replace(results, rows=rows, bad_input=unread)
    assert ["no memory" in wrong.problems[0], "1.0e+00 Ha" in wrong.problems[1]] == [True, True]
    assert wrong.problems[2:] == [f"input: {name}" for name in unread]
    page = html(wrong, {})
    assert "and 12 more; results.json holds everything" in page
    assert "no memory" in page


def test_predictions_of_two_levels_alone_are_not_drawn(results: Results) -> None:
    drawn = {}
    for solver in ("scf", "twolevel"):
        rows = [
            dataclasses.replace(row, guess="ml", key=row.key.replace("oracle", "ml"))
            for row in results.rows
            if (row.guess, row.solver) == ("oracle", solver)
        ]
        assert all(row.predicted for row in rows)
        drawn[solver] = draw(sections(dataclasses.replace(results, rows=rows)), results.protocol)
    assert "orbitals" in drawn["scf"]
    assert "orbitals" not in drawn["twolevel"]


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
    page = html(hostile, {})
    assert page.count("<script>") == 1
    assert "&lt;script&gt;|{{rows}}" in page
    assert r"| <script>\|{{rows}} |" in molecule_table(hostile)


def test_reports_are_the_same_every_time(folder: Path, results: Results) -> None:
    plots = {name: svg(figure, name) for name, figure in draw(sections(results), results.protocol).items()}
    assert html(results, plots) == (folder / "report.html").read_text()


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


def test_the_committed_table_is_what_its_command_makes() -> None:
    """The molecules, methods and model of `make table`, and not those of an earlier one."""
    makefile = (ROOT / "Makefile").read_text()
    source, guesses = (re.search(rule, makefile)[1] for rule in (r"\nTEN := (.+)", r"bench \$\(TEN\) --guess (\S+)"))
    results = read_results(ROOT / "examples" / "table" / RESULTS)
    assert {molecule_of(row) for row in results.rows} == {m.key for m in read_molecules([source]).molecules}
    assert set(methods_of(results)) == set(product(guesses.split(","), SOLVERS))
    assert len(results.rows) == 10 * len(methods_of(results))
    model = model_hash("")
    assert {row.model_sha256 for row in results.rows if row.guess == "ml"} == {model}
    here = Protocol(model_sha256=model)
    assert dataclasses.replace(results.protocol, pyscf=here.pyscf, pyscf_mlham=here.pyscf_mlham) == here
    assert (results.problems, results.notices) == ([], [])


def test_inserting_a_table_wants_its_marks(tmp_path: Path, results: Results) -> None:
    paper = tmp_path / "paper.md"
    paper.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        insert_table(paper, results)
        assert paper.read_text() == f"before\n{BEGIN}\n\n{summary_table(results)}\n{END}\nafter\n"
    paper.write_text("nothing\n")
    with pytest.raises(DataError, match="expected one line"):
        insert_table(paper, results)
