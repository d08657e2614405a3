"""Rotations of whole molecules: positions, irreps and blocks, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import block_diag
from torch import Tensor

from pyscf_mlham.ao.frames import polar_order, wigner_from_frames
from pyscf_mlham.ao.layout import ShellTemplate, wigner
from pyscf_mlham.arrays import Array
from pyscf_mlham.nn.batch import Batch


class Rotation(NamedTuple):
    """Representations of one orthogonal transformation of space."""

    positions: Tensor  # (3, 3) matrix
    irreps: Tensor  # ((degree+1)^2, (degree+1)^2) Wigner D matrix of l = 0 .. degree
    block: Tensor  # (B, B) Wigner D matrix of a block's orbitals

    def to(self, like: Tensor) -> Rotation:
        """Move to a tensor's device and type."""
        return Rotation(*(t.to(like) for t in self))


def rotation_from_matrix(orthogonal: Array, degree: int, template: ShellTemplate) -> Rotation:
    """Return the representations of one transformation; orthogonal: (3, 3) matrix, proper or improper."""
    D = [wigner(l, orthogonal) for l in range(max(degree + 1, len(template.counts)))]
    shells = [D[l] for l, count in enumerate(template.counts) for _ in range(count)]
    arrays = (orthogonal, block_diag(*D[: degree + 1]), block_diag(*shells))
    return Rotation(*(torch.from_numpy(np.array(a, dtype=np.float64)) for a in arrays))


def random_orthogonal(seed: Sequence[int]) -> Array:
    """Draw an orthogonal matrix, proper or improper, uniformly (Haar measure)."""
    Q, R = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return np.asarray(Q * np.sign(np.diag(R)))


def rotated_batch(batch: Batch, rotation: Rotation) -> Batch:
    """Rotate molecules and their inputs by a proper rotation; the pairs' frames rotate with them."""
    Q, D, B = rotation.to(batch.wigner_d)
    return batch._replace(
        positions=batch.positions @ Q.T, wigner_d=batch.wigner_d @ D.T, onsite=B @ batch.onsite @ B.transpose(0, 1)
    )


def twisted_batch(batch: Batch, angles: Array, template: ShellTemplate) -> tuple[Batch, Tensor]:
    """Rotate the frame of each pair about the pair's axis by angles (P,), radians: another choice of frames.

    Returns:
        molecules, and the matrices T (P, B, B) from the old frames to the new: T block T^T.
    """
    degree = round(batch.wigner_d.shape[1] ** 0.5) - 1
    about_z = np.zeros((len(angles), 3, 3))
    about_z[:, 0, 0] = about_z[:, 1, 1] = np.cos(angles)
    about_z[:, 1, 0], about_z[:, 0, 1] = np.sin(angles), -np.sin(angles)
    about_z[:, 2, 2] = 1
    twists = torch.from_numpy(wigner_from_frames(about_z, degree)).to(batch.wigner_d)
    T = block_rotations(twists, template)
    wigner_d = twists @ batch.wigner_d[:, np.argsort(polar_order(degree))]
    return batch._replace(wigner_d=wigner_d, pair=T[:, None] @ batch.pair @ T[:, None].transpose(-1, -2)), T


def block_rotations(wigner_d: Tensor, template: ShellTemplate) -> Tensor:
    """Return the Wigner D matrices of a block's orbitals, (P, B, B), from those of `wigner_from_frames`."""
    degree = round(wigner_d.shape[1] ** 0.5) - 1
    sorted_rows = np.argsort(polar_order(degree))
    component = np.concatenate([np.tile(np.arange(l * l, (l + 1) ** 2), n) for l, n in enumerate(template.counts)])
    shell = shells_of_components(template)
    same = torch.from_numpy(shell[:, None] == shell[None]).to(wigner_d.device)
    rows = torch.from_numpy(sorted_rows[component]).to(wigner_d.device)
    columns = torch.from_numpy(component).to(wigner_d.device)
    return wigner_d[:, rows[:, None], columns[None, :]] * same


def shells_of_components(template: ShellTemplate) -> NDArray[np.int64]:
    """Return the index of each component's shell, (B,)."""
    widths = [2 * l + 1 for l, n in enumerate(template.counts) for _ in range(n)]
    return np.repeat(np.arange(len(widths)), widths)
