"""Enhanced US Volume Storage (PS3.3 A.59): volumes on a Cartesian grid, plane by plane, each plane with its time."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from sparse_ulm.acquisition import as_rows
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.dicom_layout import DicomLayout, numbers, rate_hz
from sparse_ulm.io.statements import Statement

INTENSITY = "TISSUE_INTENSITY"
"""Data Type of B-mode frames (PS3.3 C.7.6.16.2.24)."""

DEPTH_COSINE = 0.7
"""The second axis of the Volume Frame of Reference points along depth (PS3.3 C.8.24.2); rows may lean by 45 degrees."""

GRID_TOLERANCE = 0.01
"""Planes may lie so far off equal steps, in steps (as pixels of zea)."""


def lay_out_volume(path: Path, header: Dataset, region: str | None) -> DicomLayout:
    """Sort the frames by time and plane, and state the grid that they lie on.

    Columns run along x, rows along depth and planes along y, turned so that x, y, z are right-handed; positions are
    those of the Volume Frame of Reference.

    Args:
        path: For messages.
        header: The file's elements.
        region: Of cines alone.

    Raises:
        RecordingError: If text is burned in, a frame's place or time is missing, or volumes differ in their planes.
    """
    if region is not None:
        raise RecordingError(
            f"{path.name}: variable is {region!r}; an Enhanced US Volume has no regions. Leave it out."
        )
    if header.get("BurnedInAnnotation") == "YES":
        raise RecordingError(
            f"{path.name}: text is burned in, and nothing says where; wanted a volume without. Export it again."
        )
    groups, shared = list(header.PerFrameFunctionalGroupsSequence), header.SharedFunctionalGroupsSequence[0]
    kinds = [str(_element(path, one, shared, "ImageDataTypeSequence", "DataType")) for one in groups]
    chosen = [index for index, kind in enumerate(kinds) if kind == INTENSITY]
    if not chosen:
        raise RecordingError(f"{path.name}: holds {', '.join(sorted(set(kinds)))}; wanted {INTENSITY}. Export B-mode.")
    orientation = numbers(_element(path, groups[0], shared, "PlaneOrientationVolumeSequence", "ImageOrientationVolume"))
    along_x, along_z = np.array(orientation[:3]), np.array(orientation[3:])
    if not along_z[1] > DEPTH_COSINE:
        raise RecordingError(
            f"{path.name}: its rows run along {along_z.tolist()} of the volume, whose second axis is depth; wanted "
            "planes with rows along depth. Export it again."
        )
    corners = np.array(
        [_element(path, groups[i], shared, "PlanePositionVolumeSequence", "ImagePositionVolume") for i in chosen],
        dtype=np.float64,
    )
    times_s = [_time_s(groups[i], shared) for i in chosen]
    table, seconds = _sort(path, chosen, corners @ np.cross(along_z, along_x), times_s)
    at = dict(zip(chosen, corners, strict=True))
    measures = _element(path, groups[0], shared, "PixelMeasuresSequence", "PixelSpacing")
    space = _state_grid(path, [at[frame] for frame in table[0]], along_x, along_z, numbers(measures))
    others = sorted({kind for kind in kinds if kind != INTENSITY})
    return DicomLayout(
        "DICOM Enhanced US Volume",
        table,
        (0, 0),
        (int(header.Rows), int(header.Columns)),
        (space, Statement(f"temporal positions of {path.name}", frame_rate_hz=rate_hz(np.diff(seconds)))),
        Statement("the thickness shown for 2D", (None, space.voxel_size_mm[0], None)) if len(table[0]) == 1 else None,
        (f"its frames of {', '.join(others)} are left out",) if others else (),
    )


def _element(path: Path, frame: Dataset, shared: Dataset, group: str, keyword: str) -> Any:
    """Take an element of a frame's functional groups, or of those that all frames share."""
    for place in (frame, shared):
        if place.get(group) and keyword in place[group].value[0]:
            return place[group].value[0][keyword].value
    raise RecordingError(f"{path.name}: {keyword} of {group} is missing; wanted one for every frame. Export it again.")


def _time_s(frame: Dataset, shared: Dataset) -> float:
    """Take a frame's time; 0 where there is none, as in a single volume."""
    for place in (frame, shared):
        if place.get("TemporalPositionSequence"):
            return float(place.TemporalPositionSequence[0].TemporalPositionTimeOffset)
    return 0.0


def _sort(
    path: Path, frames: Sequence[int], heights_mm: NDArray[np.float64], times_s: Sequence[float]
) -> tuple[tuple[tuple[int, ...], ...], list[float]]:
    """Give the frames by time and by plane, and the times.

    Raises:
        RecordingError: If the volumes do not have the same planes, each once.
    """
    volumes: dict[float, list[tuple[float, int]]] = {}
    for frame, height_mm, time_s in zip(frames, heights_mm.tolist(), times_s, strict=True):
        volumes.setdefault(time_s, []).append((height_mm, frame))
    seconds = sorted(volumes)
    planes = [sorted(volumes[time_s]) for time_s in seconds]
    heights = [[height for height, _ in volume] for volume in planes]
    differ = any(len(one) != len(heights[0]) or not np.allclose(one, heights[0], atol=1e-6) for one in heights)
    if differ or any(high - low < 1e-9 for low, high in pairwise(heights[0])):
        raise RecordingError(
            f"{path.name}: {len(frames)} frames at {len(seconds)} times do not make volumes of the same planes; wanted "
            "each plane once at each time, told apart by TemporalPositionTimeOffset. Export it again."
        )
    return tuple(tuple(frame for _, frame in volume) for volume in planes), seconds


def _state_grid(
    path: Path,
    corners_mm: list[NDArray[np.float64]],
    along_x: NDArray[np.float64],
    along_z: NDArray[np.float64],
    spacing_mm: list[float],
) -> Statement:
    """State steps, directions and the first voxel's place.

    Raises:
        RecordingError: If the planes are not equally spaced.
    """
    along_y, step_mm = np.cross(along_z, along_x), None
    if len(corners_mm) > 1:
        steps = np.diff(corners_mm, axis=0)
        step_mm = float(np.linalg.norm(steps.mean(axis=0)))
        if np.linalg.norm(steps - steps.mean(axis=0), axis=1).max() > GRID_TOLERANCE * step_mm:
            raise RecordingError(f"{path.name}: its planes are not equally spaced; wanted one step. Export it again.")
        along_y = steps.mean(axis=0) / step_mm
        step_mm = float(f"{step_mm:.9g}")
    between_rows, between_columns = spacing_mm
    x, y, z = corners_mm[0].tolist()
    directions = as_rows(np.column_stack([along_x, along_y, along_z]))
    return Statement(
        f"functional groups of {path.name}", (between_columns, step_mm, between_rows), (x, y, z), directions
    )
