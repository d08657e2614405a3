"""Initial weights from another model, and the check that it matches the network."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pyscf_mlham import checkpoint
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.errors import ModelError
from pyscf_mlham.h0 import same_h0
from pyscf_mlham.model.domain import same_name
from pyscf_mlham.model.store import shipped
from pyscf_mlham.nn.model import HamiltonianModel, options_of, part_of
from pyscf_mlham.train.config import TrainConfig

NAMES = ("xc", "basis")  # with several spellings in PySCF


def start_folder(config: TrainConfig) -> Path:
    """Return the folder of the model with the initial weights."""
    return shipped().get(config.start, Path(config.start))


def start_from(model: HamiltonianModel, config: TrainConfig, model_config: ModelConfig) -> None:
    """Load the initial weights of a network from the model of its settings, and freeze them if requested."""
    folder = start_folder(config)
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
    if lost := unexpected + [key for key in missing if not key.startswith(fresh)]:
        raise ModelError(f"start: the weights in {folder} are not those of this network ({', '.join(lost[:3])} ...).")
    if config.frozen:
        model.freeze_first_stage()


def _same(key: str, one: Any, other: Any) -> bool:
    return same_name(one, other) if key in NAMES else bool(one == other)


def _check_options(folder: Path, found: ModelConfig, config: TrainConfig, wanted: ModelConfig) -> None:
    """Raise ModelError if options differ that no weight's shape depends on, such as the cutoff or the limit."""
    both = "refiner" in found.options and "refiner" in wanted.options

    def described(model: ModelConfig) -> dict[str, Any]:
        sizes = asdict(options_of(model.architecture, model.options["network"]))
        stays = {"wrapper": model.options.get("wrapper"), "xc": model.xc} if config.frozen else {}
        return {**sizes, **stays, **(_refiner_sizes(model) if both else {})}

    old, new = described(found), described(wanted)
    if others := [f"{key} {old[key]} instead of {new[key]}" for key in new if not _same(key, old[key], new[key])]:
        raise ModelError(f"start: {folder} has {', '.join(others)}; they must be the same.")


def _refiner_sizes(model: ModelConfig) -> dict[str, Any]:
    """Return the sizes of a trained refiner, without the number of frames, on which its weights do not depend."""
    sizes = dict(model.options["refiner"])
    full = part_of("refiner", sizes.pop("name", ""), sizes) or {}
    return {f"refiner's {key}": value for key, value in full.items() if key != "frames"}


def other_h0(folder: Path, found: ModelConfig, wanted: ModelConfig) -> str:
    """Return a sentence if a model's weights were trained on another H0 than a run's, "" if on the same."""
    old, new = found.baseline_fingerprint, wanted.baseline_fingerprint
    if same_h0(old, new):
        return ""
    return f"{folder} was trained on another {found.baseline!r} H0 (fingerprint {old}) than this run's ({new})"
