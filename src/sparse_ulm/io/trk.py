"""Tracks as TrackVis `.trk`, by nibabel: what tractography viewers (TrackVis, DSI Studio, niivue, DIPY) open.

Positions are RAS millimetres, as in NIfTI. The header carries the grid of the super-resolved maps, so that viewers that
overlay by voxel (TrackVis) or compare headers (DIPY) put the tracks on the maps. Everything is float32: positions are
good to some nanometres, frames whole up to 16,777,216.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from nibabel.orientations import aff2axcodes
from nibabel.streamlines import ArraySequence, Field, Tractogram, TrkFile

from sparse_ulm.acquisition import Geometry
from sparse_ulm.conventions import refinement
from sparse_ulm.errors import RecordingError, UserError
from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.io.damage import reading
from sparse_ulm.io.track_samples import TrackSamples
from sparse_ulm.localisations import Trajectories

LARGEST_TRACK_ID = 2**24
"""Whole numbers beyond this are not all float32."""

LONGEST_AXIS = 2**15 - 1
"""The header counts voxels as int16; longer axes are written as this, which moves no point."""


def write_trk(path: Path, trajectories: Trajectories, geometry: Geometry, shape: tuple[int, int, int]) -> None:
    """Write tracks with, per point, time_s, frame, velocity_mm_s, amplitude, deviation_mm; per track, track_id.

    Args:
        path: The file; it appears whole or not at all.
        trajectories: Tracks in voxels of the recording, sorted by track and then by time.
        geometry: Of the recording.
        shape: (x, y, z) of the recording.

    Raises:
        UserError: If the file cannot be written, or a track's number does not fit into float32.
    """
    if len(trajectories) and np.abs(trajectories.track_id).max() > LARGEST_TRACK_ID:
        raise UserError(
            f"{path.name}: track_id reaches {np.abs(trajectories.track_id).max()}, and .trk holds whole numbers up to "
            f"{LARGEST_TRACK_ID}. Write csv or vtp."
        )
    samples = TrackSamples.of(trajectories, geometry)
    starts = np.flatnonzero(np.r_[True, np.diff(samples.track_id) != 0][: len(samples.track_id)])
    columns = {
        "time_s": samples.frame[:, None] / geometry.frame_rate_hz,
        "frame": samples.frame[:, None],
        "velocity_mm_s": samples.velocity_mm_s,
        "amplitude": samples.amplitude[:, None],
        "deviation_mm": samples.deviation_mm,
    }
    tractogram = Tractogram(
        _by_track(samples.position_mm, starts),
        data_per_streamline={"track_id": samples.track_id[starts, None]},
        data_per_point={name: _by_track(values, starts) for name, values in columns.items()},
        affine_to_rasmm=np.eye(4),
    )
    with atomic_path(path) as temporary:
        TrkFile(tractogram, _header(geometry, shape)).save(str(temporary))


def read_trk(path: Path, geometry: Geometry) -> Trajectories:
    """Read tracks, sorted by track and then by time.

    Args:
        path: With frame or time_s per point. Tracks without track_id per track are numbered as they come; what else is
            missing is NaN.
        geometry: Of the recording.

    Raises:
        RecordingError: If the file cannot be read, has neither frame nor time_s, or a number is not finite.
    """
    with reading(path, as_format="TrackVis .trk"):
        tractogram = TrkFile.load(str(path)).tractogram
        length = np.array([len(one) for one in tractogram.streamlines], dtype=np.int64)
        points = {name: _values(tractogram.data_per_point[name]) for name in tractogram.data_per_point}
        position_mm = _values(tractogram.streamlines).reshape(-1, 3)
        per_track = tractogram.data_per_streamline
        track_id = per_track["track_id"][:, 0] if "track_id" in per_track else np.arange(len(length))
    if not len(position_mm):
        return TrackSamples.none().trajectories(geometry, where=f"{path.name} point", first_row=0)
    if "frame" not in points and "time_s" not in points:
        raise RecordingError(
            f"{path.name}: has {', '.join(sorted(points)) or 'nothing'} per point; wanted frame or time_s. Add one."
        )
    frame = points["frame"][:, 0] if "frame" in points else points["time_s"][:, 0] * geometry.frame_rate_hz
    unknown = np.full((len(position_mm), 3), np.nan)
    samples = TrackSamples(
        np.repeat(np.asarray(track_id, dtype=np.float64), length),
        frame,
        position_mm,
        points.get("velocity_mm_s", unknown),
        points.get("amplitude", unknown)[:, 0],
        points.get("deviation_mm", unknown),
    )
    return samples.trajectories(geometry, where=f"{path.name} point", first_row=0)


def _header(geometry: Geometry, shape: tuple[int, int, int]) -> dict[str, object]:
    """Describe the grid of the maps; naming the axes as the affine runs keeps nibabel from flipping any."""
    factor = refinement(shape)
    grid = geometry.refined(factor)
    return {
        Field.VOXEL_TO_RASMM: grid.affine_mm.astype(np.float32),
        Field.VOXEL_SIZES: np.asarray(grid.voxel_size_m, dtype=np.float32) * np.float32(1.0e3),
        Field.DIMENSIONS: np.minimum(np.multiply(shape, factor), LONGEST_AXIS).astype(np.int16),
        Field.VOXEL_ORDER: "".join(aff2axcodes(grid.affine_mm)).encode(),
    }


def _by_track(values: Float[np.ndarray, "n c"], starts: np.ndarray) -> ArraySequence:
    """Cut rows at the starts of tracks."""
    return ArraySequence(np.split(values, starts[1:]) if len(starts) else [])


def _values(sequence: ArraySequence) -> Float[np.ndarray, "n c"]:
    """Give all rows of a sequence in order."""
    rows = [np.asarray(one, dtype=np.float64) for one in sequence]
    return np.concatenate(rows) if rows else np.zeros((0, 3))
