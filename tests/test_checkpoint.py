"""Models on disk: what is written is read, and damage is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from pyscf_mlham import checkpoint
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.errors import ModelError

CONFIG = ModelConfig(
    name="small", architecture="oracle", elements=(1, 8), charges=(0, -1), basis="sto-3g", xc="b3lyp", baseline="sap",
    baseline_fingerprint=1.0, options={"width": 3},
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoint.write(tmp_path / "model", CONFIG, {"a": np.arange(6.0).reshape(2, 3), "b": np.array(3)})
    return tmp_path / "model"


def test_model_is_read_as_it_was_written(folder: Path) -> None:
    config, weights = checkpoint.read(folder)
    assert (config.name, config.elements, config.charges, config.options) == ("small", (1, 8), (0, -1), {"width": 3})
    assert len(config.weights_sha256) == 64
    np.testing.assert_array_equal(weights["a"], np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(weights["b"], np.array(3), strict=True)
    assert sorted(p.name for p in folder.iterdir()) == ["config.yaml", "weights.safetensors"]


def test_writing_a_model_again_replaces_it(folder: Path) -> None:
    checkpoint.write(folder, CONFIG, {"a": np.zeros(1)})
    assert set(checkpoint.read(folder)[1]) == {"a"}


def test_weights_of_version_0_2_0_have_their_new_names(folder: Path) -> None:
    old, new = ((f"layers.0.atom_{name}.weight", f"layers.0.pair_{name}.weight") for name in ("told", "keys_values"))
    checkpoint.write(folder, CONFIG, {name: np.full(1, len(name)) for name in (*old, "onsite.bias")})
    assert checkpoint.read(folder)[1] == dict(zip(new, map(len, old), strict=True)) | {"onsite.bias": 11}


def test_a_failed_write_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(folder, CONFIG, {"a": np.zeros(1)})
    monkeypatch.undo()
    assert set(checkpoint.read(folder)[1]) == {"a", "b"}
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped bit", "empty"])
def test_damaged_weights(folder: Path, damage: str) -> None:
    path = folder / checkpoint.WEIGHTS
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "flipped bit":
        data[-1] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(data[:50] if damage == "truncated" else b"")
    with pytest.raises(ModelError, match=r"weights\.safetensors"):
        checkpoint.read(folder)


def test_weights_that_are_no_safetensors(folder: Path) -> None:
    import hashlib

    (folder / checkpoint.WEIGHTS).write_bytes(b"not tensors at all")
    _edit(folder, weights_sha256=hashlib.sha256(b"not tensors at all").hexdigest())
    with pytest.raises(ModelError, match="not a safetensors file"):
        checkpoint.read(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "blue"}, r"unknown keys \['colour'\]"),
        ({"basis": None}, "basis must be text"),
        ({"elements": "H"}, "elements must be a list of integers"),
        ({"charges": []}, "must not be empty"),
        ({"charges": [0.7]}, r"charges must be a list of integers, found \[0\.7\]"),
        ({"charges": "10"}, "charges must be a list of integers, found '10'"),
        ({"charges": [True]}, "a list of integers"),
        ({"elements": ["1"]}, "elements must be a list of integers"),
        ({"grid_level": "fine"}, r"grid_level must be a number \(int\)"),
        ({"baseline_fingerprint": "abc"}, "baseline_fingerprint must be a number"),
        ({"options": 3}, "options must be keys and values"),
        ({"format_version": 99}, "format version 99, expected 1"),
    ],
)
def test_bad_configs(folder: Path, change: dict[str, object], message: str) -> None:
    _edit(folder, **change)
    with pytest.raises(ModelError, match=message):
        checkpoint.read(folder)


def test_missing_key_is_named(folder: Path) -> None:
    path = folder / checkpoint.CONFIG
    content = yaml.safe_load(path.read_text())
    del content["xc"]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ModelError, match=r"missing keys \['xc'\]"):
        checkpoint.read(folder)


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [1", "\x00"])
def test_configs_that_are_no_mapping(folder: Path, text: str) -> None:
    (folder / checkpoint.CONFIG).write_text(text)
    with pytest.raises(ModelError, match=r"config\.yaml"):
        checkpoint.read(folder)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.yaml: cannot be read"):
        checkpoint.read(tmp_path / "nowhere")


def _edit(folder: Path, **change: object) -> None:
    path = folder / checkpoint.CONFIG
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
