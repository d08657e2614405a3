"""From the files of a training run to examples in memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pyscf_mlham import baseline, checkpoint
from pyscf_mlham.basis import ShellTemplate
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.data.dataset import Example, Recipe, examples, template_of, usable_cores
from pyscf_mlham.data.schema import HamiltonianFile, Level
from pyscf_mlham.errors import DataError, ModelError
from pyscf_mlham.nn.model import HamiltonianModel, network_from_config, options_of, part_of
from pyscf_mlham.scf.models import shipped
from pyscf_mlham.train.config import TrainConfig
from pyscf_mlham.train.selection import choose


def prepare(config: TrainConfig, console: Console) -> tuple[list[Example], list[Example], ModelConfig]:
    """Read the data, and compute what the network is shown and what it must learn.

    Args:
        config: settings.
        console: to draw on.
    """
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(HamiltonianFile(path)) for path in config.data]
        _check_theories(files)
        chosen, elements = choose(files, config, console)
        model_config = _described(files[0].level, elements, config)
        _try_network(model_config, config)
        recipe = recipe_of(model_config)
        loaded: dict[str, list[Example]] = {"train": [], "val": []}
        if not console.is_terminal and os.environ.get("RANK", "0") == "0":
            words = " and ".join(f"{len(chosen[split])} molecules for {split}" for split in loaded)
            console.print(f"preparing {words}", highlight=False, soft_wrap=True)
        with progress_bar(console) as progress:
            for split, found in loaded.items():
                bar = progress.add_task(f"preparing {split}", total=len(chosen[split]), note="")
                for file in files:
                    indices = [place.index for place in chosen[split] if place.file is file]
                    for example in examples(file.path, indices, recipe, usable_cores()):
                        found.append(example)
                        progress.advance(bar)
    return loaded["train"], loaded["val"], model_config


def _check_theories(files: Sequence[HamiltonianFile]) -> None:
    """Refuse files that differ in more than grids and fitted integrals, whose part is less than a network's error."""
    theories = sorted({f"{file.level.xc}/{file.level.basis}" for file in files})
    if len(theories) != 1:
        raise DataError(f"the files are of different levels of theory: {', '.join(theories)}.")


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
        baseline_fingerprint=baseline.fingerprint(config.baseline, level.xc),
        options=network_options(config, template_of(elements, level.basis)),
    )


def _try_network(model_config: ModelConfig, config: TrainConfig) -> None:
    """Make the network once, so that sizes that do not fit are found before the molecules are prepared."""
    try:
        network = network_from_config(model_config)
    except ModelError:
        raise
    except (ValueError, TypeError, ArithmeticError, IndexError, RuntimeError) as error:
        raise ModelError(f"the network cannot be made: {error}") from error
    if config.start:
        start_from(network, config, model_config)


def network_options(config: TrainConfig, template: ShellTemplate) -> dict[str, Any]:
    """Return the options of a model that describe its network; all of them, as defaults may change one day.

    Args:
        config: settings.
        template: of the orbitals of an atom.
    """
    options: dict[str, Any] = {
        "template": list(template.counts),
        "network": asdict(options_of(config.architecture, config.network)),
    }
    parts = {
        "wrapper": part_of("wrapper", config.wrapper, config.wrapper_options),
        "refiner": part_of("refiner", config.refiner, config.refiner_options),
    }
    return options | {kind: part for kind, part in parts.items() if part is not None}


def start_from(model: HamiltonianModel, config: TrainConfig, model_config: ModelConfig) -> None:
    """Give a network the weights that its settings say it starts from, and freeze them where they say so.

    Args:
        model: with fresh weights.
        config: settings.
        model_config: of the network.
    """
    folder = start_folder(config)
    found, weights = checkpoint.read(folder)
    for key in ("architecture", "elements", "basis", "baseline"):
        there, here = getattr(found, key), getattr(model_config, key)
        if there != here:
            raise ModelError(f"start: {folder} has {key} {there}, this run {here}; they must be the same.")
    _check_options(folder, found, config, model_config)
    try:
        missing, unexpected = model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=False)
    except RuntimeError as error:
        raise ModelError(f"start: the weights in {folder} are of other sizes than the network ({error}).") from error
    fresh = ("refiner.",) if config.frozen else ("wrapper.", "refiner.")
    if lost := unexpected + [key for key in missing if not key.startswith(fresh)]:
        raise ModelError(f"start: the weights in {folder} are not those of this network ({', '.join(lost[:3])} ...).")
    if config.frozen:
        model.freeze_first_stage()


def _check_options(folder: Path, found: ModelConfig, config: TrainConfig, wanted: ModelConfig) -> None:
    """Refuse what the weights' shapes do not show: with another cutoff the same weights are another network."""

    def described(model: ModelConfig) -> dict[str, Any]:
        sizes = asdict(options_of(model.architecture, model.options["network"]))
        stays = {"wrapper": model.options.get("wrapper"), "xc": model.xc} if config.frozen else {}
        return {**sizes, **stays}

    there, here = described(found), described(wanted)
    if others := [f"{key} {there[key]} instead of {here[key]}" for key in here if there[key] != here[key]]:
        raise ModelError(f"start: {folder} has {', '.join(others)}; they must be the same.")


def start_folder(config: TrainConfig) -> Path:
    """Return the folder of the model that a network starts from.

    Args:
        config: settings.
    """
    return shipped().get(config.start, Path(config.start))


def recipe_of(config: ModelConfig) -> Recipe:
    """Return what a model's network wants of a molecule.

    Args:
        config: of the model.
    """
    network = options_of(config.architecture, config.options["network"])
    template = ShellTemplate(tuple(config.options["template"]))
    return Recipe(template, network.degree, network.cutoff, config.baseline)


def progress_bar(console: Console, *, silent: bool = False) -> Progress:
    """Return a progress bar with times and a note; nothing is drawn where the output is no terminal.

    Args:
        console: to draw on.
        silent: draw nothing.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, console=console, disable=silent or not console.is_terminal)
