"""How a run starts: initial weights from another model, which must match; and what its own checkpoint must match."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pyscf_mlham import checkpoint
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.data.dataset import Example
from pyscf_mlham.errors import ModelError
from pyscf_mlham.h0 import same_h0
from pyscf_mlham.model.domain import same_name
from pyscf_mlham.model.store import shipped
from pyscf_mlham.nn.model import HamiltonianModel, options_of, part_of
from pyscf_mlham.train.config import TrainConfig

NAMES = ("xc", "basis")  # with several spellings in PySCF
FINGERPRINT = "baseline_fingerprint"
LATER = {"xc", "basis", FINGERPRINT, "validation", "labels"}  # missing in checkpoints of earlier versions


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


def identity_of(config: TrainConfig, train: Sequence[Example], val: Sequence[Example], model: ModelConfig) -> str:
    """Describe a run, as JSON: its settings, its molecules and their labels, and its network."""
    plain = asdict(config)
    for key in ("output", "data", "checkpoint_minutes", "validate_every"):
        del plain[key]
    for key in ("wrapper", "wrapper_options", "refiner", "refiner_options", "start", "frozen"):
        if plain[key] in ("none", "", {}, False):  # equal to runs of versions without these settings
            del plain[key]
    if config.start:
        plain["start"] = checkpoint.read_config(start_folder(config)).weights_sha256
    if config.wrapper == "none":
        del plain["loss"]["trace"]
    plain |= {key: getattr(model, key) for key in ("elements", "options", "xc", "basis", FINGERPRINT)}
    plain |= {"molecules": _digest(e.name for e in train), "validation": _digest(e.name for e in val)}
    plain["labels"] = _digest(e.digest for e in (*train, *val))
    return json.dumps(plain, sort_keys=True)


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def differences(stored: str, current: str) -> list[str]:
    """Return the names of differing settings; those missing in a checkpoint of an earlier version are not compared."""
    old, new = json.loads(stored), json.loads(current)
    keys = (old.keys() | new.keys()) - (LATER - old.keys())
    different = {key for key in keys if key not in old or key not in new or old[key] != new[key]}
    if FINGERPRINT in different and same_h0(old[FINGERPRINT], new.get(FINGERPRINT)):
        different.remove(FINGERPRINT)
    return sorted(different)
