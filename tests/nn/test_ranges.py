"""Sizes of networks that mean nothing are refused by name; what was left out at will, 0 layers, is not."""

from __future__ import annotations

import math

import pytest

from pyscf_mlham.errors import ModelError
from pyscf_mlham.nn.model import build, options_of, part_of
from support.networks import ELEMENTS, REFINER, SIZES, TEMPLATE, WRAPPER


@pytest.mark.parametrize(
    ("architecture", "sizes", "message"),
    [
        ("qhnetv2", {"cutoff": 0.0}, r"qhnetv2: cutoff must be more than 0 and less than inf, found 0\.0"),
        ("qhnetv2", {"cutoff": -5}, "qhnetv2: cutoff must be more than 0 and less than inf, found -5"),
        ("qhnetv2", {"cutoff": math.nan}, "qhnetv2: cutoff must be .*, found nan"),
        ("qhnetv2", {"cutoff": math.inf}, "qhnetv2: cutoff must be .*, found inf"),
        ("qhnetv2", {"cutoff": "1e1"}, r"must be a number \(float\), found '1e1' \(YAML needs 3\.0e-3\)"),
        ("qhnetv2", {"channels": 0}, "qhnetv2: channels must be 1 or more and at most 4096, found 0"),
        ("qhnetv2", {"layers": -1}, "qhnetv2: layers must be 0 or more and at most 64, found -1"),
        ("qhnetv2", {"product": 8.0}, r"qhnetv2: product must be a number \(int\), found 8\.0\."),
        ("qhnetv2", {"layers": True}, r"qhnetv2: layers must be a number \(int\), found True"),
        ("qhnet", {"pair_layers": -1}, "qhnet: pair_layers must be 0 or more and at most 64, found -1"),
    ],
)
def test_sizes_out_of_range(architecture: str, sizes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        options_of(architecture, sizes)
    with pytest.raises(ModelError, match=message):
        build(architecture, sizes, TEMPLATE, ELEMENTS)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"frames": 2.0}, r"harmose: frames must be a number \(int\), found 2\.0"),
        ({"limit": 0.0}, r"harmose: limit must be more than 0 and less than inf, found 0\.0"),
        ({"limit": math.nan}, "harmose: limit must be more than 0"),
        ({"heads": 0}, "harmose: heads must be 1 or more and at most 4096, found 0"),
    ],
)
def test_sizes_of_parts_out_of_range(sizes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        part_of("refiner", "harmose", sizes)
    with pytest.raises(ModelError, match=message):
        build("qhnetv2", SIZES["qhnetv2"], TEMPLATE, ELEMENTS, refiner=REFINER | sizes)


def test_zero_is_a_size_of_optional_parts() -> None:
    without = {"layers": 0, "product": 0, "largest_m": 0, "cutoff": 9}
    made = build("qhnetv2", SIZES["qhnetv2"] | without, TEMPLATE, ELEMENTS, wrapper=WRAPPER | {"quadratic": 0})
    assert len(made.backbone.layers) == 0
    assert len(build("qhnet", SIZES["qhnet"] | {"pair_layers": 0}, TEMPLATE, ELEMENTS).backbone.squares) == 0
