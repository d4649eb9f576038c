"""Pictures of signed velocity: projections of the fastest flow, towards the probe and away from it in two colours."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from sparse_ulm.acquisition import Geometry
from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.mapping.figure import DOTS_PER_INCH, add_scale_bar, draw_picture, fit_pixels, project, tick_text
from sparse_ulm.mapping.figure_layout import LEFT_INCH, TOP_INCH, Layout, Plane, lay_out
from sparse_ulm.mapping.sparse_map import SparseMap

SATURATED_PERCENTILE = 98.0
"""Speeds above this share of the visited voxels have the colours' ends: one wrong link must not pale the rest."""

LABEL = "Mean axial velocity (mm/s), away from the probe +"


def save_velocity_projections(path: Path | str, velocity_mm_s: SparseMap, geometry: Geometry, *, title: str) -> None:
    """Save projections of a map of signed velocity as PNG: of all voxels behind a pixel, the fastest.

    Args:
        path: File to write, `.png`; it appears whole or not at all.
        velocity_mm_s: The map, NaN where nothing is known, which is black.
        geometry: Grid of the map (`figure.save_projections`).
        title: Headline.
    """
    layout = lay_out(velocity_mm_s.shape, geometry, n_rows=1)
    figure = Figure(figsize=layout.figure_inch, dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    known = np.abs(velocity_mm_s.values[np.isfinite(velocity_mm_s.values)])
    largest = float(np.percentile(known, SATURATED_PERCENTILE)) if len(known) else 1.0
    norm, colours = Normalize(-(largest or 1.0), largest or 1.0, clip=True), velocity_colours()
    for column, plane in enumerate(layout.planes):
        picture = fastest(velocity_mm_s, plane, layout.size_inch(plane))
        axes = figure.add_axes(layout.picture_box(0, column))
        draw_picture(axes, picture, plane, layout, norm=norm, cmap=colours, interpolation="nearest")
    add_scale_bar(figure.axes[0], layout)
    _add_colour_bar(figure, layout, ScalarMappable(norm, colours))
    width, height = layout.figure_inch
    figure.text(LEFT_INCH / width, 1 - 0.3 / height, title, size=13, weight="bold", va="center")
    caption = "Fastest of the voxels behind each pixel, all pictures at one scale.\n"
    caption += f"Colour: saturated at the {SATURATED_PERCENTILE:g}th percentile of the speed."
    figure.text(LEFT_INCH / width, 0.32 / height, caption, size=8, color="0.35", va="center", linespacing=1.4)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, format="png")


def fastest(
    velocity: SparseMap, plane: Plane, size_inch: tuple[float, float]
) -> np.ma.MaskedArray[tuple[int, ...], np.dtype[np.floating]]:
    """Project to the value of largest magnitude, and join pixels by the same rule; masked where nothing is known."""
    known = np.isfinite(velocity.values)
    value = np.where(known, velocity.values, 0.0)
    parts = (velocity.with_values(np.maximum(sign * value, 0.0), elsewhere=0.0) for sign in (1, -1))
    away, towards = (fit_pixels(project(part, plane), size_inch) for part in parts)
    is_seen = velocity.with_values(known.astype(np.float32), elsewhere=0.0)
    seen: NDArray[np.bool_] = fit_pixels(project(is_seen, plane) > 0, size_inch)
    return np.ma.masked_array(np.where(away >= towards, away, -towards), mask=~seen)


def velocity_colours() -> Colormap:
    """Give matplotlib's "coolwarm" on black: blue towards the probe, red away, pale at rest; colour-blind safe."""
    return colormaps["coolwarm"].with_extremes(bad="black")


def _add_colour_bar(figure: Figure, layout: Layout, colours: ScalarMappable) -> None:
    """Draw the colour bar right of the pictures."""
    height = min(layout.row_height_inch, 3.0)
    axes = figure.add_axes(layout.box(layout.right_edge_inch + 0.3, TOP_INCH, 0.14, height))
    bar = figure.colorbar(colours, cax=axes, extend="both")
    bar.set_label(LABEL, size=9)
    bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(tick_text))
    bar.ax.tick_params(labelsize=8, length=3)
