"""Errors of predicted blocks, element by element and in the space of the converged orbitals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyscf_mlham.ao.layout import ShellTemplate
from pyscf_mlham.arrays import IntArray
from pyscf_mlham.data.dataset import Example
from pyscf_mlham.nn.batch import Batch, batch_from_samples, block_masks
from pyscf_mlham.nn.head import ONSITE_SCALE, Output, Traces, pair_size
from pyscf_mlham.nn.rotation import block_rotations, shells_of_components
from pyscf_mlham.train.config import LossConfig

TINY = 1e-12  # keeps the derivative of the root finite at zero
SMALLEST_GAP = 1e-3  # Hartree; for smaller gaps, or a wrong order of orbitals, the first-order error has no meaning
SMALLEST_DIRECT_GAP = 2e-2  # Hartree; the bands of crystals may touch


class Targets(NamedTuple):
    """Targets of a batch, with orbitals padded to the largest molecule; a molecule counts as having one k point."""

    onsite: Tensor  # (N, B, B) onsite blocks, Hartree
    pair: Tensor  # (P, B, B) pair blocks, Hartree
    onsite_mask: Tensor  # (N, B, B) 1 for orbitals, 0 for padding
    pair_mask: Tensor  # (P, B, B)
    slots: Tensor  # (N, B) index in the padded matrix of the molecule; that of its last row for padding
    pair_molecule: Tensor  # (P,) molecule of each pair
    n_ao: Tensor  # (molecules,) number of orbitals
    n_elements: Tensor  # (molecules,) number of elements of dH; of a crystal those of its blocks
    matrix_molecule: Tensor  # (M,) molecule of the matrix at each k point
    atom_terms: Tensor  # (2, A) block of an atom, and matrix of which it is a part; one for each k point
    pair_terms: Tensor  # (2, E) the same of the pairs
    phases: Tensor  # (E,) exp(i k R) of the latter
    occupied: Tensor  # (M, n+1, o) occupied orbitals, padded with zeros
    virtual: Tensor  # (M, n+1, v) virtual orbitals, padded with zeros
    inverse_gap: Tensor  # (M, o, v) 1 / (e_v - e_o), padded with zeros
    beyond: Tensor  # (M, o, v) dH beyond the cutoff, between occupied and virtual orbitals, Hartree
    # (M, n+1, o) and (M, n+1, v) the overlap times the orbitals, if dH is that of atoms and a rest; empty otherwise
    weighted_occupied: Tensor
    weighted_virtual: Tensor

    def to(self, device: torch.device | str) -> Targets:
        """Move to a device."""
        return Targets(*(t.to(device, non_blocking=True) for t in self))


class Errors(NamedTuple):
    """Errors of each molecule, (molecules,)."""

    absolute: Tensor  # mean absolute error of dH in the form that the network predicts, Hartree
    spectral: Tensor  # root of the squared error per orbital, Hartree
    # norm of the first-order error of the density matrix over the root of the number of occupied orbitals
    density: Tensor


def collate(examples: Sequence[Example]) -> tuple[Batch, Targets]:
    """Concatenate examples to a batch."""
    n_ao = [e.orbitals.shape[-1] for e in examples]
    size, width = max(n_ao) + 1, examples[0].slots.shape[1]
    slots = np.concatenate([np.where(e.slots < 0, size - 1, e.slots) for e in examples])
    pair_molecule = np.repeat(np.arange(len(examples)), [len(e.sample.pairs) for e in examples])
    batch = batch_from_samples([e.sample for e in examples])
    blocks = (
        np.concatenate([e.onsite for e in examples]),
        np.concatenate([e.pair for e in examples]).reshape(-1, width, width),
    )
    others = (
        slots,
        pair_molecule,
        np.array(n_ao, dtype=np.float32),
        np.array([_elements(e) for e in examples], dtype=np.float32),
        np.repeat(np.arange(len(examples)), [len(e.phases) for e in examples]),
        _terms([len(e.slots) for e in examples], examples),
        _terms([len(e.sample.pairs) for e in examples], examples),
        np.concatenate([e.phases.ravel() for e in examples]),
        *_orbital_targets(examples, size),
    )
    tensors = [*map(torch.from_numpy, blocks), *block_masks(batch), *map(torch.from_numpy, others)]
    return batch, Targets(*tensors)


def _elements(example: Example) -> float:
    """Count the elements of dH: of a molecule all, of a crystal those of its blocks, both of a pair."""
    if not example.sample.periodic:
        return float(example.orbitals.shape[-1] ** 2)
    orbitals = (example.slots >= 0).sum(axis=1)
    i, j = example.sample.pairs.T
    return float(np.sum(orbitals**2) + 2 * np.sum(orbitals[i] * orbitals[j]))


def _terms(counts: Sequence[int], examples: Sequence[Example]) -> IntArray:
    """Return block and matrix for each k point and each of the blocks of all examples, (2, terms)."""
    terms, block, matrix = [], 0, 0
    for count, example in zip(counts, examples, strict=True):
        n_k = len(example.phases)
        matrices, blocks = np.indices((n_k, count)).reshape(2, -1)
        terms.append(np.stack([block + blocks, matrix + matrices]))
        block, matrix = block + count, matrix + n_k
    return np.ascontiguousarray(np.concatenate(terms, axis=1))


def _orbital_targets(examples: Sequence[Example], size: int) -> tuple[np.ndarray, ...]:
    """Return the last fields of `Targets`, from occupied orbitals on."""
    n_occ = max(e.n_occupied for e in examples)
    n_virt = max(e.orbitals.shape[-1] - e.n_occupied for e in examples)
    count, kind = sum(len(e.phases) for e in examples), np.result_type(*(e.orbitals for e in examples))
    occupied, virtual = np.zeros((count, size, n_occ), dtype=kind), np.zeros((count, size, n_virt), dtype=kind)
    inverse_gap = np.zeros((count, n_occ, n_virt), dtype=np.float32)
    beyond = np.zeros(inverse_gap.shape, dtype=kind)
    of_atoms = examples[0].is_of_atoms
    weighted = [np.zeros_like(a) if of_atoms else np.zeros((0, *a.shape[1:]), dtype=kind) for a in (occupied, virtual)]
    start = 0
    for e in examples:
        o, n, here = e.n_occupied, e.orbitals.shape[-1], slice(start, start + len(e.phases))
        start = here.stop
        filled, empty = e.orbitals[..., :o], e.orbitals[..., o:]
        inner = np.linalg.solve(e.half, e.orbitals) if of_atoms else e.orbitals  # C
        occupied[here, :n, :o], virtual[here, :n, : n - o] = inner[..., :o], inner[..., o:]
        if of_atoms:  # S C
            weighted[0][here, :n, :o], weighted[1][here, :n, : n - o] = e.half @ filled, e.half @ empty
        inverse_gap[here, :o, : n - o] = 1 / gaps(e)
        if e.beyond.size:
            beyond[here, :o, : n - o] = np.swapaxes(filled.conj(), 1, 2) @ e.beyond @ empty
    return occupied, virtual, inverse_gap, beyond, *weighted


def gaps(example: Example) -> np.ndarray:
    """Return e_v - e_o, at least `SMALLEST_GAP`, of a crystal `SMALLEST_DIRECT_GAP`: (N_k, o, v) Hartree."""
    e, o = example.energies, example.n_occupied
    smallest = SMALLEST_DIRECT_GAP if example.sample.periodic else SMALLEST_GAP
    return np.asarray(np.maximum(e[:, None, o:] - e[:, :o, None], smallest))


def errors(output: Output, batch: Batch, targets: Targets, template: ShellTemplate) -> Errors:
    """Compare a prediction with its targets; only the error of the density includes dH beyond the cutoff."""
    onsite = (output.onsite - targets.onsite) * targets.onsite_mask
    pair = (output.pair - targets.pair) * targets.pair_mask
    absolute = _per_molecule(onsite.abs(), pair.abs(), batch, targets) / targets.n_elements
    squared = _per_molecule(onsite.square(), pair.square(), batch, targets)
    ov = (_between_orbitals(onsite, pair, batch, targets, template) - targets.beyond) * targets.inverse_gap
    n_occ = targets.occupied.abs().any(1).sum(1)
    of_matrix = ov.abs().square().sum((1, 2)) / n_occ
    n_k = torch.bincount(targets.matrix_molecule)
    density = torch.zeros_like(targets.n_ao).index_add(0, targets.matrix_molecule, of_matrix) / n_k
    return Errors(absolute, (squared / targets.n_ao + TINY).sqrt(), (density + TINY).sqrt())


def _between_orbitals(onsite: Tensor, pair: Tensor, batch: Batch, targets: Targets, template: ShellTemplate) -> Tensor:
    """Return the matrix of blocks between occupied and virtual orbitals, (M, o, v)."""
    atoms = _of_atoms(onsite, targets)
    if not len(targets.weighted_occupied):
        return targets.occupied.mH @ _with_pairs(atoms, pair, batch, targets, template) @ targets.virtual
    rest = _with_pairs(torch.zeros_like(atoms), pair, batch, targets, template)
    left, right = targets.weighted_occupied.mH @ atoms, atoms @ targets.weighted_virtual
    weighted = (left @ targets.virtual + targets.occupied.mH @ right) / 2
    return targets.occupied.mH @ rest @ targets.virtual + weighted


def dense(onsite: Tensor, pair: Tensor, batch: Batch, targets: Targets, template: ShellTemplate) -> Tensor:
    """Assemble blocks, those of pairs in their frames, into the padded matrix at each k point, (M, n+1, n+1)."""
    return _with_pairs(_of_atoms(onsite, targets), pair, batch, targets, template)


def _with_pairs(matrix: Tensor, pair: Tensor, batch: Batch, targets: Targets, template: ShellTemplate) -> Tensor:
    """Add the blocks of pairs; see `dense`."""
    R = block_rotations(batch.wigner_d, template)
    pair = R.transpose(1, 2) @ pair @ R
    pairs, at = targets.pair_terms
    rows, columns = targets.slots[batch.first][pairs], targets.slots[batch.second][pairs]
    terms = pair[pairs] * targets.phases[:, None, None]  # several images of a pair add up
    at = at[:, None, None]
    matrix = matrix.index_put((at, rows[:, :, None], columns[:, None, :]), terms, accumulate=True)
    return matrix.index_put((at, columns[:, :, None], rows[:, None, :]), terms.mH, accumulate=True)


def _of_atoms(onsite: Tensor, targets: Targets) -> Tensor:
    """Assemble the blocks of atoms alone; see `dense`."""
    size = targets.occupied.shape[1]
    atoms, at = targets.atom_terms
    here = targets.slots[atoms]
    kind = torch.result_type(onsite, targets.phases)
    matrix = torch.zeros(len(targets.occupied), size, size, dtype=kind, device=onsite.device)
    return matrix.index_put((at[:, None, None], here[:, :, None], here[:, None, :]), onsite[atoms].to(kind))


def traces_of(onsite: Tensor, pair: Tensor, template: ShellTemplate) -> Traces:
    """Return tr(Q Q^T), the sum of squares, of each pair of shells of every block, in any frame: (..., S, S)."""
    shell = torch.from_numpy(shells_of_components(template)).to(onsite.device)
    members = torch.nn.functional.one_hot(shell).to(onsite.dtype)  # (B, S)
    return Traces(*(members.T @ blocks.square() @ members for blocks in (onsite, pair)))


def trace_error(traces: Traces, batch: Batch, targets: Targets, template: ShellTemplate) -> Tensor:
    """Return the mean absolute error of the traces of each molecule's blocks, relative to typical traces, (molecules,).

    Typical traces follow from the heads' scales at each distance; in Hartree^2 distant pairs would have no weight.
    """
    present = traces_of(targets.onsite_mask, targets.pair_mask, template)
    target = traces_of(targets.onsite * targets.onsite_mask, targets.pair * targets.pair_mask, template)
    found = [(t - w).abs() * (m > 0) for t, w, m in zip(traces, target, present, strict=True)]
    onsite, pair = found[0] / ONSITE_SCALE**2, found[1] / pair_size(batch.distances) ** 2
    return _per_molecule(onsite, pair, batch, targets) / targets.n_elements


def _per_molecule(onsite: Tensor, pair: Tensor, batch: Batch, targets: Targets) -> Tensor:
    """Sum blocks over each molecule, each pair twice: (molecules,)."""
    summed = onsite.new_zeros(len(targets.n_ao)).index_add(0, batch.molecule, onsite.sum((1, 2)))
    return summed.index_add(0, targets.pair_molecule, 2 * pair.sum((1, 2)))


def total(found: Errors, weights: LossConfig, traces: Tensor | None = None) -> Tensor:
    """Return the loss of each molecule, (molecules,); traces: result of `trace_error`.

    The error of the traces is scaled to a fixed share of the molecule's loss, so that only the direction of its
    gradient matters.
    """
    loss = weights.absolute * found.absolute + weights.spectral * found.spectral + weights.density * found.density
    if traces is None:
        return loss
    return loss + weights.trace * (loss / (traces + TINY)).detach() * traces
