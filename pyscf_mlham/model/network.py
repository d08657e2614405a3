"""A trained network as a model of the guess: from a PySCF molecule or cell and its H0 to dH."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import gto

from pyscf_mlham.ao.blocks import Blocks
from pyscf_mlham.ao.layout import OrbitalLayout, ShellTemplate
from pyscf_mlham.ao.loewdin import LOEWDIN, Metric, ao_from_orthogonal, metric_from_overlap, orthogonal_from_ao
from pyscf_mlham.ao.mole import atom_of_each_ao, graph_from_cell, graph_from_mol, is_periodic
from pyscf_mlham.ao.mulliken import MULLIKEN, ao_from_parts, of_atoms, parts_from_ao
from pyscf_mlham.arrays import Array, IntArray
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.errors import ModelError, needed
from pyscf_mlham.features import Cut, Sample, inputs_from_h0, sample_from_matrices
from pyscf_mlham.h0 import SCC
from pyscf_mlham.model.predictor import native_mol

if TYPE_CHECKING:
    from pyscf_mlham.nn.model import HamiltonianModel


class Recipe(NamedTuple):
    """Properties of a network that determine its input."""

    template: ShellTemplate  # shape of a block
    degree: int  # largest l of features at atoms
    cutoff: float  # cutoff of pairs, Bohr
    baseline: str  # name of H0
    target: str = LOEWDIN  # form of dH that it predicts


class Inputs(NamedTuple):
    """Input of a network for a molecule or cell, and what cuts its other matrices into blocks of the same kind."""

    samples: list[Sample]  # one for each spin of H0
    cut: Cut
    overlap: Array
    metric: Metric  # roots of its overlap
    atoms: IntArray | None  # atom of each AO, if dH is that of atoms and a rest; None in Loewdin orbitals

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
        unpaired = mol.spin / (1 if kpts is None else len(kpts))  # the spin of a cell is that of all k points
        occupied = (mol.nelectron + unpaired) / 2, (mol.nelectron - unpaired) / 2
        inputs = inputs_from_h0(spins, overlap, metric, recipe.baseline, occupied, kpts is not None)
        samples = [sample_from_matrices(cut, mol.charge, matrices, recipe.degree) for matrices in inputs]
        atoms = atom_of_each_ao(mol) if recipe.target == MULLIKEN else None
        return cls(samples, cut, overlap, metric, atoms)

    def target(self, dh: Array) -> Array:
        """Bring dH from AOs into the form that the network predicts; dh: (n, n) or (N_k, n, n) Hartree."""
        if self.atoms is None:
            return orthogonal_from_ao(dh, self.metric)
        return parts_from_ao(dh, self.overlap, self.atoms)

    def correction(self, target: Array) -> Array:
        """Return dH in AOs: the inverse of `target`."""
        if self.atoms is None:
            return ao_from_orthogonal(target, self.metric)
        return ao_from_parts(target, self.overlap, of_atoms(target, self.atoms))


class NetworkModel:
    """dH of a trained network; it is restricted, one matrix for both spins, if its H0 is."""

    exact = False

    def __init__(self, config: ModelConfig, network: HamiltonianModel) -> None:
        self.config = config
        self.restricted = config.baseline != SCC
        self.network = network.requires_grad_(False)
        sizes = network.options
        self._recipe = Recipe(network.template, sizes.degree, sizes.cutoff, config.baseline, sizes.target)

    @classmethod
    def from_weights(cls, config: ModelConfig, weights: Mapping[str, NDArray[Any]]) -> NetworkModel:
        """Rebuild a trained network, on the GPU if there is one."""
        torch = needed("torch")

        from pyscf_mlham.nn.model import network_from_config

        network = network_from_config(config)
        try:
            network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
        except RuntimeError as error:
            raise ModelError(f"model {config.name}: its weights do not fit its network ({error}).") from error
        return cls(config, network.to("cuda" if torch.cuda.is_available() else "cpu"))

    def native(self, mol: gto.Mole) -> gto.Mole:
        """Return the same nuclei in the model's own basis set; a cell in its domain has it."""
        return mol if is_periodic(mol) else native_mol(mol, self.config.basis)

    def correction(self, native: gto.Mole, h0: Array, kpts: Array | None = None) -> Array:
        """Return dH = F - H0 in the shape of H0, see `Inputs.from_mol`; PySCF's AO order, Hartree."""
        import torch

        from pyscf_mlham.nn.batch import batch_from_samples

        inputs = Inputs.from_mol(native, h0, self._recipe, kpts)
        weight = next(self.network.parameters())
        with torch.no_grad():
            output = self.network(batch_from_samples(inputs.samples).to(weight.device, weight.dtype))
        onsite, pair = (np.split(t.double().cpu().numpy(), len(inputs.samples)) for t in output)
        dh = [inputs.correction(inputs.cut.matrix(blocks)) for blocks in map(Blocks, onsite, pair)]
        return np.stack(dh).reshape(h0.shape)


def check_shapes(config: ModelConfig, weights: Mapping[str, NDArray[Any]]) -> None:
    """Raise ModelError if weights are not those of the network, before any memory is allocated for it."""
    torch = needed("torch")

    from pyscf_mlham.nn.model import network_from_config

    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in network_from_config(config).state_dict().items()}
    found = {name: array.shape for name, array in weights.items()}
    if other := [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]:
        name = min(other)
        raise ModelError(
            f"model {config.name}: its weights do not fit its network ({len(other)} of them; {name} has shape "
            f"{found.get(name)}, expected {expected.get(name)}); copy the model again."
        )
