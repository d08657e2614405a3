"""Settings of a training run: frozen dataclasses with the keys of a YAML file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import yaml
from pyscf.data.elements import ELEMENTS

from pyscf_mlham.checkpoint import CONFIG, MOST_CONFIG
from pyscf_mlham.errors import ModelError
from pyscf_mlham.h0 import BASELINES
from pyscf_mlham.options import from_keys, number
from pyscf_mlham.untrusted import read_bounded

SCHEDULES = ("cosine", "wsd")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms of the loss; errors are those of dH in the form of the network's `target`, Hartree.

    Attributes:
        absolute: mean absolute error of the elements.
        spectral: root of the squared error for each orbital.
        density: error of the density matrix to first order, from occupied-virtual elements over orbital gaps.
        trace: error of the traces, as a share of the rest of the loss, for a network with the tracegrad wrapper.
    """

    absolute: float = number(10.0, least=0)
    spectral: float = number(1.0, least=0)
    density: float = number(1.0, least=0)
    trace: float = number(0.25, least=0)


@dataclass(frozen=True)
class TrainConfig:
    """Model, data and optimisation of a training run.

    Attributes:
        name: name of the model.
        data: files of labelled molecules, all of one functional and basis set; the model records the first one's grid.
        output: folder of the model, the checkpoint, the log and the loss curve.
        architecture: architecture of the network, qhnetv2 or qhnet.
        network: options of the network.
        wrapper: tracegrad or none.
        wrapper_options: options of the wrapper.
        refiner: harmose or none.
        refiner_options: options of the refiner.
        start: shipped model, or model folder, with the initial weights of the first stage; empty for random ones. The
            new model has the same elements, and the training molecules may lack some of them.
        frozen: whether to keep the initial weights fixed and train the refiner only.
        baseline: name of H0.
        charges: total charges supported by the model.
        elements: symbols of the elements that molecules may have, empty for all; others are left out. The model
            supports those of its training molecules.
        steps: total number of optimiser steps.
        pairs: approximate number of pairs of atoms in a step, limited by memory.
        learning_rate: highest learning rate.
        warmup: steps of linear increase.
        schedule: cosine, or wsd (constant, and linear to zero over the last fifth).
        weight_decay: weight decay of AdamW.
        clip: largest norm of the gradient.
        average: decay of the running average of the weights, which is evaluated and written.
        loss: weights of the terms of the loss.
        validate_every: steps between two evaluations.
        checkpoint_minutes: minutes between two checkpoints.
        train_molecules: number of training molecules to use, drawn by the seed; 0 = all.
        seed: seed of weights and order.
    """

    name: str
    data: tuple[str, ...]
    output: str
    architecture: str = "qhnetv2"
    network: Mapping[str, Any] = field(default_factory=dict)
    wrapper: str = "none"
    wrapper_options: Mapping[str, Any] = field(default_factory=dict)
    refiner: str = "none"
    refiner_options: Mapping[str, Any] = field(default_factory=dict)
    start: str = ""
    frozen: bool = False
    baseline: str = "minao"
    charges: tuple[int, ...] = (0,)
    elements: tuple[str, ...] = ()
    steps: int = number(20000, least=1)
    pairs: int = number(150, least=1)
    learning_rate: float = number(3e-3, above=0, below=inf)
    warmup: int = number(200, least=0)
    schedule: str = "cosine"
    weight_decay: float = number(1e-4, least=0)
    clip: float = number(1.0, above=0)
    average: float = number(0.998, least=0, below=1)
    loss: LossConfig = LossConfig()
    validate_every: int = number(1000, least=1)
    checkpoint_minutes: float = number(5.0, least=0)
    train_molecules: int = number(0, least=0)
    seed: int = number(0, least=0)


def read_config(path: str | Path) -> TrainConfig:
    """Read a YAML file; an unknown key is an error, and paths are relative to the file."""
    path = Path(path)
    try:
        content = yaml.safe_load(read_bounded(path, MOST_CONFIG))
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; give the YAML file of a training run.") from error
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as YAML ({error}).") from error
    if isinstance(content, dict) and isinstance(content.get("data"), str):
        content["data"] = [content["data"]]
    config = from_keys(TrainConfig, content, str(path))
    _check(path, config)
    folder = path.parent
    beside = folder / config.start
    start = str(beside) if config.start and (beside / CONFIG).exists() else config.start
    return dataclasses.replace(
        config, data=tuple(str(folder / file) for file in config.data), output=str(folder / config.output), start=start
    )


def _check(path: Path, config: TrainConfig) -> None:
    """Raise ModelError for names that do not exist, and for settings that contradict each other."""
    if not (config.data and config.charges):
        raise ModelError(f"{path}: data and charges must not be empty lists.")
    if unknown := [symbol for symbol in config.elements if symbol not in ELEMENTS[1:]]:
        raise ModelError(f"{path}: elements must be a list of symbols such as [H, C], found {unknown}.")
    if config.frozen and (not config.start or config.refiner == "none"):
        raise ModelError(f"{path}: frozen needs a refiner to train, and start for the fixed weights.")
    for name, names in (("schedule", SCHEDULES), ("baseline", BASELINES)):
        if (value := getattr(config, name)) not in names:
            raise ModelError(f"{path}: unknown {name} {value!r}; expected {', '.join(names[:-1])} or {names[-1]}.")
