"""The log of a run: a row for each evaluation, and a plot of the errors.

The checkpoint has the rows; both files are made from them and replaced as a whole.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyscf_mlham.checkpoint import replace_file

LOG = "log.csv"
CURVE = "loss.png"
Row = Mapping[str, float]


def write_log(folder: Path, rows: Sequence[Row]) -> None:
    """Write the log."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[-1]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_file(folder / LOG, text.getvalue().encode())


def draw_curve(folder: Path, rows: Sequence[Row]) -> None:
    """Plot the errors against the step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    labels = {
        "h_mae": "Fock matrix, mean absolute error / Ha",
        "occupied_mae": "occupied energies / Ha",
        "density": "density matrix, first order",
    }
    for key, label in labels.items():
        axes.plot([row["step"] for row in rows], [row[key] for row in rows], label=label)
    axes.set(xlabel="step", yscale="log", title="validation")
    axes.legend()
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, format="png")
    replace_file(folder / CURVE, drawn.getvalue())
