"""Examples and their metrics: what is beyond the cutoff, molecules without a gap, and records that cannot be used."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pyscf import gto, scf

from pyscf_mlham.ao.blocks import Blocks
from pyscf_mlham.ao.layout import ShellTemplate
from pyscf_mlham.ao.mole import atom_of_each_ao
from pyscf_mlham.data.dataset import Example, examples, examples_from_record, template_of
from pyscf_mlham.data.geometries import mol_from_geometry
from pyscf_mlham.data.record import Record
from pyscf_mlham.data.schema import HamiltonianFile, write_file
from pyscf_mlham.errors import DataError
from pyscf_mlham.h0 import hamiltonian
from pyscf_mlham.model.network import Inputs, Recipe
from pyscf_mlham.nn.batch import Batch
from pyscf_mlham.nn.head import Output
from pyscf_mlham.train.config import LossConfig
from pyscf_mlham.train.evaluation import kind_of
from pyscf_mlham.train.loss import collate, errors, total
from pyscf_mlham.train.metrics import MEANINGS, evaluate, evaluate_baseline, metrics
from support.labelled import LEVEL

RECIPE = Recipe(template_of((1, 6, 7, 8, 10), "sto-3g"), 4, 16.0, "sap")


class Perfect(torch.nn.Module):
    """Says what the label's blocks are, exactly."""

    def __init__(self, example: Example, template: ShellTemplate = RECIPE.template) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.example, self.template = example, template

    def forward(self, _: Batch) -> Output:
        return Output(torch.from_numpy(self.example.onsite), torch.from_numpy(self.example.pair))


@pytest.fixture(scope="module")
def record(data: Path) -> Record:
    with HamiltonianFile(data) as file:
        return next(r for r in file if r.group == "H2CO")


@pytest.fixture(scope="module")
def neon(record: Record) -> Record:
    """Two atoms whose minimal basis is full."""
    mf = scf.RHF(gto.M(atom="Ne 0 0 0; Ne 0 0 3", basis="sto-3g", verbose=0)).run()
    positions = mf.mol.atom_coords(unit="Bohr")
    return record._replace(
        name="Ne2", group="Ne2", numbers=np.array([10, 10]), positions=positions, fock=mf.get_fock(), energy=mf.e_tot
    )


def assembled(example: Example, record: Record, recipe: Recipe, basis: str = LEVEL.basis) -> np.ndarray:
    """The Fock matrix that inference makes of the label's blocks."""
    mol = mol_from_geometry(record, basis)
    h0 = hamiltonian(recipe.baseline, mol)
    inputs = Inputs.from_mol(mol, h0, recipe)
    blocks = Blocks(example.onsite.astype(float), example.pair.astype(float))
    return h0 + inputs.correction(inputs.cut.matrix(blocks))


@pytest.mark.parametrize("cutoff", [16.0, 3.0, 1.0])
@pytest.mark.parametrize("target", ["loewdin", "mulliken"])
def test_metrics_are_those_of_the_assembled_matrix(record: Record, cutoff: float, target: str) -> None:
    recipe = RECIPE._replace(cutoff=cutoff, target=target)
    (example,) = examples_from_record(record, LEVEL, recipe)
    (found,) = evaluate(Perfect(example), [example])
    mol = mol_from_geometry(record, LEVEL.basis)
    matrix, o = assembled(example, record, recipe), mol.nelectron // 2
    error = np.abs(matrix - record.fock)
    overlap = mol.intor("int1e_ovlp")
    energies = [scf.hf.eig(F, overlap)[0][:o] for F in (matrix, record.fock)]
    atom = atom_of_each_ao(mol)
    assert found.h_mae == pytest.approx(error.mean(), rel=1e-3, abs=1e-6)
    assert found.pair_mae == pytest.approx(error[atom[:, None] != atom].mean(), rel=1e-3, abs=1e-6)
    assert found.occupied_mae == pytest.approx(np.abs(energies[0] - energies[1]).mean(), rel=1e-3, abs=1e-6)
    if cutoff == 16.0:
        assert example.beyond.shape == (0, 0, 0)
    else:
        assert min(found.h_mae, found.occupied_mae, found.density) > 1e-4


def test_shells_that_are_not_corrected_keep_h0(record: Record) -> None:
    mf = scf.RHF(gto.M(atom="H 0 0 0; Zn 0 0 1.5; H 0 0.3 3", basis="def2-svp", verbose=0)).run()
    positions = mf.mol.atom_coords(unit="Bohr")
    zinc = record._replace(
        name="ZnH2", group="ZnH2", numbers=np.array([1, 30, 1]), positions=positions, fock=mf.get_fock()
    )
    recipe = RECIPE._replace(template=template_of((1, 30), "def2-svp").within(2), baseline="hcore")
    assert recipe.template.counts == (5, 3, 2)
    (example,) = examples_from_record(zinc, dataclasses.replace(LEVEL, basis="def2-svp"), recipe)
    error = assembled(example, zinc, recipe, "def2-svp") - zinc.fock
    in_f = np.array([label.split()[2].startswith("4f") for label in mf.mol.ao_labels()])
    assert in_f.sum() == 7
    assert np.abs(error[in_f][:, in_f].diagonal()).min() > 0.1
    (found,) = evaluate(Perfect(example, recipe.template), [example])
    assert found.h_mae == pytest.approx(np.abs(error).mean(), rel=1e-3)
    atom = atom_of_each_ao(mf.mol)
    assert found.pair_mae == pytest.approx(np.abs(error)[atom[:, None] != atom].mean(), rel=1e-3)
    batch, targets = collate([example])
    density = errors(Output(targets.onsite, targets.pair), batch, targets, recipe.template).density
    assert float(density) == pytest.approx(found.density / example.n_occupied**0.5, rel=1e-4)


@pytest.mark.parametrize("cutoff", [16.0, 3.0])
def test_metrics_of_h0_are_those_of_its_matrix(record: Record, cutoff: float) -> None:
    (example,) = examples_from_record(record, LEVEL, RECIPE._replace(cutoff=cutoff))
    found = evaluate_baseline(example, RECIPE.template)
    mol = mol_from_geometry(record, LEVEL.basis)
    matrix, o = hamiltonian("sap", mol), mol.nelectron // 2
    energies = [scf.hf.eig(F, mol.intor("int1e_ovlp"))[0][:o] for F in (matrix, record.fock)]
    assert found.h_mae == pytest.approx(np.abs(matrix - record.fock).mean(), rel=1e-3)
    assert found.occupied_mae == pytest.approx(np.abs(energies[0] - energies[1]).mean(), rel=1e-3)


def test_the_density_error_includes_what_is_beyond_the_cutoff(record: Record, data: Path) -> None:
    with HamiltonianFile(data) as file:
        water = next(r for r in file if r.group == "H2O")
    cut = RECIPE._replace(cutoff=3.0)
    chosen = [examples_from_record(r, LEVEL, cut)[0] for r in (water, record)]
    assert [bool(e.beyond.size) for e in chosen] == [False, True]
    batch, targets = collate(chosen)
    found = errors(Output(targets.onsite, targets.pair), batch, targets, RECIPE.template)
    expected = metrics(-chosen[1].beyond.astype(float), chosen[1]).density
    assert float(found.density[1]) == pytest.approx(expected / chosen[1].n_occupied ** 0.5, rel=1e-4)
    assert float(found.density[0]) < 2e-6


def test_a_molecule_without_virtual_orbitals_changes_no_other(record: Record, neon: Record) -> None:
    chosen = [examples_from_record(r, LEVEL, RECIPE)[0] for r in (neon, record)]
    for some in (chosen, chosen[:1]):
        batch, targets = collate(some)
        onsite = (targets.onsite + 0.01).requires_grad_()
        found = errors(Output(onsite, targets.pair), batch, targets, RECIPE.template)
        total(found, LossConfig()).sum().backward()
        assert all(e.isfinite().all() for e in found)
        assert onsite.grad is not None
        assert onsite.grad.isfinite().all()
        assert float(found.density[0].detach()) < 2e-6
    judged = metrics(1e-3 * np.eye(10), chosen[0])
    assert all(math.isfinite(value) for value in judged)
    assert judged.occupied_mae == pytest.approx(1e-3)
    assert (judged.gap_error, judged.gap_ratio, judged.density, judged.intruders) == (0, 1, 0, 0)


def test_orbitals_of_one_energy_lower_the_similarity_alone(data: Path) -> None:
    with HamiltonianFile(data) as file:
        (example,) = examples_from_record(next(r for r in file if r.group == "CO"), LEVEL, RECIPE)
    noise = 1e-5 * np.random.default_rng(0).normal(size=(10, 10))
    judged = metrics(noise + noise.T, example)
    assert judged.similarity < 0.99
    assert max(judged.density, judged.occupied_mae) < 1e-3
    assert "degenerate orbitals mix arbitrarily" in MEANINGS["similarity"]


def failing(matrix: np.ndarray) -> None:
    raise np.linalg.LinAlgError("Eigenvalues did not converge")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r._replace(positions=0.03 * r.positions), "atoms 1 and 3 are .* apart"),
        (lambda r: r._replace(charge=1), "Electron number"),
        (lambda r: r._replace(numbers=np.array([1]), positions=np.zeros((1, 3)), charge=1), "it has no electrons"),
    ],
)
def test_a_record_that_cannot_be_used_is_named(
    record: Record, change: Callable[[Record], Record], message: str
) -> None:
    with pytest.raises(DataError, match=f"record bad: .*{message}"):
        examples_from_record(change(record)._replace(name="bad"), LEVEL, RECIPE)


def test_an_overlap_that_cannot_be_used_is_named(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np.linalg, "eigh", failing)
    with pytest.raises(DataError, match=r"record H2CO_0: .*\(Eigenvalues did not converge\)"):
        examples_from_record(record, LEVEL, RECIPE)


def test_a_bad_record_of_a_file_is_named(data: Path, tmp_path: Path) -> None:
    with HamiltonianFile(data) as file:
        records = list(file)
    records[1] = records[1]._replace(positions=0.03 * records[1].positions)
    write_file(tmp_path / "bad.h5", LEVEL, records, {"pyscf_version": "test"})
    with pytest.raises(DataError, match=f"record {records[1].name}: "):
        list(examples(tmp_path / "bad.h5", [0, 1], RECIPE))


def test_a_spin_without_electrons_is_no_example(record: Record) -> None:
    mf = scf.UHF(gto.M(atom="H 0 0 0; H 0 0 1.5", basis="sto-3g", spin=2, verbose=0)).run()
    alpha, beta = mf.get_fock()
    numbers, positions = np.array([1, 1]), mf.mol.atom_coords()
    hydrogen = record._replace(numbers=numbers, positions=positions, spin=2, fock=alpha, extra={"fock_beta": beta})
    (example,) = examples_from_record(hydrogen, LEVEL, RECIPE._replace(baseline="scc"))
    assert (example.n_occupied, example.spin) == (2, 2)


@pytest.mark.parametrize(
    ("charge", "spin", "kind"),
    [
        (0, 0, "neutral closed shells"),
        (-1, 0, "ions"),
        (1, 1, "radicals, each spin"),
        (0, 2, "triplets and higher spins, each spin"),
    ],
)
def test_errors_are_shown_by_charge_and_spin(record: Record, charge: int, spin: int, kind: str) -> None:
    (example,) = examples_from_record(record, LEVEL, RECIPE)
    assert kind_of(example._replace(spin=spin, sample=example.sample._replace(charge=charge))) == kind
