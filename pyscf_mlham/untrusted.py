"""Checks of files that others have made, before their content is used: sizes, links, keys, names of basis sets."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import re
import stat
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from pyscf_mlham.errors import DataError, ModelError

if TYPE_CHECKING:
    import h5py

T = TypeVar("T")

KINDS: dict[Any, str] = {str: "text", bool: "true or false", int: "a number (int)", float: "a number (float)"}
LISTS: dict[Any, str] = {int: "a list of integers", str: "a list of names"}
BASIS = re.compile(r"[\w +*(),.@-]{1,80}", re.ASCII)
DEFLATE = 1100  # bytes that a compressed byte holds at most
SLACK = 2**20  # bytes that any dataset may have


def check_basis(name: str) -> None:
    """Raise ValueError unless a text is the name of a basis set: PySCF evaluates expressions in basis sets."""
    if not BASIS.fullmatch(name):
        raise ValueError(f"basis {name[:40]!r}: expected the name of one of PySCF's basis sets, not its content")
    if os.path.isfile(name.split("@")[0]):  # noqa: PTH113  (PySCF's own test)
        raise ValueError(f"basis {name!r} is the name of a file here; run in another folder, or rename that file")


def read_bounded(path: Path, most: int) -> bytes:
    """Read a regular file; raise OSError if it is of another kind or larger than `most` bytes."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if about.st_size > most:
        raise OSError(errno.EFBIG, f"larger than {most / 1e6:.0f} MB", str(path))
    return path.read_bytes()


def stored_dataset(file: h5py.Group, name: str) -> h5py.Dataset:
    """Return a dataset of a file; raise DataError for links, for data elsewhere, and for sizes that it cannot hold."""
    import h5py

    place = f"{file.file.filename}: {name}"
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise DataError(f"{place} is a link; expected a dataset in the file itself.")
    found = file[name]
    if not isinstance(found, h5py.Dataset) or found.shape is None or found.is_virtual or found.external:
        raise DataError(f"{place} is not a dataset in the file itself.")
    size = max(found.size, math.prod(found.chunks or ())) * found.dtype.itemsize
    stored = min(found.id.get_storage_size(), Path(file.file.filename).stat().st_size)
    if size > DEFLATE * stored + SLACK:
        raise DataError(f"{place} has shape {found.shape}, but only {stored} bytes are in the file; it is damaged.")
    return found


def from_keys(kind: type[T], content: Any, place: str) -> T:
    """Return a dataclass with the keys and values of a YAML file; raise ModelError if they are not its fields."""
    if not isinstance(content, dict):
        raise ModelError(f"{place}: expected keys and values, found {type(content).__name__}.")
    known, hints = dataclasses.fields(kind), get_type_hints(kind)  # type: ignore[arg-type]
    needed = [f.name for f in known if f.default is f.default_factory is dataclasses.MISSING]
    unknown, missing = sorted(map(str, content.keys() - hints)), sorted(needed - content.keys())
    if unknown or missing:
        raise ModelError(f"{place}: unknown keys {unknown}, missing keys {missing}; expected some of {sorted(hints)}.")
    return kind(**{key: _of_kind(hints[key], value, f"{place}: {key}") for key, value in content.items()})


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
