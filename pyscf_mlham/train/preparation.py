"""Preparation of a training run: examples in memory, initial weights, and what a resumed run must have in common.

Molecules held out for validation or testing under any name are not trained on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import operator
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyscf.data.elements import ELEMENTS
from rich.console import Console

from pyscf_mlham import checkpoint
from pyscf_mlham.ao.layout import ShellTemplate
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.data.dataset import Example, count_examples, examples, template_of, trial_sample, usable_cores
from pyscf_mlham.data.geometries import group_of, identity_of_record
from pyscf_mlham.data.record import Level
from pyscf_mlham.data.schema import HamiltonianFile
from pyscf_mlham.errors import DataError, ModelError
from pyscf_mlham.h0 import ATOMS, SCC, fingerprint, same_h0
from pyscf_mlham.model.domain import same_functional, same_name, symbols
from pyscf_mlham.model.network import Recipe
from pyscf_mlham.model.store import find
from pyscf_mlham.nn.batch import batch_from_samples
from pyscf_mlham.nn.model import HamiltonianModel, network_from_config, options_of, part_of
from pyscf_mlham.progress import print_line, tracked
from pyscf_mlham.train.config import TrainConfig

SCALES = {SCC: 0.03}  # size of dH over that of dH from the minao field
NAMES = {"xc": same_functional, "basis": same_name}  # comparisons of names with several spellings
FINGERPRINT = "baseline_fingerprint"


def prepare(config: TrainConfig, console: Console) -> tuple[list[Example], list[Example], ModelConfig]:
    """Read the data, and compute the inputs and targets of the network."""
    if os.environ.get("RANK", "0") != "0":
        console = Console(quiet=True)  # only one of several processes prints
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(HamiltonianFile(path)) for path in config.data]
        _check_theories(files)
        if config.baseline == ATOMS and not files[0].level.pseudo:
            raise DataError(f"baseline: {ATOMS} is the H0 of crystals; for molecules choose scc, minao, sap or hcore.")
        start = checkpoint.read_config(find(config.start)) if config.start else None
        chosen, elements = choose(files, config, console, start.elements if start else None)
        level = files[0].level
        model_config = ModelConfig(
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
        _try_network(model_config, config)
        if start and (other := other_h0(find(config.start), start, model_config)):
            print_line(console, f"start: {other}; its weights have to adapt.")
        recipe = recipe_of(model_config)
        loaded: dict[str, list[Example]] = {"train": [], "val": []}
        if not console.is_terminal:
            numbers = " and ".join(f"{len(chosen[split])} molecules for {split}" for split in loaded)
            print_line(console, f"preparing {numbers}")
        for split, found in loaded.items():
            of_file = [(file, [p.index for p in chosen[split] if p.file is file]) for file in files]
            total = sum(count_examples(*part) for part in of_file)
            prepared = (examples(file.path, indices, recipe, usable_cores()) for file, indices in of_file)
            found += tracked(chain.from_iterable(prepared), console, f"preparing {split}", total, "examples")
    return loaded["train"], loaded["val"], model_config


def _check_theories(files: Sequence[HamiltonianFile]) -> None:
    """Raise DataError if files differ in more than grids and fitted integrals, whose effect is below network errors."""
    levels = [file.level for file in files]
    if not all(same_theory(level, levels[0]) for level in levels):
        theories = sorted(set(map(theory_of, levels)))
        raise DataError(f"the files have different levels of theory: {', '.join(theories)}; expected one.")


def same_theory(one: Level | ModelConfig, other: Level | ModelConfig) -> bool:
    """Whether functional, basis set and pseudopotential are the same, in any spelling."""
    alike = same_name(one.basis, other.basis) and same_name(one.pseudo, other.pseudo)
    return alike and same_functional(one.xc, other.xc)


def theory_of(one: Level | ModelConfig) -> str:
    """Name functional, basis set and pseudopotential."""
    return "/".join(filter(None, (one.xc, one.basis, one.pseudo)))


def _try_network(model_config: ModelConfig, config: TrainConfig) -> None:
    """Build and run the network once, so that errors are found before the molecules are prepared."""
    try:
        network = network_from_config(model_config)
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
    network = options_of(config.architecture, {"scale": SCALES.get(config.baseline, 1.0), **config.network})
    options: dict[str, Any] = {
        "template": list(template.within(network.largest_l).counts),
        "network": asdict(network),
    }
    parts = {
        "wrapper": part_of("wrapper", config.wrapper, config.wrapper_options),
        "refiner": part_of("refiner", config.refiner, config.refiner_options),
    }
    return options | {kind: part for kind, part in parts.items() if part is not None}


def recipe_of(config: ModelConfig) -> Recipe:
    """Return the properties of a model's network that determine its input."""
    network = options_of(config.architecture, config.options["network"])
    template = ShellTemplate(tuple(config.options["template"])).within(network.largest_l)
    return Recipe(template, network.degree, network.cutoff, config.baseline, network.target)


@dataclass(frozen=True)
class Place:
    """Location of a record."""

    file: HamiltonianFile
    index: int

    @property
    def group(self) -> tuple[Path, str]:
        """File and name of the molecule."""
        return self.file.path, str(self.file.group[self.index])

    @property
    def composition(self) -> tuple[int, ...]:
        """Atomic numbers, sorted."""
        return tuple(sorted(self.file.numbers(self.index).tolist()))

    @property
    def molecule(self) -> str:
        """Identity of the molecule by its bonds; of a crystal of the geometry, as frames of one material are split."""
        if self.file.level.pseudo:
            return self.geometry
        return group_of(self.file.numbers(self.index), self.file.positions(self.index))

    @property
    def geometry(self) -> str:
        """Identity of the geometry."""
        return identity_of_record(self.file, self.index)


def choose(
    files: Sequence[HamiltonianFile], config: TrainConfig, console: Console, started: tuple[int, ...] | None = None
) -> tuple[dict[str, list[Place]], tuple[int, ...]]:
    """Choose molecules by charge and split, and the elements: the training molecules', or those given for a start."""
    requested = {ELEMENTS.index(symbol) for symbol in config.elements}
    chosen = {
        split: [Place(file, i) for file in files for i in in_domain(file, split, config, requested)]
        for split in ("train", "val")
    }
    if held := held_out_elsewhere(files, chosen["train"]):
        print_line(
            console,
            f"{len(held)} training molecules are left out: they are held out for validation or testing in another file "
            "or under another name.",
        )
        chosen["train"] = [place for place in chosen["train"] if place not in held]
    if config.train_molecules:
        order = np.random.default_rng(config.seed).permutation(len(chosen["train"]))
        chosen["train"] = [chosen["train"][i] for i in order[: config.train_molecules]]
    supported = _elements(chosen["train"]) if started is None else set(started)
    if others := _elements(chosen["train"]) - supported:
        text = f"start: {config.start} does not support {symbols(others)}, which training molecules contain"
        raise DataError(f"{text}; leave those molecules out of the data, or train without start.")
    usable = [place for place in chosen["val"] if supported.issuperset(place.composition)]
    if left_out := len(chosen["val"]) - len(usable):
        print_line(
            console,
            f"{left_out} of {len(chosen['val'])} validation molecules are left out: the model will not support "
            f"{symbols(_elements(chosen['val']) - supported)}.",
        )
    chosen["val"] = usable
    charges = {int(place.file.charge[place.index]) for place in chosen["train"]}
    if missing := sorted(set(config.charges) - charges):
        raise DataError(f"there is no training molecule of charge {missing}; remove it from charges.")
    for split, found in chosen.items():
        if not found:
            raise DataError(
                f"there is no usable molecule in the split {split}; expected molecules of charge "
                f"{', '.join(map(str, config.charges))}, for val of the elements of the training molecules. See "
                "`mlham data info`; a small set needs more molecules, or larger shares (`mlham data split`)."
            )
    return chosen, tuple(sorted(supported))


def _elements(places: Iterable[Place]) -> set[int]:
    return {z for place in places for z in place.composition}


def in_domain(
    file: HamiltonianFile, split: str, config: TrainConfig | ModelConfig, elements: Iterable[int] = ()
) -> list[int]:
    """Return the records of a split in the domain of a model: its charges, spins of its baseline, elements if given."""
    supported = set(elements)
    inside = ((file.spin == 0) | (config.baseline == SCC)) & np.isin(file.charge, config.charges)
    chosen = [int(i) for i in file.indices(split) if inside[i]]
    return [i for i in chosen if not supported or supported.issuperset(file.numbers(i).tolist())]


def held_out_elsewhere(files: Sequence[HamiltonianFile], train: Sequence[Place]) -> set[Place]:
    """Return training records of molecules that are held out, in another file or under another name.

    A file with geometries of one molecule in several splits was split by geometries on purpose. Such a molecule is
    kept, and only the geometries that are held out are returned.
    """
    held = [Place(file, int(i)) for file in files for i in np.flatnonzero(file.split != "train")]
    trained = {Place(file, int(i)).group for file in files for i in file.indices("train")}
    split_inside = {place.group for place in held} & trained
    molecules = {place.molecule for place in held if place.group not in split_inside}
    geometries = {place.geometry for place in held}
    compositions = {place.composition for place in held}
    suspects = [place for place in train if place.composition in compositions]
    groups = {place.group for place in suspects if place.molecule in molecules} - split_inside
    return {place for place in suspects if place.group in groups or place.geometry in geometries}


def start_from(model: HamiltonianModel, config: TrainConfig, model_config: ModelConfig) -> None:
    """Load the initial weights of a network from the model of its settings, and freeze them if requested."""
    folder = find(config.start)
    found, weights = checkpoint.read(folder)
    for key in ("architecture", "elements", "basis", "baseline"):
        old, new = getattr(found, key), getattr(model_config, key)
        if not _same(key, old, new):
            raise ModelError(f"start: {folder} has {key} {old}, this run {new}; they must be the same.")
    _check_options(folder, found, config, model_config)
    if config.frozen and (other := other_h0(folder, found, model_config)):
        raise ModelError(f"start: {other}; frozen weights cannot adapt: use the PySCF version of the model's card.")
    try:
        missing, unexpected = model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=False)
    except RuntimeError as error:
        raise ModelError(f"start: the weights in {folder} are of other sizes than the network ({error}).") from error
    fresh = ("refiner.",) if config.frozen else ("wrapper.", "refiner.")
    if others := unexpected + [key for key in missing if not key.startswith(fresh)]:
        raise ModelError(f"start: the weights in {folder} are not those of this network ({', '.join(others[:3])} ...).")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not config.frozen or name.startswith("refiner."))


def _same(key: str, one: Any, other: Any) -> bool:
    return bool(NAMES.get(key, operator.eq)(one, other))


def _check_options(folder: Path, found: ModelConfig, config: TrainConfig, new_config: ModelConfig) -> None:
    """Raise ModelError if options differ that no weight's shape depends on, such as the cutoff or the limit."""
    both = "refiner" in found.options and "refiner" in new_config.options

    def described(model: ModelConfig) -> dict[str, Any]:
        sizes = asdict(options_of(model.architecture, model.options["network"]))
        stays = {"wrapper": model.options.get("wrapper"), "xc": model.xc} if config.frozen else {}
        refiner = dict(model.options["refiner"]) if both else {}
        full = part_of("refiner", refiner.pop("name", "none"), refiner) or {}
        full.pop("frames", None)  # on which the weights do not depend
        return {**sizes, **stays, **{f"refiner's {key}": value for key, value in full.items()}}

    old, new = described(found), described(new_config)
    if others := [f"{key} {old[key]} instead of {new[key]}" for key in new if not _same(key, old[key], new[key])]:
        raise ModelError(f"start: {folder} has {', '.join(others)}; they must be the same.")


def other_h0(folder: Path, found: ModelConfig, new_config: ModelConfig) -> str:
    """Return a sentence if a model's weights were trained on another H0 than a run's, "" if on the same."""
    old, new = found.baseline_fingerprint, new_config.baseline_fingerprint
    if same_h0(old, new):
        return ""
    return f"{folder} was trained on another {found.baseline!r} H0 (fingerprint {old}) than this run's ({new})"


def identity_of(
    config: TrainConfig, train: Sequence[Example], val: Sequence[Example], model: ModelConfig
) -> dict[str, Any]:
    """Describe a run, in the types of JSON: its settings, its molecules and their labels, and its network."""
    plain = asdict(config)
    for key in ("output", "data", "checkpoint_minutes", "validate_every"):
        del plain[key]
    if config.start:
        plain["start"] = checkpoint.read_config(find(config.start)).weights_sha256
    plain |= {key: getattr(model, key) for key in ("elements", "options", "xc", "basis", FINGERPRINT)}
    plain |= {"molecules": _digest(e.name for e in train), "validation": _digest(e.name for e in val)}
    plain["labels"] = _digest(e.digest for e in (*train, *val))
    return dict(json.loads(json.dumps(plain)))


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def differences(stored: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """Return the names of differing settings."""
    if same_h0(stored[FINGERPRINT], current[FINGERPRINT]):
        current = current | {FINGERPRINT: stored[FINGERPRINT]}
    return sorted(key for key in stored.keys() | current.keys() if stored.get(key) != current.get(key))
