"""Axis order, sparse columns, units and type aliases: stated here once, used everywhere.

Dense arrays run (x, y, z, t): x lateral, y elevation, z depth, t frame; MONAI adds a channel in front.
A 2D recording has one voxel along y and uses the same code.

Sparse coordinates are int32 rows (batch, x, y, z, t), non-negative and unique. After a stride of s they
are *divided* by s (TorchSparse 2.1's rule), so that stride s covers voxels s*c ... s*c + s - 1.

Inside the package lengths are in metres, times in seconds, frequencies in hertz. Millimetres appear
only in files made for people (NIfTI, CSV, sidecar JSON).

Position p along an axis, in voxels, counts from the CENTRE of the first voxel: voxel i covers
[i - 1/2, i + 1/2). On a grid refined by f, sub-voxel j covers the f-th parts of that interval and its
centre lies at (j + 1/2) / f - 1/2, so the refined grid starts at 1/(2f) - 1/2: -7/16 for f = 8.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Complex64, Float, Float32, Int32
from numpy.typing import NDArray
from torch import Tensor

SPATIAL_AXES = ("x", "y", "z")
AXES = (*SPATIAL_AXES, "t")

BATCH_COLUMN, X_COLUMN, Y_COLUMN, Z_COLUMN, TIME_COLUMN = range(5)
"""Columns of sparse coordinates."""

UPSAMPLING = 8
"""Refinement of the super-resolved map over the input grid, per refined axis (Rauby et al., released code)."""

METRES_PER_MM = 1.0e-3
METRES_PER_UM = 1.0e-6

Frames = Complex64[np.ndarray, "x y z t"]
"""Beamformed IQ (or correlation) frames as read from a recording."""

IqBlock = Complex64[Tensor, "x y z t"]
"""The same on the torch side, one block of frames."""

Coordinates = Int32[Tensor, "sites columns"]
Features = Float[Tensor, "sites channels"]
SiteMask = Bool[Tensor, " sites"]
DensityMap = Float32[np.ndarray, "x y z"]
PositionsVoxel = Float[np.ndarray, "n xyz=3"]
"""Positions in voxels of the input grid, from the centre of its first voxel."""


def refined_index(position_voxel: NDArray[np.floating], factor: int | Sequence[int]) -> NDArray[np.int64]:
    """Give the index, on the grid refined by `factor`, of the sub-voxel that holds each position.

    Args:
        position_voxel: (..., 3) positions in input voxels, from the centre of the first voxel.
        factor: Refinement, one for all axes or one per axis; 8 for the super-resolved map.

    Returns:
        (..., 3) int64 indices; negative or too large where the position lies outside the grid.

    >>> refined_index(np.array([[-0.5, 0.0, 0.49]]), 8).tolist()
    [[0, 4, 7]]
    """
    return np.floor((np.asarray(position_voxel) + 0.5) * np.asarray(factor)).astype(np.int64)


def refined_position(index: NDArray[np.integer], factor: int | Sequence[int]) -> NDArray[np.float64]:
    """Give the position, in input voxels, of the centre of a sub-voxel; inverse of `refined_index`.

    >>> refined_position(np.array([[0, 4, 7]]), 8).tolist()
    [[-0.4375, 0.0625, 0.4375]]
    """
    return (np.asarray(index) + 0.5) / np.asarray(factor) - 0.5


def refinement(shape: Sequence[int]) -> tuple[int, int, int]:
    """Give the refinement of the super-resolved map per axis: a 2D recording, one voxel thick, is not refined across.

    >>> refinement((24, 1, 32))
    (8, 1, 8)
    """
    return UPSAMPLING, 1 if shape[1] == 1 else UPSAMPLING, UPSAMPLING
