from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import pyscf_mlham
from pyscf_mlham import cli
from pyscf_mlham.data.geometries import mol_from_geometry
from pyscf_mlham.data.schema import HamiltonianFile, write_file
from pyscf_mlham.errors import DataError, ModelError
from pyscf_mlham.h0 import fingerprint, hamiltonian
from pyscf_mlham.model.network import NetworkModel
from pyscf_mlham.model.store import load
from pyscf_mlham.nn.head import Output
from pyscf_mlham.nn.model import network_from_config
from pyscf_mlham.train import trainer as training
from pyscf_mlham.train.config import LossConfig, read_config
from pyscf_mlham.train.loss import collate, dense, errors
from pyscf_mlham.train.metrics import MEANINGS, Metrics, evaluate, metrics
from pyscf_mlham.train.preparation import prepare
from pyscf_mlham.train.trainer import Trainer, epoch_batches, schedule
from support.labelled import NETWORK, Prepared, settings, silent, stopped_after, trained


@pytest.fixture(scope="module")
def prepared(data: Path) -> Prepared:
    return prepare(settings(data, data.parent), silent())


def state(trainer: Trainer) -> np.ndarray:
    return torch.cat([p.detach().flatten() for p in trainer.average.parameters()]).numpy()


def test_training_lowers_every_error_and_writes_a_model(data: Path, tmp_path: Path, prepared: Prepared) -> None:
    config = settings(data, tmp_path, steps=120, validate_every=40, learning_rate=1e-2)
    trainer = Trainer(config, *prepared, silent())
    before = evaluate(trainer.average, prepared[1])
    trainer.run()
    after = evaluate(trainer.average, prepared[1])
    for name in ("h_mae", "occupied_mae", "density"):
        worse = np.mean([getattr(m, name) for m in before])
        assert np.mean([getattr(m, name) for m in after]) < 0.5 * worse, name
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert len(rows) == 1 + 3
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    model = load(tmp_path / "model")
    with HamiltonianFile(data) as file:
        record = file[0]
        mf = mol_from_geometry(record, "sto-3g").RHF()
        predicted = pyscf_mlham.fock(mf, model)
    without = np.abs(hamiltonian(config.baseline, mf.mol) - record.fock).mean()
    assert np.abs(predicted - record.fock).mean() < 0.5 * without
    mf.kernel(dm0=pyscf_mlham.guess(mf, model, fallback="raise"))
    assert mf.e_tot == pytest.approx(record.energy, abs=1e-8)


def test_a_stopped_run_goes_on_as_if_it_had_not_been(data: Path, tmp_path: Path, prepared: Prepared) -> None:
    whole = trained(settings(data, tmp_path / "whole"), prepared)
    first = stopped_after(Trainer(settings(data, tmp_path / "parts"), *prepared, silent()), 4)
    first.run()
    assert first.step == 5
    second = trained(settings(data, tmp_path / "parts"), prepared)
    np.testing.assert_array_equal(state(second), state(whole))
    rows = [(tmp_path / part / "log.csv").read_text().splitlines() for part in ("whole", "parts")]
    columns = [[row.split(",")[6:] for row in log] for log in rows]  # without times, and training errors of a part
    assert columns[0][-1] == columns[1][-1]


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_without_a_bar(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    monkeypatch.setattr("pyscf_mlham.progress.SECONDS", -1.0)
    console = Console(file=io.StringIO(), width=200, force_terminal=terminal)
    training.train(settings(data, tmp_path), console)
    printed = console.file.getvalue()
    for words in (
        "preparing 5 molecules for train and 5 molecules for val\n",
        "small: 1 of 12 steps in ",
        "small: 11 of 12",
    ):
        assert (words in printed) != terminal
    assert terminal or "step 6: H MAE" in printed  # there, numbers have a colour


def test_other_settings_do_not_resume(data: Path, tmp_path: Path, prepared: Prepared) -> None:
    trained(settings(data, tmp_path), prepared)
    with pytest.raises(ModelError, match="other settings"):
        trained(settings(data, tmp_path, learning_rate=1e-4), prepared)
    assert trained(settings(data, tmp_path, checkpoint_minutes=1.0), prepared).step == 12


@pytest.mark.slow
@pytest.mark.parametrize("parts", ["", "wrapper: tracegrad\nrefiner: harmose\n"], ids=["plain", "all parts"])
def test_two_processes_match_one(data: Path, tmp_path: Path, parts: str) -> None:
    yaml = f"name: small\ndata: {data}\nsteps: 6\npairs: 12\nvalidate_every: 6\nnetwork: {NETWORK}\n{parts}output: "
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name, launcher in (
        ("one", [sys.executable]),
        ("two", [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]),
    ):
        (tmp_path / f"{name}.yaml").write_text(yaml + name)
        command = [*launcher, "-m", "pyscf_mlham", "train", str(tmp_path / f"{name}.yaml")]
        subprocess.run(command, check=True, env=environment, capture_output=True, timeout=300)
    one, two = (load_file(tmp_path / name / "training.safetensors") for name in ("one", "two"))
    assert set(one) == set(two)
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-4, atol=1e-6)


def test_collated_answers_have_no_error(prepared: Prepared) -> None:
    chosen = prepared[0]
    batch, targets = collate(chosen)
    template = network_from_config(prepared[2]).template
    found = errors(Output(targets.onsite, targets.pair), batch, targets, template)
    assert max(float(e.max()) for e in found) < 2e-6


def test_errors_are_those_of_the_dense_matrices(prepared: Prepared) -> None:
    chosen = prepared[0]
    batch, targets = collate(chosen)
    template = network_from_config(prepared[2]).template
    noise = torch.Generator().manual_seed(0)
    output = Output(
        *(t + 1e-2 * torch.randn(t.shape, generator=noise) for t in (targets.onsite, targets.pair)),
    )
    output = output._replace(onsite=0.5 * (output.onsite + output.onsite.transpose(1, 2)))
    found = errors(output, batch, targets, template)
    on, link = (output.onsite - targets.onsite) * targets.onsite_mask, (output.pair - targets.pair) * targets.pair_mask
    matrices = dense(on, link, batch, targets, template)
    for k, example in enumerate(chosen):
        n = example.orbitals.shape[-1]
        matrix = matrices[k, :n, :n].double().numpy()
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-7)
        judged = metrics(matrix[None], example)
        assert float(found.spectral[k]) == pytest.approx(np.linalg.norm(matrix) / n**0.5, rel=1e-3)
        assert float(found.density[k]) == pytest.approx(judged.density / example.n_occupied**0.5, rel=1e-3)
        # to first order the density matrix of the disturbed Fock matrix differs by what `density` says
        e, V, o = example.energies[0].astype(float), example.orbitals[0].astype(float), example.n_occupied
        size = 1e-4
        _, U = np.linalg.eigh(V @ np.diag(e) @ V.T + size * matrix)
        change = (U[:, :o] @ U[:, :o].T - V[:, :o] @ V[:, :o].T) / size
        assert np.linalg.norm(change) == pytest.approx(2**0.5 * judged.density, rel=2e-2)


def test_epochs_hold_every_molecule_once() -> None:
    sizes = [3, 10, 1, 7, 20, 4]
    batches = list(epoch_batches(sizes, 10, (0, 1)))
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert all(sum(sizes[i] for i in batch[:-1]) < 10 for batch in batches)
    assert batches == list(epoch_batches(sizes, 10, (0, 1)))
    assert batches != list(epoch_batches(sizes, 10, (0, 2)))


@pytest.mark.parametrize("name", ["cosine", "wsd"])
def test_schedules_rise_and_end_low(name: str, tmp_path: Path) -> None:
    config = settings(tmp_path, tmp_path, steps=100, warmup=10, schedule=name)
    rates = [schedule(step, config) for step in range(1, 101)]
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert max(rates) <= 1
    assert rates[40] > 0.5
    assert rates[-1] <= 0.011


def test_settings_are_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: a\ndata: set.h5\noutput: out\nloss: {density: 2.0}\n")
    config = read_config(path)
    assert config.loss == LossConfig(density=2.0)
    assert config.data == (str(tmp_path / "set.h5"),)
    for text, message in (
        ("name: a\ndata: b\noutput: c\nlearningrate: 1", "learningrate"),
        ("name: a\ndata: b\noutput: c\nloss: {mae: 1}", "mae"),
        ("name: a\ndata: b", "output"),
        ("name: a\ndata: b\noutput: c\nlearning_rate: 1e-3", "must be a number"),
        ("name: a\ndata: b\noutput: c\nschedule: linear", "cosine or wsd"),
        ("- a", "expected keys and values"),
        ("name: a\ndata: b\noutput: c\nloss:", "loss: expected keys and values"),
        ("name: a\ndata: b\noutput: c\nnetwork: [1]", "network must be keys and values"),
        ("name: a\ndata: b\noutput: c\nloss: {density: 1e1}", r"loss: density must be a number .*YAML needs 3.0e-3"),
        ("name: a\ndata: b\noutput: c\nloss: {density: -1.0}", "loss: density must be 0 or more, found -1.0"),
        ("name: a\ndata: b\noutput: c\naverage: 1.0", "average must be 0 or more and less than 1"),
        ("name: a\ndata: b\noutput: c\nclip: 0.0", "clip must be more than 0"),
        ("name: a\ndata: b\noutput: c\nlearning_rate: -1.0", "learning_rate must be more than 0"),
        ("name: a\ndata: b\noutput: c\nlearning_rate: .nan", "learning_rate must be more than 0"),
        ("name: a\ndata: b\noutput: c\ntrain_molecules: -1", "train_molecules must be 0 or more"),
        ("name: a\ndata: b\noutput: c\nsteps: true", "steps must be a number"),
        ("name: a\ndata: b\noutput: c\nsteps: 0", "steps must be 1 or more"),
        ("name: a\ndata: b\noutput: c\ncharges: 0", "charges must be a list of integers"),
        ("name: a\ndata: []\noutput: c", "data and charges must not be empty"),
        (
            "name: a\ndata: b\noutput: c\nbaseline: mindo",
            "unknown baseline 'mindo'; .* hcore, scc or atoms",
        ),
        ("name: a\ndata: b\noutput: c\n3: 4\nx: y", r"unknown keys \['3', 'x'\]"),
    ):
        path.write_text(text)
        with pytest.raises(ModelError, match=message):
            read_config(path)


def test_eval_prints_metrics_and_cycles(
    data: Path,
    tmp_path: Path,
    prepared: Prepared,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained(settings(data, tmp_path), prepared)
    model = str(tmp_path / "model")
    assert cli.main(["eval", model, str(data), "--split", "test", "--scf", "1", "--guess", "minao,ml"]) == 0
    printed = capsys.readouterr().out
    for word in (
        "mean of H0",
        "h_mae",
        "occupied_mae",
        "similarity",
        "density",
        "intruders",
        "minao",
        "ml",
        "Rotated molecules",
    ):
        assert word in printed
    for name in Metrics._fields:  # each is explained
        assert f"\n{name}: {MEANINGS[name]}\n" in printed
    assert "not used" not in printed
    with monkeypatch.context() as patch:
        patch.setattr(NetworkModel, "correction", lambda *_: np.zeros((1, 1)))
        assert cli.main(["eval", model, str(data), "--split", "test", "--scf", "1", "--guess", "minao,ml"]) == 0
    assert "for 1 of 1 molecules: the model's matrix" in capsys.readouterr().out
    assert cli.main(["eval", "no such model", str(data)]) == 1
    assert "neither a shipped model" in capsys.readouterr().err
    with HamiltonianFile(data) as file:
        level, untested = file.level, [record for record in file if record.split != "test"]
    write_file(tmp_path / "untested.h5", level, untested, {"pyscf_version": "test"})
    assert cli.main(["eval", model, str(tmp_path / "untested.h5")]) == 1
    words = "no molecules of split test (5 train, 5 val, 0 test); choose another --split, or all."
    assert words in " ".join(capsys.readouterr().err.split())


def test_missing_files_are_named(
    data: Path, tmp_path: Path, prepared: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(settings(data, tmp_path), prepared)
    (tmp_path / "run.yaml").write_text("name: a\ndata: none.h5\noutput: out\n")
    for command in (
        ["eval", str(tmp_path / "model"), str(tmp_path / "none.h5")],
        ["data", "info", str(tmp_path / "none.h5")],
        ["train", str(tmp_path / "run.yaml")],
        ["train", str(tmp_path / "none.yaml")],
    ):
        assert cli.main(command) == 1
        said = " ".join(capsys.readouterr().err.split())
        assert re.search(r"none\.(h5|yaml): no such file; ", said)
        assert "Errno" not in said


def test_eval_refuses_another_level_of_theory(data: Path, tmp_path: Path, prepared: Prepared) -> None:
    from pyscf_mlham.train.evaluation import evaluate_model

    examples, val, config = prepared
    other = config.__class__(**{**config.__dict__, "xc": "b3lyp"})
    Trainer(settings(data, tmp_path), examples, val, config, silent()).run()
    weights = load(tmp_path / "model").network.state_dict()
    from pyscf_mlham import checkpoint

    here = fingerprint(other.baseline, "b3lyp")
    other = other.__class__(**{**other.__dict__, "baseline_fingerprint": here})
    checkpoint.write(tmp_path / "other", other, {k: v.numpy() for k, v in weights.items()})
    with pytest.raises(DataError, match="hf/sto-3g"):
        evaluate_model(str(tmp_path / "other"), data, "test", 0, "minao", silent())
