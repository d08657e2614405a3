"""Prepare a model for further elements, which may have more shells: the start of a training.

python widen.py MODEL FOLDER Mo S. Weights of a network qhnetv2 are put among random new ones. Crystals of the model's
elements keep their Hamiltonian, but for the small numbers that norms add to their squares; with --largest-m nearly so.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from pyscf.data.elements import ELEMENTS
from torch import Tensor

from pyscf_mlham import checkpoint
from pyscf_mlham.ao.layout import MAX_DEGREE
from pyscf_mlham.data.dataset import template_of
from pyscf_mlham.features import N_INPUTS
from pyscf_mlham.nn.model import HamiltonianModel, network_from_config


class Places:
    """Places of the old components, channels and elements among the new ones."""

    def __init__(self, old: HamiltonianModel, new: HamiltonianModel, elements: list[int]) -> None:
        starts = [new.template.slices[l].start for l in range(len(old.template.counts))]
        parts = zip(starts, old.template.slices, strict=True)
        components = np.concatenate([a + np.arange(part.stop - part.start) for a, part in parts])
        self.block = (components[:, None] * new.template.size + components).ravel()
        self.elements, self.n_pair = elements, old.options.pair_channels
        self.keys = [model.backbone.coupling.degrees for model in (old, new)]
        self.atoms = self._of_atoms(old.backbone.coupling, new.backbone.coupling)
        self.pairs = self._of_pairs(old.backbone.polar, new.backbone.polar)

    def _of_atoms(self, old, new) -> dict[tuple[int, bool], np.ndarray]:
        """Channels of the irreps of onsite blocks."""
        found = self._columns(old.matrix, new.matrix)
        old_starts, new_starts = (
            dict(zip(c.degrees, accumulate([0] + [(2 * l + 1) * c.channels[l, p] for l, p in c.degrees]), strict=False))
            for c in (old, new)
        )
        return {key: found[old_starts[key] :][:n] - new_starts[key] for key, n in old.channels.items()}

    def _of_pairs(self, old, new) -> list[np.ndarray]:
        """Channels of each m of the blocks of pairs."""
        matrices = [
            torch.zeros(p.size**2, p.size**2, dtype=p.factors.dtype).scatter_add(1, p.terms, p.factors).T
            for p in (old, new)
        ]
        found = self._columns(*matrices)
        old_starts, new_starts = (
            list(accumulate([0, *p.widths[:2], *(2 * n for n in p.widths[2:])])) for p in (old, new)
        )
        return [found[old_starts[m] :][:n] - new_starts[m] for m, n in enumerate(old.widths)]

    def _columns(self, old: Tensor, new: Tensor) -> np.ndarray:
        """Return the column of the new change of basis that is each column of the old one."""
        largest, places = (old.T @ new[self.block]).max(dim=1)
        assert torch.allclose(largest, torch.ones_like(largest), atol=1e-5)
        return places.numpy()


def new_places(name: str, old: tuple[int, ...], new: tuple[int, ...], places: Places) -> list[np.ndarray]:
    """Return the place of each row and column of a weight: the same, but for those named here."""
    axes = [np.arange(n) for n in old]
    *_, group, last = ("", *name.split("."))
    if re.search(r"layers.\d+.(enter.weights|leave.bias)", name):  # irreps of the atoms, then the pair's channels
        axes[0] = np.r_[: old[0] - places.n_pair, new[0] - places.n_pair : new[0]]
    elif re.search(r"layers.\d+.leave.weights", name):
        axes[1] = np.r_[: old[1] - places.n_pair, new[1] - places.n_pair : new[1]]
    elif name.startswith(("backbone.elements", "onsite.scales")):
        axes[0] = places.elements
    elif name == "onsite.biases.weight":
        axes = [places.elements, places.atoms[0, True]]
    elif name.startswith("onsite.weights"):
        axes[1] = places.atoms[places.keys[0][int(last)]]
    elif name.startswith("pair.leave"):
        axes[-1] = places.pairs[int(last)] if group == "weights" else places.pairs[0]
    elif name.startswith("backbone.atom_input"):
        axes[0] = of_inputs(places.atoms[int(last), True], new[0])
    elif name.startswith("backbone.pair_input.weights"):
        axes[0] = of_inputs(places.pairs[int(last)], new[0])
    return axes


def of_inputs(channels: np.ndarray, width: int) -> np.ndarray:
    """Return the places of the channels of every input matrix."""
    return (np.arange(N_INPUTS)[:, None] * (width // N_INPUTS) + channels).ravel()


def widened(old: HamiltonianModel, new: HamiltonianModel, places: Places) -> dict[str, np.ndarray]:
    """Return the weights of the new network."""
    weights = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    for name, tensor in weights.items():
        if re.search(r"layers.\d+.leave", name):
            tensor *= 0.0  # no message of higher degree or order from the elements of the old model
        if re.search(r"layers.\d+.enter.weights", name):
            tensor[:, -2 * new.options.product :] *= 0.0  # nor in the tensor product
    fewer = (old.options.degree + 1) / (new.options.degree + 1)  # rows of an atom's features, which are not zero
    fewer_orders = ((old.options.largest_m + 1) / (new.options.largest_m + 1)) ** 0.5
    for name, tensor in old.state_dict().items():
        if re.search("atom_norm|out_norm", name):
            tensor = tensor * fewer
        if "pair_norm" in name:
            tensor = tensor * fewer_orders
        place = name
        if name.startswith("onsite.weights"):
            place = f"onsite.weights.{places.keys[1].index(places.keys[0][int(name.split('.')[-1])])}"
        into = new_places(name, tuple(tensor.shape), tuple(weights[place].shape), places)
        weights[place][np.ix_(*into)] = tensor
    return {name: tensor.numpy() for name, tensor in weights.items()}


def main() -> None:
    """Write the wider model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("elements", nargs="*")
    parser.add_argument("--largest-m", type=int, help="of the tensor products; 4 reaches all elements of two d shells")
    parser.add_argument("--largest-l", type=int, help="of the shells that are corrected, 2 for d shells")
    args = parser.parse_args()
    config, weights = checkpoint.read(args.model)
    elements = sorted({*config.elements, *map(ELEMENTS.index, args.elements)})
    sizes = dict(config.options["network"])
    if args.largest_l is not None:
        sizes["largest_l"] = args.largest_l
    template = template_of(elements, config.basis).within(sizes.get("largest_l", MAX_DEGREE))
    sizes["degree"] = max(sizes["degree"], 2 * (len(template.counts) - 1))
    if args.largest_m is not None:
        sizes["largest_m"] = args.largest_m
    options = {"template": list(template.counts), "network": sizes}
    wider = dataclasses.replace(config, name=args.folder.name, elements=tuple(elements), options=options)
    torch.manual_seed(0)
    old, new = network_from_config(config), network_from_config(wider)
    old.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    places = Places(old, new, [elements.index(z) for z in config.elements])
    checkpoint.write(args.folder, wider, widened(old, new, places))


if __name__ == "__main__":
    main()
