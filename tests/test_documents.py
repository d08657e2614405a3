"""The commands of the README exist, and the demo runs; its snippets are in test_docs."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from support import ROOT


def test_readme_commands_are_targets() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    commands = re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert {"demo", "test"} <= set(commands) <= targets


def test_demo_prints_every_row() -> None:
    command = [sys.executable, str(ROOT / "examples" / "demo.py"), "--molecule", "ethanol", "--basis", "sto-3g"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=None)
    rows = [[cell.strip() for cell in line.split("│")] for line in done.stdout.splitlines() if "ethanol" in line]
    minao, ml, quick, both = rows
    assert [row[2] for row in rows] == ["minao", "ml", "minao, accelerate()", "ml, accelerate()"]
    assert int(ml[3]) < int(minao[3])
    assert int(quick[4]) == int(both[4]) == 2 < int(minao[4])
    for row in rows:
        assert float(row[6]) == pytest.approx(float(minao[6]), abs=1e-8)
