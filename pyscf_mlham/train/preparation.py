"""Preparation of a training run: from its files to examples in memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console

from pyscf_mlham import checkpoint
from pyscf_mlham.ao.layout import ShellTemplate
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.data.dataset import Example, count_examples, examples, template_of, trial_sample, usable_cores
from pyscf_mlham.data.schema import HamiltonianFile, Level
from pyscf_mlham.errors import DataError, ModelError
from pyscf_mlham.h0 import COARSE_SCF, SCC, fingerprint
from pyscf_mlham.model.domain import same_name
from pyscf_mlham.model.network import Recipe
from pyscf_mlham.nn.batch import batch_from_samples
from pyscf_mlham.nn.model import network_from_config, options_of, part_of
from pyscf_mlham.progress import progress, say
from pyscf_mlham.train.config import TrainConfig
from pyscf_mlham.train.selection import choose
from pyscf_mlham.train.start import other_h0, start_folder, start_from

SCALES = {SCC: 0.03, COARSE_SCF: 0.01}  # size of dH over that of dH from the minao field


def prepare(config: TrainConfig, console: Console) -> tuple[list[Example], list[Example], ModelConfig]:
    """Read the data, and compute the inputs and targets of the network."""
    if os.environ.get("RANK", "0") != "0":
        console = Console(quiet=True)  # only one of several processes prints
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(HamiltonianFile(path)) for path in config.data]
        _check_theories(files)
        start = checkpoint.read_config(start_folder(config)) if config.start else None
        chosen, elements = choose(files, config, console, start.elements if start else None)
        model_config = _described(files[0].level, elements, config)
        _try_network(model_config, config)
        if start and (other := other_h0(start_folder(config), start, model_config)):
            note = f"start: {other}; its weights have to adapt."
            say(console, note)
        recipe = recipe_of(model_config)
        loaded: dict[str, list[Example]] = {"train": [], "val": []}
        if not console.is_terminal:
            numbers = " and ".join(f"{len(chosen[split])} molecules for {split}" for split in loaded)
            say(console, f"preparing {numbers}")
        for split, found in loaded.items():
            of_file = [(file, [p.index for p in chosen[split] if p.file is file]) for file in files]
            total = sum(count_examples(*part) for part in of_file)
            with progress(console, f"preparing {split}", total, "examples") as advance:
                for file, indices in of_file:
                    for example in examples(file.path, indices, recipe, usable_cores()):
                        found.append(example)
                        advance("")
    return loaded["train"], loaded["val"], model_config


def _check_theories(files: Sequence[HamiltonianFile]) -> None:
    """Raise DataError if files differ in more than grids and fitted integrals, whose effect is below network errors."""
    levels = [file.level for file in files]
    first = levels[0]
    named = [("xc", first.xc), ("basis", first.basis), ("pseudo", first.pseudo)]
    if not all(same_name(getattr(level, key), name) for level in levels for key, name in named):
        theories = sorted({"/".join(filter(None, (level.xc, level.basis, level.pseudo))) for level in levels})
        raise DataError(f"the files have different levels of theory: {', '.join(theories)}; expected one.")


def _described(level: Level, elements: tuple[int, ...], config: TrainConfig) -> ModelConfig:
    """Describe the model, by the level of theory of the first file."""
    return ModelConfig(
        name=config.name,
        architecture=config.architecture,
        elements=elements,
        charges=config.charges,
        basis=level.basis,
        xc=level.xc,
        baseline=config.baseline,
        grid_level=level.grid_level,
        baseline_fingerprint=fingerprint(config.baseline, level.xc),
        options=network_options(config, template_of(elements, level.basis)),
        pseudo=level.pseudo,
    )


def _try_network(model_config: ModelConfig, config: TrainConfig) -> None:
    """Build and run the network once, so that errors are found before the molecules are prepared."""
    try:
        network = network_from_config(model_config).eval()
        sample = trial_sample(recipe_of(model_config), model_config.elements[0], model_config.basis)
        with torch.no_grad():
            network(batch_from_samples([sample]).to("cpu", torch.float32))
    except ModelError:
        raise
    except (ValueError, TypeError, ArithmeticError, IndexError, RuntimeError) as error:
        raise ModelError(f"the network cannot be built: {error}") from error
    if config.start:
        start_from(network, config, model_config)


def network_options(config: TrainConfig, template: ShellTemplate) -> dict[str, Any]:
    """Return all options of a model that describe its network, including those with default values."""
    network = {"scale": SCALES.get(config.baseline, 1.0), **config.network}
    options: dict[str, Any] = {
        "template": list(template.counts),
        "network": asdict(options_of(config.architecture, network)),
    }
    parts = {
        "wrapper": part_of("wrapper", config.wrapper, config.wrapper_options),
        "refiner": part_of("refiner", config.refiner, config.refiner_options),
    }
    return options | {kind: part for kind, part in parts.items() if part is not None}


def recipe_of(config: ModelConfig) -> Recipe:
    """Return the properties of a model's network that determine its input."""
    network = options_of(config.architecture, config.options["network"])
    template = ShellTemplate(tuple(config.options["template"]))
    return Recipe(template, network.degree, network.cutoff, config.baseline)
