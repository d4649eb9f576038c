""".npy and .npz: one complex array, its geometry in the sidecar, never a pickle."""

import functools
import zipfile
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Literal

import numpy as np
from jaxtyping import Complex
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from sparse_ulm.acquisition import Acquisition, Geometry
from sparse_ulm.conventions import AXES, Frames
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.io.combine import combine
from sparse_ulm.io.damage import reading, require_bytes
from sparse_ulm.io.layout import AxisOrder, ListedArray, choose_variable, require_axes, require_complex
from sparse_ulm.io.names import recording_stem
from sparse_ulm.io.sidecar import read_sidecar, require_aligned, write_sidecar
from sparse_ulm.io.statements import Statement

ARRAY_NAME = "iq"
"""Name of the array in a .npz that we write, and the one taken where a .npz holds several."""

CHECKED_BYTES = 1 << 24
"""Read at a time where a sum is checked."""


@dataclass(frozen=True)
class _StoredArray:
    """Where an array lies in a file. `offset` is None in a compressed .npz, which must be unpacked whole."""

    member: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran_order: bool
    offset: int | None

    @property
    def listed(self) -> ListedArray:
        """The array as messages show it."""
        return ListedArray(self.member or "the array", self.shape, self.dtype.kind == "c", str(self.dtype))

    @property
    def n_bytes(self) -> int:
        """Bytes of the samples."""
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))


def open_npy(path: Path, options: Statement) -> Acquisition:
    """Open a .npy of complex samples; frames are read through a memory map.

    Raises:
        RecordingError: If the file is damaged, pickled, real-valued, of the wrong rank, or its geometry is incomplete.
    """
    with reading(path, as_format=".npy"):
        with path.open("rb") as file:
            stored = _read_array_header(path, file, member=None)
        return _open_array(path, stored, options, "npy")


def open_npz(path: Path, options: Statement, *, variable: str | None = None) -> Acquisition:
    """Open the complex array of a .npz: `variable`, else `iq`, else the only complex one of rank 3 or 4.

    An uncompressed .npz (`numpy.savez`) is read frame by frame; a compressed one is unpacked once and held.

    Raises:
        RecordingError: As `open_npy`, or if it is not clear which array to read.
    """
    with reading(path, as_format=".npz"):
        with zipfile.ZipFile(path) as archive:
            names = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            arrays = {name: _read_member(path, archive, info) for name, info in names.items()}
        chosen = choose_variable(path, [array.listed for array in arrays.values()], (ARRAY_NAME,), variable)
        return _open_array(path, arrays[chosen], options, "npz")


def save_npy(path: Path, frames: Complex[np.ndarray, "x y z t"], geometry: Geometry) -> None:
    """Write complex64 frames, time slowest so that a block lies in one piece, and the sidecar.

    Raises:
        RecordingError: If the grid is rotated: the sidecar holds voxel size and origin only.
    """
    require_aligned(path, geometry)
    with atomic_path(path) as temporary:
        np.save(temporary, np.asfortranarray(frames, dtype=np.complex64))
    write_sidecar(path, geometry)


def save_npz(path: Path, frames: Complex[np.ndarray, "x y z t"], geometry: Geometry) -> None:
    """Write complex64 frames as `iq` in an uncompressed .npz, time slowest, and the sidecar.

    Raises:
        RecordingError: If the grid is rotated: the sidecar holds voxel size and origin only.
    """
    require_aligned(path, geometry)
    with atomic_path(path) as temporary:
        np.savez(temporary, iq=np.asfortranarray(frames, dtype=np.complex64))
    write_sidecar(path, geometry)


def _open_array(path: Path, stored: _StoredArray, options: Statement, format_name: str) -> Acquisition:
    """Check the array and combine what is stated about it."""
    if stored.dtype.hasobject:
        raise RecordingError(
            f"{path.name}: {stored.listed.name} is a pickled object array, never loaded because it can run code; "
            "wanted complex numbers. Save it again as a plain array."
        )
    sidecar = read_sidecar(path)
    require_complex(path, stored.listed)
    order = require_axes(path, stored.shape, sidecar.axes, [AxisOrder(AXES)])
    if stored.offset is not None:
        require_bytes(path, as_format=f".{format_name}", n_bytes=stored.offset + stored.n_bytes)
    geometry, sources = combine(path, [sidecar, options])
    details = {
        "format": format_name,
        "dtype": str(stored.dtype),
        "stored_shape": list(stored.shape),
        "sources": sources,
    }
    if stored.member is not None:
        details["variable"] = stored.member
        details["compression"] = "whole file" if stored.offset is None else "none"
    return Acquisition(
        name=recording_stem(path),
        path=path,
        shape=order.shape(stored.shape),
        geometry=geometry,
        content="iq",
        read=_ArrayFrames(path, stored, order),
        details=details,
    )


@dataclass(frozen=True)
class _ArrayFrames:
    """Reads frames of a stored array, mapped anew at each call so that workers share nothing."""

    path: Path
    stored: _StoredArray
    order: AxisOrder

    def __call__(self, start: int, stop: int) -> Frames:
        offset = self.stored.offset
        with reading(self.path, as_format="a numpy array"):
            array = self._unpacked() if offset is None else self._mapped(offset)
            frames = np.array(self.order.arrange(array[self.order.time_slice(start, stop)]))
            if self.stored.member is not None and stop == self.order.shape(self.stored.shape)[3]:
                _check_sum(self.path, self.stored.member, self.path.stat().st_mtime_ns)
            return frames

    def _mapped(self, offset: int) -> NDArray[np.generic]:
        order: Literal["F", "C"] = "F" if self.stored.fortran_order else "C"
        return np.memmap(self.path, self.stored.dtype, mode="r", offset=offset, shape=self.stored.shape, order=order)

    def _unpacked(self) -> NDArray[np.generic]:
        changed = self.path.stat().st_mtime_ns
        return _unpack(self.path, str(self.stored.member), changed)


@functools.lru_cache(maxsize=64)
def _check_sum(path: Path, member: str, changed: int) -> None:
    """Compare an array with the sum that the archive keeps of it, once: who reads to the end knows that all is whole.

    Raises:
        zipfile.BadZipFile: If they differ.
    """
    with zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as file:
        while file.read(CHECKED_BYTES):
            pass


@functools.lru_cache(maxsize=1)
def _unpack(path: Path, member: str, changed: int) -> NDArray[np.generic]:
    """Unpack an array of a compressed .npz; the last one is kept, until the file changes."""
    with np.load(path, allow_pickle=False) as archive:
        return np.asarray(archive[member])


def _read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _StoredArray:
    """Read the header of one array in a .npz, and where its samples lie if they are not compressed."""
    with archive.open(info) as file:
        stored = _read_array_header(path, file, member=info.filename.removesuffix(".npy"))
    if info.compress_type != zipfile.ZIP_STORED:
        return _StoredArray(stored.member, stored.shape, stored.dtype, stored.fortran_order, None)
    with path.open("rb") as file:
        file.seek(info.header_offset)
        local = file.read(30)  # the name and the extra field follow, with lengths of their own in this local header
    start = info.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    return _StoredArray(stored.member, stored.shape, stored.dtype, stored.fortran_order, start + (stored.offset or 0))


def _read_array_header(path: Path, file: BufferedIOBase | IO[bytes], *, member: str | None) -> _StoredArray:
    """Read shape, dtype and order of an array, and the offset of its samples from the start of its header."""
    if file.read(6) != npy_format.MAGIC_PREFIX:
        raise RecordingError(
            f"{path.name}: {member or 'the file'} is no numpy array (a pickle, or another format); "
            "pickles are never loaded because they can run code. Save the array with numpy.save."
        )
    file.seek(0)
    version = npy_format.read_magic(file)
    read_header = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    shape, fortran_order, dtype = read_header(file)
    return _StoredArray(member, shape, dtype, fortran_order, file.tell())
