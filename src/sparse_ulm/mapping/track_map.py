"""Maps of tracks: how many passed each voxel, how fast, in which direction; held sparsely while they grow.

What is where nothing is known. Density and counts are 0 in voxels that no track passed. Everything else is a mean, and
NaN where there is nothing to average: no track passed, none with a known velocity (a track of one sample has none), no
localisation with a known deviation, or no direction, where velocities cancel. A sample whose velocity or deviation is
not known is left out of a mean; it never makes the mean of others NaN.
"""

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from sparse_ulm.acquisition import Geometry
from sparse_ulm.conventions import refined_index, refinement
from sparse_ulm.localisations import Trajectories
from sparse_ulm.mapping.sparse_map import SparseMap
from sparse_ulm.mapping.track_map_pieces import SAMPLE_STEP, cut, parts

__all__ = ["SAMPLE_STEP", "TrackMap"]

TRACKS, KNOWN, SPEED, VELOCITY, COUNT, DEVIATIONS, DEVIATION = 0, 1, 2, slice(3, 6), 6, 7, 8
N_COLUMNS = 9
"""Sums per voxel: tracks; those of known velocity, their speeds and velocities; localisations; those of known
deviation, their deviations."""

N_SAMPLES_AT_ONCE = 200_000
"""Samples that are cut up at a time: bounds memory beside the map itself."""


class TrackMap:
    """Maps of tracks on the super-resolved grid; memory follows the visited voxels.

    Every track counts once in each voxel that it passes, however long it stays. Its velocity there is the mean over
    the TIME that it is inside the voxel: tracks are cut at the faces of the voxels, so that a track that accelerates
    has in each voxel the speed that it had there. The map's is the mean over tracks. Three defects of peers are avoided
    so (reference notes §5.8): speeds stay with their voxels (PALA sorts the voxels but not the speeds), several tracks
    are averaged (Open-3DULM keeps the last one), and counts cannot overflow.

    Time rather than path is our choice, because the mean over time is the way that a bubble made in the voxel over the
    time that it took; that over the path counts fast moments more.

    Args:
        shape_refined: (x, y, z) of the super-resolved grid.
        factor: Refinement per axis; (8, 8, 8) in 3D and (8, 1, 8) in 2D.
        geometry: Of the recording.
    """

    def __init__(self, shape_refined: tuple[int, int, int], factor: tuple[int, int, int], geometry: Geometry) -> None:
        """Start an empty map."""
        self.shape_refined, self.factor, self.geometry = shape_refined, factor, geometry
        self._key = np.empty(0, dtype=np.int64)
        self._sums = np.empty((0, N_COLUMNS))

    @classmethod
    def of(cls, trajectories: Trajectories, geometry: Geometry, shape: tuple[int, int, int]) -> "TrackMap":
        """Map the tracks of a recording of (x, y, z) voxels, which is not refined across a 2D slice."""
        factor = refinement(shape)
        x, y, z = (size * step for size, step in zip(shape, factor, strict=True))
        track_map = cls((x, y, z), factor, geometry)
        track_map.add(trajectories)
        return track_map

    def add(self, trajectories: Trajectories) -> None:
        """Add tracks, each of them whole; the way between samples counts, the part outside of the grid does not.

        Args:
            trajectories: Sorted by track and then by time.
        """
        for part in parts(trajectories, N_SAMPLES_AT_ONCE):
            tracks, positions = self._visits(part), self._positions(part)
            key = np.r_[self._key, tracks[0], positions[0]]
            self._key, self._sums = _sum_by_key(key, np.vstack([self._sums, tracks[1], positions[1]]))

    def density(self) -> SparseMap:
        """Give the number of tracks that passed each voxel."""
        return self._map(self._sums[:, TRACKS], 0.0)

    def counts(self) -> SparseMap:
        """Give the number of localisations in each voxel: positions of tracks in whole frames, after smoothing.

        A bubble that stays in a voxel for ten frames adds ten here and one to the density, and one that flies through
        between two frames adds none here and one to the density. Counts over the frame rate are seconds spent in the
        voxel. Frames that the linker bridged count, samples at fractions of frames do not.
        """
        return self._map(self._sums[:, COUNT], 0.0)

    def speed(self) -> SparseMap:
        """Give the mean speed in m/s."""
        return self._map(self._mean(SPEED, KNOWN), np.nan)

    def velocity(self) -> SparseMap:
        """Give the mean velocity in m/s along the scanner's axes."""
        return self._map(self._mean(VELOCITY, KNOWN), np.nan)

    def axial_velocity(self) -> SparseMap:
        """Give the mean velocity along the recording's depth axis in m/s: positive away from the probe.

        The sign is that of the z axis; colour Doppler and PALA show flow towards the probe as positive.
        """
        depth = self.geometry.matrix_m[:3, 2] / self.geometry.voxel_size_m[2]
        return self._map(self._mean(VELOCITY, KNOWN) @ depth, np.nan)

    def direction(self) -> SparseMap:
        """Give the unit vector of the mean velocity, along the scanner's axes."""
        velocity = self._mean(VELOCITY, KNOWN)
        with np.errstate(invalid="ignore"):
            return self._map(velocity / np.linalg.norm(velocity, axis=1, keepdims=True), np.nan)

    def uncertainty(self) -> SparseMap:
        """Give the mean standard deviation of the localisations in each voxel, in m.

        That of one localisation is the root mean square over the axes along which it is known: the standard deviation
        along any one axis, if it were the same along all.
        """
        return self._map(self._mean(DEVIATION, DEVIATIONS), np.nan)

    def _mean(self, column: int | slice, number: int) -> NDArray[np.float64]:
        """Divide a sum by a number; NaN for none."""
        n = self._sums[:, number]
        with np.errstate(invalid="ignore"):
            return np.asarray((self._sums[:, column].T / n).T)

    def _visits(self, part: Trajectories) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, "m c"]]:
        """Average the pieces of one track in one voxel, and add up the tracks of each voxel."""
        pieces = cut(part, self.factor)
        is_known = np.isfinite(pieces.velocity_m_s).all(axis=1)
        weight = np.where(is_known, pieces.duration_frames, 0.0)
        velocity = np.where(is_known[:, None], pieces.velocity_m_s, 0.0)
        columns = [pieces.is_visit, weight, weight * np.linalg.norm(velocity, axis=1), weight[:, None] * velocity]
        inside, key = self._keys(pieces.index)
        sums = np.column_stack(columns)[inside]
        order = np.lexsort((key, pieces.track_id[inside]))
        track_id, key, sums = pieces.track_id[inside][order], key[order], sums[order]
        first = np.flatnonzero(np.r_[True, (np.diff(key) != 0) | (np.diff(track_id) != 0)][: len(key)])
        key, sums = key[first], _sum_runs(sums, first)
        key, sums = key[sums[:, 0] > 0], sums[sums[:, 0] > 0]
        found = np.zeros((len(key), N_COLUMNS))
        found[:, TRACKS], found[:, KNOWN] = 1.0, sums[:, 1] > 0
        total = np.where(sums[:, 1] > 0, sums[:, 1], 1.0)
        found[:, SPEED], found[:, VELOCITY] = sums[:, 2] / total, sums[:, 3:] / total[:, None]
        return _sum_by_key(key, found)

    def _positions(self, part: Trajectories) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, "m c"]]:
        """Count the positions in whole frames, and add up their deviations."""
        whole = np.flatnonzero(part.frame == np.floor(part.frame))
        inside, key = self._keys(refined_index(part.position_voxel[whole], self.factor))
        squared = (part.deviation_voxel[whole][inside] * np.asarray(self.geometry.voxel_size_m)) ** 2
        axes = np.isfinite(squared).sum(axis=1)
        deviation_m = np.sqrt(np.where(np.isfinite(squared), squared, 0.0).sum(axis=1) / np.maximum(axes, 1))
        found = np.zeros((len(key), N_COLUMNS))
        found[:, COUNT], found[:, DEVIATIONS], found[:, DEVIATION] = 1.0, axes > 0, deviation_m
        return _sum_by_key(key, found)

    def _keys(self, index: Int[np.ndarray, "n xyz=3"]) -> tuple[NDArray[np.int64], Int[np.ndarray, " m"]]:
        """Give the rows inside the grid, and the linear index of their voxels."""
        inside = np.flatnonzero(((index >= 0) & (index < np.asarray(self.shape_refined))).all(axis=1))
        return inside, np.ravel_multi_index(tuple(index[inside].T), self.shape_refined).astype(np.int64)

    def _map(self, values: NDArray[np.float64], elsewhere: float) -> SparseMap:
        """Give a value or a vector to every visited voxel."""
        return SparseMap(self.shape_refined, self._key, values.astype(np.float32), elsewhere)


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
