"""The tables of md-bench and opt-bench in Markdown, and in words what a reader must know of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from pyscf_mlham.bench.table import narrow_table
from pyscf_mlham.bench.trajectory_summary import reference_of

if TYPE_CHECKING:  # ASE is loaded by the commands that need it
    from pyscf_mlham.bench.trajectory import Settings

REPORT = "report.json"
ENERGY_TOLERANCE = 1e-7  # Hartree; conv_tol leaves an error of each step's energy that is far below
SHORT = ("strategy", "mean\ncycles", "mean\nbuilds", "most\nbuilds", "all\nbuilds", "coarse\ncycles", "first\ncycles",
         "s per\nstep", "dE\n/ Ha")  # fmt: skip
SHOWN = ("mean cycles", "mean Fock builds", "most", "total", "coarse cycles", "first cycles", "s/step", "dE / Ha")


def problems(found: dict[str, Any]) -> list[str]:
    """Return what a reader must know before believing the rest, failed molecules first; nothing where all is well.

    Args:
        found: steps, summaries and errors by name.
    """
    texts = [f"{name}: failed: {molecule['error']}" for name, molecule in found.items() if molecule["error"]]
    for name, molecule in found.items():
        for strategy, s in molecule["summary"].items():
            if s["energy_error"] is not None and s["energy_error"] > ENERGY_TOLERANCE:
                texts.append(
                    f"{name}, {strategy}: an energy differs from that of {reference_of(molecule['summary'])} by "
                    f"{s['energy_error']:.1e} Ha, {ENERGY_TOLERANCE:.1e} are allowed; a tighter --conv-tol tells "
                    "whether it is another state"
                )
    return texts


def subtitle(settings: Settings) -> str:
    """Return the level of theory and the kind of path in one line.

    Args:
        settings: of the benchmark.
    """
    kinds = {"md": f"NVE, {settings.timestep} fs", "opt": f"BFGS to {settings.fmax} eV/Angstrom", "follow": "as given"}
    fit = ", density-fitted" if settings.density_fit else ""
    return f"{settings.xc}/{settings.basis}{fit}, conv_tol {settings.conv_tol:g}, {kinds[settings.kind]}"


def without_model(found: dict[str, Any]) -> list[str]:
    """Say in sentences where a model was asked for and had no part, and why.

    Args:
        found: steps and summaries by name of the molecule.
    """
    texts = []
    for name, molecule in found.items():
        reasons: dict[str, list[str]] = {}
        for strategy, s in molecule["summary"].items():
            if s["without_model"]:
                words = f"{strategy} at {s['without_model']} of {len(molecule['steps'])} geometries"
                reasons.setdefault(s["why_without_model"].rstrip("."), []).append(words)
        texts += [f"{name}: without the model: {', '.join(words)} ({reason})." for reason, words in reasons.items()]
    return texts


def shown_name(strategy: str, molecule: dict[str, Any]) -> str:
    """Return what a table calls a strategy; it says where another guess took the place of the model's.

    Args:
        strategy: one of the runs.
        molecule: steps and summary.
    """
    count, steps = molecule["summary"][strategy]["without_model"], len(molecule["steps"])
    instead = "no model" if "+" in strategy else "minao"  # with a history, that goes on alone
    return strategy + f" ({instead} for {count} of {steps})" * bool(count)


def heading(name: str, molecule: dict[str, Any]) -> str:
    """Return the title of a molecule's table.

    Args:
        name: of the molecule.
        molecule: steps, summary and error, charge and multiplicity.
    """
    steps, charge, mult = molecule["steps"], molecule.get("charge", 0), molecule.get("mult", 1)
    state = f", charge {charge:+d}" * bool(charge) + f", multiplicity {mult}" * (mult > 2)  # others are the lowest
    stopped = " (stopped before the minimum)" * bool(steps and steps[-1].get("at_minimum") is False)
    failed = " (failed)" * bool(molecule["error"])
    return f"{name}{state}, {len(steps)} geometries{failed or stopped}"


def markdown(found: dict[str, Any], settings: Settings) -> str:
    """Return the tables of all molecules.

    Args:
        found: steps and summaries by name.
        settings: of the benchmark.
    """
    lines = [subtitle(settings)]
    for name, molecule in found.items():
        lines += ["", f"## {heading(name, molecule)}", ""]
        if not molecule["steps"]:
            continue
        lines += ["| strategy | " + " | ".join(SHOWN) + " |", "|---|" + "--:|" * len(SHOWN)]
        lines += ["| " + " | ".join(_cells(strategy, molecule)) + " |" for strategy in molecule["summary"]]
    return "\n".join([*lines, "", *without_model(found), _about(settings), ""])


def print_tables(found: dict[str, Any], settings: Settings, console: Console) -> None:
    """Print the tables of all molecules, for a terminal of 80 columns.

    Args:
        found: steps and summaries by name.
        settings: of the benchmark.
        console: to draw on.
    """
    console.print(subtitle(settings), highlight=False, soft_wrap=True)
    for name, molecule in found.items():
        console.print(f"\n[bold]{escape(heading(name, molecule))}[/bold]", highlight=False, soft_wrap=True)
        table = narrow_table(SHORT, texts=1)
        for strategy in molecule["summary"]:
            table.add_row(*(escape(cell) for cell in _cells(strategy, molecule)))
        if molecule["steps"]:
            console.print(table)
    console.print()
    for text in without_model(found):
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(f"Builds are full Fock builds. {_about(settings)}", highlight=False)


def _cells(strategy: str, molecule: dict[str, Any]) -> list[str]:
    """One line of a table."""
    s = molecule["summary"][strategy]
    error = shown_error(s["energy_error"])
    cells = [f"{s['cycles']:.2f}", f"{s['builds']:.2f}", str(s["most_builds"]), str(s["total_builds"])]
    cells += [f"{s['coarse']:.1f}", str(s["first_cycles"]), f"{s['seconds']:.1f}", error]
    return [shown_name(strategy, molecule), *cells]


def shown_error(error: float | None) -> str:
    """Return what a table says of a difference of energy.

    Args:
        error: Hartree, None where there is nothing to compare with.
    """
    return "–" if error is None else f"{error:.1e}".replace("0.0e+00", "0")


def _about(settings: Settings) -> str:
    note = "Means leave the first geometry out. " if settings.kind != "opt" else ""
    if len(settings.runs) == 1:
        compared = "dE: nothing else ran to compare energies with."
    else:
        compared = f"dE: largest difference of energy to that of {reference_of(settings.runs)}."
    return f"{note}Seconds are of one process, guess included. {compared}"
