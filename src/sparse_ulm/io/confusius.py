"""Zarr recordings of ConfUSIus (https://confusius.tools): a folder `rec.zarr` with the complex variable `iq`.

Since version 0.8 its axes are (time, k, j, i), k elevation, j depth and i lateral, and the attribute `voxel_to_world`
takes voxel labels (k, j, i) to positions (z, y, x). Before, they were (time, z, y, x) with a coordinate array each.
Positions stay in ConfUSIus' own world, so that maps overlay what it exports: there y is depth and z elevation, and the
affine of a recording turns accordingly.

Zarr stores no chunk whose samples are all 0, and gives zeros for one that is lost. Recorded IQ has noise, so that an
absent chunk is taken for lost and refused.
Source: ConfUSIus 0.8.0, io/loadsave.py, io/autc.py and the user guide's spatial conventions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_ulm.acquisition import Acquisition, as_rows
from sparse_ulm.conventions import Frames
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.combine import combine
from sparse_ulm.io.damage import reading
from sparse_ulm.io.layout import AxisOrder, ListedArray, choose_variable, refuse_other_axes, require_complex
from sparse_ulm.io.names import recording_stem
from sparse_ulm.io.sidecar import read_sidecar
from sparse_ulm.io.statements import FREQUENCY, SOUND_SPEED, Statement, positive_number, state_values

FORMAT = "ConfUSIus Zarr"
LAYOUT_NAME = "the ConfUSIus layout"
VOXEL_AXES = {"time": "t", "k": "y", "j": "z", "i": "x"}
WORLD_AXES = {"time": "t", "z": "y", "y": "z", "x": "x"}
MM_PER_UNIT = {"mm": 1.0, "m": 1.0e3, "um": 1.0e-3, "µm": 1.0e-3}
ATTRIBUTES = {FREQUENCY: "transmit_frequency", SOUND_SPEED: "beamforming_sound_velocity"}
RATE_ATTRIBUTE = "compound_sampling_frequency"

STEP_TOLERANCE = 0.01
"""Coordinates and time stamps whose steps differ by more than this part of them are not even."""

UNSET_PERIOD_S = 1.0
"""Time stamps 0, 1, 2, … are counted frames, which ConfUSIus labels as seconds where nobody gave a rate."""


def open_confusius(path: Path, options: Statement, *, variable: str | None = None) -> Acquisition:
    """Open a Zarr folder: `variable`, else `iq`, else the only complex array of rank 4.

    Args:
        path: The folder.
        options: What the caller states.
        variable: The array to read, where that is not clear.

    Raises:
        RecordingError: If zarr is not installed, chunks are missing or damaged, the array is not clear or real, or the
            geometry is missing or contradictory.
    """
    with reading(path, as_format=FORMAT):
        arrays = _open_arrays(path)
        listed = [_describe(name, array) for name, array in arrays.items()]
        name = choose_variable(path, listed, ("iq",), variable)
        require_complex(path, next(array for array in listed if array.name == name))
        stored = arrays[name]
        dims = _dimensions(path, name, stored)
        _require_chunks(path, name, stored)
        order = AxisOrder(tuple((VOXEL_AXES if "k" in dims else WORLD_AXES)[dim] for dim in dims))
        sidecar = read_sidecar(path)
        refuse_other_axes(path, sidecar, order)
        shape = order.shape(stored.shape)
        state_grid = _state_affine if "k" in dims else _state_coordinates
        grid = state_grid(path, arrays, stored.attrs, dict(zip(dims, stored.shape, strict=True)))
        stamps, notes = _state_time(path, arrays)
        # The thickness of a plane is unknown, and shown as its step along x, as for the other formats.
        layout = Statement(LAYOUT_NAME, (None, grid.voxel_size_mm[0], None)) if shape[1] == 1 else None
        stated = [sidecar, options, grid, _state_attributes(path, stored.attrs), stamps]
        geometry, sources = combine(path, stated, layout=layout)
    return Acquisition(
        name=recording_stem(path),
        path=path,
        shape=shape,
        geometry=geometry,
        content="iq",
        read=ConfusiusFrames(path, name, order),
        details={
            "format": f"{FORMAT} v{stored.metadata.zarr_format}",
            "dtype": str(stored.dtype),
            "stored_shape": list(stored.shape),
            "variable": name,
            "sources": sources,
            "notes": notes,
        },
    )


@dataclass(frozen=True)
class ConfusiusFrames:
    """Reads frames chunk by chunk from where they lie; the folder is opened at each call, so workers share nothing.

    Attributes:
        path: The folder.
        name: The variable.
        order: Its axes.
    """

    path: Path
    name: str
    order: AxisOrder

    def __call__(self, start: int, stop: int) -> Frames:
        """Read frames start ... stop - 1."""
        with reading(self.path, as_format=FORMAT):
            stored = _open_arrays(self.path)[self.name]
            return self.order.arrange(np.asarray(stored[self.order.time_slice(start, stop)]))


def _open_arrays(path: Path) -> dict[str, Any]:
    """Open all arrays at the top of the folder by name.

    Raises:
        RecordingError: If zarr is not installed, or the folder is no Zarr group.
    """
    try:
        import zarr
    except ImportError as error:
        raise RecordingError(
            f"{path.name}: zarr is not installed; wanted it to read Zarr folders. "
            'Install it: pip install "sparse-ulm[zarr]"'
        ) from error
    try:
        group = zarr.open_group(path, mode="r")
    except FileNotFoundError as error:
        raise RecordingError(
            f"{path.name}: holds no Zarr group; wanted a folder that ConfUSIus or xarray wrote. Copy it again, whole."
        ) from error
    return dict(sorted(group.arrays()))


def _describe(name: str, array: Any) -> ListedArray:
    """Describe an array."""
    return ListedArray(name, tuple(array.shape), np.dtype(array.dtype).kind == "c", str(array.dtype))


def _dimensions(path: Path, name: str, array: Any) -> tuple[str, ...]:
    """Give the names of an array's axes: Zarr v3 has them, xarray writes them as an attribute into v2.

    Raises:
        RecordingError: If they are not those of one recording.
    """
    named = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS") or ()
    dims = tuple(str(dim) for dim in named)
    if set(dims) not in (set(VOXEL_AXES), set(WORLD_AXES)) or len(dims) != len(VOXEL_AXES) or min(array.shape) < 1:
        raise RecordingError(
            f"{path.name}: {name} has axes {list(dims)} of sizes {list(array.shape)}; wanted {list(VOXEL_AXES)} or "
            f"{list(WORLD_AXES)}. Save one recording of one pose with ConfUSIus."
        )
    return dims


def _require_chunks(path: Path, name: str, array: Any) -> None:
    """Refuse an array of which files are missing.

    Raises:
        RecordingError: If there are fewer files of chunks (of shards, where chunks are packed in them) than its shape
            needs.
    """
    files = array.shards or array.chunks
    wanted = math.prod(-(-size // step) for size, step in zip(array.shape, files, strict=True))
    chunks_per_file = math.prod(step // chunk for step, chunk in zip(files, array.chunks, strict=True))
    found = array.nchunks_initialized // chunks_per_file
    if found < wanted:
        raise RecordingError(
            f"{path.name}: {wanted - found} of {wanted} chunks of {name} are missing, which Zarr would read as zeros; "
            "wanted all. Copy the folder again, or cut away frames that were never written."
        )


def _state_affine(
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


def _state_coordinates(
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


def _state_attributes(path: Path, attributes: Mapping[str, Any]) -> Statement:
    """State frequency, sound speed and rate from the attributes of the variable."""
    source = f"attributes of {path.name}"
    rate = attributes.get(RATE_ATTRIBUTE)
    rate_hz = None if rate is None else positive_number(rate, RATE_ATTRIBUTE, source)
    return state_values(dict(attributes), ATTRIBUTES, source, frame_rate_hz=rate_hz)


def _state_time(path: Path, arrays: Mapping[str, Any]) -> tuple[Statement, list[str]]:
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
