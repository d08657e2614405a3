"""Model folders made to do harm."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from pyscf_mlham import ModelError, OracleModel, checkpoint
from pyscf_mlham.model import store
from support.harmful import EVIL, Change
from support.molecules import mole
from support.networks import ELEMENTS, options_of, random_network


@pytest.fixture(scope="module")
def oracle() -> OracleModel:
    return OracleModel.of(mole(basis="sto-3g").RHF().run())


def edited(folder: Path, **changes: Any) -> None:
    """Change a model's configuration, and its checksum with its weights."""
    path = folder / checkpoint.CONFIG
    content = yaml.safe_load(path.read_text()) | changes
    content["weights_sha256"] = hashlib.sha256((folder / checkpoint.WEIGHTS).read_bytes()).hexdigest()
    path.write_text(yaml.safe_dump(content))


def weights(folder: Path, data: bytes) -> None:
    (folder / checkpoint.WEIGHTS).write_bytes(data)
    edited(folder)


def claims(count: int) -> bytes:
    text = json.dumps({"numbers": {"dtype": "F64", "shape": [count], "data_offsets": [0, 8 * count]}}).encode()
    return struct.pack("<Q", len(text)) + text


def of_other_shapes(**changes: np.ndarray) -> Change:
    def change(folder: Path) -> None:
        content = checkpoint.read(folder)[1] | changes
        save_file({key: np.array(value, order="C") for key, value in content.items()}, folder / checkpoint.WEIGHTS)
        edited(folder)

    return change


def bomb(folder: Path) -> None:
    levels = "\n".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12))
    (folder / checkpoint.CONFIG).write_text(f"a0: &a0 [1]\n{levels}\nelements: *a11\n")


def replaced(name: str, make: Change) -> Change:
    return lambda folder: ((folder / name).unlink(), make(folder / name))


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**41)


def of_a_file(folder: Path) -> None:
    Path("evil").write_text(f"BASIS\n{EVIL}END\n")
    edited(folder, basis="evil")


MODELS: dict[str, tuple[Change, str]] = {
    "1e12 elements": (lambda f: weights(f, claims(10**12)), "not a safetensors file"),
    "a header of 1e15 bytes": (lambda f: weights(f, struct.pack("<Q", 10**15)), "not a safetensors file"),
    "huge file": (replaced(checkpoint.WEIGHTS, sparse), r"weights.safetensors: cannot be read \(larger than"),
    "pipe": (replaced(checkpoint.WEIGHTS, os.mkfifo), "not a regular file"),
    "device": (replaced(checkpoint.WEIGHTS, lambda p: p.symlink_to("/dev/zero")), "not a regular file"),
    "huge configuration": (replaced(checkpoint.CONFIG, sparse), r"config.yaml: cannot be read \(larger than"),
    "YAML bomb": (bomb, "an alias in line 2"),
    "deep YAML": (lambda f: (f / checkpoint.CONFIG).write_text("[" * 10**5), "not a YAML file"),
    "long number": (lambda f: (f / checkpoint.CONFIG).write_text("a: " + "9" * 10**5), "not a YAML file"),
    "YAML code": (lambda f: (f / checkpoint.CONFIG).write_text("!!python/object/apply:os.mkdir [harm]"), "not a YAML"),
    "keys of two types": (
        lambda f: (f / checkpoint.CONFIG).write_text("format_version: 1\n1: 1\nx: 1"),
        "unknown keys",
    ),
    "code as basis": (lambda f: edited(f, basis=EVIL), "expected the name of one of PySCF's basis sets"),
    "path as basis": (lambda f: edited(f, basis="../../etc/passwd"), "expected the name of one of PySCF's basis sets"),
    "file as basis": (of_a_file, "'evil' is the name of a file here"),
    "no basis": (lambda f: edited(f, basis="nothing"), "PySCF cannot build its molecule in basis 'nothing'"),
    "no functional": (lambda f: edited(f, xc="nothing"), "not a functional of PySCF"),
    "heavy element": (lambda f: edited(f, elements=[10**12]), "must be atomic numbers, 1 to 118"),
    "charge": (lambda f: edited(f, charges=[10**30]), "PySCF cannot build its molecule"),
    "atoms without a matrix": (of_other_shapes(correction=np.zeros((2, 2))), "its weights have the shapes"),
    "places": (of_other_shapes(positions=np.zeros((3, 2))), "its weights have the shapes"),
    "vector": (of_other_shapes(correction=np.zeros(7)), "its weights have the shapes"),
    "matrix": (of_other_shapes(correction=np.zeros((8, 8))), "has 7 functions, its matrix 8"),
    "atoms": (of_other_shapes(numbers=np.array([8, 8, 200])), "PySCF cannot build its molecule"),
}


@pytest.mark.filterwarnings("ignore:Basis may be available:UserWarning")  # PySCF's own, of unknown basis sets
@pytest.mark.parametrize(("change", "message"), MODELS.values(), ids=MODELS)
def test_model_folders(change: Change, message: str, folder: Path, oracle: OracleModel) -> None:
    oracle.save(folder / "model")
    store.load("model")
    change(folder / "model")
    with pytest.raises(ModelError, match=message):
        store.load("model")


SIZES: dict[str, tuple[dict[str, Any], str]] = {
    "channels": ({"network": {"channels": 10**9}}, "qhnetv2: channels must be .*at most 4096"),
    "degree": ({"network": {"degree": 10**6}}, "qhnetv2: degree must be .*at most 12"),
    "layers": ({"network": {"layers": 10**6}}, "qhnetv2: layers must be .*at most 64"),
    "all of them": ({"network": {"channels": 4096, "hidden": 4096, "pair_channels": 4096}}, "do not fit its network"),
    "template": ({"template": [10**6]}, "too many orbitals"),
    "no template": ({"template": []}, "too many orbitals of an atom, or none"),
    "text": ({"template": ["a"]}, "expected the number of shells"),
    "list": ({"network": [1]}, "must be keys and values"),
    "refiner": (
        {"refiner": {"name": "harmose", "channels": 10**9}},
        "harmose: channels must be .*at most 4096",
    ),
    "name": ({"refiner": {"name": ["harmose"]}}, "unknown network"),
}


@pytest.mark.parametrize(("change", "message"), SIZES.values(), ids=SIZES)
def test_sizes_of_networks(change: dict[str, Any], message: str, folder: Path) -> None:
    options = options_of("qhnetv2")
    known = {"charges": (0,), "basis": "sto-3g", "xc": "hf", "baseline": "sap", "baseline_fingerprint": 0.0}
    config = checkpoint.ModelConfig("n", "qhnetv2", ELEMENTS, **known, options=options)
    state = random_network("qhnetv2").state_dict()
    checkpoint.write(folder / "model", config, {key: tensor.numpy() for key, tensor in state.items()})
    edited(folder / "model", baseline_fingerprint=store.fingerprint("sap", "hf"))
    store.load("model")
    for key, value in change.items():
        whole = options[key] | value if isinstance(value, dict) and key in options else value
        edited(folder / "model", options=options | {key: whole})
    with pytest.raises(ModelError, match=message):
        store.load("model")
