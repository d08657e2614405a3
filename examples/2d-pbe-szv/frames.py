"""Label the frames and split them by number: every sixth for test, every sixth for validation.

python frames.py GEOMETRIES cells.h5, with the folder of the three files; 15 seconds for each frame of two atoms.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import h5py
import numpy as np

LEVEL = "--xc pbe --basis gth-szv-molopt-sr --pseudo gth-pbe --smearing 0.002 --solver coarse"
KPTS = {"graphene_1x1": "6 6 1", "hbn_1x1": "4 4 1", "bihbn": "4 4 1"}
BILAYER = 15  # the only one


def split_of(name: str) -> str:
    """Return the split of a frame by the number at the end of its name; bilayers are for test."""
    number = int(name.rpartition("_")[2]) % 6
    return "test" if number == 4 or name.startswith("bi") else "val" if number == 2 else "train"


def frames_of(path: Path) -> list[str]:
    """Return the frames of a file, as text."""
    lines = path.read_text().splitlines(keepends=True)
    starts = [n for n, line in enumerate(lines) if line.strip().isdigit()]
    return ["".join(lines[a:b]) for a, b in zip(starts, [*starts[1:], len(lines)], strict=True)]


def main() -> None:
    """Label frames of the three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("geometries", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--frames", type=int, default=20, help="first ones of graphene and boron nitride; default 20")
    args = parser.parse_args()
    for name, kpts in KPTS.items():
        found = frames_of(args.geometries / f"{name}.xyz")
        chosen = args.output.with_name(f"{args.output.stem}_{name}.xyz")
        chosen.write_text("".join(found[BILAYER : BILAYER + 1] if name == "bihbn" else found[: args.frames]))
        command = f"mlham data generate {chosen} -o {args.output} {LEVEL} --kpts {kpts}"
        subprocess.run(command.split(), check=True)
    with h5py.File(args.output, "r+") as file:
        file["split"][:] = np.array([split_of(name) for name in file["name"].asstr()[:]], dtype=object)


if __name__ == "__main__":
    main()
