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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparse_ulm.acquisition import Acquisition
from sparse_ulm.conventions import Frames
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.combine import combine
from sparse_ulm.io.confusius_geometry import state_affine, state_attributes, state_coordinates, state_time
from sparse_ulm.io.damage import reading
from sparse_ulm.io.layout import AxisOrder, ListedArray, choose_variable, refuse_other_axes, require_complex
from sparse_ulm.io.names import recording_stem
from sparse_ulm.io.sidecar import read_sidecar
from sparse_ulm.io.statements import Statement

FORMAT = "ConfUSIus Zarr"
LAYOUT_NAME = "the ConfUSIus layout"
VOXEL_AXES = {"time": "t", "k": "y", "j": "z", "i": "x"}
WORLD_AXES = {"time": "t", "z": "y", "y": "z", "x": "x"}


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
        state_grid = state_affine if "k" in dims else state_coordinates
        grid = state_grid(path, arrays, stored.attrs, dict(zip(dims, stored.shape, strict=True)))
        stamps, notes = state_time(path, arrays)
        # The thickness of a plane is unknown, and shown as its step along x, as for the other formats.
        layout = Statement(LAYOUT_NAME, (None, grid.voxel_size_mm[0], None)) if shape[1] == 1 else None
        stated = [sidecar, options, grid, state_attributes(path, stored.attrs), stamps]
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
