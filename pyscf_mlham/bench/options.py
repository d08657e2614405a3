"""Options that the benchmarks share."""

from __future__ import annotations

import argparse


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
