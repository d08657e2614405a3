"""Settings as fields of dataclasses, with their bounds: options of commands, and keys of YAML files."""

from __future__ import annotations

import argparse
import dataclasses
import operator
from collections.abc import Callable, Collection, Container
from dataclasses import Field, field, fields
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pyscf_mlham.errors import DataError, ModelError

T = TypeVar("T")
BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "least": (operator.ge, "{:g} or more"),
    "above": (operator.gt, "more than {:g}"),
    "below": (operator.lt, "less than {:g}"),
    "most": (operator.le, "at most {:g}"),
}
KINDS: dict[Any, str] = {str: "text", bool: "true or false", int: "a number (int)", float: "a number (float)"}
LISTS: dict[Any, str] = {int: "a list of integers", str: "a list of names"}


def number(default: T, **bounds: float) -> T:
    """Declare a field of a dataclass with bounds: `least`, `most`, `above` or `below`."""
    made: T = field(default=default, metadata={"bounds": bounds})
    return made


def option(default: T, text: str, *flags: str, least: float | None = None, above: float | None = None, **how: Any) -> T:
    """Declare a field of a dataclass that is also an option.

    Args:
        default: default value, whose type is that of the option; a bool is a switch to the other value.
        flags: flags as in argparse; by default the name of the field.
    """
    bounds = {key: bound for key, bound in (("least", least), ("above", above)) if bound is not None}
    made: T = field(default=default, metadata={"help": text, "flags": flags, "bounds": bounds, "how": how})
    return made


def out_of_range(each: Field[Any], value: Any) -> str:
    """Return what is expected of a field, such as "0 or more", if a value is not that, otherwise ""."""
    choices, bounds = each.metadata.get("how", {}).get("choices"), each.metadata.get("bounds", {})
    if choices is not None and value not in (*choices, each.default):
        is_range = isinstance(choices, range)
        return f"{min(choices)} to {max(choices)}" if is_range else f"one of {', '.join(choices)}"
    if all(BOUNDS[key][0](value, bound) for key, bound in bounds.items()):
        return ""
    return " and ".join(BOUNDS[key][1].format(bound) for key, bound in bounds.items())


def check(settings: Any) -> None:
    """Raise DataError for an option of a dataclass out of its range or choices."""
    for each in fields(settings):
        if expected := out_of_range(each, value := getattr(settings, each.name)):
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


def from_keys(kind: type[T], content: Any, place: str) -> T:
    """Return a dataclass with the keys and values of a YAML file; raise ModelError if they are not its fields."""
    if not isinstance(content, dict):
        raise ModelError(f"{place}: expected keys and values, found {type(content).__name__}.")
    known, hints = dataclasses.fields(kind), get_type_hints(kind)  # type: ignore[arg-type]
    needed = [f.name for f in known if f.default is f.default_factory is dataclasses.MISSING]
    unknown, missing = sorted(map(str, content.keys() - hints)), sorted(needed - content.keys())
    if unknown or missing:
        raise ModelError(f"{place}: unknown keys {unknown}, missing keys {missing}; expected some of {sorted(hints)}.")
    values = {key: _of_kind(hints[key], value, f"{place}: {key}") for key, value in content.items()}
    for each in known:
        if each.name in values and (expected := out_of_range(each, value := values[each.name])):
            raise ModelError(f"{place}: {each.name} must be {expected}, found {value!r}.")
    return kind(**values)


def _of_kind(hint: Any, value: Any, place: str) -> Any:
    """Return the value of a field, a tuple in place of a list."""
    origin, parts = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_keys(hint, value, place)  # type: ignore[arg-type]
    if origin is UnionType:
        return None if value is None else _of_kind(parts[0], value, place)
    if origin is tuple:
        fits, words = isinstance(value, list) and all(type(v) is parts[0] for v in value), LISTS[parts[0]]
    elif origin is not None:
        fits, words = isinstance(value, dict), "keys and values"
    else:
        fits, words = type(value) is hint or (hint is float and type(value) is int), KINDS[hint]
    if not fits:
        hint_of_yaml = " (YAML needs 3.0e-3)" * (hint is float and isinstance(value, str))
        raise ModelError(f"{place} must be {words}, found {value!r:.80}{hint_of_yaml}.")
    return tuple(value) if origin is tuple else value
