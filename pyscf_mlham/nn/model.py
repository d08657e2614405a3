"""HamiltonianModel = backbone (+ wrapper) + head (+ refiner): from molecules to blocks of dH."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pyscf_mlham.ao.layout import MAX_DEGREE, ShellTemplate
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.errors import ModelError
from pyscf_mlham.features import N_INPUTS
from pyscf_mlham.nn import so2
from pyscf_mlham.nn.backbone import Backbone, BackboneOptions, Directed, Features
from pyscf_mlham.nn.batch import Batch, block_masks
from pyscf_mlham.nn.head import ONSITE_SCALE, Output, Traces, pair_size, symmetric, undirected
from pyscf_mlham.nn.registry import ARCHITECTURES, REFINERS, WRAPPERS, Entry
from pyscf_mlham.nn.rotation import Rotation, random_orthogonal, rotation_from_matrix
from pyscf_mlham.options import from_keys

if TYPE_CHECKING:
    from pyscf_mlham.nn.architectures.harmose import HarmoSE
    from pyscf_mlham.nn.architectures.tracegrad import TraceGrad

MOST_ORBITALS = 128  # of an atom; a block couples the fourth power of them
SOFTENING = 2.0  # Bohr; extent of an atom's charge density


class HamiltonianModel(nn.Module):
    """Backbone, optional wrapper of its features, block head and optional refiner of the head's blocks.

    The head adds the electrostatic potential of the charges that neighbouring atoms exchange.
    """

    index: Tensor
    unit: Tensor

    def __init__(
        self, backbone: Backbone, elements: tuple[int, ...], wrapper: TraceGrad | None, refiner: HarmoSE | None
    ) -> None:
        super().__init__()
        self.backbone, self.options, self.template = backbone, backbone.options, backbone.template
        self.onsite, self.pair = OnsiteHead(backbone, len(elements)), PairHead(backbone)
        self.transfer = nn.Linear(self.options.pair_channels, 1, bias=False)
        nn.init.zeros_(self.transfer.weight)
        self.wrapper, self.refiner = wrapper, refiner
        index = torch.full((max(elements) + 1,), -1)
        index[list(elements)] = torch.arange(len(elements))
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("unit", torch.eye(self.template.size), persistent=False)

    def forward(self, batch: Batch) -> Output:
        """Predict the blocks of dH."""
        return self._predicted(batch, self.index[batch.numbers], None)[0]

    def for_training(self, batch: Batch, rotation: Rotation | None) -> tuple[Output, Traces | None]:
        """Predict blocks, in an orientation of a refiner, and with a wrapper the traces that only the loss needs."""
        species = self.index[batch.numbers]
        output, features, invariants = self._predicted(batch, species, rotation)
        if self.wrapper is None or invariants is None:
            return output, None
        scale = self.options.scale
        return output, Traces(*(scale**2 * t for t in self.wrapper.traces(invariants, features, species)))

    def orientation(self, seed: Sequence[int]) -> Rotation | None:
        """Draw the orientation of the molecules in the refiner for one training step; None without a refiner."""
        if self.refiner is None:
            return None
        return rotation_from_matrix(random_orthogonal(seed), self.options.degree, self.template)

    def _predicted(
        self, batch: Batch, species: Tensor, rotation: Rotation | None
    ) -> tuple[Output, Features, tuple[Tensor, Tensor] | None]:
        """Return blocks, the features they are made of, and the invariants of a wrapper."""
        features, invariants = self.backbone(batch, species), None
        if self.wrapper is not None:
            features, invariants = self.wrapper(features)
        output = self._decoded(features, batch, species)
        if self.refiner is not None:
            output = self.refiner(output, features, batch, species, rotation)
        return Output(*(self.options.scale * t for t in output)), features, invariants

    def _decoded(self, features: Features, batch: Batch, species: Tensor) -> Output:
        atoms, pairs, directed = features
        onsite = self.onsite(atoms, pairs, directed, species)
        moved = self.transfer(pairs[:, 0])[:, 0] * directed.envelope.flatten()
        potential = coulomb_potential(charges_from_transfers(moved, directed, len(atoms)), batch)
        pair = undirected(self.pair(pairs, directed), self.backbone.block_signs)
        onsite_mask, pair_mask = block_masks(batch)
        return Output(onsite_mask * (onsite + potential[:, None, None] * self.unit), pair_mask * pair)


def charges_from_transfers(moved: Tensor, directed: Directed, n_atoms: int) -> Tensor:
    """Sum the charge that first atoms take from second ones, (2P,) e: (N,) e. Every fragment keeps its total charge."""
    return moved.new_zeros(n_atoms).index_add(0, directed.first, moved).index_add(0, directed.second, -moved)


def coulomb_potential(charges: Tensor, batch: Batch) -> Tensor:
    """Potential energy of an electron at each atom in the field of the others' charges (N,), without a cutoff; Hartree.

    It is zero in cells, whose lattice sum would be needed: H0 has the electrostatics.
    """
    r = batch.positions[:, None] - batch.positions[None]
    kernel = torch.rsqrt(r.square().sum(-1) + SOFTENING**2)
    others = (batch.molecule[:, None] == batch.molecule[None]) & ~torch.eye(len(r), dtype=torch.bool, device=r.device)
    others = others & ~batch.periodic[batch.molecule][:, None]
    return -(kernel * others) @ charges


class OnsiteHead(nn.Module):
    """Irreps at atoms -> onsite blocks. Irreps of parity -(-1)^l come from the pair features around the atom."""

    def __init__(self, backbone: Backbone, n_elements: int) -> None:
        super().__init__()
        o = self.options = backbone.options
        self.coupling = backbone.coupling
        self.scales = nn.Embedding(n_elements, o.channels)
        nn.init.ones_(self.scales.weight)
        self.biases = nn.Embedding(n_elements, self.coupling.channels[0, True])
        nn.init.zeros_(self.biases.weight)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(o.channels, n) * o.channels**-0.5) for n in self.coupling.channels.values()
        )
        widths = so2.atom_widths(o.degree, backbone.order, o.channels, pseudo=True)
        self.pseudo = so2.Linear([o.pair_channels] * len(widths), widths)

    def forward(self, atoms: Tensor, pairs: Tensor, directed: Directed, species: Tensor) -> Tensor:
        """Return (N, B, B) symmetric blocks."""
        o = self.options
        components = self.pseudo(so2.components_from_feature(pairs * directed.envelope))
        sent = so2.atoms_from_components(components, directed.wigner_d, o.degree, pseudo=True)
        pseudo = torch.zeros_like(atoms).index_add(0, directed.first, sent)
        scale = ONSITE_SCALE * self.scales(species)[:, None]
        irreps = {}
        for (l, natural), weight in zip(self.coupling.degrees, self.weights, strict=True):
            source = atoms if natural else pseudo
            irreps[l, natural] = (source[:, l * l : (l + 1) ** 2] * scale) @ weight
        irreps[0, True] = irreps[0, True] + self.biases(species)[:, None]
        return symmetric(self.coupling.blocks_from_irreps(irreps))


class PairHead(nn.Module):
    """Features of pairs -> blocks in the pairs' frames."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        o, self.polar = backbone.options, backbone.polar
        self.radial = nn.Linear(o.hidden, o.pair_channels)
        self.leave = so2.Linear([o.pair_channels] * len(self.polar.widths), self.polar.widths)

    def forward(self, pairs: Tensor, directed: Directed) -> Tensor:
        """Return (2P, B, B) blocks."""
        components = self.leave(so2.components_from_feature(pairs * self.radial(directed.edges)[:, None]))
        return pair_size(directed.distances) * directed.envelope * self.polar.blocks_from_components(components)


def build(
    architecture: str,
    options: Mapping[str, Any],
    template: ShellTemplate,
    elements: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    *,
    wrapper: Mapping[str, Any] | None = None,
    refiner: Mapping[str, Any] | None = None,
) -> HamiltonianModel:
    """Build a network, one of `ARCHITECTURES`, with random weights; an unknown option is an error.

    Args:
        wrapper: its name, one of `WRAPPERS`, and its sizes, or None.
        refiner: its name, one of `REFINERS`, and its sizes, or None.
    """
    chosen = options_of(architecture, options)
    network, _ = ARCHITECTURES[architecture].load()
    if 2 * (len(template.counts) - 1) > chosen.degree:
        raise ValueError(f"degree {chosen.degree} is too small for orbitals up to l = {len(template.counts) - 1}.")
    template = template.within(chosen.largest_l)
    backbone = network(chosen, template, len(elements), N_INPUTS)
    parts = (_part(*part, backbone, len(elements)) for part in ((WRAPPERS, wrapper), (REFINERS, refiner)))
    return HamiltonianModel(backbone, tuple(sorted(elements)), *parts).to(dtype)


def _part(known: Mapping[str, Entry], part: Mapping[str, Any] | None, backbone: Backbone, n_elements: int) -> Any:
    """Build a wrapper or a refiner for a backbone, or None."""
    if part is None:
        return None
    sizes = dict(part)
    name = sizes.pop("name", "")
    options = _read_options(known, name, sizes)
    try:
        return known[name].load()[0](options, backbone, n_elements)
    except ValueError as error:
        raise ModelError(f"{name}: {error}") from error


def options_of(architecture: str, options: Mapping[str, Any]) -> BackboneOptions:
    """Read the sizes of a backbone, one of `ARCHITECTURES`; an unknown key is an error."""
    read: BackboneOptions = _read_options(ARCHITECTURES, architecture, options, "architecture")
    return read


def part_of(kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Describe a wrapper or refiner with all its sizes, for `build`; None for "none". An unknown key is an error."""
    if name == "none":
        if options:
            raise ModelError(f"there are {kind}_options but no {kind}; name one, or leave them out.")
        return None
    known = {"wrapper": WRAPPERS, "refiner": REFINERS}[kind]
    return {"name": name, **asdict(_read_options(known, name, options, kind))}


def _read_options(known: Mapping[str, Entry], name: str, options: Mapping[str, Any], kind: str = "network") -> Any:
    if not isinstance(name, str) or name not in known:
        raise ModelError(f"unknown {kind} {name!r}; expected one of {', '.join(known)}.")
    return from_keys(known[name].load()[1], dict(options), name)


def network_from_config(config: ModelConfig, dtype: torch.dtype = torch.float32) -> HamiltonianModel:
    """Build the network that the options of a model's config describe, with random weights."""
    options, parts = config.options, ("wrapper", "refiner")
    if missing := {"template", "network"} - set(options):
        raise ModelError(f"model {config.name}: its options lack {sorted(missing)}.")
    if unknown := sorted(set(options) - {"template", "network", *parts}):
        raise ModelError(f"model {config.name}: unknown options {unknown}; update pyscf_mlham.")
    counts, network = options["template"], options["network"]
    if not (isinstance(counts, list | tuple) and all(type(n) is int and n >= 0 for n in counts)):
        raise ModelError(f"model {config.name}: template {counts!r}, expected the number of shells of each degree l.")
    template = ShellTemplate(tuple(counts))
    if not (1 <= len(counts) <= MAX_DEGREE + 1 and 1 <= template.size <= MOST_ORBITALS):
        raise ModelError(f"model {config.name}: template {counts} has too many orbitals of an atom, or none.")
    wrapper, refiner = (options.get(part) for part in parts)
    if not all(isinstance(part, Mapping) for part in (network, wrapper or {}, refiner or {})):
        raise ModelError(f"model {config.name}: network, wrapper and refiner must be keys and values.")
    return build(config.architecture, network, template, config.elements, dtype, wrapper=wrapper, refiner=refiner)
