"""Settings of the package in PySCF's configuration file, which is read in the middle of PySCF's own import."""

from __future__ import annotations

import os
import sys

# `import pyscf_mlham` in that file runs before PySCF sets the attribute from which its modules read their defaults.
if "pyscf.__config__" in sys.modules and not hasattr(sys.modules["pyscf"], "__config__"):
    vars(sys.modules["pyscf"])["__config__"] = sys.modules["pyscf.__config__"]

from pyscf import __config__

PLAIN = "MLHAM_PLAIN"  # environment variable, for child processes that measure plain SCF
ACCELERATE: bool = getattr(__config__, "mlham_accelerate", False) and not os.environ.get(PLAIN)
