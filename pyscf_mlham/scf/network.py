"""A trained network as a model that the guess can use: a PySCF molecule in, dH out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pyscf import gto

from pyscf_mlham import baseline
from pyscf_mlham.ao.blocks import Blocks
from pyscf_mlham.ao.layout import OrbitalLayout, ShellTemplate
from pyscf_mlham.ao.loewdin import ao_from_orthogonal, metric_from_overlap
from pyscf_mlham.ao.mole import graph_from_mol
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.errors import ModelError
from pyscf_mlham.features import (
    LEVELS,
    frames_from_sample,
    inputs_from_h0,
    matrix_from_local_blocks,
    sample_from_matrices,
)
from pyscf_mlham.scf.predictor import native_mol

if TYPE_CHECKING:
    from pyscf_mlham.nn.model import HamiltonianModel

Array = NDArray[np.float64]


class NetworkModel:
    """dH of a trained network.

    Attributes:
        config: domain, native basis, functional and H0.
        network: the torch module.
        exact: False; its answers are checked.
        restricted: True; it was trained on closed shells.
    """

    exact = False
    restricted = True

    def __init__(self, config: ModelConfig, network: HamiltonianModel) -> None:
        self.config = config
        self.network = network.eval().requires_grad_(False)
        self._template = ShellTemplate(tuple(config.options["template"]))

    @classmethod
    def from_weights(cls, config: ModelConfig, weights: Mapping[str, NDArray[Any]]) -> NetworkModel:
        """Rebuild a trained network, on the GPU where there is one.

        Args:
            config: as read from the folder.
            weights: of the network, by name.
        """
        import torch

        from pyscf_mlham.nn.model import network_from_config

        network = network_from_config(config)
        try:
            network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
        except RuntimeError as error:
            raise ModelError(f"model {config.name}: its weights do not fit its network ({error}).") from error
        return cls(config, network.to("cuda" if torch.cuda.is_available() else "cpu"))

    def native(self, mol: gto.Mole) -> gto.Mole:
        """Return the same nuclei in the model's own basis set.

        Args:
            mol: molecule.
        """
        return native_mol(mol, self.config.basis)

    def correction(self, native: gto.Mole) -> Array:
        """Return dH = F - H0, (n, n) in PySCF's AO order, Hartree.

        Args:
            native: molecule in the model's own basis set.
        """
        import torch

        from pyscf_mlham.nn.batch import batch_from_samples

        config, options = self.config, self.network.options
        h0 = baseline.hamiltonian(config.baseline, native, config.xc)
        overlap = np.asarray(native.intor("int1e_ovlp"))
        metric = metric_from_overlap(overlap)
        layout, graph = OrbitalLayout.from_mol(native), graph_from_mol(native, options.cutoff)
        inputs = inputs_from_h0(h0, overlap, metric, LEVELS[config.baseline])
        sample = sample_from_matrices(graph, native.charge, inputs, layout, self._template, options.degree)
        weight = next(self.network.parameters())
        with torch.no_grad():
            output = self.network(batch_from_samples([sample]).to(weight.device, weight.dtype))
        blocks = Blocks(*(t.double().cpu().numpy() for t in output))
        dh = matrix_from_local_blocks(blocks, layout, sample.pairs, self._template, frames_from_sample(sample))
        return ao_from_orthogonal(dh, metric)
