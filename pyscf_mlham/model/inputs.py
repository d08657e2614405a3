"""Input of a network from a PySCF molecule or cell and its H0."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import gto

from pyscf_mlham.ao.layout import OrbitalLayout, ShellTemplate
from pyscf_mlham.ao.loewdin import Metric, metric_from_overlap
from pyscf_mlham.ao.mole import graph_from_cell, graph_from_mol
from pyscf_mlham.features import Cut, Sample, inputs_from_h0, sample_from_matrices

Array = NDArray[Any]


class Recipe(NamedTuple):
    """Properties of a network that determine its input."""

    template: ShellTemplate  # shape of a block
    degree: int  # largest l of features at atoms
    cutoff: float  # cutoff of pairs, Bohr
    baseline: str  # name of H0


class Inputs(NamedTuple):
    """Input of a network for a molecule or cell, and what cuts its other matrices into blocks of the same kind."""

    samples: list[Sample]  # one for each spin of H0
    cut: Cut
    metric: Metric  # roots of its overlap

    @classmethod
    def from_mol(cls, mol: gto.Mole, h0: Array, recipe: Recipe, kpts: Array | None = None) -> Inputs:
        """Compute the overlap and the functions of H0, and cut them into blocks.

        Args:
            h0: (n, n), or (2, n, n) of alpha and beta electrons; of a cell (N_k, n, n) or (2, N_k, n, n); Hartree.
            kpts: (N_k, 3) uniform mesh of a cell, 1/Bohr.
        """
        if kpts is None:
            overlap, graph = np.asarray(mol.intor("int1e_ovlp")), graph_from_mol(mol, recipe.cutoff)
        else:
            overlap = np.asarray(mol.pbc_intor("int1e_ovlp", hermi=1, kpts=kpts))
            graph = graph_from_cell(mol, recipe.cutoff)
        metric = metric_from_overlap(overlap)
        cut = Cut.of(graph, OrbitalLayout.from_mol(mol), recipe.template, kpts)
        spins = h0 if h0.ndim > overlap.ndim else h0[None]
        inputs = inputs_from_h0(spins, overlap, metric, recipe.baseline, _occupied(mol, kpts), kpts is not None)
        samples = [sample_from_matrices(cut, mol.charge, matrices, recipe.degree) for matrices in inputs]
        return cls(samples, cut, metric)


def _occupied(mol: gto.Mole, kpts: Array | None) -> tuple[float, float]:
    """Return the numbers of alpha and beta electrons at each k point; the spin of a cell is that of all of them."""
    n_k = 1 if kpts is None else len(kpts)
    return (mol.nelectron + mol.spin / n_k) / 2, (mol.nelectron - mol.spin / n_k) / 2
