"""Label the frames of the training, and split them by number: every sixth for test, every sixth for validation.

python frames.py GEOMETRIES FOLDER, with the folder of the three files; half a minute to one and a half for each frame.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import h5py
import numpy as np

LEVEL = "--xc pbe --basis gth-szv-molopt-sr --pseudo gth-pbe --smearing 0.002 --solver coarse --kpts 6 6 1"
FILES = {"graphene_1x1": 40, "hbn_1x1": 30, "bigraphene_AB": 9}


def split_of(name: str) -> str:
    """Return the split of a frame by the number at the end of its name."""
    return {4: "test", 2: "val"}.get(int(name.rpartition("_")[2]) % 6, "train")


def frames_of(path: Path) -> list[str]:
    """Return the frames of a file, as text."""
    lines = path.read_text().splitlines(keepends=True)
    starts = [n for n, line in enumerate(lines) if line.strip().isdigit()]
    return ["".join(lines[a:b]) for a, b in zip(starts, [*starts[1:], len(lines)], strict=True)]


def main() -> None:
    """Label the frames of each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("geometries", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=40, help="at most so many of each file, for a test")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, number in FILES.items():
        chosen, labels = args.folder / f"{name}.xyz", args.folder / f"{name}.h5"
        found = frames_of(args.geometries / f"{name}.xyz")
        chosen.write_text("".join(found[: min(number, args.frames)]))
        subprocess.run(f"mlham data generate {chosen} -o {labels} {LEVEL}".split(), check=True)
        with h5py.File(labels, "r+") as file:
            file["split"][:] = np.array([split_of(n) for n in file["name"].asstr()[:]], dtype=object)


if __name__ == "__main__":
    main()
