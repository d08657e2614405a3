"""The log of a run: a row for each evaluation, and a plot of the errors.

Incomplete rows, left by a killed process or a full disk, do not stop a later run.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from pyscf_mlham import checkpoint

LOG = "log.csv"
CURVE = "loss.png"


def append_row(folder: Path, row: Mapping[str, float]) -> str:
    """Add an evaluation to the log and draw the curve again; return why that failed, "" if it did not.

    Args:
        folder: output folder of the run.
        row: values by column.
    """
    path = folder / LOG
    new = not path.exists() or not path.stat().st_size
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
    try:
        draw_curve(path, folder / CURVE)
    except Exception as error:  # any error: the run continues without the plot
        return f"{type(error).__name__}: {error}"
    return ""


def draw_curve(log: Path, image: Path) -> None:
    """Plot the errors against the step.

    Args:
        log: CSV file.
        image: PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = list(csv.DictReader(whole_lines(log)))
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
    """Remove incomplete rows, and those after the checkpoint from which a run resumes, which will be logged again.

    Args:
        folder: output folder of the run.
        step: step of the checkpoint, 0 without one.
    """
    log = folder / LOG
    if not log.exists():
        return
    header, *rows = whole_lines(log) or [""]
    kept = [header, *(row for row in rows if int(row.split(",")[0]) <= step)]
    checkpoint.replace_file(log, "".join(f"{line}\n" for line in kept if line).encode())


def whole_lines(log: Path) -> list[str]:
    """Return the header and all complete rows; an empty list if the header is incomplete.

    Args:
        log: CSV file.
    """
    header, *rows = log.read_text(errors="replace").splitlines(keepends=True) or [""]
    if not header.endswith("\n"):
        return []
    return [header.strip(), *(row.strip() for row in rows if _is_whole(row, header.count(",")))]


def _is_whole(row: str, commas: int) -> bool:
    """Whether a row is complete: all its values, only numbers, a step first, and the end of the line."""
    values = row.split(",")
    if not row.endswith("\n") or len(values) != commas + 1 or not values[0].isdecimal():
        return False
    try:
        [float(value) for value in values]
    except ValueError:
        return False
    return True
