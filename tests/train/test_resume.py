"""Runs that are stopped, resumed, and those that must not be: another functional, other labels, no finite loss."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save

from pyscf_mlham.data.record import Level
from pyscf_mlham.data.schema import HamiltonianFile, write_file
from pyscf_mlham.errors import ModelError
from pyscf_mlham.train import trainer as training
from pyscf_mlham.train.loss import SMALLEST_GAP, Errors, collate
from pyscf_mlham.train.metrics import LOG, Metrics, evaluate, metrics, metrics_or_failed
from pyscf_mlham.train.preparation import differences, identity_of, prepare
from pyscf_mlham.train.trainer import MOST_SKIPPED, STATE, Trainer, shown
from support.labelled import LEVEL, NETWORK, Prepared, settings, silent, stopped_after, trained


@pytest.fixture(scope="module")
def prepared(data: Path) -> Prepared:
    return prepare(settings(data, data.parent), silent())


def relabelled(data: Path, path: Path, level: Level, shift: float) -> Path:
    """Write the same geometries with other labels."""
    with HamiltonianFile(data) as file:
        made = [r._replace(fock=r.fock + shift * np.eye(len(r.fock))) for r in file]
    write_file(path, level, made, {"pyscf_version": "test"})
    return path


def test_data_of_another_functional_do_not_resume(data: Path, tmp_path: Path, prepared: Prepared) -> None:
    out = tmp_path / "out"
    trained(settings(data, out), prepared)
    before = (out / STATE).read_bytes()
    pbe = relabelled(data, tmp_path / "pbe.h5", dataclasses.replace(LEVEL, xc="pbe"), 0.01)
    with pytest.raises(ModelError, match=r"other data \(.*labels.*xc\)"):
        trained(settings(pbe, out), prepare(settings(pbe, out), silent()))
    shifted = relabelled(data, tmp_path / "shifted.h5", LEVEL, 0.01)
    with pytest.raises(ModelError, match=r"other data \(labels\)"):
        trained(settings(shifted, out), prepare(settings(shifted, out), silent()))
    with pytest.raises(ModelError, match=r"other data \(labels, validation\)"):
        trained(settings(data, out), (prepared[0], prepared[1][:-1], prepared[2]))
    assert (out / STATE).read_bytes() == before
    same = relabelled(data, tmp_path / "same.h5", LEVEL, 0.0)
    assert trained(settings(same, out), prepare(settings(same, out), silent())).step == 12


def test_another_setting_is_named(data: Path, tmp_path: Path, prepared: Prepared) -> None:
    assert trained(settings(data, tmp_path), prepared, stopped=True).step == 1
    with pytest.raises(ModelError, match=r"\(learning_rate\)"):
        trained(settings(data, tmp_path, learning_rate=1e-4), prepared)
    assert trained(settings(data, tmp_path), prepared).step == 12


def test_a_checkpoint_of_another_form_is_named(data: Path, tmp_path: Path, prepared: Prepared) -> None:
    assert trained(settings(data, tmp_path), prepared, stopped=True).step == 1
    path = tmp_path / STATE
    with safe_open(path, framework="pt") as file:
        progress = json.loads(file.metadata()["progress"])
    old = json.dumps(progress["config"])  # a text, as in version 0.2.0
    path.write_bytes(save(load_file(path), metadata={"progress": json.dumps(progress | {"config": old})}))
    with pytest.raises(ModelError, match="remove it to start again"):
        trained(settings(data, tmp_path), prepared)


def test_rounding_of_h0_is_no_difference(data: Path, tmp_path: Path, prepared: Prepared) -> None:
    def described(shift: float) -> dict[str, Any]:
        found = prepared[2].baseline_fingerprint
        assert found is not None
        config = dataclasses.replace(prepared[2], baseline_fingerprint=found + shift)
        return identity_of(settings(data, tmp_path), prepared[0], prepared[1], config)

    assert differences(described(1e-9), described(0.0)) == []
    assert differences(described(1e-2), described(0.0)) == ["baseline_fingerprint"]


def test_a_process_that_is_asked_stops_with_the_others(
    data: Path, tmp_path: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[float] = []
    others = 0.0

    def summed(gradients: list[torch.Tensor], sums: np.ndarray, device: torch.device) -> np.ndarray:
        received.append(float(sums[-1]))
        return np.append(sums[:-1], float(sums[-1]) + others)

    monkeypatch.setattr(training, "_sum_over_processes", summed)
    trainer = Trainer(settings(data, tmp_path), *prepared, silent())
    trainer.world = 2
    trainer.update(prepared[0][:2])
    trainer._request_stop(signal.SIGTERM, None)
    assert not trainer._stop  # the others have not received it yet
    trainer.update(prepared[0][:2])
    assert trainer._stop
    assert received == [0.0, 1.0]
    another = Trainer(settings(data, tmp_path), *prepared, silent())
    another.world, others = 2, 1.0
    another.update(prepared[0][:2])
    assert another._stop
    assert received[-1] == 0.0


@pytest.mark.parametrize("damage", ["missing", "", "step,seco", "whole\0\0\0", "whole4,12\n"])
def test_the_log_is_that_of_the_checkpoint(data: Path, tmp_path: Path, prepared: Prepared, damage: str) -> None:
    trained(settings(data, tmp_path), prepared)
    log = tmp_path / LOG
    whole = log.read_text()
    assert [row.split(",")[0] for row in whole.splitlines()] == ["step", "6", "12"]
    log.unlink() if damage == "missing" else log.write_text(damage.replace("whole", whole))
    trained(settings(data, tmp_path), prepared)  # finished already
    assert log.read_text() == whole


def test_rows_after_the_checkpoint_are_logged_again(data: Path, tmp_path: Path, prepared: Prepared) -> None:
    trainer = Trainer(settings(data, tmp_path), *prepared, silent())
    trainer.run()
    whole = (tmp_path / LOG).read_text().splitlines()
    trainer.step, trainer.rows = 6, trainer.rows[:1]  # as of a process that was killed after its last evaluation
    trainer.save()
    again = trained(settings(data, tmp_path), prepared)
    rows = (tmp_path / LOG).read_text().splitlines()
    assert rows[:2] == whole[:2]
    assert [row.split(",")[0] for row in rows] == ["step", "6", "12"]
    assert [row["step"] for row in again.rows] == [6, 12]


def test_a_new_run_begins_a_new_log(data: Path, tmp_path: Path, prepared: Prepared) -> None:
    trained(settings(data, tmp_path), prepared)
    (tmp_path / STATE).unlink()  # as of a process that was killed before its first checkpoint
    trained(settings(data, tmp_path), prepared)
    assert [row.split(",")[0] for row in (tmp_path / LOG).read_text().splitlines()] == ["step", "6", "12"]


def test_a_curve_that_cannot_be_drawn_ends_no_run(
    data: Path, tmp_path: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training, "draw_curve", failing)
    console = Console(file=io.StringIO(), width=200)
    trainer = Trainer(settings(data, tmp_path), *prepared, console)
    trainer.run()
    assert trainer.step == 12
    assert "loss.png could not be drawn (OSError: [Errno 28] No space left on device); the run continues." in (
        console.file.getvalue()
    )


def output_of(trainer: Trainer) -> str:
    """Run a trainer, and return what it prints."""
    trainer.console = Console(file=io.StringIO(), width=300)
    trainer.run()
    return trainer.console.file.getvalue()


def test_a_signal_in_the_last_step_stops_nothing(data: Path, tmp_path: Path, prepared: Prepared) -> None:
    trainer = stopped_after(Trainer(settings(data, tmp_path), *prepared, silent()), 11)
    assert "Stopped" not in output_of(trainer)
    assert trainer.step == 12
    words = "small is finished: 12 steps; more steps need another output folder, with these weights as initial ones"
    again = output_of(Trainer(settings(data, tmp_path), *prepared, silent()))
    assert f"{words} by the key `start: {tmp_path / 'model'}`." in again
    other = settings(data, tmp_path / "other", start=str(tmp_path / "model"), steps=1)
    assert trained(other, prepared).step == 1


def test_one_process_of_several_prints(data: Path, tmp_path: Path, prepared: Prepared) -> None:
    for steps, words in ((3, "Stopped at step 2"), (1, "is finished")):
        for rank in (0, 1):
            run = settings(data, tmp_path / f"{steps}-{rank}", steps=steps)
            trained(run, prepared, stopped=True)
            trainer = stopped_after(Trainer(run, *prepared, silent()), 1)
            trainer.rank = rank
            assert (words in output_of(trainer)) == (rank == 0)


SCRIPT = """
import os, signal, sys
from pyscf_mlham import cli
from pyscf_mlham.train.trainer import Trainer

update = Trainer.update

def terminated(self, batch):
    found = update(self, batch)
    if self.rank == 1 and self.step == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return found

if __name__ == "__main__":
    Trainer.update = terminated
    sys.exit(cli.main(["train", sys.argv[1]]))
"""


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both(data: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "run.yaml").write_text(
        f"name: small\ndata: {data}\nsteps: 8\npairs: 12\nnetwork: {NETWORK}\noutput: out\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, str(tmp_path / "script.py"), str(tmp_path / "run.yaml")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.count("Stopped at step 4") == 1
    with safe_open(tmp_path / "out" / STATE, framework="pt") as file:
        assert json.loads(file.metadata()["progress"])["step"] == 4


def spoilt(trainer: Trainer, spoils: Callable[[int], bool]) -> Trainer:
    """Let the loss of some steps be not a number."""
    errors = trainer.errors

    def with_gaps(batch: Any) -> tuple[Errors, torch.Tensor | None]:
        found, traces = errors(batch)
        return (Errors(*(e * math.nan for e in found)) if spoils(trainer.step) else found), traces

    trainer.errors = with_gaps
    return trainer


def test_skipped_steps_are_counted_and_logged(data: Path, tmp_path: Path, prepared: Prepared) -> None:
    console = Console(file=io.StringIO(), width=200)
    run = settings(data, tmp_path, steps=8, validate_every=4)
    trainer = spoilt(Trainer(run, *prepared, console), lambda step: step in (0, 2, 5))
    trainer.run()
    text = console.file.getvalue()
    assert "2 earlier steps were skipped" in text
    names = re.findall(r"Their molecules: (.*)\.\n", text)[0].split(", ")
    assert len(names) > 1
    assert set(names) <= {e.name for e in prepared[0]}
    assert "1 earlier steps were skipped" in text
    rows = (tmp_path / "log.csv").read_text().splitlines()[1:]
    assert all(math.isfinite(float(value)) for row in rows for value in row.split(","))
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_a_loss_that_stays_infinite_ends_the_run(data: Path, tmp_path: Path, prepared: Prepared) -> None:
    run = settings(data, tmp_path, steps=3 * MOST_SKIPPED, validate_every=60)
    trainer = spoilt(Trainer(run, *prepared, silent()), lambda step: step != MOST_SKIPPED - 1)
    with pytest.raises(ModelError, match=f"step {2 * MOST_SKIPPED}: .*not finite"):
        trainer.run()


def test_a_prediction_that_is_not_finite_fails_in_words(data: Path, tmp_path: Path, prepared: Prepared) -> None:
    console = Console(file=io.StringIO(), width=200)
    trainer = Trainer(settings(data, tmp_path, steps=2, validate_every=2), *prepared, console)
    with torch.no_grad():
        trainer.average.onsite.biases.weight.fill_(math.nan)
    found = evaluate(trainer.average, prepared[1])
    assert all(m.density == m.h_mae == math.inf and m.similarity == 0 for m in found)
    trainer.config = dataclasses.replace(trainer.config, average=0.0)
    trainer.average.onsite.biases.weight.data.fill_(math.nan)
    with pytest.raises(ModelError, match="no model was written"):
        trainer.run()
    count = len(prepared[1])
    assert f"{count} of {count} validation molecules" in console.file.getvalue()
    assert (tmp_path / STATE).exists()
    assert not (tmp_path / "model").exists()


def test_eigenvalues_that_do_not_converge_fail_one_molecule(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(matrix: np.ndarray) -> None:
        raise np.linalg.LinAlgError("Eigenvalues did not converge")

    example = prepared[1][0]
    error = np.zeros(example.orbitals.shape)
    assert metrics_or_failed(error, example) == metrics(error, example)
    monkeypatch.setattr(np.linalg, "eigh", failing)
    assert metrics_or_failed(error, example) == Metrics(*[math.inf] * 5, 0.0, math.inf, 0.0, *[math.inf] * 3)


def test_gaps_that_vanish_leave_errors_finite(prepared: Prepared) -> None:
    example = prepared[1][0]
    energies = example.energies.copy()
    energies[:, example.n_occupied :] = energies[:, example.n_occupied - 1]
    closed = example._replace(energies=energies)
    _, targets = collate([closed])
    assert float(targets.inverse_gap.max()) == pytest.approx(1 / SMALLEST_GAP)
    assert targets.inverse_gap.isfinite().all()
    found = metrics(1e-3 * np.ones(example.orbitals.shape), closed)
    assert all(math.isfinite(value) for value in found)


def test_training_and_validation_have_one_density_error(data: Path, tmp_path: Path, prepared: Prepared) -> None:
    trainer = Trainer(settings(data, tmp_path, learning_rate=1e-12), *prepared, silent())
    molecules = prepared[1]
    with torch.no_grad():
        found, _ = trainer.errors(molecules)
    expected = evaluate(trainer.model, molecules)
    sums = shown(found, molecules)
    assert sums[2] == pytest.approx(sum(m.density for m in expected), rel=1e-3)
    np.testing.assert_allclose(trainer.update(molecules), sums / len(molecules), rtol=1e-6)
