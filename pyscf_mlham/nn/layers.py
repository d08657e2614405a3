"""Layers on irreps at atoms, radial functions, norms and gates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import silu


def multiplicities(degree: int) -> list[int]:
    """Count the components 2l+1 of each l = 0 .. degree."""
    return [2 * l + 1 for l in range(degree + 1)]


class IrrepsLinear(nn.Module):
    """One matrix for each l on features (N, (degree+1)^2, C), and a bias for l = 0."""

    def __init__(self, degree: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.sizes = multiplicities(degree)
        self.weight = nn.Parameter(torch.randn(degree + 1, inputs, outputs) / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map l by l."""
        parts = [part @ w for part, w in zip(x.split(self.sizes, dim=1), self.weight, strict=True)]
        return torch.cat([parts[0] + self.bias, *parts[1:]], dim=1)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear, SiLU, linear."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


class GroupNorm(nn.Module):
    """Divide by the root mean square over rows and channels; scale each channel of each group of rows.

    Args:
        sizes: numbers of rows that rotations mix.
        channels: C.
        floor: added to the mean square; features much smaller than its root stay small.
    """

    copies: Tensor

    def __init__(self, sizes: list[int], channels: int, floor: float) -> None:
        super().__init__()
        self.sizes, self.floor = sizes, floor
        self.scale = nn.Parameter(torch.ones(len(sizes), channels))
        self.register_buffer("copies", torch.tensor(sizes), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, rows, C)."""
        return x * torch.rsqrt(x.square().mean(dim=(1, 2), keepdim=True) + self.floor) * self.by_row(self.scale)

    def by_row(self, values: Tensor, dim: int = 0) -> Tensor:
        """Repeat the values of each group for its rows."""
        # output_size avoids a synchronisation with the GPU
        return values.repeat_interleave(self.copies, dim=dim, output_size=sum(self.sizes))


def atom_norm(degree: int, channels: int) -> GroupNorm:
    """Norm of irreps at atoms."""
    return GroupNorm(multiplicities(degree), channels, 1e-6)


def pair_norm(order: int, channels: int) -> GroupNorm:
    """Norm of features of pairs, m = 0 .. order; small ones stay small."""
    return GroupNorm([1, 1, *[2] * order], channels, 1e-2)


class FeedForward(nn.Module):
    """Linear, gated by scalars, linear; `hidden` channels between the two."""

    def __init__(self, degree: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.enter = IrrepsLinear(degree, channels, hidden)
        self.gates = mlp(channels, hidden, 2 * hidden)
        self.leave = IrrepsLinear(degree, hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, (degree+1)^2, C) to the same shape."""
        first, others = self.enter(x).split([1, x.shape[1] - 1], dim=1)
        scalars, gates = self.gates(x[:, :1]).chunk(2, dim=-1)
        return self.leave(torch.cat([silu(first + scalars), others * torch.sigmoid(gates)], dim=1))


class Radial(nn.Module):
    """Gaussians of the distance, and the envelope that takes messages smoothly to zero at the cutoff, Bohr.

    Args:
        flat: share of the cutoff up to which the envelope is one.
    """

    centres: Tensor

    def __init__(self, count: int, cutoff: float, flat: float = 0.0) -> None:
        super().__init__()
        self.cutoff, self.flat = cutoff, flat
        self.width = cutoff / count
        self.register_buffer("centres", torch.linspace(0, cutoff, count, dtype=torch.float64), persistent=False)

    def forward(self, distances: Tensor) -> Tensor:
        """Gaussians of (P,) distances, Bohr: (P, count)."""
        return torch.exp(-0.5 * ((distances[:, None] - self.centres) / self.width) ** 2)

    def envelope(self, distances: Tensor) -> Tensor:
        """One up to `flat`, zero from the cutoff on, twice continuously differentiable: (P,)."""
        x = ((distances / self.cutoff - self.flat) / (1 - self.flat)).clamp(0.0, 1.0)
        return (1 - x) ** 3 * (1 + 3 * x + 6 * x * x)  # 1 - 10 x^3 ... would lose its digits near the cutoff
