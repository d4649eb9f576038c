"""zea HDF5 (https://github.com/tue-bmd/zea, spec of version 0.1.8): beamformed IQ and the grid of its pixels.

Read without zea. `tracks/track_0/data/beamformed_data/values` is float32 (frames, z, x, [y,] 2), the last axis I and Q;
`coordinates` are metres (x, y, z) of every pixel; `scan/` says frequency, sound speed and the times between transmits.
Files of zea before 0.1.1 have `data/` and `scan/` at the top.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sparse_ulm.acquisition import Acquisition
from sparse_ulm.conventions import Frames
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.combine import combine
from sparse_ulm.io.damage import reading
from sparse_ulm.io.grid import state_points
from sparse_ulm.io.layout import AxisOrder, refuse_other_axes, require_axes
from sparse_ulm.io.names import recording_stem
from sparse_ulm.io.sidecar import read_sidecar
from sparse_ulm.io.statements import Statement

VALUES, COORDINATES = "data/beamformed_data/values", "data/beamformed_data/coordinates"
STORED_AXES = [AxisOrder(("t", "z", "x")), AxisOrder(("t", "z", "x", "y"))]
"""Stored axes before the last one, which holds I and Q."""

RATE_TOLERANCE = 0.01
"""Frames whose periods differ by more have no frame rate."""

LAYOUT_NAME = "the zea layout"

try:
    import hdf5plugin  # noqa: F401  # registers Blosc, which zea compresses with unless told otherwise

    HAS_BLOSC = True
except ImportError:
    HAS_BLOSC = False


def is_zea(file: h5py.File) -> bool:
    """Tell whether an HDF5 file is one of zea's, by what it holds."""
    return "zea_version" in file.attrs or bool(_tracks(file))


def open_zea(path: Path, options: Statement, *, group: str | None = None) -> list[Acquisition]:
    """Open one track, or all that hold beamformed IQ.

    Args:
        path: The file.
        options: What the caller states.
        group: The one track wanted, such as "track_1".

    Returns:
        Acquisitions of content "iq", named by the file, and by the track where there are several.

    Raises:
        RecordingError: If the file is damaged, holds no beamformed IQ on a regular grid, or its geometry is missing or
            contradictory.
    """
    with reading(path, as_format="zea HDF5"), h5py.File(path, "r") as file:
        tracks = _tracks(file)
        if not tracks:
            raise RecordingError(
                f"{path.name}: a zea file without beamformed_data; wanted beamformed IQ. "
                "Beamform its raw_data with zea."
            )
        if group is not None and group not in tracks:
            raise RecordingError(f"{path.name}: holds no track {group!r}; wanted one of {sorted(tracks)}.")
        chosen = {group: tracks[group]} if group is not None else tracks
        stem = recording_stem(path)
        return [
            _open_track(path, file, at, options, name=stem if len(tracks) == 1 else f"{stem}_{name}", track=name)
            for name, at in chosen.items()
        ]


@dataclass(frozen=True)
class ZeaFrames:
    """Reads frames of a track from where they lie; the file is opened at each call, so workers share nothing."""

    path: Path
    values: str
    order: AxisOrder

    def __call__(self, start: int, stop: int) -> Frames:
        """Read frames start ... stop - 1."""
        with reading(self.path, as_format="zea HDF5"), h5py.File(self.path, "r") as file:
            parts = read_samples(self.path, file[self.values], slice(start, stop))
        samples = np.empty(parts.shape[:-1], np.complex64)
        samples.real, samples.imag = parts[..., 0], parts[..., 1]
        return self.order.arrange(samples)


def read_samples(path: Path, dataset: h5py.Dataset, index: Any) -> NDArray[np.floating]:
    """Read a part of a dataset.

    Raises:
        RecordingError: If it is packed by Blosc and hdf5plugin is missing.
    """
    try:
        return np.asarray(dataset[index])
    except OSError as error:
        if HAS_BLOSC or not any(word in str(error) for word in ("filter", "plugin")):
            raise
        raise RecordingError(
            f"{path.name}: its samples are packed by an HDF5 filter that is not installed; wanted hdf5plugin. "
            "Install it: pip install hdf5plugin"
        ) from error


def _tracks(file: h5py.File) -> dict[str, str]:
    """List the tracks with beamformed data: name, and the path of its group."""
    found = {"data": ""} if VALUES in file else {}
    names = list(file["tracks"]) if isinstance(file.get("tracks"), h5py.Group) else []
    return found | {name: f"tracks/{name}/" for name in sorted(names) if f"tracks/{name}/{VALUES}" in file}


def _open_track(path: Path, file: h5py.File, at: str, options: Statement, *, name: str, track: str) -> Acquisition:
    """Check the samples of one track and make its geometry."""
    stored = file[f"{at}{VALUES}"]
    if stored.ndim < 2 or stored.shape[-1] != 2 or stored.dtype.kind != "f":
        raise RecordingError(
            f"{path.name}: {at}{VALUES} is {stored.dtype} of shape {stored.shape}; wanted IQ, (frames, z, x, [y,] 2). "
            "Demodulate RF data with zea."
        )
    order = require_axes(path, stored.shape[:-1], None, STORED_AXES)
    sidecar = read_sidecar(path)
    refuse_other_axes(path, sidecar, order)
    shape = order.shape(stored.shape[:-1])
    grid, layout = _state_grid(path, file, at, shape)
    geometry, sources = combine(path, [sidecar, options, grid, _state_scan(path, file, at)], layout=layout)
    return Acquisition(
        name=name,
        path=path,
        shape=shape,
        geometry=geometry,
        content="iq",
        read=ZeaFrames(path, f"{at}{VALUES}", order),
        details={
            "format": f"zea HDF5 {file.attrs.get('zea_version', 'before 0.1.1')}",
            "dtype": f"{stored.dtype} I and Q",
            "stored_shape": list(stored.shape),
            "group": track,
            "sources": sources,
        },
    )


def _state_grid(
    path: Path, file: h5py.File, at: str, shape: tuple[int, int, int, int]
) -> tuple[Statement, Statement | None]:
    """State the grid that the pixels' coordinates lie on; a 2D one is shown as thick as its step along x."""
    source = f"coordinates of {path.name}"
    if f"{at}{COORDINATES}" not in file:
        return Statement(source), None
    coordinates = file[f"{at}{COORDINATES}"]
    per_frame = coordinates.ndim == file[f"{at}{VALUES}"].ndim
    stored = read_samples(path, coordinates, 0 if per_frame else ...).astype(np.float64)
    if per_frame and not np.array_equal(stored, read_samples(path, coordinates, -1)):
        raise RecordingError(
            f"{path.name}: the grid moves from frame to frame; wanted one grid for all. Beamform on a fixed grid."
        )
    x, y, z, _ = shape
    points = stored.reshape(z, x, y, 3).transpose(1, 2, 0, 3)
    return state_points(path, source, points, layout_name=LAYOUT_NAME)


def _state_scan(path: Path, file: h5py.File, at: str) -> Statement:
    """State frequency, sound speed and frame rate; what differs between transmits or frames is no one number."""
    scan = file.get(f"{at}scan", {})
    return Statement(
        f"scan of {path.name}",
        frame_rate_hz=_frame_rate_hz(file, at, scan),
        transmit_frequency_hz=_one_number(scan, "center_frequency"),
        sound_speed_m_s=_one_number(scan, "sound_speed"),
    )


def _one_number(scan: Any, name: str) -> float | None:
    """Give a scalar, or the number that all transmits share; None where there is none."""
    values = np.unique(scan[name][()]) if name in scan else np.zeros(0)
    return _of_float32(float(values[0])) if values.size == 1 and values[0] > 0 else None


def _frame_rate_hz(file: h5py.File, at: str, scan: Any) -> float | None:
    """Give one over the frames' period: by their time stamps, else by the sum of the times between transmits."""
    stamps = f"{at}data/beamformed_data/timestamps"
    if stamps in file:
        periods_s = np.diff(np.asarray(file[stamps], dtype=np.float64))
    elif "time_to_next_transmit" in scan and scan["time_to_next_transmit"].ndim == 2:
        periods_s = np.asarray(scan["time_to_next_transmit"], dtype=np.float64).sum(axis=1)
        # The last frame has no next transmit in some files.
        periods_s = periods_s[:-1] if len(periods_s) > 1 else periods_s
    else:
        return None
    mean_s = float(periods_s.mean()) if periods_s.size else 0.0
    if not mean_s > 0 or np.abs(periods_s - mean_s).max() > RATE_TOLERANCE * mean_s:
        return None
    return _of_float32(1.0 / mean_s)


def _of_float32(value: float) -> float:
    """Round to the digits that a float32 has, so that 1540 is written 1540."""
    return float(f"{value:.6g}")
