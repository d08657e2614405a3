"""What a network may start from: a model of more elements, of the same H0 where its weights stay, and of one limit."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pyscf_mlham import checkpoint
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.data.dataset import template_of
from pyscf_mlham.errors import DataError, ModelError
from pyscf_mlham.h0 import fingerprint
from pyscf_mlham.nn.model import network_from_config
from pyscf_mlham.train.config import TrainConfig
from pyscf_mlham.train.preparation import network_options, prepare, start_from
from support.labelled import NETWORK, settings, silent, trained

REFINED = {"refiner": "harmose", "refiner_options": {"channels": 8, "heads": 2}}


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyscf_mlham.train.preparation.usable_cores", lambda: 1)


def model_of(run: TrainConfig, elements: tuple[int, ...] = (1, 6, 7, 8), **changes: Any) -> ModelConfig:
    """What a run of these settings would write."""
    described = ModelConfig(
        name="m",
        architecture="qhnetv2",
        elements=elements,
        charges=(0,),
        basis="sto-3g",
        xc="hf",
        baseline="minao",
        baseline_fingerprint=fingerprint("minao", "hf"),
        options=network_options(run, template_of(elements, "sto-3g")),
    )
    return dataclasses.replace(described, **changes)


def written(folder: Path, config: ModelConfig) -> str:
    """Write an untrained model; return its folder."""
    weights = {k: v.numpy() for k, v in network_from_config(config).state_dict().items()}
    checkpoint.write(folder, config, weights)
    return str(folder)


def test_data_of_fewer_elements_train_a_model_of_more(data: Path, tmp_path: Path) -> None:
    plain = settings(data, tmp_path)
    start = written(tmp_path / "first", model_of(plain, (1, 6, 7, 8, 9)))
    run = settings(data, tmp_path / "second", start=start, train_molecules=2, steps=2)
    train, val, config = prepare(run, silent())
    assert {z for e in train for z in e.sample.numbers.tolist()} == {1, 6, 8}
    assert {z for e in val for z in e.sample.numbers.tolist()} == {1, 6, 7, 8}  # all that the model knows
    assert config.elements == (1, 6, 7, 8, 9)
    trained(run, (train, val, config))
    assert checkpoint.read_config(tmp_path / "second" / "model").elements == (1, 6, 7, 8, 9)


def test_elements_that_the_start_lacks_are_named(data: Path, tmp_path: Path) -> None:
    start = written(tmp_path / "first", model_of(settings(data, tmp_path), (1, 6)))
    with pytest.raises(DataError, match="N, O"):
        prepare(settings(data, tmp_path / "second", start=start), silent())


def test_a_frozen_start_has_the_same_h0(data: Path, tmp_path: Path) -> None:
    known = model_of(settings(data, tmp_path))
    fingerprint = known.baseline_fingerprint
    assert fingerprint is not None
    for shift, frozen, refused in ((0.5, True, True), (0.5, False, False), (1e-6, True, False), (None, True, True)):
        other = None if shift is None else fingerprint + shift
        start = written(tmp_path / "first", dataclasses.replace(known, baseline_fingerprint=other))
        run = settings(data, tmp_path / "second", start=start, frozen=frozen, **REFINED)
        console = Console(file=io.StringIO(), width=100)
        if refused:
            with pytest.raises(ModelError, match=r"'minao' H0 .*fingerprint"):
                prepare(run, console)
            continue
        prepare(run, console)
        said = "its weights have to adapt.\n" in console.file.getvalue()
        assert said == (shift == 0.5)


def test_a_refiner_keeps_its_limit_but_not_its_frames(data: Path, tmp_path: Path) -> None:
    def run(**sizes: Any) -> TrainConfig:
        options = {**REFINED["refiner_options"], **sizes}
        start = str(tmp_path / "first")
        return settings(data, tmp_path / "second", refiner="harmose", refiner_options=options, start=start)

    written(tmp_path / "first", model_of(run()))
    for sizes, message in (({"limit": 5.0}, "refiner's limit 0.05 instead of 5.0"), ({"frames": 8}, "")):
        wanted = model_of(run(**sizes))
        network = network_from_config(wanted)
        if not message:
            start_from(network, run(**sizes), wanted)
            continue
        for frozen in (False, True):
            with pytest.raises(ModelError, match=message):
                start_from(network, dataclasses.replace(run(**sizes), frozen=frozen), wanted)


def test_another_spelling_is_no_other_level_of_theory(data: Path, tmp_path: Path) -> None:
    start = written(tmp_path / "first", model_of(settings(data, tmp_path), basis="STO3G", xc="HF"))
    run = settings(data, tmp_path / "second", start=start, frozen=True, **REFINED)
    wanted = model_of(run)
    start_from(network_from_config(wanted), run, wanted)
    other = dataclasses.replace(wanted, basis="6-31g")
    with pytest.raises(ModelError, match=r"STO3G.*6-31g"):
        start_from(network_from_config(other), run, other)


def test_one_process_of_several_prints_the_preparation(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        console = Console(file=io.StringIO(), width=200)
        prepare(settings(data, tmp_path, network=NETWORK, train_molecules=1), console)
        assert ("validation molecules are left out" in console.file.getvalue()) == (rank == "0")
