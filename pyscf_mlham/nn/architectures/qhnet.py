"""Clebsch-Gordan network after QHNet: tensor products of irreps in the global frame.

Messages couple a neighbour's irreps with those of the edge: spherical harmonics and the input matrices' blocks between
the two atoms. The last layers square the irreps at each atom and multiply those at the
two ends of each pair. The published expansion of a pair's irreps to its block is a Clebsch-Gordan contraction; here the
irreps are rotated into the pair's frame, exactly, and expanded there by the head that all backbones share: one real
linear map for each order m. The published weights of the expansion depend on the two elements path by path; here the
elements scale the channels that go into the map.

Parity is kept: products of the other parity feed what changes sign under a mirror plane through the
pair's axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from e3nn import o3
from torch import Tensor, nn

from pyscf_mlham.ao.layout import ShellTemplate
from pyscf_mlham.nn import so2
from pyscf_mlham.nn.backbone import Backbone, BackboneOptions, Directed, Features, MessageLayer, sized
from pyscf_mlham.nn.batch import Batch
from pyscf_mlham.nn.layers import FeedForward, IrrepsLinear, atom_norm, mlp, multiplicities


@dataclass(frozen=True)
class QHNetOptions(BackboneOptions):
    """Sizes of the network, beside those of every backbone."""

    pair_layers: int = sized(2, least=0, most=64)  # number of final layers with products at atoms and at pairs


def clebsch_gordan(l1: int, l2: int, l: int) -> Tensor:
    """Orthogonal coupling coefficients of e3nn, (2 l1 + 1, 2 l2 + 1, 2 l + 1)."""
    coupling: Tensor = o3.wigner_3j(l1, l2, l, dtype=torch.float64)
    return coupling * (2 * l + 1) ** 0.5


class TensorProduct(nn.Module):
    """Clebsch-Gordan product of irreps l = 0 .. degree, channel by channel, with a weight for each path and channel.

    Equal to e3nn's "uuu" product with component normalisation. The coefficients of all l that two degrees couple to are
    one matrix, and channels are the fastest index: one matrix product for each two degrees.

    Args:
        degree: largest l, of the factors and of the product.
        pseudo: product of parity -(-1)^l, l1 + l2 + l odd, instead of (-1)^l; zero for l = 0.

    Attributes:
        paths: number of (l1, l2, l).
    """

    def __init__(self, degree: int, *, pseudo: bool = False) -> None:
        super().__init__()
        self.sizes = multiplicities(degree)
        self.couplings: list[tuple[int, int, list[int]]] = []
        reached = np.zeros(degree + 1)
        for l1 in range(degree + 1):
            for l2 in range(degree + 1):
                odd = [l for l in range(abs(l1 - l2), min(l1 + l2, degree) + 1) if (l1 + l2 + l) % 2 == pseudo]
                if odd:
                    self.couplings.append((l1, l2, odd))
                    reached[odd] += 1
        self.paths = int(reached.sum())
        for l1, l2, degrees in self.couplings:
            columns = [clebsch_gordan(l1, l2, l).reshape(-1, 2 * l + 1) / np.sqrt(reached[l]) for l in degrees]
            matrix = torch.cat(columns, dim=1).T.contiguous()
            self.register_buffer(f"matrix_{l1}_{l2}", matrix, persistent=False)

    def forward(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Multiply x and y, both (N, (degree+1)^2, C), with weights (N or 1, paths, C)."""
        xs, ys = x.split(self.sizes, dim=1), y.split(self.sizes, dim=1)
        parts: list[list[Tensor]] = [[] for _ in self.sizes]
        path = 0
        for l1, l2, degrees in self.couplings:
            outer = (xs[l1][:, :, None] * ys[l2][:, None]).flatten(1, 2)
            coupled = self.get_buffer(f"matrix_{l1}_{l2}") @ outer
            for l, part in zip(degrees, coupled.split([2 * l + 1 for l in degrees], dim=1), strict=True):
                parts[l].append(part * weights[:, path : path + 1])
                path += 1
        if not parts[0]:
            parts[0] = [torch.zeros_like(xs[0])]
        return torch.cat([torch.stack(terms).sum(0) for terms in parts], dim=1)


class PathWeights(nn.Module):
    """Weights of a tensor product's paths: a function of the edge times one of the ends' scalar products."""

    def __init__(self, options: QHNetOptions, paths: int) -> None:
        super().__init__()
        o = options
        products = (o.degree + 1) * o.channels
        self.sizes = multiplicities(o.degree)
        self.edge = nn.Sequential(nn.Linear(o.hidden + o.pair_channels, o.hidden), nn.SiLU())
        self.ends = mlp(products, o.hidden, o.hidden)
        self.leave = nn.Linear(o.hidden, paths * o.channels)
        nn.init.normal_(self.leave.weight, std=o.hidden**-0.5)
        nn.init.ones_(self.leave.bias)
        self.shape = (paths, o.channels)

    def forward(self, x: Tensor, y: Tensor, pairs: Tensor, edges: Tensor) -> Tensor:
        """Return (2P, paths, C) of the irreps x, y at the two atoms, the scalars of the pairs, and the edges."""
        products = [part.mean(1) for part in (x * y).split(self.sizes, dim=1)]
        hidden = self.edge(torch.cat([edges, pairs[:, 0]], dim=-1))
        return self.leave(hidden * (1 + self.ends(torch.cat(products, dim=-1)))).unflatten(-1, self.shape)


class QHNet(Backbone):
    """Backbone with Clebsch-Gordan products."""

    layers: nn.ModuleList

    def __init__(self, options: QHNetOptions, template: ShellTemplate, n_elements: int, n_inputs: int) -> None:
        super().__init__(options, template, n_elements, n_inputs)
        o = options
        self.harmonics = nn.Linear(o.hidden, (o.degree + 1) * o.channels)
        widths = so2.atom_widths(o.degree, self.order, o.channels)
        self.edge_irreps = so2.Linear([o.pair_channels] * len(widths), widths)
        self.layers = nn.ModuleList(Message(o) for _ in range(o.layers))
        last = range(min(o.pair_layers, o.layers))
        self.squares = nn.ModuleList(Square(o) for _ in last)
        self.ends = nn.ModuleList(Ends(o, self.order) for _ in last)

    def forward(self, batch: Batch, species: Tensor) -> Features:
        """Return features of atoms and of directed pairs; see `Backbone`."""
        atoms, pairs, directed = self.inputs(batch, species)
        links = self._links(pairs, directed)
        first = len(self.layers) - len(self.squares)
        for index, layer in enumerate(self.layers):
            atoms = layer(atoms, pairs, links, directed)
            if index >= first:
                atoms = self.squares[index - first](atoms)
                pairs = self.ends[index - first](atoms, pairs, directed)
        return Features(atoms, pairs, directed)

    def _links(self, pairs: Tensor, directed: Directed) -> Tensor:
        """Irreps of edges, (2P, (degree+1)^2, C): harmonics with radial functions, and the input blocks."""
        o = self.options
        first, *others = self.edge_irreps(so2.components_from_feature(pairs))
        first = first + self.harmonics(directed.edges)[:, None]  # in the pair's frame Y_l has m = 0 alone
        return so2.atoms_from_components([first, *others], directed.wigner_d, o.degree)


class Message(MessageLayer):
    """One round of messages among atoms."""

    def __init__(self, options: QHNetOptions) -> None:
        super().__init__()
        o = options
        self.atom_norm, self.out_norm = (atom_norm(o.degree, o.channels) for _ in range(2))
        self.enter = IrrepsLinear(o.degree, o.channels, o.channels)
        self.product = TensorProduct(o.degree)
        self.weights = PathWeights(o, self.product.paths)
        self.mix = IrrepsLinear(o.degree, o.channels, o.channels)
        self.feed = FeedForward(o.degree, o.channels, 2 * o.channels)

    def forward(self, atoms: Tensor, pairs: Tensor, links: Tensor, directed: Directed) -> Tensor:
        """Update atoms (N, (degree+1)^2, C)."""
        x = self.atom_norm(atoms)
        weights = self.weights(x[directed.first], x[directed.second], pairs, directed.edges)
        sent = self.product(self.enter(x)[directed.second], links, weights * directed.envelope)
        return self.received(atoms, sent, directed)


class Square(nn.Module):
    """Product of each atom's irreps with themselves."""

    def __init__(self, options: QHNetOptions) -> None:
        super().__init__()
        o = options
        self.norm = atom_norm(o.degree, o.channels)
        self.left, self.right, self.leave = (IrrepsLinear(o.degree, o.channels, o.channels) for _ in range(3))
        self.product = TensorProduct(o.degree)
        self.weights = nn.Parameter(torch.randn(1, self.product.paths, o.channels))

    def forward(self, atoms: Tensor) -> Tensor:
        """Update atoms (N, (degree+1)^2, C)."""
        x = self.norm(atoms)
        return atoms + self.leave(self.product(self.left(x), self.right(x), self.weights))


class Ends(nn.Module):
    """Products of the irreps at the two ends of each pair, in the pair's frame; orders m = 0 .. order."""

    def __init__(self, options: QHNetOptions, order: int) -> None:
        super().__init__()
        o = self.options = options
        self.order = order
        self.norm = atom_norm(o.degree, o.channels)
        self.left, self.right = (IrrepsLinear(o.degree, o.channels, o.channels) for _ in range(2))
        self.natural, self.pseudo = TensorProduct(o.degree), TensorProduct(o.degree, pseudo=True)
        self.weights = PathWeights(o, self.natural.paths + self.pseudo.paths)
        widths = [so2.atom_widths(o.degree, order, o.channels, pseudo=parity) for parity in (False, True)]
        self.leave = so2.Linear(so2.joined_widths(*widths), [o.pair_channels] * (order + 2))
        self.rescale = nn.Linear(o.hidden, o.pair_channels)

    def forward(self, atoms: Tensor, pairs: Tensor, directed: Directed) -> Tensor:
        """Update pairs (2P, rows, pair_channels)."""
        o = self.options
        x = self.norm(atoms)
        weights = self.weights(x[directed.first], x[directed.second], pairs, directed.edges)
        left, right = self.left(x)[directed.first], self.right(x)[directed.second]
        natural, pseudo = weights.split([self.natural.paths, self.pseudo.paths], dim=1)
        products = self.natural(left, right, natural), self.pseudo(left, right, pseudo)
        joined = so2.joined(
            *(
                so2.components_from_atoms(product, directed.wigner_d, o.degree, self.order, pseudo=parity)
                for product, parity in zip(products, (False, True), strict=True)
            )
        )
        update = torch.cat(self.leave(joined), dim=1) * directed.envelope
        return pairs * (1 + self.rescale(directed.edges)[:, None]) + update
