"""`mf.guess_info`: how the last initial guess of a mean-field object was made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# A private attribute: PySCF's check_sanity and to_gpu inspect the public ones.
ATTRIBUTE = "_guess_info"


@dataclass(frozen=True)
class GuessInfo:
    """How an initial guess was made.

    Attributes:
        guess: the guess used: "ml", "scc", "history" (see `track`), or PySCF's name of the fallback.
        fallback_reason: why the guess requested by init_guess was not used, "" if it was.
        model: name of the model, "" without one.
        seconds: wall time, including that of loading the model.
        coarse_builds: coarse Fock builds made by the guess.
        full_builds: full Fock builds made by it.
        single_builds: builds in single precision made by it.
    """

    guess: str
    fallback_reason: str = ""
    model: str = ""
    seconds: float = 0.0
    coarse_builds: int = 0
    full_builds: int = 0
    single_builds: int = 0


def record(mf: Any, info: GuessInfo | None) -> None:
    """Set the object's guess_info; None removes it."""
    vars(mf).pop(ATTRIBUTE, None)
    if info is not None:
        vars(mf)[ATTRIBUTE] = info


def recorded(mf: Any) -> GuessInfo | None:
    """Return how the last guess by 'ml', 'scc' or a history was made; None before one, and after any other guess."""
    info: GuessInfo | None = vars(mf).get(ATTRIBUTE)
    return info
