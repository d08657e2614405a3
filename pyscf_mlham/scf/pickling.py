"""Pickling of decorated objects, whose classes are assembled at run time and cannot be imported by name."""

from __future__ import annotations

import sys
from typing import Any

from pyscf import lib

ASSEMBLED = {"__module__", "__doc__", "__name_mixin__", "__dict__", "__weakref__", "__firstlineno__"}


def parts_of(kind: type) -> Any:
    """Return a class if it can be imported, otherwise the name, module and bases of an assembled class."""
    if getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind or not set(vars(kind)) <= ASSEMBLED:
        return kind
    return kind.__name__, kind.__module__, tuple(parts_of(base) for base in kind.__bases__)


def _assembled(parts: Any) -> Any:
    if isinstance(parts, type):
        return parts
    name, module, bases = parts
    kind = lib.make_class(tuple(_assembled(base) for base in bases), name)
    kind.__module__ = module
    return kind


def new(parts: Any) -> Any:
    """Create an object without attributes."""
    kind = _assembled(parts)
    return kind.__new__(kind)
