"""Quality plots of a recording: small pictures that show at a glance where a run went wrong."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sparse_ulm.report.bubbles import Bubbles, Tracks

SIZE_INCH, DOTS_PER_INCH = (4.6, 2.8), 120
AXES_BOX = (0.16, 0.19, 0.81, 0.77)
"""Left, bottom, width and height as shares of the figure: layout by measuring would draw everything twice."""

COLOURS = ("#2b6cb0", "#c2571a", "#4a4a4a")
"""Distinct for colour-blind readers, by lightness too."""

N_BINS = 40
N_TIMES = 400
"""Points of a curve over time; frames between them are averaged."""

LARGEST_PERCENTILE = 99.5
"""Histograms end there; what lies beyond is counted in the last bar."""


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes:
        title: Above it.
        caption: What it shows, and what to look for; also what a screen reader says.
        png: The file.
    """

    title: str
    caption: str
    png: bytes


def plot_bubbles_per_frame(bubbles: Bubbles, tracks: Tracks | None, *, n_frames: int) -> Picture:
    """Draw how many bubbles were found, and how many of them were followed, over the recording."""

    def draw(axes: Axes) -> None:
        whole = np.zeros(0, dtype=np.int64)
        if tracks is not None:
            whole = tracks.frame[tracks.frame == np.floor(tracks.frame)].astype(np.int64)
        for frame, label, colour in ((bubbles.frame, "found", COLOURS[0]), (whole, "in tracks", COLOURS[1])):
            if len(frame):
                axes.plot(*per_frame(frame, n_frames), color=colour, lw=1, label=label)
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, max(n_frames - 1, 1))
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower left")

    caption = "Steady is good. Gaps, steps or a drift tell of motion, of a lost signal or of a bolus."
    return _picture("Bubbles per frame", caption, "frame", "bubbles", draw)


def plot_track_lengths(tracks: Tracks) -> Picture:
    """Draw for how many frames tracks were followed."""
    lengths = tracks.lengths_frames()
    caption = (
        f"Median {np.median(lengths):.0f} frames. Most tracks at the shortest length allowed tell of broken links."
    )
    return _histogram("Track lengths", caption, "frames from first to last sample", "tracks", [(lengths, "")])


def plot_speeds(tracks: Tracks) -> Picture | None:
    """Draw the mean speeds of tracks; None where no velocity is known."""
    speeds = tracks.mean_speeds_mm_s()
    if not len(speeds):
        return None
    caption = (
        f"Median {np.median(speeds):.3g} mm/s. A pile at the highest speed that may be linked tells of wrong links."
    )
    return _histogram("Mean speeds of tracks", caption, "mm/s", "tracks", [(speeds, "")])


def plot_deviations(bubbles: Bubbles) -> Picture | None:
    """Draw the standard deviations that the localisation states; None where it states none."""
    axes = [(bubbles.deviation_um[:, i], name) for i, name in enumerate("xyz")]
    known = [(values[np.isfinite(values)], name) for values, name in axes]
    known = [(values, name) for values, name in known if len(values)]
    if not known:
        return None
    medians = ", ".join(f"{name} {np.median(values):.3g}" for values, name in known)
    caption = (
        f"Medians: {medians} µm. As the method states it, before tracks are smoothed; not an error that was measured."
    )
    return _histogram("Stated uncertainty of bubbles", caption, "standard deviation (µm)", "bubbles", known)


def plot_filling(first_visits_s: Float[np.ndarray, " m"], *, duration_s: float) -> Picture | None:
    """Draw how many voxels of the map were visited after each time; None for an empty map."""
    if not len(first_visits_s) or not duration_s > 0:
        return None
    late = float((first_visits_s > 0.9 * duration_s).mean())

    def draw(axes: Axes) -> None:
        time_s = np.linspace(0.0, duration_s, N_TIMES)
        axes.plot(time_s, np.searchsorted(first_visits_s, time_s, side="right"), color=COLOURS[0], lw=1.5)
        axes.set_xlim(0, duration_s)
        axes.set_ylim(bottom=0)

    caption = f"The last tenth of the recording added {100 * late:.3g} % of the voxels. "
    caption += "A curve that still rises asks for a longer recording."
    return _picture("Visited voxels of the map", caption, "time (s)", "voxels", draw)


def per_frame(frame: Int[np.ndarray, " n"], n_frames: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count rows per frame, averaged over spans where there are more frames than a plot has points.

    Args:
        frame: Of each row; those outside of the recording are left out.
        n_frames: Of the recording, at least 1.

    Returns:
        Middle of each span, in frames, and mean number of rows per frame.
    """
    counts = np.bincount(frame[(frame >= 0) & (frame < n_frames)], minlength=n_frames)
    edges = np.unique(np.linspace(0, n_frames, min(n_frames, N_TIMES) + 1).astype(np.int64))
    means = np.add.reduceat(counts, edges[:-1]) / np.diff(edges)
    return (edges[:-1] + edges[1:] - 1) / 2, means


def _histogram(
    title: str, caption: str, x_label: str, y_label: str, sets: list[tuple[NDArray[np.float64], str]]
) -> Picture:
    """Draw outlines of histograms with the same bars, the last of which holds all that lies beyond."""
    together = np.concatenate([values for values, _ in sets])
    largest = float(np.percentile(together, LARGEST_PERCENTILE)) or 1.0
    edges = np.linspace(0.0, largest, N_BINS + 1)

    def draw(axes: Axes) -> None:
        for (values, name), colour in zip(sets, COLOURS, strict=False):
            counts, _ = np.histogram(np.minimum(values, largest), edges)
            axes.stairs(counts, edges, color=colour, lw=1.3, label=name, fill=len(sets) == 1)
        axes.set_xlim(0, largest)
        axes.set_ylim(bottom=0)
        if len(sets) > 1:
            axes.legend(frameon=False, fontsize=8)

    return _picture(title, caption, x_label, y_label, draw)


def _picture(title: str, caption: str, x_label: str, y_label: str, draw: Callable[[Axes], None]) -> Picture:
    """Draw on a canvas of its own, so that matplotlib's global settings stay as they are."""
    figure = Figure(figsize=SIZE_INCH, dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    axes = figure.add_axes(AXES_BOX)
    draw(axes)
    axes.set_xlabel(x_label, size=9)
    axes.set_ylabel(y_label, size=9)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return Picture(title, caption, figure_png(figure))


def figure_png(figure: Figure) -> bytes:
    """Give a figure as PNG, the same bytes for the same figure."""
    with io.BytesIO() as file:
        figure.savefig(file, format="png", metadata={"Software": None})
        return file.getvalue()
