"""Crystals from geometries to a model: labels, examples, training, and the guess of the result."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open

from pyscf_mlham import cli, guess
from pyscf_mlham.ao.blocks import Blocks
from pyscf_mlham.ao.lattice import bloch_from_cells, cells_from_bloch
from pyscf_mlham.ao.loewdin import ao_from_orthogonal, orthogonal_from_ao
from pyscf_mlham.data.dataset import examples_from_record, template_of
from pyscf_mlham.data.geometries import read_geometries
from pyscf_mlham.data.label import crystal_mean_field
from pyscf_mlham.data.record import Level
from pyscf_mlham.data.schema import HamiltonianFile
from pyscf_mlham.errors import DataError
from pyscf_mlham.h0.atoms import superposed_atoms
from pyscf_mlham.model.network import Inputs, Recipe
from pyscf_mlham.nn.head import Output
from pyscf_mlham.train.loss import collate, dense, errors
from pyscf_mlham.train.metrics import Metrics, criterion, evaluate_baseline
from pyscf_mlham.train.trainer import STATE
from support.molecules import assert_close

FRAME = """2
Lattice="2.1 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 name={name} pbc="T T T"
H 0.10 1.9 1.9
H {x} 1.9 2.1
"""
RECIPE = Recipe(template_of((1,), "gth-szv"), 0, 9.0, "atoms")
LABEL = ["--xc", "pbe", "--basis", "gth-szv", "--pseudo", "gth-pbe", "--solver", "coarse", "--kpts", "5", "1", "1"]
CONFIG = """
name: chain
data: labels.h5
output: trained
baseline: atoms
steps: 2
warmup: 1
validate_every: 2
network: {channels: 8, pair_channels: 8, hidden: 8, layers: 1, radial: 8, cutoff: 3.7, degree: 0, largest_m: 0}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crystals")
    frames = [FRAME.format(name=f"chain_{n}", x=0.85 + 0.02 * n) for n in range(3)]
    (folder / "chain.xyz").write_text("".join(frames))
    assert cli.main(["data", "generate", str(folder / "chain.xyz"), "-o", str(folder / "labels.h5"), *LABEL]) == 0
    assert cli.main(["data", "split", str(folder / "labels.h5"), "--val", "0.34", "--test", "0"]) == 0
    return folder


def test_labels_of_crystals(folder: Path) -> None:
    with HamiltonianFile(folder / "labels.h5") as file:
        assert file.level.pseudo == "gth-pbe"
        assert sorted(file.split) == ["train", "train", "val"]
        record = file[0]
        mf = crystal_mean_field(record, file.level)
    assert record.periodic is not None
    assert (record.periodic.dimension, record.periodic.mesh.tolist()) == (3, [5, 1, 1])
    mf.kernel()
    lattice = record.periodic.lattice
    assert_close(record.fock, cells_from_bloch(mf.get_fock(), mf.kpts, lattice), 1e-5)
    assert not record.extra
    again = cells_from_bloch(bloch_from_cells(record.fock, mf.kpts, lattice), mf.kpts, lattice)
    assert_close(again, record.fock, 1e-12)


@pytest.mark.parametrize("target", ["loewdin", "mulliken"])
def test_blocks_and_what_is_beyond_them_are_the_label(folder: Path, target: str) -> None:
    recipe = RECIPE._replace(target=target)
    with HamiltonianFile(folder / "labels.h5") as file:
        record, level = file[0], file.level
    (example,) = examples_from_record(record, level, recipe)
    batch, targets = collate([example, example])
    found = errors(targets, batch, targets, RECIPE.template)  # type: ignore[arg-type]
    assert float(found.absolute.max()) == 0
    periodic: Any = record.periodic
    fock = bloch_from_cells(record.fock, periodic.kpts, periodic.lattice)
    cell = crystal_mean_field(record, level).mol
    h0 = superposed_atoms(cell, periodic.kpts, "pbe")
    inputs = Inputs.from_mol(cell, h0, recipe, periodic.kpts)
    cut, metric = inputs.cut, inputs.metric
    dh = cut.matrix(Blocks(example.onsite.astype(float), example.pair.astype(float)))
    whole = orthogonal_from_ao(inputs.correction(dh), metric) + cut.layout.ao_from_irreps(example.beyond)
    assert_close(ao_from_orthogonal(whole, metric), fock - h0, 1e-6)
    assembled = dense(targets.onsite, targets.pair, batch, targets, RECIPE.template)[: len(dh), :-1, :-1].numpy()
    assert_close(assembled, cut.layout.irreps_from_ao(dh), 1e-6)
    of_h0 = evaluate_baseline(example, RECIPE.template)
    assert of_h0.h_mae == pytest.approx(np.abs(fock - h0).mean(), rel=1e-3)
    assert of_h0.lowdin_mae == pytest.approx(np.abs(whole).mean(), rel=1e-3)
    zero = Output(torch.zeros_like(targets.onsite), torch.zeros_like(targets.pair))
    density = float(errors(zero, batch, targets, RECIPE.template).density[0])
    assert density == pytest.approx(of_h0.density / example.n_occupied**0.5, rel=1e-3)


@pytest.mark.parametrize("target", ["loewdin", "mulliken"])
def test_a_model_is_trained_and_used(folder: Path, target: str) -> None:
    settings = CONFIG.replace("cutoff: 3.7", f"cutoff: 3.7, flat: 0.5, target: {target}")
    (folder / "run.yaml").write_text(settings.replace("output: trained", f"output: {target}"))
    assert cli.main(["train", str(folder / "run.yaml")]) == 0
    model = folder / target / "model"
    assert cli.main(["eval", str(model), str(folder / "labels.h5"), "--split", "val"]) == 0
    with HamiltonianFile(folder / "labels.h5") as file:
        mf = crystal_mean_field(file[0], file.level)
    density = guess(mf, model, "raise")
    energy, cycles = mf.kernel(dm0=density), mf.cycles
    assert mf.kernel(dm0=mf.get_init_guess(key="minao")) == pytest.approx(energy, abs=1e-7)
    assert cycles < mf.cycles


def test_the_best_weights_are_those_with_the_best_matrix(folder: Path) -> None:
    settings = CONFIG.replace("output: trained", "output: best").replace("steps: 2", "steps: 4")
    (folder / "best.yaml").write_text(settings.replace("validate_every: 2", "validate_every: 1"))
    assert cli.main(["train", str(folder / "best.yaml")]) == 0
    with (folder / "best" / "log.csv").open() as log:
        errors_of_matrices = [float(row["h_mae"]) for row in csv.DictReader(log)]
    with safe_open(folder / "best" / STATE, framework="np") as file:
        assert json.loads(file.metadata()["progress"])["best"] == pytest.approx(min(errors_of_matrices), rel=1e-12)
    assert len(errors_of_matrices) == 4


def test_one_molecule_in_a_wrong_state_does_not_decide(folder: Path) -> None:
    with HamiltonianFile(folder / "labels.h5") as file:
        (example,) = examples_from_record(file[0], file.level, RECIPE)
    found = evaluate_baseline(example, RECIPE.template)

    def errors_of(*densities: float) -> list[Metrics]:
        return [found._replace(density=density) for density in densities]

    assert criterion(errors_of(1e-3, 4e-3), periodic=False) == pytest.approx(2e-3)
    assert criterion(errors_of(1e-4, 1e-4, 0.11), periodic=False) < criterion(
        errors_of(2e-4, 2e-4, 0.1), periodic=False
    )
    assert criterion(errors_of(1e-3, np.inf), periodic=False) == np.inf
    assert criterion(errors_of(0.0, 0.0), periodic=False) < 1e-9
    assert criterion(errors_of(1e-3, np.inf), periodic=True) == pytest.approx(found.h_mae)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('pbc="T T T"', 'pbc="F T T"'), "expected the first two lattice vectors, or all three"),
        (('pbc="T T T"', 'pbc="T T F" kpts="4 4 2"'), "expected three numbers, 1 along the vacuum"),
        (("4 0 0 0 4", "0 0 0 0 4"), "do not span a cell"),
    ],
)
def test_frames_that_are_no_crystals(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "frame.xyz"
    path.write_text(FRAME.format(name="a", x=0.9).replace(*change))
    (found,) = read_geometries(str(path), crystals=True)
    assert isinstance(found, DataError)
    assert message in str(found)


@pytest.mark.parametrize(
    ("symbols", "pseudo", "message"),
    [
        ("HHe", "gth-xyz", "gth-szv or gth-xyz does not support its elements"),
        ("HHe", "gth-hf", "gth-szv or gth-hf does not support its elements"),
        ("HU", "gth-pbe", "does not support its elements"),
        ("HO", "gth-pbe", "7 electrons per cell; only closed shells are supported"),
    ],
)
@pytest.mark.filterwarnings("ignore:Electron number", "ignore:Basis may be available")
def test_crystals_without_labels(tmp_path: Path, symbols: str, pseudo: str, message: str) -> None:
    path = tmp_path / "frame.xyz"
    second = symbols[1:]
    path.write_text(FRAME.format(name="a", x=0.9).replace("H 0.9 ", f"{second} 0.9 "))
    (geometry,) = read_geometries(str(path), crystals=True, kpts=(3, 1, 1))
    assert not isinstance(geometry, DataError)
    with pytest.raises(DataError, match=message):
        crystal_mean_field(geometry, Level("pbe", "gth-szv", 3, True, 1e-9, pseudo, 0.0))


def test_k_points_of_a_frame(tmp_path: Path) -> None:
    path = tmp_path / "frame.xyz"
    path.write_text(FRAME.format(name="a", x=0.9).replace("name=a", 'name=a kpts="7 1 1"'))
    meshes = [next(read_geometries(str(path), crystals=True, kpts=kpts)).periodic.mesh for kpts in ((), (3, 1, 1))]
    assert [mesh.tolist() for mesh in meshes] == [[7, 1, 1]] * 2


def test_damaged_crystals_are_named(folder: Path, tmp_path: Path) -> None:
    for key, value, message in (("mesh", 0, "mesh is out of range"), ("lattice", 0.0, "do not span a cell")):
        path = tmp_path / f"{key}.h5"
        path.write_bytes((folder / "labels.h5").read_bytes())
        with h5py.File(path, "r+") as file:
            file[key][0] = value
        with pytest.raises(DataError, match=message):
            HamiltonianFile(path)
