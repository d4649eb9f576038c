"""The super-resolved map while it grows: one count and one probability per visited voxel, block after block."""

import numpy as np
from jaxtyping import Float, Float32, Int
from numpy.typing import NDArray

from sparse_ulm.acquisition import Geometry
from sparse_ulm.mapping.sparse_map import SparseMap


class DensityAccumulator:
    """Sum of the maps of many blocks, held sparsely: memory follows the visited voxels, never the volume.

    The density at a voxel is the number of blocks whose probability exceeds the threshold there; the probability is
    the largest of any block. Integer counts and maxima do not depend on the order of the blocks, so that a run
    sharded over ranks gives the same bits as a run in one process.

    New blocks wait in a buffer that is merged once it is as long as what is already merged: every voxel is then sorted
    a logarithmic number of times, however many blocks a recording has (our choice).

    Attributes:
        shape_refined: (x, y, z) of the super-resolved grid.
        geometry_refined: Where that grid lies; the affine of the file the map is saved to.
        threshold: A voxel counts in a block when its probability is strictly above this (0.5 in Rauby et al.'s
            released code).
    """

    def __init__(
        self, shape_refined: tuple[int, int, int], geometry_refined: Geometry, *, threshold: float = 0.5
    ) -> None:
        """Start an empty map.

        Raises:
            ValueError: If a size is below 1 or the threshold is outside [0, 1).
        """
        if min(shape_refined) < 1:
            raise ValueError(f"shape_refined is {shape_refined}; wanted three sizes of at least 1.")
        if not 0.0 <= threshold < 1.0:
            raise ValueError(f"threshold is {threshold}; wanted a probability, 0 <= threshold < 1.")
        self.shape_refined = shape_refined
        self.geometry_refined = geometry_refined
        self.threshold = threshold
        self.n_blocks = 0
        self._key = np.empty(0, dtype=np.int64)
        self._count = np.empty(0, dtype=np.int64)
        self._probability = np.empty(0, dtype=np.float32)
        self._waiting: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
        self._n_waiting = 0

    def add(self, index: Int[np.ndarray, "n xyz=3"], probability: Float[np.ndarray, " n"]) -> None:
        """Add the map of one block.

        Args:
            index: Voxels of the refined grid, in any order; a voxel named twice counts once, with its largest value.
            probability: In [0, 1], one per voxel. Voxels left out have probability 0.

        Raises:
            ValueError: If a voxel is outside the grid or a probability outside [0, 1] (or NaN).
        """
        self._refuse_outside(index)
        if not np.all((probability >= 0.0) & (probability <= 1.0)):
            raise ValueError("a probability is outside [0, 1] or NaN; wanted the output of a sigmoid.")
        # The threshold is applied before rounding to float32, and duplicates are merged before counting.
        key, _, likely = _merge(
            np.ravel_multi_index(tuple(index.T), self.shape_refined).astype(np.int64),
            np.zeros(len(index), dtype=np.int64),
            probability,
        )
        self._wait(key, (likely > self.threshold).astype(np.int64), likely.astype(np.float32))
        self.n_blocks += 1

    def merge(self, other: "DensityAccumulator") -> None:
        """Add all blocks of another accumulator, as that of another rank, to this one.

        Raises:
            ValueError: If grid or threshold differ.
        """
        mine = (self.shape_refined, self.geometry_refined, self.threshold)
        theirs = (other.shape_refined, other.geometry_refined, other.threshold)
        if mine != theirs:
            raise ValueError(f"maps differ in grid or threshold: {mine} and {theirs}; wanted the same recording.")
        other._flush()
        self._wait(other._key, other._count, other._probability)
        self.n_blocks += other.n_blocks

    def sites(self) -> tuple[Int[np.ndarray, "n xyz=3"], Int[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
        """Give the visited voxels in (x, y, z) order, the number of blocks that counted there, and the probability."""
        self._flush()
        index = np.stack(np.unravel_index(self._key, self.shape_refined), axis=1).astype(np.int64)
        return index, self._count.copy(), self._probability.copy()

    def density(self) -> SparseMap:
        """Give the map of counts; exact up to 2**24 blocks."""
        self._flush()
        return SparseMap(self.shape_refined, self._key, self._count.astype(np.float32))

    def probability(self) -> SparseMap:
        """Give the map of the largest probability over blocks; 0 where no block had a voxel."""
        self._flush()
        return SparseMap(self.shape_refined, self._key, self._probability)

    def _refuse_outside(self, index: NDArray[np.integer]) -> None:
        """Refuse voxels outside the grid: a wrapped index would be a vessel in the wrong place."""
        if len(index) and (index.min() < 0 or (index.max(axis=0) >= np.asarray(self.shape_refined)).any()):
            raise ValueError(
                f"voxels span {index.min(axis=0).tolist()} to {index.max(axis=0).tolist()}, outside the refined grid "
                f"{self.shape_refined}. Crop them to the grid first."
            )

    def _wait(self, key: NDArray[np.int64], count: NDArray[np.int64], probability: NDArray[np.float32]) -> None:
        """Put one map in the buffer and merge the buffer when it has grown as long as the map."""
        self._waiting.append((key, count, probability))
        self._n_waiting += len(key)
        if self._n_waiting >= len(self._key):
            self._flush()

    def _flush(self) -> None:
        """Merge the buffer into the map."""
        if self._waiting:
            parts = [(self._key, self._count, self._probability), *self._waiting]
            self._key, self._count, self._probability = _merge(
                *(np.concatenate(column) for column in zip(*parts, strict=True))
            )
            self._waiting, self._n_waiting = [], 0


def _merge(
    key: NDArray[np.int64], count: NDArray[np.int64], probability: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.floating]]:
    """Sort by key and join equal keys: counts are added, of probabilities the largest stays."""
    if not len(key):
        return key, count, probability
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    return key[first], np.add.reduceat(count[order], first), np.maximum.reduceat(probability[order], first)
