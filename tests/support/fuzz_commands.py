"""Random command lines for `fuzz`, with files, some of them broken."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pyscf_mlham import cli

XYZ = "3\n{comment}\nO 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n"
FILES: dict[str, Callable[[Path], Any]] = {
    "water.xyz": lambda p: p.write_text(XYZ.format(comment="")),
    "cation.xyz": lambda p: p.write_text(XYZ.format(comment="charge=1 mult=2")),
    "impossible.xyz": lambda p: p.write_text(XYZ.format(comment="charge=1 mult=1")),
    "cut.xyz": lambda p: p.write_text(XYZ.format(comment="")[:40]),
    "two.xyz": lambda p: p.write_text(XYZ.format(comment="") * 2),
    "empty.xyz": lambda p: p.write_text(""),
    "noise.xyz": lambda p: p.write_bytes(bytes(range(256)) * 20),
    "noise.h5": lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 20),
    "config.yaml": lambda p: p.write_text("name: a\ndata: noise.h5\noutput: out\n"),
    "list.yaml": lambda p: p.write_text("- 1\n"),
    "folder": lambda p: p.mkdir(),
    "missing": lambda p: None,
}
COMMANDS = [
    line.replace("QUICK", "--xc hf --basis sto-3g").split()
    for line in """bench FILE QUICK --guess minao,ml --report out --quiet
        bench FILE QUICK --guess WORD --report out --quiet
        trust FILE QUICK --report out
        md-bench FILE QUICK --steps NUMBER --out out
        guess FILE QUICK -o out.npz
        guess FILE --basis WORD -o out.WORD
        data generate FILE QUICK -o out.h5
        data generate FILE QUICK -o out.h5 --rattle NUMBER --sigma NUMBER
        data generate FILE --xc WORD -o FILE
        data info FILE
        data split FILE --val NUMBER
        data import FILE QUICK -o out.h5
        data baseline FILE -o out.h5
        train FILE
        eval WORD FILE
        models
        WORD FILE
        bench WORD""".splitlines()
]
WORDS = ("ml", "scc", "", "nothing", "b3lyp-svp", "sto-3g", "--help", "-1", "é", "a,b,,c", "chk:noise.h5", "npz", "chk")
NUMBERS = ("0", "1", "2", "-1", "nan", "1e9999", "x", "0.5", "")


def command(rng: np.random.Generator) -> list[str]:
    """Draw a command line."""
    choices = {"FILE": tuple(FILES), "WORD": WORDS, "NUMBER": NUMBERS}

    def drawn(part: str) -> str:
        name = next((name for name in choices if name in part), None)
        return part.replace(name, choices[name][int(rng.integers(len(choices[name])))]) if name else part

    parts = [drawn(part) for part in COMMANDS[int(rng.integers(len(COMMANDS)))]]
    if rng.random() < 0.2:
        del parts[int(rng.integers(len(parts)))]
    return parts


def judged_command(parts: list[str]) -> tuple[str, str]:
    """Run a command in a folder of files, and return the verdict and details."""
    for name, write in FILES.items():
        write(Path(name))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            code = cli.main(parts)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 2
        except Exception as error:
            return "raised", f"{type(error).__name__}: {error}"[:300]
    words = printed.getvalue()
    named = any(word in words for word in ("error:", "bad input", "failed", "refused", "problem"))
    return ("done", "") if code == 0 else ("error named" if named else "silent", words[-300:])
