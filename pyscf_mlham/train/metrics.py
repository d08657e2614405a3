"""Metrics of predictions: those of the literature, and those that matter for the SCF; and their log."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyscf_mlham.ao.layout import ShellTemplate
from pyscf_mlham.ao.mulliken import ao_from_parts, of_atoms
from pyscf_mlham.checkpoint import replace_file
from pyscf_mlham.data.dataset import Example
from pyscf_mlham.nn.batch import Batch
from pyscf_mlham.nn.model import HamiltonianModel
from pyscf_mlham.nn.rotation import random_orthogonal, rotated_batch, rotation_from_matrix, twisted_batch
from pyscf_mlham.train.loss import SMALLEST_GAP, Targets, collate, dense, gaps

LOG, CURVE = "log.csv", "loss.png"
FAILED = "similarity", "gap_ratio"  # 0 for a prediction that is not finite; all other metrics are infinite
SMALLEST_ERROR = 1e-12  # its logarithm is finite
INTRUDER = 0.15  # smallest share in converged virtual orbitals of a predicted occupied orbital that is an intruder


UNITS = {"similarity": "", "gap_ratio": "", "density": "", "intruders": "per molecule"}
MEANINGS = {
    "h_mae": "mean absolute error of the Fock matrix's elements, in atomic orbitals; of crystals the criterion for "
    "the best weights",
    "onsite_mae": "the same, of the blocks of an atom with itself",
    "pair_mae": "the same, of the blocks between two atoms",
    "lowdin_mae": "the same, of the whole matrix in Loewdin orbitals",
    "occupied_mae": "mean absolute error of the occupied orbitals' energies",
    "similarity": "mean overlap of predicted and converged occupied orbitals, one by one in order of energy; 1 is "
    "perfect, but degenerate orbitals mix arbitrarily, so that a nearly perfect prediction may have less",
    "gap_error": "absolute error of the HOMO-LUMO gap",
    "gap_ratio": "predicted over converged gap; 1 is perfect",
    "occupied_virtual": "norm of the error between occupied and virtual orbitals, which the SCF has to correct",
    "density": "norm of the error of the density matrix, to first order; of molecules its geometric mean is the "
    "criterion for the best weights",
    "intruders": "predicted occupied orbitals that are virtual in the converged SCF; 0 is perfect",
}


class Metrics(NamedTuple):
    """Metrics of one molecule, or means over several; see `MEANINGS`. Hartree, except for `UNITS`."""

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


def metrics_or_failed(error: np.ndarray, example: Example) -> Metrics:
    """Return the metrics of one prediction; infinite errors if it is not finite.

    Args:
        error: (N_k, n, n) predicted minus converged Fock matrix in Loewdin orbitals, irreps order, Hartree.
    """
    if np.isfinite(error).all():
        with contextlib.suppress(np.linalg.LinAlgError):
            return metrics(error, example)
    return Metrics(**{name: 0.0 if name in FAILED else np.inf for name in Metrics._fields})


def metrics(error: np.ndarray, example: Example) -> Metrics:
    """Return the metrics of one finite prediction, see `metrics_or_failed`; of a crystal means over its k points."""
    kind = np.complex128 if np.iscomplexobj(example.orbitals) else np.float64
    half, V = example.half.astype(kind), example.orbitals.astype(kind)
    o, e = example.n_occupied, example.energies.astype(np.float64)
    in_aos = np.abs(half @ error @ half)
    same = example.atoms[:, None] == example.atoms
    between = np.swapaxes(V.conj(), 1, 2) @ error @ V
    predicted, U = np.linalg.eigh(between + e[:, :, None] * np.eye(e.shape[1]))
    gap = true_gap = SMALLEST_GAP  # without virtual orbitals the gap has no error
    if o < e.shape[1]:
        gap, true_gap = (energies[:, o].min() - energies[:, o - 1].max() for energies in (predicted, e))
    virtual_share = np.square(np.abs(U[:, o:, :o])).sum(axis=1)  # share of predicted occupied orbitals in virtual ones
    ov = between[:, :o, o:]
    n_k = len(e)
    return Metrics(
        h_mae=float(in_aos.mean()),
        onsite_mae=float(in_aos[:, same].mean()),
        pair_mae=float(in_aos[:, ~same].mean()) if not same.all() else 0.0,
        lowdin_mae=float(np.abs(error).mean()),
        occupied_mae=float(np.abs(predicted[:, :o] - e[:, :o]).mean()),
        similarity=float(np.abs(np.diagonal(U, axis1=1, axis2=2)[:, :o]).mean()),
        gap_error=float(abs(gap - true_gap)),
        gap_ratio=float(gap / max(true_gap, SMALLEST_GAP)),
        occupied_virtual=float(np.linalg.norm(ov) / n_k**0.5),
        density=float(np.linalg.norm(ov / gaps(example)) / n_k**0.5),
        intruders=float(np.sum(virtual_share > INTRUDER) / n_k),
    )


def evaluate(model: HamiltonianModel, examples: Iterable[Example]) -> list[Metrics]:
    """Evaluate a network, one molecule at a time; errors of predictions that are not finite are infinite."""
    weight = next(model.parameters())
    found = []
    with torch.no_grad():
        for example in examples:
            batch, targets = collate([example])
            batch, targets = batch.to(weight.device, weight.dtype), targets.to(weight.device)
            output = model(batch)
            found.append(_judged_blocks(output.onsite, output.pair, batch, targets, example, model.template))
    return found


def evaluate_baseline(example: Example, template: ShellTemplate) -> Metrics:
    """Evaluate H0 alone, the prediction of a network whose output is zero."""
    batch, targets = collate([example])
    zeros = torch.zeros_like(targets.onsite), torch.zeros_like(targets.pair)
    return _judged_blocks(*zeros, batch, targets, example, template)


def _judged_blocks(
    onsite: Tensor, pair: Tensor, batch: Batch, targets: Targets, example: Example, template: ShellTemplate
) -> Metrics:
    """Return the metrics of predicted corrections to H0, in blocks of the padded layout."""
    onsite = (onsite - targets.onsite) * targets.onsite_mask
    pair = (pair - targets.pair) * targets.pair_mask
    error = dense(onsite, pair, batch, targets, template)[:, :-1, :-1].cpu().numpy()
    error = error.astype(np.result_type(error, np.float64))
    if example.is_of_atoms:
        half = example.half.astype(error.dtype)
        inverse = np.linalg.inv(half)
        error = inverse @ ao_from_parts(error, half @ half, of_atoms(error, example.atoms)) @ inverse
    if example.beyond.size:
        error = error - example.beyond  # zero in the assembled matrix
    return metrics_or_failed(error, example)


def equivariance_error(model: HamiltonianModel, example: Example, seed: int) -> float:
    """Return the mean absolute change of a network's blocks if a molecule is rotated, Hartree.

    The pairs' frames do not only rotate with the molecule, since every operation within them would pass that test:
    each is also rotated about the pair's axis by a random angle. An equivariant network changes by rounding only.
    """
    weight, template = next(model.parameters()), model.template
    batch, targets = collate([example])
    batch, targets = batch.to(weight.device, weight.dtype), targets.to(weight.device)
    Q = random_orthogonal((seed,))
    rotation = rotation_from_matrix(Q * np.linalg.det(Q), model.options.degree, template).to(weight)
    angles = np.random.default_rng((seed, 1)).uniform(0, 2 * np.pi, len(batch.first))
    rotated, T = twisted_batch(rotated_batch(batch, rotation), angles, template)
    with torch.no_grad():
        output, other = model(batch), model(rotated)
    onsite = (rotation.block.T @ other.onsite @ rotation.block - output.onsite) * targets.onsite_mask
    pair = (T.transpose(1, 2) @ other.pair @ T - output.pair) * targets.pair_mask
    size = targets.onsite_mask.sum() + 2 * targets.pair_mask.sum()
    return float((onsite.abs().sum() + 2 * pair.abs().sum()) / size)


def mean(found: list[Metrics]) -> Metrics:
    """Return the mean of each metric."""
    return Metrics(*(float(np.mean(column)) for column in zip(*found, strict=True)))


def criterion(found: list[Metrics], periodic: bool) -> float:
    """Return the error by which the best weights are chosen.

    Of molecules the geometric mean of the density errors: one radical in a wrong state would decide about their mean.
    Of crystals the error of the Fock matrix: bands of a few frames nearly touch, and these have the density errors.
    """
    if periodic:
        return mean(found).h_mae
    return float(np.exp(np.mean(np.log([max(metrics.density, SMALLEST_ERROR) for metrics in found]))))


def write_log(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write the log, a row for each evaluation."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[-1]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_file(folder / LOG, text.getvalue().encode())


def draw_curve(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Plot the errors against the step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    labels = ("Fock matrix, mean absolute error / Ha", "occupied energies / Ha", "density matrix, first order")
    for key, label in zip(("h_mae", "occupied_mae", "density"), labels, strict=True):
        axes.plot([row["step"] for row in rows], [row[key] for row in rows], label=label)
    axes.set(xlabel="step", yscale="log", title="validation")
    axes.legend()
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, format="png")
    replace_file(folder / CURVE, drawn.getvalue())
