"""Water molecules of random orientation on a grid: `python examples/water_cluster.py 27 > water.xyz`."""

from __future__ import annotations

import sys

import numpy as np

SPACING = 3.0  # Angstrom
WATER = np.array([[0, 0, 0.12], [0, 0.76, -0.47], [0, -0.76, -0.47]])  # Angstrom


def cluster(number: int) -> str:
    """Return a cluster in xyz format."""
    rng, side = np.random.default_rng(0), int(np.ceil(number ** (1 / 3)))
    lines = [str(3 * number), f"{number} water molecules"]
    for i in range(number):
        q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        origin = SPACING * np.array([i // side**2, i // side % side, i % side])
        for symbol, position in zip("OHH", origin + WATER @ q.T, strict=True):
            lines.append(symbol + "".join(f" {x:.6f}" for x in position))
    return "\n".join(lines)


if __name__ == "__main__":
    print(cluster(int(sys.argv[1])))
