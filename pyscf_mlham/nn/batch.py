"""Several molecules or cells as one graph, the input of every network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyscf_mlham.features import Sample


class Batch(NamedTuple):
    """Molecules side by side, without pairs between them."""

    numbers: Tensor  # (N,) atomic numbers
    positions: Tensor  # (N, 3) Bohr
    molecule: Tensor  # (N,) index of each atom's molecule
    charges: Tensor  # (molecules,) total charges
    periodic: Tensor  # (molecules,) True for a cell
    padding_mask: Tensor  # (N, B) True for an orbital, False for padding
    first: Tensor  # (P,) atoms of each pair, each pair once
    second: Tensor
    distances: Tensor  # (P,) Bohr
    wigner_d: Tensor  # (P, (L+1)^2, (L+1)^2) Wigner D matrices into the pairs' frames
    onsite: Tensor  # (N, K, B, B) input matrices, in the global frame
    pair: Tensor  # (P, K, B, B) input matrices, in the pairs' frames

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Batch:
        """Move to a device and cast floating-point tensors."""
        return Batch(*(t.to(device, dtype if t.is_floating_point() else None, non_blocking=True) for t in self))


def block_masks(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return masks of blocks, 1 for elements between two orbitals, 0 for padding: (N, B, B) and (P, B, B)."""
    mask = batch.padding_mask.to(batch.onsite)
    return mask[:, :, None] * mask[:, None, :], mask[batch.first, :, None] * mask[batch.second, None, :]


def batch_from_samples(samples: Sequence[Sample]) -> Batch:
    """Concatenate molecules."""
    sizes = [len(s.numbers) for s in samples]
    offsets = np.cumsum([0, *sizes[:-1]])
    pairs = np.concatenate([s.pairs + o for s, o in zip(samples, offsets, strict=True)])
    same = ("numbers", "positions", "padding_mask", "distances", "wigner_d", "onsite", "pair")
    joined = {name: torch.from_numpy(np.concatenate([getattr(s, name) for s in samples])) for name in same}
    return Batch(
        molecule=torch.from_numpy(np.repeat(np.arange(len(samples)), sizes)),
        charges=torch.tensor([float(s.charge) for s in samples], dtype=torch.float64),
        periodic=torch.tensor([s.periodic for s in samples]),
        first=torch.from_numpy(pairs[:, 0].copy()),
        second=torch.from_numpy(pairs[:, 1].copy()),
        **joined,
    )
