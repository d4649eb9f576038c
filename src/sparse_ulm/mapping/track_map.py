"""Maps of tracks: how many passed each voxel, how fast, and in which direction; held sparsely while they grow."""

from math import prod

import numpy as np
from jaxtyping import Float, Float32, Int
from numpy.typing import NDArray

from sparse_ulm.classical.smoothing import interpolate
from sparse_ulm.conventions import DensityMap, refined_index
from sparse_ulm.localisations import Trajectories

SAMPLE_STEP = 0.5
"""Longest distance between samples of a track, in sub-voxels, as for the true map (`truth_map`)."""

N_COLUMNS = 5
"""Sums kept per voxel: tracks, speed, velocity along x, y and z."""


class TrackMap:
    """Density and velocity of tracks on the super-resolved grid; memory follows the visited voxels.

    Every track counts once in each voxel that it passes, however long it stays. Its speed there is the mean over its
    samples inside the voxel; the map's is the mean over tracks. Three defects of peers are avoided so (reference notes
    §5.8): speeds stay with their voxels (PALA sorts the voxels but not the speeds), several tracks are averaged
    (Open-3DULM keeps the last one), and counts cannot overflow.

    Args:
        shape_refined: (x, y, z) of the super-resolved grid.
        factor: Refinement per axis; (8, 8, 8) in 3D and (8, 1, 8) in 2D.
    """

    def __init__(self, shape_refined: tuple[int, int, int], factor: tuple[int, int, int]) -> None:
        """Start an empty map."""
        self.shape_refined, self.factor = shape_refined, factor
        self._key = np.empty(0, dtype=np.int64)
        self._sums = np.empty((0, N_COLUMNS))

    def add(self, trajectories: Trajectories) -> None:
        """Add tracks, each of them whole; the way between samples counts, the part outside of the grid does not.

        Args:
            trajectories: Sorted by track and then by time, with velocities.
        """
        path = interpolate(trajectories, self._steps(trajectories))
        index = refined_index(path.position_voxel, self.factor)
        inside = ((index >= 0) & (index < np.asarray(self.shape_refined))).all(axis=1)
        key = np.ravel_multi_index(tuple(index[inside].T), self.shape_refined).astype(np.int64)
        velocity = path.velocity_m_s[inside]
        sums = np.column_stack([np.ones(len(key)), np.linalg.norm(velocity, axis=1), velocity])
        key, sums = _means_by_track(path.track_id[inside], key, sums)
        self._key, self._sums = _sum_by_key(np.r_[self._key, key], np.vstack([self._sums, sums]))

    def density(self) -> DensityMap:
        """Give the number of tracks that passed each voxel."""
        return self._dense(self._sums[:, :1], 0.0)[..., 0]

    def speed(self) -> Float32[np.ndarray, "x y z"]:
        """Give the mean speed in m/s; NaN where nothing passed."""
        return self._dense(self._sums[:, 1:2] / self._sums[:, :1], np.nan)[..., 0]

    def velocity(self) -> Float32[np.ndarray, "x y z 3"]:
        """Give the mean velocity in m/s along the scanner's axes; NaN where nothing passed."""
        return self._dense(self._sums[:, 2:] / self._sums[:, :1], np.nan)

    def _steps(self, trajectories: Trajectories) -> Int[np.ndarray, " n"]:
        """Count the steps from each sample to the next that keep samples `SAMPLE_STEP` apart."""
        move = np.diff(trajectories.position_voxel * np.asarray(self.factor), axis=0, append=np.zeros((1, 3)))
        steps = np.ceil(np.linalg.norm(move[: len(trajectories)], axis=1) / SAMPLE_STEP).astype(np.int64)
        joined = np.r_[trajectories.track_id[1:] == trajectories.track_id[:-1], False][: len(trajectories)]
        return np.where(joined, np.maximum(steps, 1), 1)

    def _dense(self, values: NDArray[np.float64], elsewhere: float) -> Float32[np.ndarray, "x y z c"]:
        """Scatter rows of the visited voxels into a volume."""
        volume = np.full((prod(self.shape_refined), values.shape[1]), elsewhere, dtype=np.float32)
        volume[self._key] = values
        return volume.reshape(*self.shape_refined, -1)


def _means_by_track(
    track_id: Int[np.ndarray, " n"], key: Int[np.ndarray, " n"], values: Float[np.ndarray, "n c"]
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, "m c"]]:
    """Average the samples of one track in one voxel; the column of ones stays 1: the track is counted once."""
    order = np.lexsort((key, track_id))
    track_id, key, values = track_id[order], key[order], values[order]
    first = np.flatnonzero(np.r_[True, (np.diff(key) != 0) | (np.diff(track_id) != 0)][: len(key)])
    n_samples = np.diff(np.r_[first, len(key)])
    return key[first], _sum_runs(values, first) / n_samples[:, None]


def _sum_by_key(
    key: Int[np.ndarray, " n"], values: Float[np.ndarray, "n c"]
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, "m c"]]:
    """Sort by key and add the rows of equal keys."""
    order = np.argsort(key, kind="stable")
    key, values = key[order], values[order]
    first = np.flatnonzero(np.r_[True, np.diff(key) != 0][: len(key)])
    return key[first], _sum_runs(values, first)


def _sum_runs(values: Float[np.ndarray, "n c"], first: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m c"]:
    """Add the rows from each start to the next."""
    return np.add.reduceat(values, first, axis=0) if len(first) else values[:0]
