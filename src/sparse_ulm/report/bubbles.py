"""The tables of a recording for the report: bubbles per frame, their stated uncertainty, tracks, how the map filled.

Positions and times are taken as the tables state them, in scanner millimetres and seconds: the recording itself, which
may have moved since, is not needed.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from sparse_ulm.classical.smoothing import interpolate
from sparse_ulm.conventions import METRES_PER_MM, METRES_PER_UM
from sparse_ulm.io.tables import DEVIATION, POSITION, VELOCITY
from sparse_ulm.io.truth import read_table
from sparse_ulm.localisations import Trajectories
from sparse_ulm.mapping.track_map import SAMPLE_STEP
from sparse_ulm.mapping.track_map_pieces import parts

N_SAMPLES_AT_ONCE = 200_000
"""Samples of tracks whose ways are followed at a time: bounds memory."""


@dataclass(frozen=True)
class Bubbles:
    """Bubbles of `NAME_localisations.csv`, one row each.

    Attributes:
        frame: From 0.
        deviation_um: Stated standard deviation along x, y and z; NaN where none is stated.
    """

    frame: Int[np.ndarray, " n"]
    deviation_um: Float[np.ndarray, "n 3"]


@dataclass(frozen=True)
class Tracks:
    """Tracks of `NAME_tracks.csv`, one row per sample, sorted by track and then by time.

    Attributes:
        track_id: Which track.
        frame: A fraction where a track was interpolated.
        time_s: Since the first frame.
        position_mm: In scanner space.
        speed_mm_s: NaN where the velocity is not known.
    """

    track_id: Int[np.ndarray, " n"]
    frame: Float[np.ndarray, " n"]
    time_s: Float[np.ndarray, " n"]
    position_mm: Float[np.ndarray, "n xyz=3"]
    speed_mm_s: Float[np.ndarray, " n"]

    @property
    def first(self) -> NDArray[np.int64]:
        """Row of each track's first sample."""
        return np.flatnonzero(np.diff(self.track_id, prepend=self.track_id[:1] - 1))

    def lengths_frames(self) -> NDArray[np.float64]:
        """Give the frames from the first to the last sample of each track, both counted."""
        if not len(self.frame):
            return np.zeros(0)
        last = np.r_[self.first[1:], len(self.frame)] - 1
        return np.asarray(self.frame[last] - self.frame[self.first] + 1)

    def mean_speeds_mm_s(self) -> NDArray[np.float64]:
        """Give the mean speed of each track over its samples; tracks without a known velocity are left out."""
        if not len(self.frame):
            return np.zeros(0)
        is_known = np.isfinite(self.speed_mm_s)
        total = np.add.reduceat(np.where(is_known, self.speed_mm_s, 0.0), self.first)
        count = np.add.reduceat(is_known.astype(np.int64), self.first)
        return np.asarray(total[count > 0] / count[count > 0])


def read_bubbles(path: Path) -> Bubbles | None:
    """Read a table of bubbles; None where there is none.

    Raises:
        RecordingError: If it is no table of numbers.
    """
    if not path.is_file():
        return None
    columns = _read(path, ("frame", *DEVIATION))
    return Bubbles(columns[:, 0].astype(np.int64), columns[:, 1:] * METRES_PER_MM / METRES_PER_UM)


def read_tracks(path: Path) -> Tracks | None:
    """Read a table of tracks; None where there is none.

    Raises:
        RecordingError: If it is no table of numbers.
    """
    if not path.is_file():
        return None
    columns = _read(path, ("track_id", "frame", "time_s", *POSITION, *VELOCITY))
    columns = columns[np.lexsort((columns[:, 1], columns[:, 0]))]
    speed = np.linalg.norm(columns[:, 6:], axis=1)
    return Tracks(columns[:, 0].astype(np.int64), columns[:, 1], columns[:, 2], columns[:, 3:6], speed)


def first_visits_s(
    tracks: Tracks, affine_mm: Float[np.ndarray, "4 4"], shape: tuple[int, int, int]
) -> Float[np.ndarray, " m"]:
    """Give, for each voxel of the map that a track passed, the time when the first one did; in order of time.

    Args:
        tracks: In scanner space.
        affine_mm: Of the map, voxels to scanner millimetres.
        shape: Of the map; what lies outside is left out.
    """
    position = np.linalg.solve(affine_mm[:3, :3], (tracks.position_mm - affine_mm[:3, 3]).T).T
    # Times take the place of frames: they are interpolated on the way.
    nothing = np.full(len(position), np.nan)
    all_of = Trajectories(tracks.track_id, tracks.time_s, position, np.full(position.shape, np.nan), nothing)
    keys, times = np.empty(0, dtype=np.int64), np.empty(0)
    for part in parts(all_of, N_SAMPLES_AT_ONCE):
        length = np.linalg.norm(np.diff(part.position_voxel, axis=0, append=part.position_voxel[-1:]), axis=1)
        way = interpolate(part, np.maximum(np.ceil(length / SAMPLE_STEP), 1).astype(np.int64))
        voxel = np.floor(way.position_voxel + 0.5).astype(np.int64)
        inside = ((voxel >= 0) & (voxel < np.asarray(shape))).all(axis=1)
        keys = np.r_[keys, np.ravel_multi_index(tuple(voxel[inside].T), shape)]
        times = np.r_[times, way.frame[inside]]
        order = np.lexsort((times, keys))
        keys, index = np.unique(keys[order], return_index=True)
        times = times[order][index]
    return np.sort(times)


def _read(path: Path, names: tuple[str, ...]) -> Float[np.ndarray, "n c"]:
    """Read columns; NaN where the table has none of that name, but the first, which every table must have."""
    header, table = read_table(path)
    nothing = np.full(len(table), np.nan)
    found = [table[:, header.index(name)] if name in header else nothing for name in names]
    return np.column_stack(found)[np.isfinite(found[0])]
