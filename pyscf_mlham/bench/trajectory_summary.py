"""What each strategy of md-bench and opt-bench cost over the steps, and whose energies the others are held against."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

Row = dict[str, Any]


def reference_of(runs: Iterable[str]) -> str:
    """Return the run that the others are compared with: PySCF's own scanner if it ran, else the first one.

    Args:
        runs: strategies, with their solvers.
    """
    names = list(runs)
    return next((name for name in ("scanner", "scanner/twolevel") if name in names), names[0])


def summarise(steps: list[Row], kind: str) -> dict[str, Row]:
    """Return the costs of each competitor over the steps, and of the first step apart.

    Args:
        steps: from `run_trajectory`.
        kind: of the benchmark; MD leaves the first step out of the means.
    """
    counted = steps[1:] if kind != "opt" and len(steps) > 1 else steps
    runs = steps[0]["runs"]
    reference = [step["runs"][reference_of(runs)]["energy"] for step in steps]
    table = {}
    for run, first in runs.items():
        energies = [step["runs"][run]["energy"] for step in steps]
        reasons = [reason for step in steps if (reason := step["runs"][run].get("fallback"))]
        table[run] = {
            "first_cycles": first["cycles"],
            **{k: float(np.mean([s["runs"][run][k] for s in counted])) for k in ("cycles", "builds", "coarse")},
            "most_builds": max(s["runs"][run]["builds"] for s in counted),
            "total_builds": sum(s["runs"][run]["builds"] for s in steps),
            "seconds": float(np.mean([s["runs"][run]["seconds"] for s in counted])),
            # one run alone agrees with nothing
            "energy_error": float(np.abs(np.subtract(energies, reference)).max()) if len(runs) > 1 else None,
            "without_model": len(reasons),
            "why_without_model": reasons[0] if reasons else "",
        }
    return table
