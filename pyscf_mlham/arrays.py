"""Types of arrays; their shapes and units are in the docstrings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # floating-point or complex numbers
IntArray = NDArray[np.int64]
