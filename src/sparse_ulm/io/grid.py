"""From the positions of pixels to a grid: where formats give a point per pixel, its steps, origin and directions."""

from itertools import permutations
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from sparse_ulm.acquisition import as_rows
from sparse_ulm.conventions import SPATIAL_AXES
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.statements import Statement, millimetres

GRID_TOLERANCE_VOXEL = 0.01
"""Pixels may lie so far off a regular grid: float32 metres round to a millionth of a usual voxel."""

ROW_END_STEPS = 0.5
"""Where a step differs from the row's by more than this part of it, the row of pixels has ended."""


def state_points(
    path: Path, source: str, points_m: Float[np.ndarray, "x y z 3"], *, layout_name: str
) -> tuple[Statement, Statement | None]:
    """State the grid that positions of pixels lie on; a 2D one is shown as thick as its step along x.

    Args:
        path: The recording, for messages.
        source: What the positions are, for messages.
        points_m: Scanner positions (x, y, z) of the pixels' centres.
        layout_name: What fixes the thickness of a 2D recording, for messages.

    Returns:
        The grid, and for 2D what the layout fixes.

    Raises:
        RecordingError: If the pixels do not lie on a regular grid.
    """
    steps = _steps(path, points_m)
    sizes = np.linalg.norm(steps, axis=1)
    shape = points_m.shape[:3]
    known = [size if n > 1 else None for size, n in zip(millimetres(sizes.tolist()), shape, strict=True)]
    unit = np.where(sizes[:, None] > 0, steps / np.where(sizes > 0, sizes, 1.0)[:, None], np.nan)
    is_flat = shape[1] == 1
    if is_flat:  # the missing direction, so that the axes are right-handed
        unit[1] = np.cross(unit[2], unit[0])
    x_mm, y_mm, z_mm = millimetres(points_m[0, 0, 0].tolist())
    directions = as_rows(unit.T) if np.isfinite(unit).all() else None
    layout = Statement(layout_name, (None, known[0], None)) if is_flat else None
    return Statement(source, (known[0], known[1], known[2]), (x_mm, y_mm, z_mm), directions), layout


def find_rows(path: Path, points_m: Float[np.ndarray, "n 3"]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Find the grid in a list of pixels: its sizes from the slowest axis to the fastest, and which axis each is.

    Each axis is called after the scanner's that it lies nearest to; in 2D they are "x" and "z", however the plane is
    turned about the depth axis.

    Args:
        path: The recording, for messages.
        points_m: Positions in the order of the list.

    Returns:
        Sizes and names, as (5, 7) and ("x", "z") for lines of 7 pixels along z.

    Raises:
        RecordingError: If rows differ in length, or the list is shorter than a plane.
    """
    sizes: list[int] = []
    steps: list[NDArray[np.float64]] = []
    rest = np.asarray(points_m, dtype=np.float64)
    while len(rest) > 1 and len(sizes) < 3:
        moves = np.diff(rest, axis=0)
        step_m = float(np.linalg.norm(moves[0]))
        ends = np.linalg.norm(moves - moves[0], axis=1) > ROW_END_STEPS * step_m
        n = int(np.argmax(ends)) + 1 if ends.any() else len(rest)
        if not step_m > 0 or len(rest) % n:
            break
        sizes.insert(0, n)
        steps.insert(0, np.abs(moves[0]) / step_m)
        rest = rest[::n]
    if len(rest) > 1 or len(sizes) < 2:
        raise RecordingError(
            f"{path.name}: its {len(points_m)} pixels are no rows of equal length; wanted a plane or volume of equal "
            "steps, as convolutions and maps do. Beamform on a Cartesian grid."
        )
    along = np.stack(steps) if len(sizes) == 3 else np.stack([[np.hypot(x, y), 0.0, z] for x, y, z in steps])
    fitting = permutations(range(3) if len(sizes) == 3 else (0, 2))
    best = max(fitting, key=lambda axes: sum(along[row, axis] for row, axis in enumerate(axes)))
    return tuple(sizes), tuple(SPATIAL_AXES[axis] for axis in best)


def _steps(path: Path, points: Float[np.ndarray, "x y z 3"]) -> NDArray[np.float64]:
    """Give the step along x, y and z as rows, 0 along an axis of one pixel.

    Raises:
        RecordingError: If the pixels do not lie on a regular grid.
    """
    steps = np.zeros((3, 3))
    predicted = np.broadcast_to(points[0, 0, 0], points.shape).copy()
    for axis, n in enumerate(points.shape[:3]):
        if n > 1:
            last = np.take(np.take(points, [0], axis=(axis + 1) % 3), [0], axis=(axis + 2) % 3)
            ends = np.take(last, [0, n - 1], axis=axis).reshape(2, 3)
            steps[axis] = (ends[1] - ends[0]) / (n - 1)
            along = np.arange(n).reshape([-1 if a == axis else 1 for a in range(3)] + [1])
            predicted += along * steps[axis]
    sizes = np.linalg.norm(steps, axis=1)
    smallest = sizes[sizes > 0].min(initial=np.inf)
    off = float(np.linalg.norm(points - predicted, axis=-1).max())
    if not np.isfinite(points).all() or off > GRID_TOLERANCE_VOXEL * smallest:
        raise RecordingError(
            f"{path.name}: its pixels lie up to {off * 1e3:.3g} mm off a regular grid; wanted equal steps, as "
            "convolutions and maps do. Beamform on a Cartesian grid."
        )
    return steps
