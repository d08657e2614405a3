"""Errors of this package; messages name the cause, what was expected, and a remedy."""

from __future__ import annotations

from typing import Any


class MLHamError(RuntimeError):
    """Base class of every error that pyscf_mlham raises on purpose."""


class OutOfDomainError(MLHamError):
    """The model is not applicable to this molecule or this kind of calculation."""


class ModelError(MLHamError):
    """A model is missing, damaged, or not what this version can use."""


class ExtraError(MLHamError, ImportError):
    """A required package is not installed; the message has the command that installs it."""


class PredictionError(MLHamError):
    """A prediction has failed a sanity check and must not be used; coarse_builds: Fock builds that it took."""

    def __init__(self, message: str, coarse_builds: int = 0) -> None:
        super().__init__(message)
        self.coarse_builds = coarse_builds


class DataError(MLHamError):
    """A file of labelled molecules, or a record in it, is invalid."""


class ResourceError(MLHamError):
    """A faster method needs more memory and disk space than available; a slower one does not."""


def whole_number(value: Any) -> int:
    """Return a value given by the user as an integer; raise ValueError or TypeError if it is not whole, such as 0.5."""
    if not float(value).is_integer():
        raise ValueError(f"{value} is not a whole number")
    return int(float(value))


def reason_of(error: Exception) -> str:
    """Return the cause of an error for one line of a log."""
    return (str(error) if isinstance(error, MLHamError) else f"{type(error).__name__}: {error}").rstrip(".")
