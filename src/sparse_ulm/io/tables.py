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
from sparse_ulm.io.track_samples import TrackSamples
from sparse_ulm.io.truth import read_table
from sparse_ulm.localisations import Localisations, Trajectories

POSITION = ("x_mm", "y_mm", "z_mm")
DEVIATION = ("x_deviation_mm", "y_deviation_mm", "z_deviation_mm")
VELOCITY = ("vx_mm_s", "vy_mm_s", "vz_mm_s")
LOCALISATION_COLUMNS = ("frame", "time_s", *POSITION, "amplitude", *DEVIATION)
TRACK_COLUMNS = ("track_id", "frame", "time_s", *POSITION, *VELOCITY, "amplitude", *DEVIATION)
TRACK_WANTED = ("track_id", "frame", *POSITION)
"""Without these a table holds no tracks."""

_LENGTH, _NUMBER, _FRAME = "%.6f", "%.6g", "%.10g"
"""Nanometres and microseconds, far finer than anything that is scored; frames are whole up to 10^10."""


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
    formats = ("%d", _FRAME, _LENGTH, *3 * [_LENGTH], *3 * [_LENGTH], _NUMBER, *3 * [_LENGTH])
    _write(path, TRACK_COLUMNS, formats, track_table(trajectories, geometry))


def track_table(trajectories: Trajectories, geometry: Geometry) -> Float[np.ndarray, "n c"]:
    """Give all samples as rows of `TRACK_COLUMNS`."""
    samples = TrackSamples.of(trajectories, geometry)
    time_s = samples.frame / geometry.frame_rate_hz
    return np.column_stack(
        [
            samples.track_id,
            samples.frame,
            time_s,
            samples.position_mm,
            samples.velocity_mm_s,
            samples.amplitude,
            samples.deviation_mm,
        ]
    )


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
        path: CSV with the columns track_id, frame, x_mm, y_mm, z_mm; velocity, amplitude and deviations are NaN where
            it has none.
        geometry: Of the recording, to turn scanner millimetres into voxels.

    Raises:
        RecordingError: If the file is missing, lacks a column, or a row has no finite position and frame or no whole
            number of its track.
    """
    path = Path(path)
    header, table = _open(path, TRACK_WANTED)
    return tracks_of_table(header, table, geometry, where=f"{path.name} line", first_row=2)


def tracks_of_table(
    header: list[str],
    table: Float[np.ndarray, "n c"],
    geometry: Geometry,
    *,
    where: str,
    first_row: int,
) -> Trajectories:
    """Turn a table with the columns of `TRACK_WANTED`, and of `TRACK_COLUMNS` where it has them, into tracks.

    Args:
        header: Names of the columns.
        table: All rows.
        geometry: Of the recording.
        where: Name of the file and what it calls a row, as "a.csv line", for messages.
        first_row: Number of the first row, for messages.

    Raises:
        RecordingError: If a column is missing, or a row has no finite position and frame or no whole track.
    """
    _refuse_missing(where.rpartition(" ")[0], header, TRACK_WANTED)
    samples = TrackSamples(
        *(_columns(header, table, names) for names in ("track_id", "frame", POSITION, VELOCITY, "amplitude", DEVIATION))
    )
    return samples.trajectories(geometry, where=where, first_row=first_row)


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
    header, table = _open(path, wanted)
    _refuse_missing(path.name, header, wanted)
    found = _columns(header, table, wanted)
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if bad.size:
        raise RecordingError(
            f"{path.name} line {bad[0] + 2}: {', '.join(wanted)} are {found[bad[0]].tolist()}; wanted finite numbers. "
            "Correct or drop the line."
        )
    return found, _columns(header, table, optional)


def _open(path: Path, wanted: tuple[str, ...]) -> tuple[list[str], Float[np.ndarray, "n c"]]:
    """Read a table that must be there."""
    if not path.is_file():
        raise RecordingError(f"{path}: no such file; wanted a table with the columns {', '.join(wanted)}.")
    return read_table(path)


def _refuse_missing(source: str, header: list[str], wanted: tuple[str, ...]) -> None:
    """Refuse a table without a column that is wanted."""
    missing = [name for name in wanted if name not in header]
    if missing:
        raise RecordingError(
            f"{source}: no column {', '.join(missing)} among {header}; wanted {', '.join(wanted)}. Rename them."
        )


def _columns(header: list[str], table: Float[np.ndarray, "n c"], names: str | tuple[str, ...]) -> np.ndarray:
    """Give one column, or several side by side; NaN where the table has none of that name."""
    if isinstance(names, str):
        return _columns(header, table, (names,))[:, 0]
    nothing = np.full(len(table), np.nan)
    return np.column_stack([table[:, header.index(name)] if name in header else nothing for name in names])


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
