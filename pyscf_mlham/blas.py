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
    found = {}
    for library in threadpool_info():
        owner = _owner(Path(library["filepath"]))
        if library["user_api"] == "blas" and owner and library.get("architecture"):
            found[owner] = str(library["architecture"])
    return dict(sorted(found.items()))


def _owner(path: Path) -> str | None:
    for folder in reversed(path.parts[:-1]):  # the nearest; whole environments may be called "pyscf"
        for owner in OWNERS:
            if folder in (owner, f"{owner}.libs"):
                return owner
    return None


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
