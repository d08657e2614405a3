"""Errors of this package; messages name the cause, what was expected, and a remedy.

Optional packages, whose absence is an error, are listed as extras in pyproject.toml.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class MLHamError(RuntimeError):
    """Base class of every error that pyscf_mlham raises on purpose."""

    builds: Any = None  # `Builds` of a prediction before it failed


class OutOfDomainError(MLHamError):
    """The model is not applicable to this molecule or this kind of calculation."""


class ModelError(MLHamError):
    """A model is missing, damaged, or not what this version can use."""


class ExtraError(MLHamError, ImportError):
    """A required package is not installed; the message has the command that installs it."""


class PredictionError(MLHamError):
    """A prediction has failed a sanity check and must not be used."""


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
    return (str(error) if isinstance(error, MLHamError) else f"{type(error).__name__}: {error}").rstrip(".: ")


def missing(error: ModuleNotFoundError, extra: str) -> ExtraError:
    """Return the error of a package that is not installed."""
    return ExtraError(f'{error.name} is not installed; install it with: pip install "pyscf-mlham[{extra}]"')


def needed(module: str, extra: str = "ml") -> Any:
    """Import a module, or raise an ExtraError with the command that installs it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise missing(error, extra) from error
