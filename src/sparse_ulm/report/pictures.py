"""Pictures of a recording's maps: those that the run wrote, and projections of maps that have none."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sparse_ulm.mapping.figure import (
    DOTS_PER_INCH,
    add_scale_bar,
    draw_picture,
    fit_pixels,
    project,
    save_projections,
    tick_text,
)
from sparse_ulm.mapping.figure_layout import LEFT_INCH, TOP_INCH, lay_out
from sparse_ulm.mapping.velocity_figure import SATURATED_PERCENTILE
from sparse_ulm.report.plots import Picture, figure_png
from sparse_ulm.report.volumes import ReadMap, read_map
from sparse_ulm.run_facts import RecordingFacts

COLOUR_MAP = "viridis"

WRITTEN = {
    "density.png": ("Density", "Maximum-intensity projections of the density map, in millimetres."),
    "axial_velocity.png": ("Axial velocity", "Blue: towards the probe. Red: away from it."),
    "comparison.png": ("Map and truth", "Of a simulated recording: what was found, missed, and false."),
}
"""Pictures that a run or an evaluation wrote, by their endings."""


def written_pictures(recording: RecordingFacts) -> list[Picture]:
    """Take the pictures that lie beside the maps."""
    found = [(recording.file(ending), words) for ending, words in WRITTEN.items()]
    return [Picture(*words, path.read_bytes()) for path, words in found if path.is_file()]


def drawn_pictures(recording: RecordingFacts) -> list[Picture]:
    """Draw the maps that the run drew no picture of: speed, or the map network's probability.

    Raises:
        OSError: If a map cannot be read.
        ValueError: If it is no map of numbers.
    """
    speed, probability = recording.file("speed.nii.gz"), recording.file("probability.nii.gz")
    pictures = []
    if speed.is_file():
        caption = "Fastest of the voxels behind each pixel; mean over the tracks of a voxel."
        pictures.append(Picture("Speed", caption, draw_speed(read_map(speed), title=recording.name)))
    if probability.is_file():
        caption = "Largest probability, of any block, that a bubble visited the voxel."
        pictures.append(Picture("Probability", caption, draw_probability(read_map(probability), title=recording.name)))
    return pictures


def draw_speed(speed_mm_s: ReadMap, *, title: str) -> bytes:
    """Draw projections of a speed map as PNG: colours are even, and end at a high percentile.

    Args:
        speed_mm_s: Known speeds.
        title: Headline.
    """
    known, grid = speed_mm_s.values, speed_mm_s.grid
    layout = lay_out(known.shape, grid, n_rows=1)
    figure = Figure(figsize=layout.figure_inch, dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    largest = float(np.percentile(known.values, SATURATED_PERCENTILE)) if len(known.values) else 1.0
    norm = Normalize(0.0, largest or 1.0, clip=True)
    for column, plane in enumerate(layout.planes):
        picture = fit_pixels(project(known, plane), layout.size_inch(plane))
        masked = np.ma.masked_equal(picture, 0.0)
        axes = figure.add_axes(layout.picture_box(0, column))
        draw_picture(axes, masked, plane, layout, norm=norm, cmap=COLOUR_MAP, interpolation="nearest")
    add_scale_bar(figure.axes[0], layout)
    bar_axes = figure.add_axes(
        layout.box(layout.right_edge_inch + 0.3, TOP_INCH, 0.14, min(layout.row_height_inch, 3.0))
    )
    bar = figure.colorbar(ScalarMappable(norm, COLOUR_MAP), cax=bar_axes, extend="max")
    bar.set_label("Mean speed (mm/s)", size=9)
    bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(tick_text))
    bar.ax.tick_params(labelsize=8, length=3)
    width, height = layout.figure_inch
    figure.text(LEFT_INCH / width, 1 - 0.3 / height, title, size=13, weight="bold", va="center", parse_math=False)
    caption = "Fastest of the voxels behind each pixel, all pictures at one scale.\n"
    caption += f"Colour: saturated at the {SATURATED_PERCENTILE:g}th percentile of the voxels."
    figure.text(LEFT_INCH / width, 0.32 / height, caption, size=8, color="0.35", va="center", linespacing=1.4)
    return figure_png(figure)


def draw_probability(probability: ReadMap, *, title: str) -> bytes:
    """Draw projections of a map of probabilities as PNG."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "probability.png"
        label = "Largest probability of a block"
        save_projections(path, probability.values, probability.grid, title=title, label=label)
        return path.read_bytes()
