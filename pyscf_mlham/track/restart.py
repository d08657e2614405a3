"""Arrays of a history on disk, for runs that continue; numbers and text only, no pickle."""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyscf_mlham.checkpoint import replacement
from pyscf_mlham.errors import DataError

Arrays = dict[str, NDArray[Any]]

FORMAT = 1


def write(path: Path, arrays: Arrays) -> None:
    """Write a file under a temporary name and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacement(path, str(os.getpid())) as temporary, temporary.open("wb") as file:
        content: dict[str, Any] = {"format": np.array(FORMAT), **arrays}
        np.savez(file, **content)


@contextlib.contextmanager
def read(path: Path) -> Iterator[Arrays]:
    """Yield the arrays of a file; raise DataError for any error in the file, and for those of its use."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive}
        if int(arrays.pop("format", np.array(0))) != FORMAT:
            raise ValueError("it is of another format")
        yield arrays
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: not a history of this version ({error}); remove it and start without it.") from error
