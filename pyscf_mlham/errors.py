"""What can go wrong, in words that say the cause and the way out."""

from __future__ import annotations

from typing import Any


class MLHamError(RuntimeError):
    """Base class of every error that pyscf_mlham raises on purpose."""


class OutOfDomainError(MLHamError):
    """The model has nothing trustworthy to say about this molecule or this kind of calculation."""


class ModelError(MLHamError):
    """A model is missing, damaged, or not what this version can use."""


class ExtraError(MLHamError, ImportError):
    """A package that is needed here is not installed; it comes with one of the extras."""


class PredictionError(MLHamError):
    """A model answered, but its answer failed a sanity check and must not be used."""


class DataError(MLHamError):
    """A file of labelled molecules, or a record in it, is not what it should be."""


class ResourceError(MLHamError):
    """Neither memory nor disk has room for what a faster way needs; there is a slower one."""


def whole_number(value: Any) -> int:
    """Return a number that somebody gave as an integer; ValueError or TypeError where it is none, 0.5 included.

    Args:
        value: a number, or a text that holds one.
    """
    if not float(value).is_integer():
        raise ValueError(f"{value} is not a whole number")
    return int(float(value))
