"""Identity of a training run: the settings and data that determine its weights, compared when it is resumed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence

from pyscf_mlham import checkpoint
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.data.dataset import Example
from pyscf_mlham.h0 import same_h0
from pyscf_mlham.train.config import TrainConfig
from pyscf_mlham.train.start import start_folder

FINGERPRINT = "baseline_fingerprint"
LATER = {"xc", "basis", FINGERPRINT, "validation", "labels"}  # missing in checkpoints of earlier versions


def identity_of(config: TrainConfig, train: Sequence[Example], val: Sequence[Example], model: ModelConfig) -> str:
    """Describe a run, as JSON: its settings, its molecules and their labels, and its network."""
    plain = dataclasses.asdict(config)
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
