"""Label the training frames and split them by number: every sixth for test, every sixth for validation.

python frames.py GEOMETRIES cells.h5, with the folder of the three files; 15 seconds for each frame of two atoms.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

LEVEL = "--xc pbe --basis gth-szv-molopt-sr --pseudo gth-pbe --smearing 0.002 --solver coarse"
KPTS = {"graphene_1x1": "6 6 1", "hbn_1x1": "4 4 1", "bihbn": "4 4 1"}


def split_of(name: str) -> str:
    """Return the split of a frame by the number at the end of its name; bilayers are for test."""
    number = int(name.rpartition("_")[2]) % 6
    return "test" if number == 4 or name.startswith("bi") else "val" if number == 2 else "train"


def main(folder: Path, output: Path) -> None:
    """Label all frames of the three files."""
    for name, kpts in KPTS.items():
        command = f"mlham data generate {folder / name}.xyz -o {output} {LEVEL} --kpts {kpts}"
        subprocess.run(command.split(), check=True)
    with h5py.File(output, "r+") as file:
        names = file["name"].asstr()[:]
        file["split"][:] = np.array([split_of(name) for name in names], dtype=object)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
