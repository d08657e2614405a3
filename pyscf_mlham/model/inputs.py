"""Input of a network from a PySCF molecule and its H0."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import gto

from pyscf_mlham.ao.layout import OrbitalLayout, ShellTemplate
from pyscf_mlham.ao.loewdin import Metric, metric_from_overlap
from pyscf_mlham.ao.mole import graph_from_mol
from pyscf_mlham.features import Sample, inputs_from_h0, sample_from_matrices


class Recipe(NamedTuple):
    """Properties of a network that determine its input.

    Attributes:
        template: shape of a block.
        degree: largest l of features at atoms.
        cutoff: cutoff of pairs, Bohr.
        baseline: name of H0.
    """

    template: ShellTemplate
    degree: int
    cutoff: float
    baseline: str


class Inputs(NamedTuple):
    """Input of a network for a molecule, and what cuts its other matrices into blocks of the same kind.

    Attributes:
        samples: one for each spin of H0.
        layout: orbital layout of the molecule.
        metric: roots of its overlap.
    """

    samples: list[Sample]
    layout: OrbitalLayout
    metric: Metric

    @classmethod
    def from_mol(cls, mol: gto.Mole, h0: NDArray[np.float64], recipe: Recipe) -> Inputs:
        """Compute the overlap and the functions of H0, and cut them into blocks.

        Args:
            mol: molecule in the model's own basis set.
            h0: (n, n), or (2, n, n) of alpha and beta electrons; Hartree.
        """
        overlap = np.asarray(mol.intor("int1e_ovlp"))
        layout, metric = OrbitalLayout.from_mol(mol), metric_from_overlap(overlap)
        graph = graph_from_mol(mol, recipe.cutoff)
        inputs = inputs_from_h0(h0, overlap, metric, recipe.baseline, mol.nelec)
        cut = (sample_from_matrices(graph, mol.charge, k, layout, recipe.template, recipe.degree) for k in inputs)
        return cls(list(cut), layout, metric)
