"""Options of the command line, defined as fields of dataclasses."""

from __future__ import annotations

import argparse
from collections.abc import Container
from dataclasses import field, fields
from typing import Any, TypeVar

T = TypeVar("T")


def option(default: T, text: str, *flags: str, **how: Any) -> T:
    """Declare a field of a dataclass that is also an option.

    Args:
        default: default value, whose type is that of the option; a bool is a switch to the other value.
        text: help text.
        flags: flags as in argparse; by default the name of the field.
        how: further arguments of argparse's add_argument.
    """
    made: T = field(default=default, metadata={"help": text, "flags": flags, "how": how})
    return made


def add_options(parser: argparse.ArgumentParser, kind: Any, only: Container[str] | None = None) -> None:
    """Add the options of a dataclass to a parser; only: names of fields, None for all."""
    for each in fields(kind):
        if "help" not in each.metadata or (only is not None and each.name not in only):
            continue
        text, how = each.metadata["help"], dict(each.metadata["how"])
        if isinstance(each.default, bool):
            how["action"] = "store_false" if each.default else "store_true"
        else:
            how = {"type": type(each.default)} | how
            text += "; default %(default)s" * (each.default != "")
        flags = each.metadata["flags"] or (f"--{each.name.replace('_', '-')}",)
        parser.add_argument(*flags, dest=each.name, default=each.default, help=text, **how)


def from_options(kind: type[T], args: argparse.Namespace, **others: Any) -> T:
    """Return an instance of a dataclass from the options of the command line and other values."""
    names = [each.name for each in fields(kind) if "help" in each.metadata]  # type: ignore[arg-type]
    return kind(**{name: getattr(args, name) for name in names if hasattr(args, name)} | others)


def names(text: str) -> str:
    """Return names separated by commas, without spaces; raise an error if one is missing."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and not all(parts):
        raise argparse.ArgumentTypeError(f"{text!r}: expected names such as minao,ml, without a space after the comma.")
    return ",".join(parts)
