"""Selection of training and validation records; molecules held out under any name are not trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pyscf.data.elements import ELEMENTS
from rich.console import Console

from pyscf_mlham.data.geometries import group_of, identity_of_record
from pyscf_mlham.data.schema import HamiltonianFile
from pyscf_mlham.errors import DataError
from pyscf_mlham.h0 import SCC
from pyscf_mlham.progress import say
from pyscf_mlham.train.config import TrainConfig


@dataclass(frozen=True)
class Place:
    """Location of a record."""

    file: HamiltonianFile
    index: int

    @property
    def group(self) -> tuple[Path, str]:
        """File and name of the molecule."""
        return self.file.path, str(self.file.group[self.index])

    @property
    def composition(self) -> tuple[int, ...]:
        """Atomic numbers, sorted."""
        return tuple(sorted(self.file.numbers(self.index).tolist()))

    @property
    def molecule(self) -> str:
        """Identity of the molecule by its bonds; of a crystal its group, as frames of one material are split."""
        if self.file.level.pseudo:
            return str(self.file.group[self.index])
        return group_of(self.file.numbers(self.index), self.file.positions(self.index))

    @property
    def geometry(self) -> str:
        """Identity of the geometry."""
        return identity_of_record(self.file, self.index)


def choose(
    files: Sequence[HamiltonianFile], config: TrainConfig, console: Console, started: tuple[int, ...] | None = None
) -> tuple[dict[str, list[Place]], tuple[int, ...]]:
    """Choose molecules of the requested charges, by split; the elements are those of the training molecules.

    Args:
        started: elements of the model with the initial weights, which are kept.

    Returns:
        records of train and val, and the elements, sorted.
    """
    chosen = {split: _requested(files, config, split) for split in ("train", "val")}
    if held := held_out_elsewhere(files, chosen["train"]):
        say(
            console,
            f"{len(held)} training molecules are left out: they are held out for validation or testing in another file "
            "or under another name.",
        )
        chosen["train"] = [place for place in chosen["train"] if place not in held]
    if config.train_molecules:
        order = np.random.default_rng(config.seed).permutation(len(chosen["train"]))
        chosen["train"] = [chosen["train"][i] for i in order[: config.train_molecules]]
    supported = _elements(chosen["train"]) if started is None else set(started)
    if others := _elements(chosen["train"]) - supported:
        text = f"start: {config.start} does not support {symbols(others)}, which training molecules contain"
        raise DataError(f"{text}; leave those molecules out of the data, or train without start.")
    usable = [place for place in chosen["val"] if supported.issuperset(place.composition)]
    if left_out := len(chosen["val"]) - len(usable):
        say(
            console,
            f"{left_out} of {len(chosen['val'])} validation molecules are left out: the model will not support "
            f"{symbols(_elements(chosen['val']) - supported)}.",
        )
    chosen["val"] = usable
    charges = {int(place.file.charge[place.index]) for place in chosen["train"]}
    if missing := sorted(set(config.charges) - charges):
        raise DataError(f"there is no training molecule of charge {missing}; remove it from charges.")
    for split, found in chosen.items():
        if not found:
            raise DataError(
                f"there is no usable molecule in the split {split}; expected closed shells of charge "
                f"{', '.join(map(str, config.charges))}, for val of the elements of the training molecules. See "
                "`mlham data info`; a small set needs more molecules, or larger shares (`mlham data split`)."
            )
    return chosen, tuple(sorted(supported))


def _elements(places: Iterable[Place]) -> set[int]:
    return {z for place in places for z in place.composition}


def symbols(elements: Iterable[int]) -> str:
    """Name elements: H, C."""
    return ", ".join(ELEMENTS[z] for z in sorted(elements))


def _requested(files: Sequence[HamiltonianFile], config: TrainConfig, split: str) -> list[Place]:
    """Return the requested records of a split, with open shells only if the baseline depends on spin."""
    wanted = {ELEMENTS.index(symbol) for symbol in config.elements}
    places = [Place(file, int(i)) for file in files for i in file.indices(split)]
    places = [p for p in places if p.file.charge[p.index] in config.charges]
    if config.baseline != SCC:
        places = [p for p in places if p.file.spin[p.index] == 0]
    return [p for p in places if not wanted or wanted.issuperset(p.composition)]


def held_out_elsewhere(files: Sequence[HamiltonianFile], train: Sequence[Place]) -> set[Place]:
    """Return training records of molecules that are held out, in another file or under another name.

    A file with geometries of one molecule in several splits was split by geometries on purpose. Such a molecule is
    kept, and only the geometries that are held out are returned.
    """
    held = [Place(file, int(i)) for file in files for i in np.flatnonzero(file.split != "train")]
    trained = {Place(file, int(i)).group for file in files for i in file.indices("train")}
    split_inside = {place.group for place in held} & trained
    molecules = {place.molecule for place in held if place.group not in split_inside}
    geometries = {place.geometry for place in held}
    compositions = {place.composition for place in held}
    suspects = [place for place in train if place.composition in compositions]
    groups = {place.group for place in suspects if place.molecule in molecules} - split_inside
    return {place for place in suspects if place.group in groups or place.geometry in geometries}
