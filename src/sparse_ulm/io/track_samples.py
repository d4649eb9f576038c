"""Tracks as every file of tracks holds them: columns in scanner millimetres and seconds.

Millimetres are those of the recording's affine, as in NIfTI (RAS where the affine states anatomy). Velocities run along
the scanner's axes, deviations along the axes of the recording's grid.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sparse_ulm.acquisition import Geometry
from sparse_ulm.conventions import METRES_PER_MM
from sparse_ulm.errors import RecordingError
from sparse_ulm.localisations import Trajectories


@dataclass(frozen=True)
class TrackSamples:
    """Columns of a file of tracks, one row per sample, in any order.

    Attributes:
        track_id: Which bubble: whole numbers.
        frame: Frame of the recording, from 0; a fraction where a track was interpolated.
        position_mm: Along the scanner's axes.
        velocity_mm_s: Along the scanner's axes; NaN where not known.
        amplitude: In the recording's units; NaN where not known.
        deviation_mm: Along the axes of the recording's grid; NaN where not known.
    """

    track_id: Float[np.ndarray, " n"]
    frame: Float[np.ndarray, " n"]
    position_mm: Float[np.ndarray, "n xyz=3"]
    velocity_mm_s: Float[np.ndarray, "n xyz=3"]
    amplitude: Float[np.ndarray, " n"]
    deviation_mm: Float[np.ndarray, "n xyz=3"]

    @classmethod
    def of(cls, trajectories: Trajectories, geometry: Geometry) -> "TrackSamples":
        """Turn tracks in voxels of the recording into columns of a file."""
        return cls(
            trajectories.track_id.astype(np.float64),
            trajectories.frame.astype(np.float64),
            geometry.to_scanner_m(trajectories.position_voxel) / METRES_PER_MM,
            trajectories.velocity_m_s / METRES_PER_MM,
            trajectories.amplitude.astype(np.float64),
            trajectories.deviation_voxel * np.asarray(geometry.voxel_size_m) / METRES_PER_MM,
        )

    @classmethod
    def none(cls) -> "TrackSamples":
        """Give the columns of a file without any sample."""
        nothing, nowhere = np.zeros(0), np.zeros((0, 3))
        return cls(nothing, nothing, nowhere, nowhere, nothing, nowhere)

    def trajectories(self, geometry: Geometry, *, where: str, first_row: int) -> Trajectories:
        """Turn columns of a file into tracks, sorted by track and then by time.

        Args:
            geometry: Of the recording.
            where: Name of the file and what it calls a sample, as "a.csv line", for messages.
            first_row: Number that the file gives its first sample, for messages.

        Raises:
            RecordingError: If a sample has no finite position and frame, or no whole number of its track.
        """
        wanted = np.column_stack([self.track_id, self.frame, self.position_mm])
        bad = np.flatnonzero(~np.isfinite(wanted).all(axis=1))
        if bad.size:
            raise RecordingError(
                f"{where} {bad[0] + first_row}: track_id, frame and position are "
                f"{wanted[bad[0]].tolist()}; wanted finite numbers. Correct or drop it."
            )
        broken = np.flatnonzero(self.track_id != np.floor(self.track_id))
        if broken.size:
            raise RecordingError(
                f"{where} {broken[0] + first_row}: track_id is {self.track_id[broken[0]]}; wanted whole "
                "numbers. Correct it."
            )
        order = np.lexsort((self.frame, self.track_id))
        return Trajectories(
            self.track_id[order].astype(np.int64),
            self.frame[order],
            geometry.to_voxel(self.position_mm[order] * METRES_PER_MM),
            self.velocity_mm_s[order] * METRES_PER_MM,
            self.amplitude[order],
            self.deviation_mm[order] * METRES_PER_MM / np.asarray(geometry.voxel_size_m),
        )
