"""A map as the voxels that something is known of: files and pictures are made of it slab by slab, never of a volume."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from jaxtyping import Float32, Int64, Shaped
from numpy.typing import NDArray

SLAB_BYTES = 1 << 25
"""Of the volume that is made at a time."""


@dataclass(frozen=True)
class SparseMap:
    """Values of some voxels of a grid.

    Attributes:
        shape: (x, y, z) of the grid.
        key: Voxels as linear indices of (x, y, z), z fastest; each once.
        values: One number, or one vector, per voxel.
        elsewhere: The value of all other voxels, 0 or NaN.
    """

    shape: tuple[int, int, int]
    key: Int64[np.ndarray, " n"]
    values: Float32[np.ndarray, "n *c"]
    elsewhere: float = 0.0

    @classmethod
    def of(cls, volume: Shaped[np.ndarray, "x y z"]) -> "SparseMap":
        """Take the voxels of a volume that are not 0."""
        key = np.flatnonzero(volume).astype(np.int64)
        x, y, z = volume.shape
        return cls((x, y, z), key, volume.reshape(-1)[key].astype(np.float32))

    def with_values(self, values: NDArray[np.floating], *, elsewhere: float | None = None) -> "SparseMap":
        """Give other values to the same voxels."""
        kept = self.elsewhere if elsewhere is None else elsewhere
        return replace(self, values=values.astype(np.float32), elsewhere=kept)

    def dense(self) -> Float32[np.ndarray, "x y z *c"]:
        """Give the volume."""
        volume = np.full((prod(self.shape), *self.values.shape[1:]), self.elsewhere, dtype=np.float32)
        volume[self.key] = self.values
        return volume.reshape(*self.shape, *self.values.shape[1:])

    def slabs(self, component: int | None = None) -> Iterator[Float32[np.ndarray, "x y dz"]]:
        """Give the volume in slabs along z, as NIfTI stores it; of vectors, one component.

        Args:
            component: Of vectors; None for numbers.
        """
        n_x, n_y, n_z = self.shape
        values = self.values if component is None else self.values[:, component]
        z = self.key % n_z
        order = np.argsort(z, kind="stable")
        z, (x, y), values = z[order], np.divmod(self.key[order] // n_z, n_y), values[order]
        depth = max(1, SLAB_BYTES // (4 * n_x * n_y))
        for first in range(0, n_z, depth):
            last = min(first + depth, n_z)
            rows = slice(*np.searchsorted(z, [first, last]).tolist())
            stored = np.full((last - first, n_y, n_x), self.elsewhere, dtype=np.float32)
            stored[z[rows] - first, y[rows], x[rows]] = values[rows]
            yield stored.T

    def project(self, axis: int) -> Float32[np.ndarray, "a b"]:
        """Take the largest value along an axis, at least 0; of numbers alone."""
        index = np.unravel_index(self.key, self.shape)
        across, along = (a for a in range(3) if a != axis)
        picture = np.zeros((self.shape[across], self.shape[along]), dtype=np.float32)
        np.maximum.at(picture, (index[across], index[along]), self.values)
        return picture
