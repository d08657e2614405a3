"""Checks of files that others have made, before their content is used: sizes, links, names of basis sets."""

from __future__ import annotations

import errno
import math
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from pyscf_mlham.errors import DataError

if TYPE_CHECKING:
    import h5py

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
