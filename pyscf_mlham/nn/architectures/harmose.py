"""HarmoSE's second stage: a graph transformer that corrects the blocks of any first stage.

Its inputs are the first stage's blocks and features as plain numbers in the global frame, mixed without regard to
symmetry; so it may have any non-linearity, and its equivariance is learnt, not strict. Four things limit the
error. Training rotates the molecules of each step into one random orientation. Inference averages over a group of fixed
orientations, under which the result is exactly equivariant. Each block's correction is limited in norm, so that a
rotation can change a block by no more than twice that limit. And the correction starts at zero. Hermiticity,
permutation, translation and smoothness at the cutoff hold exactly, and distant fragments are independent.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from math import inf

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pyscf_mlham.nn import so2
from pyscf_mlham.nn.backbone import Backbone, Directed, Features, sized
from pyscf_mlham.nn.batch import Batch, block_masks
from pyscf_mlham.nn.head import ONSITE_SCALE, PAIR_SCALE, Output, pair_size, symmetric, undirected
from pyscf_mlham.nn.layers import IrrepsLinear, atom_norm, mlp, pair_norm
from pyscf_mlham.nn.rotation import Rotation, block_rotations, rotation_from_matrix
from pyscf_mlham.options import number

ORDERS = (1, 2, 8, 48)  # of the groups of orientations: C1, Ci, D2h, Oh


@dataclass(frozen=True)
class HarmoSEOptions:
    """Sizes of the refiner."""

    channels: int = sized(64)  # channels of a token; atoms and directed pairs have one each
    heads: int = sized(4)  # attention heads
    layers: int = sized(2, least=0, most=64)  # layers of the transformer
    shown: int = sized(8)  # channels of the first stage's features that enter
    frames: int = sized(2)  # orientations that inference averages over: 1, 2 (with the inversion), 8 (D2h) or 48 (Oh)
    # largest Frobenius norm of an onsite block's correction, Hartree; less for pairs, as they are smaller
    limit: float = number(0.05, above=0, below=inf)


@cache
def group(order: int) -> tuple[NDArray[np.float64], ...]:
    """Group of orthogonal matrices with one non-zero element in each row; order: number of elements, 1, 2, 8 or 48."""
    if order == 1:
        return (np.eye(3),)
    if order == 2:
        return (np.eye(3), -np.eye(3))
    orders = [(0, 1, 2)] if order == 8 else list(itertools.permutations(range(3)))
    signs = list(itertools.product((1.0, -1.0), repeat=3))
    return tuple(np.eye(3)[list(p)] * np.array(s) for p in orders for s in signs)


class HarmoSE(nn.Module):
    """Refiner of the blocks of any backbone."""

    def __init__(self, options: HarmoSEOptions, backbone: Backbone, n_elements: int) -> None:
        super().__init__()
        if options.frames not in ORDERS:
            raise ValueError(f"frames is {options.frames}; expected one of {', '.join(map(str, ORDERS))}.")
        if options.channels % options.heads:
            raise ValueError(f"channels ({options.channels}) must be a multiple of heads ({options.heads}).")
        o = self.options = options
        sizes, order, self.template = backbone.options, backbone.order, backbone.template
        self.degree = sizes.degree
        rows, elements = (sizes.degree + 1) ** 2, self.template.size**2
        self.atom_norm = atom_norm(sizes.degree, sizes.channels)
        self.pair_norm = pair_norm(order, sizes.pair_channels)
        self.atom_shown = IrrepsLinear(sizes.degree, sizes.channels, o.shown)
        widths = so2.atom_widths(sizes.degree, order, o.shown)
        self.pair_shown = so2.Linear([sizes.pair_channels] * len(widths), widths)
        self.species = nn.Embedding(n_elements, o.channels)
        self.atom_token = nn.Linear(elements + rows * o.shown, o.channels)
        self.pair_token = nn.Linear(elements + rows * (o.shown + 1) + sizes.hidden, o.channels)
        self.layers = nn.Sequential(*(Attention(o, sizes.hidden) for _ in range(o.layers)))
        self.site_norm, self.link_norm = nn.LayerNorm(o.channels), nn.LayerNorm(o.channels)
        self.onsite, self.pair = nn.Linear(o.channels, elements), nn.Linear(o.channels, elements)
        for leave in (self.onsite, self.pair):
            nn.init.zeros_(leave.weight)
            nn.init.zeros_(leave.bias)
        for k, Q in enumerate(group(o.frames)):
            for name, tensor in rotation_from_matrix(Q, sizes.degree, self.template)._asdict().items():
                self.register_buffer(f"frame_{k}_{name}", tensor, persistent=False)

    def forward(
        self, output: Output, features: Features, batch: Batch, species: Tensor, rotation: Rotation | None
    ) -> Output:
        """Correct blocks, Hartree; without a rotation, which training gives, averaged over the fixed orientations."""
        rotations = [rotation] if rotation is not None else [self.frame(k) for k in range(self.options.frames)]
        masks = Output(*block_masks(batch))
        corrections = [self._from(r.to(output.onsite), output, masks, features, species) for r in rotations]
        onsite = torch.stack([c.onsite for c in corrections]).mean(0)
        pair = torch.stack([c.pair for c in corrections]).mean(0)
        return Output(output.onsite + onsite, output.pair + pair)

    def frame(self, index: int) -> Rotation:
        """Return one of the fixed orientations."""
        return Rotation(*(self.get_buffer(f"frame_{index}_{name}") for name in Rotation._fields))

    def _from(self, rotation: Rotation, output: Output, masks: Output, features: Features, species: Tensor) -> Output:
        """Return the correction of one orientation, rotated back; zero for padding."""
        _, D, B = rotation
        directed = features.directed._replace(wigner_d=features.directed.wigner_d @ D.T)
        R, _ = block_rotations(directed.wigner_d, self.template).chunk(2)
        onsite = B @ output.onsite @ B.T
        pair = R.transpose(1, 2) @ output.pair @ R  # in the global frame
        atoms = self._atom_tokens(onsite, D @ features.atoms, species)
        pairs = self._pair_tokens(pair, features.pairs, directed)
        atoms, pairs, _ = self.layers(Features(atoms, pairs, directed))
        shape = (self.template.size, self.template.size)
        site = symmetric(self.onsite(self.site_norm(atoms)).unflatten(-1, shape))
        link = undirected(self.pair(self.link_norm(pairs)).unflatten(-1, shape))
        site = B.T @ limited(masks.onsite * site, self.options.limit) @ B
        link = R @ limited(masks.pair * link, self.options.limit) @ R.transpose(1, 2)
        size = pair_size(directed.distances) / PAIR_SCALE * directed.envelope
        return Output(site, size[: len(link)] * link)

    def _atom_tokens(self, onsite: Tensor, atoms: Tensor, species: Tensor) -> Tensor:
        shown = self.atom_shown(self.atom_norm(atoms))
        numbers = torch.cat([onsite.flatten(1) / ONSITE_SCALE, shown.flatten(1)], dim=-1)
        return self.atom_token(numbers) + self.species(species)

    def _pair_tokens(self, pair: Tensor, pairs: Tensor, directed: Directed) -> Tensor:
        both = (torch.cat([pair, pair.transpose(1, 2)]) / pair_size(directed.distances)).flatten(1)
        components = self.pair_shown(so2.components_from_feature(self.pair_norm(pairs)))
        shown = so2.atoms_from_components(components, directed.wigner_d, self.degree)
        harmonics = directed.wigner_d[:, : self.degree + 1].sum(1)  # rows m = 0, one for each l
        return self.pair_token(torch.cat([both, shown.flatten(1), harmonics, directed.edges], dim=-1))


def limited(blocks: Tensor, limit: float) -> Tensor:
    """Shrink blocks smoothly so that no Frobenius norm exceeds a limit; blocks: (N, B, B) in units of the limit."""
    return limit * blocks * torch.rsqrt(1 + blocks.square().sum((1, 2), keepdim=True))


class Attention(nn.Module):
    """Atoms attend to themselves and their neighbours through the pairs' tokens; pairs then read both ends.

    A neighbour's share carries the smooth envelope, and an atom always attends to itself: shares neither jump when a
    neighbour leaves nor depend on what is beyond the cutoff. `hidden`: channels of the description of edges.
    """

    def __init__(self, options: HarmoSEOptions, hidden: int) -> None:
        super().__init__()
        o, n = options, options.channels
        self.heads = o.heads
        self.atom_norm, self.pair_norm, self.out_norm = (nn.LayerNorm(n) for _ in range(3))
        self.query = nn.Linear(n, n, bias=False)
        self.atom_keys_values, self.pair_keys_values = (nn.Linear(n, 2 * n, bias=False) for _ in range(2))
        self.bias = nn.Linear(hidden, o.heads)
        self.mix = nn.Linear(n, n)
        self.atom_feed, self.pair_feed = mlp(n, 2 * n, n), mlp(3 * n, 2 * n, n)

    def forward(self, tokens: Features) -> Features:
        """Update tokens of atoms (N, channels) and directed pairs (2P, channels)."""
        atoms, pairs, directed = tokens
        x, e = self.atom_norm(atoms), self.pair_norm(pairs)
        keys_values = self.atom_keys_values(x), self.pair_keys_values(e)
        atoms = atoms + self.mix(self._attended(self.query(x), *keys_values, directed))
        x = self.out_norm(atoms)
        atoms = atoms + self.atom_feed(x)
        ends = torch.cat([e, x[directed.first], x[directed.second]], dim=-1)
        return Features(atoms, pairs + self.pair_feed(ends), directed)

    def _attended(self, query: Tensor, own: Tensor, added: Tensor, directed: Directed) -> Tensor:
        """Weighted values, (N, channels), of queries of the same shape.

        Args:
            own: (N, 2 channels) keys and values of atoms.
            added: (2P, 2 channels) contributions of pairs to their second atom's.
        """

        def parted(t: Tensor) -> Tensor:
            return t.unflatten(-1, (self.heads, -1))

        first = directed.first
        q = parted(query)
        key, value = (parted(t) for t in own.chunk(2, dim=-1))
        near_key, near_value = (parted(t) for t in (own[directed.second] + added).chunk(2, dim=-1))
        scale = q.shape[-1] ** -0.5
        to_self = (q * key).sum(-1) * scale  # (N, heads)
        to_near = (q[first] * near_key).sum(-1) * scale + self.bias(directed.edges)
        index = first[:, None].expand(-1, self.heads)
        highest = to_self.detach().scatter_reduce(0, index, to_near.detach(), "amax")
        self_weight = torch.exp(to_self - highest)[..., None]
        near_weight = torch.exp(to_near - highest[first])[..., None] * directed.envelope
        norm = self_weight.index_add(0, first, near_weight)
        return ((self_weight * value).index_add(0, first, near_weight * near_value) / norm).flatten(1)
