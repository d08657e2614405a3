"""Settings of a training run: frozen dataclasses with the keys of a YAML file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pyscf.data.elements import ELEMENTS

from pyscf_mlham.checkpoint import CONFIG, MOST_CONFIG
from pyscf_mlham.errors import ModelError
from pyscf_mlham.h0 import BASELINES
from pyscf_mlham.nn.ranges import FROM_0, FROM_1, POSITIVE, Range, fault
from pyscf_mlham.untrusted import from_keys, read_bounded

SCHEDULES = ("cosine", "wsd")
RANGES: dict[str, Range] = {  # all others: FROM_0
    "steps": FROM_1,
    "pairs": FROM_1,
    "validate_every": FROM_1,
    "learning_rate": POSITIVE,
    "clip": (lambda x: x > 0, "more than 0"),
    "average": (lambda x: 0 <= x < 1, "0 or more and less than 1"),
}


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms of the loss; errors are those of dH in Loewdin orbitals, Hartree.

    Attributes:
        absolute: mean absolute error of the elements.
        spectral: root of the squared error for each orbital.
        density: error of the density matrix to first order, from occupied-virtual elements over orbital gaps.
        trace: error of the traces, as a share of the rest of the loss, for a network with the tracegrad wrapper.
    """

    absolute: float = 10.0
    spectral: float = 1.0
    density: float = 1.0
    trace: float = 0.25


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
        elements: symbols of the supported elements; empty for those of the training molecules. Molecules with other
            elements are left out.
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
    steps: int = 20000
    pairs: int = 150
    learning_rate: float = 3e-3
    warmup: int = 200
    schedule: str = "cosine"
    weight_decay: float = 1e-4
    clip: float = 1.0
    average: float = 0.998
    loss: LossConfig = LossConfig()
    validate_every: int = 1000
    checkpoint_minutes: float = 5.0
    train_molecules: int = 0
    seed: int = 0


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
    """Raise ModelError for values out of range, and for names that do not exist."""
    for within, part in (("", config), ("loss: ", config.loss)):
        for f in dataclasses.fields(part):
            wrong = fault(f, getattr(part, f.name), RANGES.get(f.name, FROM_0)) if f.type in ("int", "float") else ""
            if wrong:
                raise ModelError(f"{path}: {within}{f.name} {wrong}")
    if not (config.data and config.charges):
        raise ModelError(f"{path}: data and charges must not be empty lists.")
    if unknown := [symbol for symbol in config.elements if symbol not in ELEMENTS[1:]]:
        raise ModelError(f"{path}: elements must be a list of symbols such as [H, C], found {unknown}.")
    if config.frozen and (not config.start or config.refiner == "none"):
        raise ModelError(f"{path}: frozen needs a refiner to train, and start for the fixed weights.")
    for name, names in (("schedule", SCHEDULES), ("baseline", BASELINES)):
        if (value := getattr(config, name)) not in names:
            raise ModelError(f"{path}: unknown {name} {value!r}; expected {', '.join(names[:-1])} or {names[-1]}.")
