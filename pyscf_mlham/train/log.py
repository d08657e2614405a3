"""The log of a run: a row for each evaluation, and the curve that it draws."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from pyscf_mlham import checkpoint

LOG = "log.csv"
CURVE = "loss.png"


def append_row(folder: Path, row: Mapping[str, float]) -> None:
    """Add an evaluation to the log, and draw the curve anew.

    Args:
        folder: of the run.
        row: values by column.
    """
    path = folder / LOG
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
    draw_curve(path, folder / CURVE)


def draw_curve(log: Path, image: Path) -> None:
    """Plot the errors against the step.

    Args:
        log: CSV file.
        image: PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in rows]
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for key, label in (("h_mae", "Fock matrix, mean absolute error / Ha"), ("occupied_mae", "occupied energies / Ha")):
        axes.plot(steps, [float(row[key]) for row in rows], label=label)
    axes.plot(steps, [float(row["density"]) for row in rows], label="density matrix, first order")
    axes.set(xlabel="step", yscale="log", title="validation")
    axes.legend()
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, format="png")
    checkpoint.replace_file(image, drawn.getvalue())


def forget_later_rows(folder: Path, step: int) -> None:
    """Drop what was logged after the checkpoint that a run goes on from; it will be logged again.

    Args:
        folder: of the run.
        step: of the checkpoint.
    """
    log = folder / LOG
    if not log.exists():
        return
    header, *rows = log.read_text().splitlines()
    kept = [row for row in rows if int(row.split(",")[0]) <= step]
    checkpoint.replace_file(log, ("\n".join([header, *kept]) + "\n").encode())
