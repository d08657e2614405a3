"""Results of compare_networks.py as a table and a picture."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pyscf_mlham.checkpoint import replace_file

VARIANTS = tuple(
    f"{backbone}{wrapper}{refiner}"
    for backbone in ("qhnetv2", "qhnet")
    for wrapper in ("", "+tracegrad")
    for refiner in ("", "+harmose")
)
COLUMNS = {  # key of a result: heading, format
    "h_mae": ("H MAE / Ha", ".2e"),
    "occupied_virtual": ("occ.-virt. / Ha", ".3f"),
    "density": ("density error", ".4f"),
    "occupied_mae": ("eps / Ha", ".2e"),
    "similarity": ("psi", ".3f"),
    "cycles": ("cycles", ".2f"),
    "equivariance": ("equivariance error / Ha", ".0e"),
    "parameters": ("weights", ".2e"),
    "steps": ("steps", ".0f"),
    "minutes": ("minutes", ".1f"),
    "step": ("s per step", ".2f"),
    "inference": ("s per molecule, inference", ".3f"),
}
FITTED = ("h_mae", "occupied_virtual", "density", "occupied_mae", "similarity", "cycles")  # these have a spread
Result = dict[str, Any]


def read_results(out: Path) -> list[Result]:
    """Return the results of all finished runs, in the order of `VARIANTS`."""
    found = [json.loads(path.read_text()) for path in out.glob("*/result.json")]
    return sorted(found, key=lambda r: (VARIANTS.index(r["variant"]), r["molecules"], r["seed"]))


def table(found: list[Result], first: str) -> list[str]:
    """Return lines of Markdown: means over the seeds, and half their range if there are several."""
    columns = {k: v for k, v in COLUMNS.items() if all(k in r for r in found)}
    lines = [
        f"| {first} | " + " | ".join(heading for heading, _ in columns.values()) + " |",
        "|---|" + "--:|" * len(columns),
    ]
    for row in sorted({r[first] for r in found}, key=[r[first] for r in found].index):
        cells = []
        for key, (_, form) in columns.items():
            values = [r[key] for r in found if r[first] == row]
            spread = f" +- {(max(values) - min(values)) / 2:{form}}" if len(values) > 1 and key in FITTED else ""
            cells.append(f"{np.mean(values):{form}}{spread}")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return lines


def summary(
    found: list[Result], costs: dict[str, dict[str, float]], protocol: dict[str, Any], minao: float | None
) -> str:
    """Return everything as Markdown.

    Args:
        costs: processor seconds of each network: "step", and "inference" of one molecule.
        minao: mean cycles from PySCF's guess, None if not counted.
    """
    found = [costs[r["variant"]] | r for r in found]
    most = max(r["molecules"] for r in found)
    whole = [r for r in found if r["molecules"] == most]
    minutes, steps, tested = protocol["minutes"], protocol["steps"], found[0]["tested"]
    budget = f"{minutes:g} minutes of one thread" if minutes else f"{steps} steps"
    lines = [
        f"{most} training molecules, {budget} each, H0 {protocol['baseline']}; means over {tested} test molecules."
    ]
    if minao is not None:
        refused = sum(r.get("refused", 0) for r in found)
        lines += [
            f"Cycles: of the first {protocol['scf']}, density-fitted, grid 1; from minao {minao:.2f}. A model's guess "
            "is refined by a build in single precision and its response, which evens out differences."
            + f" Predictions rejected, with minao in their place: {refused}."
            * bool(refused)
        ]
    lines += ["", *table(whole, "variant")]
    if {"qhnet", "qhnetv2"} <= costs.keys():
        step, inference = (costs["qhnet"][key] / costs["qhnetv2"][key] for key in ("step", "inference"))
        lines += [
            "",
            f"qhnet takes {step:.1f} times as long as qhnetv2 for a step, {inference:.1f} times for inference.",
        ]
    for variant in sorted({r["variant"] for r in found if r["molecules"] < most}, key=VARIANTS.index):
        curve = [r for r in found if r["variant"] == variant]
        lines += ["", f"{variant}, by the number of training molecules:", "", *table(curve, "molecules")]
    return "\n".join(lines) + "\n"


def draw(found: list[Result], costs: dict[str, dict[str, float]], out: Path) -> None:
    """Plot the validation errors during training, what each network reaches for its cost, and the learning curves."""
    most = max(r["molecules"] for r in found)
    figure = Figure(figsize=(14, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for number, variant in enumerate(v for v in VARIANTS if any(r["variant"] == v for r in found)):
        runs = [r for r in found if r["variant"] == variant]
        whole = [r for r in runs if r["molecules"] == most]
        color = f"C{number}"
        for result in whole[:1]:
            log = np.atleast_1d(np.genfromtxt(out / result["folder"] / "log.csv", delimiter=",", names=True))
            left.plot(log["step"] / log["step"][-1], log["density"], color=color, label=variant)
        inference = [costs[variant]["inference"]] * len(whole)
        middle.scatter(inference, [r["density"] for r in whole], color=color, label=variant)
        sizes = sorted({r["molecules"] for r in runs})
        means = [np.mean([r["density"] for r in runs if r["molecules"] == n]) for n in sizes]
        right.plot(sizes, means, "o-", color=color)
    left.set(xlabel="share of the budget", ylabel="density error", yscale="log", title="validation")
    middle.set(xlabel="processor seconds per molecule, inference", ylabel="density error", title="test")
    right.set(xlabel="training molecules", ylabel="density error", xscale="log", yscale="log", title="test")
    middle.legend(fontsize=7)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, format="png")
    replace_file(out / "networks.png", drawn.getvalue())
