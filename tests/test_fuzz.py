"""Random inputs: plain PySCF's energy, or an error that names its cause; nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT


@pytest.mark.parametrize(("options", "count"), [(["--light"], 20), pytest.param([], 300, marks=pytest.mark.slow)])
def test_random_inputs(options: list[str], count: int, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tests" / "support" / "fuzz.py"), "--count", str(count), "--seed", "3"]
    (temporary := tmp_path / "temporary").mkdir()
    environment = os.environ | {"TMPDIR": str(temporary)}
    done = subprocess.run(
        [*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len((tmp_path / "fuzz.jsonl").read_text().splitlines()) == count
    assert not list(temporary.glob("fuzz-*"))
