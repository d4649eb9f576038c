"""Radial symmetry: the point nearest to all lines along the gradients, which for a round spot meet in its centre.

The PSF is made round first: along each axis lengths are measured in PSF widths. The rest holds in 2D and 3D alike.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from sparse_ulm.classical.windows import Windows

CLOSEST = 0.1
"""Distance to the gradient centroid, in PSF widths, below which a line's weight no longer grows."""


def radial_centres(windows: Windows, *, fwhm_voxel: Float[np.ndarray, "xyz=3"]) -> Float[np.ndarray, "n xyz=3"]:
    """Give the centres of radial symmetry, in voxels from the peak.

    The gradient g at p, a corner where 4 (2D) or 8 (3D) voxels meet, spans a line. The centre c minimises
    sum w |(1 - g g^T / |g|^2) (p - c)|^2 with w = |g|^2 / distance of p to the centroid of |g|^2.

    Args:
        windows: Magnitudes around the peaks.
        fwhm_voxel: PSF widths, in voxels.

    Returns:
        NaN where the lines do not meet in one point, as in a window of one value; 0 along an axis of one voxel.

    Source: Parthasarathy's method as in the reference notes. Its box filter over the gradients is left out: our choice,
    because it bends the lines at the window's edge.
    """
    axes = windows.axes
    gradient, place = _gradients(windows, axes, fwhm_voxel)
    power = (gradient**2).sum(axis=2)
    centroid = np.einsum("nk,kd->nd", power, place) / np.maximum(power.sum(axis=1), np.finfo(float).tiny)[:, None]
    distance = np.linalg.norm(place[None] - centroid[:, None], axis=2)
    weight = power / np.maximum(distance, CLOSEST)
    direction = gradient / np.sqrt(np.maximum(power, np.finfo(float).tiny))[:, :, None]
    across = np.eye(len(axes)) - direction[:, :, :, None] * direction[:, :, None, :]  # projects onto the line's normals
    matrix = np.einsum("nk,nkde->nde", weight, across)
    right = np.einsum("nk,nkde,ke->nd", weight, across, place)
    centre = np.zeros((len(matrix), 3))
    centre[:, axes] = _solve(matrix, right) * fwhm_voxel[axes]
    return centre


def _gradients(
    windows: Windows, axes: list[int], fwhm_voxel: Float[np.ndarray, "xyz=3"]
) -> tuple[Float[np.ndarray, "n corners d"], Float[np.ndarray, "corners d"]]:
    """Give gradients at the corners between voxels, 0 where a voxel is missing, and the corners' places, in widths."""
    gradient = np.stack(
        [_at_corners(windows.samples, axes, difference_axis=axis) * fwhm_voxel[axis] for axis in axes], axis=-1
    )
    is_whole = _at_corners(windows.is_inside.astype(np.float64), axes, difference_axis=None) > 1.0 - 1.0e-9
    gradient[~is_whole] = 0.0
    corners = [windows.offset_along(axis)[:-1] + 0.5 for axis in axes]
    place = np.stack(np.meshgrid(*corners, indexing="ij"), axis=-1).reshape(-1, len(axes)) / fwhm_voxel[axes]
    return gradient.reshape(len(gradient), -1, len(axes)), place


def _at_corners(
    samples: Float[np.ndarray, "n wx wy wz"], axes: list[int], *, difference_axis: int | None
) -> NDArray[np.float64]:
    """Bring samples to the corners between voxels: the difference along one axis, the mean along the others."""
    for axis in axes:
        size = samples.shape[1 + axis]
        low = np.take(samples, range(size - 1), axis=1 + axis)
        high = np.take(samples, range(1, size), axis=1 + axis)
        samples = high - low if axis == difference_axis else (high + low) / 2.0
    return samples


def _solve(matrix: Float[np.ndarray, "n d d"], right: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Solve n small systems; NaN where lines are parallel or missing."""
    scale = np.trace(matrix, axis1=1, axis2=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        is_sound = np.linalg.det(matrix / scale[:, None, None]) > 1.0e-9
    solution = np.full(right.shape, np.nan)
    if is_sound.any():
        solution[is_sound] = np.linalg.solve(matrix[is_sound], right[is_sound, :, None])[:, :, 0]
    return solution
