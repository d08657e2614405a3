"""A model on disk: a folder with config.yaml, weights.safetensors and, if it is shipped, card.md. No pickle."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pyscf_mlham.errors import ModelError, needed
from pyscf_mlham.options import from_keys
from pyscf_mlham.untrusted import check_basis, read_bounded

CONFIG = "config.yaml"
WEIGHTS = "weights.safetensors"
FORMAT_VERSION = 1
MOST_CONFIG, MOST_WEIGHTS = 2**20, 2**32  # bytes
HEAVIEST = 118
RENAMED = "_told.", "_keys_values."  # in the weights of HarmoSE since version 0.2.0


@dataclass(frozen=True)
class ModelConfig:
    """Configuration of a model: the keys of config.yaml.

    Attributes:
        name: name of the model in logs.
        architecture: network of the weights.
        elements: supported atomic numbers.
        charges: supported total charges.
        basis: name of its native basis set, spherical.
        xc: functional of its training data, "hf" for Hartree-Fock.
        baseline: name of its H0.
        grid_level: PySCF grid level of the labels.
        baseline_fingerprint: `fingerprint` of the installation on which it was trained, Hartree.
        weights_sha256: checksum of weights.safetensors.
        options: settings of the architecture.
        format_version: version of this file's format.
        pseudo: name of the pseudopotentials of a model of crystals, "" of one of molecules.
    """

    name: str
    architecture: str
    elements: tuple[int, ...]
    charges: tuple[int, ...]
    basis: str
    xc: str
    baseline: str
    grid_level: int = 3
    baseline_fingerprint: float | None = None
    weights_sha256: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    pseudo: str = ""


def write(folder: str | Path, config: ModelConfig, weights: Mapping[str, np.ndarray]) -> ModelConfig:
    """Write a model folder, or replace one file after the other; `read` detects a crash between the two."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = needed("safetensors.numpy").save({name: np.asarray(array, order="C") for name, array in weights.items()})
    config = dataclasses.replace(config, weights_sha256=hashlib.sha256(data).hexdigest())
    plain = dataclasses.asdict(config) | {"elements": list(config.elements), "charges": list(config.charges)}
    replace_file(folder / WEIGHTS, data)
    replace_file(folder / CONFIG, needed("yaml").safe_dump(plain, sort_keys=False).encode())
    return config


def read(folder: Path) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """Read a model; raise ModelError with the reason if it is invalid."""
    config = read_config(folder)
    path = folder / WEIGHTS
    try:
        data = read_bounded(path, MOST_WEIGHTS)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); copy the whole model folder.") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != config.weights_sha256:
        text = f"sha256 {digest[:12]}..., expected {config.weights_sha256[:12]}... from {CONFIG}"
        raise ModelError(f"{path}: damaged or incomplete ({text}); copy the model again.")
    load, damaged = needed("safetensors.numpy").load, needed("safetensors").SafetensorError
    try:
        return config, {name.replace(*RENAMED): array for name, array in load(data).items()}
    except damaged as error:
        raise ModelError(f"{path}: not a safetensors file ({error}); copy the model again.") from error


def read_config(folder: Path) -> ModelConfig:
    """Read and check config.yaml; an unknown key, a missing key or a wrong type is an error."""
    path, yaml = folder / CONFIG, needed("yaml")
    try:
        content = yaml.load(read_bounded(path, MOST_CONFIG), _loader(yaml))
    except OSError as error:
        text = f"cannot be read ({error.strerror}); a model is a folder with {CONFIG} and {WEIGHTS}"
        raise ModelError(f"{path}: {text}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not a YAML file ({error}); copy the model again.") from error
    version = content.get("format_version") if isinstance(content, dict) else FORMAT_VERSION
    if version != FORMAT_VERSION:
        raise ModelError(f"{path}: format version {version}, expected {FORMAT_VERSION}; update pyscf_mlham.")
    config = from_keys(ModelConfig, content, str(path))
    if not (config.elements and config.charges):
        raise ModelError(f"{path}: elements and charges must not be empty.")
    if not all(1 <= z <= HEAVIEST for z in config.elements):
        raise ModelError(f"{path}: elements must be atomic numbers, 1 to {HEAVIEST}.")
    try:
        check_basis(config.basis)
    except ValueError as error:
        raise ModelError(f"{path}: {error}.") from error
    return config


def _loader(yaml: Any) -> Any:
    """Return PyYAML's safe loader without aliases, by which a small file becomes a large object."""

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError(f"an alias in line {self.peek_event().start_mark.line + 1}")
            return super().compose_node(parent, index)

    return Loader


def replace_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it into place."""
    with replacement(path, str(os.getpid())) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replacement(path: Path, suffix: str = "writing") -> Iterator[Path]:
    """Yield the path of a temporary file, which takes the place of another one when it is complete and on the disk.

    Processes that write the same file at the same time need different suffixes.
    """
    temporary = path.with_name(f".{path.name}.{suffix}")
    try:
        yield temporary
        _to_disk(temporary)
        temporary.replace(path)
        _to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Flush a file, or a folder's list of files, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
