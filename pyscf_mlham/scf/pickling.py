"""Pickling of decorated objects, whose classes are assembled at run time and cannot be imported by name."""

from __future__ import annotations

import sys
from typing import Any

from pyscf import lib

ASSEMBLED = {"__module__", "__doc__", "__name_mixin__", "__dict__", "__weakref__", "__firstlineno__"}


class Picklable:
    """Base of this package's decorations of mean-field objects."""

    def __reduce_ex__(self: Any, protocol: Any) -> tuple[Any, ...]:
        return new, (_parts(type(self)),), self.__getstate__()

    def __setstate__(self: Any, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        self._opt = {None: None}  # without it PySCF's direct SCF fails


def _parts(kind: type) -> Any:
    """Return a class if it can be imported, otherwise the name, module and bases of an assembled class."""
    if getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind or not set(vars(kind)) <= ASSEMBLED:
        return kind
    return kind.__name__, kind.__module__, tuple(_parts(base) for base in kind.__bases__)


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
