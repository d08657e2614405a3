"""Allowed ranges of numeric options: settings of a run, sizes of a network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import Field
from typing import Any

Range = tuple[Callable[[float], bool], str]  # a predicate, and its description
FROM_0: Range = (lambda x: x >= 0, "0 or more")
FROM_1: Range = (lambda x: x >= 1, "1 or more")
POSITIVE: Range = (lambda x: 0 < x < math.inf, "more than 0 and finite")


def fault(field: Field[Any], value: object, allowed: Range) -> str:
    """Describe what is wrong with a number, as a sentence without its subject; "" if it is valid.

    Args:
        value: value to check; an integer is a valid float, a bool is not a number.
    """
    if isinstance(value, bool) or not isinstance(value, int if field.type == "int" else int | float):
        hint = " (YAML needs 3.0e-3)" if isinstance(value, str) else ""
        return f"must be a number ({field.type}), found {value!r}{hint}."
    fits, description = allowed
    return "" if fits(value) else f"must be {description}, found {value!r}."
