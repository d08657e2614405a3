"""One contract for every network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyscf import gto
from scipy.spatial.transform import Rotation

from pyscf_mlham.ao.frames import flipped_wigner, frames_from_vectors, polar_basis, polar_order, wigner_from_frames
from pyscf_mlham.ao.layout import OrbitalLayout, ShellTemplate
from pyscf_mlham.ao.loewdin import metric_from_overlap
from pyscf_mlham.ao.mole import graph_from_mol
from pyscf_mlham.checkpoint import ModelConfig, read, write
from pyscf_mlham.errors import ModelError
from pyscf_mlham.features import Cut, inputs_from_h0, sample_from_matrices
from pyscf_mlham.nn import so2
from pyscf_mlham.nn.architectures import harmose
from pyscf_mlham.nn.batch import batch_from_samples, block_masks
from pyscf_mlham.nn.model import HamiltonianModel, build, network_from_config
from support.molecules import WATER, assert_close
from support.networks import (
    ELEMENTS,
    MISTAKES,
    MOLECULE,
    REFINER,
    SIZES,
    SMALL,
    TEMPLATE,
    VARIANTS,
    WRAPPER,
    assembled,
    broken,
    moved,
    options_of,
    predicted,
    random_network,
    sample_of,
    svp,
)

Array = np.ndarray


@pytest.fixture(params=VARIANTS)
def network(request: pytest.FixtureRequest) -> HamiltonianModel:
    return random_network(request.param)


def test_hermitian_and_not_trivial(network: HamiltonianModel) -> None:
    matrix = predicted(network, svp(MOLECULE))
    assert_close(matrix, matrix.T, atol=1e-14)
    assert np.abs(matrix).max() > 1e-3


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "rotation with inversion"])
def test_rotation(network: HamiltonianModel, improper: bool) -> None:
    Q = Rotation.from_euler("xyz", [0.3, 1.2, -2.0]).as_matrix() * (-1 if improper else 1)
    error = np.abs(rotation_error(network, Q))
    if network.refiner is None:
        assert error.max() < 1e-10
        return
    layout = OrbitalLayout.from_mol(svp(MOLECULE))
    atom = np.repeat(np.arange(len(MOLECULE)), np.diff(svp(MOLECULE).aoslice_by_atom()[:, 2:]).ravel())
    norms = np.sqrt([[np.square(error[np.ix_(atom == i, atom == j)]).sum() for j in range(6)] for i in range(6)])
    assert layout.n_ao == len(atom)
    assert norms.max() <= 2 * REFINER["limit"]  # what is declared
    assert norms.max() > 1e-5  # and no more than that: it is not equivariant by design


def rotation_error(network: HamiltonianModel, Q: Array) -> Array:
    there = predicted(network, moved(lambda r: Q @ r))
    layout = OrbitalLayout.from_mol(svp(MOLECULE))
    D = layout.rotation(Q)
    here = layout.ao_from_irreps(D @ layout.irreps_from_ao(predicted(network, svp(MOLECULE))) @ D.T)
    return there - here


def test_inversion(network: HamiltonianModel) -> None:
    assert_close(rotation_error(network, -np.eye(3)), 0.0, atol=1e-10)  # for the refiner, by averaging over two


@pytest.mark.parametrize(("frames", "order"), [(1, 1), (8, 8), (48, 48)])
def test_frame_averages_are_exact_in_their_group(frames: int, order: int) -> None:
    elements = harmose.group(frames)
    assert len({tuple(Q.ravel()) for Q in elements}) == order
    network = random_network("qhnetv2+harmose", frames=frames)
    assert_close(rotation_error(network, elements[order // 3]), 0.0, atol=1e-10)
    outside = Rotation.from_euler("xyz", [0.3, 1.2, -2.0]).as_matrix()
    error = np.abs(rotation_error(network, outside)).max()
    assert 1e-6 < error < 2 * REFINER["limit"]
    if frames == 48:
        assert error < 0.5 * np.abs(rotation_error(random_network("qhnetv2+harmose", frames=1), outside)).max()


def test_translation(network: HamiltonianModel) -> None:
    assert_close(predicted(network, moved(lambda r: r + 7.0)), predicted(network, svp(MOLECULE)), atol=1e-9)


def test_permutation(network: HamiltonianModel) -> None:
    order = [3, 0, 5, 2, 1, 4]
    mol = svp(MOLECULE)
    slices = mol.aoslice_by_atom()[:, 2:]
    index = np.concatenate([np.arange(*slices[i]) for i in order])
    there = predicted(network, svp([MOLECULE[i] for i in order]))
    assert_close(there, predicted(network, mol)[np.ix_(index, index)], atol=1e-10)


def test_batch_of_one_equals_batch_of_many(network: HamiltonianModel) -> None:
    mols, charges = [svp(MOLECULE), svp(WATER), svp("H 0 0 0; H 0 0 0.74")], (1, 0, -1)
    samples = [sample_of(mol)._replace(charge=charge) for mol, charge in zip(mols, charges, strict=True)]
    with torch.no_grad():
        onsite, pair = network(batch_from_samples(samples).to("cpu", torch.float64))
    atoms = np.cumsum([0] + [len(s.numbers) for s in samples])
    pairs = np.cumsum([0] + [len(s.pairs) for s in samples])
    for k, mol in enumerate(mols):
        part = onsite[atoms[k] : atoms[k + 1]], pair[pairs[k] : pairs[k + 1]]
        alone = predicted(network, mol, charges[k])
        assert_close(assembled(part, mol), alone, atol=1e-12)
        if charges[k]:
            assert np.abs(alone - predicted(network, mol)).max() > 1e-3


def test_far_fragments_do_not_see_each_other(network: HamiltonianModel) -> None:
    far = svp([*MOLECULE, ("O", (0, 0, 1e5)), ("H", (0, 0.8, 1e5)), ("H", (0, -0.8, 1e5))])
    alone = predicted(network, svp(MOLECULE))
    together = predicted(network, far)
    n = len(alone)
    assert_close(together[:n, :n], alone, atol=1e-8)  # what is left is the fields of two dipoles
    assert not together[:n, n:].any()


def test_cutoff_is_smooth(network: HamiltonianModel) -> None:
    def at(distance: float) -> Array:
        return predicted(network, svp([("O", (0, 0, 0)), ("H", (0, 0.6, -1.6)), ("N", (0, 0, distance))], unit="Bohr"))

    cutoff = SMALL["cutoff"]
    assert np.abs(at(cutoff - 1e-4) + at(cutoff + 1e-4) - 2 * at(cutoff)).max() < 1e-8
    step = 1e-3
    slopes = [(at(r + step) - at(r - step)) / (2 * step) for r in (cutoff - 2 * step, cutoff + 2 * step)]
    assert np.abs(slopes[0] - slopes[1]).max() < 1e-3


def test_frame_choice_does_not_matter(network: HamiltonianModel) -> None:
    # the frame of a pair jumps where its z component changes sign; nothing else may
    def at(z: float) -> Array:
        return predicted(network, svp([("O", (0, 0, 0)), ("C", (2.1, 0.7, z)), ("H", (-1.1, 1.2, 0.8))], unit="Bohr"))

    assert np.abs(at(1e-7) - at(-1e-7)).max() < 1e-5


def test_single_atom_and_no_pair_within_the_cutoff(network: HamiltonianModel) -> None:
    single = predicted(network, svp("O 0 0 0"))
    assert np.isfinite(single).all()
    lonely = predicted(network, svp("O 0 0 0; N 0 0 900"))
    assert_close(lonely[:14, :14], single, atol=1e-12)


def test_save_and_load_give_the_same(network: HamiltonianModel, tmp_path, request: pytest.FixtureRequest) -> None:
    variant = request.node.callspec.params["network"]
    options = options_of(variant)
    config = ModelConfig("n", variant.split("+")[0], ELEMENTS, (0,), "def2-svp", "hf", "sap", options=options)
    weights = {k: v.numpy() for k, v in network.state_dict().items()}
    config = write(tmp_path, config, weights)
    _, found = read(tmp_path)
    again = network_from_config(config, torch.float64)
    again.load_state_dict({k: torch.from_numpy(v) for k, v in found.items()})
    np.testing.assert_array_equal(predicted(again, svp(MOLECULE)), predicted(network, svp(MOLECULE)))


def test_gradients_are_finite_and_reach_every_weight(network: HamiltonianModel) -> None:
    batch = batch_from_samples([sample_of(svp(MOLECULE)), sample_of(svp("O 0 0 0"))]).to("cpu", torch.float64)
    (onsite, pair), traces = network.for_training(batch, None)
    loss = onsite.square().sum() + pair.square().sum()
    assert (traces is not None) == (network.wrapper is not None)
    for trace in traces or ():
        loss = loss + trace.sum()
    loss.backward()
    # the molecules are neutral, and symmetric blocks with one d shell have no irreps of l = 3, 4 and odd parity
    unused = ("backbone.charge.weight", "onsite.pseudo.weights", "onsite.weights")
    for name, parameter in network.named_parameters():
        if parameter.numel() and not name.startswith(unused):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


def test_one_step_lowers_the_loss(network: HamiltonianModel) -> None:
    batch = batch_from_samples([sample_of(svp(MOLECULE))]).to("cpu", torch.float64)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-5)

    def loss() -> torch.Tensor:
        onsite, pair = network(batch)
        return (onsite - 0.1).square().sum() + (pair - 0.01).square().sum()

    before = loss()
    before.backward()
    optimizer.step()
    assert loss() < before


def test_single_precision_is_enough(network: HamiltonianModel) -> None:
    sample = sample_of(svp(MOLECULE))
    with torch.no_grad():
        double = network(batch_from_samples([sample]).to("cpu", torch.float64))
        single = network.float()(batch_from_samples([sample]).to("cpu", torch.float32))
    for a, b in zip(double, single, strict=True):
        assert (a - b).abs().max() < 1e-5


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_rotation_test_can_fail(mistake: str) -> None:
    with pytest.raises(AssertionError):
        test_rotation(broken(random_network("qhnetv2"), mistake), improper=False)


def test_unknown_options_are_errors() -> None:
    with pytest.raises(ModelError, match="widht"):
        build("qhnetv2", {"widht": 3}, TEMPLATE, ELEMENTS)
    with pytest.raises(ModelError, match="unknown architecture"):
        build("transformer", {}, TEMPLATE, ELEMENTS)
    with pytest.raises(ValueError, match="degree 4 is too small"):
        build("qhnetv2", {}, ShellTemplate((1, 1, 1, 1)), ELEMENTS)
    for largest_m in (-1, 3):
        with pytest.raises(ValueError, match=f"largest_m is {largest_m}.* 0 to 2"):
            build("qhnetv2", {"largest_m": largest_m}, ShellTemplate((2, 1)), ELEMENTS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_s_orbital_is_enough(variant: str) -> None:
    torch.manual_seed(0)
    architecture, *parts = variant.split("+")
    sizes = {"qhnet": {}, "qhnetv2": {"largest_m": 0}}[architecture]
    wrapper = WRAPPER if "tracegrad" in parts else None
    refiner = REFINER if "harmose" in parts else None
    template = ShellTemplate((1,))
    made = build(architecture, SIZES[architecture] | sizes, template, (1,), wrapper=wrapper, refiner=refiner)
    mol = gto.M(atom="H 0 0 0; H 0 0.5 0.6; H 0.3 -0.9 0.4", basis="sto-3g", spin=1, verbose=0)
    overlap = mol.intor("int1e_ovlp")
    inputs = inputs_from_h0(mol.intor("int1e_kin")[None], overlap, metric_from_overlap(overlap), "sap")[0]
    sample = sample_from_matrices(Cut.of(graph_from_mol(mol), OrbitalLayout.from_mol(mol), template), 0, inputs, 4)
    onsite, pair = made(batch_from_samples([sample]).to("cpu", torch.float32))
    assert onsite.shape == pair.shape == (3, 1, 1)
    assert pair.isfinite().all()
    assert pair.all()


def test_polar_basis_is_orthogonal_and_rotates_by_phases() -> None:
    basis = polar_basis(TEMPLATE)
    assert_close(basis.matrix @ basis.matrix.T, np.eye(TEMPLATE.size**2), atol=1e-14)
    angle = 0.7
    about_z = Rotation.from_euler("z", angle).as_matrix()
    layout = OrbitalLayout.from_mol(svp("C 0 0 0"))
    D = layout.rotation(about_z)
    rotated = basis.matrix @ np.kron(D, D) @ basis.matrix.T
    even, odd, *others = basis.sizes
    assert_close(rotated[: even + odd, : even + odd], np.eye(even + odd), atol=1e-12)
    start = even + odd
    for m, n in enumerate(others, start=1):
        part = rotated[start : start + 2 * n, start : start + 2 * n]
        c, s = np.cos(m * angle), np.sin(m * angle)
        assert_close(part, np.kron([[c, -s], [s, c]], np.eye(n)), atol=1e-12)
        start += 2 * n


def test_wigner_matrices_are_orthogonal_and_sorted() -> None:
    frames = frames_from_vectors(np.random.default_rng(0).normal(size=(5, 3)))
    wigner_d = wigner_from_frames(frames, 3)
    assert_close(wigner_d @ np.swapaxes(wigner_d, 1, 2), np.broadcast_to(np.eye(16), (5, 16, 16)), atol=1e-12)
    m = np.concatenate([np.abs(np.arange(-l, l + 1)) for l in range(4)])[polar_order(3)]
    assert m.tolist() == [0] * 4 + [1] * 6 + [2] * 4 + [3] * 2
    assert sorted(polar_order(3)) == list(range(16))


def test_flipped_wigner_gives_the_opposite_pair() -> None:
    frames = frames_from_vectors(np.random.default_rng(0).normal(size=(5, 3)))
    opposite = np.diag([1.0, -1.0, -1.0]) @ frames
    assert_close(opposite[:, 2], -frames[:, 2], atol=1e-14)  # its z axis points the other way
    expected = wigner_from_frames(opposite, 3)
    assert_close(flipped_wigner(3)[:, None] * wigner_from_frames(frames, 3), expected, atol=1e-12)


def test_circle_product_is_the_product_of_complex_numbers() -> None:
    product = so2.CircleProduct(3)
    a, b = (torch.randn(2, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in (1, 2))

    def rotated(feature: torch.Tensor, angle: float) -> torch.Tensor:
        z = torch.view_as_complex(feature.unflatten(1, (4, 2)).transpose(2, 3).contiguous())
        phases = torch.exp(1j * angle * torch.arange(4, dtype=torch.float64))
        phases[0] = 1
        out = torch.view_as_real(z * phases[None, :, None])
        return out.transpose(2, 3).flatten(1, 2)

    rotated_after = rotated(product(a, b), 0.4)
    rotated_before = product(rotated(a, 0.4), rotated(b, 0.4))
    torch.testing.assert_close(rotated_before, rotated_after, rtol=0, atol=1e-12)
    mirror = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)[:, None]
    torch.testing.assert_close(product(a * mirror, b * mirror), product(a, b) * mirror, rtol=0, atol=1e-12)
    only = torch.zeros_like(a)
    only[:, 2] = 1.0  # z_1 = 1: cos(phi), whose square is (1 + cos 2 phi) / 2
    squared = product(only, only)
    torch.testing.assert_close(squared[0, 0], torch.ones(4, dtype=torch.float64))
    assert squared[0, 4].abs().min() > 0.5
    assert squared[0, 2].abs().max() < 1e-12


def test_padding_mask_does_not_depend_on_the_inputs() -> None:
    sample = sample_of(svp(MOLECULE))
    mask = sample.padding_mask
    elements = [symbol for symbol, _ in MOLECULE]
    orbitals = {"H": 5, "C": 14, "N": 14, "O": 14}  # def2-SVP
    assert mask.sum(axis=1).tolist() == [orbitals[symbol] for symbol in elements]
    batch = batch_from_samples([sample._replace(onsite=sample.onsite[:, ::-1].copy())] * 2)
    onsite, pair = block_masks(batch)
    assert torch.equal(onsite[0], torch.from_numpy(np.outer(mask[0], mask[0])).to(onsite))
    i, j = sample.pairs[-1]
    assert torch.equal(pair[-1], torch.from_numpy(np.outer(mask[i], mask[j])).to(pair))
