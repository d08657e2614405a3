"""Which records of the files train and which validate; none trains that is held out under another name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pyscf.data.elements import ELEMENTS
from rich.console import Console

from pyscf_mlham.data.geometries import group_of, identity
from pyscf_mlham.data.schema import HamiltonianFile
from pyscf_mlham.errors import DataError
from pyscf_mlham.h0 import SCC
from pyscf_mlham.train.config import TrainConfig


@dataclass(frozen=True)
class Place:
    """Where a record is.

    Attributes:
        file: that holds it, open.
        index: of the record.
    """

    file: HamiltonianFile
    index: int

    @property
    def group(self) -> tuple[Path, str]:
        """The molecule, as the file calls it."""
        return self.file.path, str(self.file.group[self.index])

    @property
    def composition(self) -> tuple[int, ...]:
        """Atomic numbers, sorted."""
        return tuple(sorted(self.file.numbers(self.index).tolist()))

    @property
    def molecule(self) -> str:
        """The molecule, by its bonds."""
        return group_of(self.file.numbers(self.index), self.file.positions(self.index))

    @property
    def geometry(self) -> str:
        """Identity of the geometry."""
        file, i = self.file, self.index
        return identity(file.numbers(i), file.positions(i), int(file.charge[i]), int(file.spin[i]))


def choose(
    files: Sequence[HamiltonianFile], config: TrainConfig, console: Console, started: tuple[int, ...] | None = None
) -> tuple[dict[str, list[Place]], tuple[int, ...]]:
    """Choose molecules of the charges asked for, by split; the elements are those of the training molecules.

    Args:
        files: of labelled molecules, open.
        config: settings.
        console: to draw on.
        started: the elements of the model that the weights start from, which the new one keeps.

    Returns:
        records of train and val, and the elements, sorted.
    """
    chosen = {split: _served(files, config, split) for split in ("train", "val")}
    if held := held_out_elsewhere(files, chosen["train"]):
        console.print(
            f"{len(held)} training molecules are left out: they are held out for validation or testing in another file "
            "or under another name."
        )
        chosen["train"] = [place for place in chosen["train"] if place not in held]
    if config.train_molecules:
        order = np.random.default_rng(config.seed).permutation(len(chosen["train"]))
        chosen["train"] = [chosen["train"][i] for i in order[: config.train_molecules]]
    known = _elements(chosen["train"]) if started is None else set(started)
    if foreign := _elements(chosen["train"]) - known:
        raise DataError(
            f"start: {config.start} does not know {symbols(foreign)}, which training molecules have; leave those "
            "molecules out of the data, or train without start."
        )
    usable = [place for place in chosen["val"] if known.issuperset(place.composition)]
    if lost := len(chosen["val"]) - len(usable):
        console.print(
            f"{lost} of {len(chosen['val'])} validation molecules are left out: the model will not know "
            f"{symbols(_elements(chosen['val']) - known)}.",
            highlight=False,
            soft_wrap=True,
        )
    chosen["val"] = usable
    charges = {int(place.file.charge[place.index]) for place in chosen["train"]}
    if missing := sorted(set(config.charges) - charges):
        raise DataError(f"there is no training molecule of charge {missing}; take it out of charges.")
    for split, found in chosen.items():
        if not found:
            raise DataError(
                f"there is no molecule to use in the split {split}: closed-shell, of charge "
                f"{', '.join(map(str, config.charges))}, and for val of elements that the training molecules have; see "
                "`mlham data info`. A small set needs more molecules, or larger shares (--val 0.2)."
            )
    return chosen, tuple(sorted(known))


def _elements(places: Iterable[Place]) -> set[int]:
    return {z for place in places for z in place.composition}


def symbols(elements: Iterable[int]) -> str:
    """Name elements: H, C.

    Args:
        elements: atomic numbers.
    """
    return ", ".join(ELEMENTS[z] for z in sorted(elements))


def _served(files: Sequence[HamiltonianFile], config: TrainConfig, split: str) -> list[Place]:
    """Return the records of a split that are asked for; open shells only if the baseline knows spins."""
    wanted = {ELEMENTS.index(symbol) for symbol in config.elements}
    places = [Place(file, int(i)) for file in files for i in file.indices(split)]
    places = [p for p in places if p.file.charge[p.index] in config.charges]
    if config.baseline != SCC:
        places = [p for p in places if p.file.spin[p.index] == 0]
    return [p for p in places if not wanted or wanted.issuperset(p.composition)]


def held_out_elsewhere(files: Sequence[HamiltonianFile], train: Sequence[Place]) -> set[Place]:
    """Find training records of molecules that are held out, in another file or under another name.

    Where a file has geometries of one molecule in several splits, it is geometries that were split, on purpose. Such a
    molecule stays, and only geometries that are held out go.

    Args:
        files: of labelled molecules, open.
        train: records to train on.
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
