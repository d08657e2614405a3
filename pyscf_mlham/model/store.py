"""Finding and loading models, by name or by path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pyscf_mlham import checkpoint
from pyscf_mlham.ao.mole import is_periodic
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.errors import DataError, MLHamError, ModelError, OutOfDomainError
from pyscf_mlham.h0 import BASELINES, fingerprint, same_h0
from pyscf_mlham.model import network, oracle
from pyscf_mlham.model.domain import check_domain, same_functional, same_name
from pyscf_mlham.model.predictor import Predictor
from pyscf_mlham.nn import registry
from pyscf_mlham.scf.problem import check_functional

ARCHITECTURES: dict[str, Callable[[ModelConfig, Mapping[str, np.ndarray]], Predictor]] = {
    oracle.ARCHITECTURE: oracle.OracleModel.from_weights,
    **dict.fromkeys(registry.ARCHITECTURES, network.NetworkModel.from_weights),
}


def shipped() -> dict[str, Path]:
    """Return the folders of the shipped models, by name."""
    package = Path(__file__).resolve().parent.parent
    # in an installed wheel the models are inside the package, in a checkout beside it
    root = next((r for r in (package / "models", package.parent / "models") if r.is_dir()), None)
    if root is None:
        return {}
    return {path.parent.name: path.parent for path in sorted(root.glob(f"*/{checkpoint.CONFIG}"))}


WITHDRAWN = {"organic-b3lyp-svp": "b3lyp-svp"}  # models of earlier versions, and their successors


def find(name_or_path: str | Path) -> Path:
    """Return the folder of a model."""
    folder = shipped().get(str(name_or_path), Path(name_or_path).expanduser())
    if not folder.is_dir() and str(name_or_path) in WITHDRAWN:
        raise ModelError(
            f"model {name_or_path} came with version 0.1.0 and is withdrawn; use {WITHDRAWN[str(name_or_path)]!r}, "
            "which supports the same molecules and more, or the folder of that version."
        )
    if not folder.is_dir():
        names = ", ".join(shipped()) or "none"
        raise ModelError(f"{str(name_or_path)!r}: neither a shipped model ({names}) nor a folder; check name or path.")
    return folder


def load(name_or_path: str | Path) -> Predictor:
    """Load a model; loading the same files again is free."""
    folder = find(name_or_path).resolve()
    return _load_folder(folder, *(_stamp(folder / name) for name in (checkpoint.CONFIG, checkpoint.WEIGHTS)))


def _stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


@lru_cache(maxsize=8)
def _config_of(folder: Path, stamp: int) -> ModelConfig:  # noqa: ARG001  (part of the cache key)
    return checkpoint.read_config(folder)


@lru_cache(maxsize=8)
def _load_folder(folder: Path, *stamps: int) -> Predictor:  # noqa: ARG001  (part of the cache key)
    config, weights = checkpoint.read(folder)
    if config.architecture not in ARCHITECTURES:
        text = f"architecture {config.architecture!r} is not among those of this version ({', '.join(ARCHITECTURES)})"
        raise ModelError(f"{folder}: {text}; update pyscf_mlham.")
    _check_baseline(folder, config)
    ours = any(folder == path.resolve() for path in shipped().values())
    if not ours and config.architecture != oracle.ARCHITECTURE:  # imports torch's compiler, which takes a second
        network.check_shapes(config, weights)
    return ARCHITECTURES[config.architecture](config, weights)


def _check_baseline(folder: Path, config: ModelConfig) -> None:
    """Raise ModelError if this installation computes another H0 than the model's."""
    if config.baseline not in BASELINES:
        text = f"its H0 {config.baseline!r} is not among those of this version ({', '.join(BASELINES)})"
        raise ModelError(f"{folder}: {text}; update pyscf_mlham.")
    if config.baseline_fingerprint is None:
        raise ModelError(f"{folder}: {checkpoint.CONFIG} lacks baseline_fingerprint; its H0 cannot be checked.")
    try:
        check_functional(config.xc)
    except DataError as error:
        raise ModelError(f"{folder}: {error}") from error
    here = fingerprint(config.baseline, config.xc)
    if not same_h0(config.baseline_fingerprint, here):
        raise ModelError(
            f"{folder}: trained on another {config.baseline!r} H0 than this installation computes (fingerprint "
            f"{config.baseline_fingerprint:.6f} of the model, {here:.6f} of this installation); use the PySCF version "
            "of its card."
        )


def best_for(mf: Any, mol: Any) -> Predictor:
    """Load the applicable shipped model that is nearest to a calculation in basis set and functional."""
    crystal, xc = is_periodic(mol), getattr(mf, "xc", "hf")
    suited, errors = [], {}
    for name, folder in shipped().items():
        try:
            config = _config_of(folder, _stamp(folder / checkpoint.CONFIG))
            if bool(config.pseudo) != crystal:
                continue
            check_domain(mf, mol, config)
        except MLHamError as error:
            errors[name] = error
            continue
        suited.append(((not same_name(config.basis, mol.basis), not same_functional(config.xc, xc), name), folder))
    if suited:
        return load(min(suited)[1])
    if not errors:
        sort = "crystals" if crystal else "molecules"
        raise ModelError(f"this version ships no trained model of {sort}; name one by 'ml:<path>' or register()")
    if len(set(map(str, errors.values()))) == 1:  # a missing extra is the same for all
        raise next(iter(errors.values()))
    kind = OutOfDomainError if all(isinstance(e, OutOfDomainError) for e in errors.values()) else ModelError
    reasons = "; ".join(f"{name}: {error}" for name, error in errors.items())
    raise kind(f"no installed model is applicable to this calculation: {reasons}")
