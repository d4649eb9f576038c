"""Centre lines of maps, and how well those of two maps agree (centre-line Dice).

A map of vessels may be right in its course and wrong in its width. The centre-line Dice asks for the course: the share
of the predicted centre line that lies in the true map (precision), the share of the true one that lies in the
predicted map (recall), and their harmonic mean.

At an eighth of a voxel a line drawn one sub-voxel aside would lie outside of any thin vessel, and a vessel drawn by a
few tracks is a bundle of threads, whose holes each get a loop of centre line. A tolerance cures both (our choice):
holes narrower than twice the tolerance are closed before thinning, and a centre line lies in a map when it comes within
the tolerance of it. With a tolerance of 0 this is the plain definition.
"""

import numpy as np
from jaxtyping import Bool, Int
from scipy import ndimage

from sparse_ulm.metrics.maps import ROUNDING, count_near
from sparse_ulm.metrics.thinning import thin


def centre_line(
    voxel: Int[np.ndarray, "n xyz=3"], *, voxel_size_m: tuple[float, float, float], tolerance_m: float = 0.0
) -> Int[np.ndarray, "m xyz=3"]:
    """Thin a map to lines one voxel wide.

    Args:
        voxel: Visited voxels, in any order; maps of 2D recordings are one voxel thick.
        voxel_size_m: Grid step along x, y and z.
        tolerance_m: Radius of the ball that closes holes first; 0 for none.

    Returns:
        Voxels of the centre line, sorted by (x, y, z); with a tolerance they may lie in closed holes.
    """
    if not len(voxel):
        return np.empty((0, 3), dtype=np.int64)
    ball = _ball(voxel_size_m, tolerance_m)
    if ball.size == 1:
        return thin(voxel)
    # The border keeps the ball inside the picture: closing is then the same at the edge of the map.
    border = np.asarray(ball.shape) // 2 + 1
    low = voxel.min(axis=0) - border
    picture = np.zeros(voxel.max(axis=0) - low + 1 + border, dtype=bool)
    picture[tuple((voxel - low).T)] = True
    return thin(np.argwhere(ndimage.binary_closing(picture, structure=ball)) + low)


def centre_line_counts(
    predicted: Int[np.ndarray, "n xyz=3"],
    truth: Int[np.ndarray, "m xyz=3"],
    *,
    voxel_size_m: tuple[float, float, float],
    tolerance_m: float,
) -> tuple[int, int, int, int]:
    """Count what `scores_from_counts` makes the centre-line Dice of; counts of several maps may be added.

    Args:
        predicted: Voxels of the predicted map.
        truth: Voxels of the true map, on the same grid.
        voxel_size_m: Grid step along x, y and z.
        tolerance_m: Largest distance of a centre line from the other map, inclusive, and radius of the closing.

    Returns:
        Voxels of the predicted centre line, of the true one, and how many of each lie within the tolerance of the
        other *map*.

    Raises:
        ValueError: If the tolerance is negative.
    """
    sets = ((predicted, truth), (truth, predicted))
    lines = [centre_line(own, voxel_size_m=voxel_size_m, tolerance_m=tolerance_m) for own, _ in sets]
    found = [
        count_near(line, other, voxel_size_m=voxel_size_m, tolerance_m=tolerance_m)
        for line, (_, other) in zip(lines, sets, strict=True)
    ]
    return len(lines[0]), len(lines[1]), found[0], found[1]


def _ball(voxel_size_m: tuple[float, float, float], radius_m: float) -> Bool[np.ndarray, "x y z"]:
    """Mark the voxels whose centres lie within a radius of the middle one."""
    if radius_m < 0:
        raise ValueError(f"tolerance_m is {radius_m}; wanted 0 or more.")
    reach = [int(radius_m * ROUNDING / step) for step in voxel_size_m]
    offset = np.meshgrid(
        *(np.arange(-n, n + 1) * step for n, step in zip(reach, voxel_size_m, strict=True)), indexing="ij"
    )
    return np.asarray(sum(component**2 for component in offset) <= (radius_m * ROUNDING) ** 2)
