"""What the commands of the benchmarks share."""

from __future__ import annotations

import argparse

from rich.console import Console


def names(text: str) -> str:
    """Return names that are separated by commas; argparse tells the error where there is nothing beside a comma.

    Args:
        text: of the command line.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and not all(parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} has nothing beside a comma; expected names such as minao,ml, and no space after the comma."
        )
    return ",".join(parts)


def advise(console: Console) -> None:
    """Say it where PySCF could be faster than it is, for a benchmark should show it at its best.

    Args:
        console: to draw on.
    """
    from pyscf_mlham.blas import advice, processors

    if text := advice(processors()):
        console.print(f"[yellow]advice:[/yellow] {text}", soft_wrap=True, highlight=False)
