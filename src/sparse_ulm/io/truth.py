"""The truth beside a simulated recording, `NAME_truth.csv`: every bubble in every frame, in scanner millimetres."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Int64

from sparse_ulm.acquisition import Geometry
from sparse_ulm.conventions import METRES_PER_MM, METRES_PER_UM, PositionsVoxel
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.atomic import atomic_path

COLUMNS = ("track_id", "frame", "time_s", "x_mm", "y_mm", "z_mm", "amplitude")
FORMATS = ("%d", "%d", "%.6f", "%.6f", "%.6f", "%.6f", "%.5g")
"""Nanometres and microseconds, far finer than anything that is scored."""
VESSEL_RADIUS = "vessel_radius_um"
"""One more column where bubbles were simulated in vessels."""


@dataclass(frozen=True)
class Truth:
    """Where every bubble was.

    Attributes:
        track_id: Which bubble.
        frame: Which frame of the recording, from 0.
        position_voxel: Voxels of the recording's grid, from the centre of its first voxel; bubbles just outside of
            the grid are kept, as they show in it.
        amplitude: Echo amplitude in the recording's units; None where it is not known.
        vessel_radius_m: Radius of the vessel where the bubble is; None where it is not known.
    """

    track_id: Int64[np.ndarray, " n"]
    frame: Int64[np.ndarray, " n"]
    position_voxel: PositionsVoxel
    amplitude: Float[np.ndarray, " n"] | None = None
    vessel_radius_m: Float[np.ndarray, " n"] | None = None

    def __len__(self) -> int:
        """Number of rows: one per bubble and frame."""
        return len(self.frame)


@runtime_checkable
class TrackRows(Protocol):
    """What `write_truth` writes, one row per bubble and frame; `simulation.Tracks` is one."""

    @property
    def track_id(self) -> Int[np.ndarray, " n"]:
        """Which bubble."""

    @property
    def frame(self) -> Int[np.ndarray, " n"]:
        """Which frame."""

    @property
    def position_m(self) -> Float[np.ndarray, "n 3"]:
        """Scanner position in metres."""

    @property
    def amplitude(self) -> Float[np.ndarray, " n"]:
        """Echo amplitude."""

    @property
    def vessel_radius_m(self) -> Float[np.ndarray, " n"] | None:
        """Radius of the vessel in metres, where there is one."""


def write_truth(path: str | Path, tracks: TrackRows, geometry: Geometry) -> None:
    """Write the truth as CSV: track_id, frame, time_s, x_mm, y_mm, z_mm, amplitude, and vessel_radius_um if known.

    Args:
        path: The file, `NAME_truth.csv` beside `NAME.*`.
        tracks: Bubbles with scanner positions in metres.
        geometry: Gives the frame rate.

    Raises:
        UserError: If the file cannot be written.
    """
    time_s = tracks.frame / geometry.frame_rate_hz
    position_mm = tracks.position_m / METRES_PER_MM
    columns = [tracks.track_id, tracks.frame, time_s, position_mm, tracks.amplitude]
    names, formats = list(COLUMNS), list(FORMATS)
    if tracks.vessel_radius_m is not None:
        columns.append(tracks.vessel_radius_m / METRES_PER_UM)
        names.append(VESSEL_RADIUS)
        formats.append("%.4g")
    with atomic_path(path) as temporary:
        np.savetxt(temporary, np.column_stack(columns), fmt=formats, delimiter=",", header=",".join(names), comments="")


def read_truth(path: str | Path, geometry: Geometry) -> Truth:
    """Read the truth of a recording.

    Args:
        path: `NAME_truth.csv`; columns may come in any order, and more columns are ignored.
        geometry: Of the recording, to turn scanner millimetres into voxels.

    Raises:
        RecordingError: If the file is missing, lacks a column, or a row is not all finite numbers with whole,
            non-negative frames.
    """
    path = Path(path)
    if not path.is_file():
        raise RecordingError(f"{path}: no such file; wanted the truth of a simulated recording.")
    header, table = read_table(path)
    wanted = ("track_id", "frame", "x_mm", "y_mm", "z_mm")
    missing = [name for name in wanted if name not in header]
    if missing:
        raise RecordingError(
            f"{path.name}: no column {', '.join(missing)} among {header}; wanted {', '.join(COLUMNS)}."
        )
    columns = table[:, [header.index(name) for name in wanted]]
    whole = columns[:, :2]
    bad = np.flatnonzero(~np.isfinite(columns).all(axis=1) | (whole != np.floor(whole)).any(axis=1) | (whole[:, 1] < 0))
    if bad.size:
        raise RecordingError(
            f"{path.name} line {bad[0] + 2}: track and frame {whole[bad[0]].tolist()}, position "
            f"{columns[bad[0], 2:].tolist()} mm; wanted whole numbers, frames from 0, and finite positions."
        )
    position_voxel = geometry.to_voxel(columns[:, 2:] * METRES_PER_MM)
    amplitude = table[:, header.index("amplitude")] if "amplitude" in header else None
    radius_m = table[:, header.index(VESSEL_RADIUS)] * METRES_PER_UM if VESSEL_RADIUS in header else None
    return Truth(whole[:, 0].astype(np.int64), whole[:, 1].astype(np.int64), position_voxel, amplitude, radius_m)


def read_table(path: Path) -> tuple[list[str], Float[np.ndarray, "rows columns"]]:
    """Read a CSV file of numbers: the names of its columns, and all rows.

    Raises:
        RecordingError: If it holds anything but numbers below its header, or another number of values than of names.
    """
    try:
        with path.open(encoding="utf-8") as file:
            header = [name.strip() for name in file.readline().split(",")]
            with warnings.catch_warnings():
                # A recording without bubbles has a truth without rows.
                warnings.filterwarnings("ignore", message=".*contained no data.*")
                table = np.loadtxt(file, delimiter=",", ndmin=2, dtype=np.float64)
    except (ValueError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise RecordingError(f"{path.name}: not a table of numbers ({reason}); wanted CSV with a header.") from None
    if table.size == 0:
        return header, np.zeros((0, len(header)))
    if table.shape[1] != len(header):
        raise RecordingError(
            f"{path.name}: {len(header)} column names but {table.shape[1]} values a row; wanted as many. Correct it."
        )
    return header, table
