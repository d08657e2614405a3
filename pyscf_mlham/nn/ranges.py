"""Ranges of numbers that somebody sets: the settings of a run, the sizes of a network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import Field
from typing import Any

Range = tuple[Callable[[float], bool], str]  # which numbers, and the same in words
FROM_0: Range = (lambda x: x >= 0, "0 or more")
FROM_1: Range = (lambda x: x >= 1, "1 or more")
POSITIVE: Range = (lambda x: 0 < x < math.inf, "more than 0 and finite")


def fault(field: Field[Any], value: object, allowed: Range) -> str:
    """Say what is wrong with a number, in words that follow its name; nothing where it is right.

    Args:
        field: of a dataclass, annotated int or float.
        value: to check; an integer will do for a float, true and false are no numbers.
        allowed: its range.
    """
    if isinstance(value, bool) or not isinstance(value, int if field.type == "int" else int | float):
        hint = " (YAML wants 3.0e-3)" if isinstance(value, str) else ""
        return f"must be a number ({field.type}), found {value!r}{hint}."
    fits, words = allowed
    return "" if fits(value) else f"must be {words}, found {value!r}."
