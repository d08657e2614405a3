"""Label the frames of the training, and split them by number: every sixth for test, every sixth for validation.

python frames.py GEOMETRIES FOLDER, with the folder of the files; a quarter of a minute for each frame of a layer,
one to two for each bilayer, supercell and layer of MoS2. Further frames, for training, are drawn here.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import h5py
import numpy as np

LEVEL = "--xc pbe --basis gth-szv-molopt-sr --pseudo gth-pbe --smearing 0.002 --solver coarse"
FILES = {
    "graphene_1x1": 40,
    "hbn_1x1": 40,
    "mos2_1x1": 40,
    "bigraphene_AB": 18,
    "bigraphene_AA": 18,
    "bihbn": 40,
    "graphene_2x2": 14,
}
DRAWN = {"graphene_more": (2.46, ("C", "C")), "hbn_more": (2.504, ("B", "N"))}  # lattice constant, Angstrom; elements
BILAYERS = 32  # of graphene, with any stacking
NITRIDES = 72  # bilayers of boron nitride, with any stacking, the layers turned by 180 degrees in half of them
SULPHIDES = 24  # layers of MoS2
STRAIN, SHEAR = 0.03, 0.015
STRAINED, WIDER = 24, 1.5  # layers of boron nitride with a strain so many times larger
HONEYCOMB = np.array([[1 / 3, 2 / 3], [2 / 3, 1 / 3]])


def split_of(name: str) -> str:
    """Return the split of a frame by the number at the end of its name; those drawn here are for training."""
    kind, _, number = name.rpartition("_")
    return "train" if kind.endswith("_more") else {4: "test", 2: "val"}.get(int(number) % 6, "train")


def drawn_frames() -> dict[str, list[str]]:
    """Return forty frames of each layer, and bilayers, strained, with displaced atoms, as text."""
    rng, another, third, fourth, fifth = (np.random.default_rng(seed) for seed in (7, 11, 13, 17, 19))
    frames = {name: [drawn(rng, f"{name}_{n:02d}", *layer) for n in range(40)] for name, layer in DRAWN.items()}
    (graphene, _), (nitride, _) = DRAWN.values()
    frames["bigraphene_more"] = [
        drawn_bilayer(another, f"bigraphene_more_{n:02d}", graphene, "CCCC") for n in range(BILAYERS)
    ]
    frames["mos2_more"] = [drawn_sulphide(third, f"mos2_more_{n:02d}") for n in range(SULPHIDES)]
    frames["bihbn_more"] = [
        drawn_bilayer(fourth, f"bihbn_more_{n:02d}", nitride, "BN" + ("BN", "NB")[n % 2]) for n in range(NITRIDES)
    ]
    frames["hbn_strained_more"] = [
        drawn(fifth, f"hbn_strained_more_{n:02d}", *DRAWN["hbn_more"], WIDER) for n in range(STRAINED)
    ]
    return frames


def strained(rng: np.random.Generator, a: float, height: float, times: float = 1.0) -> np.ndarray:
    """Draw a hexagonal lattice with a strain of up to so many times `STRAIN`."""
    lattice = np.array([[a, 0, 0], [-a / 2, a * np.sqrt(0.75), 0], [0, 0, height]])
    strain, shear = times * rng.uniform(-STRAIN, STRAIN, 2), times * rng.uniform(-SHEAR, SHEAR)
    deformation = np.diag([1 + strain[0], 1 + strain[1], 1.0])
    deformation[0, 1] = deformation[1, 0] = shear
    return lattice @ deformation


def drawn(rng: np.random.Generator, name: str, a: float, elements: tuple[str, str], times: float = 1.0) -> str:
    """Draw a frame of a layer."""
    lattice = strained(rng, a, 15.0, times)
    return text_of(rng, name, elements, lattice, np.column_stack([HONEYCOMB, [0.5, 0.5]]) @ lattice)


def drawn_bilayer(rng: np.random.Generator, name: str, a: float, elements: str) -> str:
    """Draw a frame of two layers, one slid over the other."""
    apart = rng.uniform(3.1, 3.75)
    lattice = strained(rng, a, 15 + apart)
    places = np.vstack([HONEYCOMB, HONEYCOMB + rng.uniform(0, 1, 2)])
    positions = np.column_stack([places, np.zeros(4)]) @ lattice
    positions[:, 2] = 7.5 + apart * np.array([0, 0, 1, 1])
    return text_of(rng, name, tuple(elements), lattice, positions)


def drawn_sulphide(rng: np.random.Generator, name: str) -> str:
    """Draw a frame of a layer of MoS2."""
    thickness = 3.13
    lattice = strained(rng, 3.16, 15 + thickness)
    positions = np.column_stack([HONEYCOMB[[0, 1, 1]], np.zeros(3)]) @ lattice
    positions[:, 2] = 7.5 + thickness * np.array([0.5, 1, 0])
    return text_of(rng, name, ("Mo", "S", "S"), lattice, positions)


def text_of(
    rng: np.random.Generator, name: str, elements: tuple[str, ...], lattice: np.ndarray, positions: np.ndarray
) -> str:
    """Return a frame with displaced atoms as text."""
    positions = positions + rng.normal(scale=rng.uniform(0.03, 0.08) / np.sqrt(3), size=positions.shape)
    vectors = " ".join(f"{x:.10f}" for x in lattice.ravel())
    head = f'{len(elements)}\nLattice="{vectors}" Properties=species:S:1:pos:R:3 name={name} pbc="T T F"\n'
    atoms = zip(elements, positions, strict=True)
    return head + "".join(f"{element} {x:.8f} {y:.8f} {z:.8f}\n" for element, (x, y, z) in atoms)


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
    frames = {name: frames_of(args.geometries / f"{name}.xyz")[:number] for name, number in FILES.items()}
    for name, found in (frames | drawn_frames()).items():
        chosen, labels = args.folder / f"{name}.xyz", args.folder / f"{name}.h5"
        chosen.write_text("".join(found[: args.frames]))
        mesh = "3 3 1" if name.endswith("2x2") else "6 6 1"
        subprocess.run(f"mlham data generate {chosen} -o {labels} {LEVEL} --kpts {mesh}".split(), check=True)
        with h5py.File(labels, "r+") as file:
            file["split"][:] = np.array([split_of(n) for n in file["name"].asstr()[:]], dtype=object)


if __name__ == "__main__":
    main()
