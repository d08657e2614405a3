"""How good a prediction is, in the terms of the field and in the terms of SCF."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from pyscf_mlham.data.dataset import Example
from pyscf_mlham.nn.model import HamiltonianModel
from pyscf_mlham.nn.rotation import random_orthogonal, rotated_batch, rotation_from_matrix, twisted_batch
from pyscf_mlham.train.loss import SMALLEST_GAP, collate, dense

FAILED = "similarity", "gap_ratio"  # which are 0 where there is nothing to judge; all others are infinite
INTRUDER = 0.15  # share of a predicted occupied orbital in converged virtual ones from which it is an intruder


class Metrics(NamedTuple):
    """Of one molecule, or means over several; Hartree where not said otherwise.

    Attributes:
        h_mae: mean absolute error of the Fock matrix in AOs, all elements.
        onsite_mae: of the blocks of an atom with itself.
        pair_mae: of the blocks between atoms.
        lowdin_mae: in Loewdin orbitals.
        occupied_mae: of the occupied orbitals' energies.
        similarity: mean |<predicted|converged>| over the occupied orbitals, in order of energy (QH9's psi); orbitals
            of one energy mix at will, and lower it.
        gap_error: absolute error of the HOMO-LUMO gap.
        gap_ratio: predicted over converged gap.
        occupied_virtual: Frobenius norm of the error between converged occupied and virtual orbitals.
        density: norm of the first-order error of the density matrix, dimensionless.
        intruders: occupied orbitals that belong among the virtual ones.
    """

    h_mae: float
    onsite_mae: float
    pair_mae: float
    lowdin_mae: float
    occupied_mae: float
    similarity: float
    gap_error: float
    gap_ratio: float
    occupied_virtual: float
    density: float
    intruders: float


def judged(error: np.ndarray, example: Example) -> Metrics:
    """Judge one prediction, or say that it failed: infinite errors where it is not finite.

    Args:
        error: (n, n) predicted minus converged Fock matrix in Loewdin orbitals, irreps order.
        example: the molecule and its answer.
    """
    if np.isfinite(error).all():
        with contextlib.suppress(np.linalg.LinAlgError):
            return metrics(error, example)
    return Metrics(**{name: 0.0 if name in FAILED else np.inf for name in Metrics._fields})


def metrics(error: np.ndarray, example: Example) -> Metrics:
    """Judge one prediction.

    Args:
        error: (n, n) predicted minus converged Fock matrix in Loewdin orbitals, irreps order.
        example: the molecule and its answer.
    """
    half, V = example.half.astype(np.float64), example.orbitals.astype(np.float64)
    o, e = example.n_occupied, example.energies.astype(np.float64)
    in_aos = np.abs(half @ error @ half)
    same = np.zeros(in_aos.shape, dtype=bool)
    for places in example.slots:
        inside = places[places >= 0]
        same[np.ix_(inside, inside)] = True
    between = V.T @ error @ V
    predicted, U = np.linalg.eigh(np.diag(e) + between)
    gap = true_gap = SMALLEST_GAP  # without virtual orbitals there is none to be wrong
    if o < len(e):
        gap, true_gap = predicted[o] - predicted[o - 1], e[o] - e[o - 1]
    foreign = np.square(U[o:, :o]).sum(axis=0)  # share of each predicted occupied orbital in virtual ones
    ov = between[:o, o:]
    return Metrics(
        h_mae=float(in_aos.mean()),
        onsite_mae=float(in_aos[same].mean()),
        pair_mae=float(in_aos[~same].mean()) if not same.all() else 0.0,
        lowdin_mae=float(np.abs(error).mean()),
        occupied_mae=float(np.abs(predicted[:o] - e[:o]).mean()),
        similarity=float(np.abs(np.diag(U)[:o]).mean()),
        gap_error=float(abs(gap - true_gap)),
        gap_ratio=float(gap / max(true_gap, SMALLEST_GAP)),
        occupied_virtual=float(np.linalg.norm(ov)),
        density=float(np.linalg.norm(ov / np.maximum(e[None, o:] - e[:o, None], SMALLEST_GAP))),
        intruders=float(np.sum(foreign > INTRUDER)),
    )


def evaluate(model: HamiltonianModel, examples: Iterable[Example]) -> list[Metrics]:
    """Judge a network on examples, one molecule at a time; where a prediction is not finite, errors are infinite.

    Args:
        model: network.
        examples: molecules.
    """
    weight = next(model.parameters())
    training = model.training
    model.eval()
    found = []
    with torch.no_grad():
        for example in examples:
            batch, targets = collate([example])
            batch, targets = batch.to(weight.device, weight.dtype), targets.to(weight.device)
            output = model(batch)
            onsite = (output.onsite - targets.onsite) * targets.onsite_mask
            pair = (output.pair - targets.pair) * targets.pair_mask
            error = dense(onsite, pair, batch, targets, model.template)[0, :-1, :-1].double().cpu().numpy()
            if example.beyond.size:
                error = error - example.beyond  # what the assembled matrix lacks
            found.append(judged(error, example))
    model.train(training)
    return found


def equivariance_error(model: HamiltonianModel, example: Example, seed: int) -> float:
    """Return how much turning a molecule changes what a network says: mean over the elements of its blocks, Hartree.

    The pairs' frames do not simply turn along, as whatever is made in them would pass the test then: each is turned
    about the pair's axis, too, by an angle of its own. An equivariant network shows its rounding.

    Args:
        model: network.
        example: molecule.
        seed: of the rotations.
    """
    weight, template = next(model.parameters()), model.template
    batch, targets = collate([example])
    batch, targets = batch.to(weight.device, weight.dtype), targets.to(weight.device)
    Q = random_orthogonal((seed,))
    rotation = rotation_from_matrix(Q * np.linalg.det(Q), model.options.degree, template).to(weight)
    angles = np.random.default_rng((seed, 1)).uniform(0, 2 * np.pi, len(batch.first))
    turned, T = twisted_batch(rotated_batch(batch, rotation), angles, template)
    with torch.no_grad():
        here, there = model(batch), model(turned)
    onsite = (rotation.block.T @ there.onsite @ rotation.block - here.onsite) * targets.onsite_mask
    pair = (T.transpose(1, 2) @ there.pair @ T - here.pair) * targets.pair_mask
    size = targets.onsite_mask.sum() + 2 * targets.pair_mask.sum()
    return float((onsite.abs().sum() + 2 * pair.abs().sum()) / size)


def mean(found: list[Metrics]) -> Metrics:
    """Return the mean of each metric."""
    return Metrics(*(float(np.mean(column)) for column in zip(*found, strict=True)))
