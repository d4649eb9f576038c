"""Pictures of a map: maximum-intensity projections with true proportions, millimetres and a scale bar.

Display follows PALA's convention for density maps: the colour is the cube root of the count, saturated at 0.8 of the
largest cube root, so that capillaries seen once remain visible beside large vessels.

Figures are drawn on a canvas of their own: matplotlib's global backend and settings stay as they are.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from sparse_ulm.acquisition import Geometry
from sparse_ulm.conventions import SPATIAL_AXES
from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.mapping.figure_layout import LEFT_INCH, TOP_INCH, Layout, Plane, lay_out, scale_bar_mm
from sparse_ulm.mapping.sparse_map import SparseMap

DISPLAY_EXPONENT = 1 / 3
DISPLAY_SATURATION = 0.8
COLOUR_MAP = "hot"

MISSED, FALSE, FOUND = "#3d8bff", "#ff8c1a", "#f2f2f2"
"""Colours of the comparison, on black: distinct for colour-blind readers."""

DOTS_PER_INCH = 200


def save_projections(
    path: Path | str,
    density: SparseMap,
    geometry: Geometry,
    *,
    title: str,
    label: str,
    truth: Int[np.ndarray, "m xyz=3"] | None = None,
) -> None:
    """Save maximum-intensity projections of a map as PNG: x–z, y–z and x–y; only x–z for a 2D recording.

    Args:
        path: File to write, `.png`; it appears whole or not at all.
        density: The map, zero or positive, and zero elsewhere; one voxel along y for a 2D recording.
        geometry: Grid of the map; axes are in its scanner millimetres, depth downwards. On an oblique grid, where no
            scanner coordinate is constant along a picture's edge, millimetres count from the first voxel's centre.
        title: Headline.
        label: What the colour means, with its unit, as "Microbubble density (blocks per voxel)".
        truth: Voxels of the true map, to add a row that shows what was found, missed and false.
    """
    layout = lay_out(density.shape, geometry, n_rows=1 if truth is None else 2)
    figure = Figure(figsize=layout.figure_inch, dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    largest = float(density.values.max(initial=0.0))
    norm = display_norm(largest)
    for column, plane in enumerate(layout.planes):
        picture = fit_pixels(project(density, plane), layout.size_inch(plane))
        draw_picture(figure.add_axes(layout.picture_box(0, column)), picture, plane, layout, norm=norm, cmap=COLOUR_MAP)
    add_scale_bar(figure.axes[0], layout)
    _add_colour_bar(figure, layout, norm, label, project(density, layout.planes[0]))
    if truth is not None:
        _add_comparison(figure, layout, density, truth)
    _add_words(figure, layout, title, saturated=float(norm.vmax or 1.0) < largest)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, format="png")


def display_norm(largest: float) -> PowerNorm:
    """Give the colour scale of a map from its largest value: cube root, saturated at 0.8 of the largest cube root.

    Maps that never exceed 1 (one block, or a probability) are not saturated, for there is nothing to gain.
    """
    saturated = largest * DISPLAY_SATURATION ** (1 / DISPLAY_EXPONENT)
    return PowerNorm(DISPLAY_EXPONENT, vmin=0.0, vmax=max(saturated, min(largest, 1.0)) or 1.0, clip=True)


def project(found: SparseMap, plane: Plane) -> NDArray[Any]:
    """Take the largest value along the axis that is not shown; rows run along the picture's second axis."""
    return found.project(3 - sum(plane)).T


def _project_voxels(index: NDArray[np.integer], shape: tuple[int, ...], plane: Plane) -> NDArray[np.bool_]:
    """Draw the projection of a list of voxels."""
    picture = np.zeros((shape[plane[1]], shape[plane[0]]), dtype=bool)
    picture[index[:, plane[1]], index[:, plane[0]]] = True
    return picture


def fit_pixels(picture: NDArray[Any], size_inch: tuple[float, float]) -> NDArray[Any]:
    """Join pixels by their maximum until the picture is no finer than the page: averaging would dim thin vessels."""
    for axis, side_inch in ((0, size_inch[1]), (1, size_inch[0])):
        joined = max(1, picture.shape[axis] // max(1, int(side_inch * DOTS_PER_INCH)))
        if joined > 1:
            picture = np.maximum.reduceat(picture, np.arange(0, picture.shape[axis], joined), axis=axis)
    return picture


def draw_picture(axes: Axes, picture: NDArray[Any], plane: Plane, layout: Layout, **colours: Any) -> None:
    """Draw one picture with axes in millimetres; x and y grow right and up, z is depth and grows down."""
    across, along = plane
    axes.set_facecolor("black")
    axes.imshow(
        picture, origin="lower", extent=(*layout.edges_mm[across], *layout.edges_mm[along]), aspect="auto", **colours
    )
    axes.set_xlim(*sorted(layout.edges_mm[across]))
    axes.set_ylim(*sorted(layout.edges_mm[along], reverse=along == 2))
    axes.set_xlabel(f"{SPATIAL_AXES[across]} (mm)", size=9, labelpad=2)
    axes.set_ylabel(f"{SPATIAL_AXES[along]} (mm)", size=9, labelpad=2)
    axes.xaxis.set_major_locator(_millimetre_ticks(layout, across, spacing_inch=0.6))
    axes.yaxis.set_major_locator(_millimetre_ticks(layout, along, spacing_inch=0.5))
    axes.xaxis.set_major_formatter(FuncFormatter(tick_text))
    axes.yaxis.set_major_formatter(FuncFormatter(tick_text))
    axes.tick_params(labelsize=8, length=3)
    axes.set_title(f"{SPATIAL_AXES[across]}–{SPATIAL_AXES[along]}", size=10, pad=4)


def _millimetre_ticks(layout: Layout, axis: int, *, spacing_inch: float) -> Locator:
    """Choose ticks that keep their distance; a side too short for two gets one, at its middle."""
    n_ticks = int(layout.length_mm(axis) * layout.inch_per_mm / spacing_inch)
    if n_ticks < 1:
        return FixedLocator([float(f"{sum(layout.edges_mm[axis]) / 2:.2g}")])
    return MaxNLocator(nbins=max(2, n_ticks), steps=[1, 2, 5, 10])


def _add_comparison(figure: Figure, layout: Layout, density: SparseMap, truth: NDArray[np.integer]) -> None:
    """Draw, below the projections, where map and truth agree; agreement comes last so that joined pixels show it."""
    for column, plane in enumerate(layout.planes):
        found, true = project(density, plane) > 0, _project_voxels(truth, density.shape, plane)
        size = layout.size_inch(plane)
        picture = np.zeros((*fit_pixels(found, size).shape, 3))
        for colour, mask in ((MISSED, true & ~found), (FALSE, found & ~true), (FOUND, found & true)):
            picture[fit_pixels(mask, size)] = to_rgb(colour)
        axes = figure.add_axes(layout.picture_box(1, column))
        draw_picture(axes, picture, plane, layout, interpolation="nearest")
    named = ((FOUND, "found and true"), (MISSED, "missed"), (FALSE, "false"))
    handles = [Patch(facecolor=colour, edgecolor="0.4", label=name) for colour, name in named]
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8, borderaxespad=0.8
    )


def add_scale_bar(axes: Axes, layout: Layout) -> None:
    """Draw the scale bar into the lower right corner of the first picture; all pictures share its scale."""
    width_mm = layout.length_mm(0)
    length_mm = scale_bar_mm(width_mm)
    width_inch, height_inch = layout.size_inch(layout.planes[0])
    share, bottom = length_mm / width_mm, 0.12 / height_inch
    # The words need 0.6 inch: a shorter bar stands centred under them, and a narrow picture has both at its middle.
    room = max(share, 0.6 / width_inch)
    middle = max(0.5, 1 - 0.12 / width_inch - room / 2)
    outline = [withStroke(linewidth=2, foreground="black")]
    axes.add_patch(
        Rectangle(
            (middle - share / 2, bottom),
            share,
            0.05 / height_inch,
            transform=axes.transAxes,
            color="white",
            lw=0,
            path_effects=outline,
        )
    )
    axes.text(
        middle,
        bottom + 0.09 / height_inch,
        f"{length_mm:g} mm",
        transform=axes.transAxes,
        color="white",
        size=9,
        ha="center",
        path_effects=outline,
    )


def _add_colour_bar(figure: Figure, layout: Layout, norm: PowerNorm, label: str, picture: NDArray[Any]) -> None:
    """Draw the colour bar right of the first row, with ticks at round values of the map (not of its cube root)."""
    height = min(layout.row_height_inch, 3.0)
    axes = figure.add_axes(layout.box(layout.right_edge_inch + 0.3, TOP_INCH, 0.14, height))
    shown = float(norm.vmax or 1.0)
    bar = figure.colorbar(
        ScalarMappable(norm, COLOUR_MAP), cax=axes, extend="max" if picture.max() > shown else "neither"
    )
    bar.set_label(label, size=9)
    bar.ax.yaxis.set_major_locator(FixedLocator(_colour_ticks(shown, whole=bool((picture % 1 == 0).all()))))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(tick_text))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.tick_params(labelsize=8, length=3)


def _colour_ticks(largest: float, *, whole: bool) -> list[float]:
    """Choose round values that keep their distance under the cube root; whole ones for counts.

    >>> _colour_ticks(3.6, whole=True), _colour_ticks(160.0, whole=True)
    ([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 5.0, 20.0, 50.0, 100.0])
    """
    decade = np.floor(np.log10(largest))
    round_values = np.concatenate([np.array([1, 2, 3, 5]) * 10.0**power for power in np.arange(decade - 3, decade + 1)])
    ticks = [0.0]
    for value in round_values[(round_values <= largest) & (round_values >= whole)]:
        if (value / largest) ** DISPLAY_EXPONENT - (ticks[-1] / largest) ** DISPLAY_EXPONENT > 0.1:
            ticks.append(float(f"{value:.6g}"))
    return ticks


def tick_text(value: float, _: int | None = None) -> str:
    """Write a tick with as few digits as it needs, and a true minus sign."""
    return f"{value:.4g}".replace("-", "−")


def _add_words(figure: Figure, layout: Layout, title: str, *, saturated: bool) -> None:
    """Write the headline above the pictures, and below them how values became colours."""
    width, height = layout.figure_inch
    figure.text(LEFT_INCH / width, 1 - 0.3 / height, title, size=13, weight="bold", va="center")
    scale = "saturated at 0.8 of the largest (PALA's convention)" if saturated else "not saturated"
    caption = f"Maximum-intensity projections, all at one scale.\nColour: cube root of the value, {scale}."
    figure.text(LEFT_INCH / width, 0.32 / height, caption, size=8, color="0.35", va="center", linespacing=1.4)
