"""The plots of a report: drawn once, as PNG for a talk and as SVG for the page."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyscf_mlham.bench.measure import Row
from pyscf_mlham.bench.protocol import REFERENCE, AnyProtocol, Protocol
from pyscf_mlham.bench.summary import Method, Ratio, Section

WIDTH = 4.1  # inches: two side by side on a laptop, one below the other on a phone, the same letters on both
SQUARE = 3.1
INK, FAINT, LINE, ALARM = "#1f2937", "#6b7280", "#d6dae1", "#c81e1e"
COLOURS = {
    "minao": "#64748b",
    "atom": "#a3acb9",
    "huckel": "#8c8374",
    "vsap": "#b59f7b",
    "sap": "#c9b27c",
    "scc": "#0ea5a4",
    "coarse": "#d97706",
    "ml": "#2563eb",
    "oracle": "#059669",
}
OTHERS = ("#7c3aed", "#db2777", "#0891b2", "#65a30d")
MOST = 2.5  # times the ratio or 1, where bars are cut: those of two or three molecules may reach anywhere
VALENCE = -1.6  # Hartree; orbitals below are cores, and would leave no room for the rest
HASHED = re.compile(r"\b[a-z][0-9a-f]{10}\b")  # identifiers that matplotlib makes up
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "pyscf_mlham",
    "axes.edgecolor": LINE,
    "axes.labelcolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#edeff3",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 7.8,
    "text.color": INK,
}


def draw(found: Sequence[Section], protocol: AnyProtocol) -> dict[str, Figure]:
    """Draw every plot that the methods have something for, by name."""
    if not isinstance(protocol, Protocol):
        return {f"steps-{k}": _steps(methods) for k, (_, methods) in enumerate(found) if any(m.cases for m in methods)}
    (_, methods), *_ = found
    if not any(m.cases for m in methods):
        return {}
    shown = [m for m in methods if m.cases]
    plain = [m for m in shown if not m.is_bound]
    beside = max(SQUARE, _height(len(shown)))  # these two stand side by side
    with rc_context(STYLE):
        figures = {
            "builds": _forest(plain, lambda m: m.build_ratio, "full Fock builds, relative to minao"),
            "time": _forest(plain, lambda m: m.time_ratio, "time, relative to minao"),
            "cycles": _cycles(shown, beside),
            "size": _size(plain, beside),
            "convergence": _convergence(plain, protocol),
            "orbitals": _orbitals(plain) if any(_predictions(m) for m in plain) else None,
        }
    return {name: figure for name, figure in figures.items() if figure is not None}


def _steps(methods: Sequence[Method]) -> Figure:
    """Full Fock builds against geometries."""
    with rc_context(STYLE):
        figure = Figure(figsize=(6.6, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for method in methods:
            axes.plot([case.builds for case in method.cases.values()], label=method.name, lw=1.4, marker="o", ms=2.5)
        axes.set(xlabel="geometry", ylabel="full Fock builds", ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return figure


def png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    return _saved(figure, "png")


def svg(figure: Figure, name: str) -> str:
    """Return a figure as SVG to stand inside a page: no references outside, identifiers of its own."""
    text = _saved(figure, "svg").decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for place, hashed in enumerate(dict.fromkeys(HASHED.findall(text))):  # their hashes are of addresses in memory
        text = text.replace(hashed, f"{hashed[0]}-{place}")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r'<svg [^>]*viewBox="([^"]+)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{name}">', text)
    text = text.replace("'DejaVu Sans'", "system-ui, 'Segoe UI', Helvetica, Arial")
    return "\n".join(line.rstrip() for line in text.splitlines())


def _saved(figure: Figure, kind: str) -> bytes:
    stream = io.BytesIO()
    with rc_context(STYLE):
        FigureCanvasAgg(figure)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type")) if kind == "svg" else {"Software": None}
        figure.savefig(stream, format=kind, dpi=200, metadata=nothing, facecolor="none" if kind == "svg" else "white")
    return stream.getvalue()


def _axes(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def colour(guess: str) -> str:
    """Return the colour of a guess, the same in every plot."""
    return COLOURS.get(guess) or OTHERS[sum(guess.encode()) % len(OTHERS)]


def _is_two(method: Method) -> bool:
    return method.solver == "twolevel"


def _rows(axes: Any, methods: Sequence[Method]) -> None:
    """Methods from top to bottom, a line between the two solvers."""
    names = [m.name + f", {len(m.cases)} of {m.total}" * m.is_partial for m in methods]
    axes.set_yticks(range(len(methods)), names)
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    for label, method in zip(axes.get_yticklabels(), methods, strict=True):
        label.set_color(INK if method.guess in ("minao", "coarse") or method.guess.startswith("ml") else FAINT)
    count = sum(not _is_two(m) for m in methods)
    if 0 < count < len(methods):
        axes.axhline(count - 0.5, color=LINE, lw=0.8)


def _height(rows: int) -> float:
    return 0.62 + 0.235 * max(rows, 4)


def _forest(methods: Sequence[Method], ratio_of: Callable[[Method], Ratio], label: str) -> Figure:
    figure, axes = _axes(max(2.2, _height(len(methods))))
    _rows(axes, methods)
    axes.axvline(1.0, color=FAINT, lw=0.9)
    top = 1.0
    for place, method in enumerate(methods):
        ratio = ratio_of(method)
        if not np.isfinite(ratio.value):
            continue
        high = min(ratio.high, MOST * max(1.0, ratio.value))
        top = max(top, high)
        paint = {"color": colour(method.guess)}
        axes.plot([ratio.low, high], [place, place], lw=2.6, alpha=0.35, solid_capstyle="round", **paint)
        axes.plot([ratio.value], [place], marker="s" if _is_two(method) else "o", ms=5.2, **paint)
        axes.annotate(f"{ratio.value:.2f}", (high, place), xytext=(6, 0), textcoords="offset points",
                      va="center", fontsize=7.8, color=INK,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6})  # fmt: skip
    axes.set_xlim(0, 1.16 * top)
    axes.set_xlabel(label)
    return figure


def _cycles(methods: Sequence[Method], height: float) -> Figure:
    figure, axes = _axes(height)
    _rows(axes, methods)
    total = max(len(m.cases) for m in methods)
    for place, method in enumerate(methods):
        for converged in (True, False):
            counts = Counter(case.cycles for case in method.cases.values() if case.converged is converged)
            if not counts:
                continue
            sizes = [210 * (n / total) ** 0.9 + 8 for n in counts.values()]
            paint = {"color": colour(method.guess)} if converged else {"color": ALARM, "marker": "X"}
            axes.scatter(list(counts), [place] * len(counts), s=sizes, alpha=0.45, linewidths=0, **paint)
        axes.plot([method.cycles] * 2, [place - 0.36, place + 0.36], color=INK, lw=1.4)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("SCF cycles (area: molecules, bar: mean)")
    return figure


def key_methods(methods: Sequence[Method]) -> list[Method]:
    """Choose what a reader wants to compare first: the rival, the model, the two levels, or all of them."""

    def is_key(method: Method) -> bool:
        return method.guess.startswith("ml") or method.guess == ("minao" if _is_two(method) else "coarse")

    compared = [m for m in methods if m.cases and not m.is_bound and (m.guess, m.solver) != REFERENCE]
    return [m for m in compared if is_key(m)] or compared


def _size(methods: Sequence[Method], height: float) -> Figure | None:
    figure, axes = _axes(height)
    reference = next((m.cases for m in methods if (m.guess, m.solver) == REFERENCE), {})
    for method in key_methods(methods):
        pairs = [(c, reference[key]) for key, c in method.cases.items() if key in reference]
        points = [(c.nao, c.seconds / r.seconds) for c, r in pairs if r.seconds > 0]
        if points:
            x, y = zip(*points, strict=True)
            paint = {"color": colour(method.guess), "marker": "s" if _is_two(method) else "o"}
            filled = {"facecolors": "none", "linewidths": 1.3} if _is_two(method) else {"linewidths": 0, "alpha": 0.75}
            axes.scatter(x, y, s=24, label=method.name, **_marker(paint, filled))
    if not axes.collections:
        return None
    axes.axhline(1.0, color=FAINT, lw=0.9)
    axes.set_ylim(bottom=0, top=max(1.25, axes.get_ylim()[1]))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xlabel("basis functions")
    axes.set_ylabel("time, relative to minao")
    _legend(figure)
    return figure


def _marker(paint: dict[str, Any], filled: dict[str, Any]) -> dict[str, Any]:
    """Hollow markers take their colour at the edge."""
    if "facecolors" in filled:
        return {"edgecolors": paint["color"], "marker": paint["marker"], **filled}
    return paint | filled


def _legend(figure: Figure) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=2, handletextpad=0.5, columnspacing=1.2)


def _convergence(methods: Sequence[Method], protocol: Protocol) -> Figure:
    figure, axes = _axes(SQUARE)
    first = [m for m in methods if (m.guess, m.solver) == REFERENCE]
    for method in [*first, *key_methods(methods)]:
        curves = [case.row.gradients for case in method.cases.values() if case.row.gradients]
        if not curves:
            continue
        length = int(np.median([len(curve) for curve in curves]))
        held = np.array([(curve + [curve[-1]] * length)[:length] for curve in curves], dtype=float)
        hidden = int(np.median([case.row.guess_builds or 0 for case in method.cases.values()]))
        style = {"ls": (0, (4, 2)), "marker": "s", "mfc": "white"} if _is_two(method) else {"marker": "o"}
        builds = np.arange(1, length + 1) + hidden
        paint = {"color": colour(method.guess), "lw": 1.6, "ms": 3.8}
        axes.plot(builds, np.median(held, axis=0), label=method.name, **paint, **style)
    axes.set_yscale("log")
    axes.axhline(np.sqrt(protocol.conv_tol), color=FAINT, lw=0.9)
    axes.annotate("criterion", (1, np.sqrt(protocol.conv_tol)), xycoords=("axes fraction", "data"), ha="right",
                  xytext=(0, 2), textcoords="offset points", fontsize=7.5, color=FAINT)  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("full Fock builds")
    axes.set_ylabel("orbital gradient / Ha")
    _legend(figure)
    return figure


def _predictions(method: Method) -> list[Row]:
    """Rows that predicted as many orbital energies as there are; two levels start from the same ones as plain SCF."""
    rows = [case.row for case in method.cases.values()]
    return [] if _is_two(method) else [row for row in rows if row.predicted and len(row.predicted) == len(row.reached)]


def _orbitals(methods: Sequence[Method]) -> Figure:
    figure, axes = _axes(SQUARE)
    for method in methods:
        rows = _predictions(method)
        if not rows:
            continue
        occupied = [(r, p) for row in rows for r, p in zip(row.reached[:-1], row.predicted[:-1], strict=True)]
        empty = [(row.reached[-1], row.predicted[-1]) for row in rows]
        for points, face, word in ((occupied, True, "occupied"), (empty, False, "lowest empty")):
            x, y = np.array([pair for pair in points if pair[0] > VALENCE] or np.zeros((0, 2))).T
            paint = {"color": colour(method.guess), "marker": "o" if face else "D"}
            filled = {"linewidths": 0, "alpha": 0.4} if face else {"facecolors": "none", "linewidths": 1.1}
            axes.scatter(x, y, s=13 if face else 17, label=f"{method.guess}, {word}", **_marker(paint, filled))
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], color=FAINT, lw=0.9, zorder=0)
    axes.set_xlabel("converged orbital energy / Ha")
    axes.set_ylabel("predicted, before any SCF / Ha")
    _legend(figure)
    return figure
