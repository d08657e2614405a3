"""The script that compares networks: one budget for all, honest counts, and tables that survive a poor network."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pyscf_mlham.data.dataset import Example
from pyscf_mlham.scf.guess_info import GuessInfo
from pyscf_mlham.train import metrics
from pyscf_mlham.train.preparation import prepare
from pyscf_mlham.train.trainer import Trainer
from support import ROOT
from support.labelled import Prepared, settings, silent

Array = NDArray[np.float64]
SMALL = {"channels": 4, "pair_channels": 6, "hidden": 8, "layers": 1, "radial": 6}


@pytest.fixture(scope="module")
def prepared(data: Path) -> Prepared:
    return prepare(settings(data, data.parent, network=SMALL), silent())


@pytest.fixture
def comparison(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with as few rounds of timing as it allows, and without figures."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    script = importlib.import_module("compare_networks")
    monkeypatch.setattr(script, "TRIAL", 4)
    monkeypatch.setattr(script, "draw", lambda *args: None)
    monkeypatch.setattr(metrics, "draw_curve", lambda *args: None)
    return script


def run_comparison(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *command: str) -> None:
    monkeypatch.setattr(sys, "argv", ["compare_networks.py", *command])
    script.main()


def test_comparison_trains_every_kind_and_goes_on(
    data: Path, tmp_path: Path, prepared: Prepared, comparison: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks_report = importlib.import_module("networks_report")
    kept = comparison.Data(prepared[0], prepared[1], prepared[1], prepared[2])
    monkeypatch.setattr(comparison, "read_data", lambda args, console: kept)
    sizes = json.dumps(SMALL)
    command = [str(data), "--steps", "4", "--network", sizes, "--out", str(tmp_path), "--baseline", "sap"]
    run_comparison(comparison, monkeypatch, *command, "--seeds", "0,1", "--variants", "qhnetv2,qhnet")
    run_comparison(comparison, monkeypatch, *command, "--variants", "qhnet+tracegrad+harmose")
    monkeypatch.setattr(comparison, "draw", networks_report.draw)
    run_comparison(comparison, monkeypatch, *command, "--molecules", "4", "--variants", "qhnetv2")
    text = (tmp_path / "networks.md").read_text()
    for word in ("| qhnetv2 |", "| qhnet |", "| qhnet+tracegrad+harmose |", "+-", "as long as qhnetv2", "| 4 |"):
        assert word in text
    assert (tmp_path / "networks.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(comparison, "draw", lambda *args: None)
    monkeypatch.setattr(comparison, "Trainer", None)  # nothing is trained or timed twice
    run_comparison(comparison, monkeypatch, *command, "--variants", "qhnetv2,qhnet")
    assert (tmp_path / "networks.md").read_text() == text
    monkeypatch.setattr(comparison, "count_cycles", lambda args, console: 9.5)  # they may be counted later
    run_comparison(comparison, monkeypatch, *command, "--variants", "qhnetv2", "--scf", "1")
    for other in (["--minutes", "1"], ["--learning-rate", "1e-3"]):
        with pytest.raises(SystemExit, match=r"protocol\.json: the runs in this folder"):
            run_comparison(comparison, monkeypatch, *command, *other)
    with pytest.raises(SystemExit, match="--molecules 500: expected"):
        run_comparison(comparison, monkeypatch, *command, "--molecules", "500", "--variants", "qhnetv2")


def test_smaller_parts_have_every_element(prepared: Prepared, comparison: ModuleType) -> None:
    data = comparison.Data(prepared[0], prepared[1], prepared[1], prepared[2])
    elements = {z for e in data.train for z in e.sample.numbers.tolist()}
    small, large = data.part(3), data.part(4)
    assert large[:3] == small
    assert {z for e in small for z in e.sample.numbers.tolist()} == elements
    assert len(data.part(0)) == len(data.train)


def test_comparison_at_equal_time_counts_steps_and_cycles(
    data: Path, tmp_path: Path, comparison: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def density(mf: Any, model: str, fallback: str) -> tuple[Array, GuessInfo]:
        asked.append(Path(model).parent.name)
        return mf.get_init_guess(key=fallback), GuessInfo(fallback, "it is not fit for use")

    asked: list[str] = []
    monkeypatch.setattr(comparison, "guess_with_info", density)
    costs = {v: {"step": 0.5, "inference": 0.1} for v in comparison.VARIANTS}
    monkeypatch.setattr(comparison, "read_costs", lambda *args: costs)
    command = [str(data), "--minutes", "0.05", "--network", json.dumps(SMALL), "--out", str(tmp_path), "--scf", "1"]
    run_comparison(comparison, monkeypatch, *command, "--baseline", "sap", "--variants", "qhnetv2")
    found = json.loads((tmp_path / "qhnetv2-all-0" / "result.json").read_text())
    assert found["steps"] == 6
    assert asked == ["qhnetv2-all-0"]
    assert found["refused"] == 1
    assert found["cycles"] == json.loads((tmp_path / "minao.json").read_text()) > 1
    assert found["minutes"] > 0
    text = (tmp_path / "networks.md").read_text()
    assert "0.05 minutes of one thread" in text
    assert "Predictions rejected, with minao in their place: 1." in text
    command[-1] = "0"
    run_comparison(comparison, monkeypatch, *command, "--baseline", "sap", "--variants", "qhnetv2")
    command[-1] = "2"
    with pytest.raises(SystemExit, match=r"'scf': 1.*asks for.*'scf': 2"):
        run_comparison(comparison, monkeypatch, *command, "--baseline", "sap", "--variants", "qhnetv2")


def test_networks_take_turns_when_they_are_timed(
    data: Path, tmp_path: Path, prepared: Prepared, comparison: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def timed(trainer: Trainer, batch: list[Example]) -> tuple[float, float]:
        assert batch
        order.append(trainer.config.name.rsplit("-", 2)[0])
        return float(len(order)), 1.0

    monkeypatch.setattr(comparison, "timed", timed)
    command = ["x", str(data), "--network", json.dumps(SMALL), "--out", str(tmp_path), "--baseline", "sap"]
    monkeypatch.setattr(sys, "argv", command)
    kept = comparison.Data(prepared[0], prepared[1], prepared[1], prepared[2])
    costs = comparison.read_costs(comparison.parsed(), kept, silent())
    assert tuple(order) == comparison.VARIANTS * comparison.TRIAL
    places = np.arange(len(order)).reshape(comparison.TRIAL, -1)[2:] + 1
    expected = np.median(places / places[:, :1], axis=0) * places[:, 0].mean()
    np.testing.assert_allclose([costs[v]["step"] for v in comparison.VARIANTS], expected)
