"""The tutorials run, what the site shows is up to date, and the README's snippets each run alone."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from support import ROOT

DOCS = ROOT / "docs"
FAST = ("dynamics", "threads")
SLOW = (
    "crystals", "first", "functionals", "ions", "oneshot", "optimise", "parallel", "screening", "solvents", "train"
)  # fmt: skip


def run(script: Path, folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_tutorial_runs(name: str, tmp_path: Path) -> None:
    assert run(DOCS / "tutorials" / f"{name}.py", tmp_path)


def test_every_tutorial_has_a_page_an_output_and_a_test() -> None:
    scripts = {path.stem for path in DOCS.glob("tutorials/*.py")}
    assert scripts == {*FAST, *SLOW}
    assert scripts == {path.stem for path in DOCS.glob("tutorials/*.out")}
    navigation = (ROOT / "mkdocs.yml").read_text()
    for name in scripts:
        page = (DOCS / "tutorials" / f"{name}.md").read_text()
        assert f"docs/tutorials/{name}.py" in page and f"docs/tutorials/{name}.out" in page
        assert f"tutorials/{name}.md" in navigation


def test_outputs_have_no_times_and_no_temporary_names() -> None:
    cleaned = module("run_tutorials").cleaned
    for path in DOCS.glob("tutorials/*.out"):
        assert path.read_text() == cleaned(path.read_text())


def test_benchmark_tables_are_those_of_the_results() -> None:
    benchmarks = module("make_benchmarks")
    page = (DOCS / "benchmarks.md").read_text()
    for name in benchmarks.RESULTS:
        assert (DOCS / "tables" / f"{name}.md").read_text() == benchmarks.table(name)
        assert f"docs/tables/{name}.md" in page
    others = {"optimise": "optimisations", "states": "states", "differences": "differences"}
    for name, function in others.items():
        assert (DOCS / "tables" / f"{name}.md").read_text() == getattr(benchmarks, function)()
        assert f"docs/tables/{name}.md" in page
    for name in benchmarks.LARGE:
        assert (DOCS / "tables" / f"large-{name}.md").read_text() == benchmarks.large(name)
        assert f"docs/tables/large-{name}.md" in page


def test_command_line_page_has_every_command() -> None:
    page = (DOCS / "guides" / "cli.md").read_text()
    usage = subprocess.run([sys.executable, "-m", "pyscf_mlham", "--help"], capture_output=True, text=True, check=True)
    commands = re.findall(r"^    ([a-z-]+)(?:  |$)", usage.stdout, flags=re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        assert f"\n## {command}\n" in page


def test_layout_page_has_every_module() -> None:
    page = (DOCS / "guides" / "layout.md").read_text()
    for path in (ROOT / "pyscf_mlham").iterdir():
        if path.name.startswith("_") or path.suffix not in ("", ".py"):
            continue
        if path.is_dir() and not (path / "__init__.py").exists():  # what an earlier version left behind
            continue
        name = f"{path.name}/" if path.is_dir() else path.stem
        assert f"`{name}`" in page, name


def test_schema_page_has_every_dataset() -> None:
    from pyscf_mlham.data import schema

    page = (DOCS / "guides" / "formats.md").read_text()
    names = schema.FORMAT, schema.CHANGES, schema.HEAD["ao_convention"]
    for key in (*schema.COUNTS, *schema.SCALARS, *schema.TEXTS, *schema.RAGGED, *names):
        assert f"`{key}`" in page, key


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("index", range(len(snippets())))
def test_readme_snippets_run_alone(index: int, tmp_path: Path) -> None:
    script = tmp_path / "snippet.py"
    script.write_text(snippets()[index])
    run(script, tmp_path)
