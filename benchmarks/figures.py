"""The figures of docs/benchmarks.md: scores over concentration, completeness over time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pooling import spread

from sparse_ulm.io.atomic import atomic_path

METADATA = {"Software": None}
"""No version of matplotlib in the file: the same numbers give the same bytes."""


def draw_concentration(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw Dice and recall within λ/10 over concentration, one line per method, bars of one standard deviation."""
    panels = {"dice_lambda_10": "Dice within λ/10", "recall_lambda_10": "recall within λ/10"}
    figure, axes = _panels(len(panels))
    for panel, (name, label) in zip(axes, panels.items(), strict=True):
        for method in dict.fromkeys(r["method"] for r in rows):
            own = [r for r in rows if r["method"] == method]
            line = "-o" if own[0]["is_network"] else "--s"
            _curve(panel, [r["concentration"] for r in own], [r[name] for r in own], line, method)
        panel.set(xscale="log", xlabel="bubbles per PSF volume", ylabel=label, ylim=(0.0, None))
    axes[0].legend(fontsize=8)
    _save(figure, path)


def draw_completeness(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw completeness over seconds of recording: a panel per method, a line per concentration."""
    methods = list(dict.fromkeys(r["method"] for r in rows))
    figure, axes = _panels(len(methods))
    for panel, method in zip(axes, methods, strict=True):
        for concentration in dict.fromkeys(r["concentration"] for r in rows):
            own = [r for r in rows if (r["method"], r["concentration"]) == (method, concentration)]
            times = sorted({r["seconds"] for r in own})
            values = [spread([r["completeness"] for r in own if r["seconds"] == t]) for t in times]
            _curve(panel, times, values, "-o", f"{concentration}")
        panel.set(xscale="log", xlabel="seconds of recording", title=method, ylim=(0.0, 1.0))
    axes[0].set_ylabel("completeness within λ/10")
    axes[0].legend(fontsize=8, title="bubbles per PSF volume", title_fontsize=8)
    _save(figure, path)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """Make a figure with panels side by side, on a canvas of its own: matplotlib's global state stays."""
    figure = Figure(figsize=(0.6 + 4.0 * count, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, count, sharey=True, squeeze=False)[0])
    for panel in axes:
        panel.grid(alpha=0.3)
    return figure, axes


def _curve(panel: Axes, x: Sequence[float], values: Sequence[dict[str, Any]], line: str, label: str) -> None:
    error = [value["sd"] or 0.0 for value in values]
    panel.errorbar(x, [v["mean"] for v in values], yerr=error, fmt=line, markersize=4, capsize=2, label=label)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata=METADATA)


def named_in_docs(table: str, path: Path) -> dict[str, str]:
    """Name the figure of a table as the docs see it; nothing where it lies in no folder `figures`."""
    return {table: f"figures/{path.name}"} if path.parent.name == "figures" else {}
