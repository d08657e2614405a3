"""Counting Fock builds: the measure of cost that does not depend on the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyscf_mlham.field.protocol import Tally


@contextmanager
def counting_fock_builds(mf: Any) -> Iterator[Tally]:
    """Count the Fock builds of an object inside the block, those of a second-order solver's inner object too."""
    counter = Tally()
    watched = [mf, *([mf._scf] if hasattr(mf, "_scf") else [])]
    own = [vars(owner).get("get_veff") for owner in watched]  # an override by the user, or None
    for owner in watched:
        owner.get_veff = _counted(owner.get_veff, counter)
    try:
        yield counter
    finally:
        for owner, override in zip(watched, own, strict=True):
            del owner.get_veff
            if override is not None:
                owner.get_veff = override


def _counted(get_veff: Any, counter: Tally) -> Any:
    def counted(*args: Any, **kwargs: Any) -> Any:
        counter.builds += 1
        return get_veff(*args, **kwargs)

    return counted
