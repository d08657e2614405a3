"""Interface of the backbones: from a batch of molecules to features of atoms and pairs."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyscf_mlham.ao.frames import flipped_block, flipped_wigner
from pyscf_mlham.ao.layout import MAX_DEGREE, ShellTemplate
from pyscf_mlham.ao.loewdin import LOEWDIN
from pyscf_mlham.ao.mulliken import MULLIKEN
from pyscf_mlham.nn import so2
from pyscf_mlham.nn.batch import Batch
from pyscf_mlham.nn.head import Coupling, PolarCoupling
from pyscf_mlham.nn.layers import FeedForward, GroupNorm, IrrepsLinear, Radial
from pyscf_mlham.options import number

TARGETS = (LOEWDIN, MULLIKEN)  # forms of dH
NEIGHBOURS = 10.0  # typical sum of the envelope over an atom's neighbours; messages are divided by its square root


def sized(default: int, least: int = 1, most: int = 4096) -> int:
    """Declare a size of a network; without a bound, a damaged file could ask for any amount of memory."""
    return number(default, least=least, most=most)


@dataclass(frozen=True)
class BackboneOptions:
    """Sizes common to all backbones."""

    layers: int = sized(3, least=0, most=64)  # message-passing layers
    channels: int = sized(32)  # channels of irreps at atoms
    degree: int = sized(4, least=0, most=2 * MAX_DEGREE)  # largest l at atoms, at least twice that of the orbitals
    # largest l of the shells that are corrected; dH of shells beyond it, as f shells of metals, is zero
    largest_l: int = sized(MAX_DEGREE, least=0, most=MAX_DEGREE)
    pair_channels: int = sized(48)  # channels of pair features
    hidden: int = sized(96)  # channels inside a layer
    radial: int = sized(32)  # number of radial functions
    cutoff: float = number(16.0, above=0, below=inf)  # Bohr
    # share of the cutoff within which the features of pairs are not damped; predictions are zero from the cutoff on
    flat: float = number(0.0, least=0, below=1)
    # dH in Loewdin orbitals, or, for crystals with far-reaching orbitals, that of atoms and a rest, see `ao.mulliken`
    target: str = LOEWDIN
    # scale of the output, the typical size of dH over that of dH from the minao field
    scale: float = number(1.0, above=0, below=inf)


class Directed(NamedTuple):
    """Both directions of every pair: first all (i, j), then all (j, i)."""

    first: Tensor  # (2P,) atoms
    second: Tensor
    wigner_d: Tensor  # (2P, (degree+1)^2, (degree+1)^2) Wigner D matrices into the pairs' frames, rows sorted by m
    distances: Tensor  # (2P,) Bohr
    edges: Tensor  # (2P, hidden) invariant description of distance and elements
    envelope: Tensor  # (2P, 1, 1) smooth cutoff


class Features(NamedTuple):
    """Output of a backbone."""

    atoms: Tensor  # (N, (degree+1)^2, channels) irreps of natural parity, in the global frame
    pairs: Tensor  # (2P, rows, pair_channels) orders m in the directed pairs' frames; they vanish at the cutoff
    directed: Directed  # both directions of every pair


class Backbone(nn.Module):
    """Embedding of elements, distances and input matrices, and the layers that a network adds."""

    layers: nn.Module
    signs: Tensor
    block_signs: Tensor

    def __init__(self, options: BackboneOptions, template: ShellTemplate, n_elements: int, n_inputs: int) -> None:
        super().__init__()
        o = options
        if o.target not in TARGETS:
            raise ValueError(f"target {o.target!r}, expected {' or '.join(TARGETS)}.")
        self.options, self.template = options, template
        self.elements = nn.Embedding(n_elements, o.channels)
        self.charge = nn.Linear(1, o.channels, bias=False)
        self.radial = Radial(o.radial, o.cutoff, o.flat)
        self.edge = nn.Sequential(nn.Linear(o.radial + 2 * o.channels, o.hidden), nn.SiLU())
        self.coupling, self.polar = Coupling(template), PolarCoupling(template)
        shown = [n_inputs * self.coupling.channels.get((l, True), 0) for l in range(o.degree + 1)]
        self.atom_input = nn.ParameterList(nn.Parameter(torch.randn(n, o.channels) / max(n, 1) ** 0.5) for n in shown)
        widths = [n_inputs * n for n in self.polar.widths]
        self.order = len(widths) - 2  # largest m of pairs
        self.pair_input = so2.Linear(widths, [o.pair_channels] * len(widths))
        self.pair_radial = nn.Linear(o.hidden, o.pair_channels)
        self.register_buffer("signs", torch.from_numpy(flipped_wigner(o.degree)), persistent=False)
        self.register_buffer("block_signs", torch.from_numpy(flipped_block(template)), persistent=False)

    def forward(self, batch: Batch, species: Tensor) -> Features:
        """Return features of atoms and of directed pairs; species: (N,) index of each atom's element."""
        features: Features = self.layers(self.inputs(batch, species))
        return features

    def inputs(self, batch: Batch, species: Tensor) -> Features:
        """Embed atoms and directed pairs, each on its own; see `forward`."""
        embedded = self.elements(species)
        directed = self._directed(batch, embedded)
        return Features(self._atoms(batch, embedded), self._pairs(batch, directed), directed)

    def _directed(self, batch: Batch, embedded: Tensor) -> Directed:
        first, second = torch.cat([batch.first, batch.second]), torch.cat([batch.second, batch.first])
        wigner_d = torch.cat([batch.wigner_d, batch.wigner_d * self.signs[:, None]])
        distances = torch.cat([batch.distances, batch.distances])
        description = torch.cat([self.radial(distances), embedded[first], embedded[second]], dim=-1)
        envelope = self.radial.envelope(distances)[:, None, None]
        return Directed(first, second, wigner_d, distances, self.edge(description), envelope)

    def _atoms(self, batch: Batch, embedded: Tensor) -> Tensor:
        shown = self.coupling.irreps_from_blocks(batch.onsite)  # (N, K, 2l+1, channels)
        parts = [
            shown[l, True].transpose(1, 2).flatten(2) @ self.atom_input[l]
            if (l, True) in shown
            else embedded.new_zeros(len(embedded), 2 * l + 1, embedded.shape[1])
            for l in range(self.options.degree + 1)
        ]
        scalars = parts[0] + (embedded + self.charge(batch.charges[:, None])[batch.molecule])[:, None]
        return torch.cat([scalars, *parts[1:]], dim=1)

    def _pairs(self, batch: Batch, directed: Directed) -> Tensor:
        both = torch.cat([batch.pair, self.block_signs * batch.pair.transpose(-1, -2)])
        components = self.pair_input(self.polar.components_from_blocks(both))
        feature = torch.cat(components, dim=1) * directed.envelope
        return feature * self.pair_radial(directed.edges)[:, None]


class MessageLayer(nn.Module):
    """Layer that sends messages to atoms."""

    mix: IrrepsLinear
    out_norm: GroupNorm
    feed: FeedForward

    def received(self, atoms: Tensor, sent: Tensor, directed: Directed) -> Tensor:
        """Update atoms (N, (degree+1)^2, C) by messages of the same shape to the first atom of each directed pair."""
        sums = torch.zeros_like(atoms).index_add(0, directed.first, sent)
        atoms = atoms + self.mix(sums) * NEIGHBOURS**-0.5
        return atoms + self.feed(self.out_norm(atoms))
