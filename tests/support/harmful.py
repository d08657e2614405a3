"""What files made to do harm share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py

Change = Callable[[Path], Any]
EVIL = "H    S\n      __import__('os').mkdir('harm')    1.0\n"


def inside(act: Callable[[h5py.File], Any]) -> Change:
    def change(path: Path) -> None:
        with h5py.File(path, "a") as file:
            act(file)

    return change
