"""UFF of the UltraSound ToolBox (https://www.ustb.no, version 0.0.1): HDF5 whose groups name their class.

A `uff.beamformed_data` holds `data/real` and `data/imag`, [pixel, channel, wave, frame], and a `scan` with the position
x, y, z [m] of each pixel, or the axes it is made of. USTB writes it with MATLAB's h5write, which reverses the axes;
pyuff_ustb does not. Which end the pixels are on tells the two apart.

Not taken from the file: `frame_rate` is of "Video or GIF" by its documentation, and the waves' `sound_speed` is 1540
m/s wherever nobody set it. Both are asked for.
Source: USTB's +uff/write_object.m, linear_scan.m, linear_3D_scan.m; pyuff_ustb 3.0.0 objects/.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from sparse_ulm.acquisition import Acquisition
from sparse_ulm.conventions import Frames
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.combine import combine
from sparse_ulm.io.damage import reading
from sparse_ulm.io.grid import find_rows, state_points
from sparse_ulm.io.layout import AxisOrder, refuse_other_axes
from sparse_ulm.io.names import recording_stem
from sparse_ulm.io.sidecar import read_sidecar
from sparse_ulm.io.statements import Statement, positive_number

CLASS_NAME = "uff.beamformed_data"
LAYOUT_NAME = "the UFF layout"
AXES = ("pixel", "channel", "wave", "frame")
PARTS = ("real", "imag")


def open_uff(path: Path, options: Statement, *, group: str | None = None) -> list[Acquisition]:
    """Open one beamformed data set, or all that the file holds.

    Args:
        path: The file.
        options: What the caller states.
        group: The one wanted, such as "b_data".

    Returns:
        Acquisitions of content "iq", named by the file, and by the group where there are several.

    Raises:
        RecordingError: If the file is damaged, holds no compounded IQ on a regular grid, or its geometry is missing or
            contradictory.
    """
    if not h5py.is_hdf5(path):
        raise RecordingError(
            f"{path.name}: is no HDF5 file; wanted UFF as the UltraSound ToolBox writes it. Universal File Format and "
            "damaged files cannot be read: export it again."
        )
    with reading(path, as_format="UFF"), h5py.File(path, "r") as file:
        groups = _beamformed(file)
        if not groups:
            raise RecordingError(
                f"{path.name}: holds no {CLASS_NAME} but {', '.join(file) or 'nothing'}; wanted beamformed IQ. "
                "Beamform its channel data and write the result."
            )
        if group is not None and group not in groups:
            raise RecordingError(f"{path.name}: holds no {CLASS_NAME} {group!r}; wanted one of {groups}.")
        stem = recording_stem(path)
        return [
            _open_group(path, file, at, options, name=stem if len(groups) == 1 else f"{stem}_{at.replace('/', '_')}")
            for at in ([group] if group is not None else groups)
        ]


@dataclass(frozen=True)
class UffFrames:
    """Reads frames from where they lie; the file is opened at each call, so workers share nothing.

    Attributes:
        path: The file.
        data: Path of the group with real and imaginary part.
        time_axis: Of the stored array; None where it has none, being one frame.
        order: Of frames and the rows of pixels, as ("t", "x", "z").
        rows: Sizes of the axes of `order` but the first.
    """

    path: Path
    data: str
    time_axis: int | None
    order: AxisOrder
    rows: tuple[int, ...]

    def __call__(self, start: int, stop: int) -> Frames:
        """Read frames start ... stop - 1."""
        with reading(self.path, as_format="UFF"), h5py.File(self.path, "r") as file:
            real, imaginary = (self._read(file[f"{self.data}/{part}"], start, stop) for part in PARTS)
        samples = np.empty((stop - start, *self.rows), np.complex64)
        samples.real, samples.imag = real, imaginary
        return self.order.arrange(samples)

    def _read(self, dataset: h5py.Dataset, start: int, stop: int) -> NDArray[np.floating]:
        """Read one part, and bring time to the front."""
        index = [slice(None)] * dataset.ndim
        if self.time_axis is not None:
            index[self.time_axis] = slice(start, stop)
        stored = np.asarray(dataset[tuple(index)])
        if self.time_axis is not None:
            stored = np.moveaxis(stored, self.time_axis, 0)
        return stored.reshape(stop - start, *self.rows)


def _beamformed(file: h5py.File) -> list[str]:
    """List the groups of beamformed data, which may be elements of an array of them."""
    found: list[str] = []

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Group) and _class_of(item) == CLASS_NAME and "data" in item:
            found.append(name)

    file.visititems(note)
    return found


def _class_of(item: h5py.Group) -> str:
    """Give the name of a group's class, which MATLAB and h5py write as different kinds of text."""
    stored = np.ravel(item.attrs.get("class", ""))
    value = stored[0] if stored.size else ""
    return (value.decode("latin-1") if isinstance(value, bytes) else str(value)).rstrip("\0")


def _open_group(path: Path, file: h5py.File, at: str, options: Statement, *, name: str) -> Acquisition:
    """Check the samples of one data set and make its geometry."""
    stored = _require_complex(path, file[at], at)
    points = _pixel_positions(path, file[at], at)
    time_axis = _time_axis(path, at, stored.shape, len(points))
    rows, axes = find_rows(path, points)
    order = AxisOrder(("t", *axes))
    sidecar = read_sidecar(path)
    refuse_other_axes(path, sidecar, order)
    shape = order.shape((1 if time_axis is None else stored.shape[time_axis], *rows))
    arranged = points.reshape(*rows, 3).transpose(*(axes.index(axis) for axis in "xyz" if axis in axes), len(axes))
    grid, layout = state_points(path, f"scan of {path.name}", arranged.reshape(*shape[:3], 3), layout_name=LAYOUT_NAME)
    pulse = Statement(f"pulse of {path.name}", transmit_frequency_hz=_frequency_hz(path, file[at]))
    geometry, sources = combine(path, [sidecar, options, grid, pulse], layout=layout)
    return Acquisition(
        name=name,
        path=path,
        shape=shape,
        geometry=geometry,
        content="iq",
        read=UffFrames(path, f"{at}/data", time_axis, order, rows),
        details={
            "format": "UFF (USTB)",
            "dtype": f"{stored.dtype} real and imaginary",
            "stored_shape": list(stored.shape),
            "group": at,
            "sources": sources,
        },
    )


def _require_complex(path: Path, group: h5py.Group, at: str) -> h5py.Dataset:
    """Give the real part, once it is certain that there is an imaginary one of the same kind."""
    data = group["data"]
    if not isinstance(data, h5py.Group) or not all(part in data for part in PARTS):
        raise RecordingError(
            f"{path.name}: {at}/data is real-valued; wanted complex IQ, as phase is used. Demodulate before that."
        )
    real, imaginary = (data[part] for part in PARTS)
    if real.shape != imaginary.shape or real.dtype.kind != "f" or imaginary.dtype.kind != "f":
        raise RecordingError(
            f"{path.name}: {at}/data has real part {real.dtype} {real.shape} and imaginary part {imaginary.dtype} "
            f"{imaginary.shape}; wanted floating-point numbers of one shape. Write it again."
        )
    return real


def _pixel_positions(path: Path, group: h5py.Group, at: str) -> Float[np.ndarray, "n 3"]:
    """Give the position of each pixel: as written, else from the axes of a linear scan, z running fastest."""
    scan = group.get("scan")
    if not isinstance(scan, h5py.Group):
        raise RecordingError(f"{path.name}: {at} has no scan; wanted the positions of its pixels. Write it again.")
    class_name = _class_of(scan)
    if all(axis in scan for axis in "xz"):
        x, z = (np.ravel(scan[axis][()]).astype(np.float64) for axis in "xz")
        y = np.ravel(scan["y"][()]).astype(np.float64) if "y" in scan else np.zeros(1)
        return np.stack(np.broadcast_arrays(x, y, z), axis=-1)
    if class_name == "uff.linear_scan" and all(f"{axis}_axis" in scan for axis in "xz"):
        x, z = np.meshgrid(*(np.ravel(scan[f"{axis}_axis"][()]).astype(np.float64) for axis in "xz"), indexing="ij")
        return np.stack([x, np.zeros_like(x), z], axis=-1).reshape(-1, 3)
    raise RecordingError(
        f"{path.name}: {at}/scan is a {class_name or 'group'} with {', '.join(scan) or 'nothing'}; wanted x, y and z "
        "of each pixel. Write it with USTB or pyuff_ustb."
    )


def _time_axis(path: Path, at: str, stored: tuple[int, ...], n_pixels: int) -> int | None:
    """Find the axis of frames: the last where pixels come first, the first where MATLAB reversed them.

    MATLAB drops axes of length 1 at the end of its order, so that frames, waves and channels may be missing.
    """
    if len(stored) > len(AXES):
        raise RecordingError(f"{path.name}: {at}/data has shape {stored}; wanted [{', '.join(AXES)}]. Write it again.")
    sizes_of = [dict(zip(AXES, sizes, strict=False)) for sizes in (stored, stored[::-1]) if sizes[:1] == (n_pixels,)]
    compounded = [sizes for sizes in sizes_of if sizes.get("channel", 1) == sizes.get("wave", 1) == 1]
    if not sizes_of:
        raise RecordingError(
            f"{path.name}: {at}/data has shape {stored} and its scan {n_pixels} pixels; wanted pixels as the first "
            "axis or, as MATLAB writes it, the last. Write it again."
        )
    if not compounded:
        channels, waves = sizes_of[0].get("channel", 1), sizes_of[0].get("wave", 1)
        raise RecordingError(
            f"{path.name}: {at}/data has {channels} channels and {waves} waves; wanted one of each. Sum over channels "
            "and compound the waves when beamforming."
        )
    if len(compounded) > 1 and n_pixels > 1 and "frame" in compounded[0]:
        raise RecordingError(
            f"{path.name}: {at}/data has shape {stored}, as many frames as pixels, which leaves open what is which; "
            "wanted another number of frames. Write one frame less."
        )
    if "frame" not in compounded[0]:
        return None
    return len(stored) - 1 if stored[0] == n_pixels else 0


def _frequency_hz(path: Path, group: h5py.Group) -> float | None:
    """Give the centre frequency of the pulse; None where the data set states no pulse."""
    stored = group.get("pulse/center_frequency")
    if not isinstance(stored, h5py.Dataset):
        return None
    values = np.unique(stored[()])
    value = float(values[0]) if values.size == 1 else values.tolist()
    return positive_number(value, "pulse/center_frequency", path.name)
