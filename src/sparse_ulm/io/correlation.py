"""The method's training HDF5 (SparseTensorULM): groups "1", "2", …, each a complex PSF correlation map with truth."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Complex, Float, Int64
from numpy.typing import NDArray

from sparse_ulm.acquisition import Acquisition, Geometry
from sparse_ulm.conventions import Frames
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.io.combine import combine
from sparse_ulm.io.damage import reading
from sparse_ulm.io.layout import AxisOrder, refuse_other_axes, require_axes
from sparse_ulm.io.names import recording_stem, split_group
from sparse_ulm.io.sidecar import read_sidecar, require_aligned, write_sidecar
from sparse_ulm.io.statements import Statement

MAP_NAME, TRUTH_NAME = "CorrMap", "ground_truth/coords"
STORED_AXES = [AxisOrder(("t", "z", "x")), AxisOrder(("t", "z", "y", "x"))]
"""Stored axes before the last one, which holds real and imaginary part: the reverse of (2, x, (y,) z, t)."""

TRUTH_COLUMNS = 4


def open_correlation(path: Path, options: Statement, *, group: str | None = None) -> list[Acquisition]:
    """Open one group of a training HDF5, or all of them in the order of their numbers.

    Args:
        path: The .h5; its sidecar holds the geometry of all groups.
        options: What the caller states.
        group: The one group wanted.

    Returns:
        Acquisitions of content "correlation", named STEM_GROUP.

    Raises:
        RecordingError: If the file is damaged, holds no `CorrMap`, or the geometry is missing or contradictory.
    """
    with reading(path, as_format="HDF5"), h5py.File(path, "r") as file:
        groups = sorted((name for name in file if f"{name}/{MAP_NAME}" in file), key=_group_order)
        if group is not None and group not in groups:
            raise RecordingError(f"{path.name}: holds no group {group!r} with a {MAP_NAME}; wanted one of {groups}.")
        if not groups:
            raise RecordingError(
                f"{path.name}: no group with a {MAP_NAME} among {list(file)}; wanted groups 1, 2, … of training data. "
                "Save MATLAB v7.3 files with the suffix .mat."
            )
        sidecar = read_sidecar(path)
        geometry, sources = combine(path, [sidecar, options])
        chosen = groups if group is None else [group]
        return [_open_group(path, file, name, geometry, sidecar, sources) for name in chosen]


def read_correlation_truth(
    path: str | Path, group: str | None, geometry: Geometry
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], Float[np.ndarray, "n xyz=3"]]:
    """Read the bubbles of a group.

    `ground_truth/coords` is (n_tracks, 4, n_times), or rows of 4: x, y, z in voxels of the input grid and the time in
    seconds. Position 0 is taken as the centre of the first voxel, which is our reading of the released code.

    Args:
        path: The .h5; "train.h5::3" with `group` None is the same as group "3".
        group: Name of the group.
        geometry: Of the recording, for its frame rate.

    Returns:
        track_id (-1 where rows of 4 do not say it), frame and position_voxel of each bubble in each frame;
        rows with NaN are left out.

    Raises:
        RecordingError: If the file is damaged, or holds no such truth.
    """
    file_path, in_path = split_group(path)
    name = f"{group or in_path}/{TRUTH_NAME}"
    with reading(file_path, as_format="HDF5"), h5py.File(file_path, "r") as file:
        if name not in file:
            raise RecordingError(f"{file_path.name}: holds no {name}; wanted the truth of a training group.")
        coords = np.asarray(file[name], dtype=np.float64)
    if coords.ndim == 2 and coords.shape[1] == TRUTH_COLUMNS:
        rows, track_id = coords, np.full(len(coords), -1, dtype=np.int64)
    elif coords.ndim == 3 and coords.shape[1] == TRUTH_COLUMNS:
        n_tracks, _, n_times = coords.shape
        rows = coords.transpose(0, 2, 1).reshape(-1, TRUTH_COLUMNS)
        track_id = np.repeat(np.arange(n_tracks, dtype=np.int64), n_times)
    else:
        raise RecordingError(
            f"{file_path.name}: {name} has shape {coords.shape}; wanted (n_tracks, 4, n_times) or (n, 4)."
        )
    present = np.isfinite(rows).all(axis=1)
    frame = np.rint(rows[present, 3] * geometry.frame_rate_hz).astype(np.int64)
    return track_id[present], frame, rows[present, :3]


def save_correlation(path: Path, frames: Complex[np.ndarray, "x y z t"], geometry: Geometry) -> None:
    """Write a PSF correlation map as group "1", in float32, with the sidecar.

    Raises:
        RecordingError: If the grid is rotated: the sidecar holds voxel size and origin only.
    """
    require_aligned(path, geometry)
    kept = frames[:, 0] if frames.shape[1] == 1 else frames
    parts = np.stack([kept.real, kept.imag]).astype(np.float32)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset(f"1/{MAP_NAME}", data=np.ascontiguousarray(parts.T))
    write_sidecar(path, geometry)


@dataclass(frozen=True)
class CorrelationFrames:
    """Reads frames of a group from where they lie; the file is opened at each call, so workers share nothing."""

    path: Path
    group: str
    order: AxisOrder

    def __call__(self, start: int, stop: int) -> Frames:
        """Read frames start ... stop - 1."""
        with reading(self.path, as_format="HDF5"), h5py.File(self.path, "r") as file:
            parts: NDArray[np.floating] = file[f"{self.group}/{MAP_NAME}"][start:stop]
        samples = np.empty(parts.shape[:-1], np.complex64)
        samples.real, samples.imag = parts[..., 0], parts[..., 1]
        return self.order.arrange(samples)


def _open_group(
    path: Path, file: h5py.File, group: str, geometry: Geometry, sidecar: Statement, sources: dict[str, str]
) -> Acquisition:
    """Check the map of one group."""
    stored = file[f"{group}/{MAP_NAME}"]
    if stored.ndim < 2 or stored.shape[-1] != 2 or stored.dtype.kind != "f":
        raise RecordingError(
            f"{path.name}: {group}/{MAP_NAME} is {stored.dtype} of shape {stored.shape}; wanted real numbers "
            "(t, z, x, 2) or (t, z, y, x, 2), the last axis being real and imaginary part."
        )
    order = require_axes(path, stored.shape[:-1], None, STORED_AXES)
    refuse_other_axes(path, sidecar, order)
    return Acquisition(
        name=f"{recording_stem(path)}_{group}",
        path=path,
        shape=order.shape(stored.shape[:-1]),
        geometry=geometry,
        content="correlation",
        read=CorrelationFrames(path, group, order),
        details={
            "format": "correlation HDF5",
            "dtype": f"{stored.dtype} real and imaginary",
            "stored_shape": list(stored.shape),
            "group": group,
            "has_truth": f"{group}/{TRUTH_NAME}" in file,
            "sources": sources,
        },
    )


def _group_order(name: str) -> tuple[int, str]:
    """Sort "2" before "10", and numbers before names."""
    return (int(name), name) if name.isdecimal() else (2**63, name)
