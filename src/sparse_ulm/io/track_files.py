"""Tracks out and in, by the ending of the file: `NAME_tracks.csv`, `.parquet`, `.trk` (TrackVis), `.vtp` (VTK)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparse_ulm.acquisition import Geometry
from sparse_ulm.errors import RecordingError, UserError
from sparse_ulm.io.parquet import read_parquet, require_pyarrow, write_parquet
from sparse_ulm.io.tables import read_tracks, write_tracks
from sparse_ulm.io.trk import read_trk, write_trk
from sparse_ulm.io.vtp import read_vtp, write_vtp
from sparse_ulm.localisations import Trajectories

Write = Callable[[Path, Trajectories, Geometry, tuple[int, int, int]], None]
Read = Callable[[Path, Geometry], Trajectories]


@dataclass(frozen=True)
class TrackFormat:
    """How a kind of file is written and read."""

    write: Write
    read: Read


def _write_csv(path: Path, trajectories: Trajectories, geometry: Geometry, shape: tuple[int, int, int]) -> None:
    """Write as all formats are written; a table needs no shape."""
    write_tracks(path, trajectories, geometry)


TRACK_FORMATS = {
    "csv": TrackFormat(_write_csv, read_tracks),
    "parquet": TrackFormat(write_parquet, read_parquet),
    "trk": TrackFormat(write_trk, read_trk),
    "vtp": TrackFormat(write_vtp, read_vtp),
}
"""By the ending of the file, without its dot; the first that a folder holds is the one that is read."""


def require_track_formats(names: str | Sequence[str]) -> tuple[str, ...]:
    """Check formats before any work is done, and put csv in front: it is always written.

    Raises:
        UserError: If one is unknown, or cannot be written here.

    >>> require_track_formats(["vtp"])
    ('csv', 'vtp')
    """
    wanted = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in wanted if name not in TRACK_FORMATS]
    if unknown:
        raise UserError(f"track_formats names {unknown[0]!r}; wanted some of {', '.join(TRACK_FORMATS)}. Correct it.")
    if "parquet" in wanted:
        require_pyarrow()
    return tuple(dict.fromkeys(["csv", *wanted]))


def save_tracks(
    stem: Path, trajectories: Trajectories, geometry: Geometry, *, shape: tuple[int, int, int], formats: Sequence[str]
) -> None:
    """Write `STEM_tracks.SUFFIX` in every format.

    Args:
        stem: FOLDER/NAME.
        trajectories: Tracks in voxels of the recording, sorted by track and then by time.
        geometry: Of the recording.
        shape: (x, y, z) of the recording.
        formats: Keys of `TRACK_FORMATS`.

    Raises:
        UserError: If a file cannot be written.
    """
    for name in formats:
        TRACK_FORMATS[name].write(stem.with_name(f"{stem.name}_tracks.{name}"), trajectories, geometry, shape)


def load_tracks(path: str | Path, geometry: Geometry) -> Trajectories:
    """Read a file of tracks of any format, sorted by track and then by time.

    Args:
        path: The file; its ending says how it is read.
        geometry: Of the recording, to turn scanner millimetres into voxels.

    Raises:
        RecordingError: If there is no such file, its ending is unknown, or it cannot be read.
    """
    path = Path(path)
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in TRACK_FORMATS:
        raise RecordingError(f"{path.name}: no file of tracks; wanted one of .{', .'.join(TRACK_FORMATS)}. Rename it.")
    if not path.is_file():
        raise RecordingError(f"{path}: no such file; wanted tracks.")
    return TRACK_FORMATS[suffix].read(path, geometry)


def find_tracks(folder: str | Path, name: str) -> Path:
    """Find the tracks of a recording: `FOLDER/NAME/NAME_tracks.*`, as in our outputs, or `FOLDER/NAME_tracks.*`.

    Raises:
        RecordingError: If there is none.
    """
    for place in (Path(folder) / name, Path(folder)):
        for suffix in TRACK_FORMATS:
            path = place / f"{name}_tracks.{suffix}"
            if path.is_file():
                return path
    raise RecordingError(
        f"{folder} holds no tracks of {name}; wanted {name}_tracks with ending {', '.join(TRACK_FORMATS)}, there or in "
        f"its folder {name}. Check --tracks and --recording."
    )
