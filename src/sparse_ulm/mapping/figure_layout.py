"""Where the projections of a map go on the page: one scale in millimetres for all, whatever the voxel size."""

from dataclasses import dataclass

import numpy as np

from sparse_ulm.acquisition import Geometry
from sparse_ulm.conventions import METRES_PER_MM

Plane = tuple[int, int]
"""Axes of a picture: the one across, the one down or up."""

PLANES_3D: tuple[Plane, ...] = ((0, 2), (1, 2), (0, 1))
PLANES_2D: tuple[Plane, ...] = ((0, 2),)

PICTURES_WIDTH_INCH, PICTURES_HEIGHT_INCH = 10.5, 5.0
LEFT_INCH, RIGHT_INCH, GAP_INCH = 0.75, 1.5, 0.75
TOP_INCH, BOTTOM_INCH, ROW_GAP_INCH = 0.85, 1.1, 0.95
LEAST_WIDTH_INCH = 6.5
LEAST_ROW_INCH = 2.5
"""Wide enough for title and caption, high enough for the colour bar's label."""

SCALE_BARS_MM = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)

Box = tuple[float, float, float, float]
"""Left, bottom, width and height as fractions of the figure, as matplotlib wants them."""


@dataclass(frozen=True)
class Layout:
    """Rows of pictures at one scale, their tops aligned within a row.

    Attributes:
        planes: One picture each, from left to right.
        edges_mm: Outer edges of the first and last voxel, for the axes x, y and z.
        inch_per_mm: Scale on the page.
        n_rows: Rows of pictures.
    """

    planes: tuple[Plane, ...]
    edges_mm: tuple[tuple[float, float], ...]
    inch_per_mm: float
    n_rows: int

    def length_mm(self, axis: int) -> float:
        """Length of the map along an axis."""
        first, last = self.edges_mm[axis]
        return abs(last - first)

    def size_inch(self, plane: Plane) -> tuple[float, float]:
        """Width and height of one picture."""
        return self.length_mm(plane[0]) * self.inch_per_mm, self.length_mm(plane[1]) * self.inch_per_mm

    @property
    def row_height_inch(self) -> float:
        """Height of the tallest picture, or of the colour bar's label beside it."""
        return max(LEAST_ROW_INCH, *(self.size_inch(plane)[1] for plane in self.planes))

    @property
    def right_edge_inch(self) -> float:
        """Where the last picture of a row ends."""
        return LEFT_INCH + sum(self.size_inch(plane)[0] + GAP_INCH for plane in self.planes) - GAP_INCH

    @property
    def figure_inch(self) -> tuple[float, float]:
        """Width and height of the whole figure."""
        height = self.n_rows * self.row_height_inch + ROW_GAP_INCH * (self.n_rows - 1)
        return max(self.right_edge_inch + RIGHT_INCH, LEAST_WIDTH_INCH), TOP_INCH + height + BOTTOM_INCH

    def picture_box(self, row: int, column: int) -> Box:
        """Place of one picture."""
        left = LEFT_INCH + sum(self.size_inch(plane)[0] + GAP_INCH for plane in self.planes[:column])
        top = TOP_INCH + row * (self.row_height_inch + ROW_GAP_INCH)
        return self.box(left, top, *self.size_inch(self.planes[column]))

    def box(self, left_inch: float, top_inch: float, width_inch: float, height_inch: float) -> Box:
        """Turn a place in inches from the top left corner into fractions of the figure."""
        width, height = self.figure_inch
        return left_inch / width, 1 - (top_inch + height_inch) / height, width_inch / width, height_inch / height


def lay_out(shape: tuple[int, ...], geometry: Geometry, *, n_rows: int) -> Layout:
    """Choose the pictures of a map, x–z alone if it is one voxel thick along y, at the largest scale that fits."""
    planes = PLANES_2D if shape[1] == 1 else PLANES_3D
    one_to_one = Layout(planes, _edges_mm(shape, geometry), 1.0, n_rows)
    width_mm = sum(one_to_one.length_mm(across) for across, _ in planes)
    height_mm = max(one_to_one.length_mm(along) for _, along in planes)
    room_inch = PICTURES_WIDTH_INCH - GAP_INCH * (len(planes) - 1)
    scale = min(room_inch / width_mm, PICTURES_HEIGHT_INCH / height_mm)
    return Layout(planes, one_to_one.edges_mm, scale, n_rows)


def scale_bar_mm(width_mm: float) -> float:
    """Choose a round length of at most 30 % of the picture's width.

    >>> scale_bar_mm(3.2), scale_bar_mm(12.0), scale_bar_mm(0.4)
    (0.5, 2.0, 0.1)
    """
    return max((length for length in SCALE_BARS_MM if length <= 0.3 * width_mm), default=SCALE_BARS_MM[0])


def _edges_mm(shape: tuple[int, ...], geometry: Geometry) -> tuple[tuple[float, float], ...]:
    """Give the outer edges of the first and last voxel along each axis; from 0 where the grid is oblique."""
    affine = geometry.affine_mm
    step, start = np.diag(affine)[:3], affine[:3, 3]
    off_diagonal = affine[:3, :3] - np.diag(step)
    if np.abs(off_diagonal).max() > 1e-6 * np.abs(affine[:3, :3]).max():
        step, start = np.asarray(geometry.voxel_size_m) / METRES_PER_MM, np.zeros(3)
    return tuple(
        (float(first - size / 2), float(first + (n - 0.5) * size))
        for first, size, n in zip(start, step, shape, strict=True)
    )
