"""Linear algebra libraries, and the processors that they detect.

PySCF's wheels contain an OpenBLAS of 2018. It takes a newer processor for one without AVX, and its products take
twice as long.
"""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path

from pyscf import lib  # noqa: F401  loads the libraries to be inspected
from threadpoolctl import threadpool_info

OWNERS = ("numpy", "scipy", "pyscf")
# OpenBLAS's names of processors without AVX, and with AVX2
OLD = ("atom", "barcelona", "bobcat", "core2", "dunnington", "nano", "nehalem", "opteron", "penryn", "prescott")
NEW = ("cooperlake", "excavator", "haswell", "sapphirerapids", "skylakex", "zen")


CPUINFO = Path("/proc/cpuinfo")


@cache
def processor_name() -> str:
    """Return the operating system's name of the processor."""
    try:
        named = re.search(r"^model name\s*:\s*(.+)$", CPUINFO.read_text(), re.MULTILINE)
    except OSError:  # not Linux
        named = None
    return named[1].strip() if named else platform.processor() or platform.machine()


@cache
def processors() -> dict[str, str]:
    """Return the processor detected by each package's own library, as "pyscf": "Haswell"."""
    libraries = [x for x in threadpool_info() if x["user_api"] == "blas" and x.get("architecture")]
    found = {_owner(Path(x["filepath"])): str(x["architecture"]) for x in libraries}
    return {owner: name for owner, name in sorted(found.items(), key=str) if owner}


def _owner(path: Path) -> str | None:
    folders = reversed(path.parts[:-1])  # the nearest; whole environments may be called "pyscf"
    return next((folder.removesuffix(".libs") for folder in folders if folder.removesuffix(".libs") in OWNERS), None)


def advice(found: dict[str, str]) -> str | None:
    """Return the setting to use if PySCF's library fails to recognise a processor that another one does; else None."""
    own = found.get("pyscf", "")
    others = [name for owner, name in found.items() if owner != "pyscf" and name.lower() in NEW]
    if not own.lower().startswith(OLD) or not others:
        return None
    return (
        f"PySCF's own OpenBLAS takes this processor for a {own}, which slows down every SCF; "
        "set OPENBLAS_CORETYPE=Haswell before Python starts, with NumPy 2.4 or older (2.5.5 crashes with it)."
    )
