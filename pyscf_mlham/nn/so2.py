"""SO(2) operations in a pair's own frame; no Clebsch-Gordan coefficients.

A feature is, for each order m and each channel, a complex number z_m: a rotation by phi about the pair's axis
multiplies it by exp(i m phi), and a mirror plane through the axis conjugates it. Equivariant under both, and through
the frames under O(3), are: real linear maps among features of one m, and products z_a z_b and z_a conj(z_b).

A feature with equally many channels for each m is a real tensor (P, 2 (M + 1), channels) with rows Re z_0, Im z_0,
Re z_1, Im z_1, ... A mirror changes the sign of Im z_0: it is a pseudoscalar. `Components` holds the same with a width
of its own for each m.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

Components = list[Tensor]  # Re z_0 (P, 1, n), Im z_0 (P, 1, n), z_1 (P, 2, n), z_2 (P, 2, n), ...


def components_from_feature(feature: Tensor) -> Components:
    """Cut a feature into m-components; feature: (P, rows, C)."""
    return list(feature.split([1, 1, *[2] * (feature.shape[1] // 2 - 1)], dim=1))


def components_from_atoms(
    atoms: Tensor, wigner_d: Tensor, degree: int, largest_m: int, *, pseudo: bool = False
) -> Components:
    """Rotate features at atoms, irreps l = 0 .. degree, into the pairs' frames.

    Args:
        atoms: (P, (degree+1)^2, C), of one atom of each pair.
        wigner_d: (P, (degree+1)^2, (degree+1)^2), rows in polar order.
        largest_m: components beyond are left out.
        pseudo: the irreps' parity is -(-1)^l: they are Im z_0 and z_m / i.

    Returns:
        widths (degree + 1 - m) C; none for Im z_0, or, of the other parity, none for Re z_0.
    """
    sizes = [degree + 1] + [2 * (degree + 1 - m) for m in range(1, largest_m + 1)]
    first, *others = (wigner_d[:, : sum(sizes)] @ atoms).split(sizes, dim=1)
    n_pairs, channels = len(atoms), atoms.shape[-1]
    components = [part.reshape(n_pairs, 2, part.shape[1] // 2 * channels) for part in others]
    if pseudo:
        components = [torch.stack([g[:, 1], -g[:, 0]], dim=1) for g in components]
    ends = [first.reshape(n_pairs, 1, (degree + 1) * channels), first.new_zeros(n_pairs, 1, 0)]
    return [*(ends[::-1] if pseudo else ends), *components]


def atoms_from_components(components: Components, wigner_d: Tensor, degree: int, *, pseudo: bool = False) -> Tensor:
    """Rotate m-components back into irreps (P, (degree+1)^2, C) at an atom: the transpose of `components_from_atoms`.

    Args:
        pseudo: make irreps whose parity is -(-1)^l, from Im z_0 and i z_m; without it Im z_0 is not read.
    """
    n_pairs = len(wigner_d)
    first, others = components[1 if pseudo else 0], components[2:]
    if pseudo:
        others = [torch.stack([-g[:, 1], g[:, 0]], dim=1) for g in others]
    channels = first.shape[-1] // (degree + 1)
    parts = [g.reshape(n_pairs, g.shape[1] * g.shape[2] // channels, channels) for g in (first, *others)]
    rows = torch.cat(parts, dim=1)
    return wigner_d[:, : rows.shape[1]].transpose(1, 2) @ rows


def atom_widths(degree: int, largest_m: int, channels: int, *, pseudo: bool = False) -> list[int]:
    """Widths of the m-components of a rotated atom feature."""
    ends = [0, (degree + 1) * channels] if pseudo else [(degree + 1) * channels, 0]
    return [*ends, *((degree + 1 - m) * channels for m in range(1, largest_m + 1))]


def joined(*several: Components) -> Components:
    """Put m-components side by side; a missing high order counts as no channels."""
    length = max(len(g) for g in several)
    return [torch.cat([g[i] for g in several if i < len(g)], dim=-1) for i in range(length)]


def joined_widths(*several: list[int]) -> list[int]:
    """Widths of `joined` m-components."""
    length = max(len(w) for w in several)
    return [sum(w[i] for w in several if i < len(w)) for i in range(length)]


class Linear(nn.Module):
    """Real weights for each m, and a bias for Re z_0 alone."""

    def __init__(self, inputs: list[int], outputs: list[int]) -> None:
        super().__init__()
        pairs = list(zip(inputs, outputs, strict=True))
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(i, o) / math.sqrt(max(i, 1))) for i, o in pairs)
        self.bias = nn.Parameter(torch.zeros(outputs[0]))

    def forward(self, components: Components) -> Components:
        """Map each m."""
        first, *others = [x @ w for x, w in zip(components, self.weights, strict=True)]
        return [first + self.bias, *others]


class CircleProduct(nn.Module):
    """Channel-wise product of two features, m_out = |m_a +- m_b| up to a degree: the SO(2) tensor product.

    Re z_0 and z_1, z_2 ... are the Fourier coefficients of a function on the circle; functions are multiplied at
    as many points as make the product's coefficients exact. Im z_0 is no such coefficient: it is made of
    Im(conj(z_a) z_b), and multiplies i z_b.
    """

    values: Tensor
    coefficients: Tensor

    def __init__(self, degree: int) -> None:
        super().__init__()
        points = 3 * degree + 1
        angles = 2 * math.pi * torch.arange(points, dtype=torch.float64) / points
        columns = [torch.ones_like(angles), torch.zeros_like(angles)]
        for m in range(1, degree + 1):
            columns += [math.sqrt(2) * torch.cos(m * angles), math.sqrt(2) * torch.sin(m * angles)]
        values = torch.stack(columns, dim=1)  # (points, rows)
        self.register_buffer("values", values, persistent=False)
        self.register_buffer("coefficients", values.T.contiguous() / points, persistent=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply a and b, both (P, rows, C)."""
        product = self.coefficients @ ((self.values @ a) * (self.values @ b))  # (P, rows, C)
        (a_re, a_im), (b_re, b_im) = (z.unflatten(1, (-1, 2)).unbind(2) for z in (a, b))  # (P, M + 1, C)
        twist = a_im[:, :1]
        rotated = torch.stack([-b_im, b_re], dim=2).flatten(1, 2) * twist  # i z_b
        pseudo = (a_re * b_im - a_im * b_re).sum(1, keepdim=True) + twist * b_re[:, :1]
        rest = product[:, 2:] + rotated[:, 2:]
        return torch.cat([product[:, :1], pseudo, rest], dim=1)
