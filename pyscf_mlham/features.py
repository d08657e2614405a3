"""Input of a network: functions of H0 in Loewdin orbitals, cut into blocks; `ao.loewdin` gives the reasons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from pyscf_mlham.ao.blocks import Blocks, blocks_from_matrix, matrix_from_blocks, rotate_blocks
from pyscf_mlham.ao.frames import frames_from_vectors, wigner_from_frames
from pyscf_mlham.ao.lattice import bloch_from_blocks, blocks_from_bloch
from pyscf_mlham.ao.layout import OrbitalLayout, ShellTemplate
from pyscf_mlham.ao.loewdin import Metric, orthogonal_from_ao
from pyscf_mlham.ao.structure import Graph, each_pair_once, with_opposites
from pyscf_mlham.arrays import Array


class Levels(NamedTuple):
    """Chemical potentials and temperature of the Fermi functions of H0.

    Fixed, not the molecule's own, so that distant molecules do not affect each other.
    """

    potentials: tuple[float, ...]  # chemical potentials, Hartree
    temperature: float  # Hartree; makes level crossings of H0 smooth


WITH_DENSITY = ("scc", "atoms")  # baselines whose density matrix is an input
# The potentials span the frontier orbitals of each H0. In nearly all organic molecules the minao Fock matrix has a gap
# between -0.21 and -0.18 Ha, so that one of the functions is its density matrix.
LEVELS = {
    "sap": Levels((-1.0, -0.8, -0.65, -0.5), 0.05),
    "hcore": Levels((-1.0, -0.8, -0.65, -0.5), 0.05),
    "minao": Levels((-0.55, -0.33, -0.19, -0.05), 0.03),
    **dict.fromkeys(WITH_DENSITY, Levels((-0.65, -0.4), 0.05)),  # its own density replaces the others
}
N_INPUTS = 2 + len(LEVELS["sap"].potentials)

# Orbital energies of a crystal have no common zero, and a metal has no gap: H0 is shifted so that its occupied
# orbitals have this mean energy, and its own density matrix has smeared occupations; Hartree.
MEAN_ENERGY, SMEARING = -0.6, 0.005


def inputs_from_h0(
    h0: Array, overlap: Array, metric: Metric, baseline: str, occupied: Sequence[float] = (), periodic: bool = False
) -> list[Array]:
    """Return input matrices of a network: bounded functions of H0, one set for each spin of H0.

    The overlap; H0 with its spectrum squashed to (-1, 1); density matrices of H0 at several chemical potentials; of the
    self-consistent baseline and of superposed atoms also its own density matrices, of the spin itself and of the other
    one. Fragments without overlap do not mix in any of them.

    Args:
        h0: (spins, n, n), one matrix for both spins or one for each, or (spins, N_k, n, n) of a crystal, in AOs;
            Hartree.
        overlap: (n, n) or (N_k, n, n).
        baseline: name of H0, see `LEVELS`.
        occupied: number of occupied orbitals for each spin, of a crystal at each k point.
        periodic: whether the orbital energies are those of a crystal.

    Returns:
        (N_INPUTS, n, n) or (N_INPUTS, N_k, n, n) for each spin.
    """
    levels = LEVELS[baseline]
    spins: list[tuple[Array, Array]] = [np.linalg.eigh(orthogonal_from_ao(matrix, metric)) for matrix in h0]
    fillings = [filling(e, n, periodic) for (e, _), n in zip(spins, occupied, strict=False)]
    if periodic:
        total = sum(float(np.sum(e * f)) for (e, _), f in zip(spins, fillings, strict=True))
        origin = total / sum(float(f.sum()) for f in fillings) - MEAN_ENERGY
        spins = [(e - origin, V) for e, V in spins]
    functions = []
    for e, V in spins:
        squashed = e / np.sqrt(1 + e * e)
        fermi = [0.5 * (1 - np.tanh((e - mu) / (2 * levels.temperature))) for mu in levels.potentials]
        functions.append([overlap, *(_with_eigenvalues(f, V) for f in (squashed, *fermi))])
    if baseline in WITH_DENSITY:
        densities = [_with_eigenvalues(f, V) for (_, V), f in zip(spins, fillings, strict=False)]
        for own, density, other in zip(functions, densities, densities[::-1], strict=True):
            own += [density, other]
    return [np.stack(matrices) for matrices in functions]


def filling(energies: Array, occupied: float, periodic: bool) -> Array:
    """Return occupations between 0 and 1 of the orbitals of one spin, those of all k points filled together.

    Args:
        energies: (n,) in ascending order, or (N_k, n) of a crystal; Hartree.
        occupied: number of occupied orbitals at each k point.
        periodic: whether they are those of a crystal, with occupations smeared by `SMEARING`.
    """
    if not periodic:
        return (np.arange(energies.size) < round(occupied)).astype(np.float64)
    inside = (float(energies.min()) - 50 * SMEARING, float(energies.max()) + 50 * SMEARING)
    electrons = occupied * len(energies)
    mu = brentq(lambda mu: float(expit((mu - energies) / SMEARING).sum()) - electrons, *inside, xtol=1e-14)
    return np.asarray(expit((mu - energies) / SMEARING))


def _with_eigenvalues(values: Array, vectors: Array) -> Array:
    """Return V f V^+."""
    return np.asarray((vectors * values[..., None, :]) @ np.swapaxes(vectors.conj(), -1, -2))


class Cut(NamedTuple):
    """How the matrices of a structure are cut into blocks in the pairs' frames, and assembled from them."""

    graph: Graph  # pairs (i, j, R), each once; the frame of the opposite pair is rotated by pi about the x axis
    frames: Array  # (P, 3, 3) rotations that bring each pair onto +z
    layout: OrbitalLayout
    template: ShellTemplate  # shape of a block
    kpts: Array | None = None  # (N_k, 3) uniform mesh of a crystal, 1/Bohr; None for a molecule

    @classmethod
    def of(cls, graph: Graph, layout: OrbitalLayout, template: ShellTemplate, kpts: Array | None = None) -> Cut:
        """Choose frames for the pairs of a graph, in which each pair has its opposite."""
        half = each_pair_once(graph)
        return cls(half, frames_from_vectors(half.vectors), layout, template, kpts)

    def blocks(self, matrix: Array) -> Blocks:
        """Cut a symmetric matrix (n, n), or the Hermitian (N_k, n, n) of a real operator, in PySCF's AO order."""
        cut = (self.graph.pairs, self.template)
        if self.kpts is None:
            blocks = blocks_from_matrix(matrix, self.layout, *cut)
        else:
            blocks = blocks_from_bloch(matrix, self.kpts, self.graph, self.layout, self.template)
        return Blocks(blocks.onsite.real, rotate_blocks(blocks.pair.real, self.template, self.frames))

    def matrix(self, blocks: Blocks) -> Array:
        """Assemble a symmetric matrix from blocks: the inverse of `blocks` if all pairs are in the graph."""
        pair = rotate_blocks(blocks.pair, self.template, np.swapaxes(self.frames, -1, -2))
        graph = with_opposites(self.graph)
        both = Blocks(blocks.onsite, np.concatenate([pair, np.swapaxes(pair, -1, -2)]))
        if self.kpts is None:
            return matrix_from_blocks(both, self.layout, graph.pairs, self.template)
        return bloch_from_blocks(both, self.kpts, graph, self.layout, self.template)


class Sample(NamedTuple):
    """Input of a network for one molecule or cell; arrays of any floating-point type.

    Each pair of atoms occurs once; the frame of (j, i) is that of (i, j) rotated by pi about its x axis.
    """

    numbers: NDArray[np.int64]  # (N,) atomic numbers
    positions: NDArray[np.float64]  # (N, 3) Bohr
    charge: int
    periodic: bool  # whether it is a cell; there may be several pairs of the same two atoms then, or of one atom twice
    # (N, B) True for an orbital, False for padding, if the atom lacks a shell of the template
    padding_mask: NDArray[np.bool_]
    pairs: NDArray[np.int64]  # (P, 2) atoms i <= j
    distances: NDArray[np.floating]  # (P,) Bohr
    # (P, (L+1)^2, (L+1)^2) Wigner D matrices, irreps at the atoms -> m-components in the pairs' frames
    wigner_d: NDArray[np.floating]
    onsite: NDArray[np.floating]  # (N, K, B, B) input matrices, in the global frame
    pair: NDArray[np.floating]  # (P, K, B, B) input matrices, in the pairs' frames


def sample_from_matrices(cut: Cut, charge: int, matrices: Array, degree: int) -> Sample:
    """Cut matrices of `inputs_from_h0` into the input of a network; degree: largest l of features at atoms."""
    graph = cut.graph
    blocks = [cut.blocks(matrix) for matrix in matrices]
    return Sample(
        numbers=graph.numbers,
        positions=graph.positions,
        charge=charge,
        periodic=cut.kpts is not None,
        padding_mask=cut.layout.slots(cut.template) >= 0,
        pairs=graph.pairs,
        distances=np.linalg.norm(graph.vectors, axis=-1),
        wigner_d=wigner_from_frames(cut.frames, degree),
        onsite=np.stack([each.onsite for each in blocks], axis=1),
        pair=np.stack([each.pair for each in blocks], axis=1),
    )
