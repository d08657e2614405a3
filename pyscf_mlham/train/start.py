"""The model whose weights a network starts from, and what the two must have in common."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pyscf_mlham import checkpoint
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.errors import ModelError
from pyscf_mlham.h0 import same_h0
from pyscf_mlham.model.predictor import same_name
from pyscf_mlham.model.store import shipped
from pyscf_mlham.nn.model import HamiltonianModel, options_of, part_of
from pyscf_mlham.train.config import TrainConfig

NAMES = ("xc", "basis")  # of which PySCF knows several spellings


def start_folder(config: TrainConfig) -> Path:
    """Return the folder of the model that a network starts from.

    Args:
        config: settings.
    """
    return shipped().get(config.start, Path(config.start))


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
        if not _same(key, there, here):
            raise ModelError(f"start: {folder} has {key} {there}, this run {here}; they must be the same.")
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


def _same(key: str, there: Any, here: Any) -> bool:
    return same_name(there, here) if key in NAMES else bool(there == here)


def _check_options(folder: Path, found: ModelConfig, config: TrainConfig, wanted: ModelConfig) -> None:
    """Refuse what no weight's shape shows: with another cutoff, or limit, the same weights are another network."""
    both = "refiner" in found.options and "refiner" in wanted.options

    def described(model: ModelConfig) -> dict[str, Any]:
        sizes = asdict(options_of(model.architecture, model.options["network"]))
        stays = {"wrapper": model.options.get("wrapper"), "xc": model.xc} if config.frozen else {}
        return {**sizes, **stays, **(_refiner_sizes(model) if both else {})}

    there, here = described(found), described(wanted)
    if others := [
        f"{key} {there[key]} instead of {here[key]}" for key in here if not _same(key, there[key], here[key])
    ]:
        raise ModelError(f"start: {folder} has {', '.join(others)}; they must be the same.")


def _refiner_sizes(model: ModelConfig) -> dict[str, Any]:
    """Return what a trained refiner is made of; over how many frames it is averaged is no matter of its weights."""
    sizes = dict(model.options["refiner"])
    full = part_of("refiner", sizes.pop("name", ""), sizes) or {}
    return {f"refiner's {key}": value for key, value in full.items() if key != "frames"}


def other_h0(folder: Path, found: ModelConfig, wanted: ModelConfig) -> str:
    """Say that a model's weights were trained on another H0 than a run's; nothing where it is the same.

    Args:
        folder: of the model.
        found: its config.
        wanted: of the run's model.
    """
    there, here = found.baseline_fingerprint, wanted.baseline_fingerprint
    if same_h0(there, here):
        return ""
    return f"{folder} was trained on another {found.baseline!r} H0 (fingerprint {there}) than this run's ({here})"
