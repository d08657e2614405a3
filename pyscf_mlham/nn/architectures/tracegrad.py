"""TraceGrad: non-linear invariants, supervised by the norms of the blocks; their gradients enrich the features.

The traces T = tr(Q Q^T) of the target, for each pair of shells of each block Q, supervise invariant features z of the
network: z = MLP(q), q quadratic in the normalised features f. The gradient v = d(sum of z)/df rotates as f does
for any MLP, and is added to f, each degree in proportion to its own size: non-linearity for every degree. This
is done once, between the backbone's last layer and the head, so that any backbone can be wrapped.

At atoms q are scalar products within one l, invariants of SO(3). Features of pairs have orders m in the pair's own
frame and no l; there q are the |z_m|^2 and the scalars Re z_0, invariants of rotations about the axis and of mirrors.
That is the larger set: the frame rotates with the molecule, so each of them is an invariant of the molecule, and a
scalar product within one l is, in that frame, a sum over m of such products.

The gradient of the MLP is written out, two layers back, instead of taken by autograd: the features are then an ordinary
function of the weights, in training and under no_grad alike, and training needs no second derivatives of a graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from pyscf_mlham.nn.backbone import Backbone, Features, sized
from pyscf_mlham.nn.head import ONSITE_SCALE, Traces, pair_size, symmetric, undirected
from pyscf_mlham.nn.layers import GroupNorm, atom_norm, mlp, pair_norm

FLAT = 1e-2  # gradients below this share of the normalised features are not rescaled to their size
TINY = 1e-12


@dataclass(frozen=True)
class TraceGradOptions:
    """Sizes of the wrapper."""

    quadratic: int = sized(16, least=0)  # scalar products for each l of atoms and each m of pairs
    hidden: int = sized(64)  # channels inside the networks of invariants
    invariants: int = sized(32)  # number of z


class InvariantNetwork(nn.Module):
    """z = C silu(B silu(A q + a) + b), and the gradient of its sum."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, outputs)

    def forward(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (N, outputs) and d(sum of z)/dq (N, inputs) of q (N, inputs)."""
        a = self.first(q)
        b = self.second(silu(a))
        z = self.last(silu(b))
        slope_b = self.last.weight.sum(0) * silu_slope(b)
        slope_a = linear(slope_b, self.second.weight.T) * silu_slope(a)
        return z, linear(slope_a, self.first.weight.T)


def silu_slope(x: Tensor) -> Tensor:
    """Return the derivative of silu."""
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


class InvariantGradient(nn.Module):
    """Invariants of features, whose first row is invariant, and the features given by their gradient."""

    def __init__(self, norm: GroupNorm, options: TraceGradOptions) -> None:
        super().__init__()
        o, self.norm, self.sizes = options, norm, norm.sizes
        groups, channels = norm.scale.shape
        self.left, self.right = (
            nn.Parameter(torch.randn(groups, channels, o.quadratic) * channels**-0.5) for _ in range(2)
        )
        self.network = InvariantNetwork(channels + groups * o.quadratic, o.hidden, o.invariants)
        self.gain = nn.Parameter(torch.full((groups, channels), 0.1))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return features with their gradients added, and z; features: (N, rows, C)."""
        x = self.norm(features)
        z, v = self.gradient(x)
        with torch.no_grad():  # a scale, without a gradient of its own
            floor = FLAT**2 * self._squares(x) + TINY
            ratio = (self._squares(features) / (self._squares(v) + floor)).sqrt()
        return features + ratio * v * self.norm.by_row(self.gain), z

    def _squares(self, x: Tensor) -> Tensor:
        """Mean square of the group of each row, (N, rows, 1)."""
        means = [part.square().mean((1, 2), keepdim=True) for part in x.split(self.sizes, dim=1)]
        return self.norm.by_row(torch.cat(means, dim=1), dim=1)

    def gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (N, invariants) and v = d(sum of z)/dx (N, rows, C); x: (N, rows, C)."""
        z, slope = self.network(self.quadratic(x))
        of_scalars, of_products = slope.split([x.shape[2], slope.shape[1] - x.shape[2]], dim=-1)
        each = of_products.unflatten(-1, (len(self.sizes), -1))  # (N, groups, products)
        parts = []
        for k, (part, size) in enumerate(zip(x.split(self.sizes, dim=1), self.sizes, strict=True)):
            weight = each[:, k : k + 1] / size
            a, b = self.left[k], self.right[k]
            parts.append((part @ b * weight) @ a.T + (part @ a * weight) @ b.T)
        return z, torch.cat([parts[0] + of_scalars[:, None], *parts[1:]], dim=1)

    def quadratic(self, x: Tensor) -> Tensor:
        """Scalars of x (N, rows, C), and mean products of two mixtures of channels: (N, C + groups * products)."""
        parts = zip(x.split(self.sizes, dim=1), self.left, self.right, strict=True)
        return torch.cat([x[:, 0], *(((part @ a) * (part @ b)).mean(1) for part, a, b in parts)], dim=-1)


class TraceGrad(nn.Module):
    """Wrapper that enriches the features of any backbone."""

    def __init__(self, options: TraceGradOptions, backbone: Backbone, n_elements: int) -> None:
        super().__init__()
        o, sizes = options, backbone.options
        self.shells = sum(backbone.template.counts)
        self.atoms = InvariantGradient(atom_norm(sizes.degree, sizes.channels), o)
        self.pairs = InvariantGradient(pair_norm(backbone.order, sizes.pair_channels), o)
        self.onsite_trace, self.pair_trace = (mlp(o.invariants, o.hidden, self.shells**2) for _ in range(2))
        self.biases = nn.Embedding(n_elements, self.shells**2)
        nn.init.zeros_(self.biases.weight)

    def forward(self, features: Features) -> tuple[Features, tuple[Tensor, Tensor]]:
        """Return enriched features, and the invariants of atoms and directed pairs."""
        atoms, z_atoms = self.atoms(features.atoms)
        pairs, z_pairs = self.pairs(features.pairs)
        return Features(atoms, pairs, features.directed), (z_atoms, z_pairs)

    def traces(self, invariants: tuple[Tensor, Tensor], features: Features, species: Tensor) -> Traces:
        """Predict the traces from the invariants, for the loss; species: (N,) index of each atom's element."""
        shape = (self.shells, self.shells)
        z_atoms, z_pairs = invariants
        onsite = (self.onsite_trace(z_atoms) + self.biases(species)).unflatten(-1, shape)
        directed = features.directed
        size = pair_size(directed.distances) * directed.envelope
        pair = size**2 * self.pair_trace(z_pairs).unflatten(-1, shape)
        return Traces(ONSITE_SCALE**2 * symmetric(onsite), undirected(pair))
