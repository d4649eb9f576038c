"""What a ConfUSIus Zarr folder states: the grid of its voxels, the rate of its frames, frequency and sound speed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_ulm.acquisition import as_rows
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.statements import FREQUENCY, SOUND_SPEED, Statement, positive_number, state_values

MM_PER_UNIT = {"mm": 1.0, "m": 1.0e3, "um": 1.0e-3, "µm": 1.0e-3}
ATTRIBUTES = {FREQUENCY: "transmit_frequency", SOUND_SPEED: "beamforming_sound_velocity"}
RATE_ATTRIBUTE = "compound_sampling_frequency"

STEP_TOLERANCE = 0.01
"""Coordinates and time stamps whose steps differ by more than this part of them are not even."""

UNSET_PERIOD_S = 1.0
"""Time stamps 0, 1, 2, … are counted frames, which ConfUSIus labels as seconds where nobody gave a rate."""


def state_affine(
    path: Path, arrays: Mapping[str, Any], attributes: Mapping[str, Any], sizes: Mapping[str, int]
) -> Statement:
    """State the grid of `voxel_to_world`, which takes the labels in k, j and i: those of a part do not start at 0."""
    source = f"voxel_to_world of {path.name}"
    stored = attributes.get("voxel_to_world")
    if stored is None:
        return Statement(source)
    affine = np.asarray(stored, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0.0:
        raise RecordingError(f"{source} is {stored}; wanted an invertible 4x4 matrix. Save it again with ConfUSIus.")
    affine[:3] *= _mm_per_unit(attributes.get("voxel_to_world_units"), "voxel_to_world_units", path)
    labels = [_even_steps(path, arrays, dim, sizes[dim]) for dim in ("k", "j", "i")]
    first = affine @ np.array([*(start for start, _ in labels), 1.0])
    columns = affine[:3, :3] * np.array([step for _, step in labels])
    # Rows (z, y, x) -> (x, y, z) of the same world; columns (k, j, i) -> our x, y, z, which are i, k, j.
    return _state(source, columns[::-1][:, [2, 0, 1]], first[2::-1])


def state_coordinates(
    path: Path, arrays: Mapping[str, Any], attributes: Mapping[str, Any], sizes: Mapping[str, int]
) -> Statement:
    """State the grid of the coordinate arrays z, y and x; `voxdim` is the size of an axis of one voxel."""
    source = f"coordinates of {path.name}"
    if any(dim not in arrays for dim in "xzy"):
        return Statement(source)
    first, steps = np.zeros(3), np.zeros((3, 3))
    for column, dim in enumerate("xzy"):  # our x, y, z
        start, step = _even_steps(path, arrays, dim, sizes[dim], of_one=np.nan)
        if np.isnan(step):
            step = float(arrays[dim].attrs.get("voxdim") or np.nan)
        mm = _mm_per_unit(arrays[dim].attrs.get("units"), f"units of {dim}", path)
        row = "xyz".index(dim)
        first[row], steps[row, column] = start * mm, step * mm
    return _state(source, steps, first)


def _state(source: str, steps_mm: NDArray[np.float64], first_mm: NDArray[np.float64]) -> Statement:
    """Make a statement of steps in columns, NaN in that of an axis whose size is unknown."""
    sizes = np.linalg.norm(steps_mm, axis=0)
    known = [None if np.isnan(size) else float(f"{size:.12g}") for size in sizes]
    directions = np.where(np.isnan(sizes), np.sign(np.nan_to_num(steps_mm, nan=1.0)), steps_mm / sizes)
    x, y, z = (float(f"{value:.12g}") for value in first_mm)
    return Statement(source, (known[0], known[1], known[2]), (x, y, z), as_rows(directions))


def _even_steps(path: Path, arrays: Mapping[str, Any], dim: str, n: int, *, of_one: float = 1.0) -> tuple[float, float]:
    """Give the first value and the step of a coordinate array; 0 and 1 where there is none.

    Raises:
        RecordingError: If its steps differ.
    """
    if dim not in arrays:
        return 0.0, 1.0
    values = np.asarray(arrays[dim][:], dtype=np.float64)
    steps = np.diff(values)
    mean = float(steps.mean()) if steps.size else of_one
    if len(values) != n or not np.isfinite(values).all() or (np.abs(steps - mean) > STEP_TOLERANCE * abs(mean)).any():
        raise RecordingError(
            f"{path.name}: its coordinates {dim} are not even; wanted {n} numbers of equal steps, as convolutions and "
            "maps do. Resample it."
        )
    if mean == 0.0:
        raise RecordingError(f"{path.name}: its coordinates {dim} are all equal; wanted equal steps. Save it again.")
    return float(values[0]), mean


def _mm_per_unit(unit: object, name: str, path: Path) -> float:
    """Give the length of a unit in millimetres; none is assumed.

    Raises:
        RecordingError: If it is no unit that we know.
    """
    if unit not in MM_PER_UNIT:
        raise RecordingError(
            f"{path.name}: {name} is {unit!r}; wanted one of {', '.join(MM_PER_UNIT)}. Set the unit and save it again."
        )
    return MM_PER_UNIT[str(unit)]


def state_attributes(path: Path, attributes: Mapping[str, Any]) -> Statement:
    """State frequency, sound speed and rate from the attributes of the variable."""
    source = f"attributes of {path.name}"
    rate = attributes.get(RATE_ATTRIBUTE)
    rate_hz = None if rate is None else positive_number(rate, RATE_ATTRIBUTE, source)
    return state_values(dict(attributes), ATTRIBUTES, source, frame_rate_hz=rate_hz)


def state_time(path: Path, arrays: Mapping[str, Any]) -> tuple[Statement, list[str]]:
    """State the rate of even time stamps in seconds; say so where they are not even."""
    source = f"time stamps of {path.name}"
    stamps = arrays.get("time")
    if stamps is None or stamps.attrs.get("units") != "s" or stamps.shape[0] < 2:
        return Statement(source), []
    periods_s = np.diff(np.asarray(stamps[:], dtype=np.float64))
    mean_s = float(periods_s.mean())
    if not np.isfinite(periods_s).all() or (np.abs(periods_s - mean_s) > STEP_TOLERANCE * abs(mean_s)).any():
        return Statement(source), [
            f"time stamps are {periods_s.min():.3g} to {periods_s.max():.3g} s apart: tracks must not cross the gaps"
        ]
    if mean_s <= 0.0 or mean_s == UNSET_PERIOD_S:
        return Statement(source), []
    return Statement(source, frame_rate_hz=float(f"{1.0 / mean_s:.9g}")), []
