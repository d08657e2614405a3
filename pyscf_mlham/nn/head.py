"""From features to blocks, hermitian by construction."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pyscf_mlham.ao.blocks import irreps_from_blocks
from pyscf_mlham.ao.frames import polar_basis
from pyscf_mlham.ao.layout import ShellTemplate
from pyscf_mlham.nn.so2 import Components

ONSITE_SCALE, PAIR_SCALE, RANGE = 0.1, 0.1, 3.0  # Hartree, Hartree, Bohr: typical sizes of dH


def pair_size(distances: Tensor) -> Tensor:
    """Return the typical size of a pair's elements of dH, (P, 1, 1) Hartree; distances: (P,) Bohr."""
    return PAIR_SCALE * torch.exp(-distances / RANGE)[:, None, None]


def symmetric(onsite: Tensor) -> Tensor:
    """Return the symmetric part of each block."""
    return 0.5 * (onsite + onsite.transpose(1, 2))


def undirected(blocks: Tensor, signs: Tensor | float = 1.0) -> Tensor:
    """Average the blocks of (i, j) and (j, i), (2P, B, B), into (P, B, B); `signs` are those of `flipped_block`."""
    direct, opposite = blocks.chunk(2)
    return 0.5 * (direct + signs * opposite.transpose(1, 2))


class Output(NamedTuple):
    """Predicted blocks of dH in the form of `target`, Hartree."""

    onsite: Tensor  # (N, B, B) symmetric, in the global frame
    pair: Tensor  # (P, B, B) for atoms i < j, in the pairs' frames


class Traces(NamedTuple):
    """tr(Q Q^T) of the blocks of dH for each two shells, Hartree^2."""

    onsite: Tensor  # (N, S, S)
    pair: Tensor  # (P, S, S), atoms i < j


class Coupling(nn.Module):
    """Onsite blocks <-> irreps, grouped by (l, parity is natural): an orthogonal change of basis."""

    matrix: Tensor

    def __init__(self, template: ShellTemplate) -> None:
        super().__init__()
        size = template.size
        unit = np.eye(size * size).reshape(-1, size, size)
        groups: dict[tuple[int, bool], list[np.ndarray]] = {}
        for (l1, l2, l), coefficients in irreps_from_blocks(unit, template).items():
            natural = (l1 + l2 + l) % 2 == 0
            flat = coefficients.reshape(size * size, -1, 2 * l + 1)  # (elements, channels, m)
            groups.setdefault((l, natural), []).append(flat)
        self.degrees = sorted(groups)
        self.channels = {key: sum(part.shape[1] for part in groups[key]) for key in self.degrees}
        columns = [np.concatenate(groups[key], axis=1).swapaxes(1, 2).reshape(size * size, -1) for key in self.degrees]
        self.size = size
        self.register_buffer("matrix", torch.from_numpy(np.concatenate(columns, axis=1)), persistent=False)

    def irreps_from_blocks(self, blocks: Tensor) -> dict[tuple[int, bool], Tensor]:
        """Couple (..., B, B) to (..., 2l+1, channels) for each (l, natural parity)."""
        flat = blocks.flatten(-2) @ self.matrix
        sizes = [(2 * l + 1) * self.channels[l, natural] for l, natural in self.degrees]
        parts = flat.split(sizes, dim=-1)
        return {
            key: part.unflatten(-1, (2 * key[0] + 1, self.channels[key]))
            for key, part in zip(self.degrees, parts, strict=True)
        }

    def blocks_from_irreps(self, irreps: dict[tuple[int, bool], Tensor]) -> Tensor:
        """Expand to (..., B, B): the inverse of `irreps_from_blocks`."""
        flat = torch.cat([irreps[key].flatten(-2) for key in self.degrees], dim=-1)
        return (flat @ self.matrix.T).unflatten(-1, (self.size, self.size))


class PolarCoupling(nn.Module):
    """Pair blocks in the pairs' frames <-> m-components: an orthogonal change of basis with two terms at most."""

    terms: Tensor
    factors: Tensor
    back_terms: Tensor
    back_factors: Tensor

    def __init__(self, template: ShellTemplate) -> None:
        super().__init__()
        basis = polar_basis(template)
        self.widths = list(basis.sizes)
        self.size = template.size
        for name, matrix in (("", basis.matrix), ("back_", basis.matrix.T)):
            terms = np.argsort(-np.abs(matrix), axis=1, kind="stable")[:, :2]  # the non-zero ones
            factors = np.take_along_axis(matrix, terms, axis=1)
            padding = ((0, 0), (0, 2 - terms.shape[1]))  # a block of one s orbital has one element
            terms, factors = np.pad(terms, padding), np.pad(factors, padding)
            self.register_buffer(f"{name}terms", torch.from_numpy(terms.copy()), persistent=False)
            self.register_buffer(f"{name}factors", torch.from_numpy(factors), persistent=False)

    def components_from_blocks(self, blocks: Tensor) -> Components:
        """Sort (P, K, B, B) into m-components (P, 1 or 2, K * width)."""
        flat = blocks.flatten(-2)
        packed = flat[..., self.terms[:, 0]] * self.factors[:, 0] + flat[..., self.terms[:, 1]] * self.factors[:, 1]
        even, odd, *others = packed.split([self.widths[0], self.widths[1], *(2 * n for n in self.widths[2:])], dim=-1)
        components = [g.unflatten(-1, (2, -1)).transpose(1, 2).flatten(2) for g in others]
        return [even.flatten(1).unsqueeze(1), odd.flatten(1).unsqueeze(1), *components]

    def blocks_from_components(self, components: Components) -> Tensor:
        """Expand m-components to (P, B, B): for K = 1 the inverse of `components_from_blocks`."""
        packed = torch.cat([g.flatten(1) for g in components], dim=-1)
        terms, factors = self.back_terms, self.back_factors
        flat = packed[:, terms[:, 0]] * factors[:, 0] + packed[:, terms[:, 1]] * factors[:, 1]
        return flat.unflatten(-1, (self.size, self.size))
