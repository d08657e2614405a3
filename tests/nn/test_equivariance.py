"""The measure of equivariance errors, and the rotated molecules that it compares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pyscf_mlham.ao.layout import ShellTemplate
from pyscf_mlham.data.dataset import Example
from pyscf_mlham.nn.batch import Batch, batch_from_samples
from pyscf_mlham.nn.model import HamiltonianModel, build
from pyscf_mlham.nn.rotation import random_orthogonal, rotated_batch, rotation_from_matrix, twisted_batch
from pyscf_mlham.train.metrics import equivariance_error
from pyscf_mlham.train.preparation import prepare
from support.labelled import settings, silent
from support.molecules import assert_close
from support.networks import (
    MISTAKES,
    MOLECULE,
    REFINER,
    SIZES,
    TEMPLATE,
    VARIANTS,
    WRAPPER,
    broken,
    cut_of,
    moved,
    random_network,
    sample_of,
    svp,
)

Q = Rotation.from_euler("xyz", [0.3, 1.2, -2.0]).as_matrix()
ANGLES = np.random.default_rng(0).uniform(0, 2 * np.pi, 15)


def molecule() -> Batch:
    return batch_from_samples([sample_of(svp(MOLECULE), 100.0)]).to("cpu", torch.float64)


def test_other_frames_are_those_of_the_rotated_molecule() -> None:
    there = sample_of(moved(lambda r: Q @ r), 100.0)
    before, after = (cut_of(mol, 100.0).frames for mol in (svp(MOLECULE), moved(lambda r: Q @ r)))
    twists = after @ Q @ before.swapaxes(1, 2)
    angles = np.arctan2(twists[:, 1, 0], twists[:, 0, 0])
    assert np.ptp(angles) > 0.5
    rotation = rotation_from_matrix(Q, 4, TEMPLATE)
    made, _ = twisted_batch(rotated_batch(molecule(), rotation), angles, TEMPLATE)
    expected = batch_from_samples([there]).to("cpu", torch.float64)
    for name in ("positions", "wigner_d", "pair", "onsite"):
        assert_close(getattr(made, name), getattr(expected, name), 1e-9)


def frame_error(network: HamiltonianModel) -> float:
    """Rotate a molecule and its frames, and return the largest change of a block."""
    batch = molecule()
    P = random_orthogonal((3,))
    rotation = rotation_from_matrix(P * np.linalg.det(P), 4, TEMPLATE)
    rotated, T = twisted_batch(rotated_batch(batch, rotation), ANGLES, TEMPLATE)
    with torch.no_grad():
        here, there = network(batch), network(rotated)
    B = rotation.block
    onsite, pair = there.onsite - B @ here.onsite @ B.T, T.transpose(1, 2) @ there.pair @ T - here.pair
    return max(float(onsite.abs().max()), float(pair.abs().max()))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "harmose" not in v])
def test_first_stages_are_equivariant(variant: str) -> None:
    assert frame_error(random_network(variant)) < 1e-11


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_frames_is_seen(mistake: str) -> None:
    assert frame_error(broken(random_network("qhnetv2"), mistake)) > 1e-4


@pytest.fixture(scope="module")
def example(data: Path) -> Example:
    return prepare(settings(data, data.parent), silent())[1][1]


def network_of(variant: str, example: Example) -> HamiltonianModel:
    """Make one for the examples' orbitals; no weight is zero."""
    torch.manual_seed(2)
    architecture, *parts = variant.split("+")
    made = build(
        architecture,
        SIZES[architecture],
        ShellTemplate((2, 1)),
        (1, 6, 7, 8),
        wrapper=WRAPPER if "tracegrad" in parts else None,
        refiner=REFINER if "harmose" in parts else None,
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_measure_shows_rounding_and_what_is_learnt(variant: str, example: Example) -> None:
    network = network_of(variant, example)
    low, high = (1e-5, 2 * REFINER["limit"]) if network.refiner else (0, 2e-6)
    for seed in range(3):
        assert low < equivariance_error(network, example, seed) < high


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_measure_sees_mistakes(mistake: str, example: Example) -> None:
    network = broken(network_of("qhnetv2", example), mistake)
    assert min(equivariance_error(network, example, seed) for seed in range(3)) > 1e-5
