"""Commands, and their options, which are defined as fields of dataclasses."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Container
from dataclasses import field, fields
from typing import Any, TypeVar

from pyscf_mlham.errors import DataError

T = TypeVar("T")
INFINITE = float("inf")


def option(default: T, text: str, *flags: str, least: float = -INFINITE, above: float = -INFINITE, **how: Any) -> T:
    """Declare a field of a dataclass that is also an option.

    Args:
        default: default value, whose type is that of the option; a bool is a switch to the other value.
        flags: flags as in argparse; by default the name of the field.
        least: smallest value that `check` accepts.
        above: bound that a value must exceed.
    """
    metadata = {"help": text, "flags": flags, "least": least, "above": above, "how": how}
    made: T = field(default=default, metadata=metadata)
    return made


def check(settings: Any) -> None:
    """Raise DataError for an option of a dataclass out of its range or choices."""
    for each in fields(settings):
        value, how = getattr(settings, each.name), each.metadata.get("how", {})
        choices = how.get("choices")
        least, above = each.metadata.get("least", -INFINITE), each.metadata.get("above", -INFINITE)
        if choices is not None and value not in (*choices, each.default):
            between = isinstance(choices, range)
            expected = f"{min(choices)} to {max(choices)}" if between else f"one of {', '.join(choices)}"
        elif isinstance(value, int | float) and not (least <= value < INFINITE and value > above):
            expected = f"more than {above:g}" if above > -INFINITE else f"{least:g} or more"
        else:
            continue
        raise DataError(f"--{each.name.replace('_', '-')} {value}: expected {expected}.")


def add_command(
    commands: Any, name: str, text: str, run: Callable[..., int], about: str = ""
) -> argparse.ArgumentParser:
    """Add a command; about: examples and notes below the list of its options."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, epilog=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.description = f"{text[0].upper()}{text[1:]}."
    parser.set_defaults(run=run)
    return parser


def add_state(parser: argparse.ArgumentParser, mult: str) -> None:
    """Add charge and multiplicity; mult: help of the latter."""
    parser.add_argument("--charge", type=int, default=0, help="charge if a frame has no charge=; default 0")
    parser.add_argument("--mult", type=int, help=mult)


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


def chosen(text: str, known: Collection[str], noun: str) -> list[str]:
    """Return names separated by commas, each once; raise DataError for one that is not known."""
    parts = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in parts:
        if name not in known:
            raise DataError(f"unknown {noun} {name!r}; expected one of {', '.join(known)}.")
    return parts
