"""SO(2) local-frame network after QHNetV2, without Clebsch-Gordan products.

Atoms carry irreps l = 0 .. degree; pairs carry features in their own frames from the first layer to the last. The
published network has one frame for each atom, that of its nearest neighbour; here the tensor product is computed in the
frame of every pair and summed with smooth weights: a frame average, continuous when the nearest neighbour changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from pyscf_mlham.ao.layout import ShellTemplate
from pyscf_mlham.nn import so2
from pyscf_mlham.nn.backbone import Backbone, BackboneOptions, Features, MessageLayer, sized
from pyscf_mlham.nn.layers import FeedForward, IrrepsLinear, atom_norm, mlp, pair_norm
from pyscf_mlham.options import number


@dataclass(frozen=True)
class QHNetV2Options(BackboneOptions):
    """Sizes of the network: those of every backbone, and its own."""

    product: int = sized(32, least=0)  # channels of the SO(2) tensor product
    # largest m of atoms' features in the pairs' frames, and of the tensor product. Components of pairs beyond it (of d
    # with p or d orbitals) are only rescaled by each layer
    largest_m: int = number(2, most=4096)


class QHNetV2(Backbone):
    """Backbone with SO(2) convolutions and SO(2) tensor products."""

    def __init__(self, options: QHNetV2Options, template: ShellTemplate, n_elements: int, n_inputs: int) -> None:
        super().__init__(options, template, n_elements, n_inputs)
        if not 0 <= options.largest_m <= self.order:
            raise ValueError(f"largest_m is {options.largest_m}; blocks of these orbitals have m = 0 to {self.order}.")
        self.layers = nn.Sequential(*(Layer(options) for _ in range(options.layers)))


class Layer(MessageLayer):
    """One round of messages; atoms and pairs are both updated."""

    def __init__(self, options: QHNetV2Options) -> None:
        super().__init__()
        o = self.options = options
        self.atom_norm, self.out_norm = (atom_norm(o.degree, o.channels) for _ in range(2))
        self.pair_norm = pair_norm(o.largest_m, o.pair_channels)
        inside = o.hidden + 2 * o.product
        pair_widths = [o.pair_channels] * (o.largest_m + 2)
        seen = so2.joined_widths(so2.atom_widths(o.degree, o.largest_m, 2 * o.channels), pair_widths)
        self.enter = so2.Linear(seen, [inside + o.hidden, *[inside] * (o.largest_m + 1)])
        self.radial = mlp(o.hidden, o.hidden, inside)
        self.product = so2.CircleProduct(o.largest_m)
        widths = so2.joined_widths(so2.atom_widths(o.degree, o.largest_m, o.channels), pair_widths)
        self.leave = so2.Linear([o.hidden + o.product] * (o.largest_m + 2), widths)
        self.rescale = nn.Linear(o.hidden + o.product, o.pair_channels)
        self.mix = IrrepsLinear(o.degree, o.channels, o.channels)
        self.feed = FeedForward(o.degree, o.channels, 2 * o.channels)

    def forward(self, features: Features) -> Features:
        """Update atoms and pairs."""
        o, (atoms, pairs, directed) = self.options, features
        x = self.atom_norm(atoms)
        ends = torch.cat([x[directed.first], x[directed.second]], dim=-1)
        seen = so2.components_from_atoms(ends, directed.wigner_d, o.degree, o.largest_m)
        n_low = 2 * (o.largest_m + 1)  # rows of m = 0 .. largest_m
        low, high = pairs.split([n_low, pairs.shape[1] - n_low], dim=1)
        h = self._inside(so2.joined(seen, so2.components_from_feature(self.pair_norm(low))), directed.edges)
        update = self.leave(so2.components_from_feature(h))
        widths = so2.atom_widths(o.degree, o.largest_m, o.channels)
        parted = [g.split([n, o.pair_channels], dim=-1) for g, n in zip(update, widths, strict=True)]
        sent, kept = [g for g, _ in parted], torch.cat([g for _, g in parted], dim=1)
        messages = so2.atoms_from_components(sent, directed.wigner_d, o.degree) * directed.envelope
        pairs = torch.cat([low + kept * directed.envelope, high * (1 + self.rescale(h[:, :1]))], dim=1)
        return Features(self.received(atoms, messages, directed), pairs, directed)

    def _inside(self, seen: so2.Components, edges: Tensor) -> Tensor:
        """Gate and tensor product: (2P, rows, hidden + product)."""
        o = self.options
        first, *rest = self.enter(seen)
        gates, first = first.split([o.hidden, first.shape[-1] - o.hidden], dim=-1)
        h = torch.cat([first, *rest], dim=1) * self.radial(edges)[:, None]
        h, a, b = h.split([o.hidden, o.product, o.product], dim=-1)
        scalar, others = h.split([1, h.shape[1] - 1], dim=1)
        gated = torch.cat([silu(scalar), others * torch.sigmoid(gates)], dim=1)
        return torch.cat([gated, self.product(a, b)], dim=-1)
