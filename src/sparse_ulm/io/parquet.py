"""Tracks as Parquet: the columns of the CSV file, in full precision; wants pyarrow."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from sparse_ulm.acquisition import Geometry
from sparse_ulm.errors import UserError
from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.io.damage import reading
from sparse_ulm.io.tables import TRACK_COLUMNS, track_table, tracks_of_table
from sparse_ulm.localisations import Trajectories


def require_pyarrow() -> Any:
    """Import pyarrow, which is no dependency of ours.

    Raises:
        UserError: If it is not installed.
    """
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise UserError(
            "format parquet wants the package pyarrow, which is not installed; run `pip install pyarrow`, or take csv."
        ) from error


def write_parquet(path: Path, trajectories: Trajectories, geometry: Geometry, shape: tuple[int, int, int]) -> None:
    """Write a row per sample; track_id is int64, everything else float64.

    Args:
        path: The file; it appears whole or not at all.
        trajectories: Tracks in voxels of the recording.
        geometry: Of the recording.
        shape: Of the recording; not needed here, but all formats are written alike.

    Raises:
        UserError: If pyarrow is missing or the file cannot be written.
    """
    pyarrow = require_pyarrow()
    columns = dict(zip(TRACK_COLUMNS, track_table(trajectories, geometry).T, strict=True))
    table = pyarrow.table(columns | {"track_id": trajectories.track_id})
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(table, temporary)


def read_parquet(path: Path, geometry: Geometry) -> Trajectories:
    """Read tracks, sorted by track and then by time; columns as in the CSV file.

    Args:
        path: The file.
        geometry: Of the recording.

    Raises:
        UserError: If pyarrow is missing.
        RecordingError: If the file cannot be read, lacks a column, or a number is not finite.
    """
    pyarrow = require_pyarrow()
    with reading(path, as_format="Parquet"):
        table = pyarrow.parquet.read_table(path)
        header = [name for name in table.column_names if name in TRACK_COLUMNS]
        columns = [np.asarray(table[name].to_numpy(), dtype=np.float64) for name in header]
    values = np.stack(columns, axis=1) if columns else np.zeros((0, 0))
    return tracks_of_table(header, values, geometry, where=f"{path.name} row", first_row=0)
