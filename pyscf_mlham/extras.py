"""Optional packages; pyproject.toml lists them as extras."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pyscf_mlham.errors import ExtraError


def missing(error: ModuleNotFoundError, extra: str) -> ExtraError:
    """Return the error of a package that is not installed."""
    return ExtraError(f'{error.name} is not installed; install it with: pip install "pyscf-mlham[{extra}]"')


def needed(module: str, extra: str = "ml") -> Any:
    """Import a module, or raise an ExtraError with the command that installs it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise missing(error, extra) from error
