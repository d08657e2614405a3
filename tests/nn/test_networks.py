"""The parts of which networks are made: tensor products, the wrapper, the refiner, and how they are trained."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag

import pyscf_mlham
from pyscf_mlham.ao.layout import ShellTemplate, wigner
from pyscf_mlham.errors import ModelError
from pyscf_mlham.model.network import NetworkModel
from pyscf_mlham.model.store import load
from pyscf_mlham.nn import registry
from pyscf_mlham.nn.architectures.qhnet import TensorProduct
from pyscf_mlham.nn.architectures.tracegrad import InvariantGradient, TraceGradOptions
from pyscf_mlham.nn.batch import batch_from_samples
from pyscf_mlham.nn.head import ONSITE_SCALE, pair_size
from pyscf_mlham.nn.layers import GroupNorm, Radial, atom_norm, multiplicities
from pyscf_mlham.nn.model import HamiltonianModel, build
from pyscf_mlham.nn.rotation import Rotation, random_orthogonal
from pyscf_mlham.train.config import LossConfig, read_config
from pyscf_mlham.train.loss import Errors, collate, total, trace_error, traces_of
from pyscf_mlham.train.metrics import equivariance_error
from pyscf_mlham.train.preparation import identity_of, prepare
from pyscf_mlham.train.trainer import Trainer
from support import ROOT
from support.labelled import Prepared, settings, silent, trained
from support.molecules import assert_close
from support.networks import ELEMENTS, MOLECULE, TEMPLATE, WRAPPER, random_network, sample_of, svp

SMALL = {"channels": 4, "pair_channels": 6, "hidden": 8, "layers": 1, "radial": 6}
FULL = {"network": SMALL, "architecture": "qhnet", "wrapper": "tracegrad", "refiner": "harmose"}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pseudo", [False, True])
def test_tensor_product_is_that_of_e3nn(pseudo: bool) -> None:
    from e3nn import o3

    degree, channels, n = 3, 5, 4
    ours = TensorProduct(degree, pseudo=pseudo)
    paths = [(a, b, l) for a, b, degrees in ours.couplings for l in degrees]
    assert len(paths) == ours.paths
    natural, other = ("eo", "oe")
    irreps = o3.Irreps([(channels, (l, 1 if natural[l % 2] == "e" else -1)) for l in range(degree + 1)])
    out = irreps if not pseudo else o3.Irreps([(channels, (l, 1 if other[l % 2] == "e" else -1)) for l in range(4)])
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        instructions = [(a, b, l, "uuu", True) for a, b, l in paths]
        theirs = o3.TensorProduct(irreps, irreps, out, instructions, shared_weights=False, internal_weights=False)
    finally:
        torch.set_default_dtype(default)
    x, y, w = noise(n, 16, channels), noise(n, 16, channels, seed=1), noise(n, ours.paths, channels, seed=2)

    def packed(t: torch.Tensor) -> torch.Tensor:
        return torch.cat([part.transpose(1, 2).flatten(1) for part in t.split(multiplicities(degree), dim=1)], dim=1)

    expected = theirs(packed(x), packed(y), w.flatten(1))
    torch.testing.assert_close(packed(ours(x, y, w)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sizes", [multiplicities(2), [1, 1, 2, 2]], ids=["atoms", "pairs"])
def test_written_gradient_is_that_of_autograd(sizes: list[int]) -> None:
    torch.manual_seed(0)
    made = InvariantGradient(GroupNorm(sizes, 5, 1e-2), TraceGradOptions(3, 7, 4)).double()
    x = noise(6, sum(sizes), 5).requires_grad_()
    z, v = made.gradient(x)
    net, silu = made.network, torch.nn.functional.silu
    expected = net.last(silu(net.second(silu(net.first(made.quadratic(x))))))
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-13)
    (expected,) = torch.autograd.grad(z.sum(), x, retain_graph=True)
    torch.testing.assert_close(v, expected, rtol=0, atol=1e-13)
    assert v[:, 1:].abs().min() > 1e-6
    # and differentiable in its turn: what a loss of v teaches is the second derivative of z
    (written,) = torch.autograd.grad(v.square().sum(), x, retain_graph=True)
    (again,) = torch.autograd.grad(made.gradient(x)[0].sum(), x, create_graph=True)
    (twice,) = torch.autograd.grad(again.square().sum(), x)
    torch.testing.assert_close(written, twice, rtol=0, atol=1e-11)


def test_gradient_features_rotate_and_invariants_do_not() -> None:
    torch.manual_seed(0)
    made = InvariantGradient(atom_norm(3, 5), TraceGradOptions(3, 7, 4)).double()
    D = torch.from_numpy(block_diag(*(wigner(l, random_orthogonal((1,))) for l in range(4))))
    x = noise(6, 16, 5)
    with torch.no_grad():
        (there, z_there), (here, z_here) = made(D @ x), made(x)
    torch.testing.assert_close(there, D @ here, rtol=0, atol=1e-12)
    torch.testing.assert_close(z_there, z_here, rtol=0, atol=1e-12)
    assert (here - x).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wrapped_network_is_the_same_with_and_without_gradients(dtype: torch.dtype) -> None:
    network = random_network("qhnetv2+tracegrad", dtype)
    batch = batch_from_samples([sample_of(svp(MOLECULE))]).to("cpu", dtype)
    expected = network.train()(batch)
    assert expected.onsite.requires_grad
    network.eval()
    for quietly in (torch.no_grad, torch.inference_mode):
        with quietly():
            quiet = network(batch)
        for a, b in zip(expected, quiet, strict=True):
            assert a.dtype == dtype
            assert torch.equal(a, b)


def test_wrapper_compiles() -> None:
    made = InvariantGradient(atom_norm(2, 4), TraceGradOptions(2, 4, 3)).double()
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    x, y = noise(5, 9, 4).requires_grad_(), noise(5, 9, 4).requires_grad_()
    made(x)[0].square().sum().backward()
    features, z = compiled(y)
    features.square().sum().backward()
    torch.testing.assert_close(features, made(x)[0])
    torch.testing.assert_close(z, made(x)[1])
    torch.testing.assert_close(y.grad, x.grad)


def test_fresh_refiner_changes_nothing() -> None:
    torch.manual_seed(0)
    refined = build("qhnetv2", SMALL, TEMPLATE, ELEMENTS, torch.float64, refiner={"name": "harmose"})
    batch = batch_from_samples([sample_of(svp(MOLECULE), 16.0)]).to("cpu", torch.float64)
    refiner = refined.refiner
    found = refined(batch)
    refined.refiner = None
    plain = refined(batch)
    assert refiner is not None
    for a, b in zip(found, plain, strict=True):
        assert torch.equal(a, b)


def test_rotations_are_drawn_evenly() -> None:
    drawn = np.stack([random_orthogonal((k,)) for k in range(400)])
    np.testing.assert_allclose(drawn @ drawn.swapaxes(1, 2), np.broadcast_to(np.eye(3), drawn.shape), atol=1e-12)
    assert np.abs(drawn.mean(0)).max() < 0.15
    assert 0.4 < np.mean(np.linalg.det(drawn) > 0) < 0.6


def test_the_envelope_keeps_its_digits_and_its_sign_near_the_cutoff() -> None:
    radial = Radial(8, 16.0)
    distances = torch.linspace(0, 16.1, 3000, dtype=torch.float64)
    x = (distances / 16).clamp(max=1)
    torch.testing.assert_close(radial.envelope(distances), 1 - x**3 * (10 - 15 * x + 6 * x * x), rtol=0, atol=1e-14)
    near = torch.linspace(15.8, 16.0, 2000, dtype=torch.float64)[:-1].float()  # rounded, and then the same for both
    found, exact = radial.envelope(near), radial.envelope(near.double())
    assert (found > 0).all()
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=0)


def test_a_flat_envelope_falls_smoothly_from_one_to_zero() -> None:
    radial, whole = Radial(8, 16.0, flat=0.75), Radial(8, 16.0)
    distances = torch.linspace(0, 16.1, 1611, dtype=torch.float64)
    found = radial.envelope(distances)
    assert (found[distances <= 12] == 1).all()
    assert (found[distances >= 16] == 0).all()
    torch.testing.assert_close(found[1200:1601], whole.envelope(torch.linspace(0, 16, 401, dtype=torch.float64)))
    curvatures = found.diff(n=2) / 0.01**2
    assert curvatures.diff().abs().max() < 0.02  # it is 0.36 at most, and has no jump


@pytest.fixture(scope="module")
def prepared(data: Path) -> Prepared:
    return prepare(settings(data, data.parent, **FULL), silent())


def test_every_part_trains_stops_resumes_and_loads(data: Path, tmp_path: Path, prepared: Prepared) -> None:
    whole = trained(settings(data, tmp_path / "whole", **FULL), prepared)
    stopped = trained(settings(data, tmp_path / "parts", **FULL), prepared, stopped=True)
    assert stopped.step == 1
    resumed = trained(settings(data, tmp_path / "parts", **FULL), prepared)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    model = load(tmp_path / "whole" / "model")
    assert isinstance(model, NetworkModel)
    assert model.config.options["wrapper"]["name"] == "tracegrad"
    assert model.network.refiner is not None
    example = prepared[1][0]
    error = equivariance_error(model.network, example, 0)
    model.network.refiner = None
    assert equivariance_error(model.network, example, 0) < 1e-6 < error < 1e-3
    load.__globals__["_load_folder"].cache_clear()  # the refiner that was taken out


def test_frozen_first_stage_stays(data: Path, tmp_path: Path) -> None:
    first = prepare(settings(data, tmp_path), silent())
    start = trained(settings(data, tmp_path / "first"), first)
    folder = tmp_path / "first" / "model"
    second = settings(data, tmp_path / "second", refiner="harmose", start=str(folder), frozen=True, steps=6)
    options = first[2].options | {"refiner": {"name": "harmose", "channels": 8, "heads": 2}}
    config = dataclasses.replace(first[2], options=options)
    trainer = trained(second, (first[0], first[1], config))
    kept = start.average.state_dict()
    for name, value in trainer.model.state_dict().items():
        assert name.startswith("refiner.") or torch.equal(value, kept[name]), name
    assert trainer.model.refiner is not None
    assert trainer.model.refiner.onsite.weight.any()
    sized = [options | {"network": options["network"] | sizes} for sizes in ({"channels": 12}, {"layers": 2})]
    farther = options | {"network": options["network"] | {"cutoff": 8.0}}  # which no weight's shape shows
    for changes, message in (
        ({"options": sized[0]}, "channels 8 instead of 12"),
        ({"options": sized[1]}, "layers 1 instead of 2"),
        ({"options": farther}, "cutoff 16.0 instead of 8.0"),
        ({"xc": "pbe"}, "xc hf instead of pbe"),
        ({"baseline": "sap"}, "has baseline minao, this run sap"),
    ):
        other = first[0], first[1], dataclasses.replace(config, **changes)
        with pytest.raises(ModelError, match=message):
            trained(dataclasses.replace(second, output=str(tmp_path / "other")), other)


def test_traces_are_those_of_the_blocks(prepared: Prepared) -> None:
    batch, targets = collate(prepared[0][:3])
    template = ShellTemplate(tuple(prepared[2].options["template"]))
    traces = traces_of(targets.onsite, targets.pair, template)
    ends = np.cumsum([0] + [2 * l + 1 for l, n in enumerate(template.counts) for _ in range(n)])
    for a in range(len(ends) - 1):
        for b in range(len(ends) - 1):
            Q = targets.pair[:, ends[a] : ends[a + 1], ends[b] : ends[b + 1]]
            expected = torch.einsum("pij,pij->p", Q, Q)
            torch.testing.assert_close(traces.pair[:, a, b], expected)
    assert float(trace_error(traces, batch, targets, template).max()) < 1e-9
    off = traces._replace(onsite=traces.onsite + 1.0)
    mask = traces_of(targets.onsite_mask, targets.pair_mask, template).onsite > 0
    counted = torch.zeros(3).index_add(0, batch.molecule, mask.float().sum((1, 2)))
    torch.testing.assert_close(trace_error(off, batch, targets, template), counted / (ONSITE_SCALE * targets.n_ao) ** 2)
    off = traces._replace(pair=traces.pair + pair_size(batch.distances) ** 2)
    mask = traces_of(targets.onsite_mask, targets.pair_mask, template).pair > 0
    counted = torch.zeros(3).index_add(0, targets.pair_molecule, 2 * mask.float().sum((1, 2)))
    found = trace_error(off, batch, targets, template)
    torch.testing.assert_close(found, counted / targets.n_ao**2, rtol=1e-4, atol=1e-6)


def test_every_degree_is_enriched_in_proportion_to_its_size() -> None:
    torch.manual_seed(0)
    layer = InvariantGradient(atom_norm(2, 6), TraceGradOptions(4, 8, 5)).double()
    x = noise(3, 9, 6) * torch.tensor([1.0, *[1e-1] * 3, *[1e-2] * 5])[:, None]
    added = layer(x)[0].detach() - x
    for old, new in zip(x.split([1, 3, 5], 1), added.split([1, 3, 5], 1), strict=True):
        assert 0.02 < float(new.norm() / old.norm()) < 0.2  # the gain is 0.1


def test_padding_does_not_limit_the_correction() -> None:
    network = random_network("qhnetv2+harmose")
    assert network.refiner is not None
    batch = batch_from_samples([sample_of(svp("H 0 0 0; H 0 0 0.74"))]).to("cpu", torch.float64)
    before = network(batch)
    with torch.no_grad():  # d orbitals, which hydrogen has none of
        for leave in (network.refiner.onsite, network.refiner.pair):
            leave.bias.view(TEMPLATE.size, TEMPLATE.size)[-1, -1] += 100
    for old, new in zip(before, network(batch), strict=True):
        assert_close(old.detach(), new.detach(), 1e-14)
        assert not new[:, -1].any()
        assert old.any()


def test_a_step_sees_traces_and_another_orientation(
    data: Path, tmp_path: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = prepared[2].options | {"wrapper": WRAPPER, "refiner": {"name": "harmose", "channels": 8, "heads": 2}}
    model_config = dataclasses.replace(prepared[2], options=options)
    seen: list[Sequence[int]] = []
    true = HamiltonianModel.orientation

    def orientation(self: HamiltonianModel, seed: Sequence[int]) -> Rotation | None:
        seen.append(seed)
        return true(self, seed)

    monkeypatch.setattr(HamiltonianModel, "orientation", orientation)
    moved = []
    for weight in (0.25, 0.0):
        config = settings(data, tmp_path, wrapper="tracegrad", refiner="harmose", loss=LossConfig(trace=weight))
        trainer = Trainer(config, *prepared[:2], model_config, silent())
        assert trainer.model.wrapper is not None
        weights = trainer.model.wrapper.onsite_trace[0].weight
        before = weights.detach().clone()
        trainer.update(prepared[0][:2])
        trainer.update(prepared[0][:2])
        moved.append(float((weights.detach() - before).abs().max()))
    assert moved[0] > 100 * moved[1]  # without the traces, only the decay of weights moves them
    assert seen == [(0, 0), (0, 1)] * 2
    first, second = (true(trainer.model, seed) for seed in seen[:2])
    assert first is not None
    assert second is not None
    assert not torch.equal(first[0], second[0])


def test_signals_are_the_shells_again_after_training(data: Path, tmp_path: Path, prepared: Prepared) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    Trainer(settings(data, tmp_path, steps=1), *prepared, silent()).run()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_trace_loss_has_a_fixed_share_and_teaches_only_traces() -> None:
    error = torch.tensor([0.1, 0.4], requires_grad=True)
    traces = torch.tensor([3.0, 1e-5], requires_grad=True)
    weights = LossConfig(absolute=1.0, spectral=0.0, density=0.0, trace=0.25)
    found = Errors(error, torch.zeros(2), torch.zeros(2))
    loss = total(found, weights, traces)
    torch.testing.assert_close(loss, 1.25 * error)
    loss.sum().backward()
    torch.testing.assert_close(error.grad, torch.ones(2))
    torch.testing.assert_close(traces.grad, 0.25 * (error / traces).detach())


def test_the_identity_of_a_run_has_its_parts(data: Path, tmp_path: Path, prepared: Prepared) -> None:
    config = dataclasses.replace(prepared[2], options={"template": [1], "network": {}})
    plain, full = (identity_of(settings(data, tmp_path, **parts), *prepared[:2], config) for parts in ({}, FULL))
    assert (plain["wrapper"], full["wrapper"]) == ("none", "tracegrad")
    assert full["loss"]["trace"] == 0.25


def test_parts_are_lines_of_yaml(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    start = "name: a\ndata: b\noutput: c\n"
    parts = "architecture: qhnet\nwrapper: tracegrad\nrefiner: harmose\nrefiner_options: {frames: 8}\n"
    path.write_text(start + parts)
    config = read_config(path)
    assert (config.architecture, config.wrapper, config.refiner) == ("qhnet", "tracegrad", "harmose")
    assert config.refiner_options == {"frames": 8}
    for text, message in (
        ("refiner: {name: harmose}", "refiner must be text"),
        ("refiner_options: 3", "must be keys"),
        ("frozen: true\nrefiner: harmose", "frozen needs"),
        ("frozen: true\nstart: d", "frozen needs"),
        ("frozen: 1", "true or false"),
    ):
        path.write_text(start + text)
        with pytest.raises(ModelError, match=message):
            read_config(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wrapper": "trace"}, "unknown wrapper 'trace'; expected one of tracegrad"),
        ({"refiner": "harmose", "refiner_options": {"frame": 8}}, "harmose: unknown keys \\['frame'\\]"),
        ({"wrapper_options": {"hidden": 8}}, "no wrapper"),
        ({"architecture": "transformer"}, "unknown architecture"),
    ],
)
def test_unknown_parts_are_errors(data: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        prepare(settings(data, tmp_path, **changes), silent())


def test_sizes_that_do_not_fit_are_errors() -> None:
    for options, message in (({"frames": 3}, "expected one of 1, 2, 8, 48"), ({"heads": 3}, "multiple of heads")):
        with pytest.raises(ModelError, match=message):
            build("qhnetv2", SMALL, TEMPLATE, ELEMENTS, refiner={"name": "harmose", **options})
    with pytest.raises(ModelError, match="unknown keys"):
        build("qhnetv2", SMALL, TEMPLATE, ELEMENTS, wrapper=WRAPPER | {"depth": 3})


def test_networks_are_imported_without_pyscf() -> None:
    package = Path(pyscf_mlham.__file__).parent
    code = (
        "import sys, types\n"
        "sys.modules['pyscf'] = None\n"  # any import of it fails
        "parent = sys.modules['pyscf_mlham'] = types.ModuleType('pyscf_mlham')\n"
        f"parent.__path__ = [{str(package)!r}]\n"
        "from pyscf_mlham.ao.layout import ShellTemplate\n"
        "from pyscf_mlham.nn.model import build\n"
        "build('qhnetv2', {}, ShellTemplate((2, 1)), (1, 8))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "e3nn", None)  # any import of it fails
    monkeypatch.delitem(sys.modules, "pyscf_mlham.nn.architectures.qhnet")
    with pytest.raises(ModelError, match=r"e3nn.*'pyscf-mlham\[qhnet\]'"):
        build("qhnet", SMALL, TEMPLATE, ELEMENTS)
    build("qhnetv2", SMALL, TEMPLATE, ELEMENTS)


def test_extras_of_networks_are_declared() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    entries = registry.ARCHITECTURES | registry.WRAPPERS | registry.REFINERS
    for extra in {entry.extra for entry in entries.values() if entry.extra}:
        assert f"\n{extra} = [" in project


def test_registry_is_read_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from pyscf_mlham.nn.registry import ARCHITECTURES as all_of_them"
    code += "; assert 'qhnetv2' in all_of_them"
    subprocess.run([sys.executable, "-c", code], check=True)
