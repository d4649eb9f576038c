"""Ultratrace HDF5 (https://github.com/alephneuro/microbubbles): beamformed acquisitions, each with a point per voxel.

`acquisitions/<id>/meta/compound_image` is complex64 (frames, elevation, z, x), or (frames, z, x), and
`meta/grid/{x,y,z}` the positions, each (z, elevation, x). The file does not say whether these are metres or
millimetres, which Ultratrace guesses from their size. Here the stated voxel size, which must be one or the other,
decides. Rate, frequency and sound speed are not in the file.
Source: its ultratrace_ulm/beamform_mach.py and h5_io.py, as of July 2026.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float

from sparse_ulm.acquisition import Acquisition
from sparse_ulm.conventions import METRES_PER_MM, Frames
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.combine import RELATIVE_TOLERANCE, combine
from sparse_ulm.io.damage import reading
from sparse_ulm.io.grid import state_points
from sparse_ulm.io.layout import AxisOrder, ListedArray, refuse_other_axes, require_axes, require_complex
from sparse_ulm.io.names import recording_stem
from sparse_ulm.io.sidecar import read_sidecar
from sparse_ulm.io.statements import Statement

FORMAT = "Ultratrace HDF5"
LAYOUT_NAME = "the Ultratrace layout"
GROUP, IMAGE, GRID = "acquisitions", "meta/compound_image", "meta/grid"
STORED_AXES = [AxisOrder(("t", "z", "x")), AxisOrder(("t", "y", "z", "x"))]


def is_ultratrace(file: h5py.File) -> bool:
    """Tell whether an HDF5 file is one of Ultratrace's, by what it holds."""
    return bool(_acquisitions(file))


def open_ultratrace(path: Path, options: Statement, *, group: str | None = None) -> list[Acquisition]:
    """Open one acquisition, or all of them in the order of their numbers.

    Args:
        path: The file; its sidecar holds what all acquisitions share.
        options: What the caller states.
        group: The one wanted, such as "3".

    Returns:
        Acquisitions of content "iq", named STEM_NUMBER.

    Raises:
        RecordingError: If the file is damaged, or the geometry is missing or contradictory.
    """
    with reading(path, as_format=FORMAT), h5py.File(path, "r") as file:
        names = _acquisitions(file)
        if group is not None and group not in names:
            raise RecordingError(f"{path.name}: holds no acquisition {group!r}; wanted one of {names}.")
        return [_open_one(path, file, name, options) for name in ([group] if group is not None else names)]


@dataclass(frozen=True)
class UltratraceFrames:
    """Reads frames of an acquisition from where they lie; the file is opened at each call, so workers share nothing."""

    path: Path
    name: str
    order: AxisOrder

    def __call__(self, start: int, stop: int) -> Frames:
        """Read frames start ... stop - 1."""
        with reading(self.path, as_format=FORMAT), h5py.File(self.path, "r") as file:
            return self.order.arrange(np.asarray(file[f"{GROUP}/{self.name}/{IMAGE}"][start:stop]))


def _acquisitions(file: h5py.File) -> list[str]:
    """List the acquisitions that are beamformed."""
    group = file.get(GROUP)
    names = list(group) if isinstance(group, h5py.Group) else []
    return sorted((name for name in names if name.isdecimal() and f"{GROUP}/{name}/{IMAGE}" in file), key=int)


def _open_one(path: Path, file: h5py.File, name: str, options: Statement) -> Acquisition:
    """Check the samples of one acquisition and make its geometry."""
    at = f"{GROUP}/{name}"
    stored = file[f"{at}/{IMAGE}"]
    require_complex(path, ListedArray(f"{at}/{IMAGE}", stored.shape, stored.dtype.kind == "c", str(stored.dtype)))
    order = require_axes(path, stored.shape, None, STORED_AXES)
    sidecar = read_sidecar(path)
    refuse_other_axes(path, sidecar, order)
    shape = order.shape(stored.shape)
    grid, layout = _state_grid(path, file[at], shape[:3], [sidecar, options])
    geometry, sources = combine(path, [sidecar, options, grid], layout=layout)
    return Acquisition(
        name=f"{recording_stem(path)}_{name}",
        path=path,
        shape=shape,
        geometry=geometry,
        content="iq",
        read=UltratraceFrames(path, name, order),
        details={
            "format": FORMAT,
            "dtype": str(stored.dtype),
            "stored_shape": list(stored.shape),
            "group": name,
            "sources": sources,
        },
    )


def _state_grid(
    path: Path, group: h5py.Group, shape: tuple[int, int, int], others: Sequence[Statement]
) -> tuple[Statement, Statement | None]:
    """State the grid in the unit that makes it agree with the stated voxel size; say nothing while there is none."""
    source = f"grid of {path.name}"
    points = _read_points(path, group, shape)
    stated_mm = next((s.voxel_size_mm for s in others if None not in s.voxel_size_mm), None)
    if points is None or stated_mm is None:
        return Statement(source), None
    in_metres = state_points(path, source, points, layout_name=LAYOUT_NAME)
    in_millimetres = state_points(path, source, points * METRES_PER_MM, layout_name=LAYOUT_NAME)
    agrees = all(
        abs(found - wanted) <= RELATIVE_TOLERANCE * wanted  # type: ignore[operator]
        for found, wanted in zip(in_millimetres[0].voxel_size_mm, stated_mm, strict=True)
        if found is not None
    )
    return in_millimetres if agrees else in_metres


def _read_points(path: Path, group: h5py.Group, shape: tuple[int, int, int]) -> Float[np.ndarray, "x y z 3"] | None:
    """Read the positions of voxels; None where there are none."""
    if any(f"{GRID}/{axis}" not in group for axis in "xyz"):
        return None
    x, y, z = shape
    grids = [np.asarray(group[f"{GRID}/{axis}"], dtype=np.float64) for axis in "xyz"]
    if any(grid.shape not in ((z, y, x), (z, x)) or grid.size != x * y * z for grid in grids):
        raise RecordingError(
            f"{path.name}: {GRID} has shapes {[grid.shape for grid in grids]}; wanted {(z, y, x)}, which is "
            "(z, elevation, x). Beamform it again with Ultratrace."
        )
    return np.stack([grid.reshape(z, y, x).transpose(2, 1, 0) for grid in grids], axis=-1)
