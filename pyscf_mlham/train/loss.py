"""Errors of predicted blocks, element by element and in the space of the converged orbitals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyscf_mlham.ao.layout import ShellTemplate
from pyscf_mlham.data.dataset import Example
from pyscf_mlham.nn.batch import Batch, batch_from_samples
from pyscf_mlham.nn.head import ONSITE_SCALE, Output, Traces, pair_size
from pyscf_mlham.nn.rotation import block_rotations, shells_of_components
from pyscf_mlham.train.config import LossConfig

TINY = 1e-12  # keeps the derivative of the root finite at zero
SMALLEST_GAP = 1e-3  # Hartree; for smaller gaps, or a wrong order of orbitals, the first-order error has no meaning


class Targets(NamedTuple):
    """Targets of a batch, with orbitals padded to the largest molecule.

    Attributes:
        onsite: (N, B, B) onsite blocks, Hartree.
        pair: (P, B, B) pair blocks, Hartree.
        onsite_mask, pair_mask: same shapes, 1 for orbitals, 0 for padding.
        slots: (N, B) index in the padded matrix of the molecule; that of its last row for padding.
        pair_molecule: (P,) molecule of each pair.
        n_ao: (molecules,) number of orbitals.
        occupied: (molecules, n+1, o) occupied orbitals, padded with zeros.
        virtual: (molecules, n+1, v) virtual orbitals, padded with zeros.
        inverse_gap: (molecules, o, v) 1 / (e_v - e_o), padded with zeros.
        beyond: (molecules, o, v) dH beyond the cutoff, between occupied and virtual orbitals, Hartree.
    """

    onsite: Tensor
    pair: Tensor
    onsite_mask: Tensor
    pair_mask: Tensor
    slots: Tensor
    pair_molecule: Tensor
    n_ao: Tensor
    occupied: Tensor
    virtual: Tensor
    inverse_gap: Tensor
    beyond: Tensor

    def to(self, device: torch.device | str) -> Targets:
        """Move to a device."""
        return Targets(*(t.to(device, non_blocking=True) for t in self))


class Errors(NamedTuple):
    """Errors of each molecule, (molecules,).

    Attributes:
        absolute: mean absolute error of dH in Loewdin orbitals, Hartree.
        spectral: root of the squared error per orbital, Hartree.
        density: norm of the first-order error of the density matrix over the root of the number of occupied orbitals.
    """

    absolute: Tensor
    spectral: Tensor
    density: Tensor


def collate(examples: Sequence[Example]) -> tuple[Batch, Targets]:
    """Concatenate examples to a batch."""
    n_ao = [len(e.orbitals) for e in examples]
    size, width = max(n_ao) + 1, examples[0].slots.shape[1]
    n_occ = max(e.n_occupied for e in examples)
    n_virt = max(len(e.orbitals) - e.n_occupied for e in examples)
    occupied = np.zeros((len(examples), size, n_occ), dtype=np.float32)
    virtual = np.zeros((len(examples), size, n_virt), dtype=np.float32)
    inverse_gap = np.zeros((len(examples), n_occ, n_virt), dtype=np.float32)
    beyond = np.zeros_like(inverse_gap)
    for k, e in enumerate(examples):
        o, n = e.n_occupied, len(e.orbitals)
        occupied[k, :n, :o], virtual[k, :n, : n - o] = e.orbitals[:, :o], e.orbitals[:, o:]
        inverse_gap[k, :o, : n - o] = 1 / np.maximum(e.energies[None, o:] - e.energies[:o, None], SMALLEST_GAP)
        if e.beyond.size:
            beyond[k, :o, : n - o] = e.orbitals[:, :o].T @ e.beyond @ e.orbitals[:, o:]
    slots = np.concatenate([np.where(e.slots < 0, size - 1, e.slots) for e in examples])
    mask = np.concatenate([e.slots >= 0 for e in examples]).astype(np.float32)
    offsets = np.cumsum([0] + [len(e.slots) for e in examples[:-1]])
    pairs = np.concatenate([e.sample.pairs + at for e, at in zip(examples, offsets, strict=True)]).reshape(-1, 2)
    rows, columns = mask[pairs[:, 0]], mask[pairs[:, 1]]
    arrays = (
        np.concatenate([e.onsite for e in examples]),
        np.concatenate([e.pair for e in examples]).reshape(-1, width, width),
        mask[:, :, None] * mask[:, None, :],
        rows[:, :, None] * columns[:, None, :],
        slots,
        np.repeat(np.arange(len(examples)), [len(e.sample.pairs) for e in examples]),
        np.array(n_ao, dtype=np.float32),
        occupied,
        virtual,
        inverse_gap,
        beyond,
    )
    return batch_from_samples([e.sample for e in examples]), Targets(*(torch.from_numpy(a) for a in arrays))


def errors(output: Output, batch: Batch, targets: Targets, template: ShellTemplate) -> Errors:
    """Compare a prediction with its targets; only the error of the density includes dH beyond the cutoff."""
    onsite = (output.onsite - targets.onsite) * targets.onsite_mask
    pair = (output.pair - targets.pair) * targets.pair_mask
    n_ao = targets.n_ao
    absolute = _per_molecule(onsite.abs(), pair.abs(), batch, targets) / n_ao**2
    squared = _per_molecule(onsite.square(), pair.square(), batch, targets)
    matrix = dense(onsite, pair, batch, targets, template)
    ov = (targets.occupied.transpose(1, 2) @ matrix @ targets.virtual - targets.beyond) * targets.inverse_gap
    n_occ = targets.occupied.any(1).sum(1)
    density = ov.square().sum((1, 2)) / n_occ
    return Errors(absolute, (squared / n_ao + TINY).sqrt(), (density + TINY).sqrt())


def dense(onsite: Tensor, pair: Tensor, batch: Batch, targets: Targets, template: ShellTemplate) -> Tensor:
    """Assemble blocks into one matrix for each molecule, in irreps order: (molecules, n+1, n+1), padded.

    Args:
        onsite: (N, B, B).
        pair: (P, B, B) in the pairs' frames.
    """
    size, n_mol = targets.occupied.shape[1], len(targets.n_ao)
    R = block_rotations(batch.wigner_d, template)
    pair = R.transpose(1, 2) @ pair @ R
    rows, columns = targets.slots[batch.first], targets.slots[batch.second]
    matrix = onsite.new_zeros(n_mol, size, size)
    at = (batch.molecule[:, None, None], targets.slots[:, :, None], targets.slots[:, None, :])
    matrix = matrix.index_put(at, onsite)
    molecule = targets.pair_molecule[:, None, None]
    matrix = matrix.index_put((molecule, rows[:, :, None], columns[:, None, :]), pair)
    return matrix.index_put((molecule, columns[:, :, None], rows[:, None, :]), pair.transpose(1, 2))


def traces_of(onsite: Tensor, pair: Tensor, template: ShellTemplate) -> Traces:
    """Return tr(Q Q^T), the sum of squares, of each pair of shells of every block, (..., S, S).

    Args:
        onsite: (N, B, B).
        pair: (P, B, B), in any frame.
    """
    shell = torch.from_numpy(shells_of_components(template)).to(onsite.device)
    members = torch.nn.functional.one_hot(shell).to(onsite.dtype)  # (B, S)
    return Traces(*(members.T @ blocks.square() @ members for blocks in (onsite, pair)))


def trace_error(traces: Traces, batch: Batch, targets: Targets, template: ShellTemplate) -> Tensor:
    """Return the mean absolute error of the traces of each molecule's blocks, relative to typical traces, (molecules,).

    Typical traces follow from the heads' scales at each distance; in Hartree^2 distant pairs would have no weight.
    """
    present = traces_of(targets.onsite_mask, targets.pair_mask, template)
    wanted = traces_of(targets.onsite * targets.onsite_mask, targets.pair * targets.pair_mask, template)
    found = [(t - w).abs() * (m > 0) for t, w, m in zip(traces, wanted, present, strict=True)]
    onsite, pair = found[0] / ONSITE_SCALE**2, found[1] / pair_size(batch.distances) ** 2
    return _per_molecule(onsite, pair, batch, targets) / targets.n_ao**2


def _per_molecule(onsite: Tensor, pair: Tensor, batch: Batch, targets: Targets) -> Tensor:
    """Sum blocks over each molecule, each pair twice: (molecules,)."""
    summed = onsite.new_zeros(len(targets.n_ao)).index_add(0, batch.molecule, onsite.sum((1, 2)))
    return summed.index_add(0, targets.pair_molecule, 2 * pair.sum((1, 2)))


def total(found: Errors, weights: LossConfig, traces: Tensor | None = None) -> Tensor:
    """Return the loss of each molecule, (molecules,).

    The error of the traces is scaled to a fixed share of the molecule's loss, so that only the direction of its
    gradient matters.

    Args:
        traces: (molecules,) result of `trace_error`.
    """
    loss = weights.absolute * found.absolute + weights.spectral * found.spectral + weights.density * found.density
    if traces is None:
        return loss
    return loss + weights.trace * (loss / (traces + TINY)).detach() * traces
