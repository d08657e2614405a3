"""Processors that linear algebra libraries detect, and the advice if PySCF's is wrong."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from rich.console import Console

from pyscf_mlham import blas
from pyscf_mlham.bench.commands import advise


def test_each_library_is_asked_for_itself() -> None:
    """In a process of its own, for libraries choose when they are loaded; every OpenBLAS has Nehalem's kernels."""
    code = "from pyscf_mlham.blas import processors; print(*[f'{k}={v}' for k, v in processors().items()])"
    environment = os.environ | {"OPENBLAS_CORETYPE": "Nehalem"}
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert run.stdout.split() == [f"{name}=Nehalem" for name in blas.processors()]
    assert blas.processors()


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("/home/pyscf/env/lib/python3.11/site-packages/numpy.libs/libscipy_openblas64_-32a4b2a6.so", "numpy"),
        ("/env/lib/python3.11/site-packages/scipy.libs/libscipy_openblas-6cdc3b4a.so", "scipy"),
        ("/env/lib/python3.11/site-packages/pyscf/lib/libopenblas-r0-f650aae0.3.3.so", "pyscf"),
        ("/env/lib/libopenblasp-r0.3.30.so", None),
    ],
)
def test_library_belongs_to_the_package_around_it(
    path: str, owner: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = {"filepath": path, "user_api": "blas", "architecture": "Zen"}
    monkeypatch.setattr(blas, "threadpool_info", lambda: [library])
    assert blas.processors.__wrapped__() == ({owner: "Zen"} if owner else {})


@pytest.mark.parametrize(
    ("found", "given"),
    [
        ({"numpy": "SkylakeX", "pyscf": "Barcelona", "scipy": "SkylakeX"}, True),
        ({"numpy": "Haswell", "pyscf": "Prescott"}, True),
        ({"numpy": "Zen", "pyscf": "Opteron_SSE3"}, True),
        ({"numpy": "Haswell", "pyscf": "Haswell", "scipy": "Haswell"}, False),
        ({"numpy": "SkylakeX", "pyscf": "Haswell"}, False),
        ({"numpy": "Sandybridge", "pyscf": "Prescott"}, False),  # no AVX2: Haswell's kernels would not run
        ({"numpy": "Nehalem", "pyscf": "Nehalem"}, False),
        ({"numpy": "neoversen1", "pyscf": "armv8"}, False),
        ({"pyscf": "Barcelona"}, False),
        ({}, False),
    ],
)
def test_advice_only_if_another_library_is_better(found: dict[str, str], given: bool) -> None:
    text = blas.advice(found)
    assert (text is not None) == given
    if text:
        assert f"for a {found['pyscf']}," in text


def test_benchmarks_print_the_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"numpy": "SkylakeX", "pyscf": "Haswell"}
    monkeypatch.setattr(blas, "processors", lambda: found)
    console = Console(record=True, width=80)
    advise(console)
    assert console.export_text() == ""
    found["pyscf"] = "Barcelona"
    advise(console)
    assert "Barcelona" in console.export_text()
