"""From the files of a training run to examples in memory."""

from __future__ import annotations

import os
from dataclasses import asdict

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pyscf_mlham import baseline
from pyscf_mlham.basis import ShellTemplate
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.data.dataset import Example, Recipe, examples, template_of
from pyscf_mlham.data.schema import HamiltonianFile
from pyscf_mlham.errors import DataError
from pyscf_mlham.nn.model import options_of
from pyscf_mlham.train.config import TrainConfig


def prepare(config: TrainConfig, console: Console) -> tuple[list[Example], list[Example], ModelConfig]:
    """Read the data, and compute what the network is shown and what it must learn.

    Args:
        config: settings.
        console: to draw on.
    """
    files = [HamiltonianFile(path) for path in config.data]
    levels = {file.level for file in files}
    if len(levels) != 1:
        raise DataError(f"the files are of different levels of theory: {sorted(map(str, levels))}.")
    level = levels.pop()
    elements = tuple(sorted(set().union(*(file.elements for file in files))))
    template = template_of(elements, level.basis)
    network = asdict(options_of(config.architecture, config.network))  # all of them: defaults may change one day
    options = {"template": list(template.counts), "network": network}
    model_config = ModelConfig(
        name=config.name,
        architecture=config.architecture,
        elements=elements,
        charges=config.charges,
        basis=level.basis,
        xc=level.xc,
        baseline=config.baseline,
        grid_level=level.grid_level,
        baseline_fingerprint=baseline.fingerprint(config.baseline, level.xc, level.grid_level),
        options=options,
    )
    recipe = recipe_of(model_config)
    loaded: dict[str, list[Example]] = {"train": [], "val": []}
    with progress_bar(console) as progress:
        for split, found in loaded.items():
            tasks = [(file.path, i) for file in files for i in file.indices(split) if file.spin[i] == 0]
            if split == "train" and config.train_molecules:
                order = np.random.default_rng(config.seed).permutation(len(tasks))
                tasks = [tasks[i] for i in order[: config.train_molecules]]
            bar = progress.add_task(f"preparing {split}", total=len(tasks), note="")
            for file in files:
                indices = [i for path, i in tasks if path == file.path]
                for example in examples(file.path, indices, recipe, os.cpu_count() or 1):
                    found.append(example)
                    progress.advance(bar)
    for file in files:
        file.close()
    if not loaded["train"] or not loaded["val"]:
        raise DataError("there is no molecule in the split train, or none in val; see `mlham data info`.")
    return loaded["train"], loaded["val"], model_config


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
