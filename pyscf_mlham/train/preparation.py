"""From the files of a training run to examples in memory."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pyscf_mlham import baseline, checkpoint
from pyscf_mlham.basis import ShellTemplate
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.data.dataset import Example, Recipe, examples, template_of
from pyscf_mlham.data.schema import HamiltonianFile
from pyscf_mlham.errors import DataError, ModelError
from pyscf_mlham.nn.model import HamiltonianModel, options_of, part_of
from pyscf_mlham.scf.models import shipped
from pyscf_mlham.train.config import TrainConfig


def prepare(config: TrainConfig, console: Console) -> tuple[list[Example], list[Example], ModelConfig]:
    """Read the data, and compute what the network is shown and what it must learn.

    Args:
        config: settings.
        console: to draw on.
    """
    files = [HamiltonianFile(path) for path in config.data]
    level = files[0].level  # grids and fitted integrals of the others may differ: by less than a network's error
    theories = sorted({f"{file.level.xc}/{file.level.basis}" for file in files})
    if len(theories) != 1:
        raise DataError(f"the files are of different levels of theory: {', '.join(theories)}.")
    chosen, elements = _choose(files, config)
    template = template_of(elements, level.basis)
    model_config = ModelConfig(
        name=config.name,
        architecture=config.architecture,
        elements=elements,
        charges=config.charges,
        basis=level.basis,
        xc=level.xc,
        baseline=config.baseline,
        grid_level=level.grid_level,
        baseline_fingerprint=baseline.fingerprint(config.baseline, level.xc),
        options=network_options(config, template),
    )
    recipe = recipe_of(model_config)
    loaded: dict[str, list[Example]] = {"train": [], "val": []}
    with progress_bar(console) as progress:
        for split, found in loaded.items():
            bar = progress.add_task(f"preparing {split}", total=len(chosen[split]), note="")
            for file in files:
                indices = [i for path, i in chosen[split] if path == file.path]
                for example in examples(file.path, indices, recipe, os.cpu_count() or 1):
                    found.append(example)
                    progress.advance(bar)
    for file in files:
        file.close()
    return loaded["train"], loaded["val"], model_config


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


def _choose(
    files: list[HamiltonianFile], config: TrainConfig
) -> tuple[dict[str, list[tuple[Path, int]]], tuple[int, ...]]:
    """Choose closed shells of the charges asked for, by split; the elements are those of the training molecules."""

    def of(split: str) -> list[tuple[Path, int]]:
        served = [
            (f, int(i)) for f in files for i in f.indices(split) if f.spin[i] == 0 and f.charge[i] in config.charges
        ]
        return [(f.path, i) for f, i in served]

    chosen = {split: of(split) for split in ("train", "val")}
    if config.train_molecules:
        order = np.random.default_rng(config.seed).permutation(len(chosen["train"]))
        chosen["train"] = [chosen["train"][i] for i in order[: config.train_molecules]]
    opened = {file.path: file for file in files}
    known = {int(z) for path, i in chosen["train"] for z in opened[path].numbers(i)}
    chosen["val"] = [(path, i) for path, i in chosen["val"] if known.issuperset(opened[path].numbers(i).tolist())]
    charges = {int(opened[path].charge[i]) for path, i in chosen["train"]}
    if missing := sorted(set(config.charges) - charges):
        raise DataError(f"there is no training molecule of charge {missing}; take it out of charges.")
    for split, found in chosen.items():
        if not found:
            raise DataError(
                f"there is no molecule to use in the split {split}: closed-shell, of charge "
                f"{', '.join(map(str, config.charges))}, and for val of elements that the training molecules have; see "
                "`mlham data info`. A small set needs more molecules, or larger shares (--val 0.2)."
            )
    return chosen, tuple(sorted(known))


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
