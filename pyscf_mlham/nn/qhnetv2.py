"""SO(2) local-frame network after QHNetV2: no Clebsch-Gordan product anywhere.

Atoms carry irreps l = 0 .. degree; pairs carry features in their own frames from the first layer to the last. Where
the published network takes one frame for each atom, that of its nearest neighbour, the tensor product is made here in
the frame of every pair and summed with smooth weights: a frame average, without a jump when neighbours trade places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from pyscf_mlham.basis import ShellTemplate
from pyscf_mlham.nn import so2
from pyscf_mlham.nn.batch import Batch
from pyscf_mlham.nn.head import Coupling, PolarCoupling
from pyscf_mlham.nn.layers import FeedForward, GroupNorm, IrrepsLinear, Radial, squares
from pyscf_mlham.polar import flipped_block, flipped_turn

NEIGHBOURS = 10.0  # a typical sum of the envelope over an atom's neighbours; messages are divided by its root


@dataclass(frozen=True)
class QHNetV2Options:
    """Sizes of the network.

    Attributes:
        layers: message-passing layers.
        channels: of irreps at atoms.
        degree: largest l at atoms, at least twice that of the orbitals.
        pair_channels: of features of pairs.
        hidden: channels inside a layer.
        product: channels of the SO(2) tensor product.
        largest_m: of atoms' features in the pairs' frames, and of the tensor product. Components of pairs beyond it
            (of d with p or d orbitals) are only rescaled by each layer.
        radial: number of radial functions.
        cutoff: Bohr.
    """

    layers: int = 3
    channels: int = 32
    degree: int = 4
    pair_channels: int = 48
    hidden: int = 96
    product: int = 32
    largest_m: int = 2
    radial: int = 32
    cutoff: float = 16.0


class Directed(NamedTuple):
    """Both directions of every pair: first all (i, j), then all (j, i).

    Attributes:
        first, second: (2P,) atoms.
        turns: (2P, (degree+1)^2, (degree+1)^2).
        distances: (2P,) Bohr.
        edges: (2P, hidden) invariant description of distance and elements.
        envelope: (2P, 1, 1) smooth cutoff.
    """

    first: Tensor
    second: Tensor
    turns: Tensor
    distances: Tensor
    edges: Tensor
    envelope: Tensor


class QHNetV2(nn.Module):
    """Backbone.

    Args:
        options: sizes.
        template: shape of a block.
        n_elements: number of elements.
        n_inputs: number of input matrices.
    """

    signs: Tensor
    block_signs: Tensor

    def __init__(self, options: QHNetV2Options, template: ShellTemplate, n_elements: int, n_inputs: int) -> None:
        super().__init__()
        o = self.options = options
        self.elements = nn.Embedding(n_elements, o.channels)
        self.charge = nn.Linear(1, o.channels, bias=False)
        self.radial = Radial(o.radial, o.cutoff)
        self.edge = nn.Sequential(nn.Linear(o.radial + 2 * o.channels, o.hidden), nn.SiLU())
        self.coupling, self.polar = Coupling(template), PolarCoupling(template)
        shown = [n_inputs * self.coupling.channels.get((l, True), 0) for l in range(o.degree + 1)]
        self.atom_input = nn.ParameterList(nn.Parameter(torch.randn(n, o.channels) / max(n, 1) ** 0.5) for n in shown)
        widths = [n_inputs * n for n in self.polar.widths]
        self.order = len(widths) - 2  # largest m of pairs
        self.pair_input = so2.Linear(widths, [o.pair_channels] * len(widths))
        self.pair_radial = nn.Linear(o.hidden, o.pair_channels)
        self.layers = nn.ModuleList(Layer(o) for _ in range(o.layers))
        self.register_buffer("signs", torch.from_numpy(flipped_turn(o.degree)), persistent=False)
        self.register_buffer("block_signs", torch.from_numpy(flipped_block(template)), persistent=False)

    def forward(self, batch: Batch, species: Tensor) -> tuple[Tensor, Tensor, Directed]:
        """Return features of atoms (N, (degree+1)^2, C) and of directed pairs (2P, rows, pair_channels).

        Args:
            batch: molecules.
            species: (N,) index of each atom's element.
        """
        embedded = self.elements(species)
        directed = self._directed(batch, embedded)
        atoms = self._atoms(batch, embedded)
        pairs = self._pairs(batch, directed)
        for layer in self.layers:
            atoms, pairs = layer(atoms, pairs, directed)
        return atoms, pairs, directed

    def _directed(self, batch: Batch, embedded: Tensor) -> Directed:
        first, second = torch.cat([batch.first, batch.second]), torch.cat([batch.second, batch.first])
        turns = torch.cat([batch.turns, batch.turns * self.signs[:, None]])
        distances = torch.cat([batch.distances, batch.distances])
        known = torch.cat([self.radial(distances), embedded[first], embedded[second]], dim=-1)
        envelope = self.radial.envelope(distances)[:, None, None]
        return Directed(first, second, turns, distances, self.edge(known), envelope)

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
        grades = self.pair_input(self.polar.grades_from_blocks(both))
        feature = torch.cat(grades, dim=1) * directed.envelope
        return feature * self.pair_radial(directed.edges)[:, None]


class Layer(nn.Module):
    """One round of messages; atoms and pairs are both updated.

    Args:
        options: sizes.
    """

    def __init__(self, options: QHNetV2Options) -> None:
        super().__init__()
        o = self.options = options
        self.atom_norm, self.out_norm = (GroupNorm(squares(o.degree), o.channels, 1e-6) for _ in range(2))
        self.pair_norm = GroupNorm([1, 1, *[2] * o.largest_m], o.pair_channels, 1e-2)
        inside = o.hidden + 2 * o.product
        pair_widths = [o.pair_channels] * (o.largest_m + 2)
        seen = so2.joined_widths(so2.atom_widths(o.degree, o.largest_m, 2 * o.channels), pair_widths)
        self.enter = so2.Linear(seen, [inside + o.hidden, *[inside] * (o.largest_m + 1)])
        self.radial = nn.Sequential(nn.Linear(o.hidden, o.hidden), nn.SiLU(), nn.Linear(o.hidden, inside))
        self.product = so2.CircleProduct(o.largest_m)
        told = so2.joined_widths(so2.atom_widths(o.degree, o.largest_m, o.channels), pair_widths)
        self.leave = so2.Linear([o.hidden + o.product] * (o.largest_m + 2), told)
        self.rescale = nn.Linear(o.hidden + o.product, o.pair_channels)
        self.mix = IrrepsLinear(o.degree, o.channels, o.channels)
        self.feed = FeedForward(o.degree, o.channels, 2 * o.channels)

    def forward(self, atoms: Tensor, pairs: Tensor, directed: Directed) -> tuple[Tensor, Tensor]:
        """Update atoms (N, (degree+1)^2, C) and pairs (2P, rows, pair_channels)."""
        o = self.options
        x = self.atom_norm(atoms)
        ends = torch.cat([x[directed.first], x[directed.second]], dim=-1)
        seen = so2.grades_from_atoms(ends, directed.turns, o.degree, o.largest_m)
        n_low = so2.rows(o.largest_m)
        low, high = pairs.split([n_low, pairs.shape[1] - n_low], dim=1)
        h = self._inside(so2.joined(seen, so2.grades_from_feature(self.pair_norm(low))), directed.edges)
        told = self.leave(so2.grades_from_feature(h))
        widths = so2.atom_widths(o.degree, o.largest_m, o.channels)
        parted = [g.split([n, o.pair_channels], dim=-1) for g, n in zip(told, widths, strict=True)]
        sent, kept = [g for g, _ in parted], torch.cat([g for _, g in parted], dim=1)
        messages = so2.atoms_from_grades(sent, directed.turns, o.degree, o.largest_m) * directed.envelope
        received = torch.zeros_like(atoms).index_add(0, directed.first, messages)
        atoms = atoms + self.mix(received) * NEIGHBOURS**-0.5
        pairs = torch.cat([low + kept * directed.envelope, high * (1 + self.rescale(h[:, :1]))], dim=1)
        return atoms + self.feed(self.out_norm(atoms)), pairs

    def _inside(self, seen: so2.Grades, edges: Tensor) -> Tensor:
        """Gate and tensor product: (2P, rows, hidden + product)."""
        o = self.options
        first, *rest = self.enter(seen)
        gates, first = first.split([o.hidden, first.shape[-1] - o.hidden], dim=-1)
        h = torch.cat([first, *rest], dim=1) * self.radial(edges)[:, None]
        h, a, b = h.split([o.hidden, o.product, o.product], dim=-1)
        scalar, others = h.split([1, h.shape[1] - 1], dim=1)
        gated = torch.cat([silu(scalar), others * torch.sigmoid(gates)], dim=1)
        return torch.cat([gated, self.product(a, b)], dim=-1)
