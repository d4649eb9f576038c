"""Localisations of consecutive frames to tracks, frame by frame, so that tracks run on from block to block.

Distances are in metres, along the scanner's axes: voxels are rarely cubes.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from sparse_ulm.acquisition import Geometry
from sparse_ulm.classical.assignment import assign, pairs_within
from sparse_ulm.classical.kalman import KalmanTracks
from sparse_ulm.classical.smoothing import with_velocity
from sparse_ulm.errors import UserError
from sparse_ulm.localisations import Localisations, Trajectories

Method = Literal["nearest", "kalman"]
METHODS = ("nearest", "kalman")

GATE_ROUNDING = 1.0 + 1.0e-9
"""A bubble at exactly the largest speed is linked; this factor keeps rounding from deciding."""


def link(
    localisations: Localisations,
    *,
    geometry: Geometry,
    max_speed_m_s: float,
    max_gap_frames: int,
    min_length: int,
    method: Method,
    acceleration_m_s2: float | None = None,
) -> Trajectories:
    """Link all localisations of a recording; `Linker` does the same block by block.

    Returns:
        Raw samples, one per localisation that belongs to a track; frames that a track skips have none.
    """
    linker = Linker(
        geometry=geometry,
        max_speed_m_s=max_speed_m_s,
        max_gap_frames=max_gap_frames,
        min_length=min_length,
        method=method,
        acceleration_m_s2=acceleration_m_s2,
    )
    linker.add(localisations)
    return linker.finish()


class Linker:
    """Makes tracks of localisations that come in order of time, in as many parts as one likes.

    "nearest": the ends of the last frame and the bubbles of this one are paired within the distance that the largest
    speed allows, as many as possible and among those with the least sum of squared distances; then the ends of the
    frame before, over twice the distance, and so on up to the largest gap. "kalman": `kalman.KalmanTracks` predicts
    where each bubble will be, also over gaps, and pairs by likelihood.

    Args:
        geometry: Of the recording.
        max_speed_m_s: Faster is not linked: the gate is this over the frame rate, times the frames passed.
        max_gap_frames: Frames in which a bubble may be missing; 0 for none. 1 closes gaps of one frame, which the
            tracker that PALA and Open-3DULM use does not (reference notes §5.5).
        min_length: Fewest localisations of a track that is kept; PALA keeps more than 15, which is 16 here.
        method: "nearest" or "kalman".
        acceleration_m_s2: For "kalman", standard deviation of a bubble's acceleration.

    Raises:
        UserError: If a number is impossible or the method unknown.
    """

    def __init__(
        self,
        *,
        geometry: Geometry,
        max_speed_m_s: float,
        max_gap_frames: int,
        min_length: int,
        method: Method,
        acceleration_m_s2: float | None = None,
    ) -> None:
        """Start without tracks."""
        _refuse_impossible(max_speed_m_s, max_gap_frames, min_length, method)
        self.geometry, self.min_length, self.max_gap_frames = geometry, min_length, max_gap_frames
        self._ends: NearestTracks | KalmanTracks
        if method == "nearest":
            self._ends = NearestTracks(max_speed_m_s=max_speed_m_s, frame_rate_hz=geometry.frame_rate_hz)
        else:
            if acceleration_m_s2 is None or not acceleration_m_s2 > 0:
                raise UserError(f"acceleration_m_s2 is {acceleration_m_s2}; wanted more than 0 for method kalman.")
            self._ends = KalmanTracks(
                max_speed_m_s=max_speed_m_s, acceleration_m_s2=acceleration_m_s2, geometry=geometry
            )
        self._parts: list[Localisations] = []
        self._track_ids: list[NDArray[np.int64]] = []
        self._n_tracks = 0

    def add(self, localisations: Localisations) -> None:
        """Link the localisations of one block to the tracks so far.

        Args:
            localisations: Sorted by frame, all later than those of the parts before.

        Raises:
            ValueError: If they are not in order of time.
        """
        frame = localisations.frame
        before = self._parts[-1].frame[-1] if self._parts else -1
        if len(frame) and (np.any(np.diff(frame) < 0) or frame[0] <= before):
            raise ValueError(f"frames are not sorted, or not all later than {before}; wanted them in order of time.")
        if not len(frame):
            return
        track_id = np.empty(len(frame), dtype=np.int64)
        position_m = self.geometry.to_scanner_m(localisations.position_voxel)
        starts = np.flatnonzero(np.r_[True, np.diff(frame) > 0])
        for rows in np.split(np.arange(len(frame)), starts[1:]):
            track_id[rows] = self._link_frame(
                int(frame[rows[0]]), position_m[rows], localisations.deviation_voxel[rows]
            )
        self._parts.append(localisations)
        self._track_ids.append(track_id)

    def linked(self) -> Int[np.ndarray, " n"]:
        """Give the number of the localisation, in the order they were added, that each sample of `finish` is."""
        track_id = self._track_id()
        length = np.bincount(track_id, minlength=self._n_tracks)
        kept = np.flatnonzero(length[track_id] >= self.min_length)
        return kept[np.argsort(track_id[kept], kind="stable")]

    def finish(self) -> Trajectories:
        """Give the tracks of at least `min_length` localisations, numbered from 0 in order of their start."""
        rows = self.linked()
        _, number = np.unique(self._track_id()[rows], return_inverse=True)
        columns = [
            np.concatenate([empty, *(getattr(part, name) for part in self._parts)])[rows]
            for name, empty in (
                ("frame", np.empty(0)),
                ("position_voxel", np.empty((0, 3))),
                ("amplitude", np.empty(0)),
                ("deviation_voxel", np.empty((0, 3))),
            )
        ]
        velocity = np.full((len(rows), 3), np.nan)
        raw = Trajectories(number.astype(np.int64), columns[0], columns[1], velocity, columns[2], columns[3])
        return with_velocity(raw, self.geometry)

    def _track_id(self) -> Int[np.ndarray, " n"]:
        """Give the track of every localisation so far."""
        return np.concatenate([np.empty(0, dtype=np.int64), *self._track_ids])

    def _link_frame(
        self, frame: int, position_m: Float[np.ndarray, "n xyz=3"], deviation_voxel: Float[np.ndarray, "n xyz=3"]
    ) -> Int[np.ndarray, " n"]:
        """Give each localisation of a frame its track, a new one where none fits."""
        self._ends.forget_before(frame - 1 - self.max_gap_frames)
        track_id = self._ends.pair(frame, position_m, deviation_voxel)
        is_new = track_id < 0
        track_id[is_new] = self._n_tracks + np.arange(int(is_new.sum()))
        self._n_tracks += int(is_new.sum())
        self._ends.update(frame, track_id, is_new, position_m, deviation_voxel)
        return track_id


class NearestTracks:
    """Ends of tracks, continued by the nearest localisation.

    Attributes:
        track_id: Track of each end.
        frame: When it was seen last.
        position_m: Where.
    """

    def __init__(self, *, max_speed_m_s: float, frame_rate_hz: float) -> None:
        """Start without ends."""
        self.step_m = max_speed_m_s / frame_rate_hz
        self.track_id = np.empty(0, dtype=np.int64)
        self.frame = np.empty(0, dtype=np.int64)
        self.position_m = np.empty((0, 3))

    def forget_before(self, frame: int) -> None:
        """Drop the ends that were last seen before a frame."""
        self._keep(self.frame >= frame)

    def pair(
        self, frame: int, position_m: Float[np.ndarray, "n xyz=3"], deviation_voxel: Float[np.ndarray, "n xyz=3"]
    ) -> Int[np.ndarray, " n"]:
        """Give each localisation the track it continues, or -1; the latest ends choose first."""
        track_id = np.full(len(position_m), -1, dtype=np.int64)
        for last_seen in np.unique(self.frame)[::-1]:
            gate_m = self.step_m * float(frame - last_seen) * GATE_ROUNDING
            ends, free = np.flatnonzero(self.frame == last_seen), np.flatnonzero(track_id < 0)
            pairs = pairs_within(self.position_m[ends], position_m[free], gate_m)
            squared = np.sum((self.position_m[ends][pairs[:, 0]] - position_m[free][pairs[:, 1]]) ** 2, axis=1)
            # More than all pairs together can cost: as many are linked as the gate allows.
            taken = assign(pairs, squared / gate_m**2, unlinked_cost=len(ends) + 1.0)
            track_id[free[taken[:, 1]]] = self.track_id[ends[taken[:, 0]]]
        return track_id

    def update(
        self,
        frame: int,
        track_id: Int[np.ndarray, " n"],
        is_new: NDArray[np.bool_],
        position_m: Float[np.ndarray, "n xyz=3"],
        deviation_voxel: Float[np.ndarray, "n xyz=3"],
    ) -> None:
        """Move the ends of the tracks seen in this frame to where they were seen."""
        self._keep(~np.isin(self.track_id, track_id))
        self.track_id = np.r_[self.track_id, track_id]
        self.frame = np.r_[self.frame, np.full(len(track_id), frame)]
        self.position_m = np.vstack([self.position_m, position_m])

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        self.track_id, self.frame, self.position_m = self.track_id[kept], self.frame[kept], self.position_m[kept]


def _refuse_impossible(max_speed_m_s: float, max_gap_frames: int, min_length: int, method: str) -> None:
    """Refuse settings that cannot be meant, in one line."""
    if not 0 < max_speed_m_s < np.inf:
        raise UserError(f"max_speed_m_s is {max_speed_m_s}; wanted a positive number, as 0.03. Correct it.")
    if max_gap_frames < 0 or min_length < 1:
        raise UserError(
            f"max_gap_frames is {max_gap_frames} and min_length {min_length}; wanted at least 0 and 1. Correct them."
        )
    if method not in METHODS:
        raise UserError(f"linking is {method!r}; wanted one of {', '.join(METHODS)}.")
