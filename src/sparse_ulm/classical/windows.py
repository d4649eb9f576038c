"""Windows of magnitudes cut out around peaks, all of one size, clipped at the border of the grid."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64


@dataclass(frozen=True)
class Windows:
    """Samples around n peaks, the peak in the middle.

    Attributes:
        samples: Magnitudes, (n, wx, wy, wz) of odd sizes; 0 outside the grid.
        inside: For each axis, (n, w): whether that plane of the window lies inside the grid.
    """

    samples: Float[np.ndarray, "n wx wy wz"]
    inside: tuple[Bool[np.ndarray, "n wx"], Bool[np.ndarray, "n wy"], Bool[np.ndarray, "n wz"]]

    @property
    def is_inside(self) -> Bool[np.ndarray, "n wx wy wz"]:
        """Which samples lie inside the grid."""
        x, y, z = self.inside
        return x[:, :, None, None] & y[:, None, :, None] & z[:, None, None, :]

    @property
    def axes(self) -> list[int]:
        """The axes along which the window holds more than one voxel."""
        return [axis for axis in range(3) if self.samples.shape[1 + axis] > 1]

    def offset_along(self, axis: int) -> Float[np.ndarray, " w"]:
        """Give the distance of each plane of the window from the peak, in voxels."""
        half = self.samples.shape[1 + axis] // 2
        return np.arange(-half, half + 1, dtype=np.float64)

    @property
    def offsets(self) -> tuple[Float[np.ndarray, "wx wy wz"], ...]:
        """Distances from the peak along x, y and z, one array per axis."""
        return tuple(np.meshgrid(*(self.offset_along(axis) for axis in range(3)), indexing="ij"))


def cut_windows(
    magnitude: Float32[np.ndarray, "x y z t"],
    frame: Int64[np.ndarray, " n"],
    voxel: Int64[np.ndarray, "n xyz=3"],
    half_width: Int64[np.ndarray, "xyz=3"],
) -> Windows:
    """Cut out the samples up to `half_width` voxels to either side of each peak."""
    index, inside = [], []
    for axis in range(3):
        size = magnitude.shape[axis]
        planes = voxel[:, axis, None] + np.arange(-half_width[axis], half_width[axis] + 1)
        inside.append((planes >= 0) & (planes < size))
        index.append(np.clip(planes, 0, size - 1))
    x, y, z = index
    samples = magnitude[
        x[:, :, None, None], y[:, None, :, None], z[:, None, None, :], frame[:, None, None, None]
    ].astype(np.float64)
    windows = Windows(samples, (inside[0], inside[1], inside[2]))
    samples[~windows.is_inside] = 0.0
    return windows
