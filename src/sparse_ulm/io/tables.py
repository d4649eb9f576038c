"""Localisations and tracks as CSV, in scanner millimetres: `NAME_localisations.csv` and `NAME_tracks.csv`.

Columns may come in any order and more of them are ignored, so that tables of other tools can be read where they use
these names. Deviations run along the axes of the recording's grid, positions and velocities along the scanner's.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from sparse_ulm.acquisition import Geometry
from sparse_ulm.conventions import METRES_PER_MM
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.io.truth import read_table
from sparse_ulm.localisations import Localisations, Trajectories

POSITION = ("x_mm", "y_mm", "z_mm")
DEVIATION = ("x_deviation_mm", "y_deviation_mm", "z_deviation_mm")
VELOCITY = ("vx_mm_s", "vy_mm_s", "vz_mm_s")
LOCALISATION_COLUMNS = ("frame", "time_s", *POSITION, "amplitude", *DEVIATION)
TRACK_COLUMNS = ("track_id", "frame", "time_s", *POSITION, *VELOCITY, "amplitude")
_LENGTH, _NUMBER = "%.6f", "%.6g"
"""Nanometres and microseconds, far finer than anything that is scored."""


def write_localisations(path: str | Path, localisations: Localisations, geometry: Geometry) -> None:
    """Write `NAME_localisations.csv`: one row per bubble and frame.

    Args:
        path: The file; it appears whole or not at all.
        localisations: Bubbles in voxels of the recording.
        geometry: Of the recording.

    Raises:
        UserError: If the file cannot be written.
    """
    table = np.column_stack(
        [
            localisations.frame,
            localisations.frame / geometry.frame_rate_hz,
            geometry.to_scanner_m(localisations.position_voxel) / METRES_PER_MM,
            localisations.amplitude,
            localisations.deviation_voxel * geometry.voxel_size_m / METRES_PER_MM,
        ]
    )
    formats = ("%d", _LENGTH, *3 * [_LENGTH], _NUMBER, *3 * [_LENGTH])
    _write(path, LOCALISATION_COLUMNS, formats, table)


def write_tracks(path: str | Path, trajectories: Trajectories, geometry: Geometry) -> None:
    """Write `NAME_tracks.csv`: one row per sample of a track; frames are fractions where it was interpolated.

    Args:
        path: The file; it appears whole or not at all.
        trajectories: Tracks in voxels of the recording, velocities along the scanner's axes.
        geometry: Of the recording.

    Raises:
        UserError: If the file cannot be written.
    """
    table = np.column_stack(
        [
            trajectories.track_id,
            trajectories.frame,
            trajectories.frame / geometry.frame_rate_hz,
            geometry.to_scanner_m(trajectories.position_voxel) / METRES_PER_MM,
            trajectories.velocity_m_s / METRES_PER_MM,
            trajectories.amplitude,
        ]
    )
    formats = ("%d", _NUMBER, _LENGTH, *3 * [_LENGTH], *3 * [_LENGTH], _NUMBER)
    _write(path, TRACK_COLUMNS, formats, table)


def read_localisations(path: str | Path, geometry: Geometry) -> Localisations:
    """Read a table of localisations, sorted by frame.

    Args:
        path: CSV with the columns frame, x_mm, y_mm, z_mm; amplitude and deviations are NaN where it has none.
        geometry: Of the recording, to turn scanner millimetres into voxels.

    Raises:
        RecordingError: If the file is missing, lacks a column, or a row has no finite position or no whole,
            non-negative frame.
    """
    wanted, other = _read(path, ("frame", *POSITION), ("amplitude", *DEVIATION))
    frame = _whole(path, "frame", wanted[:, 0], lowest=0)
    order = np.argsort(frame, kind="stable")
    return Localisations(
        frame[order],
        geometry.to_voxel(wanted[order, 1:] * METRES_PER_MM),
        other[order, 0],
        other[order, 1:] * METRES_PER_MM / geometry.voxel_size_m,
    )


def read_tracks(path: str | Path, geometry: Geometry) -> Trajectories:
    """Read a table of tracks, sorted by track and then by time.

    Args:
        path: CSV with the columns track_id, frame, x_mm, y_mm, z_mm; velocity and amplitude are NaN where it has none.
        geometry: Of the recording, to turn scanner millimetres into voxels.

    Raises:
        RecordingError: If the file is missing, lacks a column, or a row has no finite position and frame or no whole
            number of its track.
    """
    wanted, other = _read(path, ("track_id", "frame", *POSITION), (*VELOCITY, "amplitude"))
    track_id = _whole(path, "track_id", wanted[:, 0], lowest=None)
    order = np.lexsort((wanted[:, 1], track_id))
    return Trajectories(
        track_id[order],
        wanted[order, 1],
        geometry.to_voxel(wanted[order, 2:] * METRES_PER_MM),
        other[order, :3] * METRES_PER_MM,
        other[order, 3],
    )


def _write(
    path: str | Path, columns: tuple[str, ...], formats: tuple[str, ...], table: Float[np.ndarray, "n c"]
) -> None:
    """Write a header and all rows."""
    with atomic_path(path) as temporary:
        np.savetxt(temporary, table, fmt=formats, delimiter=",", header=",".join(columns), comments="")


def _read(
    path: str | Path, wanted: tuple[str, ...], optional: tuple[str, ...]
) -> tuple[Float[np.ndarray, "n w"], Float[np.ndarray, "n o"]]:
    """Read wanted columns, all finite, and optional ones, NaN where the table has none."""
    path = Path(path)
    if not path.is_file():
        raise RecordingError(f"{path}: no such file; wanted a table with the columns {', '.join(wanted)}.")
    header, table = read_table(path)
    missing = [name for name in wanted if name not in header]
    if missing:
        raise RecordingError(
            f"{path.name}: no column {', '.join(missing)} among {header}; wanted {', '.join(wanted)}. Rename them."
        )
    found = table[:, [header.index(name) for name in wanted]]
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if bad.size:
        raise RecordingError(
            f"{path.name} line {bad[0] + 2}: {', '.join(wanted)} are {found[bad[0]].tolist()}; wanted finite numbers. "
            "Correct or drop the line."
        )
    nothing = np.full(len(table), np.nan)
    return found, np.column_stack([table[:, header.index(n)] if n in header else nothing for n in optional])


def _whole(path: str | Path, name: str, values: Float[np.ndarray, " n"], *, lowest: int | None) -> np.ndarray:
    """Turn a column into whole numbers, none below `lowest`."""
    bad = values != np.floor(values)
    if lowest is not None:
        bad |= values < lowest
    if bad.any():
        line = int(np.flatnonzero(bad)[0])
        bound = "" if lowest is None else f", at least {lowest}"
        raise RecordingError(
            f"{Path(path).name} line {line + 2}: {name} is {values[line]}; wanted whole numbers{bound}. Correct it."
        )
    return values.astype(np.int64)
