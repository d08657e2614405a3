"""Interface of all mean fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pyscf_mlham.arrays import Array


@dataclass
class Tally:
    """Numbers of potentials built by a field and all fields derived by `around`: its own, and the object's."""

    builds: int = 0
    full: int = 0


class Builds(NamedTuple):
    """Numbers of Fock builds of each kind, by the names in `GuessInfo`."""

    coarse_builds: int = 0
    full_builds: int = 0
    single_builds: int = 0  # of the object's own field, in single precision

    def plus(self, other: Builds) -> Builds:
        """Return the sum of two."""
        return Builds(*map(sum, zip(self, other, strict=True)))

    def __str__(self) -> str:
        """Return the numbers that are not zero, for a log."""
        kinds = zip(("coarse", "full", "single-precision"), self, strict=True)
        return ", ".join(f"{count} {kind}" for kind, count in kinds if count)


class Field(Protocol):
    """An effective potential as a function of the density D = L L^T.

    Attributes:
        name: name of the level, such as "coarse" or "response".
    """

    name: str
    tally: Tally

    def potential(self, factors: Sequence[Array]) -> Array:
        """Build the effective potential of one L (n, k) of a closed shell, (n, n), or of two, (2, n, n); Hartree."""

    def around(self, factors: Sequence[Array], v: Array) -> Field:
        """Return a field that is exact at one density: v there, and elsewhere v plus this field's change; Hartree."""

    def release(self) -> None:
        """Free memory whose content is cheap to recompute, before a full build; a small field has none."""
        return
