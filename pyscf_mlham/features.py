"""Input of a network: functions of H0 in Loewdin orbitals, cut into blocks; `ao.loewdin` gives the reasons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyscf_mlham.ao.blocks import Blocks, blocks_from_matrix, local_from_global, matrix_from_blocks, rotate_blocks
from pyscf_mlham.ao.frames import frames_from_vectors, wigner_from_frames
from pyscf_mlham.ao.layout import OrbitalLayout, ShellTemplate
from pyscf_mlham.ao.loewdin import Metric
from pyscf_mlham.ao.structure import Graph

Array = NDArray[np.float64]


class Levels(NamedTuple):
    """Chemical potentials and temperature of the Fermi functions of H0.

    Fixed, not the molecule's own, so that distant molecules do not affect each other.

    Attributes:
        potentials: chemical potentials, Hartree.
        temperature: Hartree; makes level crossings of H0 smooth.
    """

    potentials: tuple[float, ...]
    temperature: float


# The potentials span the frontier orbitals of each H0. In nearly all organic molecules the minao Fock matrix has a gap
# between -0.21 and -0.18 Ha, so that one of the functions is its density matrix.
LEVELS = {
    "sap": Levels((-1.0, -0.8, -0.65, -0.5), 0.05),
    "hcore": Levels((-1.0, -0.8, -0.65, -0.5), 0.05),
    "minao": Levels((-0.55, -0.33, -0.19, -0.05), 0.03),
    "scc": Levels((-0.65, -0.4), 0.05),  # its own density replaces the others
}
N_INPUTS = 2 + len(LEVELS["sap"].potentials)


def inputs_from_h0(
    h0: Array, overlap: Array, metric: Metric, baseline: str, occupied: Sequence[int] = ()
) -> list[Array]:
    """Return input matrices of a network: bounded functions of H0, one set for each spin of H0.

    The overlap; H0 with its spectrum squashed to (-1, 1); density matrices of H0 at several chemical potentials; of the
    self-consistent baseline also its own density matrices, of the spin itself and of the other one. Fragments without
    overlap do not mix in any of them.

    Args:
        h0: (n, n), or (2, n, n) of alpha and beta electrons, in AOs; Hartree.
        overlap: (n, n).
        baseline: name of H0, see `LEVELS`.

    Returns:
        (N_INPUTS, n, n) for each spin.
    """
    levels = LEVELS[baseline]
    spins = [np.linalg.eigh(metric.inverse @ matrix @ metric.inverse) for matrix in (h0 if h0.ndim == 3 else [h0])]
    functions = []
    for e, V in spins:
        squashed = e / np.sqrt(1 + e * e)
        fermi = [0.5 * (1 - np.tanh((e - mu) / (2 * levels.temperature))) for mu in levels.potentials]
        functions.append([overlap, *((V * f) @ V.T for f in (squashed, *fermi))])
    if baseline == "scc":
        densities = [V[:, :n] @ V[:, :n].T for (_, V), n in zip(spins, occupied, strict=False)]
        for own, density, other in zip(functions, densities, densities[::-1], strict=True):
            own += [density, other]
    return [np.stack(matrices) for matrices in functions]


class Sample(NamedTuple):
    """Input of a network for one molecule; arrays of any floating-point type.

    Each pair of atoms occurs once; the frame of (j, i) is that of (i, j) rotated by pi about its x axis.

    Attributes:
        numbers: (N,) atomic numbers.
        positions: (N, 3) Bohr.
        charge: total charge.
        padding_mask: (N, B) True for an orbital, False for padding, if the atom lacks a shell of the template.
        pairs: (P, 2) atoms i < j.
        distances: (P,) Bohr.
        wigner_d: (P, (L+1)^2, (L+1)^2) Wigner D matrices, irreps at the atoms -> m-components in the pairs' frames.
        onsite: (N, K, B, B) input matrices, in the global frame.
        pair: (P, K, B, B) input matrices, in the pairs' frames.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    charge: int
    padding_mask: NDArray[np.bool_]
    pairs: NDArray[np.int64]
    distances: NDArray[np.floating]
    wigner_d: NDArray[np.floating]
    onsite: NDArray[np.floating]
    pair: NDArray[np.floating]


def sample_from_matrices(
    graph: Graph, charge: int, matrices: Array, layout: OrbitalLayout, template: ShellTemplate, degree: int
) -> Sample:
    """Cut matrices into the input of a network; matrices: (K, n, n) in PySCF's AO order, from `inputs_from_h0`."""
    half = graph.pairs[:, 0] < graph.pairs[:, 1]
    pairs, vectors = graph.pairs[half], graph.vectors[half]
    frames = frames_from_vectors(vectors)
    cut = [local_blocks(matrix, layout, pairs, template, frames) for matrix in matrices]
    return Sample(
        numbers=graph.numbers,
        positions=graph.positions,
        charge=charge,
        padding_mask=layout.slots(template) >= 0,
        pairs=pairs,
        distances=np.linalg.norm(vectors, axis=-1),
        wigner_d=wigner_from_frames(frames, degree),
        onsite=np.stack([blocks.onsite for blocks in cut], axis=1),
        pair=np.stack([blocks.pair for blocks in cut], axis=1),
    )


def frames_from_sample(sample: Sample) -> Array:
    """Return the frames of a sample's pairs, (P, 3, 3), as in `sample_from_matrices`."""
    first, second = sample.pairs.T
    return frames_from_vectors(sample.positions[second] - sample.positions[first])


def local_blocks(
    matrix: Array, layout: OrbitalLayout, pairs: NDArray[np.int64], template: ShellTemplate, frames: Array
) -> Blocks:
    """Cut a matrix into onsite blocks and pair blocks, the latter in the pairs' frames.

    Args:
        matrix: (n, n) in PySCF's AO order.
        pairs: (P, 2) atoms.
        frames: (P, 3, 3) rotations that bring each pair onto +z.
    """
    blocks = blocks_from_matrix(matrix, layout, pairs, template)
    return Blocks(blocks.onsite, local_from_global(blocks.pair, template, frames))


def matrix_from_local_blocks(
    blocks: Blocks, layout: OrbitalLayout, pairs: NDArray[np.int64], template: ShellTemplate, frames: Array
) -> Array:
    """Assemble a symmetric matrix from the blocks of atoms i <= j: the inverse of `local_blocks`.

    Args:
        pairs: (P, 2) atoms i < j.
        frames: (P, 3, 3).
    """
    pair = rotate_blocks(blocks.pair, template, np.swapaxes(frames, -1, -2))
    both = Blocks(blocks.onsite, np.concatenate([pair, np.swapaxes(pair, -1, -2)]))
    return matrix_from_blocks(both, layout, np.concatenate([pairs, pairs[:, ::-1]]), template)
