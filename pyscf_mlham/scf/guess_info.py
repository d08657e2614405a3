"""`mf.guess_info`: how the last initial guess of a mean-field object was made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Not a public attribute of the object: PySCF's check_sanity and to_gpu look at those.
ATTRIBUTE = "_guess_info"


@dataclass(frozen=True)
class GuessInfo:
    """How an initial guess was made.

    Attributes:
        guess: that was used: "ml", "scc", "history" (see `track`), or PySCF's name of the fallback.
        fallback_reason: why it is not the one that init_guess names, "" if it is.
        model: name of the model, "" without one.
        seconds: wall time, that of loading the model included.
        coarse_builds: coarse Fock builds.
    """

    guess: str
    fallback_reason: str = ""
    model: str = ""
    seconds: float = 0.0
    coarse_builds: int = 0


def record(mf: Any, info: GuessInfo | None) -> None:
    """Set the object's guess_info; None removes it."""
    vars(mf).pop(ATTRIBUTE, None)
    if info is not None:
        vars(mf)[ATTRIBUTE] = info


def recorded(mf: Any) -> GuessInfo | None:
    """How the last guess of 'ml', 'scc' or a history was made; None before, and after any other guess."""
    info: GuessInfo | None = vars(mf).get(ATTRIBUTE)
    return info


@contextmanager
def record_kept(mf: Any) -> Iterator[None]:
    """Keep the object's guess_info as it is, whatever guesses are made inside the block."""
    before = recorded(mf)
    try:
        yield
    finally:
        record(mf, before)
