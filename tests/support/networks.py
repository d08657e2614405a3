"""Small networks with random weights, a molecule without symmetry, and samples of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from pyscf import gto

from pyscf_mlham.ao.blocks import Blocks
from pyscf_mlham.ao.layout import OrbitalLayout, ShellTemplate
from pyscf_mlham.ao.loewdin import metric_from_overlap
from pyscf_mlham.ao.mole import graph_from_mol
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.features import Cut, Sample, inputs_from_h0, sample_from_matrices
from pyscf_mlham.h0 import hamiltonian
from pyscf_mlham.nn import so2
from pyscf_mlham.nn.batch import batch_from_samples
from pyscf_mlham.nn.model import HamiltonianModel, network_from_config
from pyscf_mlham.nn.registry import ARCHITECTURES

Array = np.ndarray

ELEMENTS = (1, 6, 7, 8)
TEMPLATE = ShellTemplate((3, 2, 1))
SMALL = {"channels": 8, "pair_channels": 12, "hidden": 16, "layers": 2, "radial": 8, "cutoff": 9.0}
SIZES = {"qhnet": SMALL | {"pair_layers": 1}, "qhnetv2": SMALL | {"product": 8}}
# without any symmetry; some atoms within, some beyond each other's cutoff
MOLECULE = [
    ("O", (0.0, 0.1, 0.0)),
    ("C", (1.2, 0.2, 0.4)),
    ("N", (1.9, 1.4, -0.3)),
    ("H", (-0.6, -0.5, 0.6)),
    ("H", (2.0, -0.8, 0.3)),
    ("H", (5.3, 1.9, 0.9)),
]


WRAPPER = {"name": "tracegrad", "quadratic": 4, "hidden": 16, "invariants": 8}
REFINER = {"name": "harmose", "channels": 16, "heads": 2, "layers": 2, "shown": 3, "frames": 2, "limit": 0.01}
VARIANTS = [
    "+".join(filter(None, parts))
    for parts in itertools.product(sorted(ARCHITECTURES), ("", "tracegrad"), ("", "harmose"))
]


def options_of(variant: str) -> dict[str, object]:
    architecture, *parts = variant.split("+")
    chosen: dict[str, object] = {"template": list(TEMPLATE.counts), "network": SIZES[architecture]}
    if "tracegrad" in parts:
        chosen["wrapper"] = WRAPPER
    if "harmose" in parts:
        chosen["refiner"] = REFINER
    return chosen


def random_network(variant: str, dtype: torch.dtype = torch.float64, **refiner: object) -> HamiltonianModel:
    torch.manual_seed(1)
    options = options_of(variant)
    if refiner:
        options["refiner"] = REFINER | refiner
    config = ModelConfig("n", variant.split("+")[0], ELEMENTS, (0,), "def2-svp", "hf", "sap", options=options)
    made = network_from_config(config, dtype)
    with torch.no_grad():
        for parameter in made.parameters():  # none stays at zero or one, where it could hide a mistake
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


SAMPLES: dict[tuple[object, ...], Sample] = {}  # the same few molecules for every network


def sample_of(mol: gto.Mole, cutoff: float = SMALL["cutoff"]) -> Sample:
    key = (tuple(mol.elements), mol.atom_coords().tobytes(), cutoff)
    if key not in SAMPLES:
        SAMPLES[key] = new_sample(mol, cutoff)
    return SAMPLES[key]


def new_sample(mol: gto.Mole, cutoff: float, template: ShellTemplate = TEMPLATE, degree: int = 4) -> Sample:
    h0 = hamiltonian("sap", mol)
    overlap = mol.intor("int1e_ovlp")
    inputs = inputs_from_h0(h0[None], overlap, metric_from_overlap(overlap), "sap")[0]
    return sample_from_matrices(cut_of(mol, cutoff, template), mol.charge, inputs, degree)


def cut_of(mol: gto.Mole, cutoff: float = SMALL["cutoff"], template: ShellTemplate = TEMPLATE) -> Cut:
    return Cut.of(graph_from_mol(mol, cutoff), OrbitalLayout.from_mol(mol), template)


def predicted(network: HamiltonianModel, mol: gto.Mole, charge: int = 0) -> Array:
    sample = sample_of(mol)._replace(charge=charge)
    with torch.no_grad():
        output = network(batch_from_samples([sample]).to("cpu", torch.float64))
    return assembled(output, mol)


def assembled(output: tuple[torch.Tensor, torch.Tensor], mol: gto.Mole) -> Array:
    return cut_of(mol).matrix(Blocks(*(t.numpy() for t in output)))


def svp(atoms: list[tuple[str, tuple[float, ...]]] | str, unit: str = "Angstrom") -> gto.Mole:
    return gto.M(atom=atoms, basis="def2-svp", unit=unit, verbose=0, spin=None)


def moved(move: Callable[[Array], Array]) -> gto.Mole:
    return svp([(symbol, tuple(move(np.array(position)))) for symbol, position in MOLECULE])


MISTAKES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a bias for m > 0, too": lambda g: g + 0.01,
    "sine of each component": lambda g: torch.sin(4 * g),
}


def broken(network: HamiltonianModel, mistake: str) -> HamiltonianModel:
    """Make a mistake in the pairs' frames, which rotates along if the frames do."""
    layer = network.backbone.layers[0].enter
    layer.forward = lambda components: [MISTAKES[mistake](g) for g in so2.Linear.forward(layer, components)]
    return network
